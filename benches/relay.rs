//! The load test: the release binary in its production profile, in front of a fast WeChat and COS in another process,
//! compared with the relays that are installed on this machine.
//!
//! ```sh
//! cargo bench --bench relay                               # everything (about an hour)
//! cargo bench --bench relay -- --quick http-small latency # some scenarios, short and rough
//! cargo bench --bench relay -- --check                    # the scenarios of the bars; fails when a bar is missed
//! cargo bench --bench relay -- --check --record           # and records the result: benches/runs/, docs/
//! cargo bench --bench relay -- --binary before=/tmp/before --peers gateway,before https-small
//! ```
//!
//! Within each round the peers run one after the other, and the median of the rounds' ratios is compared: on a shared
//! machine absolute figures vary by a third between runs, ratios do not.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use clap::Parser;
use hdrhistogram::Histogram;
use rcgen::{CertificateParams, KeyPair};
use support::BoxError;
use support::load::{self, Plan};
use support::peers::{Field, Peer, Running};
use support::request::Request;
use support::results::{Figures, Measured, Results, Round};
use support::scenarios::{self, Scenario};
use support::upstream::{self, Upstream};
use support::{bars, report};

/// A load test that compares the gateway with other relays.
#[derive(Parser)]
struct Arguments {
    /// Only scenarios whose names contain one of these
    filters: Vec<String>,
    /// Short and rough: smaller files, two rounds
    #[arg(long)]
    quick: bool,
    /// Only the scenarios of the bars; exit code 1 when a bar is missed
    #[arg(long)]
    check: bool,
    /// Rounds of each scenario
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these peers, separated by commas
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Another build of the gateway, as a peer: NAME=PATH
    #[arg(long, value_name = "NAME=PATH")]
    binary: Vec<String>,
    /// Also write the results as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Record the results under benches/runs/ and put their tables and charts into the guides
    #[arg(long)]
    record: bool,
    /// Measures nothing: draws the charts of this run, and put them and its tables into the guides
    #[arg(long, value_name = "FILE")]
    guides: Option<PathBuf>,
    /// List the scenarios and exit
    #[arg(long)]
    list: bool,
    /// The flag that cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let ran = if arguments.next().is_some_and(|first| first == upstream::ARGUMENT) {
        let folder = arguments.next().unwrap_or_default();
        upstream::run(Path::new(&folder)).map(|()| true)
    } else {
        bench(&Arguments::parse())
    };
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the bench; false if a bar of `--check` was missed.
fn bench(arguments: &Arguments) -> Result<bool, BoxError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if let Some(file) = &arguments.guides {
        let results: Results = serde_json::from_slice(&fs::read(file)?)?;
        support::record::guides(root, &results)?;
        return Ok(true);
    }
    let scale = if arguments.quick { 0.3 } else { 1.0 };
    let mut chosen = scenarios::all(scale);
    chosen.retain(|scenario| scenario.barred || !arguments.check);
    let filters = &arguments.filters;
    if !filters.is_empty() {
        // A complete name selects only that scenario, not others that contain it.
        let whole: Vec<_> = chosen.iter().map(|scenario| scenario.name.clone()).collect();
        chosen.retain(|scenario| {
            filters.iter().any(|filter| {
                *filter == scenario.name
                    || !whole.contains(filter) && scenario.name.contains(filter)
            })
        });
    }
    if arguments.list {
        chosen.iter().for_each(|scenario| println!("{:24} {}", scenario.name, scenario.what));
        return Ok(true);
    }
    let bench = Bench::prepare(arguments, &root.join("target/bench"))?;
    let mut results = bench.results(root);
    let mut rest = chosen.as_slice();
    while let Some(first) = rest.first() {
        let batch = rest.iter().take_while(|scenario| scenario.batch == first.batch).count();
        let (now, later) = rest.split_at(batch);
        for measured in bench.measure(now)? {
            println!("\n{}\n\n{}", measured.title(), measured.table("gateway"));
            results.scenarios.push(measured);
        }
        rest = later;
    }

    let bars = bars::all(&results);
    if arguments.check || arguments.filters.is_empty() {
        println!("{}", bars::table(&bars, bars::Language::English));
    }
    let json = serde_json::to_vec_pretty(&results)?;
    let page = bench.folder.join("relay.html");
    fs::write(&page, report::html(&results, &bars))?;
    fs::write(bench.folder.join("relay.json"), &json)?;
    if let Some(file) = &arguments.json {
        fs::write(file, &json)?;
    }
    println!("report: {}", page.display());
    if arguments.record {
        println!("recorded: {}", support::record::run(root, &results)?.display());
    }
    Ok(!arguments.check || bars.iter().all(bars::Bar::is_reached))
}

