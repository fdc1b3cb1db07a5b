//! Quotas: what is refused, what is counted and what is given back, in memory and in a real Redis.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::harness::{Client, Form, Gateway, KEY, Response, Setup, World, noise, wait_until};
use crate::replicas::Redis;
use crate::resumable::{self, OCTETS, TUS};
use crate::tickets::{self, ticket};

const MIB: usize = 1 << 20;

/// The tickets' quota, by user.
fn setup(limits: &[(&str, &str)]) -> Setup {
    let setup = tickets::setup().set("auth.jwt.quota", "users");
    limits.iter().fold(setup, |setup, (limit, max)| setup.set(&format!("quota.users.{limit}"), max))
}

fn bearer(user: &str) -> String {
    format!("Bearer {}", ticket(json!({"sub": user})))
}

fn put_to(gateway: &Gateway, user: &str, path: &str, content: &[u8]) -> Response {
    let mut client = Client::connect(gateway.address);
    let target = format!("/v1/files/{path}");
    client.send_request("PUT", &target, &[("authorization", &bearer(user))], content);
    client.response()
}

fn put(world: &World, user: &str, path: &str, length: usize) -> Response {
    put_to(&world.gateway, user, path, &noise(length, 1))
}

/// The bytes or files that are left of a limit, as the response says.
fn left(response: &Response, limit: &str) -> u64 {
    let value = response.header("ratelimit").unwrap_or_else(|| panic!("{response:?}"));
    let item = value.split(", ").find_map(|item| item.strip_prefix(&format!("\"{limit}\";r=")));
    let number = item.unwrap_or_else(|| panic!("no {limit}: {value}"));
    number.split(';').next().expect("a number").parse().expect("a number")
}

fn stored_bytes(world: &World) -> u64 {
    world.objects().iter().map(|object| object["size"].as_u64().expect("a size")).sum()
}

#[test]
fn a_days_quota_is_refused_before_the_body_and_the_headers_tell_what_is_left() {
    let world = setup(&[("bytes_per_day", "1000"), ("files_per_day", "3")])
        .set("cors.origins", "https://panel.example")
        .start();
    let first = put(&world, "ann", "a", 600);
    first.stored();
    assert_eq!((left(&first, "bytes_per_day"), left(&first, "files_per_day")), (400, 2));
    assert_eq!(
        first.header("ratelimit-policy"),
        Some(
            "\"bytes_per_day\";q=1000;qu=\"content-bytes\";w=86400, \"files_per_day\";q=3;w=86400"
        )
    );
    // The body is never sent.
    let mut client = world.client();
    let user = bearer("ann");
    let headers = [
        ("authorization", user.as_str()),
        ("content-length", "401"),
        ("origin", "https://panel.example"),
    ];
    client.send_head("PUT", "/v1/files/b", &headers);
    let refused = client.response();
    let problem = refused.problem(429, "daily_quota_exceeded");
    assert!(problem["detail"].as_str().expect("text").contains("1000 bytes a day"), "{problem}");
    let retry_after: u64 = refused.header("retry-after").expect("it").parse().expect("seconds");
    assert!((1..=86_400).contains(&retry_after), "{retry_after}");
    let resets = format!(";t={retry_after}");
    assert!(refused.header("ratelimit").expect("it").contains(&resets), "{refused:?}");
    let exposed = refused.header("access-control-expose-headers").expect("it");
    assert!(exposed.contains("ratelimit") && exposed.contains("ratelimit-policy"), "{exposed}");
    // Another user has a quota of its own; what fits exactly is stored.
    put(&world, "ben", "c", 1000).stored();
    assert_eq!(left(&put(&world, "ann", "d", 400), "bytes_per_day"), 0);
    let empty = put(&world, "ann", "e", 0);
    assert_eq!(left(&empty, "files_per_day"), 0);
    put(&world, "ann", "f", 0).problem(429, "daily_quota_exceeded");
    // More than any day allows is no reason to wait.
    put(&world, "eve", "g", 1001).problem(413, "file_too_large");
    assert_eq!(world.objects().len(), 4);
}

