//! A soak test of two gateways as they are operated, one for each way to COS: resumable uploads over connections that
//! break, sessions of the owner's auth server, hooks, and a reload every few seconds that replaces a key. At the end
//! memory and descriptors are as in the middle, and the log agrees with what the clients were told. It runs for a
//! minute, or for `SOAK_MINUTES`, and writes its figures to `target/soak.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::forward_auth::AuthServer;
use crate::harness::{Client, Response, World, authorization, crc64, wait_until};
use crate::hooks::{Received, Receiver, SECRET};
use crate::logs::answers_of_the_guide;
use crate::measured::{metrics, value};
use crate::reload::reading;
use crate::resumable::{OCTETS, TUS, metadata, path_of};
use crate::soak::{IDLE, SLACK, Sender, Tally, at_rest, change_faults};

const SENDERS: usize = 4;
/// Between two uploads of one client: the log of an hour is kept in memory.
const PAUSE: Duration = Duration::from_millis(200);
const RELOAD_AFTER: Duration = Duration::from_secs(5);
/// The figures: the first part is written before the checks.
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/soak.md");
/// Requests for one resumable upload; faults end after three.
const ATTEMPTS: usize = 30;

/// A gateway, the owner's servers, and what its clients were told.
struct Site {
    road: &'static str,
    world: World,
    hooks: Receiver,
    auth: AuthServer,
    config: PathBuf,
    /// The number of the key in use, and of the newest in the file.
    key: AtomicU64,
    newest_key: AtomicU64,
    tally: Tally,
}

impl Site {
    fn start(road: &'static str) -> Self {
        let (auth, hooks) = (AuthServer::start(), Receiver::start());
        let setup = auth
            .setup()
            .set("cos.via", road)
            .set("upload.max_file_size", "8MiB")
            .set("upload.idle_timeout", "5s")
            .set("hooks.stored_url", format!("http://{}/events", hooks.address()))
            .set("hooks.secret", SECRET);
        let config = setup.folder().join("gateway.toml");
        let audit = setup.folder().join("audit.log");
        std::fs::write(&config, settings(1)).expect("a file");
        let world = reading(setup.set("telemetry.audit", audit.display()), &config);
        let [key, newest_key] = [1, 1].map(AtomicU64::new);
        Self { road, world, hooks, auth, config, key, newest_key, tally: Tally::default() }
    }

    /// Replaces the key, the limit and the origin; the key before stays valid until the next reload.
    fn reload(&self) {
        let number = self.newest_key.fetch_add(1, Ordering::SeqCst) + 1;
        let new = self.config.with_extension("new");
        std::fs::write(&new, settings(number)).expect("a file");
        std::fs::rename(new, &self.config).expect("a file");
        self.world.gateway.signal("HUP");
        wait_until("the settings are applied", || {
            let valid = format!("Bearer {}", key(number));
            let headers = [("authorization", valid.as_str())];
            // Let in, it is told that it names no file. (A GET of a public file tells nothing of the key.)
            self.world.call_with("DELETE", "/v1/files", &headers, "").status == 400
        });
        self.key.store(number, Ordering::SeqCst);
    }

    fn reloads(&self) -> u64 {
        self.newest_key.load(Ordering::SeqCst) - 1
    }

    fn run(&self, until: Instant, seed: u64) {
        std::thread::scope(|scope| {
            for name in 0..SENDERS {
                let random = Rng::with_seed(seed + name as u64);
                let plain =
                    Sender { world: &self.world, tally: &self.tally, random, name, sent: seed };
                scope.spawn(move || Operator { site: self, plain }.run(until));
            }
            let mut random = Rng::with_seed(seed);
            let mut reloaded = Instant::now();
            while Instant::now() < until {
                change_faults(&self.world, &mut random);
                std::thread::sleep(Duration::from_millis(500));
                if reloaded.elapsed() > RELOAD_AFTER {
                    self.reload();
                    reloaded = Instant::now();
                }
            }
        });
        self.world.control("DELETE", "faults", "");
    }

    /// KiB, descriptors, and what clients were told.
    fn line(&self) -> String {
        let gateway = &self.world.gateway;
        let (memory, peak) = (gateway.memory("VmRSS"), gateway.memory("VmHWM"));
        let (descriptors, cpu) = (gateway.descriptors(), gateway.cpu());
        let stored = self.tally.of("stored");
        format!("| {} | {memory} | {peak} | {descriptors} | {cpu:.1} | {stored} |", self.road)
    }
}

fn key(number: u64) -> String {
    format!("the-key-number-{number}-of-a-web-site")
}

fn settings(number: u64) -> String {
    let key_of = |name: &str, number| {
        format!("[auth.keys.{name}]\nsha256 = \"{}\"\n", hex::encode(Sha256::digest(key(number))))
    };
    format!(
        "cors.origins = [\"https://{number}.test\"]\nupload.max_concurrent = {}\n{}{}",
        900 + number % 100,
        key_of("web", number),
        key_of("web-old", number - 1),
    )
}