struct Bench {
    folder: PathBuf,
    upstream: Upstream,
    peers: Vec<Peer>,
    versions: BTreeMap<String, String>,
    rounds: usize,
}

/// A running scenario of a batch.
struct Lane<'a> {
    scenario: &'a Scenario,
    request: Arc<Request>,
    direct: Arc<Request>,
    plan: Plan,
    runs: Vec<PeerRun>,
}

/// A peer in a lane.
struct PeerRun {
    peer: Peer,
    running: Option<Running>,
    rounds: Vec<Round>,
    latency: Histogram<u64>,
}

impl Bench {
    fn prepare(arguments: &Arguments, folder: &Path) -> Result<Self, BoxError> {
        fs::create_dir_all(folder.join("logs"))?;
        // For thousands of connections at both ends; peers inherit the limit.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let most = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, most)?;

        // A self-signed certificate that is not marked as a CA (CA:FALSE), as private roots often are.
        let key = KeyPair::generate()?;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        fs::write(folder.join("cert.pem"), certificate.pem())?;
        fs::write(folder.join("key.pem"), key.serialize_pem())?;

        let gateway = PathBuf::from(env!("CARGO_BIN_EXE_tcb-upload-gateway"));
        let mut binaries = vec![("gateway".to_owned(), gateway)];
        for binary in &arguments.binary {
            let (name, path) = binary.split_once('=').ok_or("--binary takes NAME=PATH")?;
            binaries.push((name.to_owned(), fs::canonicalize(path)?));
        }
        let Field { mut peers, versions } = Field::survey(&binaries, folder);
        peers.retain(|peer| arguments.peers.is_empty() || arguments.peers.contains(&peer.name));
        let rounds = arguments.rounds.unwrap_or(if arguments.quick { 2 } else { 5 });
        let upstream = Upstream::start(folder)?;
        Ok(Self { folder: folder.to_owned(), upstream, peers, versions, rounds })
    }

