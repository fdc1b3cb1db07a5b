//! HTTP/1.1 framing: where one request ends and the next begins, whatever its content and however it is segmented.

use std::io::Write;
use std::time::Instant;

use crate::harness::{Form, Setup, authorization, crc64, noise, wait_until};

/// A file that looks like the end of a form and of a request.
const TRICKY: &[u8] = b"\r\n--b\r\n\r\nGET / HTTP/1.1\r\n\r\n--\r";

/// The request's bytes.
fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let (name, value) = authorization();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{name}: {value}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn upload(path: &str, content: &[u8]) -> Vec<u8> {
    let form = Form::new().field("path", path).file("f", "x", "text/plain", content);
    let (kind, body) = (form.content_type(), form.bytes());
    let headers = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    request("POST", "/v1/files", &headers, &body)
}

#[test]
fn a_request_is_read_the_same_however_its_head_is_split() {
    let world = Setup::new().start();
    let whole = upload("cut", TRICKY);
    let crc = crc64(TRICKY);
    let mut client = world.client();
    for cut in 1..whole.len() {
        client.send(&whole[..cut]);
        client.send(&whole[cut..]);
        assert_eq!(client.response().stored()["crc64"], *crc, "cut at {cut}");
    }
    for byte in &whole {
        client.send(&[*byte]);
    }
    assert_eq!(client.response().stored()["crc64"], *crc);
    assert_eq!(world.objects().len(), 1);
}

/// Bytes of a body are never read as a request, even if they look like one; the bytes after it are the next request.
#[test]
fn pipelined_requests_are_framed_and_answered_in_order() {
    let world = Setup::new().start();
    let inner = request("DELETE", "/v1/files/a", "", b"");
    let length = format!("content-length:{} \r\n", inner.len());
    let large = noise(300_000, 1);
    let chunked = b"5\r\nhello\r\n0\r\n\r\n";
    let requests = [
        upload("a", TRICKY),
        request("PUT", "/v1/files/b", &length, &inner),
        request("GET", "/healthz", "", b""),
        request("POST", "/nowhere", &length, &inner),
        upload("c", &large),
        request("PUT", "/v1/files/empty", "Content-Length: 0\r\n", b""),
        request("PUT", "/v1/files/d", "Transfer-Encoding: chunked\r\n", chunked),
        upload("e", &large),
        request("PUT", "/v1/files/b2", &length, &inner),
    ];
    let statuses = [201, 201, 200, 404, 201, 201, 201, 201, 201];
    for _ in 0..8 {
        let mut client = world.client();
        let (mut sender, all) = (client.sender(), requests.concat());
        std::thread::scope(|scope| {
            scope.spawn(move || sender.write_all(&all).unwrap());
            let got = statuses.map(|_| client.response().status);
            assert_eq!(got, statuses);
        });
    }
    for (path, content) in [
        ("a", TRICKY),
        ("b", &inner),
        ("c", &large),
        ("d", b"hello"),
        ("e", &large),
        ("b2", &inner),
        ("empty", b""),
    ] {
        assert!(world.object(path) == content, "{path}");
    }
}

/// If a head is ambiguous about the body's length, it is refused or read as the client meant it.
#[test]
fn ambiguous_heads_are_refused() {
    let world = Setup::new().start();
    let body = b"5\r\nhello\r\n0\r\n\r\n";
    for headers in [
        "Content-Length: 5\r\nContent-Length: 15\r\n",
        "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        "Content-Length: +15\r\n",
        "Content-Length: 15,15\r\n",
        "Content-Length: \r\n",
        "Content-Length : 15\r\n",
        "Content-Length:\r\n 15\r\n",
        "X: y\r\n Content-Length: 15\r\n",
        "Content-Length: 99999999999999999999\r\n",
    ] {
        let mut client = world.client();
        client.send(&request("PUT", "/v1/files/x", headers, body));
        assert_eq!(client.response().status, 400, "{headers}");
        assert!(client.try_response().is_err(), "{headers}");
    }
    world.assert_nothing_stored();
    // A bare LF ends a header line, too.
    let mut client = world.client();
    let odd = "X: y\nContent-Length: 15\r\n";
    client.send(&[&request("PUT", "/v1/files/x", odd, body)[..], &upload("y", TRICKY)].concat());
    client.response().stored();
    client.response().stored();
    assert_eq!(world.object("x"), body);
    assert_eq!(world.object("y"), TRICKY);
}

