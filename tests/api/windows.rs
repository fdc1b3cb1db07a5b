//! The growing replay window over forms: while memory is free, a whole photo is retained, so that COS's failures and
//! fields behind the file do no harm; under load, a window does not grow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{
    Client, Form, Response, Setup, World, authorization, crc64, noise, wait_until,
};
use crate::measured::{metrics, value};
use crate::threads::{Barrier, SetAtEnd};

const MIB: usize = 1 << 20;

fn by_form() -> Setup {
    Setup::new().set("cos.via", "form")
}

fn metric(world: &World, name: &str) -> u64 {
    value(&metrics(world), name) as u64
}

fn budget_used(world: &World) -> u64 {
    metric(world, "gateway_memory_budget_bytes")
}

fn put(world: &World, path: &str, content: &[u8]) -> Response {
    let mut client = world.client();
    client.send_request("PUT", &format!("/v1/files/{path}"), &[authorization()], content);
    client.response()
}

/// A plain HTML form: a title, the files, an input without a file, and the button that sent it.
fn plain(files: &[(&str, &[u8])]) -> Form {
    let files =
        files.iter().fold(Form::new().field("title", "two photos"), |form, (name, bytes)| {
            form.file(name, "photo.jpg", "image/jpeg", bytes)
        });
    files.file("third", "", "application/octet-stream", b"").field("send", "Upload")
}

/// The failures of one attempt: before any byte, within the file, at its end.
fn failures(size: usize) -> Vec<Value> {
    let fault = |fault: &str| json!({"stage": "cos", "fault": fault, "times": 1});
    let within =
        |after: usize| json!({"stage": "cos", "fault": "reset_within", "after": after, "times": 1});
    vec![
        json!({"stage": "cos", "fault": "status", "status": 503, "code": "SlowDown", "times": 1}),
        json!({"stage": "cos", "fault": "status", "status": 500, "code": "InternalError", "times": 1}),
        fault("reset_before"),
        within(300_000),
        within(size / 2),
        within(size),
        fault("close"),
        fault("too_slow"),
    ]
}

#[test]
fn photos_survive_one_failure_of_cos() {
    let world = by_form().start();
    for size in [3 * MIB, 12 * MIB, 16 * MIB - 1000] {
        let content = noise(size, 1);
        for failure in failures(size) {
            let form = Form::new().file("file", "x.jpg", "image/jpeg", &content);
            world.faults(&json!([failure]));
            assert_eq!(world.post(&form).stored()["crc64"], crc64(&content), "{size}: {failure}");
            world.faults(&json!([failure]));
            let stored = put(&world, "photo.jpg", &content).stored();
            assert_eq!(stored["crc64"], crc64(&content), "{size}: {failure}");
            world.control("POST", "reset", "");
        }
    }
    assert_eq!(budget_used(&world), 0);
}

/// Larger than the window, a window that must not grow, a budget that is used up by a quarter.
#[test]
fn what_is_not_retained_fails_once_and_says_so() {
    let failure =
        json!({"stage": "cos", "fault": "status", "status": 503, "code": "SlowDown", "times": 1});
    for (size, setting) in [
        (20 * MIB, ("upload.replay_window_max", "16MiB")),
        (3 * MIB, ("upload.replay_window_max", "256KiB")),
        (MIB, ("upload.replay_window", "0")),
        (3 * MIB, ("upload.memory_budget", "4MiB")),
    ] {
        let world =
            by_form().set("upload.max_buffered_file", "2MiB").set(setting.0, setting.1).start();
        let content = noise(size, 2);
        world.faults(&json!([failure]));
        let form = Form::new().file("file", "x.jpg", "image/jpeg", &content);
        world.post(&form).problem(503, "cos_busy");
        world.faults(&json!([failure]));
        put(&world, "photo.jpg", &content).problem(503, "cos_busy");
        world.assert_nothing_stored();
        world.control("DELETE", "faults", "");
        put(&world, "photo.jpg", &content).stored();
        assert_eq!(budget_used(&world), 0);
    }
}

#[test]
fn plain_forms_are_stored_while_memory_is_free() {
    let world = by_form().start();
    let (small, large) = (noise(3 * MIB, 3), noise(12 * MIB, 4));
    let photos: Vec<_> = (0..12).map(|seed| noise(3 * MIB, seed)).collect();
    let forms: [Vec<(&str, &[u8])>; 4] = [
        vec![("photo", &small)],
        vec![("photo", &small), ("another", &large)],
        vec![("photo", &large), ("another", &small)],
        // `<input type="file" multiple>`: every part has the same name.
        photos.iter().map(|photo| ("photos", photo.as_slice())).collect(),
    ];
    for files in &forms {
        let response = world.post(&plain(files));
        assert_eq!(response.status, 201, "{}", response.text());
        let stored = response.json()["files"].clone();
        assert_eq!(stored.as_array().map(Vec::len), Some(files.len()));
        for (index, (_, content)) in files.iter().enumerate() {
            assert_eq!(stored[index]["crc64"], crc64(content));
        }
        assert_eq!(world.objects().len(), files.len());
        world.control("POST", "reset", "");
    }
}

