//! Collectors that fail: no upload and no shutdown waits for them, and what is lost is counted.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Form, Setup, World, wait_until};
use crate::measured::{metrics, value};
use crate::otlp::{Collector, decode};
use crate::recorder::{Recorder, response};

fn upload(world: &World) {
    world.post(&Form::new().file("file", "x.txt", "text/plain", b"x")).stored();
}

fn counted(world: &World, result: &str) -> f64 {
    value(&metrics(world), &format!("gateway_spans_total{{result=\"{result}\"}}"))
}

/// Stops the gateway, and returns how long that took.
fn stop(world: &mut World) -> Duration {
    let began = Instant::now();
    world.gateway.signal("TERM");
    assert!(world.gateway.ended().success());
    began.elapsed()
}

fn failures(world: &World, level: &str) -> usize {
    let (log, level) = (world.gateway.log(), format!("\"level\":\"{level}\""));
    let is_one = |line: &&str| line.contains("spans cannot be exported") && line.contains(&level);
    log.lines().filter(is_one).count()
}

fn warnings(world: &World) -> usize {
    failures(world, "WARN")
}

/// The shutdown waits for half a second before the socket is closed, whether spans are exported or not.
const SHUTDOWN: Duration = Duration::from_millis(500);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(5);

#[test]
fn a_collector_that_is_down_is_told_later_and_logged_once() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let mut world = Setup::new()
        .set("telemetry.otlp_endpoint", format!("http://{address}/"))
        .set("telemetry.log", "info,tcb_upload_gateway::telemetry=debug")
        .start();
    upload(&world);
    wait_until("two attempts have failed", || failures(&world, "DEBUG") == 1);
    assert_eq!(warnings(&world), 1);
    let collector = Collector(Recorder::on(TcpListener::bind(address).expect("the same port")));
    wait_until("it is told", || counted(&world, "exported") >= 1.0);
    world.gateway.log_with("spans are exported again");
    assert_eq!(warnings(&world), 1);
    assert_eq!(collector.batches().len(), 1);
    assert_eq!(counted(&world, "failed"), 0.0);

    // Once it is down for good, a shutdown loses the spans without a delay.
    collector.0.respond(|_, _| Err(ErrorKind::UnexpectedEof.into()));
    upload(&world);
    let took = stop(&mut world);
    assert!(took < SHUTDOWN + SLACK, "{took:?}");
    assert_eq!(warnings(&world), 2, "a new series of failures");
}

#[test]
fn an_overloaded_collector_is_told_again_after_the_pause_that_it_asks_for() {
    let collector = Collector::start();
    let calls = AtomicUsize::new(0);
    collector.0.respond(move |_, stream| {
        let text = match calls.fetch_add(1, Ordering::Relaxed) {
            0 => "HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => response("200 OK", "{}"),
        };
        stream.write_all(text.as_bytes())
    });
    let world = collector.set(Setup::new()).start();
    upload(&world);
    wait_until("it is told again", || collector.0.calls() == 2);
    let [first, second] = &collector.0.received()[..] else { panic!("two") };
    let pause = second.at - first.at;
    assert!(pause >= Duration::from_secs(3), "{pause:?}");
    assert_eq!(first.body, second.body);
    let spans = collector.batches()[0].len() as f64;
    wait_until("they are counted once", || counted(&world, "exported") == spans);
    assert_eq!(counted(&world, "failed") + counted(&world, "dropped"), 0.0);
}

#[test]
fn what_a_collector_refuses_is_not_sent_again() {
    let collector = Collector::start();
    let calls = AtomicUsize::new(0);
    collector.0.respond(move |_, stream| {
        let text = match calls.fetch_add(1, Ordering::Relaxed) {
            0 => response("400 Bad Request", ""),
            _ => response("200 OK", r#"{"partialSuccess":{"rejectedSpans":"1"}}"#),
        };
        stream.write_all(text.as_bytes())
    });
    let world = collector.set(Setup::new()).start();
    upload(&world);
    wait_until("it has refused them", || counted(&world, "failed") > 0.0);
    let refused = collector.batches()[0].len() as f64;
    assert_eq!(counted(&world, "failed"), refused);
    upload(&world);
    wait_until("it has taken the others", || counted(&world, "exported") > 0.0);
    assert_eq!(counted(&world, "failed"), refused + 1.0);
    assert_eq!(counted(&world, "exported"), collector.batches()[1].len() as f64 - 1.0);
    assert_eq!((collector.0.calls(), warnings(&world)), (2, 1));
}

/// More requests than the queue and a batch have room for.
const FLOOD: usize = 2700;

#[test]
fn a_collector_that_hangs_delays_neither_uploads_nor_the_shutdown() {
    let collector = Collector::start();
    // Until the gateway closes the connection.
    collector.0.respond(|_, stream| {
        while stream.read(&mut [0; 1024])? > 0 {}
        Err(ErrorKind::UnexpectedEof.into())
    });
    let mut world = collector.set(Setup::new()).start();
    let mut client = world.client();
    for _ in 0..FLOOD {
        client.send_request("POST", "/v1/delete", &[], b"");
        assert_eq!(client.response().status, 401);
    }
    let began = Instant::now();
    upload(&world);
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    // A batch is sent again once an attempt has taken too long.
    let bodies: BTreeSet<_> = collector.0.received().into_iter().map(|call| call.body).collect();
    let in_flight: usize = bodies.iter().map(|body| decode(body).len()).sum();
    assert!((1..FLOOD).contains(&in_flight), "{in_flight}");
    // The upload's spans have no room either; how many they are, the road decides.
    let dropped = counted(&world, "dropped");
    let expected = (FLOOD - in_flight - 2048) as f64;
    assert!((expected + 3.0..=expected + 4.0).contains(&dropped), "{dropped}, {in_flight}");
    let took = stop(&mut world);
    let (least, limit) = (Duration::from_secs(2), Duration::from_secs(2) + SHUTDOWN + SLACK);
    assert!((least..limit).contains(&took), "{took:?}");
    let log = world.gateway.log();
    let lost = log.lines().find(|line| line.contains("before all spans are exported"));
    let lost: Value = serde_json::from_str(lost.expect("a line")).expect("JSON");
    assert_eq!(lost["spans"], in_flight + 2048);
}
