//! h2 attacks, frame by frame: the gateway closes the attacking connection, its memory does not grow, and other clients
//! are served. Also the speed of uploads over h2.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::frames::{
    CONTINUATION, DATA, END_STREAM, H1, H2, HEADERS, PING, RST_STREAM, SETTINGS, body_of, frame,
    head,
};
use crate::harness::{Setup, World, authorization, noise};
use crate::tls::Certificate;

/// The memory that one connection may take.
const LIMIT: u64 = 48 << 10;

/// Frames per attack: more than the kernel's socket buffers take, so that not all can be sent unless the gateway reads.
const FLOOD: usize = 4_000_000;

fn get(path: &str) -> Vec<u8> {
    let of =
        [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    head(&of)
}

fn put(path: &str) -> Vec<u8> {
    let of =
        [(":method", "PUT"), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    head(&[&of[..], &[authorization()]].concat())
}

/// Runs an attack, then asserts that it had no effect.
fn withstood(attack: &str, run: impl FnOnce(&World, &Certificate) -> usize) {
    let certificate = Certificate::new();
    let world = certificate.shown(Setup::new()).start();
    upload(&world, &certificate);
    let idle = world.gateway.memory("VmRSS");
    let began = Instant::now();
    let sent = run(&world, &certificate);
    let peak = world.gateway.memory("VmHWM");
    println!("{attack}: {sent} sent in {:?}; idle {idle} KiB, peak {peak} KiB", began.elapsed());
    assert!(peak < idle + LIMIT, "{attack}: idle {idle} KiB, peak {peak} KiB");
    upload(&world, &certificate);
    assert_eq!(world.control("GET", "wait?idle=1", "").status, 200);
    assert_eq!(world.objects().len(), 1, "{attack}");
}

/// A small upload by another client.
fn upload(world: &World, certificate: &Certificate) {
    let mut other = H2::connect(world, certificate, &[]);
    let (stream, head) = other.request(&put("/v1/files/good.txt"), 0);
    other.send(&[head, frame(DATA, END_STREAM, stream, b"good")].concat()).expect("it takes it");
    let body = other.body(stream).expect("a response");
    let response: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(response["files"][0]["size"], 4, "{response}");
}

/// CVE-2023-44487: streams that are reset right after they are opened never exceed the limit of concurrent streams.
#[test]
fn rapid_resets_close_the_connection() {
    withstood("rapid resets", |world, certificate| {
        let mut connection = H2::connect(world, certificate, &[]);
        let head = put("/v1/files/x");
        let sent = connection.flood(FLOOD, |connection| {
            let (stream, request) = connection.request(&head, 0);
            [request, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
        });
        connection.assert_closed();
        assert!(sent < FLOOD, "all were taken");
        let links = world.count("uploadfile");
        println!("{links} upload links were asked for");
        assert!(links < 1000, "{links} upload links were asked for");
        sent
    });
}

#[test]
fn endless_streams_are_not_retained() {
    withstood("streams left open", |world, certificate| {
        let mut connection = H2::connect(world, certificate, &[]);
        let head = put("/v1/files/x");
        let sent = connection.flood(FLOOD, |connection| connection.request(&head, 0).1);
        connection.assert_closed();
        assert!(sent < FLOOD, "all were taken");
        sent
    });
}

/// The windows are what a client may send of bodies that are not read: they bound the memory of a connection.
#[test]
fn windows_bound_what_is_buffered_of_unread_bodies() {
    let certificate = Certificate::new();
    let world = certificate.shown(Setup::new()).start();
    let mut connection = H2::connect(&world, &certificate, &[]);
    let (of_stream, of_connection) = connection.announced_windows().expect("its settings");
    assert!((1..=1 << 20).contains(&of_stream), "{of_stream} of a stream");
    assert!((1..=2 << 20).contains(&of_connection), "{of_connection} of a connection");
}

/// With a window of 0 no response can be sent, and unsent responses would pile up.
#[test]
fn unread_responses_are_not_retained() {
    withstood("a window of nothing", |world, certificate| {
        // SETTINGS_INITIAL_WINDOW_SIZE
        let mut connection = H2::connect(world, certificate, &[(4, 0)]);
        let head = get("/healthz");
        let sent = connection.flood(FLOOD, |c| c.request(&head, END_STREAM).1);
        connection.assert_closed();
        assert!(sent < FLOOD, "all were taken");
        sent
    });
}

/// An upload whose body is not read yet, because its link is delayed.
fn late_upload(world: &World, certificate: &Certificate) -> (H2, u32) {
    world.faults(&json!([{"stage": "link", "fault": "delay", "ms": 4000, "path": "late"}]));
    let mut connection = H2::connect(world, certificate, &[]);
    let (stream, head) = connection.request(&put("/v1/files/late"), 0);
    connection.send(&head).expect("it takes it");
    (connection, stream)
}

#[test]
fn empty_data_frames_are_not_retained() {
    for (name, piece) in [("empty pieces", &b""[..]), ("pieces of one byte", b"x")] {
        withstood(name, |world, certificate| {
            let (mut connection, stream) = late_upload(world, certificate);
            let piece = frame(DATA, 0, stream, piece);
            let sent = connection.flood(FLOOD, |_| piece.clone());
            connection.assert_closed();
            assert!(sent < FLOOD, "all were taken");
            sent
        });
    }
}

#[test]
fn an_endless_head_closes_the_h2_connection() {
    withstood("continuations", |world, certificate| {
        let mut connection = H2::connect(world, certificate, &[]);
        let stream = connection.fresh();
        connection.send(&frame(HEADERS, 0, stream, &get("/healthz"))).expect("it takes it");
        let more = frame(CONTINUATION, 0, stream, &head(&[("x", "y")]));
        let sent = connection.flood(FLOOD, |_| more.clone());
        connection.assert_closed();
        assert!(sent < FLOOD, "all were taken");
        sent
    });
}

/// In HPACK one byte can stand for a long field of the dynamic table.
#[test]
fn a_head_that_expands_in_hpack_closes_the_connection() {
    withstood("a head that swells", |world, certificate| {
        let mut sent = 0;
        for _ in 0..20 {
            let mut connection = H2::connect(world, certificate, &[]);
            // A field added to the dynamic table (literal with incremental indexing), then its index repeated.
            let mut swelling = get("/healthz");
            let value = "v".repeat(120);
            swelling.extend([0x40, 1, b'x', 120]);
            swelling.extend(value.as_bytes());
            swelling.extend([0x80 | 62; 14_000]);
            let (_, request) = connection.request(&swelling, END_STREAM);
            sent += request.len();
            let _ = connection.send(&request);
            connection.assert_closed();
        }
        sent
    });
}

#[test]
fn floods_of_control_frames_close_the_connection() {
    let ping = frame(PING, 0, 0, &[7; 8]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let priority = frame(2, 0, 1, &[0, 0, 0, 0, 1]);
    for (name, frame) in [("pings", ping), ("settings", settings), ("priorities", priority)] {
        withstood(name, |world, certificate| {
            let mut connection = H2::connect(world, certificate, &[]);
            let sent = connection.flood(FLOOD, |_| frame.clone());
            connection.assert_closed();
            assert!(sent < FLOOD, "all were taken");
            sent
        });
    }
}

/// A browser's usual number of concurrent requests is served, and so are many more in sequence.
#[test]
fn a_busy_page_is_not_taken_for_a_flood() {
    let certificate = Certificate::new();
    let world = certificate.shown(Setup::new()).start();
    let mut connection = H2::connect(&world, &certificate, &[]);
    for _ in 0..50 {
        let streams: Vec<_> = (0..100)
            .map(|_| {
                let (stream, request) = connection.request(&get("/healthz"), END_STREAM);
                connection.send(&request).expect("it takes it");
                stream
            })
            .collect();
        let last = *streams.last().expect("one");
        assert_eq!(connection.body(last).expect("a response"), b"{\"status\":\"ok\"}");
    }
}

/// Idle h2 connections are closed at once on shutdown.
#[test]
fn idle_h2_connections_do_not_delay_shutdown() {
    let certificate = Certificate::new();
    let mut world = certificate.shown(Setup::new()).start();
    let mut idle = H2::connect(&world, &certificate, &[]);
    let (stream, request) = idle.request(&get("/healthz"), END_STREAM);
    idle.send(&request).expect("it takes it");
    idle.body(stream).expect("a response");
    let began = Instant::now();
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.ended().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    idle.assert_closed();
}

/// The same client over both protocols. The measurements are interleaved, because the machine has other load; a series
/// may still be off by 5 %, so a missed bar is measured again. Where a host takes a virtual machine's processors away, each
/// switch between client and gateway waits for one, and h2 has more of them: 1.02 of the time at one hour, and 1.14 to 1.39
/// with the same binary at another. CPU time tells there: 1.18 to 1.30, and 1.47 while a quarter as many frames were read in a turn.
#[test]
#[ignore = "compares times: tests/run runs it alone"]
fn uploads_over_h2_are_as_fast_as_over_http_1_1() {
    const TIME_BAR: f64 = 1.1;
    const CPU_BAR: f64 = 1.3;
    const SERIES: usize = 3;
    const ROUNDS: usize = 21;
    let certificate = Certificate::new();
    let world = certificate.shown(Setup::new()).set("upload.max_file_size", "1GiB").start();
    let content = noise(128 << 20, 1);
    let measured = |send: &mut dyn FnMut()| {
        let (began, cpu) = (Instant::now(), world.gateway.cpu());
        send();
        [began.elapsed().as_secs_f64(), world.gateway.cpu() - cpu]
    };
    let over_h1 = || {
        let mut connection = H1::connect(&world, &certificate);
        measured(&mut || {
            let response = connection.put("/v1/files/x.bin", &content).expect("a response");
            assert!(response.starts_with("HTTP/1.1 201"), "{response}");
        })
    };
    let over_h2 = || {
        let mut connection = H2::connect(&world, &certificate, &[]);
        let length = head(&[("content-length", &content.len().to_string())]);
        let (stream, head) = connection.request(&[put("/v1/files/x.bin"), length].concat(), 0);
        let body = body_of(stream, &content);
        measured(&mut || {
            connection.send(&head).expect("it takes it");
            let response = connection.upload(stream, &body).expect("a response");
            let response: Value = serde_json::from_slice(&response).expect("JSON");
            assert_eq!(response["files"][0]["size"], content.len(), "{response}");
        })
    };
    over_h2();
    let series = || {
        let (mut h1, mut h2) = ([0.0; 2], [0.0; 2]);
        for _ in 0..ROUNDS {
            for (all, one) in [(&mut h1, over_h1()), (&mut h2, over_h2())] {
                *all = [all[0] + one[0], all[1] + one[1]];
            }
        }
        let [time, cpu] = [h2[0] / h1[0], h2[1] / h1[1]];
        println!(
            "h2 to HTTP/1.1, {ROUNDS} uploads each: {time:.3} of the time, {cpu:.3} of the CPU"
        );
        time < TIME_BAR || cpu < CPU_BAR
    };
    assert!((0..SERIES).any(|_| series()));
}
