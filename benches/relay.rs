//! The load test: the release binary in its production profile, in front of a fast WeChat and COS in another process,
//! compared with the relays that are installed on this machine.
//!
//! ```sh
//! cargo bench --bench relay                               # everything (about an hour)
//! cargo bench --bench relay -- --quick http-small latency # some scenarios, short and rough
//! cargo bench --bench relay -- --check                    # the scenarios of the bars; fails when a bar is missed
//! cargo bench --bench relay -- --check --record           # and records the result: benches/runs/, docs/
//! cargo bench --bench relay -- --target https://files.example.com # a deployment of your own: support/deployment
//! cargo bench --bench relay -- --binary before=/tmp/before --peers gateway,before https-small
//! cargo bench --bench relay -- --polling http-small       # what an upload costs where no client and no upstream sleeps
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
use support::BoxError;
use support::load::{self, Outcome, Plan, Target};
use support::peers::{Field, Peer, Running};
use support::polling::Polling;
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
    /// Only the scenarios of the bars, seven rounds; exit code 1 when a bar is missed
    #[arg(long)]
    check: bool,
    /// Clients and upstream are a thread that polls, on the first processor; the relays have the last one
    #[arg(long, conflicts_with = "check")]
    polling: bool,
    /// Rounds of each scenario [default: 5]
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
    #[command(flatten)]
    deployment: support::deployment::arguments::TargetArguments,
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
    if arguments.deployment.target.is_some() {
        let json = arguments.json.as_deref();
        return support::deployment::run_in_terminal(&arguments.deployment, json);
    }
    if let Some(file) = &arguments.guides {
        let results: Results = serde_json::from_slice(&fs::read(file)?)?;
        support::record::guides(root, &results)?;
        return Ok(true);
    }
    let scale = if arguments.quick { 0.3 } else { 1.0 };
    let mut chosen = scenarios::all(scale);
    chosen.retain(|scenario| scenario.barred || !arguments.check);
    chosen.retain(|scenario| scenario.is_polled() || !arguments.polling);
    scenarios::keep_named(&mut chosen, &arguments.filters);
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
        for scenario in now.iter().filter(|scenario| scenario.descriptors() > bench.descriptors) {
            let (name, needed) = (&scenario.name, scenario.descriptors());
            let limit = bench.descriptors;
            eprintln!(
                "{name}: the limit of {limit} file descriptors is too low, {needed} are needed"
            );
        }
        for measured in bench.measure(now)? {
            let reference = bench.reference();
            let table = if arguments.polling {
                measured.costs(reference)
            } else {
                measured.table(reference)
            };
            println!("\n{}\n\n{table}", measured.title());
            results.scenarios.push(measured);
        }
        rest = later;
    }

    let bars = bars::all(&results);
    if arguments.check || arguments.filters.is_empty() && !arguments.polling {
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
    Ok(!arguments.check || bars::are_reached(&bars))
}

struct Bench {
    folder: PathBuf,
    upstream: Upstream,
    /// What sends the uploads, if no thread for each connection does.
    polling: Option<Polling>,
    peers: Vec<Peer>,
    versions: BTreeMap<String, String>,
    rounds: usize,
    /// The limit of them, of this process and of the peers.
    descriptors: usize,
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
        let descriptors = support::process::raise_nofile_limit()?;

        upstream::write_certificate(folder)?;
        let gateway = PathBuf::from(env!("CARGO_BIN_EXE_tcb-upload-gateway"));
        let mut binaries = vec![("gateway".to_owned(), gateway)];
        for binary in &arguments.binary {
            let (name, path) = binary.split_once('=').ok_or("--binary takes NAME=PATH")?;
            binaries.push((name.to_owned(), fs::canonicalize(path)?));
        }
        let Field { mut peers, versions } = Field::survey(&binaries, folder);
        peers.retain(|peer| arguments.peers.is_empty() || arguments.peers.contains(&peer.name));
        let rounds = match arguments {
            Arguments { check: true, .. } => 7,
            Arguments { quick: true, .. } => 2,
            _ => 5,
        };
        let rounds = arguments.rounds.unwrap_or(rounds);
        let (upstream, polling) = if arguments.polling {
            // Without a relay there is nothing but the thread itself.
            peers.retain(|peer| !peer.is_direct());
            let (polling, upstream) = Polling::start(folder)?;
            (upstream, Some(polling))
        } else {
            (Upstream::start(folder)?, None)
        };
        let folder = folder.to_owned();
        Ok(Self { folder, upstream, polling, peers, versions, rounds, descriptors })
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
            polling: self.polling.is_some(),
            scenarios: Vec::new(),
        }
    }

    /// The peer that the others are compared with: the first gateway.
    fn reference(&self) -> &str {
        let gateway = self.peers.iter().find(|peer| peer.is_gateway());
        gateway.map_or("gateway", |peer| &peer.name)
    }

    fn load(&self, target: &Target, request: &Arc<Request>, plan: Plan) -> Outcome {
        match &self.polling {
            Some(polling) => polling.run(target, request, plan),
            None => load::run(target, request, plan),
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
        let mut running =
            peer.start(&scenario.name, scenario.setup, &self.upstream, &self.folder)?;
        let request = if peer.is_direct() {
            Request::direct(4096)
        } else {
            Request::upload(scenario.shape, scenario.content, 4096)
        };
        // Memory is measured from a process that has done almost nothing.
        let connections = if scenario.fresh { 1 } else { scenario.plan.connections() };
        let plan = Plan::Counted { connections, each: 5 };
        let mut outcome = self.load(&running.target, &Arc::new(request), plan);
        if scenario.warmed && !peer.is_direct() && outcome.errors == 0 {
            let request = Request::upload(scenario.shape, scenario.content, scenario.size);
            outcome = self.load(&running.target, &Arc::new(request), scenario.plan);
        }
        running.survey();
        match outcome.first_error {
            Some(error) => Err(format!("{} fails: {error}", peer.name).into()),
            None => Ok(running),
        }
    }

    /// Sets the rate of an open loop that has none: half the throughput of the slowest peer.
    fn calibrate(&self, lane: &mut Lane<'_>) -> Result<(), BoxError> {
        if let Plan::Open { connections, rate, .. } = &mut lane.plan
            && *rate == 0.0
        {
            let closed = Plan::Closed { connections: *connections, seconds: 1.0 };
            let carried = lane.runs.iter().filter_map(|run| {
                let target = &run.running.as_ref()?.target;
                let outcome = self.load(target, &lane.request, closed);
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
            let outcome = self.load(&running.target, request, lane.plan);
            let stored = self.upstream.counts()?.uploads - before.uploads;
            let cpu_seconds = running.tree.cpu() - cpu;
            let rss = (idle, running.tree.peak_rss());
            let mut measured = Round::of(&outcome, request.size, cpu_seconds, rss);
            // A success without an upload at COS counts as an error.
            let promised = (outcome.uploads + outcome.idle_uploads) * lane.scenario.files();
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
