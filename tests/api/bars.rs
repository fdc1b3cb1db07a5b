//! The bars of the load test: their limits, what is measured for them, and that a missed one fails `--check`; records of
//! before a bar existed; the load by a thread that polls.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::bench::bars::{self, Bar, Language};
use crate::bench::load::{Plan, Target};
use crate::bench::polling::Polling;
use crate::bench::request::Request;
use crate::bench::results::{Figures, Measured, Results, Round};
use crate::bench::scenarios::{self, Scenario};
use crate::bench::{process, record, upstream};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A round whose figures are all positive.
fn round() -> Round {
    Round {
        uploads: 1000,
        errors: 0,
        bytes: 1 << 30,
        seconds: 1.0,
        cpu_seconds: 1.0,
        idle_rss_kib: 1024,
        peak_rss_kib: 2048,
        p50_ms: 1.0,
        p90_ms: 1.0,
        p99_ms: 1.0,
        p999_ms: 1.0,
    }
}

fn measured(scenario: &Scenario, peers: Vec<(&str, Vec<Round>)>) -> Measured {
    let figures =
        |(name, rounds): (&str, _)| Figures { name: name.to_owned(), rounds, latency: Vec::new() };
    Measured {
        name: scenario.name.clone(),
        what: scenario.what.clone(),
        group: scenario.group,
        size: scenario.size,
        connections: scenario.plan.connections(),
        rate: None,
        peers: peers.into_iter().map(figures).collect(),
    }
}

fn results(scenarios: Vec<Measured>) -> Results {
    Results {
        date: "2026-01-01".to_owned(),
        command: String::new(),
        commit: String::new(),
        machine: String::new(),
        versions: BTreeMap::new(),
        polling: false,
        scenarios,
    }
}

/// What `--check` gives, where each relay is installed.
fn checked() -> Results {
    let barred = scenarios::all(1.0).into_iter().filter(|scenario| scenario.barred);
    let measure = |scenario: Scenario| {
        let by_api: &[&str] = if scenario.by_api { &["gateway-api"] } else { &[] };
        let peers = ["gateway"].iter().chain(scenario.field).chain(by_api);
        let figures = peers.map(|name| {
            // nginx adds something to what is sent directly.
            let p50_ms = if *name == "direct" { 0.5 } else { 1.0 };
            (*name, vec![Round { p50_ms, ..round() }; 7])
        });
        measured(&scenario, figures.collect())
    };
    results(barred.map(measure).collect())
}

#[test]
fn each_bar_has_its_limit_and_its_goal() {
    let all = bars::all(&checked());
    let table: Vec<_> = all
        .iter()
        .map(|bar| format!("{}: {}, {}", bar.what[0], bar.mark(bar.bar), bar.mark(bar.goal)))
        .collect();
    for bar in [
        "HTTPS to COS, 4 × 512 MiB, CPU/GiB vs nginx: ≤ 0.6, ≤ 0.45",
        "HTTPS to COS, 64 KiB × 32, uploads/s vs nginx: ≥ 1, ≥ 1.2",
        "HTTPS to COS, 64 KiB × 32, uploads/s vs the Go relay: ≥ 2, ≥ 3",
        "HTTP to COS, 64 KiB × 32, uploads/s vs nginx: ≥ 0.55, ≥ 0.7",
        "HTTP to COS, 64 KiB × 32, uploads/s vs the Node relay: ≥ 5, ≥ 7",
        "HTTP to COS, 64 KiB × 32, uploads/s vs the Go relay: ≥ 1.8, ≥ 2.5",
        "HTTP to COS, 4 × 512 MiB, CPU/GiB vs nginx 256k: ≤ 0.85, ≤ 0.6",
        "added p50 over direct, 64 KiB, 1 connection, links in advance, vs what nginx adds: ≤ 1.5, ≤ 1",
        "added p50 over direct, 64 KiB, 1 connection, links in advance, WeChat 60 ms away (ms): ≤ 1, ≤ 0.3",
        "RSS per upload in flight, 200 × 8 MiB, replay_window=0 (MiB): ≤ 0.22, ≤ 0.15",
        "RSS per upload in flight, 200 × 8 MiB, default window (MiB): ≤ 0.75, ≤ 0.5",
        "10,000 idle connections and 2,000 slow uploads: peak RSS (MiB): ≤ 600, ≤ 300",
        "10,000 idle connections and 2,000 slow uploads: errors: ≤ 0, ≤ 0",
        "adversarial bodies, CPU/GiB vs random bytes: ≤ 1.2, ≤ 1.05",
    ] {
        assert!(table.iter().any(|line| line == bar), "no {bar:?} in {table:#?}");
    }
}

#[test]
fn a_check_measures_what_each_bar_needs() {
    for bar in bars::all(&checked()) {
        assert!(bar.value.is_some(), "{}", bar.what[0]);
    }
}

#[test]
fn a_missed_bar_fails_the_check() {
    let at_the_limits = || {
        let mut all = bars::all(&checked());
        all.iter_mut().for_each(|bar| bar.value = Some(bar.bar));
        all
    };
    assert!(bars::are_reached(&at_the_limits()));
    for index in 0..at_the_limits().len() {
        let with = |value: fn(&Bar) -> Option<f64>| {
            let mut all = at_the_limits();
            all[index].value = value(&all[index]);
            all
        };
        let worse = with(|bar| {
            Some(if bar.mark(bar.bar).starts_with('≥') {
                bar.bar - 0.001
            } else {
                bar.bar + 0.001
            })
        });
        let what = worse[index].what[0];
        assert!(!bars::are_reached(&worse), "{what}");
        assert!(bars::table(&worse, Language::English).contains('✗'), "{what}");
        assert!(!bars::are_reached(&with(|_| None)), "{what}, not measured");
    }
}