#[test]
fn a_truncated_body_closes_its_connection() {
    let world = Setup::new().start();
    let whole = upload("x", &noise(100_000, 1));
    for (sent, reset) in [(1_000, false), (50_000, false), (50_000, true)] {
        let mut client = world.client();
        client.send(&whole[..sent]);
        if reset {
            client.reset();
        } else {
            client.finish();
            let response = client.response();
            response.problem(400, "truncated_body");
            assert_eq!(response.header("connection"), Some("close"));
            assert!(client.try_response().is_err());
        }
    }
    wait_until("all are closed", || {
        let metrics = world.call("GET", "/metrics", &serde_json::Value::Null).text();
        metrics.lines().any(|line| line == "gateway_connections 1")
    });
    world.assert_nothing_stored();
}

/// A proxy that sees the connection closed stops sending, and its own client gets a reset instead of the response.
#[test]
fn a_connection_stays_open_after_an_early_response() {
    let world = Setup::new().set("server.lingering_timeout", "1s").start();
    let refused = request("POST", "/nowhere", "Content-Length: 300000\r\n", &noise(300_000, 1));
    let (begin, rest) = refused.split_at(1_000);
    let mut client = world.client();
    for path in ["a", "b"] {
        client.send(begin);
        let response = client.response();
        response.problem(404, "not_found");
        assert_eq!(response.header("connection"), None);
        client.send(&[rest, &upload(path, TRICKY)].concat());
        client.response().stored();
    }
    // The connection is closed if the rest does not arrive.
    client.send(begin);
    assert_eq!(client.response().status, 404);
    assert!(client.try_response().is_err());
    assert_eq!(world.objects().len(), 2);
}

/// After a response without a body, a client may not read further, so the connection cannot linger for the rest.
#[test]
fn a_connection_closes_after_an_early_response_without_a_body() {
    let world = Setup::new().start();
    let delete = request("DELETE", "/v1/files/x", "Content-Length: 100000\r\n", &noise(100_000, 1));
    for sent in [0, 1_000, 100_000] {
        let mut client = world.client();
        client.send(&upload("x", TRICKY));
        client.response().stored();
        client.send(&delete[..delete.len() - 100_000 + sent]);
        let response = client.response();
        assert_eq!(response.status, 204);
        assert_eq!(response.header("connection"), Some("close"), "{sent}");
        assert!(client.try_response().is_err());
    }
}

/// Pipelined bytes do not change the response to the request before them.
#[test]
fn pipelined_bytes_do_not_change_a_response() {
    let world = Setup::new().start();
    let put = request("PUT", "/v1/files/x", "Content-Length: 5\r\n", b"hello");
    let missing = request("GET", "/v1/files/missing", "", b"");
    for (first, status) in [(put, 201), (missing, 404)] {
        for next in ["HEAD /healthz HTTP/1.1", "GET /healthz HTTP/1.0"] {
            let mut client = world.client();
            client.send(&[&first[..], format!("{next}\r\nhost: a\r\n\r\n").as_bytes()].concat());
            let response = client.response();
            assert_eq!(response.status, status, "{next}");
            assert_eq!(response.header("connection"), None, "{next}");
            assert!(response.json().is_object(), "{next}");
            assert_eq!(client.response_head().expect("a response").0, 200, "{next}");
        }
    }
}

#[test]
fn an_endless_head_closes_its_connection() {
    let world = Setup::new().start();
    let mut clients = [(); 5].map(|()| world.client());
    for (client, length) in clients.iter_mut().zip([1, 20_000, 40_000, 100_000, 200_000]) {
        client.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.response().status, 200);
        // The response may come before all of it is sent.
        let _ = client.try_send(format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(length)).as_bytes());
    }
    drop(clients);
    wait_until("all are closed", || {
        let metrics = world.call("GET", "/metrics", &serde_json::Value::Null).text();
        metrics.lines().any(|line| line == "gateway_connections 1")
    });
}

/// Pipelined requests wait in the socket; meanwhile they take neither CPU time nor memory.
#[test]
fn thousands_of_pipelined_requests_cost_nothing_while_they_wait() {
    let world = Setup::new().start();
    world.faults(&serde_json::json!([{"stage": "download", "fault": "delay", "ms": 250}]));
    let headers = format!("X: {}\r\n", "z".repeat(100));
    let all: Vec<u8> = (0..3_000)
        .flat_map(|number| request("GET", &format!("/v1/files/{number}"), &headers, b""))
        .collect();
    let mut client = world.client();
    let mut sender = client.sender();
    let (mut took, mut began) = (0.0, Instant::now());
    std::thread::scope(|scope| {
        // Sending fails once the connection is closed.
        scope.spawn(move || sender.write_all(&all));
        for number in 0..12 {
            assert_eq!(client.response().status, 404);
            // By then the sockets' buffers are full.
            if number == 4 {
                (took, began) = (world.gateway.cpu(), Instant::now());
            }
        }
        took = world.gateway.cpu() - took;
        client.reset();
    });
    let share = took / began.elapsed().as_secs_f64();
    assert!(share < 0.3, "{share:.2} of a core");
}
