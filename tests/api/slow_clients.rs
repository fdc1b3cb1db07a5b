//! COS's clock over forms: a client that is too slow for one form has its file buffered first, where memory allows. COS
//! refuses what takes longer than `upload_limit`, after the last byte.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Client, Form, Response, Setup, World, authorization, crc64, noise, wait_until,
};
use crate::measured::{metrics, value};
use crate::threads::SetAtEnd;

/// What the sandbox's COS allows for one form.
const COS_LIMIT: Duration = Duration::from_secs(2);
/// How long the slow clients take.
const SLOW: Duration = Duration::from_secs(6);
const MIB: usize = 1 << 20;
const PHOTO: usize = 4 * MIB;

/// A form, or a raw body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Form,
    Raw,
}

/// A request: its head is sent by [`Request::begin`], its body by the tests.
struct Request {
    way: Way,
    path: String,
    body: Vec<u8>,
}

impl Request {
    fn new(way: Way, path: &str, content: &[u8]) -> Self {
        let body = match way {
            Way::Form => {
                let form = Form::new().field("path", path).file("file", "x", "image/png", content);
                form.bytes()
            }
            Way::Raw => content.to_vec(),
        };
        Self { way, path: path.to_owned(), body }
    }

    fn begin(&self, world: &World) -> Client {
        let mut client = world.client();
        let length = self.body.len().to_string();
        let kind = Form::new().content_type();
        let length = ("content-length", length.as_str());
        match self.way {
            Way::Form => {
                let headers = [authorization(), ("content-type", kind.as_str()), length];
                client.send_head("POST", "/v1/files", &headers);
            }
            Way::Raw => {
                let target = format!("/v1/files/{}", self.path);
                client.send_head("PUT", &target, &[authorization(), length]);
            }
        }
        client
    }

    /// Sends all of it, evenly over `time`.
    fn send_over(&self, world: &World, time: Duration) -> Response {
        let mut client = self.begin(world);
        evenly(&mut client, &self.body, time);
        client.response()
    }
}

/// Sends `bytes` evenly over `time`. A connection that is closed shows in the response.
fn evenly(client: &mut Client, bytes: &[u8], time: Duration) {
    let steps = (time.as_millis() / 50).max(1) as usize;
    let began = Instant::now();
    for (index, piece) in bytes.chunks(bytes.len().div_ceil(steps)).enumerate() {
        let planned = began + time.mul_f64(index as f64 / steps as f64);
        std::thread::sleep(planned.saturating_duration_since(Instant::now()));
        if client.try_send(piece).is_err() {
            return;
        }
    }
}

/// With COS's limit, and with the gateway's own at `slow_limit`.
fn world(slow_limit: &str) -> World {
    limited(slow_limit).start()
}

fn limited(slow_limit: &str) -> Setup {
    Setup::new()
        .set("cos.via", "form")
        .set("cos.slow_limit", slow_limit)
        .sandbox(|options| options.upload_limit = Some(COS_LIMIT))
}

fn metric(world: &World, name: &str) -> u64 {
    value(&metrics(world), name) as u64
}

fn slow_clients(world: &World, action: &str) -> u64 {
    metric(world, &format!("gateway_slow_clients_total{{action=\"{action}\"}}"))
}

/// A cause that has not occurred is not counted yet.
fn replays(world: &World, cause: &str) -> u64 {
    let name = format!("gateway_replays_total{{cause=\"{cause}\"}}");
    if metrics(world).contains(&name) { metric(world, &name) } else { 0 }
}

/// Waits until the gateway has buffered so many bytes.
fn wait_until_buffered(world: &World, bytes: usize) {
    wait_until("so much is buffered", || {
        metric(world, "gateway_memory_budget_bytes") >= bytes as u64
    });
}

