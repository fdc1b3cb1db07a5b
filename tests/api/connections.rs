//! Connections below the handlers: refused request heads, pipelining, `Expect`, unread responses, slow bodies, and the
//! limit on connections.
//!
//! | cases.md | test |
//! |---|---|
//! | A10 | `refused_heads_are_problem_documents`, `raw_utf8_in_the_url_is_taken` |
//! | B1a-B1d | `unauthenticated_connections_do_not_block_uploads`, `unread_responses_close_their_connection`, `only_an_authenticated_client_is_lingered_for_long` |
//! | B4 | `pipelined_requests_are_answered_in_order_however_they_are_split` |
//! | also wanted: `Expect` | `a_refused_client_gets_no_100_continue` |
//! | also wanted: TLS, h2 on the plain port | `other_protocols_are_closed_at_once` |
//! | lesser: heads of 32 KiB, each within 5 s | `heads_are_limited_in_size_and_time` |
//! | log volume | `floods_of_refused_requests_leave_few_log_lines` |

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::frames::{END_STREAM, H1, H2, WINDOW_UPDATE, frame, head, tls};
use crate::harness::{Client, Form, Setup, World, authorization, noise, wait_until};
use crate::tls::Certificate;

const PANEL: &str = "https://panel.test";

/// Request heads that are refused before routing: head, status, code, and a word of the `detail`.
const REFUSED: [(&str, u16, &str, &str); 23] = [
    ("POST /v1/files?dir=a b HTTP/1.1\r\nhost: a\r\n", 400, "invalid_request", "%20"),
    ("POST /v1/files/ HTTP/1.1 x\r\nhost: a\r\n", 400, "invalid_request", "METHOD"),
    ("GET /v1/files?dir=\"a\" HTTP/1.1\r\nhost: a\r\n", 400, "invalid_request", "%22"),
    ("GET /v1/files/a<b> HTTP/1.1\r\nhost: a\r\n", 400, "invalid_request", "%3C"),
    ("PUT /v1/files/a#b.png HTTP/1.1\r\nhost: a\r\n", 400, "invalid_request", "%23"),
    ("GET v1/files HTTP/1.1\r\nhost: a\r\n", 400, "invalid_request", "begin with `/`"),
    ("POST /v1/files HTTP/1.1\r\n", 400, "invalid_request", "Host"),
    ("POST /v1/files HTTP/1.1\r\nhost: a\r\nhost: b\r\n", 400, "invalid_request", "Host"),
    ("POST /v1/files HTTP/2.0\r\nhost: a\r\n", 400, "invalid_request", "version"),
    ("POST /v1/files HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n", 400, "invalid_request", "line 4"),
    ("POST /v1/files HTTP/1.1\r\nhost: a\r\nx\r\n", 400, "invalid_request", "line 3"),
    ("POST /v1/files HTTP/1.1\r\nhost: a\r\nx : y\r\n", 400, "invalid_request", "line 3"),
    ("POST /v1/files HTTP/1.1\r\nhost: a\r\nx: \x01\r\n", 400, "invalid_request", "line 3"),
    (
        "POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
        400,
        "invalid_request",
        "Content-Length",
    ),
    (
        "POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n",
        400,
        "invalid_request",
        "Content-Length",
    ),
    (
        "POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n",
        400,
        "invalid_request",
        "Content-Length",
    ),
    (
        "POST /v1/files HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n",
        400,
        "invalid_request",
        "chunked",
    ),
    (
        "POST /v1/files HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n",
        400,
        "invalid_request",
        "chunked",
    ),
    (
        "POST /v1/files HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n",
        400,
        "invalid_request",
        "disagree",
    ),
    ("POST /v1/files HTTP/1.0\r\n", 411, "length_required", "Content-Length"),
    (
        "POST /v1/files HTTP/1.0\r\ntransfer-encoding: chunked\r\n",
        400,
        "invalid_request",
        "chunked",
    ),
    ("CONNECT a:443 HTTP/1.1\r\nhost: a\r\n", 405, "method_not_allowed", "CONNECT"),
    ("G(T / HTTP/1.1\r\nhost: a\r\n", 400, "invalid_request", "METHOD"),
];