#[test]
fn a_total_is_final_and_tickets_without_a_user_share_it() {
    let world = setup(&[("bytes", "1000"), ("files", "4")]).start();
    for path in ["a", "b"] {
        put(&world, "ann", path, 400).stored();
    }
    let refused = put(&world, "ann", "c", 201);
    refused.problem(413, "total_quota_exceeded");
    assert_eq!((refused.header("retry-after"), left(&refused, "bytes")), (None, 200));
    assert!(!refused.header("ratelimit").expect("it").contains(";t="));
    // A deletion gives nothing back.
    let mut client = world.client();
    client.send_request("DELETE", "/v1/files/a", &[("authorization", &bearer("ann"))], b"");
    assert_eq!(client.response().status, 204);
    put(&world, "ann", "c", 201).problem(413, "total_quota_exceeded");
    for (n, status) in [(1, 201), (2, 201), (3, 413)] {
        let nameless = ticket(json!({"jti": n.to_string(), "prefix": format!("{n}/")}));
        let mut client = world.client();
        let bearer = format!("Bearer {nameless}");
        let target = format!("/v1/files/{n}/x");
        client.send_request("PUT", &target, &[("authorization", &bearer)], &noise(450, n));
        assert_eq!(client.response().status, status, "{n}");
    }
}

#[test]
fn keys_and_all_tickets_together_by_client() {
    let world = setup(&[("files_per_day", "2"), ("per", "client")])
        .set("auth.keys.panel.quota", "users")
        .start();
    put(&world, "ann", "a", 5).stored();
    put(&world, "ben", "b", 5).stored();
    put(&world, "eve", "c", 5).problem(429, "daily_quota_exceeded");
    let form = Form::new().file("file", "x.txt", "text/plain", b"x");
    world.post(&form).stored();
    world.post(&form).stored();
    world.post(&form).problem(429, "daily_quota_exceeded");
    let link = world.call("POST", "/v1/upload-links", &json!({"path": "d"}));
    link.problem(403, "not_allowed");
    assert!(link.text().contains("quota"), "{}", link.text());
    let link = world.call("POST", "/tcb/uploadfile", &json!({"path": "d"}));
    assert_ne!(link.json()["errcode"], 0, "{}", link.text());
}

fn post(world: &World, user: &str, target: &str, form: &Form) -> Response {
    let user = bearer(user);
    tickets::send(world, "POST", target, &[("authorization", &user)], form)
}

#[test]
fn forms_of_one_and_several_files_and_of_editors() {
    let world = setup(&[("bytes_per_day", "3MiB"), ("files_per_day", "5")]).start();
    let file = |form: Form, name, length| {
        form.file("files[]", name, "application/octet-stream", &noise(length, 1))
    };
    // Two of three fit: what was stored is shown and counted.
    let three = ["a", "b", "c"].into_iter().fold(Form::new(), |form, name| file(form, name, MIB));
    let two = file(three, "d", MIB / 2);
    let response = post(&world, "ann", "/v1/files", &two);
    assert_eq!(response.status, 429, "{}", response.text());
    assert_eq!(stored_bytes(&world), 3 * MIB as u64);
    assert_eq!((left(&response, "bytes_per_day"), left(&response, "files_per_day")), (0, 2));
    let one = Form::new().file("file", "x.txt", "text/plain", b"x");
    post(&world, "ann", "/v1/files", &one).problem(429, "daily_quota_exceeded");
    let editor = post(&world, "ann", "/v1/files?reply=wangeditor", &one);
    assert_eq!((editor.status, left(&editor, "bytes_per_day")), (200, 0));
    assert_eq!(editor.json()["problem"]["code"], "daily_quota_exceeded", "{}", editor.text());
    // A form that is much too large is refused at once.
    let large = file(Form::new(), "large", 5 * MIB);
    let mut client = world.client();
    let (user, kind, length) =
        (bearer("ben"), large.content_type(), large.bytes().len().to_string());
    let headers =
        [("authorization", user.as_str()), ("content-type", &kind), ("content-length", &length)];
    client.send_head("POST", "/v1/files", &headers);
    client.response().problem(413, "file_too_large");
    // One that exceeds the rest a little, when its length is known.
    post(&world, "ben", "/v1/files", &file(Form::new(), "e", 2 * MIB)).stored();
    let refused = post(&world, "ben", "/v1/files", &file(Form::new(), "f", MIB + 1));
    refused.problem(429, "daily_quota_exceeded");
    assert_eq!(left(&refused, "bytes_per_day"), MIB as u64);
    let last = Form::new().file("file", "g", "application/octet-stream", &noise(MIB, 1));
    let exact = post(&world, "ben", "/v1/files?reply=tinymce", &last);
    assert_eq!((exact.status, left(&exact, "bytes_per_day")), (200, 0), "{}", exact.text());
    assert_eq!(stored_bytes(&world), 6 * MIB as u64);
}