/// By the detail and by the page that explains errors.
fn names_the_cure(problem: &Value) {
    let detail = problem["detail"].as_str().expect("a text");
    for cure in
        ["before the file", "`[]`", "multiple=1", "replay_window_max", "memory_budget", "cos.via"]
    {
        assert!(detail.contains(cure), "{cure}: {detail}");
    }
}

#[test]
fn a_plain_form_that_is_not_retained_is_refused_with_the_cure() {
    for (size, setting) in [
        (20 * MIB, ("upload.replay_window_max", "16MiB")),
        (3 * MIB, ("upload.replay_window_max", "0")),
        (3 * MIB, ("upload.memory_budget", "4MiB")),
    ] {
        let world =
            by_form().set("upload.max_buffered_file", "2MiB").set(setting.0, setting.1).start();
        let content = noise(size, 5);
        let form = plain(&[("photo", &content)]);
        names_the_cure(&world.post(&form).problem(400, "file_not_last"));
        world.assert_nothing_stored();
        // The first cure: nothing but the file's end is left.
        let last = Form::new().field("title", "x").file("photo", "x.jpg", "image/jpeg", &content);
        world.post(&last).stored();
        // Over COS's API no length need be known.
        let world = Setup::new().by_api().start();
        assert_eq!(world.post(&form).stored()["crc64"], crc64(&content), "{setting:?}");
    }
}

const SENDERS: usize = 200;
const PHOTO: usize = 3 * MIB;

/// What became of 200 plain forms at once.
struct Outcome {
    responses: Vec<Response>,
    /// Bytes of the budget, at most.
    most: u64,
    /// Bytes of the budget, while every form was half sent.
    half_sent: u64,
    /// KiB: resident before, and at most.
    idle: u64,
    peak: u64,
}

/// Sends 200 forms with a field behind the photo. Each pauses in the middle until all have come so far.
fn two_hundred_forms(world: &World, content: &[u8]) -> Outcome {
    world.post(&Form::new().file("file", "x", "text/plain", b"warm")).stored();
    let idle = world.gateway.memory("VmRSS");
    let form = Form::new().file("file", "x.jpg", "image/jpeg", content).field("title", "late");
    let (kind, body) = (form.content_type(), form.bytes());
    let length = body.len().to_string();
    let (all_half_sent, measured) = (Barrier::new(SENDERS + 1), Barrier::new(SENDERS + 1));
    let (over, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let send = || {
        let mut client = world.client();
        let headers = [authorization(), ("content-type", &kind), ("content-length", &length)];
        client.send_head("POST", "/v1/files", &headers);
        let (first, second) = body.split_at(body.len() / 2);
        let sent = send_steadily(&mut client, first);
        all_half_sent.wait();
        measured.wait();
        if sent {
            send_steadily(&mut client, second);
        }
        client.response()
    };
    let (responses, half_sent) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(budget_used(world), Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        let _end = SetAtEnd(&over);
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(send)).collect();
        all_half_sent.wait();
        let half_sent = budget_used(world);
        assert_eq!(metric(world, "gateway_uploads_in_flight"), SENDERS as u64);
        measured.wait();
        let responses = senders.into_iter().map(|sender| sender.join().expect("a response"));
        (responses.collect(), half_sent)
    });
    let peak = world.gateway.memory("VmHWM");
    Outcome { responses, most: most.into_inner(), half_sent, idle, peak }
}

/// In pieces, with pauses in which others send. `false` if the connection is closed.
fn send_steadily(client: &mut Client, bytes: &[u8]) -> bool {
    bytes.chunks(128 << 10).all(|piece| {
        std::thread::yield_now();
        client.try_send(piece).is_ok()
    })
}

#[test]
fn under_load_windows_stay_small_and_the_refusal_names_the_cure() {
    // Nothing of the files is written to the disk.
    let world = by_form().sandbox(|options| options.discard = true).start();
    let content = noise(PHOTO, 6);
    let Outcome { responses, most, half_sent, idle, peak } = two_hundred_forms(&world, &content);
    let (stored, refused): (Vec<_>, Vec<_>) =
        responses.iter().partition(|response| response.status == 201);
    println!(
        "{SENDERS} plain forms of 3 MiB: {} stored, {} refused; budget used {} MiB at most, {} MiB half-way; RSS idle \
         {idle} KiB, peak {peak} KiB",
        stored.len(),
        refused.len(),
        most >> 20,
        half_sent >> 20
    );
    let budget = 256 << 20;
    // Beyond a quarter, a window has at most `replay_window` and the buffer that passes it.
    let small_windows = SENDERS as u64 * (512 << 10);
    assert!(most <= budget / 4 + small_windows, "{most}");
    assert!(half_sent >= budget / 16, "windows do not grow: {half_sent}");
    assert!(peak < idle + ((budget / 4 + 2 * small_windows) >> 10), "idle {idle}, peak {peak} KiB");
    for response in &stored {
        assert_eq!(response.stored()["crc64"], crc64(&content));
    }
    for response in &refused {
        names_the_cure(&response.problem(400, "file_not_last"));
    }
    assert!(!stored.is_empty() && !refused.is_empty());
    assert_eq!(world.objects().len(), stored.len() + 1);
    wait_until("memory is released", || budget_used(&world) == 0);
    // The load is over.
    assert_eq!(world.post(&plain(&[("photo", &content)])).stored()["crc64"], crc64(&content));
}
