//! Streaming: bytes are sent to COS as they arrive, and memory does not grow with the file.

use serde_json::Value;

use crate::harness::{BOUNDARY, Form, Response, Setup, World, authorization, crc64, noise};

/// Waits at most 200 ms until COS has `bytes` of a file's content.
fn at_cos_within_200_ms(world: &World, key: &str, bytes: usize) -> Response {
    world.control("GET", &format!("wait?key={key}&received={bytes}&timeout_ms=200"), "")
}

/// The form's bytes before and after the file's content.
fn frame(path: &str) -> (Vec<u8>, Vec<u8>) {
    let form = Form::new().field("path", path).file("file", "x.bin", "text/plain", b"");
    let bytes = form.bytes();
    let tail = format!("\r\n--{BOUNDARY}--\r\n").into_bytes();
    (bytes[..bytes.len() - tail.len()].to_vec(), tail)
}

#[test]
fn bytes_reach_cos_while_the_client_pauses() {
    let world = Setup::new().start();
    let content = noise(20 << 20, 1);
    let half = content.len() / 2;
    let (head, tail) = frame("half");
    let mut client = world.client();
    let length = (head.len() + content.len() + tail.len()).to_string();
    let kind = Form::new().content_type();
    let headers = [authorization(), ("content-type", &kind), ("content-length", &length)];
    client.send_head("POST", "/v1/files", &headers);
    client.send(&head);
    client.send(&content[..half]);
    let seen = at_cos_within_200_ms(&world, "half", half - (256 << 10));
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert!(world.objects().is_empty());
    client.send(&content[half..]);
    client.send(&tail);
    assert_eq!(client.response().stored()["crc64"], crc64(&content));
}

#[test]
fn a_raw_body_reaches_cos_while_the_client_pauses() {
    let world = Setup::new().start();
    let content = noise(20 << 20, 4);
    let mut client = world.client();
    let length = content.len().to_string();
    client.send_head("PUT", "/v1/files/raw", &[authorization(), ("content-length", &length)]);
    let mut sent = 0;
    for until in [1, 1024, 300_000, content.len() / 2] {
        client.send(&content[sent..until]);
        sent = until;
        // A raw body has no delimiters: all of it is sent on.
        let seen = at_cos_within_200_ms(&world, "raw", sent);
        assert_eq!(seen.status, 200, "{sent}: {}", seen.text());
    }
    assert!(world.objects().is_empty());
    client.send(&content[sent..]);
    assert_eq!(client.response().stored()["crc64"], crc64(&content));
}

#[test]
fn a_slow_client_s_first_kilobyte_reaches_cos_at_once() {
    let world = Setup::new().start();
    let (head, tail) = frame("slow");
    let content = noise(100_000, 2);
    for prefix in [&content[..1024], &content[..1]] {
        let mut client = world.client();
        let length = (head.len() + content.len() + tail.len()).to_string();
        let kind = Form::new().content_type();
        let headers = [authorization(), ("content-type", &kind), ("content-length", &length)];
        client.send_head("POST", "/v1/files", &headers);
        client.send(&head);
        client.send(prefix);
        let seen = at_cos_within_200_ms(&world, "slow", prefix.len());
        assert_eq!(seen.status, 200, "{}", seen.text());
        drop(client);
        world.assert_nothing_stored();
    }
}

#[test]
fn three_gib_need_no_more_memory_than_a_small_file() {
    let world = Setup::new().set("upload.max_file_size", "5GiB").start();
    world.post(&Form::new().file("file", "x", "text/plain", b"warm")).stored();
    let idle = world.gateway.memory("VmRSS");

    let piece = noise(1 << 20, 7);
    let pieces = 3 << 10;
    let (head, tail) = frame("large");
    let mut client = world.client();
    let length = (head.len() + pieces * piece.len() + tail.len()).to_string();
    let kind = Form::new().content_type();
    let headers = [authorization(), ("content-type", &kind), ("content-length", &length)];
    client.send_head("POST", "/v1/files", &headers);
    client.send(&head);
    for _ in 0..pieces {
        client.send(&piece);
    }
    client.send(&tail);
    let file = client.response().stored();
    assert_eq!(file["size"], Value::from(3u64 << 30));
    assert_eq!(file["verified"], true);
    let peak = world.gateway.memory("VmHWM");
    println!("3 GiB: idle {idle} KiB, peak {peak} KiB");
    assert!(peak <= idle + (32 << 10), "idle {idle} KiB, peak {peak} KiB");
}

#[test]
fn a_silent_client_gets_408_and_nothing_is_stored() {
    let world = Setup::new().set("upload.idle_timeout", "300ms").start();
    let (head, tail) = frame("silent");
    let content = noise(100_000, 3);
    let length = (head.len() + content.len() + tail.len()).to_string();
    let whole = [head.as_slice(), &content, &tail].concat();
    for sent in [0, 10, head.len(), head.len() + 50_000, whole.len() - 1] {
        let mut client = world.client();
        let kind = Form::new().content_type();
        let headers = [authorization(), ("content-type", &kind), ("content-length", &length)];
        client.send_head("POST", "/v1/files", &headers);
        client.send(&whole[..sent]);
        client.response().problem(408, "client_stalled");
    }
    world.assert_nothing_stored();
}
