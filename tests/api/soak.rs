//! A soak test: valid, invalid and aborted uploads with changing upstream faults. At the end, memory and descriptors
//! must be as at the beginning. It runs for two minutes, or for `SOAK_MINUTES`:
//!
//! ```text
//! SOAK_MINUTES=60 cargo test --release --all-features --test api -- --ignored --nocapture soak::
//! ```

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::{Client, Form, Response, Setup, World, authorization, crc64, noise};

const SENDERS: usize = 8;
/// KiB that the allocator may retain from a moment of higher load.
pub const SLACK: u64 = 24 << 10;
/// The number of idle connections to WeChat and COS varies.
pub const IDLE: usize = 24;

/// How many uploads had each outcome.
#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    pub fn count(&self, end: &str) {
        self.add(end, 1);
    }

    pub fn add(&self, end: &str, number: u64) {
        *self.0.lock().expect("the tally").entry(end.to_owned()).or_default() += number;
    }

    pub fn text(&self) -> String {
        let ends = self.0.lock().expect("the tally");
        let ends = ends.iter().map(|(end, count)| format!("{end} {count}"));
        ends.collect::<Vec<_>>().join(", ")
    }

    pub fn of(&self, end: &str) -> u64 {
        self.0.lock().expect("the tally").get(end).copied().unwrap_or_default()
    }
}

/// A client of the key `panel`.
pub struct Sender<'w> {
    pub world: &'w World,
    pub tally: &'w Tally,
    pub random: Rng,
    pub name: usize,
    /// The number of the last path.
    pub sent: u64,
}

impl Sender<'_> {
    pub fn path(&mut self) -> String {
        self.sent += 1;
        format!("{}/{}.bin", self.name, self.sent)
    }

    pub fn content(&mut self) -> Vec<u8> {
        let most = *self.random.choice(&[1, 1000, 100_000, 1 << 20, 4 << 20]).expect("a size");
        noise(self.random.usize(0..most), self.random.u64(..))
    }

    pub fn step(&mut self) {
        match self.random.u8(0..12) {
            0..=3 => self.good(),
            4 => self.several(),
            5 => self.raw(false),
            6 => self.raw(true),
            7 | 8 => self.broken_off(),
            9 => self.cut_short(),
            _ => self.bad(),
        }
    }

    fn check_and_delete(&self, client: &mut Client, crc: &str) {
        self.check(&client.response(), "panel", crc);
    }

    /// Counts the response to a valid upload; checks that the stored file is what was sent, and deletes it.
    pub fn check(&self, response: &Response, name: &str, crc: &str) {
        let body = response.json();
        if response.status != 201 {
            self.tally.count(body["code"].as_str().unwrap_or("partly stored"));
        }
        for file in body["files"].as_array().into_iter().flatten() {
            if file["error"].is_object() {
                continue;
            }
            assert_eq!(file["crc64"], crc, "{body}");
            self.tally.count("stored");
            self.tally.add(&format!("bytes of {name}"), file["size"].as_u64().expect("a size"));
            let target = format!("/v1/files/{}", file["path"].as_str().expect("a path"));
            assert_eq!(self.world.call("DELETE", &target, &Value::Null).status, 204);
        }
    }

    fn good(&mut self) {
        let (path, content) = (self.path(), self.content());
        let form = Form::new().field("path", &path).file("file", "x.bin", "image/png", &content);
        self.post(&form, &crc64(&content));
    }

    fn several(&mut self) {
        let content = self.content();
        let one = |form: Form| form.file("files[]", "x.bin", "image/png", &content);
        self.post(&one(one(Form::new())), &crc64(&content));
    }

    fn post(&mut self, form: &Form, crc: &str) {
        let (kind, body) = (form.content_type(), form.bytes());
        let mut client = self.world.client();
        let headers = [authorization(), ("content-type", kind.as_str())];
        client.send_request("POST", "/v1/files", &headers, &body);
        self.check_and_delete(&mut client, crc);
    }

    fn raw(&mut self, chunked: bool) {
        let (path, content) = (format!("/v1/files/{}", self.path()), self.content());
        let mut client = self.world.client();
        if chunked {
            client.send_head("PUT", &path, &[authorization(), ("transfer-encoding", "chunked")]);
            for piece in content.chunks(30_000) {
                client.send_chunk(piece);
            }
            client.send(b"0\r\n\r\n");
        } else {
            client.send_request("PUT", &path, &[authorization()], &content);
        }
        self.check_and_delete(&mut client, &crc64(&content));
    }

    /// A client that resets the connection in the middle of the body.
    fn broken_off(&mut self) {
        let (path, content) = (format!("/v1/files/{}", self.path()), self.content());
        let mut client = self.world.client();
        let length = (content.len() + 1).to_string();
        client.send_head("PUT", &path, &[authorization(), ("content-length", &length)]);
        let _ = client.try_send(&content[..self.random.usize(0..=content.len())]);
        client.reset();
        self.tally.count("aborted");
    }

    /// A client that half-closes the connection before the end of the body.
    fn cut_short(&mut self) {
        let (path, content) = (self.path(), self.content());
        let form = Form::new().field("path", &path).file("file", "x.bin", "image/png", &content);
        let (kind, body) = (form.content_type(), form.bytes());
        let mut client = self.world.client();
        let length = body.len().to_string();
        let headers = [authorization(), ("content-type", &kind), ("content-length", &length)];
        client.send_head("POST", "/v1/files", &headers);
        let _ = client.try_send(&body[..self.random.usize(0..body.len())]);
        client.finish();
        let _ = client.try_response();
        self.tally.count("cut short");
    }

    /// An upload that is refused with a reason.
    fn bad(&mut self) {
        let content = noise(self.random.usize(0..300_000), 1);
        let file = Form::new().file("file", "x", "text/plain", &content);
        let kind = file.content_type();
        let (form, key) = (("content-type", kind.as_str()), authorization());
        let foreign = ("authorization", "Bearer nobody's");
        let cases = [
            (vec![form], file.bytes()),
            (vec![form, foreign], file.bytes()),
            (vec![key, ("content-type", "text/plain")], content),
            (vec![key, form], Form::new().field("path", "../up").bytes()),
            (vec![key, form], Form::new().file("file", "x", "text/plain", &[7; 9 << 20]).bytes()),
        ];
        let (headers, body) = self.random.choice(&cases).expect("a case");
        let mut client = self.world.client();
        let length = body.len().to_string();
        let headers = [&headers[..], &[("content-length", length.as_str())]].concat();
        client.send_head("POST", "/v1/files", &headers);
        let _ = client.try_send(body);
        let response = client.response();
        assert!((400..500).contains(&response.status), "{response:?}");
        self.tally.count("refused");
    }
}

