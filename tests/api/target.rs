//! `cargo bench --bench relay -- --target URL`: the load test of a deployment, against the real gateway, and against
//! servers that respond as a gateway would not.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::bench::deployment;
use clap::Parser;
use serde_json::{Value, json};

use crate::harness::{KEY, Setup, World};
use crate::target_bounds::Untouched;
use crate::tls::Certificate;

/// The arguments of `benches/relay.rs`, of which only the names matter.
#[derive(Parser, Debug)]
pub struct Arguments {
    filters: Vec<String>,
    #[arg(long)]
    quick: bool,
    #[arg(long)]
    check: bool,
    #[arg(long)]
    rounds: Option<usize>,
    #[arg(long)]
    peers: Vec<String>,
    #[arg(long)]
    binary: Vec<String>,
    #[arg(long)]
    polling: bool,
    #[arg(long)]
    record: bool,
    #[arg(long)]
    guides: Option<String>,
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    deployment: deployment::arguments::TargetArguments,
}

/// A run that has ended. `result` as the exit code has it: 0 for `Ok(true)`, 1 for `Ok(false)`, 2 for an error.
pub struct Ended {
    pub result: Result<bool, String>,
    /// All that it printed.
    pub printed: String,
    pub report: Value,
}

impl Ended {
    /// The report of a run in which all went well.
    pub fn good(self) -> Value {
        assert_eq!(self.result, Ok(true), "{}", self.printed);
        self.report
    }

    /// What a run that was not begun said.
    pub fn refused(self) -> String {
        assert_eq!(self.report, Value::Null, "{}", self.printed);
        self.result.expect_err("it is refused")
    }

    #[track_caller]
    pub fn failed(&self, said: &str) {
        assert_eq!(self.result, Ok(false), "{}", self.printed);
        assert!(self.printed.contains(said), "no {said:?} in\n{}", self.printed);
    }
}

/// Runs with these arguments, separated by spaces; `typed` is what is typed into a terminal, if there is one.
pub fn run_typing(
    target: &str,
    arguments: &str,
    typed: Option<&str>,
    stop: impl AsyncFn(),
) -> Ended {
    let all = ["relay", "--target", target].into_iter().chain(arguments.split_whitespace());
    let arguments = Arguments::try_parse_from(all);
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(error) => {
            let result = Err(error.to_string());
            return Ended { result, printed: String::new(), report: Value::Null };
        }
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let io = deployment::Io {
        input: &mut typed.unwrap_or_default().as_bytes(),
        is_terminal: typed.is_some(),
        out: &mut out,
        progress: &mut progress,
    };
    let ran = deployment::run(&arguments.deployment, Some(KEY.into()), Some(file.path()), io, stop);
    let json = std::fs::read_to_string(file.path()).expect("a report");
    let result = ran.map_err(|error| error.to_string());
    let printed = String::from_utf8([progress, out].concat()).expect("UTF-8");
    assert!(![&printed, &json, &format!("{result:?}")].iter().any(|text| text.contains(KEY)));
    Ended { result, printed, report: serde_json::from_str(&json).unwrap_or_default() }
}

/// Runs without a terminal, to its end.
pub fn run(target: &str, arguments: &str) -> Ended {
    run_typing(target, &format!("--yes {arguments}"), None, std::future::pending)
}

pub fn url(world: &World) -> String {
    format!("http://{}", world.gateway.address)
}

#[test]
fn what_a_run_stores_is_deleted_again() {
    stored_and_deleted(Setup::new().set("cos.via", "form"), &["link", "send", "verdict"]);
    // COS's response to a small file is part of sending it.
    stored_and_deleted(Setup::new().by_api(), &["link", "send"]);
}

