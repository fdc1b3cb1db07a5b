//! What is lost of the events in a gateway's memory stands in its log, whole.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};

use crate::harness::{Gateway, wait_until};
use crate::hooks::{self, Receiver, count, put};
use crate::measured::{metrics, value};

/// The bodies of the events that a gateway's log says were not delivered, in no order.
pub fn lost(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.contains("a hook was not delivered"));
    let bodies = lines.map(|line| {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(line["level"], "ERROR", "{line}");
        assert!(line["id"].as_str().is_some_and(|id| id.starts_with("msg_")), "{line}");
        let body = line["body"].as_str().unwrap_or_else(|| panic!("no body: {line}"));
        serde_json::from_str(body).expect("the body is JSON")
    });
    bodies.collect()
}

/// The paths of these events; each must have been lost once.
pub fn paths(lost: &[Value]) -> BTreeSet<String> {
    let path = |body: &Value| body["data"]["path"].as_str().expect("a path").to_owned();
    let paths: BTreeSet<_> = lost.iter().map(path).collect();
    assert_eq!(paths.len(), lost.len(), "a path is there twice");
    paths
}

/// Stops a gateway; its whole log.
pub fn stopped(gateway: &mut Gateway) -> String {
    gateway.signal("TERM");
    assert!(gateway.ended().success());
    gateway.log_with("stopped")
}

/// An address at which nothing listens.
fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    listener.local_addr().expect("an address")
}

#[test]
fn a_shutdown_while_the_back_end_is_down_logs_every_event_whole() {
    const EVENTS: usize = 300;
    let mut world = hooks::setup(nowhere()).start();
    for n in 0..EVENTS {
        assert_eq!(put(&world.gateway, &format!("{n}.txt"), &[]).status, 201);
    }
    let lost = lost(&stopped(&mut world.gateway));
    assert_eq!(paths(&lost), (0..EVENTS).map(|n| format!("{n}.txt")).collect::<BTreeSet<_>>());
    for body in &lost {
        assert_eq!(body["type"], "file.stored");
        assert!(body["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{body}");
        let members = body["data"].as_object().expect("an object");
        let names: BTreeSet<_> = members.keys().map(String::as_str).collect();
        let all = BTreeSet::from([
            "client",
            "content_type",
            "crc64",
            "file_id",
            "metadata",
            "name",
            "path",
            "size",
            "sub",
            "upload_id",
            "url",
            "verified",
        ]);
        assert_eq!(names, all);
    }
}

/// Few long events fill the queue before 10,000 are in it.
#[test]
fn the_bytes_of_the_queue_in_memory_are_bounded() {
    const BYTES: usize = 16 << 20;
    /// What an event takes besides its body.
    const OVERHEAD: usize = 512;
    let receiver = Receiver::start();
    receiver.respond(|_| None);
    let world = receiver.setup().start();
    let name = "x".repeat(700);
    for call in 0..10 {
        let files: Vec<_> = (0..1000).map(|n| format!("{call}/{n:03}/{name}")).collect();
        let response = world.call("POST", "/v1/delete", &json!({ "files": files }));
        assert_eq!(response.status, 200, "{}", response.text());
    }
    let dropped = || count(&world, "file.deleted", "dropped") as usize;
    let queued = || value(&metrics(&world), "gateway_hooks_queued") as usize;
    wait_until("each is queued or lost", || queued() + dropped() == 10_000);
    let (queued, dropped) = (queued(), dropped());
    wait_until("each lost one is logged", || lost(&world.gateway.log()).len() == dropped);
    let lost = lost(&world.gateway.log());
    assert_eq!(paths(&lost).len(), dropped);
    let each = lost[0].to_string().len() + OVERHEAD;
    // The fraction of a timestamp is shorter at times.
    assert!((queued * each).abs_diff(BYTES) < BYTES / 100, "{queued} of {each} bytes");
    println!(
        "{queued} events of {each} bytes are queued; peak: {} KiB",
        world.gateway.memory("VmHWM")
    );
}
