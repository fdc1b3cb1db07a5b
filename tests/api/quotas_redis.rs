//! Quotas in a Redis that hangs, restarts and loses connections: each file counts once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Response, Setup, World, noise, wait_until};
use crate::measured;
use crate::replicas::Redis;
use crate::resumable::{OCTETS, TUS};
use crate::tickets::{self, ticket};

fn setup(redis: &Redis, limits: &[(&str, &str)]) -> Setup {
    let setup = tickets::setup().set("auth.jwt.quota", "users").set("redis.url", redis.url());
    limits.iter().fold(setup, |setup, (limit, max)| setup.set(&format!("quota.users.{limit}"), max))
}

fn ann() -> String {
    format!("Bearer {}", ticket(json!({"sub": "ann"})))
}

fn put(world: &World, path: &str, length: usize) -> Response {
    let mut client = world.client();
    let headers = [("authorization", &*ann())];
    client.send_request("PUT", &format!("/v1/files/{path}"), &headers, &noise(length, 1));
    client.response()
}

/// The head of an upload of 10,000 bytes, and half of them.
fn half(world: &World) -> Client {
    let mut client = world.client();
    let headers = [("authorization", &*ann()), ("content-length", "10000")];
    client.send_head("PUT", "/v1/files/slow", &headers);
    client.send(&noise(5000, 1));
    client
}

fn second_half(mut client: Client) {
    client.send(&noise(5000, 1));
    client.response().stored();
}

/// A number of `ann`'s counter.
fn counted(world: &World, redis: &Redis, field: &str) -> i64 {
    let number = redis.command(&["HGET", &key(world), field]);
    if number.is_empty() { 0 } else { number.parse().expect("a number") }
}

fn key(world: &World) -> String {
    let env = &world.variables()["GATEWAY__WECHAT__ENV"];
    format!("tcb-upload-gateway:{{{env}:quota:users:user:ann}}")
}

/// Waits until Redis was told of all files, of so many bytes.
fn assert_counted(world: &World, redis: &Redis, bytes: i64, files: i64) {
    wait_until("Redis is told", || {
        // It is told before a reservation.
        put(world, "too-large", 1_000_000).problem(413, "total_quota_exceeded");
        counted(world, redis, "bytes") >= bytes
    });
    for _ in 0..3 {
        put(world, "too-large", 1_000_000).problem(413, "total_quota_exceeded");
    }
    assert_eq!((counted(world, redis, "bytes"), counted(world, redis, "files")), (bytes, files));
    assert_eq!(counted(world, redis, "reserved_bytes"), 0);
}

#[test]
fn an_upload_that_ends_while_redis_hangs_counts_once() {
    let redis = Redis::start();
    let world = setup(&redis, &[("bytes", "100000")]).start();
    put(&world, "a", 1000).stored();
    let client = half(&world);
    wait_until("it has reserved", || counted(&world, &redis, "reserved_bytes") == 10_000);
    redis.signal("STOP");
    second_half(client);
    redis.signal("CONT");
    wait_until("Redis has done what it was sent", || counted(&world, &redis, "bytes") == 11_000);
    put(&world, "b", 1000).stored();
    assert_counted(&world, &redis, 12_000, 3);
}

#[test]
fn an_upload_that_began_without_redis_counts_where_the_connection_broke_meanwhile() {
    let mut redis = Redis::start();
    let world = setup(&redis, &[("bytes", "100000")]).start();
    redis.kill();
    let client = half(&world);
    world.gateway.log_with("quotas are counted in this gateway's memory meanwhile");
    redis.restart();
    wait_until("Redis is used again", || {
        put(&world, "too-large", 1_000_000).problem(413, "total_quota_exceeded");
        world.gateway.log().contains("Redis is available: quotas are shared")
    });
    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    second_half(client);
    assert_counted(&world, &redis, 10_000, 1);
}

#[test]
fn a_creation_whose_client_is_gone_reserves_nothing() {
    let redis = Redis::start();
    let world = setup(&redis, &[("bytes", "100000")]).start();
    put(&world, "a", 1000).stored();
    let ended = || redis.command(&["ZCARD", &format!("{}:settled", key(&world))]);
    // When Redis gets the reservation cannot be seen: the client goes a little later each time.
    for attempt in 1..=50 {
        redis.signal("STOP");
        let mut client = world.client();
        let headers = [("authorization", &*ann()), TUS, ("upload-length", "90000")];
        client.send_head("POST", "/v1/uploads", &headers);
        std::thread::sleep(Duration::from_millis(3 * attempt));
        client.reset();
        // Otherwise it could find Redis's response first, and the upload would be created for its client to find.
        wait_until("the gateway has noticed", || {
            measured::value(&measured::metrics(&world), "gateway_connections") == 1.0
        });
        redis.signal("CONT");
        // The file, and the reservation.
        if ended() == "2" {
            break;
        }
    }
    wait_until("one was made, and has ended", || ended() != "1");
    wait_until("nothing is reserved", || counted(&world, &redis, "reserved_bytes") == 0);
    put(&world, "b", 90_000).stored();
    assert_counted(&world, &redis, 91_000, 2);
}

/// The creation has all bytes of its file, and its client goes while COS confirms it.
#[test]
fn a_file_whose_client_leaves_its_creation_counts() {
    for (stage, by_api) in [("cos", false), ("complete", true)] {
        let redis = Redis::start();
        let setup = setup(&redis, &[("bytes", "100000")]);
        let world = match by_api {
            true => setup.by_api().set("cos.api.abort_after", "0s").start(),
            false => setup.start(),
        };
        world.faults(&json!([{"stage": stage, "fault": "delay", "ms": 1000}]));
        let mut client = world.client();
        let length = ["upload-length", "content-length"].map(|name| (name, "60000"));
        let user = ann();
        let headers = [&[("authorization", user.as_str()), TUS, OCTETS], &length[..]].concat();
        client.send_head("POST", "/v1/uploads", &headers);
        client.send(&noise(60_000, 1));
        let is_file = |object: &Value| object["size"] == 60_000;
        wait_until("COS has the file", || world.objects().iter().any(is_file));
        client.reset();
        wait_until("it is counted", || counted(&world, &redis, "bytes") > 0);
        assert_counted(&world, &redis, 60_000, 1);
    }
}

#[test]
fn a_count_that_the_back_end_made_negative_is_none() {
    let redis = Redis::start();
    let world = setup(&redis, &[("bytes", "1000"), ("bytes_per_day", "1000")]).start();
    redis.command(&["HINCRBY", &key(&world), "bytes", "-50000"]);
    let stored = put(&world, "a", 500);
    stored.stored();
    let left = stored.header("ratelimit").expect("what is left");
    assert!(left.contains("\"bytes_per_day\";r=500"), "{left}");
    assert!(left.contains("\"bytes\";r=1000"), "{left}");
    put(&world, "b", 600).problem(429, "daily_quota_exceeded");
    put(&world, "c", 1001).problem(413, "total_quota_exceeded");
}