/// Each head is followed by 9 MB that the client sends without waiting. The client still reads the response, a page of
/// an allowed origin may read it too, and it is logged.
#[test]
fn refused_heads_are_problem_documents() {
    let world = Setup::new().set("cors.origins", PANEL).start();
    let body = noise(9_000_000, 1);
    let gbk = b"POST /v1/files?dir=\xb1\xa8\xb8\xe6 HTTP/1.1\r\nhost: a\r\n";
    let many = format!("POST /v1/files HTTP/1.1\r\nhost: a\r\n{}", "x: y\r\n".repeat(95));
    let long = format!("GET /v1/files/{} HTTP/1.1\r\nhost: a\r\n", "报".repeat(7400));
    let refused = REFUSED
        .iter()
        .map(|(head, status, code, detail)| (head.as_bytes(), *status, *code, *detail))
        .chain([
            (&gbk[..], 400, "invalid_request", "UTF-8"),
            (many.as_bytes(), 413, "fields_too_large", "96 fields"),
            (long.as_bytes(), 413, "fields_too_large", "65534 bytes"),
        ]);
    for (number, (head, status, code, detail)) in refused.enumerate() {
        let shown = String::from_utf8_lossy(head).into_owned();
        let id = format!("refused-{number}");
        let own = format!("origin: {PANEL}\r\nx-request-id: {id}\r\n\r\n");
        let mut client = world.client();
        let mut sender = client.sender();
        let whole = [head, own.as_bytes(), &body].concat();
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || {
                let sent = sender.write_all(&whole);
                let _ = sender.shutdown(Shutdown::Write);
                sent
            });
            let response = client.response();
            let problem = response.problem(status, code);
            assert!(problem["detail"].as_str().unwrap().contains(detail), "{shown}: {problem}");
            assert_eq!(response.header("x-request-id"), Some(&*id), "{shown}");
            assert_eq!(response.header("access-control-allow-origin"), Some(PANEL), "{shown}");
            assert_eq!(response.header("connection"), Some("close"), "{shown}");
            // The gateway read the whole body and closed the connection without a reset.
            sent.join().unwrap().unwrap_or_else(|error| panic!("{shown}: {error}"));
            let end = client.try_response().expect_err("nothing follows");
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof, "{shown}: {end}");
            world.gateway.log_with(&id);
        });
    }
    world.assert_nothing_stored();
}

#[test]
fn raw_utf8_in_the_url_is_taken() {
    let world = Setup::new().start();
    for (number, dir) in
        ["报告", "a/é ü".split(' ').next().unwrap(), "данные/😀"].iter().enumerate()
    {
        let form = Form::new().file("f", "x.txt", "text/plain", b"text");
        let (kind, body) = (form.content_type(), form.bytes());
        let mut client = world.client();
        let headers = [authorization(), ("content-type", &kind)];
        client.send_request("POST", &format!("/v1/files?dir={dir}"), &headers, &body);
        let path = client.response().stored()["path"].as_str().unwrap().to_owned();
        assert!(path.contains(&format!("/{dir}/")), "{path}");
        client.send_request(
            "PUT",
            &format!("/v1/files/{dir}/{number}.txt"),
            &[authorization()],
            b"raw",
        );
        assert_eq!(client.response().stored()["path"], format!("{dir}/{number}.txt"));
        client.send_head("GET", &format!("/v1/files/{dir}/{number}.txt"), &[authorization()]);
        assert_eq!(client.response().status, 302);
    }
    assert_eq!(world.objects().len(), 6);
}

