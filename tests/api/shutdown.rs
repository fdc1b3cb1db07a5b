//! Shutdown: which requests still finish, which are refused, and when the process exits.

use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::forward_auth::AuthServer;
use crate::harness::{
    Client, Form, Response, Setup, World, authorization, crc64, noise, wait_until,
};
use crate::hooks::Receiver;
use crate::recorder::response;

const SIZE: usize = 1 << 20;

fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"content")
}

/// An upload of [`SIZE`] bytes to `x.bin`, of which COS has received the first half.
fn half_sent(world: &World, content: &[u8]) -> Client {
    half_sent_to(world, "x.bin", content)
}

/// `path` must be new: what COS has received of an earlier upload to it would count.
fn half_sent_to(world: &World, path: &str, content: &[u8]) -> Client {
    let mut client = world.client();
    let length = content.len().to_string();
    let headers = [authorization(), ("content-length", &length)];
    client.send_head("PUT", &format!("/v1/files/{path}"), &headers);
    client.send(&content[..content.len() / 2]);
    let wait = format!("wait?key={path}&received={}", content.len() / 2 - (256 << 10));
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

fn closed(world: &World) {
    world.gateway.log_with("no more connections are accepted");
}

#[test]
fn during_shutdown_an_upload_finishes_and_no_connection_is_accepted() {
    let mut world = Setup::new().start();
    let content = noise(SIZE, 1);
    let mut idle = world.client();
    idle.send_request("GET", "/readyz", &[], b"");
    assert_eq!(idle.response().status, 200);
    let mut client = half_sent(&world, &content);

    told_to_end(&world);
    closed(&world);
    assert!(TcpStream::connect(world.gateway.address).is_err());
    assert_eq!(idle.try_response().ok().map(|response| response.status), None, "it is closed");

    client.send(&content[SIZE / 2..]);
    let response = client.response();
    assert_eq!(response.stored()["crc64"], crc64(&content));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(world.gateway.ended().code(), Some(0), "{}", world.gateway.log());
    assert!(world.object("x.bin") == content);
    assert_eq!(world.objects().len(), 1);
}

/// Connections that the kernel has accepted are served, even if the gateway is too busy to accept them: its process is
/// stopped while they are made. Attempts made later are refused, once they are repeated, and none is reset.
#[test]
fn no_connection_is_lost_when_the_socket_is_closed() {
    const CONNECTIONS: usize = 200;
    let mut world = Setup::new().start();
    world.post(&small()).stored();
    world.gateway.signal("STOP");
    let request = |n: usize| {
        let mut client = world.client();
        client.send_request("PUT", &format!("/v1/files/{n}"), &[authorization()], b"x");
        client
    };
    let clients: Vec<_> = (0..CONNECTIONS).map(request).collect();
    world.gateway.signal("TERM");
    world.gateway.signal("CONT");
    world.gateway.log_with("shutting down");
    let late: Vec<_> = (0..CONNECTIONS)
        .map(|n| match Client::try_connect(world.gateway.address) {
            Ok(mut client) => {
                client.send_request(
                    "PUT",
                    &format!("/v1/files/late-{n}"),
                    &[authorization()],
                    b"x",
                );
                client.response().stored();
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{n}");
                false
            }
        })
        .collect();
    for mut client in clients {
        client.response().stored();
    }
    let served = late.iter().filter(|served| **served).count();
    assert!(served < CONNECTIONS, "the socket is closed meanwhile");
    assert_eq!(world.gateway.ended().code(), Some(0), "{}", world.gateway.log());
    assert_eq!(world.objects().len(), 1 + CONNECTIONS + served);
}

/// Its client was still being authenticated when the socket was closed. A page must be able to read the 503.
#[test]
fn during_shutdown_a_large_upload_gets_its_refusal() {
    let auth = AuthServer::start();
    let (authenticate, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    auth.respond(move |_| {
        wait.lock().expect("the channel").recv().expect("a word");
        Some(response("200 OK", "{\"sub\": \"alice\"}"))
    });
    let mut world = auth.setup().set("auth.forward_timeout", "30s").start();
    let large = Form::new().file("file", "x.bin", "text/plain", &noise(20 << 20, 2));
    let (kind, body) = (large.content_type(), large.bytes());
    let mut client = world.client();
    let length = body.len().to_string();
    let headers =
        [("cookie", "session=alice"), ("content-type", &kind), ("content-length", &length)];
    client.send_head("POST", "/v1/files", &headers);
    wait_until("the auth server is asked", || auth.received().len() == 1);
    told_to_end(&world);
    closed(&world);
    authenticate.send(()).expect("it waits");
    client.send(&body);
    let refusal = client.response();
    refusal.problem(503, "draining");
    assert!(refusal.header("retry-after").is_some());
    assert_eq!(refusal.header("connection"), Some("close"));
    assert_eq!(world.gateway.ended().code(), Some(0));
    world.assert_nothing_stored();
}

#[test]
fn a_load_balancer_has_time_to_see_that_it_is_not_ready() {
    let mut world = Setup::new().set("server.shutdown_delay", "2s").start();
    let began = Instant::now();
    told_to_end(&world);
    let mut uploads = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        let unready = asked(&world, "/readyz");
        unready.problem(503, "draining");
        assert!(unready.header("retry-after").is_some());
        assert_eq!(asked(&world, "/healthz").status, 200);
        // Whatever the load balancer still sends is served.
        let stored = world.post(&small());
        stored.stored();
        uploads += 1;
        assert_eq!(stored.header("connection"), Some("close"));
        assert_eq!(world.call("DELETE", "/v1/files/none", &Value::Null).status, 204);
    }
    assert_eq!(world.gateway.ended().code(), Some(0));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
    assert_eq!(world.objects().len(), uploads);
}

/// The delay is a part of the grace, and never longer. What is done last has its time all the same: an event that is not
/// due for an hour is sent once more.
#[test]
fn a_delay_that_is_longer_than_the_grace_ends_with_it() {
    let receiver = Receiver::start();
    receiver.respond_with(response("503 Service Unavailable\r\nRetry-After: 3600", ""));
    let setup = receiver.setup().set("server.shutdown_delay", "20s");
    let mut world = setup.set("server.shutdown_grace", "2s").start();
    world.post(&small()).stored();
    world.gateway.log_with("a hook could not be delivered");
    receiver.respond(|_| {
        std::thread::sleep(Duration::from_millis(500));
        Some(response("200 OK", ""))
    });
    let began = Instant::now();
    told_to_end(&world);
    asked(&world, "/readyz").problem(503, "draining");
    assert_eq!(receiver.calls(), 1);
    assert_eq!(world.gateway.ended().code(), Some(0), "{}", world.gateway.log());
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(7), "{took:?}");
    assert_eq!(receiver.calls(), 2);
    assert!(!world.gateway.log().contains("was not delivered"), "{}", world.gateway.log());
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
fn a_hangup_ends_nothing() {
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
    let mut client = half_sent_to(&world, "y.bin", &content);
    told_to_end(&world);
    hang_up(&world);
    client.send(&content[SIZE / 2..]);
    client.response().stored();
    assert_eq!(world.gateway.ended().code(), Some(0), "{}", world.gateway.log());
}