#[test]
fn a_slow_photo_is_buffered_first_and_stored() {
    let world = world("1s");
    let photos = [
        (Way::Form, "form.png", noise(PHOTO, 1)),
        (Way::Raw, "raw.png", noise(PHOTO, 2)),
        (Way::Form, "small.png", noise(MIB, 3)),
    ];
    std::thread::scope(|scope| {
        for (way, path, content) in &photos {
            let request = Request::new(*way, path, content);
            let world = &world;
            scope.spawn(move || {
                let stored = request.send_over(world, SLOW).stored();
                assert_eq!(stored["crc64"], crc64(content), "{path}");
            });
        }
    });
    for (_, path, content) in &photos {
        assert!(world.object(path) == *content, "{path}");
    }
    assert_eq!((slow_clients(&world, "buffered"), slow_clients(&world, "streamed")), (3, 0));
    // Usually once each; again if the sender pauses shortly before the end.
    let again = replays(&world, "slow_client");
    assert!(again >= 3, "{again}");
    assert_eq!(replays(&world, "too_slow"), 0);
    assert_eq!(metric(&world, "gateway_memory_budget_bytes"), 0);
    // The link is as fresh as the sending: each attempt has its own.
    assert_eq!(world.count("uploadfile"), 3 + again);
}

#[test]
fn fast_clients_are_not_buffered() {
    let world = Setup::new().set("cos.via", "form").set("cos.slow_limit", "20s").start();
    for (index, size) in [1, 300_000, PHOTO, 40 * MIB].into_iter().enumerate() {
        for way in [Way::Form, Way::Raw] {
            let request = Request::new(way, &format!("{index}.bin"), &noise(size, 1));
            request.send_over(&world, Duration::ZERO).stored();
        }
    }
    assert_eq!((slow_clients(&world, "buffered"), slow_clients(&world, "streamed")), (0, 0));
    assert_eq!(world.count("uploadfile"), 8);
}

/// A phone whose connection needs time to come up, with any window.
#[test]
fn a_pause_after_the_first_bytes_is_not_slowness() {
    for (window, size, first) in
        [("256KiB", 40 * MIB, 1000), ("256KiB", PHOTO, 1), ("0", PHOTO, 1000), ("0", 40 * MIB, 0)]
    {
        let world = Setup::new().set("cos.via", "form").set("upload.replay_window", window).start();
        std::thread::scope(|scope| {
            for way in [Way::Form, Way::Raw] {
                let world = &world;
                scope.spawn(move || {
                    let request = Request::new(way, &format!("{way:?}"), &noise(size, 10));
                    let mut client = request.begin(world);
                    let before = request.body.len() - size + first;
                    client.send(&request.body[..before]);
                    std::thread::sleep(Duration::from_millis(2500));
                    client.send(&request.body[before..]);
                    client.response().stored();
                });
            }
        });
        let slow = (slow_clients(&world, "buffered"), slow_clients(&world, "streamed"));
        assert_eq!(slow, (0, 0), "{window} {size}");
    }
}

#[test]
fn a_client_that_becomes_fast_is_sent_on() {
    let world = Setup::new().set("cos.via", "form").set("cos.slow_limit", "10s").start();
    let (slow, burst) = (MIB / 4, 8 * MIB);
    for (way, path) in [(Way::Form, "form"), (Way::Raw, "raw"), (Way::Raw, "another")] {
        let content = noise(12 * MIB, 4);
        let request = Request::new(way, path, &content);
        let mut client = request.begin(&world);
        let before = slow_clients(&world, "buffered");
        evenly(&mut client, &request.body[..slow], Duration::from_millis(1500));
        // At this rate the file would take more than a minute.
        wait_until("it is noticed", || slow_clients(&world, "buffered") > before);
        client.send(&request.body[slow..slow + burst]);
        let received = format!("wait?key={path}&received={}&timeout_ms=10000", 6 * MIB);
        let seen = world.control("GET", &received, "");
        assert_eq!(seen.status, 200, "{way:?}: not sent before it is complete: {}", seen.text());
        client.send(&request.body[slow + burst..]);
        assert_eq!(client.response().stored()["crc64"], crc64(&content), "{way:?}");
    }
    assert_eq!(slow_clients(&world, "streamed"), 0);
}