fn request(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let (name, value) = authorization();
    let head = format!("{line} HTTP/1.1\r\nhost: a\r\n{name}: {value}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// A request, whether its response has no body, and its status.
type Exchange = (Vec<u8>, bool, u16);

fn pipeline() -> Vec<Exchange> {
    let chunked = "transfer-encoding: chunked\r\n";
    let hello = b"5\r\nhello\r\n0\r\n\r\n";
    let trailer = b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nx: y\r\n\r\n";
    vec![
        (request("PUT /v1/files/a", chunked, hello), false, 201),
        (request("HEAD /healthz", "", b""), true, 200),
        ([b"\r\n", &request("HEAD /healthz", "", b"")[..]].concat(), true, 200),
        (request("GET /healthz", "", b""), false, 200),
        (request("POST /nowhere", chunked, hello), false, 404),
        (request("GET /healthz", "", b""), false, 200),
        (request("PUT /v1/files/b", "X: y\nTransfer-Encoding: Chunked\r\n", trailer), false, 201),
        (request("PUT /v1/files/c", "content-length: 5\r\n", b"GET /"), false, 201),
        (
            request(
                "GET /v1/files/none?reply=x",
                "upgrade: websocket\r\nconnection: upgrade\r\n",
                b"",
            ),
            false,
            404,
        ),
        (request("HEAD /v1/files/none", "", b""), true, 404),
        (request("GET /healthz", "", b""), false, 200),
    ]
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_split() {
    let world = Setup::new().start();
    let exchanges = pipeline();
    let all: Vec<u8> = exchanges.iter().flat_map(|(request, ..)| request.clone()).collect();
    let read = |client: &mut Client, cut: usize| {
        for (number, (_, has_no_body, status)) in exchanges.iter().enumerate() {
            if *has_no_body {
                assert_eq!(
                    client.response_head().expect("a head").0,
                    *status,
                    "{number} cut at {cut}"
                );
            } else {
                let response = client.response();
                assert_eq!(response.status, *status, "{number} cut at {cut}: {}", response.text());
                assert!(response.json().is_object(), "{number} cut at {cut}");
            }
        }
    };
    let mut client = world.client();
    for cut in 0..all.len() {
        client.send(&all[..cut]);
        client.send(&all[cut..]);
        read(&mut client, cut);
    }
    for byte in &all {
        client.send(&[*byte]);
    }
    read(&mut client, all.len());
    for (path, content) in [("a", &b"hello"[..]), ("b", b"abcde"), ("c", b"GET /")] {
        assert_eq!(world.object(path), content);
    }
    // After a malformed chunked body, nothing on the connection is read as a request.
    for broken in
        [&b"5\r\nhello0\r\n\r\n"[..], b"5\nhello\r\n0\r\n\r\n", b"x\r\n\r\n", b"0\r\n\n\r\n"]
    {
        let mut client = world.client();
        let put = request("PUT /v1/files/broken", "transfer-encoding: chunked\r\n", broken);
        client.send(&[&put[..], &request("DELETE /v1/files/a", "", b"")].concat());
        client.response().problem(400, "truncated_body");
        assert!(client.try_response().is_err());
    }
    assert_eq!(world.objects().len(), 3);
}

/// 5000 pipelined requests follow the last one, so that most are unread when it is answered: a close without lingering
/// would reset the connection and lose the response.
#[test]
fn a_connection_closes_without_a_reset_after_its_last_response() {
    let world = Setup::new().start();
    let behind = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".repeat(5000);
    for options in
        ["close", "Close", "TE, close", "close, te", "keep-alive,close", "x\r\nconnection: close"]
    {
        for _ in 0..3 {
            let connection = format!("connection: {options}\r\ncontent-length: 3\r\n");
            let mut client = world.client();
            let put = request("PUT /v1/files/last", &connection, b"abc");
            let mut sender = client.sender();
            std::thread::scope(|scope| {
                // The connection may be closed before all is sent.
                scope.spawn(|| drop(sender.write_all(&[&put[..], &behind].concat())));
                let response = client.response();
                assert_eq!(response.status, 201, "{options}: {}", response.text());
                assert_eq!(response.header("connection"), Some("close"), "{options}");
            });
            let end = client.try_response().expect_err("nothing follows");
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof, "{options}: {end}");
        }
    }
}

#[test]
fn a_refused_client_gets_no_100_continue() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let wrong = ("authorization", "Bearer wrong");
    let form = "multipart/form-data; boundary=b";
    for (method, path, key, length, status) in [
        ("PUT", "/v1/files/a", wrong, "5", 401),
        ("PUT", "/v1/files/../a", authorization(), "5", 400),
        ("PUT", "/v1/files/a", authorization(), "9000000", 413),
        ("POST", "/v1/files", authorization(), "90000000", 413),
        ("POST", "/v1/files?reply=wangeditor", wrong, "5", 200),
        ("POST", "/nowhere", authorization(), "5", 404),
    ] {
        let mut client = world.client();
        let kind = if method == "POST" { form } else { "text/plain" };
        let headers =
            [key, ("content-type", kind), ("content-length", length), ("expect", "100-continue")];
        client.send_head(method, path, &headers);
        let (got, headers) = client.response_head().expect("a response");
        assert_eq!(got, status, "{method} {path}");
        let close = ("connection".to_owned(), "close".to_owned());
        assert!(headers.contains(&close), "{method} {path}: {headers:?}");
    }
    // An accepted client gets one `100 Continue`, and none if the body has already begun.
    let mut client = world.client();
    for (sent, is_told) in [(0, true), (2, false), (0, true)] {
        let headers = [authorization(), ("content-length", "5"), ("expect", "100-Continue")];
        let head: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("PUT /v1/files/a HTTP/1.1\r\nhost: a\r\n{head}\r\n");
        client.send(&[head.as_bytes(), &b"hello"[..sent]].concat());
        if is_told {
            assert_eq!(client.response_head().expect("an interim response").0, 100);
        }
        client.send(&b"hello"[sent..]);
        assert_eq!(client.response_head().expect("a response").0, 201);
        // The rest of the response.
        client = world.client();
    }
    assert_eq!(world.object("a"), b"hello");
}

#[test]
fn other_protocols_are_closed_at_once() {
    let world = Setup::new().start();
    let hello = [&b"\x16\x03\x01\x00\xf0\x01\x00\x00\xec\x03\x03"[..], &noise(200, 1)].concat();
    for bytes in [&hello[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"\x16"] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(world.gateway.address).unwrap();
        stream.write_all(bytes).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("an orderly end");
        assert!(got.is_empty(), "{got:?}");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

#[test]
fn heads_are_limited_in_size_and_time() {
    let world = Setup::new().start();
    let healthy = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";
    for first in [&b""[..], healthy] {
        // At the limit of 32 KiB, and one byte over.
        for (excess, status) in [(0, 200), (1, 413)] {
            let begin = "GET /healthz HTTP/1.1\r\nhost: a\r\nx: ";
            let filler = "a".repeat((32 << 10) - begin.len() - 4 + excess);
            let mut client = world.client();
            client.send(first);
            if !first.is_empty() {
                assert_eq!(client.response().status, 200);
            }
            client.send(format!("{begin}{filler}\r\n\r\n").as_bytes());
            assert_eq!(client.response().status, status, "{excess} behind {}", first.len());
        }
    }
    // A URL that alone exceeds the limit.
    let mut client = world.client();
    client.send(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(100_000)).as_bytes());
    client.response().problem(413, "fields_too_large");
    // Slow heads: the first of a connection and a later one.
    let mut clients = vec![world.client(), world.client()];
    clients[1].send(healthy);
    assert_eq!(clients[1].response().status, 200);
    let began = Instant::now();
    let mut silent = world.client();
    let part = b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-request-id: slow-head\r\nx";
    clients.iter_mut().for_each(|client| client.send(part));
    // And one that begins before the previous response is sent.
    let mut early = world.client();
    early.send(&[&healthy[..], part].concat());
    assert_eq!(early.response().status, 200);
    clients.push(early);
    for client in &mut clients {
        let response = client.response();
        response.problem(408, "client_stalled");
        assert_eq!(response.header("x-request-id"), Some("slow-head"));
        assert!((4..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }
    assert!(silent.try_response().is_err());
    assert!((4..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    clients.iter_mut().for_each(|client| assert!(client.try_response().is_err()));
}

/// A request whose response is large; sent many times.
const LARGE: &[u8] = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn unread_responses_close_their_connection() {
    let certificate = Certificate::new();
    let world = certificate.shown(Setup::new().set("server.write_timeout", "2s")).start();
    let plain = Setup::new().set("server.write_timeout", "2s").start();
    let connections = |world: &World| {
        let metrics = world.call("GET", "/metrics", &serde_json::Value::Null).text();
        metrics.lines().any(|line| line == "gateway_connections 1")
    };
    let mut unread = Client::connect(plain.gateway.address);
    unread.send(&LARGE.repeat(20));
    wait_until("the connection is closed", || connections(&plain));
    drop(unread);
    // With an h2 window of 0 only the gateway's timeout can close the connection; also while it waits for the rest of a
    // refused request.
    let of = [(":method", "GET"), (":path", LARGE_PATH)];
    let refused = [(":method", "PUT"), (":path", "/v1/files/a"), ("authorization", "Bearer x")];
    for (fields, flags) in [(&of[..], END_STREAM), (&of[..], 0), (&refused[..], 0)] {
        let mut unread = H2::connect(&world, &certificate, &[(4, 0)]);
        let (_, request) = unread.request(&h2_head(fields), flags);
        unread.send(&request).unwrap();
        unread.assert_closed();
    }
    // A client that reads a little at a time, each time within the timeout, gets the whole response.
    let mut slow = H2::connect(&world, &certificate, &[(4, 0)]);
    let (stream, get) = slow.request(&h2_head(&of), END_STREAM);
    slow.send(&get).unwrap();
    let began = Instant::now();
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(500));
        slow.send(&frame(WINDOW_UPDATE, 0, stream, &20_000u32.to_be_bytes())).unwrap();
    }
    slow.send(&frame(WINDOW_UPDATE, 0, stream, &(1u32 << 24).to_be_bytes())).unwrap();
    let length = slow.body(stream).expect("the whole of it").len();
    assert!(length > 400_000, "{length}");
    assert!(began.elapsed() > Duration::from_secs(4));
}

const LARGE_PATH: &str = "/docs/swagger-ui-bundle.js";

fn h2_head(fields: &[(&str, &str)]) -> Vec<u8> {
    // Pseudo-header fields come first.
    let (pseudo, others): (Vec<_>, Vec<_>) =
        fields.iter().copied().partition(|(name, _)| name.starts_with(':'));
    let own = [(":scheme", "https"), (":authority", "localhost")];
    head(&[&pseudo[..], &own[..], &others[..]].concat())
}

#[test]
fn only_an_authenticated_client_is_lingered_for_long() {
    let world = Setup::new().set("server.lingering_timeout", "1s").start();
    let form = ("content-type", "multipart/form-data; boundary=b");
    let took = |key| {
        let mut client = world.client();
        // Refused at once, because the body does not begin as a form.
        let length = ("content-length", "1000000");
        client.send_head("POST", "/v1/files?reply=wangeditor", &[key, form, length]);
        client.send(b"--c\r\n--b x");
        let began = Instant::now();
        assert_eq!(client.response().status, 200);
        while client.try_send(b"x").is_ok() && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(100));
        }
        began.elapsed()
    };
    let unknown = took(("authorization", "Bearer wrong"));
    assert!(unknown < Duration::from_secs(4), "{unknown:?}");
    let known = took(authorization());
    assert!(known >= Duration::from_secs(5), "{known:?}");
}

/// For each kind of idle or slow connection: when all connection slots are taken by it, an upload is still accepted
/// within a second.
#[test]
fn an_upload_gets_a_slot_when_idle_connections_take_them_all() {
    let setup = || Setup::new().set("server.max_connections", CONNECTIONS);
    let world = setup().set("server.write_timeout", "30s").start();
    world.post(&Form::new().file("f", "x", "text/plain", b"x")).stored();
    let body = "content-length: 16000\r\n\r\n";
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    let token = "POST /cgi-bin/stable_token HTTP/1.1\r\nhost: a\r\n";
    let expect = format!("{token}expect: 100-continue\r\n{body}");
    // Responses that do not fit into the socket's buffer; their requests have been read to the end.
    let unread = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n".repeat(30_000);
    for (name, sent) in [
        ("nothing", String::new()),
        ("half a head", "GET /healthz HTTP/1.1\r\nho".to_owned()),
        ("half a body", format!("{token}{body}{{")),
        ("half a chunk's size", format!("{token}{chunked}0")),
        ("extensions", format!("{token}{chunked}5;a=b")),
        ("trailers", format!("{token}{chunked}2\r\n{{}}\r\n0\r\na: b\r\n")),
        ("a body not begun", expect),
        ("a refused body", format!("PUT /v1/files/a HTTP/1.1\r\nhost: a\r\n{body}x")),
        ("small responses", unread),
    ] {
        let connections: Vec<_> = (0..2 * CONNECTIONS)
            .map(|_| {
                let mut stream = TcpStream::connect(world.gateway.address).unwrap();
                stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
                // The gateway need not read all of it.
                let _ = stream.write_all(sent.as_bytes());
                stream
            })
            .collect();
        // More uploads than connection slots.
        for number in 0..2 * CONNECTIONS {
            let began = Instant::now();
            let mut client = world.client();
            client.send_request("PUT", "/v1/files/file", &[authorization()], b"x");
            let response = client.response();
            assert_eq!(response.status, 201, "{name}, {number}: {}", response.text());
            assert!(began.elapsed() < Duration::from_secs(1), "{name}: {:?}", began.elapsed());
        }
        drop(connections);
    }
    let lines = world.gateway.log().lines().filter(|line| line.contains("/healthz")).count();
    assert!(lines < 20_000, "{lines} lines for unauthenticated requests");
}

/// Requests without a valid credential are logged at a limited rate; the lines left out are counted.
#[test]
fn floods_of_refused_requests_leave_few_log_lines() {
    const TOTAL: usize = 1000;
    let world = Setup::new().start();
    let host = "HTTP/1.1\r\nhost: a\r\n";
    let began = Instant::now();
    let mut asked = 0;
    for (status, request) in [
        (401, format!("PUT /v1/files/flood {host}authorization: Bearer wrong\r\n\r\n")),
        (401, format!("GET /v1/files/flood?ticket=wrong {host}\r\n")),
        (404, format!("GET /flood {host}\r\n")),
        (400, format!("GET /flood {host}host: b\r\n\r\n")),
    ] {
        // A refused head closes its connection.
        let at_once = if status == 400 { 1 } else { 50 };
        let mut client = world.client();
        for _ in 0..TOTAL / at_once {
            if status == 400 {
                client = world.client();
            }
            client.send(request.repeat(at_once).as_bytes());
            for _ in 0..at_once {
                assert_eq!(client.response().status, status, "{request}");
            }
        }
        asked += TOTAL;
    }
    let took = began.elapsed();
    // Each worker's first and last second are partial, hence two more.
    let most = 2 * 100 * (took.as_secs() as usize + 2);
    let written = |log: &str| log.lines().filter(|line| line.contains("/flood\"")).count();
    let omitted = |log: &str| -> usize {
        let lines = log.lines().filter(|line| line.contains("their lines are left out"));
        lines
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                line["requests"].as_u64().expect("a count") as usize
            })
            .sum()
    };
    wait_until("all are written or counted", || {
        let log = world.gateway.log();
        written(&log) + omitted(&log) >= asked
    });
    let written = written(&world.gateway.log());
    println!("{asked} requests in {took:?}: {written} lines");
    assert!(written <= most, "{written} lines within {took:?}");
    // Every request of a client with a key is logged.
    for _ in 0..300 {
        world.call_with("DELETE", "/v1/files/known", &[authorization()], "");
    }
    wait_until("each has its line", || {
        world.gateway.log().lines().filter(|line| line.contains("/v1/files/known\"")).count() == 300
    });
}