#[test]
fn a_body_of_unknown_length_is_limited_to_what_is_left() {
    let world = setup(&[("bytes_per_day", "1000")]).start();
    put(&world, "ann", "a", 300).stored();
    for (path, length, code) in [("b", 701, 429), ("c", 700, 201), ("d", 1, 429)] {
        let mut client = world.client();
        let user = bearer("ann");
        let headers = [("authorization", user.as_str()), ("transfer-encoding", "chunked")];
        client.send_head("PUT", &format!("/v1/files/{path}"), &headers);
        if path != "d" {
            client.send_chunk(&noise(length, 1));
            client.send(b"0\r\n\r\n");
        }
        let response = client.response();
        assert_eq!(response.status, code, "{path}: {}", response.text());
    }
    assert_eq!(stored_bytes(&world), 1000);
}

#[test]
fn what_is_not_stored_is_given_back() {
    let world = setup(&[("bytes_per_day", "1000")]).set("auth.jwt.types", "text/*").start();
    // COS or WeChat refuses, the type is wrong by its content, the client goes away.
    for fault in [
        json!({"stage": "cos", "fault": "status", "status": 403}),
        json!({"stage": "link", "fault": "errcode", "errcode": 85088, "errmsg": "no"}),
        json!({"stage": "cos", "fault": "status", "status": 400}),
    ] {
        world.faults(&json!([fault]));
        let response = put(&world, "ann", "a.txt", 1000);
        assert!(response.status >= 500, "{}", response.text());
        assert_eq!(left(&response, "bytes_per_day"), 1000);
        world.faults(&json!([]));
    }
    put(&world, "ann", "a.exe", 1000).problem(415, "type_not_allowed");
    let mut client = world.client();
    let user = bearer("ann");
    let headers = [("authorization", user.as_str()), ("content-length", "1000")];
    client.send_head("PUT", "/v1/files/b.txt", &headers);
    client.send(&noise(999, 1));
    client.reset();
    wait_until("everything is given back", || put(&world, "ann", "c.txt", 900).status == 201);
    put(&world, "ann", "d.txt", 101).problem(429, "daily_quota_exceeded");
}

/// Fifty uploads at once, of which ten fit.
fn fifty_at_once(gateways: &[&Gateway]) -> usize {
    let stored = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..50 {
            let (stored, gateway) = (&stored, gateways[n % gateways.len()]);
            scope.spawn(move || {
                let response = put_to(gateway, "ann", &format!("f{n}"), &noise(10_000, 1));
                match response.status {
                    201 => drop(stored.fetch_add(1, Ordering::Relaxed)),
                    _ => assert_eq!(response.status, 429, "{}", response.text()),
                }
            });
        }
    });
    stored.into_inner()
}

#[test]
fn fifty_uploads_at_once_never_exceed_a_quota() {
    let world = setup(&[("bytes_per_day", "100000")]).start();
    assert_eq!(fifty_at_once(&[&world.gateway]), 10);
    assert_eq!(stored_bytes(&world), 100_000);
}

fn redis(redis: &Redis) -> redis::Connection {
    redis::Client::open(redis.url()).expect("a URL").get_connection().expect("a connection")
}

/// The counter of `ann`.
fn key(world: &World) -> String {
    let env = &world.variables()["GATEWAY__WECHAT__ENV"];
    format!("tcb-upload-gateway:{{{env}:quota:users:user:ann}}")
}

#[test]
fn two_gateways_share_a_quota_in_redis_and_a_killed_one_loses_nothing_of_it() {
    let server = Redis::start();
    let world = setup(&[("bytes_per_day", "100000")]).set("redis.url", server.url()).start();
    let mut second = world.another();
    assert_eq!(fifty_at_once(&[&world.gateway, &second]), 10);
    assert_eq!(stored_bytes(&world), 100_000);
    let refused = put_to(&second, "ann", "more", b"x");
    refused.problem(429, "daily_quota_exceeded");
    // The day ends: the count is that of an earlier day.
    let (mut redis, key) = (redis(&server), key(&world));
    let hincr = |redis: &mut redis::Connection, field: &str, by: i64| -> i64 {
        redis::cmd("HINCRBY").arg(&key).arg(field).arg(by).query(redis).expect("it")
    };
    hincr(&mut redis, "day", -1);
    let first = put_to(&second, "ann", "next-day", &noise(10_000, 1));
    assert_eq!((first.status, left(&first, "bytes_per_day")), (201, 90_000));
    // A gateway is killed in an upload: its reservation stays until it expires.
    let mut client = Client::connect(second.address);
    let user = bearer("ann");
    let headers = [("authorization", user.as_str()), ("content-length", "90000")];
    client.send_head("PUT", "/v1/files/half", &headers);
    client.send(&noise(45_000, 1));
    let mut observer = self::redis(&server);
    let observer = std::cell::RefCell::new(&mut observer);
    wait_until("it has reserved", || {
        let mut command = redis::cmd("HGET");
        command.arg(&key).arg("reserved_bytes");
        command.query::<u64>(*observer.borrow_mut()).expect("a number") == 90_000
    });
    put(&world, "ann", "other", 1).problem(429, "rate_limited");
    second.signal("KILL");
    second.ended();
    put(&world, "ann", "other", 1).problem(429, "rate_limited");
    let expiries = format!("{key}:expiries");
    let found: Vec<(String, f64)> = redis::cmd("ZRANGE")
        .arg(&expiries)
        .arg(&[0, -1])
        .arg("WITHSCORES")
        .query(&mut redis)
        .expect("one");
    let [(id, expires)] = &found[..] else { panic!("{found:?}") };
    let left_of_it = expires - tickets::now() as f64;
    assert!(left_of_it > 0.0 && left_of_it <= 301.0, "{left_of_it}");
    let expired = tickets::now() - 1;
    redis::cmd("ZADD").arg(&expiries).arg(expired).arg(id).exec(&mut redis).expect("it");
    let after = put(&world, "ann", "after", 90_000);
    assert_eq!((after.status, left(&after, "bytes_per_day")), (201, 0), "{}", after.text());
}

