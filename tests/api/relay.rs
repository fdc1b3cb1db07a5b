//! Early responses to clients that keep sending, and connections that stay open after them.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use actix_web::rt::System;
use bytes::Bytes;
use futures::stream;
use serde_json::json;

use crate::harness::{Client, Form, Response, Setup, World, authorization, noise, wait_until};
use crate::threads::Barrier;
use crate::tls::Certificate;

const SENT: usize = 60_000_000;
const PER_SECOND: usize = 4_000_000;

/// A form with a file of [`SENT`] bytes.
fn large_form() -> Vec<u8> {
    Form::new().file("file", "x.bin", "text/plain", &noise(SENT, 1)).bytes()
}

/// Sends all of `body` at its rate, whatever the response is, and then reads the response.
fn send_slowly(mut client: Client, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let kind = Form::new().content_type();
    let length = body.len().to_string();
    let own = [("content-type", kind.as_str()), ("content-length", length.as_str())];
    client.send_head("POST", "/v1/files", &[headers, &own].concat());
    let began = Instant::now();
    for (index, piece) in body.chunks(PER_SECOND / 20).enumerate() {
        client.send(piece);
        let at = Duration::from_millis(50) * (index as u32 + 1);
        std::thread::sleep(at.saturating_sub(began.elapsed()));
    }
    let response = client.response();
    // The connection is closed if and only if the response has `Connection: close`.
    if response.header("connection") == Some("close") {
        let rest = client.try_response().map_err(|error| error.kind());
        assert!(matches!(rest, Err(ErrorKind::UnexpectedEof)), "{rest:?}");
    } else {
        client.send_head("GET", "/healthz", &[]);
        assert_eq!(client.response().status, 200);
    }
    response
}

/// The same over h2, by a client that reads the response only after it has sent its body.
fn send_slowly_over_h2(
    world: &World,
    certificate: &Certificate,
    key: Option<&str>,
    body: Bytes,
) -> (u16, serde_json::Value) {
    let tls = certificate.client("h2");
    let url = format!("https://localhost:{}/v1/files", world.gateway.address.port());
    System::new().block_on(async move {
        let connector = awc::Connector::new().rustls_0_23(Arc::new(tls));
        let client =
            awc::Client::builder().connector(connector).timeout(Duration::from_secs(60)).finish();
        let mut request = client
            .post(url)
            .insert_header(("content-type", Form::new().content_type()))
            .insert_header(("content-length", body.len()));
        if let Some(key) = key {
            request = request.insert_header(("authorization", key));
        }
        let pieces: Vec<_> = (0..body.len()).step_by(PER_SECOND / 20).collect();
        let paced = stream::unfold((pieces.into_iter(), body), |(mut pieces, body)| async move {
            let from = pieces.next()?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let piece = body.slice(from..(from + PER_SECOND / 20).min(body.len()));
            Some((Ok::<_, std::io::Error>(piece), (pieces, body)))
        });
        let mut response =
            request.send_stream(Box::pin(paced)).await.expect("a response and no error");
        let status = response.status().as_u16();
        (status, response.json().await.expect("a problem document"))
    })
}

#[test]
fn a_slow_client_of_sixty_megabytes_reads_its_refusal() {
    let certificate = Certificate::new();
    let body = Bytes::from(large_form());
    let setup = || Setup::new().set("upload.max_files", 1);
    let tls = || {
        setup()
            .set("server.tls.cert", certificate.file("cert.pem").display())
            .set("server.tls.key", certificate.file("key.pem").display())
    };
    let cases: [(&str, u16, &str); 3] = [
        ("key", 401, "unauthenticated"),
        ("size", 413, "file_too_large"),
        ("cos", 502, "cos_refused"),
    ];
    let prepared = |setup: Setup, case: &str| {
        let setup = if case == "size" { setup.set("upload.max_file_size", "1MiB") } else { setup };
        let world = setup.start();
        if case == "cos" {
            world.faults(&json!([{"stage": "cos", "fault": "early", "status": 403,
                "code": "AccessDenied", "after": 1_000_000, "then": "reset"}]));
        }
        world
    };
    std::thread::scope(|scope| {
        for (case, status, code) in cases {
            let (body, certificate) = (&body, &certificate);
            let (world, world_tls) = (prepared(setup(), case), prepared(tls(), case));
            scope.spawn(move || {
                let key: &[_] = if case == "key" { &[] } else { &[authorization()] };
                let problem = send_slowly(world.client(), key, body).problem(status, code);
                if case == "cos" {
                    assert_eq!(problem["cos_code"], "AccessDenied");
                }
                world.assert_nothing_stored();
            });
            scope.spawn(move || {
                let key = (case != "key").then_some(authorization().1);
                let (got, problem) =
                    send_slowly_over_h2(&world_tls, certificate, key, body.clone());
                assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{problem}");
                world_tls.assert_nothing_stored();
            });
        }
    });
}