/// How long the unauthenticated connections stay open.
const ATTACK_TIME: Duration = Duration::from_secs(60);
/// Unauthenticated connections of each kind; more in total than there are connection slots.
const CONNECTIONS: usize = 30;

/// Unread responses over HTTP/1 and h2, a slow body on an endpoint that authenticates by the body, and the slow rest of
/// a refused body: meanwhile each upload with a key takes less than a second, and the gateway shuts down in time.
#[test]
fn unauthenticated_connections_do_not_block_uploads() {
    let certificate = Certificate::new();
    let over_tls =
        certificate.shown(Setup::new().set("server.max_connections", CONNECTIONS)).start();
    let plain = Setup::new().set("server.max_connections", CONNECTIONS).start();
    upload_during_attack(
        plain,
        |world| {
            let mut connections: Vec<Client> = Vec::new();
            for number in 0..3 * CONNECTIONS {
                let mut client = Client::connect(world.gateway.address);
                let length = ("content-length", "16000");
                match number % 3 {
                    0 => client.send(&LARGE.repeat(20)),
                    1 => client.send_head("POST", "/cgi-bin/stable_token", &[length]),
                    _ => {
                        let wrong =
                            [("authorization", "Bearer wrong"), ("content-length", "1000000")];
                        client.send_head("POST", "/v1/files?reply=wangeditor", &wrong);
                    }
                }
                connections.push(client);
            }
            connections
        },
        |client| drop(client.try_send(b"x")),
        |world| {
            let form = Form::new().field("path", "file").file("f", "x", "text/plain", b"x");
            world.post(&form).stored();
        },
    );
    upload_during_attack(
        over_tls,
        |world| {
            let docs = h2_head(&[(":method", "GET"), (":path", LARGE_PATH)]);
            let connect = || {
                let mut unread = H2::connect(world, &certificate, &[(4, 0)]);
                let (_, get) = unread.request(&docs, END_STREAM);
                unread.send(&get).expect("it takes it");
                unread
            };
            (0..CONNECTIONS).map(|_| connect()).collect()
        },
        |_: &mut H2| (),
        |world| {
            let response = H1::connect(world, &certificate).put("/v1/files/file", b"x");
            assert!(
                response.as_ref().is_ok_and(|response| response.starts_with("HTTP/1.1 201")),
                "{response:?}"
            );
        },
    );
}

