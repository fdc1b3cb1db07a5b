//! Rate and concurrency limits: for one client, for one IP address, and in total.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{Client, Form, Response, Setup, World, authorization};
use crate::tickets::{self, small, ticket};

fn retry_after(response: &Response) -> u64 {
    response.header("retry-after").and_then(|seconds| seconds.parse().ok()).expect("Retry-After")
}

fn get(world: &World, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut client = world.client();
    client.send_request("GET", target, headers, b"");
    client.response()
}

/// An upload of 100 bytes, of which half is sent.
fn half(world: &World, headers: &[(&str, &str)]) -> Client {
    let mut client = world.client();
    client.send_head("PUT", "/v1/files/half", &[headers, &[("content-length", "100")]].concat());
    client.send(&[b'x'; 50]);
    client
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn a_client_over_its_rate_gets_retry_after() {
    let world = tickets::setup()
        .set("auth.rate", "3/m")
        .set("auth.keys.busy.sha256", hex::encode(Sha256::digest("busy's")))
        .set("auth.keys.busy.rate", "6/m")
        .start();
    let busy = bearer("busy's");
    for _ in 0..3 {
        world.post(&small()).stored();
    }
    for _ in 0..3 {
        let response = world.post(&small());
        response.problem(429, "rate_limited");
        assert!((1..=20).contains(&retry_after(&response)), "{response:?}");
    }
    // Before the body is read, and on every endpoint.
    let mut client = world.client();
    client.send_head("PUT", "/v1/files/x", &[authorization(), ("content-length", "100000000")]);
    client.response().problem(429, "rate_limited");
    let list = json!({"files": ["x"]}).to_string();
    let mut client = world.client();
    client.send_request("POST", "/v1/delete", &[authorization()], list.as_bytes());
    client.response().problem(429, "rate_limited");
    let mut client = world.client();
    let target = "/tcb/batchdeletefile?access_token=panel-key-for-tests";
    client.send_request("POST", target, &[], list.as_bytes());
    assert_eq!(client.response().json()["errcode"], 45011);
    assert_eq!(world.objects().len(), 3);

    // Other clients are not limited.
    for _ in 0..6 {
        tickets::send(&world, "POST", "/v1/files", &[("authorization", &busy)], &small()).stored();
    }
    tickets::send(&world, "POST", "/v1/files", &[("authorization", &busy)], &small())
        .problem(429, "rate_limited");
    // All tickets of a user share one limit; another user has another, also a user with the name of a key.
    for user in ["u", "v", "panel"] {
        for round in 0..4 {
            let token = ticket(json!({"sub": user, "round": round}));
            let response = tickets::post(&world, &token, &small());
            assert_eq!(response.status, if round < 3 { 201 } else { 429 }, "{user} {round}");
        }
    }
}

#[test]
fn a_rate_recovers_over_time() {
    let world = Setup::new().set("auth.rate", "2/s").start();
    let began = Instant::now();
    let mut refused = 0;
    while refused == 0 {
        refused += u32::from(world.post(&small()).status == 429);
    }
    crate::harness::wait_until("it is let in again", || world.post(&small()).status == 201);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn an_ip_address_that_tries_keys_is_limited() {
    let world = Setup::new().set("auth.address_rate", "5/m").start();
    let wrong = |index: usize| {
        let wrong = bearer(&format!("wrong-{index}"));
        tickets::send(&world, "POST", "/v1/files", &[("authorization", &wrong)], &small())
    };
    for index in 0..5 {
        wrong(index).problem(401, "unauthenticated");
    }
    let response = wrong(5);
    response.problem(429, "rate_limited");
    assert!(retry_after(&response) >= 1);
    // Without trusted proxies, `X-Forwarded-For` is ignored.
    let forged = [authorization(), ("x-forwarded-for", "9.9.9.9")];
    tickets::send(&world, "POST", "/v1/files", &forged, &small()).problem(429, "rate_limited");
    get(&world, "/v1/files/x", &[]).problem(429, "rate_limited");
    // Operators' endpoints are not counted.
    assert_eq!(get(&world, "/healthz", &[]).status, 200);
    assert_eq!(get(&world, "/readyz", &[]).status, 200);
    assert_eq!(get(&world, "/metrics", &[]).status, 200);
    world.assert_nothing_stored();
}

#[test]
fn behind_a_trusted_proxy_each_client_has_its_own_ip_address() {
    let world = Setup::new()
        .set("auth.address_rate", "2/m")
        .set("server.trusted_proxies", "127.0.0.0/8,10.0.0.0/8")
        .start();
    let from = |forwarded: &str| {
        let headers = [authorization(), ("x-forwarded-for", forwarded)];
        tickets::send(&world, "POST", "/v1/files", &headers, &small()).status
    };
    for client in ["9.9.9.9", "8.8.8.8, 10.0.0.3", "2001:db8::1", "2001:db8:0:1::1"] {
        assert_eq!([from(client), from(client), from(client)], [201, 201, 429], "{client}");
    }
    // Entries left of the last untrusted address are forged by the client.
    assert_eq!(from("1.1.1.1, 9.9.9.9"), 429);
    // An IPv6 client has a whole /64 network.
    assert_eq!(from("2001:db8::2"), 429);
}

#[test]
fn anonymous_clients_are_told_apart_by_ip_address() {
    let world = Setup::new()
        .set("auth.anonymous", true)
        .set("auth.rate", "1/m")
        .set("server.trusted_proxies", "127.0.0.1")
        .start();
    let from = |forwarded: &str| {
        let headers = [("x-forwarded-for", forwarded)];
        tickets::send(&world, "POST", "/v1/files", &headers, &small()).status
    };
    assert_eq!([from("9.9.9.9"), from("9.9.9.9"), from("9.9.9.8")], [201, 429, 201]);
}

#[test]
fn urls_use_forwarded_headers_of_trusted_proxies_only() {
    let forwarded = [
        authorization(),
        ("x-forwarded-host", "files.example.com"),
        ("x-forwarded-proto", "https"),
    ];
    let url = |world: &World| {
        let file = tickets::send(world, "POST", "/v1/files", &forwarded, &small()).stored();
        file["url"].as_str().expect("a url").to_owned()
    };
    let world = Setup::new().start();
    assert!(url(&world).starts_with("http://gateway.test/v1/"), "{}", url(&world));
    let world = Setup::new().set("server.trusted_proxies", "127.0.0.1").start();
    assert!(url(&world).starts_with("https://files.example.com/v1/"), "{}", url(&world));
    // A page of that host is of the gateway's own origin.
    let own = [forwarded[0], forwarded[1], ("origin", "https://files.example.com")];
    tickets::send(&world, "POST", "/v1/files", &own, &small()).stored();
    let inner = [forwarded[0], forwarded[1], ("origin", "http://gateway.test")];
    tickets::send(&world, "POST", "/v1/files", &inner, &small()).problem(403, "origin_not_allowed");
    let world = Setup::new()
        .set("server.trusted_proxies", "127.0.0.1")
        .set("server.public_url", "https://public.example.com")
        .start();
    assert!(url(&world).starts_with("https://public.example.com/v1/"), "{}", url(&world));
}

#[test]
fn one_client_cannot_take_every_upload_slot() {
    let world = Setup::new()
        .set("upload.max_concurrent", 3)
        .set("upload.max_concurrent_per_client", 2)
        .set("auth.keys.other.sha256", hex::encode(Sha256::digest("other's")))
        .start();
    let other = bearer("other's");
    let other = [("authorization", other.as_str())];
    let in_flight = |count: u64| {
        crate::harness::wait_until("the uploads run", || {
            let text = get(&world, "/metrics", &[]).text();
            text.contains(&format!("gateway_uploads_in_flight {count}\n"))
        });
    };
    let mut first = half(&world, &[authorization()]);
    let second = half(&world, &[authorization()]);
    in_flight(2);
    let response = world.post(&small());
    response.problem(429, "rate_limited");
    assert!(retry_after(&response) >= 1);
    let third = half(&world, &other);
    in_flight(3);
    let response = tickets::send(&world, "POST", "/v1/files", &other, &small());
    response.problem(503, "overloaded");
    assert!(retry_after(&response) >= 1);
    // Every upload frees its slot, however it ends.
    first.send(&[b'x'; 50]);
    first.response().stored();
    second.reset();
    drop(third);
    in_flight(0);
    for _ in 0..4 {
        world.post(&small()).stored();
        tickets::send(&world, "POST", "/v1/files", &other, &small()).stored();
    }
}

#[test]
fn slow_heads_and_floods_of_headers_delay_no_upload() {
    let world = Setup::new().start();
    let began = Instant::now();
    let mut slow: Vec<Client> = (0..50).map(|_| world.client()).collect();
    for client in &mut slow {
        client.send(b"POST /v1/files HTTP/1.1\r\nhost: gateway.test\r\nx-slow: ");
    }
    world.post(&small()).stored();
    for mut client in slow {
        // Either a response or a closed connection.
        if let Ok(response) = client.try_response() {
            assert_eq!(response.status, 408, "{}", response.text());
        }
    }
    let took = began.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(20)).contains(&took), "{took:?}");

    let many: String = (0..1000).map(|index| format!("x-h{index}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(1 << 20));
    let idle = world.gateway.memory("VmRSS");
    let mut clients: Vec<Client> = (0..100).map(|_| world.client()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        let flood = if index % 2 == 0 { &many } else { &long };
        let head = format!("POST /v1/files HTTP/1.1\r\nhost: gateway.test\r\n{flood}\r\n");
        // The gateway does not read all of it.
        let mut sender = client.sender();
        std::thread::spawn(move || drop(sender.write_all(head.as_bytes())));
    }
    for client in &mut clients {
        if let Ok(response) = client.try_response() {
            assert!(matches!(response.status, 408 | 413), "{}", response.status);
        }
    }
    let grown = world.gateway.memory("VmHWM").saturating_sub(idle);
    println!("100 floods of headers: {grown} KiB more");
    assert!(grown < 32 << 10, "{grown} KiB");
    world.post(&Form::new().file("f", "x", "text/plain", b"x")).stored();
    assert_eq!(world.objects().len(), 2);
}