/// It breaks off, closes its sending side, and stalls: while its file is being buffered.
#[test]
fn a_client_that_disappears_while_buffered_stores_nothing() {
    let world = limited("1s").set("upload.idle_timeout", "1s").start();
    let content = noise(PHOTO, 5);
    for way in [Way::Form, Way::Raw] {
        for end in ["reset", "half-close", "stall"] {
            let request = Request::new(way, "gone.png", &content);
            let mut client = request.begin(&world);
            let before = slow_clients(&world, "buffered");
            evenly(&mut client, &request.body[..MIB], SLOW / 4);
            wait_until_buffered(&world, MIB - (64 << 10));
            wait_until("it is noticed", || slow_clients(&world, "buffered") > before);
            match end {
                "reset" => client.reset(),
                "half-close" => {
                    client.finish();
                    client.response().problem(400, "truncated_body");
                }
                _ => drop(client.response().problem(408, "client_stalled")),
            }
            wait_until("it is released", || metric(&world, "gateway_memory_budget_bytes") == 0);
        }
    }
    world.assert_nothing_stored();
    // No link is asked for in order to send what cannot be complete.
    assert_eq!(world.count("uploadfile"), 6);
}

#[test]
fn a_photo_that_cos_refused_as_too_slow_is_sent_again_from_its_window() {
    let world = limited("150s").start();
    std::thread::scope(|scope| {
        for (way, path) in [(Way::Form, "form"), (Way::Raw, "raw"), (Way::Form, "another")] {
            let world = &world;
            scope.spawn(move || {
                let content = noise(PHOTO, 6);
                let stored = Request::new(way, path, &content).send_over(world, SLOW).stored();
                assert_eq!(stored["crc64"], crc64(&content), "{path}");
            });
        }
    });
    assert_eq!(replays(&world, "too_slow"), 3);
    assert_eq!((slow_clients(&world, "buffered"), slow_clients(&world, "streamed")), (0, 0));
    assert_eq!(world.objects().len(), 3);
}

/// Too large for `max_buffered_file`, memory used up, and a limit of zero, which buffers nothing.
#[test]
fn a_slow_file_that_does_not_fit_memory_is_refused_with_advice() {
    let small_window = ("upload.replay_window_max", "1MiB");
    for (size, settings, streamed) in [
        (40 * MIB, [("upload.max_buffered_file", "32MiB"), ("cos.slow_limit", "1s")], 1),
        (PHOTO, [("upload.max_buffered_file", "3MiB"), small_window], 1),
        (PHOTO, [("upload.max_buffered_file", "4MiB"), ("upload.memory_budget", "4MiB")], 1),
        (40 * MIB, [("upload.max_buffered_file", "64MiB"), ("cos.slow_limit", "0s")], 0),
    ] {
        let world = settings
            .iter()
            .fold(limited("1s"), |setup, (key, value)| setup.set(key, value))
            .start();
        let content = noise(size, 7);
        std::thread::scope(|scope| {
            for (way, path) in [(Way::Form, "form"), (Way::Raw, "raw")] {
                let (world, content) = (&world, &content);
                scope.spawn(move || {
                    let response = Request::new(way, path, content).send_over(world, SLOW);
                    let problem = response.problem(408, "upload_too_slow");
                    assert_eq!(problem["cos_code"], "UserNetworkTooSlow");
                    let detail = problem["detail"].as_str().expect("a text");
                    for cure in ["faster", "max_buffered_file", "memory_budget", "cos.via"] {
                        assert!(detail.contains(cure), "{cure}: {detail}");
                    }
                });
            }
        });
        world.assert_nothing_stored();
        assert_eq!(slow_clients(&world, "streamed"), 2 * streamed, "{settings:?}");
        assert_eq!(slow_clients(&world, "buffered"), 0, "{settings:?}");
        let warnings = || world.gateway.log().matches("the client is so slow").count() as u64;
        wait_until("both are warned about", || warnings() >= 2 * streamed);
        assert_eq!(warnings(), 2 * streamed, "{settings:?}: {}", world.gateway.log());
        let refused = metric(&world, "gateway_uploads_total{result=\"upload_too_slow\"}");
        assert_eq!(refused, 2, "{settings:?}");
    }
}

