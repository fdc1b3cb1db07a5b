//! `upload.min_rate`: slow clients are told so, and told apart from silent ones.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::frames::{self, H2, body_of};
use crate::harness::{Client, Form, Response, Setup, World, authorization, noise};
use crate::resumable::{self, OCTETS, TUS};
use crate::tls::Certificate;

const RATE: usize = 8 * 1024;

fn setup() -> Setup {
    Setup::new().set("upload.min_rate", "8KiB")
}

/// The head of an upload of so many bytes.
fn begin(world: &World, path: &str, length: usize) -> Client {
    let mut client = world.client();
    let length = length.to_string();
    let headers = [authorization(), ("content-length", length.as_str())];
    client.send_head("PUT", &format!("/v1/files/{path}"), &headers);
    client
}

/// Sends at `rate` bytes per second, as many as in `seconds`, unless the gateway responds before. Says how long that took.
fn drip(client: &mut Client, rate: usize, seconds: u32) -> Duration {
    const STEP: Duration = Duration::from_millis(250);
    let began = Instant::now();
    let bytes = vec![b'x'; rate / 4];
    let sender = client.sender();
    for step in 1..=4 * seconds {
        let mut seen = [0];
        sender.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
        if sender.peek(&mut seen).is_ok() || client.try_send(&bytes).is_err() {
            break;
        }
        std::thread::sleep((STEP * step).saturating_sub(began.elapsed()));
    }
    sender.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    began.elapsed()
}

fn seconds(took: Duration, range: std::ops::Range<f64>) {
    assert!(range.contains(&took.as_secs_f64()), "{took:?}, not {range:?}");
}