fn upload_during_attack<S>(
    mut world: World,
    begin: impl FnOnce(&World) -> Vec<S>,
    send_more: impl Fn(&mut S),
    upload: impl Fn(&World),
) {
    upload(&world);
    let mut connections = begin(&world);
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < ATTACK_TIME {
        let one = Instant::now();
        upload(&world);
        times.push(one.elapsed());
        connections.iter_mut().for_each(&send_more);
        std::thread::sleep(Duration::from_secs(1).saturating_sub(one.elapsed()));
    }
    let slowest = times.iter().max().copied().unwrap_or_default();
    println!("{} uploads during the attack: slowest {slowest:?}", times.len());
    assert!(slowest < Duration::from_secs(1), "{times:?}");
    let told = Instant::now();
    world.gateway.signal("TERM");
    assert!(world.gateway.ended().success());
    println!("exited {:?} after the signal", told.elapsed());
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

/// 5 s for a TLS handshake, 15 s for the preface of h2.
#[test]
fn silent_tls_connections_are_closed_by_their_timeouts() {
    let certificate = Certificate::new();
    let world = certificate.shown(Setup::new()).start();
    let began = Instant::now();
    let handshake = TcpStream::connect(world.gateway.address).expect("a connection");
    let mut preface = tls(&world, &certificate, "h2");
    while preface.conn.is_handshaking() {
        preface.conn.complete_io(&mut preface.sock).expect("TLS");
    }
    for (mut stream, seconds) in [(handshake, 5), (preface.sock, 15)] {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        // Whatever TLS says before the end.
        let ended = std::io::copy(&mut stream, &mut std::io::sink());
        let after = began.elapsed().as_secs();
        assert!(
            ended.is_ok()
                || ended.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
        );
        assert!((seconds - 1..seconds + 4).contains(&after), "{after} s instead of {seconds}");
    }
}