#[test]
fn added_latency_is_compared_within_each_round() {
    let scenario = |name: &str| scenarios::all(1.0).into_iter().find(|one| one.name == name);
    let added = |name: &str, ours: [f64; 3], nginx: [f64; 3], direct: [f64; 3]| {
        let rounds = |p50: [f64; 3]| p50.map(|p50_ms| Round { p50_ms, ..round() }).to_vec();
        let peers =
            vec![("gateway", rounds(ours)), ("nginx", rounds(nginx)), ("direct", rounds(direct))];
        let scenario = scenario(name).expect("the scenario");
        let all = bars::all(&results(vec![measured(&scenario, peers)]));
        let is_added = |bar: &&Bar| bar.what[0].starts_with("added p50") && bar.value.is_some();
        all.iter().find(is_added).and_then(|bar| bar.value)
    };
    let direct = [1.0, 2.0, 4.0];
    // 2, 3 and 0.5 times what nginx adds.
    assert_eq!(added("latency-warm", [3.0, 5.0, 5.0], [2.0, 3.0, 6.0], direct), Some(2.0));
    assert_eq!(added("latency-warm", [3.0, 5.0, 5.0], [1.0, 1.0, 6.0], direct), None);
    assert_eq!(added("latency-wechat-60ms", [1.5, 2.2, 9.0], [0.0; 3], direct), Some(0.5));
}

#[test]
fn a_record_of_before_some_bars_still_makes_the_guides_charts_and_tables() {
    let root = tempfile::tempdir().expect("a folder");
    let record = project().join("benches/runs/2026-11-27.json");
    let record: Results =
        serde_json::from_slice(&fs::read(record).expect("the record")).expect("its figures");
    fs::create_dir_all(root.path().join("benches/runs")).expect("a folder");
    let pages = ["docs/en/performance.md", "docs/zh/performance.md"];
    for page in pages {
        fs::create_dir_all(root.path().join(page).parent().expect("a folder")).expect("a folder");
        fs::copy(project().join(page), root.path().join(page)).expect("a page");
    }
    record::guides(root.path(), &record).expect("the guides");
    for (page, none) in pages.into_iter().zip(["| not measured |", "| 未测 |"]) {
        let text = fs::read_to_string(root.path().join(page)).expect("a page");
        let unmeasured = text.matches(none).count();
        let missing = bars::all(&record).iter().filter(|bar| bar.value.is_none()).count();
        assert_eq!((unmeasured, missing > 3), (missing, true), "{page}");
        assert!(text.contains("**0.513**") || text.contains("| 0.513 |"), "{page}");
        assert!(!text.contains("NaN"), "{page}");
    }
    for chart in ["cost", "latency"] {
        let file = root.path().join(format!("benches/runs/2026-11-27-{chart}.svg"));
        assert!(fs::read_to_string(file).expect("a chart").contains("<svg"), "{chart}");
    }
}

#[test]
fn the_machine_is_recorded_with_its_caches() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(process::caches(folder.path()), "");
    for (index, (level, kind, size)) in
        [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("2", "Unified", "1024K")]
            .into_iter()
            .enumerate()
    {
        let folder = folder.path().join(format!("index{index}"));
        fs::create_dir(&folder).expect("a folder");
        for (file, text) in [("level", level), ("type", kind), ("size", size)] {
            fs::write(folder.join(file), format!("{text}\n")).expect("a file");
        }
    }
    assert_eq!(process::caches(folder.path()), "L1d 32K, L1i 64K, L2 1024K");
    let own = process::caches(Path::new("/sys/devices/system/cpu/cpu0/cache"));
    assert!(process::machine().contains(&own), "{}", process::machine());
}

#[test]
fn a_thread_that_polls_sends_each_upload_and_tells_of_those_that_fail() {
    let folder = tempfile::tempdir().expect("a folder");
    upstream::write_certificate(folder.path()).expect("a certificate");
    let folder = folder.path().to_owned();
    // A thread of its own: it is moved to another processor.
    let run = std::thread::spawn(move || {
        let (polling, upstream) = Polling::start(&folder).expect("a thread");
        let cos = Target { address: upstream.cos(false), tls: None, proof: false };
        let request = Arc::new(Request::direct(3 << 20));
        let plan = Plan::Counted { connections: 4, each: 5 };
        let stored = polling.run(&cos, &request, plan);
        assert_eq!((stored.uploads, stored.errors), (20, 0), "{:?}", stored.first_error);
        assert_eq!(stored.latency.len(), 20);
        assert_eq!(upstream.counts().expect("its counts").uploads, 20);

        // COS's response has no proof of what was stored.
        let proven = Target { proof: true, ..cos };
        let proof = Request { proof: "crc64".to_owned(), ..Request::direct(1 << 10) };
        let refused = polling.run(&proven, &Arc::new(proof), plan);
        assert_eq!((refused.uploads, refused.errors), (0, 20));
        assert_eq!(upstream.counts().expect("its counts").uploads, 40);
    });
    run.join().expect("it has polled");
}
