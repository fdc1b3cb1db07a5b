//! Overload: more connections and uploads than the limits allow; what is refused, what keeps running, what is logged.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Client, Form, Setup, World, authorization, noise, wait_until};
use crate::threads::SetAtEnd;

/// With this limit of file descriptors the gateway allows 80 connections and 40 uploads.
const FEW: u32 = 256;
const FLOOD: usize = 2000;
const SAID: &str = "those without a running request are closed";

fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"content")
}

/// Runs `flood` while `/healthz` is requested repeatedly, each time on a new connection; gives the slowest response's
/// time. If the flood opens enough connections before the request is sent, the connection may be closed as the longest
/// idle one; the request is then repeated once, as probes do.
fn healthy_during(world: &World, flood: impl FnOnce()) -> Duration {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let (mut answers, mut again, mut slowest) = (0, 0, Duration::ZERO);
            while !over.load(Ordering::Relaxed) || answers < 100 {
                let began = Instant::now();
                while !is_healthy(world) {
                    again += 1;
                    assert!(began.elapsed() < Duration::from_secs(2), "no answer for 2 s");
                }
                slowest = slowest.max(began.elapsed());
                answers += 1;
            }
            println!("/healthz answered {answers} times, after {slowest:?} at most; asked again {again} times");
            assert!(again <= answers / 10, "{again} of {answers} had to ask again");
            slowest
        });
        let end = SetAtEnd(&over);
        flood();
        drop(end);
        asker.join().expect("every probe is answered")
    })
}

fn is_healthy(world: &World) -> bool {
    let mut client = world.client();
    client.send_head("GET", "/healthz", &[]);
    client.try_response().is_ok_and(|response| response.status == 200)
}