/// A run whose report has these stages of the gateway.
fn stored_and_deleted(setup: Setup, stages: &[&str]) {
    let world = setup.start();
    let began = Instant::now();
    let ended = run(&url(&world), "--seconds 2");
    assert!(began.elapsed() >= Duration::from_secs(2));
    for said in [
        "| gateway's version | 0.1.0 |",
        "| load | 64.0 KiB × 4 connections, closed loop |",
        "Ended: the time was over.",
        "Downloaded again: the same bytes.",
        "; remaining: 0.",
    ] {
        assert!(ended.printed.contains(said), "no {said} in\n{}", ended.printed);
    }
    let report = ended.good();
    let uploads = report["uploads"].as_u64().expect("a number");
    assert!(uploads > 10, "{report}");
    assert_eq!(world.count("uploadfile"), uploads + 1);
    assert_eq!(report["deletion"]["deleted"], uploads);
    assert_eq!((&report["failed"], &report["errors"]), (&json!(0), &json!({})));
    assert_eq!(world.objects(), Vec::<Value>::new());
    let ms = |path: &str| report.pointer(path).and_then(Value::as_f64).expect(path);
    assert!(ms("/latency_ms/p50") > 0.0 && ms("/latency_ms/p50") <= ms("/latency_ms/p99"));
    assert!(ms("/latency_ms/p99") <= ms("/latency_ms/max") && ms("/latency_ms/max") < 60e3);
    let told: Vec<_> = report["stages_ms"].as_object().expect("stages").keys().collect();
    assert_eq!(told, stages);
    for stage in stages.iter().map(|stage| format!("/stages_ms/{stage}/p50")) {
        assert!(ms(&stage) <= ms("/latency_ms/max"), "{stage}");
    }
    assert!(ms("/rest_ms/p50") <= ms("/latency_ms/p50"), "{report}");
    let (seconds, each) = (ms("/seconds"), ms("/uploads_per_second"));
    assert!((each * seconds - uploads as f64).abs() < 0.5, "{report}");
    assert!((ms("/mib_per_second") - each / 16.0).abs() < 0.01);
}

#[test]
fn files_that_are_to_stay_are_under_the_prefix() {
    let world = Setup::new().set("wechat.warm_links", "off").start();
    // The size of several runs of bytes.
    let arguments = "--prefix load/test --keep --uploads 3 --connections 2 --size 5MiB";
    let ended = run(&format!("{}/v1/files/", url(&world)), arguments);
    let run = ended.report["run"].as_str().expect("a name").to_owned();
    assert!(ended.printed.contains("remaining: 4, in `load/test/"), "{}", ended.printed);
    let report = ended.good();
    assert_eq!((&report["deletion"]["remaining"], &report["uploads"]), (&json!(4), &json!(3)));
    assert_eq!(report["folder"], format!("load/test/{run}"));
    let mut stored: Vec<_> = world
        .objects()
        .iter()
        .map(|object| (object["key"].as_str().expect("a key").to_owned(), object["size"].clone()))
        .collect();
    stored.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = ["0", "1", "2", "check"].map(|name| {
        let size = if name == "check" { 1 << 20 } else { 5 << 20 };
        (format!("load/test/{run}/{name}"), json!(size))
    });
    assert_eq!(stored, expected);
    world.gateway.log_with(&format!("bench-{run}-2"));
}

#[test]
fn a_check_that_fails_is_the_only_request() {
    let world = Setup::new()
        .set("auth.keys.writer.sha256", hex_digest("writer's"))
        .set("auth.keys.writer.can", "upload,download")
        .set("auth.keys.writer.client_paths", "false")
        .start();
    run(&url(&world), "--key no-such-key").failed("401 unauthenticated: the key is not known");
    assert_eq!((world.count("uploadfile"), world.count("batchdeletefile")), (0, 0));

    let chosen = run(&url(&world), "--key writer's --prefix x");
    chosen.failed("nothing else was sent: 403 path_not_allowed");
    assert_eq!(world.count("uploadfile"), 0);

    let remains = run(&url(&world), "--key writer's");
    remains
        .failed("the check's file cannot be deleted, and nothing else was sent: 403 not_allowed");
    remains.failed("It remains at uploads/");
    assert_eq!((world.count("uploadfile"), world.objects().len()), (1, 1));

    let kept = run(&url(&world), "--key writer's --keep --uploads 2").good();
    assert_eq!(kept["deletion"]["remaining"], 3);
    assert_eq!(world.objects().len(), 4);

    let unused = Untouched::new();
    let nowhere = unused.url();
    drop(unused);
    run(&nowhere, "").failed("nothing else was sent: cannot reach 127.0.0.1:");
}