    fn results(&self, root: &Path) -> Results {
        let said = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(root).output().ok();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            text.and_then(|text| Some(text.lines().next()?.trim().to_owned())).unwrap_or_default()
        };
        let mut versions = self.versions.clone();
        versions.insert("rustc".to_owned(), said("rustc", &["--version"]));
        let arguments: Vec<_> =
            std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        Results {
            date: jiff::Zoned::now().strftime("%Y-%m-%d").to_string(),
            command: format!("cargo bench --bench relay -- {}", arguments.join(" ")),
            commit: said("git", &["describe", "--always", "--dirty"]),
            machine: support::process::machine(),
            versions,
            scenarios: Vec::new(),
        }
    }

    /// Measures the scenarios of one batch, interleaved.
    fn measure(&self, batch: &[Scenario]) -> Result<Vec<Measured>, BoxError> {
        let mut lanes: Vec<_> = batch.iter().map(|scenario| self.lane(scenario)).collect();
        for lane in &mut lanes {
            for run in lane.runs.iter_mut().filter(|_| !lane.scenario.fresh) {
                run.running = Some(self.start(lane.scenario, &run.peer)?);
            }
            self.calibrate(lane)?;
        }
        for round in 0..self.rounds {
            for lane in &mut lanes {
                self.round(lane, round)?;
            }
        }
        Ok(lanes.into_iter().map(Lane::measured).collect())
    }

    fn lane<'a>(&self, scenario: &'a Scenario) -> Lane<'a> {
        let runs = self.peers.iter().filter(|peer| scenario.includes(peer)).map(|peer| PeerRun {
            peer: peer.clone(),
            running: None,
            rounds: Vec::new(),
            latency: load::histogram(),
        });
        Lane {
            scenario,
            request: Arc::new(Request::upload(scenario.shape, scenario.content, scenario.size)),
            direct: Arc::new(Request::direct(scenario.size)),
            plan: scenario.plan,
            runs: runs.collect(),
        }
    }

    /// Starts a peer and lets it warm up: connections made, token fetched, buffers grown.
    fn start(&self, scenario: &Scenario, peer: &Peer) -> Result<Running, BoxError> {
        let running = peer.start(&scenario.name, scenario.setup, &self.upstream, &self.folder)?;
        let request = if peer.is_direct() {
            Request::direct(4096)
        } else {
            Request::upload(scenario.shape, scenario.content, 4096)
        };
        // Memory is measured from a process that has done almost nothing.
        let connections = if scenario.fresh { 1 } else { scenario.plan.connections() };
        let plan = Plan::Counted { connections, each: 5 };
        let outcome = load::run(&running.target, &Arc::new(request), plan);
        match outcome.first_error {
            Some(error) => Err(format!("{} fails: {error}", peer.name).into()),
            None => Ok(running),
        }
    }

    /// Sets an open loop's rate: half the throughput of the slowest peer.
    fn calibrate(&self, lane: &mut Lane<'_>) -> Result<(), BoxError> {
        if let Plan::Open { connections, rate, .. } = &mut lane.plan {
            let closed = Plan::Closed { connections: *connections, seconds: 1.0 };
            let carried = lane.runs.iter().filter_map(|run| {
                let target = &run.running.as_ref()?.target;
                let outcome = load::run(target, &lane.request, closed);
                Some(outcome.uploads as f64 / outcome.seconds)
            });
            let slowest = carried.fold(f64::INFINITY, f64::min);
            if !slowest.is_finite() {
                return Err("there is no peer to find a rate for".into());
            }
            *rate = (slowest / 2.0).floor();
        }
        Ok(())
    }

    fn round(&self, lane: &mut Lane<'_>, round: usize) -> Result<(), BoxError> {
        let count = lane.runs.len();
        for step in 0..count {
            // The order rotates from round to round.
            let run = &mut lane.runs[(round + step) % count];
            let running = match run.running.take() {
                Some(running) => running,
                None => self.start(lane.scenario, &run.peer)?,
            };
            let request = if run.peer.is_direct() { &lane.direct } else { &lane.request };
            running.tree.forget_peak();
            let (idle, cpu) = (running.tree.rss(), running.tree.cpu());
            let before = self.upstream.counts()?;
            let outcome = load::run(&running.target, request, lane.plan);
            let stored = self.upstream.counts()?.uploads - before.uploads;
            let ms = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e6;
            let mut measured = Round {
                uploads: outcome.uploads,
                errors: outcome.errors,
                bytes: outcome.uploads * request.size,
                seconds: outcome.seconds,
                cpu_seconds: running.tree.cpu() - cpu,
                idle_rss_kib: idle,
                peak_rss_kib: running.tree.peak_rss(),
                p50_ms: ms(0.5),
                p90_ms: ms(0.9),
                p99_ms: ms(0.99),
                p999_ms: ms(0.999),
            };
            // A success without an upload at COS counts as an error.
            let promised = outcome.uploads * lane.scenario.files();
            let lost = promised.saturating_sub(stored);
            measured.errors += lost;
            eprintln!(
                "{} · round {} of {} · {}: {} uploads, {:.0} MiB/s, CPU {:.2} s{}",
                lane.scenario.name,
                round + 1,
                self.rounds,
                run.peer.name,
                outcome.uploads,
                measured.bytes as f64 / 1024.0 / 1024.0 / measured.seconds,
                measured.cpu_seconds,
                match &outcome.first_error {
                    Some(error) => format!(", {} ERRORS, first: {error}", measured.errors),
                    None if lost > 0 => format!(", {lost} NOT STORED"),
                    None => String::new(),
                },
            );
            run.rounds.push(measured);
            run.latency.add(&outcome.latency)?;
            if !lane.scenario.fresh {
                run.running = Some(running);
            }
        }
        Ok(())
    }
}

impl Lane<'_> {
    fn measured(self) -> Measured {
        let rate = match self.plan {
            Plan::Open { rate, .. } => Some(rate),
            _ => None,
        };
        let peers = self.runs.into_iter().map(|run| Figures {
            name: run.peer.name,
            rounds: run.rounds,
            latency: Figures::curve(&run.latency),
        });
        Measured {
            name: self.scenario.name.clone(),
            what: self.scenario.what.clone(),
            group: self.scenario.group,
            size: self.request.size,
            connections: self.plan.connections(),
            rate,
            peers: peers.collect(),
        }
    }
}