/// COS's own fault, three times in a row: there is an end to sending it again.
#[test]
fn a_slow_file_that_does_not_fit_memory_is_spooled() {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = folder.path().display().to_string();
    let with_spool = |limit: &str| {
        limited("1s")
            .set("upload.max_buffered_file", "1MiB")
            .set("resumable.spool", &spool)
            .set("resumable.spool_limit", limit)
            .set("upload.replay_window_max", "256KiB")
            .start()
    };
    let content = noise(PHOTO, 5);
    let world = with_spool("100MiB");
    std::thread::scope(|scope| {
        for (way, path) in [(Way::Form, "form.png"), (Way::Raw, "raw.png")] {
            let (world, content) = (&world, &content);
            scope.spawn(move || {
                let request = Request::new(way, path, content);
                let stored = request.send_over(world, SLOW).stored();
                assert_eq!(stored["crc64"], crc64(content), "{path}");
            });
        }
        // One that goes away leaves nothing.
        let mut gone = Request::new(Way::Raw, "gone.png", &content).begin(&world);
        evenly(&mut gone, &content[..PHOTO / 2], SLOW / 2);
        assert_ne!(metric(&world, "gateway_spool_bytes"), 0);
    });
    assert!(world.object("form.png") == content && world.object("raw.png") == content);
    assert_eq!((slow_clients(&world, "spooled"), slow_clients(&world, "streamed")), (3, 0));
    wait_until("the spool is empty", || metric(&world, "gateway_spool_bytes") == 0);
    assert_eq!(world.objects().len(), 2);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "the lock");
    drop(world);

    // Without room there, it is streamed, and COS refuses it.
    let world = with_spool("2MiB");
    let request = Request::new(Way::Raw, "full.png", &content);
    request.send_over(&world, SLOW).problem(408, "upload_too_slow");
    assert_eq!((slow_clients(&world, "streamed"), world.objects().len()), (1, 0));
}

#[test]
fn a_file_that_is_always_too_slow_is_refused() {
    let world = world("150s");
    world.faults(&json!([{"stage": "cos", "fault": "too_slow"}]));
    for (way, size) in [(Way::Form, 1000), (Way::Raw, PHOTO), (Way::Form, 20 * MIB)] {
        let request = Request::new(way, "slow", &noise(size, 8));
        request.send_over(&world, Duration::ZERO).problem(408, "upload_too_slow");
    }
    // Three attempts for each file that fits its window, one for the other.
    assert_eq!(replays(&world, "too_slow"), 4);
    world.assert_nothing_stored();
}

/// Decided while the file is being sent, and reported then: not when the attempt ends.
#[test]
fn a_slow_file_that_is_streamed_is_reported_at_once() {
    let small_window = ("upload.replay_window_max", "1MiB");
    for (size, settings) in [
        (40 * MIB, [("upload.max_buffered_file", "32MiB"), ("cos.slow_limit", "1s")]),
        (PHOTO, [("upload.max_buffered_file", "3MiB"), small_window]),
        (PHOTO, [("upload.max_buffered_file", "4MiB"), ("upload.memory_budget", "4MiB")]),
    ] {
        let setup =
            settings.iter().fold(limited("1s"), |setup, (key, value)| setup.set(key, value));
        let world = setup.start();
        let content = noise(size, 11);
        for (number, way) in [(1, Way::Form), (2, Way::Raw)] {
            let request = Request::new(way, "slow.png", &content);
            let mut client = request.begin(&world);
            evenly(&mut client, &request.body[..MIB], Duration::from_millis(2500));
            wait_until("it is reported", || slow_clients(&world, "streamed") == number);
            let warnings = || world.gateway.log().matches("the client is so slow").count() as u64;
            wait_until("it is warned about", || warnings() == number);
            client.send(&request.body[MIB..]);
            client.response().problem(408, "upload_too_slow");
            assert_eq!((slow_clients(&world, "streamed"), warnings()), (number, number));
        }
        assert_eq!(slow_clients(&world, "buffered"), 0, "{settings:?}");
        world.assert_nothing_stored();
    }
}