/// How many uploads have failed with a code.
fn failures(world: &World, code: &str) -> u64 {
    let mut client = world.client();
    client.send_request("GET", "/metrics", &[], b"");
    let text = client.response().text();
    let name = format!("gateway_uploads_total{{result=\"{code}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(name.as_str()));
    value.expect("the metric").parse().expect("a number")
}

fn assert_slow(response: &Response) {
    let problem = response.problem(408, "client_too_slow");
    let detail = problem["detail"].as_str().expect("a detail");
    assert!(detail.contains("less than 8.0 KiB per second"), "{detail}");
}

#[test]
fn a_slow_client_is_told_so_and_nothing_is_stored() {
    let world = setup().start();
    std::thread::scope(|scope| {
        // A quarter of the rate: 10 s / (1 - 1/4).
        scope.spawn(|| {
            let mut client = begin(&world, "put", 1 << 20);
            let took = drip(&mut client, RATE / 4, 40);
            assert_slow(&client.response());
            seconds(took, 12.0..16.0);
        });
        scope.spawn(|| {
            let form =
                Form::new().field("path", "form").file("f", "x", "text/plain", &noise(1 << 20, 1));
            let (kind, body) = (form.content_type(), form.bytes());
            let mut client = world.client();
            let length = body.len().to_string();
            let headers =
                [authorization(), ("content-type", kind.as_str()), ("content-length", &length)];
            client.send_head("POST", "/v1/files", &headers);
            client.send(&body[..4000]);
            drip(&mut client, 1000, 40);
            assert_slow(&client.response());
        });
        // A byte before each silence ends.
        scope.spawn(|| {
            let mut client = begin(&world, "bytes", 1000);
            let began = Instant::now();
            for _ in 0..4 {
                let _ = client.try_send(b"x");
                std::thread::sleep(
                    Duration::from_secs(6)
                        .min(Duration::from_secs(12).saturating_sub(began.elapsed())),
                );
            }
            assert_slow(&client.response());
            seconds(began.elapsed(), 9.0..14.0);
        });
    });
    world.assert_nothing_stored();
    assert_eq!(failures(&world, "client_too_slow"), 3);
    assert_eq!(failures(&world, "client_stalled"), 0);
}

#[test]
fn a_silent_client_is_silent_and_not_slow() {
    let world = setup().set("upload.idle_timeout", "11s").start();
    std::thread::scope(|scope| {
        for sent in [0, 30_000] {
            let world = &world;
            scope.spawn(move || {
                let mut client = begin(world, &format!("{sent}"), 1 << 20);
                client.send(&vec![b'x'; sent]);
                let began = Instant::now();
                let problem = client.response().problem(408, "client_stalled");
                seconds(began.elapsed(), 10.5..14.0);
                assert!(problem["detail"].as_str().is_some_and(|d| d.contains("nothing for 11s")));
            });
        }
    });
    assert_eq!(failures(&world, "client_too_slow"), 0);
}

#[test]
fn a_client_that_was_fast_may_not_be_slow_for_long() {
    let world = setup().start();
    let mut client = begin(&world, "x", 8 << 20);
    client.send(&noise(4 << 20, 1));
    let took = drip(&mut client, RATE / 8, 40);
    assert_slow(&client.response());
    seconds(took, 10.0..15.0);
    world.assert_nothing_stored();
}

#[test]
fn a_client_just_above_the_rate_is_served_however_long_it_takes() {
    let world = setup().start();
    let rate = RATE + RATE / 8;
    let length = rate * 22;
    let mut client = begin(&world, "x", length);
    let took = drip(&mut client, rate, 22);
    assert!(took >= Duration::from_millis(21_500), "{took:?}");
    assert_eq!(client.response().stored()["size"], length);
}

#[test]
fn a_pause_of_a_fast_client_is_forgiven() {
    let world = setup().start();
    let mut client = begin(&world, "x", 1 << 20);
    client.send(&noise(1 << 19, 1));
    std::thread::sleep(Duration::from_secs(13));
    client.send(&noise(1000, 2));
    std::thread::sleep(Duration::from_millis(500));
    client.send(&noise((1 << 19) - 1000, 1));
    client.response().stored();
}

/// Only the time counts in which the gateway waits for the client. COS takes the file at an eighth of the least rate, for
/// much longer than a client may be waited for. The client sends faster than the least rate as long as h2's windows allow
/// it, and in small batches, so that the gateway has often read all that has come when it begins to wait for COS.
#[test]
fn a_fast_client_may_wait_for_a_slow_cos() {
    let certificate = Certificate::new();
    let world = certificate.shown(setup().set("upload.min_rate", "8MiB")).start();
    world.faults(&json!([{"stage": "cos", "fault": "slow", "bytes_per_second": 1 << 20}]));
    let content = noise(20 << 20, 1);
    let mut connection = H2::connect(&world, &certificate, &[]);
    let (key, length) = (authorization(), content.len().to_string());
    let fields = [
        (":method", "PUT"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/v1/files/x"),
        key,
        ("content-length", &length),
    ];
    let (stream, head) = connection.request(&frames::head(&fields), 0);
    connection.send(&head).expect("it takes it");
    let (frames, pause) = (body_of(stream, &content), Duration::from_millis(4));
    let body = connection.paced_upload(stream, &frames, pause).expect("a response");
    let response: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(response["files"][0]["size"], content.len(), "{response}");
}

#[test]
fn a_resumable_upload_keeps_what_a_slow_client_sent() {
    let world = setup().start();
    let content = noise(100_000, 1);
    let target = resumable::create(&world, content.len(), &[]);
    let mut client = world.client();
    let length = content.len().to_string();
    let headers =
        [authorization(), TUS, OCTETS, ("upload-offset", "0"), ("content-length", length.as_str())];
    client.send_head("PATCH", &target, &headers);
    client.send(&content[..5000]);
    std::thread::sleep(Duration::from_secs(4));
    client.send(&content[5000..6000]);
    std::thread::sleep(Duration::from_secs(4));
    client.send(&content[6000..7000]);
    let problem = client.response().problem(503, "upload_interrupted");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("sent too slowly")));
    let offset = resumable::offset(&world, &target);
    assert_eq!(offset, 7000);
    let rest = resumable::patch(&world, &target, offset, &content[offset..]);
    assert_eq!(rest.status, 204, "{}", rest.text());
    assert_eq!(world.objects()[0]["size"], content.len());
}