fn metric(world: &World, name: &str) -> u64 {
    let text = world.call_with("GET", "/metrics", &[], "").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

fn said(world: &World) -> usize {
    world.gateway.log().matches(SAID).count()
}

/// Where uploads are few, they need no half of the descriptors.
#[test]
fn few_uploads_leave_descriptors_to_connections() {
    let world = Setup::new().descriptors(FEW).set("upload.max_concurrent", "8").start();
    let connect = |_| TcpStream::connect(world.gateway.address).expect("it accepts");
    let idle: Vec<_> = (0..100).map(connect).collect();
    wait_until("all are accepted", || metric(&world, "gateway_connections") >= 100);
    assert_eq!(metric(&world, "gateway_connections_shed_total"), 0);
    world.post(&small()).stored();
    drop(idle);
}

#[test]
fn at_the_limit_the_longest_idle_connections_are_closed() {
    let world = Setup::new().descriptors(FEW).start();
    world.post(&small()).stored();
    let before = world.gateway.descriptors();
    let mut silent = Vec::new();
    let slowest = healthy_during(&world, || {
        for n in 0..FLOOD {
            silent.push(TcpStream::connect(world.gateway.address).expect("it accepts"));
            if n % 100 == 0 {
                world.post(&small()).stored();
            }
        }
    });
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(metric(&world, "gateway_connections_shed_total") > 1000);
    assert_eq!(said(&world), 1, "{}", world.gateway.log());
    assert!(!world.gateway.log().contains("Too many open files"), "{}", world.gateway.log());

    drop(silent);
    wait_until("they are gone", || metric(&world, "gateway_connections") <= 2);
    let began = Instant::now();
    wait_until("it says that it is over", || {
        world.post(&small()).stored();
        world.gateway.log().contains("every connection has a slot again")
    });
    let (after, took) = (world.gateway.descriptors(), began.elapsed());
    println!("descriptors: {before} before, {after} after; over after {took:?}");
    assert!(after <= before + 8, "{before} before, {after} after");
}

#[test]
fn at_the_limit_running_uploads_continue_and_others_get_503() {
    let world = Setup::new().descriptors(FEW).start();
    world.post(&small()).stored();
    let content = noise(1 << 20, 1);
    let begin = |n: usize| {
        let mut client = world.client();
        let length = content.len().to_string();
        let path = format!("/v1/files/{n}.bin");
        client.send_head("PUT", &path, &[authorization(), ("content-length", &length)]);
        let _ = client.try_send(&content[..content.len() / 2]);
        client
    };
    let mut clients: Vec<_> = Vec::new();
    healthy_during(&world, || clients.extend((0..200).map(begin)));
    // A worker may still be reading the last heads.
    wait_until("the uploads run", || metric(&world, "gateway_uploads_in_flight") >= 30);
    let running = metric(&world, "gateway_uploads_in_flight");
    let refused = metric(&world, "gateway_connections_shed_total");
    println!("{running} of 200 uploads run, {refused} were refused");
    assert!(running <= 40, "{running} run");
    assert_eq!(said(&world), 1, "{}", world.gateway.log());

    // Each refusal has a code and `Retry-After`. The first connections may be closed to admit the last.
    let mut newcomer = world.client();
    newcomer.send_request("PUT", "/v1/files/y", &[authorization()], b"y");
    let response = newcomer.response();
    response.problem(503, "overloaded");
    assert!(response.header("retry-after").is_some());
    assert_eq!(response.header("connection"), Some("close"));

    let (mut stored, mut told) = (0, 0);
    for mut client in clients {
        let _ = client.try_send(&content[content.len() / 2..]);
        match client.try_response() {
            Ok(response) if response.status == 201 => stored += 1,
            Ok(response) => {
                response.problem(503, "overloaded");
                told += 1;
            }
            Err(_) => {}
        }
    }
    println!("{stored} stored, {told} told that there is no room");
    assert!((running..=40).contains(&stored), "{running} ran");
    assert_eq!(world.objects().len() as u64, stored + 1);
    assert!(!world.gateway.log().contains("Too many open files"), "{}", world.gateway.log());
    world.post(&small()).stored();
}

#[test]
fn two_thousand_connections_are_accepted() {
    let world = Setup::new().start();
    let connected = |_| {
        let mut client = world.client();
        client.send_request("GET", "/healthz", &[], b"");
        client
    };
    let mut clients: Vec<_> = (0..FLOOD).map(connected).collect();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    let (kind, body) = (small().content_type(), small().bytes());
    for client in clients.iter_mut().step_by(10) {
        let headers = [authorization(), ("content-type", kind.as_str())];
        client.send_request("POST", "/v1/files", &headers, &body);
    }
    for client in clients.iter_mut().step_by(10) {
        client.response().stored();
    }
    assert_eq!(metric(&world, "gateway_connections_shed_total"), 0);
    println!("2,000 connections: {} KiB at the most", world.gateway.memory("VmHWM"));
}

#[test]
fn a_flood_of_junk_has_no_effect() {
    let world = Setup::new().descriptors(FEW).start();
    world.post(&small()).stored();
    let idle = world.gateway.memory("VmRSS");
    let lines = world.gateway.log().lines().count();
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    let noise = noise(64 << 10, 7);
    let junk: [&[u8]; 8] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"\r\n\r\n\r\n\r\n\0\0\0\0",
        long.as_bytes(),
        &noise,
    ];
    let slowest = healthy_during(&world, || {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (junk, address) = (&junk, world.gateway.address);
                scope.spawn(move || {
                    for n in 0..FLOOD / 4 {
                        let mut client = Client::connect(address);
                        let _ = client.try_send(junk[(thread + n) % junk.len()]);
                        if n % 2 == 0 {
                            client.reset();
                        }
                    }
                });
            }
        });
    });
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    world.post(&small()).stored();
    let peak = world.gateway.memory("VmHWM");
    println!("{FLOOD} connections of junk: idle {idle} KiB, peak {peak} KiB");
    assert!(peak < idle + (32 << 10), "idle {idle} KiB, peak {peak} KiB");
    // One log line for each request that could be parsed, and no other.
    let log = world.gateway.log();
    let others: Vec<_> =
        log.lines().skip(lines).filter(|line| !line.contains("\"path\"")).collect();
    assert!(others.len() <= 4, "{others:#?}");
    assert_eq!(world.objects().len(), 2);
}

#[test]
fn endless_heads_and_bodies_are_closed_by_their_timeouts() {
    const MANY: usize = 500;
    let world = Setup::new().set("upload.idle_timeout", "1s").start();
    world.post(&small()).stored();
    let idle = world.gateway.memory("VmRSS");
    let began = Instant::now();
    let mut heads: Vec<_> = (0..MANY).map(|_| world.client()).collect();
    for client in &mut heads {
        client.send(b"POST /v1/files HTTP/1.1\r\nhost: x\r\nx-slow:");
    }
    let mut bodies: Vec<_> = (0..MANY).map(|_| world.client()).collect();
    for (n, client) in bodies.iter_mut().enumerate() {
        let headers = [authorization(), ("content-length", "1000000")];
        client.send_head("PUT", &format!("/v1/files/{n}"), &headers);
        client.send(&[b'x'; 5000]);
    }
    let slowest = healthy_during(&world, || {
        for client in &mut bodies {
            client.response().problem(408, "client_stalled");
        }
        for client in &mut heads {
            // A 408 or no response: in either case the connection is closed.
            let _ = client.try_response();
        }
    });
    let took = began.elapsed();
    let peak = world.gateway.memory("VmHWM");
    println!(
        "{MANY} slow heads and {MANY} slow bodies: over after {took:?}, idle {idle} KiB, peak {peak} KiB"
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_eq!(world.control("GET", "wait?idle=1", "").status, 200);
    assert_eq!(world.objects().len(), 1);
    drop((heads, bodies));
    wait_until("they are gone", || metric(&world, "gateway_connections") <= 1);
}