/// One client at a time of every kind.
struct Operator<'s> {
    site: &'s Site,
    plain: Sender<'s>,
}

impl Operator<'_> {
    fn run(mut self, until: Instant) {
        while Instant::now() < until {
            let next = Instant::now() + PAUSE;
            match self.plain.random.u8(0..10) {
                0..=3 => self.plain.step(),
                4..=6 => self.resumable(),
                7 | 8 => self.by_session(),
                _ => self.by_key(),
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn put(&mut self, name: &str, headers: &[(&str, &str)]) -> Response {
        let (path, content) = (self.plain.path(), self.plain.content());
        let mut client = self.site.world.client();
        client.send_request("PUT", &format!("/v1/files/{path}"), headers, &content);
        let response = client.response();
        self.plain.check(&response, name, &crc64(&content));
        response
    }

    /// A page with a session and a trace; each asks the auth server.
    fn by_session(&mut self) {
        let random = self.plain.random.u128(1..);
        let cookie = format!("session=alice; visit={random:x}");
        let trace = format!("00-{random:032x}-00f067aa0ba902b7-01");
        self.put("alice", &[("cookie", &cookie), ("traceparent", &trace)]);
    }

    /// A back end whose key is replaced at every reload.
    fn by_key(&mut self) {
        let number = self.site.key.load(Ordering::SeqCst);
        let bearer = format!("Bearer {}", key(number));
        let response = self.put("web", &[("authorization", &bearer)]);
        // On a busy machine two reloads may have come before the request.
        let is_valid = self.site.newest_key.load(Ordering::SeqCst) < number + 2;
        assert!(!is_valid || response.status != 401, "a valid key was refused: {response:?}");
    }

    /// An app whose connections break.
    fn resumable(&mut self) {
        let (site, path, content) = (self.site, self.plain.path(), self.plain.content());
        let length = content.len().to_string();
        let named = metadata(&[("path", &path)]);
        let headers =
            [authorization(), TUS, ("upload-length", &length), ("upload-metadata", &named)];
        let mut client = site.world.client();
        client.send_request("POST", "/v1/uploads", &headers, b"");
        let created = client.response();
        if created.status != 201 {
            return site.tally.count(created.json()["code"].as_str().expect("a code"));
        }
        let url = path_of(&created);
        for _ in 0..ATTEMPTS {
            let Some(at) = offset(site, &url) else { break };
            if at == content.len() {
                assert!(site.world.object(&path) == content, "{path}: other bytes are stored");
                site.tally.count("stored");
                site.tally.count("resumed");
                site.tally.add("bytes of panel", content.len() as u64);
                site.world.call("DELETE", &format!("/v1/files/{path}"), &Value::Null);
                return;
            }
            self.patch(&url, at, &content[at..]);
        }
        site.tally.count("resumable gave up");
        let ended = Client::connect(site.world.gateway.address)
            .try_request("DELETE", &url, &[authorization(), TUS], b"")
            .expect("a response");
        assert!([204, 404, 410].contains(&ended.status), "{ended:?}");
    }

    /// Sends the rest of a file; one connection in three is reset on the way.
    fn patch(&mut self, url: &str, at: usize, rest: &[u8]) {
        let (from, length) = (at.to_string(), rest.len().to_string());
        let headers =
            [authorization(), TUS, OCTETS, ("upload-offset", &from), ("content-length", &length)];
        let mut client = self.site.world.client();
        client.send_head("PATCH", url, &headers);
        if self.plain.random.u8(0..3) == 0 && !rest.is_empty() {
            let _ = client.try_send(&rest[..self.plain.random.usize(0..rest.len())]);
            client.reset();
            return self.site.tally.count("connections reset");
        }
        let _ = client.try_send(rest);
        if let Ok(response) = client.try_response()
            && response.status != 204
        {
            self.site.tally.count(response.json()["code"].as_str().expect("a code"));
        }
    }
}

/// `None`: the upload has ended otherwise.
fn offset(site: &Site, url: &str) -> Option<usize> {
    let mut client = site.world.client();
    client.send_head("HEAD", url, &[authorization(), TUS]);
    let (status, headers) = client.response_head().ok()?;
    let offset = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("upload-offset"));
    (status == 200).then(|| offset.and_then(|(_, value)| value.parse().ok()).expect("an offset"))
}

#[test]
#[ignore = "takes minutes; tests/run runs it"]
fn a_gateway_in_operation_stays_flat_and_its_log_tells_what_happened() {
    let minutes = std::env::var("SOAK_MINUTES").map_or(1.0, |text| text.parse().expect("minutes"));
    let half = Duration::from_secs_f64(minutes * 30.0);
    let sites = ["form", "api"].map(Site::start);
    let mut report = String::from(
        "| minute | road | RSS, KiB | peak, KiB | descriptors | CPU, s | stored |\n|---|---|---|---|---|---|---|\n",
    );
    let began = Instant::now();
    let mut middle = Vec::new();
    for (number, seed) in [(1, 1), (2, 1 << 32)] {
        let until = began + half * number;
        std::thread::scope(|scope| {
            for site in &sites {
                scope.spawn(move || site.run(until, seed));
            }
            while Instant::now() < until {
                let left = until.saturating_duration_since(Instant::now());
                std::thread::sleep(left.min(Duration::from_secs(60)));
                for site in &sites {
                    let minute = began.elapsed().as_secs_f64() / 60.0;
                    writeln!(report, "| {minute:.1} {}", site.line()).expect("a text");
                }
            }
        });
        let rest: Vec<_> = sites.iter().map(|site| at_rest(&site.world)).collect();
        if number == 1 {
            middle = rest;
            continue;
        }
        for (site, (before, after)) in sites.iter().zip(middle.iter().zip(rest)) {
            let text = format!(
                "{}: at rest in the middle {} KiB and {} descriptors, at the end {} and {}; {} reloads; {}",
                site.road,
                before.0,
                before.1,
                after.0,
                after.1,
                site.reloads(),
                site.tally.text(),
            );
            writeln!(report, "\n{text}").expect("a text");
            println!("{text}");
            assert!(after.0 <= before.0 + SLACK, "{text}");
            assert!(after.1 <= before.1 + IDLE, "{text}");
        }
    }
    std::fs::write(RECORD, &report).expect("a file");
    for site in &sites {
        writeln!(report, "\n{}:\n\n```text\n{}```", site.road, check(site)).expect("a text");
    }
    std::fs::write(RECORD, report).expect("a file");
}

/// Compares the log, the audit log, the events and the metrics with what clients were told; returns what the guide's
/// commands print.
fn check(site: &Site) -> String {
    let tally = &site.tally;
    for end in ["stored", "resumed", "connections reset", "aborted", "refused"] {
        assert!(tally.of(end) > 5, "{end}: {}", tally.text());
    }
    assert_eq!(site.world.objects(), Vec::<Value>::new(), "what was broken off is not stored");
    assert_eq!(site.world.multipart_uploads(), Vec::<Value>::new());

    let stored = tally.of("stored");
    let of = |events: &[Received], kind| {
        let ids = events.iter().filter(|event| event.json()["type"] == kind).map(Received::id);
        ids.map(str::to_owned).collect::<BTreeSet<_>>().len() as u64
    };
    wait_until("every file has its event", || of(&site.hooks.received(), "file.stored") >= stored);
    let events = site.hooks.received();
    assert_eq!(of(&events, "file.stored"), stored);
    let applied = value(&metrics(&site.world), "gateway_reloads_total{result=\"applied\"}");
    assert!(applied >= site.reloads() as f64, "{applied}");

    let audit = std::fs::read_to_string(site.world.folder().join("audit.log")).expect("the file");
    assert_eq!(audit.matches("\"event\":\"stored\"").count() as u64, stored);

    let log = site.world.gateway.log();
    let (mut bytes, mut codes) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    let mut traces = BTreeSet::new();
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if let Some(number) = line["bytes"].as_u64() {
            let client = line["client"].as_str().unwrap_or_else(|| panic!("no client: {line}"));
            let client = client.trim_end_matches("-old");
            *bytes.entry(client.to_owned()).or_default() += number;
        }
        if let Some(code) = line["code"].as_str().filter(|_| !line["status"].is_null()) {
            *codes.entry(code.to_owned()).or_default() += 1;
        }
        traces.extend(line["trace_id"].as_str().map(str::to_owned));
    }
    for client in ["panel", "web", "alice"] {
        let told = tally.of(&format!("bytes of {client}"));
        assert_eq!(bytes.get(client).copied().unwrap_or_default(), told, "{client}");
    }
    for (code, logged) in codes {
        assert!(logged >= tally.of(&code), "{code}: {logged}, told {}", tally.of(&code));
    }
    let asked: BTreeSet<_> = site.auth.received().iter().filter_map(|head| trace(head)).collect();
    let told: BTreeSet<_> = events.iter().filter_map(|event| trace(&event.head)).collect();
    assert!(told.iter().all(|trace| asked.contains(trace) && traces.contains(trace)), "{told:?}");
    assert!(told.len() > 5, "{told:?}");
    answers_of_the_guide(&log)
}

/// The trace in a request's head.
fn trace(head: &str) -> Option<String> {
    let (_, rest) = head.split_once("traceparent: 00-")?;
    Some(rest[..32].to_owned())
}
