//! Bodies that are made to corrupt a file or to exhaust CPU or memory.

use std::time::Instant;

use serde_json::json;

use crate::harness::{
    BOUNDARY, Client, Form, Setup, World, authorization, crc64, noise, wait_until,
};

/// `pattern` repeated to `length` bytes.
fn repeated(pattern: &[u8], length: usize) -> Vec<u8> {
    pattern.iter().copied().cycle().take(length).collect()
}

#[test]
fn content_like_the_boundary_is_stored_unchanged() {
    const LENGTH: usize = 20 << 20;
    let world = Setup::new().start();
    let boundary = |text: &str| text.replace('B', BOUNDARY).into_bytes();
    let near_miss = boundary("\r\n--B")[..BOUNDARY.len() + 3].to_vec();
    let patterns = [
        ("\\r", b"\r".to_vec()),
        ("\\r\\n--", b"\r\n--".to_vec()),
        ("\\r--B--", boundary("\r--B--")),
        ("\\n--B--\\r\\n", boundary("\n--B--\r\n")),
        ("B less a byte", near_miss),
    ];
    let upload = |content: &[u8]| {
        let form = Form::new().field("path", "hostile").file("f", "x", "text/plain", content);
        let before = world.gateway.cpu();
        let file = world.post(&form).stored();
        let cpu = world.gateway.cpu() - before;
        assert_eq!(file["crc64"], crc64(content));
        assert!(world.object("hostile") == content);
        cpu
    };
    let random = noise(LENGTH, 1);
    upload(&random);
    // One upload takes some 10 ms: each is sent five times, alternating with random bytes.
    let mut plain = 0.0;
    let mut hostile = vec![0.0; patterns.len()];
    for _ in 0..5 {
        plain += upload(&random);
        for (cpu, (_, pattern)) in hostile.iter_mut().zip(&patterns) {
            *cpu += upload(&repeated(pattern, LENGTH));
        }
    }
    for (cpu, (name, _)) in hostile.iter().zip(&patterns) {
        println!("{name}: {:.2} of the CPU of random bytes", cpu / plain);
        assert!(*cpu <= 1.5 * plain + 0.02, "{name}: {cpu:.2} s, random bytes {plain:.2} s");
    }
}

#[test]
fn a_second_key_inside_the_file_is_just_bytes() {
    let world = Setup::new().start();
    let content = "x\r\n--gateway-0\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nstolen\r\n--gateway-0--\r\n";
    let form = Form::new().field("path", "mine").file("f", "x", "text/plain", content.as_bytes());
    world.post(&form).stored();
    assert_eq!(world.objects().len(), 1);
    assert_eq!(world.object("mine"), content.as_bytes());
}

#[test]
fn a_file_buffered_from_one_byte_chunks_costs_only_its_length() {
    const LENGTH: usize = 32 << 20;
    let world = Setup::new().start();
    world.post(&Form::new().file("f", "x", "text/plain", b"warm")).stored();
    let idle = world.gateway.memory("VmRSS");
    let mut client = world.client();
    let headers = [authorization(), ("transfer-encoding", "chunked")];
    client.send_head("PUT", "/v1/files/buffered", &headers);
    let chunks = b"1\r\nx\r\n".repeat(1 << 16);
    for _ in 0..LENGTH >> 16 {
        client.send(&chunks);
    }
    client.send(b"0\r\n\r\n");
    assert_eq!(client.response().stored()["size"], LENGTH);
    let peak = world.gateway.memory("VmHWM");
    println!("32 MiB of one-byte chunks buffered: idle {idle} KiB, peak {peak} KiB");
    assert!(peak <= idle + (64 << 10), "idle {idle} KiB, peak {peak} KiB");
}

#[test]
fn a_file_too_large_to_buffer_is_refused_with_advice() {
    let world = Setup::new()
        .set("upload.max_buffered_file", "1MiB")
        .set("upload.replay_window_max", "1MiB")
        .start();
    let chunked = |bytes: &[u8]| {
        let mut client = world.client();
        client.send_head(
            "PUT",
            "/v1/files/buffered",
            &[authorization(), ("transfer-encoding", "chunked")],
        );
        for piece in bytes.chunks(50_000) {
            client.send_chunk(piece);
        }
        client.send(b"0\r\n\r\n");
        client.response()
    };
    chunked(&noise(1 << 20, 1)).stored();
    let problem = chunked(&noise((1 << 20) + 1, 1)).problem(411, "length_required");
    assert!(problem["detail"].as_str().expect("a text").contains("Content-Length"));
    // When a part exceeds the buffer, its length is assumed: correctly for the last part, wrongly for the one before.
    let large = noise(3 << 20, 2);
    let last =
        Form::new().file("f[]", "a", "text/plain", b"a").file("f[]", "b", "text/plain", &large);
    assert_eq!(world.post(&last).status, 201);
    let first =
        Form::new().file("f[]", "a", "text/plain", &large).file("f[]", "b", "text/plain", b"b");
    let response = world.post(&first);
    assert_eq!(response.status, 400, "{}", response.text());
    assert_eq!(response.json()["files"][0]["error"]["code"], "file_not_last");
    assert_eq!(response.json()["files"][1]["size"], 1);
    assert_eq!(world.objects().len(), 4);

    let world = Setup::new().set("upload.memory_budget", "32MiB").start();
    let mut first = buffered_upload(&world, 20 << 20);
    // At once, each might be refused because of the memory that the other takes.
    wait_until("the first is buffered", || budget_used(&world) >= 20 << 20);
    let mut second = buffered_upload(&world, 20 << 20);
    assert_eq!(refusal(&mut second), Some(()), "both together need 40 MiB of 32");
    assert_eq!(refusal(&mut first), None);
    assert_eq!(world.objects().len(), 1);
}