fn hex_digest(key: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(key))
}

#[test]
fn certificates_are_verified() {
    let certificate = Certificate::new();
    let world = certificate.shown(Setup::new()).start();
    let target = format!("https://localhost:{}", world.gateway.address.port());
    let unknown = run(&target, "--uploads 2");
    unknown.failed("nothing else was sent: cannot reach localhost:");
    unknown.failed("certificate");
    assert_eq!(world.count("uploadfile"), 0);

    let trusted = format!("--uploads 8 --ca {}", certificate.file("cert.pem").display());
    let report = run(&target, &trusted).good();
    assert_eq!((&report["uploads"], &report["deletion"]["deleted"]), (&json!(8), &json!(8)));
    assert!(report["first"]["tls_ms"].as_f64().expect("a time") > 0.0);
    assert_eq!(report["first"]["download"], "the same bytes");
    assert_eq!(world.objects(), Vec::<Value>::new());

    let other = Certificate::new();
    run(&target, &format!("--ca {}", other.file("cert.pem").display())).failed("certificate");
    let key = other.file("key.pem");
    let refused = run(&target, &format!("--ca {}", key.display())).refused();
    assert_eq!(refused, format!("--ca {}: no certificate in it", key.display()));
}

#[test]
fn an_open_loop_counts_the_wait() {
    let world = Setup::new().start();
    world.faults(&json!([{"stage": "link", "fault": "delay", "ms": 300}]));
    // One connection carries fewer than 4 a second.
    let ended = run(&url(&world), "--rate 4 --seconds 2 --connections 1 --size 1KiB");
    assert_eq!(ended.result, Ok(true), "{}", ended.printed);
    let report = &ended.report;
    assert_eq!((&report["uploads"], &report["unsent"]), (&json!(8), &json!(0)));
    let p99 = |of: &str| report[of]["p99"].as_f64().expect("a time");
    // The last is scheduled 1,750 ms after the first, and is begun 2,100 ms after it at the earliest.
    assert!(p99("wait_ms") >= 349.0 && p99("latency_ms") >= 649.0, "{}", ended.printed);
    assert!(report["stages_ms"]["link"]["p50"].as_f64().expect("a time") >= 299.0);

    world.faults(&json!([{"stage": "link", "fault": "delay", "ms": 700}]));
    let ended = run(&url(&world), "--rate 10 --seconds 1 --connections 1 --size 1KiB");
    ended.failed("Ended: the deployment is slower than the rate.");
    let count = |of: &str| ended.report[of].as_u64().expect("a number");
    assert_eq!(count("uploads") + count("unsent"), 10, "{}", ended.printed);
    assert!(count("unsent") >= 6, "{}", ended.printed);
    assert_eq!(world.objects(), Vec::<Value>::new());
}

#[test]
fn an_interrupted_run_deletes_what_it_has_stored() {
    let world = Setup::new().start();
    let stored = Rc::new(std::cell::Cell::new(false));
    let stop = async || {
        // The first call is for the load, the second for the deletion, which is not interrupted.
        if stored.replace(true) {
            return std::future::pending().await;
        }
        while world.count("uploadfile") < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let ended = run_typing(&url(&world), "--yes --seconds 600", None, stop);
    ended.failed("Ended: interrupted.");
    assert!(ended.report["uploads"].as_u64().expect("a number") >= 3);
    assert_eq!(ended.report["deletion"]["remaining"], 0);
    assert_eq!(world.objects(), Vec::<Value>::new());

    // A second interruption ends the deletion, and what remains is named.
    let ended = run_typing(&url(&world), "--yes --uploads 3", None, async || {
        if stored.replace(false) {
            std::future::pending().await
        }
    });
    ended.failed("Deleted: 0 files; remaining: 3, in `uploads/");
    ended.failed("(interrupted)");
    assert_eq!(world.objects().len(), 3);
}
