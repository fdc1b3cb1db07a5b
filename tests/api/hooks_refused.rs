//! A back end that refuses events of one kind for good gets all others, however many it has refused.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::wait_until;
use crate::hooks::{Received, Receiver, count, put};
use crate::hooks_faults::{Stream, queued, received_paths, unavailable, upload};
use crate::hooks_lost::{lost, paths};
use crate::recorder::response;
use crate::replicas::Redis;

/// Events of the stream that a gateway has at most.
const MAX_CLAIMED: usize = 1000;
/// Events that are only in memory.
const MAX_ENTRIES: usize = 10_000;

fn path(event: &Received) -> String {
    event.data()["path"].as_str().expect("a path").to_owned()
}

/// Refuses events of paths that begin with `refused`.
fn refusing(receiver: &Receiver) {
    receiver.respond(|event| {
        let is_refused = path(event).starts_with("refused");
        Some(response(if is_refused { "400 No" } else { "200 OK" }, ""))
    });
}

#[test]
fn refused_events_of_the_stream_leave_places_for_others_and_are_tried_again() {
    let redis = Redis::start();
    let mut stream = Stream::of(&redis);
    let receiver = Receiver::start();
    refusing(&receiver);
    let world = receiver.setup().set("redis.url", redis.url()).start();
    // More than the gateway has places for, and then some.
    let refused = MAX_CLAIMED + 300;
    stream.add("refused", 3600, refused);
    let pending = || Stream::of(&redis).pending();
    wait_until("all places are taken", || {
        pending() >= MAX_CLAIMED && count(&world, "file.stored", "failed") >= MAX_CLAIMED as u64
    });
    for n in 0..10 {
        upload(&world.gateway, &format!("{n}.txt"));
        wait_until("it is told of", || received_paths(&receiver).contains(&format!("{n}.txt")));
    }
    wait_until("all were taken", || pending() == refused);
    assert_eq!((stream.len(), count(&world, "file.stored", "dropped")), (refused, 0));
    receiver.respond_with(response("200 OK", ""));
    wait_until("all are delivered", || Stream::of(&redis).len() == 0);
}

#[test]
fn refused_events_in_memory_give_up_their_places_and_are_logged() {
    let receiver = Receiver::start();
    refusing(&receiver);
    let world = receiver.setup().start();
    for call in 0..MAX_ENTRIES / 1000 {
        let files: Vec<_> = (0..1000).map(|n| format!("refused/{}", call * 1000 + n)).collect();
        let response = world.call("POST", "/v1/delete", &json!({ "files": files }));
        assert_eq!(response.status, 200, "{}", response.text());
    }
    wait_until("the queue is full", || queued(&world) == MAX_ENTRIES as f64);
    wait_until("some have failed", || count(&world, "file.deleted", "failed") >= 1000);
    let stored: BTreeSet<_> = (0..20).map(|n| format!("{n}.txt")).collect();
    for path in &stored {
        put(&world.gateway, path, &[]).stored();
    }
    wait_until("they are told of", || stored.is_subset(&received_paths(&receiver)));
    let lost = paths(&lost(&world.gateway.log_with("it had failed before")));
    assert!((1..=stored.len()).contains(&lost.len()), "{lost:?}");
    assert!(lost.iter().all(|path| path.starts_with("refused/")), "{lost:?}");
    assert_eq!(count(&world, "file.deleted", "dropped"), lost.len() as u64);
    assert_eq!(count(&world, "file.stored", "dropped"), 0);
}

#[test]
fn the_length_of_the_queue_is_known_while_redis_is_down() {
    let mut redis = Redis::start();
    let receiver = Receiver::start();
    receiver.respond_with(unavailable());
    let world = receiver.setup().set("redis.url", redis.url()).start();
    upload(&world.gateway, "before.txt");
    wait_until("it is taken", || receiver.calls() > 0);
    redis.kill();
    for n in 0..3 {
        upload(&world.gateway, &format!("{n}.txt"));
    }
    wait_until("they are counted", || queued(&world) == 4.0);
    receiver.respond_with(response("200 OK", ""));
    wait_until("they are delivered", || queued(&world) == 0.0);
}