/// Bytes that the memory budget is charged with.
fn budget_used(world: &World) -> u64 {
    let mut client = world.client();
    client.send_request("GET", "/metrics", &[], b"");
    let text = client.response().text();
    let line = text.lines().find(|line| line.starts_with("gateway_memory_budget_bytes "));
    let value = line.and_then(|line| line.split(' ').nth(1)).expect("the gauge").to_owned();
    value.parse().expect("a number")
}

#[test]
fn the_memory_gauge_shows_the_memory_in_use() {
    let world = Setup::new().start();
    world.post(&Form::new().file("f", "x", "text/plain", b"warm")).stored();
    let gauge = || budget_used(&world);
    assert_eq!(gauge(), 0);
    let idle = world.gateway.memory("VmRSS");
    let senders: Vec<_> = (0..4).map(|_| buffered_upload(&world, 16 << 20)).collect();
    // Everything sent is buffered; the end of the body is still to come.
    wait_until("all is buffered", || gauge() >= 64 << 20);
    let (told, grown) = (gauge(), (world.gateway.memory("VmRSS") - idle) << 10);
    println!("the gauge says {told} bytes, RSS has grown by {grown}");
    assert!(grown >= told / 10 * 9 && grown <= told / 10 * 13, "{told} told, {grown} grown");
    drop(senders);
    wait_until("all is given back", || gauge() == 0);
}

/// A chunked upload of `length` bytes, without its end.
fn buffered_upload(world: &World, length: usize) -> Client {
    let mut client = world.client();
    client.send_head(
        "PUT",
        "/v1/files/buffered",
        &[authorization(), ("transfer-encoding", "chunked")],
    );
    for piece in noise(length, 3).chunks(1 << 20) {
        let _ = client.try_send(format!("{:x}\r\n", piece.len()).as_bytes());
        let _ = client.try_send(piece);
        let _ = client.try_send(b"\r\n");
    }
    client
}

/// Ends the upload; `Some` if it was refused for lack of memory.
fn refusal(client: &mut Client) -> Option<()> {
    let _ = client.try_send(b"0\r\n\r\n");
    let response = client.response();
    if response.status == 201 {
        return None;
    }
    response.problem(503, "overloaded");
    assert!(response.header("retry-after").is_some());
    Some(())
}

#[test]
fn forms_of_a_million_tiny_fields_are_refused_without_memory_growth() {
    let world = Setup::new().start();
    world.post(&Form::new().file("f", "x", "text/plain", b"warm")).stored();
    let idle = world.gateway.memory("VmRSS");
    let field = Form::new().field("a", "x").bytes();
    let field = &field[..field.len() - BOUNDARY.len() - 6];
    let million = (field.len() * 1_000_000).to_string();
    let kind = Form::new().content_type();
    let some = field.repeat(1000);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..125 {
                    let mut client = world.client();
                    let headers =
                        [authorization(), ("content-type", &kind), ("content-length", &million)];
                    client.send_head("POST", "/v1/files", &headers);
                    client.send(&some);
                    client.response().problem(413, "fields_too_large");
                }
            });
        }
    });
    let after = world.gateway.memory("VmHWM");
    println!("1,000 forms of a million fields: idle {idle} KiB, peak {after} KiB");
    assert!(after <= idle + (16 << 10), "idle {idle} KiB, peak {after} KiB");
    world.post(&Form::new().file("f", "x", "text/plain", b"x")).stored();
}

/// 200 clients whose files COS reads slowly, so that all uploads run at once.
fn peak_of_two_hundred(window: &str, bytes_per_second: Option<u64>) -> (u64, u64) {
    let world = Setup::new().set("upload.replay_window", window).start();
    world.post(&Form::new().file("f", "x", "text/plain", b"warm")).stored();
    let idle = world.gateway.memory("VmRSS");
    if let Some(rate) = bytes_per_second {
        world.faults(&json!([{"stage": "cos", "fault": "slow", "bytes_per_second": rate}]));
    }
    let content = noise(8 << 20, 1);
    let form = Form::new().file("f", "x.bin", "text/plain", &content);
    let (kind, body) = (form.content_type(), form.bytes());
    let crc = crc64(&content);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..200 {
            scope.spawn(|| {
                let mut client = world.client();
                let headers = [authorization(), ("content-type", kind.as_str())];
                client.send_request("POST", "/v1/files", &headers, &body);
                assert_eq!(client.response().stored()["crc64"], crc);
            });
        }
    });
    println!("{:?}", began.elapsed());
    (idle, world.gateway.memory("VmHWM"))
}

#[test]
fn two_hundred_uploads_at_once_stay_within_their_memory() {
    for (window, rate, limit) in [("256KiB", None, 150), ("0", None, 80), ("0", Some(4 << 20), 80)]
    {
        let (idle, peak) = peak_of_two_hundred(window, rate);
        println!("200 × 8 MiB, window {window}: idle {idle} KiB, peak {peak} KiB");
        assert!(peak <= idle + (limit << 10), "window {window}: idle {idle} KiB, peak {peak} KiB");
    }
}