#[test]
fn without_redis_a_gateway_counts_alone_and_tells_redis_later() {
    let mut server = Redis::start();
    let world = setup(&[("bytes", "1000")]).set("redis.url", server.url()).start();
    put(&world, "ann", "a", 600).stored();
    server.kill();
    // Redis has forgotten the first file, since the test's Redis saves nothing; the second one is told later.
    put(&world, "ann", "b", 700).stored();
    put(&world, "ann", "c", 301).problem(413, "total_quota_exceeded");
    world.gateway.log_with("quotas are counted in this gateway's memory meanwhile");
    server.restart();
    wait_until("Redis is used again", || {
        put(&world, "ann", "d", 2000).problem(413, "total_quota_exceeded");
        world.gateway.log().contains("Redis is available: quotas are shared")
    });
    let total: u64 =
        redis::cmd("HGET").arg(key(&world)).arg("bytes").query(&mut redis(&server)).expect("it");
    assert_eq!(total, 700);
    put(&world, "ann", "e", 301).problem(413, "total_quota_exceeded");
    put(&world, "ann", "e", 300).stored();
}

fn tus(
    world: &World,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let user = bearer("ann");
    let headers = [headers, &[("authorization", &user), TUS]].concat();
    resumable::send(world.client(), method, target, &headers, body)
}

#[test]
fn a_resumable_upload_reserves_its_length_and_counts_once() {
    for by_api in [true, false] {
        let server = Redis::start();
        let setup = setup(&[("bytes_per_day", "1000"), ("files_per_day", "3")])
            .set("redis.url", server.url())
            .set("cos.via", if by_api { "api" } else { "form" });
        let world = if by_api { setup.set("cos.api.abort_after", "0s") } else { setup }.start();
        let create =
            |length: &str| tus(&world, "POST", "/v1/uploads", &[("upload-length", length)], b"");
        create("1001").problem(413, "file_too_large");
        let created = create("600");
        assert_eq!((created.status, left(&created, "bytes_per_day")), (201, 400));
        create("401").problem(429, "rate_limited");
        let url = resumable::path_of(&created);
        // A deleted upload gives everything back.
        assert_eq!(tus(&world, "DELETE", &url, &[], b"").status, 204);
        let created = create("1000");
        assert_eq!((created.status, left(&created, "files_per_day")), (201, 2));
        let url = resumable::path_of(&created);
        let content = noise(1000, 1);
        for (at, end) in [("0", 300), ("300", 1000)] {
            let start: usize = at.parse().expect("a number");
            let headers = [("upload-offset", at), OCTETS];
            let response = tus(&world, "PATCH", &url, &headers, &content[start..end]);
            assert_eq!(response.status, 204, "{}", response.text());
        }
        // The same bytes again, and a look at it, count nothing.
        let headers = [("upload-offset", "300"), OCTETS];
        tus(&world, "PATCH", &url, &headers, &content[300..]);
        tus(&world, "HEAD", &url, &[], b"");
        let refused = create("1");
        refused.problem(429, "daily_quota_exceeded");
        assert_eq!((left(&refused, "bytes_per_day"), left(&refused, "files_per_day")), (0, 2));
        let reserved: u64 = redis::cmd("HGET")
            .arg(key(&world))
            .arg("reserved_bytes")
            .query(&mut redis(&server))
            .expect("it");
        assert_eq!(reserved, 0);
        assert!(!world.gateway.log().contains(KEY));
    }
}
