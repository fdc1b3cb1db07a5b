//! The access token: shared by all workers, fetched once, and renewed before it expires.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Client, Form, Setup, World, authorization, wait_until};
use crate::threads::Barrier;

fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"x")
}

/// Uploads from `count` connections at once, all open before the first byte is sent.
fn uploads_at_once(world: &World, count: usize) {
    let barrier = Barrier::new(count);
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                let mut client = world.client();
                barrier.wait();
                let (kind, body) = (small().content_type(), small().bytes());
                let headers = [authorization(), ("content-type", kind.as_str())];
                client.send_request("POST", "/v1/files", &headers, &body);
                client.response().stored();
            });
        }
    });
}

#[test]
fn two_hundred_first_uploads_make_one_token_call() {
    for (mode, call) in [("stable", "stable_token"), ("secret", "token")] {
        let world = Setup::new().set("wechat.credential", mode).start();
        uploads_at_once(&world, 200);
        assert_eq!(world.count(call), 1, "{mode}");
        assert_eq!(world.count("uploadfile"), 200);
        assert_eq!(world.objects().len(), 200);
    }
}

#[test]
fn a_revoked_token_costs_one_more_call() {
    for (mode, call) in [("stable", "stable_token"), ("secret", "token")] {
        let world = Setup::new().set("wechat.credential", mode).start();
        world.post(&small()).stored();
        for round in 2..5 {
            assert_eq!(world.control("POST", "tokens/revoke", "").status, 200);
            world.post(&small()).stored();
            assert_eq!(world.count(call), round, "{mode}");
        }
        // Also if many requests notice at once.
        world.control("POST", "tokens/revoke", "");
        uploads_at_once(&world, 50);
        assert_eq!(world.count(call), 5, "{mode}");
    }
}

#[test]
fn short_lived_tokens_are_renewed_before_they_expire() {
    let world = Setup::new()
        .set("wechat.credential", "secret")
        .sandbox(|options| {
            options.token_life = Duration::from_secs(2);
            options.token_overlap = Duration::from_secs(1);
        })
        .start();
    let until = Instant::now() + Duration::from_secs(7);
    let mut slowest = Duration::ZERO;
    world.post(&small()).stored();
    while Instant::now() < until {
        let began = Instant::now();
        world.post(&small()).stored();
        slowest = slowest.max(began.elapsed());
    }
    let calls = world.count("token");
    assert!((3..=6).contains(&calls), "{calls} token calls in 7 s of 2 s tokens");
    assert_eq!(world.objects().len() as u64, world.count("uploadfile"), "no call was repeated");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn a_wrong_secret_is_reported_without_repeated_calls() {
    let world = Setup::new().variable("GATEWAY__WECHAT__SECRET", "not-the-secret").start();
    let response = world.post(&small());
    let problem = response.problem(503, "credential_unavailable");
    assert!(response.header("retry-after").is_some());
    assert_eq!(problem["errcode"], 40125);
    assert!(problem["rid"].is_string(), "{problem}");
    for _ in 0..50 {
        world.post(&small()).problem(503, "credential_unavailable");
    }
    let calls = world.count("stable_token");
    assert!(calls <= 3, "{calls} calls");
    assert!(!world.gateway.log().contains("not-the-secret"));
    world.assert_nothing_stored();
}

#[test]
fn a_temporary_failure_of_a_token_call_is_retried() {
    let world = Setup::new().start();
    world.faults(&json!([{"stage": "token", "fault": "status", "status": 500, "times": 1}]));
    world.post(&small()).stored();
    assert_eq!(world.count("stable_token"), 2);
}

#[test]
fn a_token_fetch_survives_the_client_that_started_it() {
    let world = Setup::new().start();
    world.faults(&json!([{"stage": "token", "fault": "delay", "ms": 700, "times": 1}]));
    let (kind, body) = (small().content_type(), small().bytes());
    let headers = [authorization(), ("content-type", kind.as_str())];
    let mut first: Client = world.client();
    first.send_request("POST", "/v1/files", &headers, &body);
    // Waits until the fetch has begun.
    wait_until("the token is asked for", || world.count("stable_token") > 0);
    let mut others: Vec<_> = (0..49).map(|_| world.client()).collect();
    for other in &mut others {
        other.send_request("POST", "/v1/files", &headers, &body);
    }
    first.reset();
    for other in &mut others {
        other.response().stored();
    }
    assert_eq!(world.count("stable_token"), 1);
}

/// With both behaviours of WeChat: old tokens stay valid for a while after a new one is fetched, or become invalid at
/// once.
#[test]
fn no_upload_fails_over_the_lifetimes_of_many_tokens() {
    std::thread::scope(|scope| {
        for (mode, call, overlap) in [
            ("stable", "stable_token", 1),
            ("stable", "stable_token", 2),
            ("secret", "token", 0),
            ("secret", "token", 3),
        ] {
            scope.spawn(move || {
                let world = Setup::new()
                    .set("wechat.credential", mode)
                    .sandbox(|options| {
                        options.token_life = Duration::from_secs(4);
                        options.token_overlap = Duration::from_secs(overlap);
                    })
                    .start();
                let until = Instant::now() + Duration::from_secs(10);
                let mut uploads = 0;
                while Instant::now() < until {
                    world.post(&small()).stored();
                    uploads += 1;
                }
                assert_eq!(world.objects().len(), uploads);
                let calls = world.count(call);
                println!("{mode}, overlap {overlap} s: {calls} token calls, {uploads} uploads");
                assert!((3..=8).contains(&calls), "{mode}, overlap {overlap} s: {calls} calls");
            });
        }
    });
}

#[test]
fn an_expired_token_costs_one_more_call() {
    let world = Setup::new().start();
    world.post(&small()).stored();
    assert_eq!(world.control("POST", "tokens/expire", "").status, 200);
    world.post(&small()).stored();
    assert_eq!(world.count("stable_token"), 2);
    assert_eq!(world.count("uploadfile"), 3);
}

/// The request that notices a refused token renews it; no background renewal of the old token may remain.
#[test]
fn refused_tokens_leave_no_renewals_behind() {
    let world = Setup::new()
        .set("wechat.credential", "secret")
        .sandbox(|options| options.token_life = Duration::from_secs(5))
        .start();
    world.post(&small()).stored();
    for _ in 0..5 {
        world.control("POST", "tokens/revoke", "");
        world.post(&small()).stored();
    }
    let before = world.count("token");
    assert_eq!(before, 6);
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        world.post(&small()).stored();
    }
    // One renewal about every 4.5 seconds.
    let renewals = world.count("token") - before;
    assert!((1..=3).contains(&renewals), "{renewals} renewals in 9 s of 5 s tokens");
}

/// Each new token is refused at once, as when another program fetches tokens for the same app: the gateway limits its
/// fetches, since each would invalidate the other program's token.
#[test]
fn refused_new_tokens_are_replaced_at_a_limited_rate() {
    let world = Setup::new().set("wechat.credential", "secret").start();
    world.faults(
        &json!([{"stage": "link", "fault": "errcode", "errcode": 40001, "errmsg": "not latest"}]),
    );
    for _ in 0..50 {
        let response = world.post(&small());
        assert!(matches!(response.status, 502 | 503), "{}", response.text());
    }
    let calls = world.count("token");
    assert!(calls <= 13, "{calls} token calls for 50 uploads");
    let problem = world.post(&small()).problem(503, "credential_unavailable");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("another program") && detail.contains("redis.url"), "{detail}");
    world.assert_nothing_stored();
}