/// Sets COS's faults at random, and changes them now and then.
pub fn change_faults(world: &World, random: &mut Rng) {
    let refuse = json!({"stage": "cos", "fault": "early", "status": 403, "code": "AccessDenied", "after": 1000, "times": 3});
    let busy =
        json!({"stage": "cos", "fault": "status", "status": 503, "code": "SlowDown", "times": 3});
    let reset = json!({"stage": "cos", "fault": "reset_within", "after": 100_000, "times": 3});
    let slow = json!({"stage": "cos", "fault": "slow", "bytes_per_second": 5_000_000, "times": 20});
    let link = json!({"stage": "link", "fault": "errcode", "errcode": -1, "times": 3});
    let put =
        json!({"stage": "put", "fault": "status", "status": 503, "code": "SlowDown", "times": 3});
    let part = json!({"stage": "part", "fault": "reset_within", "after": 100_000, "times": 3});
    let complete = json!({"stage": "complete", "fault": "error_200", "times": 3});
    let all = [refuse, busy, reset, slow, link, put, part, complete];
    let mood = if random.bool() { vec![] } else { random.choose_multiple(all.iter(), 3) };
    world.faults(&json!(mood));
}

/// Memory in KiB and descriptors, without any client.
pub fn at_rest(world: &World) -> (u64, usize) {
    assert_eq!(world.control("GET", "wait?idle=1&timeout_ms=30000", "").status, 200);
    (world.gateway.memory("VmRSS"), world.gateway.descriptors())
}

fn soak(world: &World, tally: &Tally, span: Duration, seed: u64) {
    let until = Instant::now() + span;
    std::thread::scope(|scope| {
        for name in 0..SENDERS {
            let random = Rng::with_seed(seed + name as u64);
            let mut sender = Sender { world, tally, random, name, sent: seed };
            scope.spawn(move || {
                while Instant::now() < until {
                    sender.step();
                }
            });
        }
        let mut random = Rng::with_seed(seed);
        let mut told = Instant::now();
        while Instant::now() < until {
            change_faults(world, &mut random);
            std::thread::sleep(Duration::from_millis(500).min(until - Instant::now().min(until)));
            if told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                let (memory, files) = (world.gateway.memory("VmRSS"), world.gateway.descriptors());
                println!("{}; {memory} KiB, {files} descriptors", tally.text());
            }
        }
    });
    world.control("DELETE", "faults", "");
}

#[test]
#[ignore = "takes minutes; tests/run runs it"]
fn memory_and_descriptors_stay_flat() {
    let minutes = std::env::var("SOAK_MINUTES").map_or(2.0, |text| text.parse().expect("minutes"));
    let span = Duration::from_secs_f64(minutes * 60.0);
    let world = Setup::new()
        .set("upload.max_file_size", "8MiB")
        .set("upload.idle_timeout", "5s")
        // Only warnings and the listening line: the test keeps the whole log in memory.
        .set("telemetry.log", "error,tcb_upload_gateway::app=info")
        .start();
    let tally = Tally::default();
    let mut idle = world.client();
    idle.send_request("GET", "/healthz", &[], b"");
    assert_eq!(idle.response().status, 200);
    // By then one-time allocations are done, and the allocator retains what it will retain.
    soak(&world, &tally, span / 2, 1);
    let (memory_before, files_before) = at_rest(&world);
    println!("after half of it: {}; {memory_before} KiB, {files_before} descriptors", tally.text());
    soak(&world, &tally, span / 2, 1 << 32);
    let (memory, files) = at_rest(&world);
    println!("{minutes} minutes: {}; {memory} KiB, {files} descriptors", tally.text());

    // Connections are closed 75 s after their last response.
    if span > Duration::from_secs(80) {
        let error = idle.try_response().expect_err("no response without a request").kind();
        assert!(!matches!(error, ErrorKind::WouldBlock | ErrorKind::TimedOut), "still open");
    }
    for end in ["stored", "aborted", "cut short", "refused"] {
        assert!(tally.of(end) > 100, "{end}: {}", tally.text());
    }
    assert_eq!(world.objects(), Vec::<Value>::new(), "what was broken off is not stored");
    assert!(memory <= memory_before + SLACK, "{memory_before} KiB, then {memory} KiB");
    assert!(files <= files_before + IDLE, "{files_before} descriptors, then {files}");
}