/// Responses are not delayed for as long as the clients keep sending.
#[test]
fn many_clients_that_keep_sending_all_get_their_refusal() {
    const BUSY: usize = 8;
    const REFUSED: usize = 32;
    let world = Setup::new().set("server.workers", 1).start();
    let form = Form::new().file("file", "x", "text/plain", &noise(200_000, 1));
    let (kind, body) = (form.content_type(), form.bytes());
    let (before, behind) = body.split_at(body.len() / 2);
    let busy: Vec<_> = (0..BUSY)
        .map(|_| {
            let mut client = world.client();
            let length = body.len().to_string();
            let headers =
                [authorization(), ("content-type", &kind), ("content-length", length.as_str())];
            client.send_head("POST", "/v1/files", &headers);
            client.send(before);
            client
        })
        .collect();
    wait_until("the uploads have begun", || world.count("uploadfile") == BUSY as u64);

    let all_begin = Barrier::new(REFUSED);
    std::thread::scope(|scope| {
        for _ in 0..REFUSED {
            scope.spawn(|| {
                let mut client = world.client();
                let (mut sender, heard) = (client.sender(), AtomicBool::new(false));
                all_begin.wait();
                let headers = [("content-type", kind.as_str()), ("content-length", "10000000000")];
                client.send_head("POST", "/v1/files", &headers);
                let began = Instant::now();
                std::thread::scope(|scope| {
                    // Sends until the refusal is read, or the gateway closes the connection.
                    scope.spawn(|| {
                        let piece = [b'x'; 64 << 10];
                        while !heard.load(Relaxed) {
                            if sender.write_all(&piece).is_err() {
                                return;
                            }
                        }
                    });
                    let response = client.try_response();
                    heard.store(true, Relaxed);
                    response.expect("a response").problem(401, "unauthenticated");
                    let took = began.elapsed();
                    assert!(took < Duration::from_secs(1), "heard after {took:?}");
                });
            });
        }
    });
    for mut client in busy {
        client.send(behind);
        client.response().stored();
    }
    assert_eq!(world.objects().len(), BUSY);
}

#[test]
fn a_refused_request_leaves_its_connection_usable_or_closed() {
    let world = Setup::new().start();
    let form = Form::new().file("file", "x", "text/plain", b"x");
    let kind = form.content_type();
    for body in
        [form.bytes(), Form::new().file("file", "x", "text/plain", &noise(500_000, 1)).bytes()]
    {
        let mut client = world.client();
        client.send_request("POST", "/v1/files", &[("content-type", &kind)], &body);
        let response = client.response();
        response.problem(401, "unauthenticated");
        if response.header("connection") == Some("close") {
            assert!(client.try_response().is_err());
        } else {
            let headers = [authorization(), ("content-type", kind.as_str())];
            client.send_request("POST", "/v1/files", &headers, &form.bytes());
            client.response().stored();
        }
    }
}

#[test]
fn a_slow_client_is_served_as_long_as_it_sends() {
    let world = Setup::new().set("upload.idle_timeout", "400ms").start();
    let form = Form::new().file("file", "x.txt", "text/plain", b"trickling");
    let body = form.bytes();
    let kind = form.content_type();
    let length = body.len().to_string();
    let mut client = world.client();
    let headers = [authorization(), ("content-type", &kind), ("content-length", &length)];
    client.send_head("POST", "/v1/files", &headers);
    let began = Instant::now();
    for piece in body.chunks(body.len() / 10) {
        client.send(piece);
        // Each pause is far below `upload.idle_timeout`; their sum is far above it.
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() > Duration::from_millis(900));
    client.response().stored();
}
