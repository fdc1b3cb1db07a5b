//! Shutdown: which requests still finish, which are refused, and when the process exits.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    Client, Form, Response, Setup, World, authorization, crc64, noise, wait_until,
};

const SIZE: usize = 1 << 20;

fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"content")
}

/// An upload of [`SIZE`] bytes to `x.bin`, of which COS has received the first half.
fn half_sent(world: &World, content: &[u8]) -> Client {
    let mut client = world.client();
    let length = content.len().to_string();
    let headers = [authorization(), ("content-length", &length)];
    client.send_head("PUT", "/v1/files/x.bin", &headers);
    client.send(&content[..content.len() / 2]);
    let wait = format!("wait?key=x.bin&received={}", content.len() / 2 - (256 << 10));
    assert_eq!(world.control("GET", &wait, "").status, 200);
    client
}

fn asked(world: &World, path: &str) -> Response {
    world.call_with("GET", path, &[], "")
}

fn told_to_end(world: &World) {
    world.gateway.signal("TERM");
    world.gateway.log_with("shutting down");
}

#[test]
fn it_exits_on_a_signal() {
    for name in ["TERM", "INT", "QUIT"] {
        let mut world = Setup::new().start();
        world.post(&small()).stored();
        // Idle connections do not delay it.
        let mut idle = world.client();
        idle.send_request("GET", "/healthz", &[], b"");
        assert_eq!(idle.response().status, 200);
        let began = Instant::now();
        world.gateway.signal(name);
        assert_eq!(world.gateway.ended().code(), Some(0), "{name}: {}", world.gateway.log());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

#[test]
fn during_shutdown_an_upload_finishes_and_new_ones_are_refused() {
    let mut world = Setup::new().start();
    let content = noise(SIZE, 1);
    let mut idle = world.client();
    idle.send_request("GET", "/readyz", &[], b"");
    assert_eq!(idle.response().status, 200);
    let mut client = half_sent(&world, &content);

    told_to_end(&world);
    for _ in 0..2 {
        let response = asked(&world, "/readyz");
        response.problem(503, "draining");
        assert!(response.header("retry-after").is_some());
        assert_eq!(asked(&world, "/healthz").status, 200);
        assert_eq!(asked(&world, "/metrics").status, 200);

        let response = world.post(&small());
        response.problem(503, "draining");
        assert!(response.header("retry-after").is_some());
        assert_eq!(response.header("connection"), Some("close"));
    }
    // An unauthenticated client does not learn the gateway's state.
    world.call_with("POST", "/v1/files", &[], "").problem(401, "unauthenticated");
    // The same on a connection that was open before.
    idle.send_request("PUT", "/v1/files/y", &[authorization()], b"y");
    let response = idle.response();
    response.problem(503, "draining");
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(idle.try_response().ok().map(|response| response.status), None, "it is closed");

    client.send(&content[SIZE / 2..]);
    let response = client.response();
    assert_eq!(response.stored()["crc64"], crc64(&content));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(world.gateway.ended().code(), Some(0), "{}", world.gateway.log());
    assert!(world.object("x.bin") == content);
    assert_eq!(world.objects().len(), 1);
    assert!(TcpStream::connect(world.gateway.address).is_err());
}

/// A page must be able to read the 503.
#[test]
fn during_shutdown_a_large_upload_gets_its_refusal() {
    let mut world = Setup::new().start();
    let content = noise(SIZE, 1);
    let mut running = half_sent(&world, &content);
    told_to_end(&world);
    let large = Form::new().file("file", "x.bin", "text/plain", &noise(20 << 20, 2));
    world.post(&large).problem(503, "draining");
    running.send(&content[SIZE / 2..]);
    running.response().stored();
    assert_eq!(world.gateway.ended().code(), Some(0));
}

#[test]
fn a_load_balancer_has_time_to_see_that_it_is_not_ready() {
    let mut world = Setup::new().set("server.shutdown_delay", "2s").start();
    let began = Instant::now();
    told_to_end(&world);
    while began.elapsed() < Duration::from_millis(1500) {
        asked(&world, "/readyz").problem(503, "draining");
        world.post(&small()).problem(503, "draining");
        // Requests other than uploads are still served.
        assert_eq!(world.call("DELETE", "/v1/files/none", &Value::Null).status, 204);
    }
    assert_eq!(world.gateway.ended().code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn uploads_past_the_grace_are_aborted_and_not_stored() {
    let mut world = Setup::new().set("server.shutdown_grace", "1s").start();
    let mut client = half_sent(&world, &noise(SIZE, 1));
    let began = Instant::now();
    told_to_end(&world);
    assert_eq!(world.gateway.ended().code(), Some(0), "{}", world.gateway.log());
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    assert!(client.try_response().is_err());
    world.gateway.log_with("server.shutdown_grace is over");
    world.assert_nothing_stored();
}

#[test]
fn a_second_signal_exits_at_once() {
    for second in ["TERM", "INT"] {
        let mut world = Setup::new().set("server.shutdown_delay", "20s").start();
        let mut client = half_sent(&world, &noise(SIZE, 1));
        told_to_end(&world);
        let began = Instant::now();
        world.gateway.signal(second);
        assert!(world.gateway.ended().code().is_some(), "{second}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(client.try_response().is_err());
        world.assert_nothing_stored();
    }
}

/// By default SIGHUP would end the process, and its uploads with it.
#[test]
fn a_hangup_is_logged_and_otherwise_ignored() {
    let mut world = Setup::new().set("server.shutdown_delay", "1s").start();
    let hangups = |world: &World| world.gateway.log().matches("SIGHUP").count();
    let hang_up = |world: &World| {
        let before = hangups(world);
        world.gateway.signal("HUP");
        wait_until("the signal is logged", || hangups(world) > before);
    };
    hang_up(&world);
    let content = noise(SIZE, 1);
    let mut client = half_sent(&world, &content);
    hang_up(&world);
    hang_up(&world);
    world.post(&small()).stored();
    client.send(&content[SIZE / 2..]);
    assert_eq!(client.response().stored()["crc64"], crc64(&content));
    assert!(world.object("x.bin") == content);

    // SIGHUP does not count as the second signal, which aborts running uploads.
    let mut client = half_sent(&world, &content);
    told_to_end(&world);
    hang_up(&world);
    client.send(&content[SIZE / 2..]);
    client.response().stored();
    assert_eq!(world.gateway.ended().code(), Some(0), "{}", world.gateway.log());
}