const CLIENTS: usize = 200;
/// The default of `upload.memory_budget`.
const BUDGET: u64 = 256 << 20;

/// So many clients at once, each of which sends `content` over `time`; asserts that memory stays bounded.
fn two_hundred_at_once(world: &World, content: &[u8], time: Duration) -> Vec<Response> {
    world.post(&Form::new().file("file", "x", "text/plain", b"warm")).stored();
    let idle = world.gateway.memory("VmRSS");
    let (over, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    let responses: Vec<_> = std::thread::scope(|scope| {
        let _end = SetAtEnd(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let used = metric(world, "gateway_memory_budget_bytes");
                most.fetch_max(used, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let senders: Vec<_> = (0..CLIENTS)
            .map(|index| {
                scope.spawn(move || {
                    let way = if index % 2 == 0 { Way::Form } else { Way::Raw };
                    let request = Request::new(way, &format!("{index}.png"), content);
                    request.send_over(world, time)
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().expect("a response")).collect()
    });
    let (most, peak) = (most.into_inner(), world.gateway.memory("VmHWM"));
    println!(
        "{CLIENTS} slow clients of 4 MiB: {:?}; budget used {} MiB at most; RSS idle {idle} KiB, peak {peak} KiB",
        began.elapsed(),
        most >> 20
    );
    assert!(most <= BUDGET, "{most}");
    assert!(peak < idle + (BUDGET >> 10) + (64 << 10), "idle {idle} KiB, peak {peak} KiB");
    wait_until("memory is released", || metric(world, "gateway_memory_budget_bytes") == 0);
    responses
}

#[test]
fn two_hundred_slow_clients_stay_inside_the_memory_budget() {
    let world = world("1s");
    let content = noise(PHOTO, 9);
    let crc = crc64(&content);
    let responses = two_hundred_at_once(&world, &content, SLOW);
    let (mut stored, mut refused) = (0, 0);
    for response in &responses {
        if response.status == 201 {
            assert_eq!(response.stored()["crc64"], crc);
            stored += 1;
        } else {
            response.problem(408, "upload_too_slow");
            refused += 1;
        }
    }
    println!("{stored} stored, {refused} too slow");
    // Three quarters of the budget, since all are one client, hold 48 files.
    assert!(stored >= 24, "{stored}");
    assert_eq!(stored + refused, CLIENTS);
    assert_eq!(world.objects().len(), stored + 1);
}

/// By the API: a whole file takes longer than COS's limit. A part of it does not, though it is up to 3 MiB where a client
/// has waited 10 s for memory that the others have used up. The time is long, so that what is between is more than a busy
/// machine takes.
#[test]
fn two_hundred_slow_clients_by_the_api_are_all_stored() {
    let limit = Duration::from_secs(19);
    let setup = Setup::new().by_api().set("cos.api.abort_after", "0s");
    let world = setup.sandbox(|options| options.upload_limit = Some(limit)).start();
    let content = noise(PHOTO, 9);
    let crc = crc64(&content);
    let responses = two_hundred_at_once(&world, &content, limit + Duration::from_secs(1));
    for response in &responses {
        assert_eq!(response.status, 201, "{}", response.text());
        assert_eq!(response.stored()["crc64"], crc);
    }
    assert_eq!(world.objects().len(), CLIENTS + 1);
    for index in 0..CLIENTS {
        assert!(world.object(&format!("{index}.png")) == content, "{index}");
    }
    assert!(world.multipart_uploads().is_empty());
}
