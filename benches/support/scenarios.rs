//! The scenarios: what is measured, and of which peers.

use serde::{Deserialize, Serialize};

use super::load::Plan;
use super::peers::{Peer, Setup};
use super::request::{Content, Shape};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// One scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: String,
    pub what: String,
    /// The part of the report that it belongs to.
    pub group: Group,
    /// Whether a bar depends on it.
    pub barred: bool,
    pub shape: Shape,
    pub content: Content,
    pub size: u64,
    pub plan: Plan,
    pub setup: Setup,
    /// Scenarios of one batch are interleaved with each other, so that they can be compared.
    pub batch: String,
    /// Whether each round starts new peers, because memory is measured.
    pub fresh: bool,
    /// Whether the peers carry the plan once before the first round, so that links are there in advance.
    pub warmed: bool,
    /// Whether COS's API is compared with forms.
    pub by_api: bool,
    /// The peers that are no gateways.
    pub field: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Group {
    Throughput,
    Latency,
    Sizes,
    Memory,
    Bodies,
}

impl Scenario {
    /// Whether `peer` takes part. Gateways that send forms always do.
    pub fn includes(&self, peer: &Peer) -> bool {
        match (peer.is_api(), peer.is_gateway()) {
            (true, _) => self.by_api,
            (false, true) => true,
            (false, false) => self.field.contains(&peer.name.as_str()),
        }
    }

    /// Whether the load can come from a thread that polls: from a fixed number of clients, to one worker, which has a
    /// processor of its own, and without a delay of the upstream.
    pub fn is_polled(&self) -> bool {
        let closed = matches!(self.plan, Plan::Closed { .. } | Plan::Counted { .. });
        closed && self.setup.workers == 1 && self.setup.link_delay == 0
    }

    /// The limit of file descriptors that a gateway needs: it keeps two for each upload, at least a quarter of all and at
    /// most half.
    pub fn descriptors(&self) -> usize {
        let idle = if let Plan::Slow { idle, .. } = self.plan { idle } else { 0 };
        let uploads = self.plan.connections();
        let clients = uploads + idle + 64;
        (clients + 2 * uploads).max(clients + clients / 3).min(2 * clients)
    }

    /// The number of objects that one upload stores.
    pub fn files(&self) -> u64 {
        if self.shape == Shape::TwoFiles { 2 } else { 1 }
    }

    fn form(name: impl Into<String>, group: Group, size: u64, plan: Plan) -> Self {
        let setup = Setup { workers: 1, ..Setup::default() };
        let name = name.into();
        Self {
            batch: name.clone(),
            name,
            what: String::new(),
            group,
            barred: false,
            shape: Shape::Form,
            content: Content::Random,
            size,
            plan,
            setup,
            fresh: false,
            warmed: false,
            by_api: false,
            field: &[],
        }
    }

    fn barred(mut self) -> Self {
        self.barred = true;
        self
    }

    fn https(mut self, https: bool) -> Self {
        self.setup.https = https;
        self
    }

    fn workers(mut self, workers: usize) -> Self {
        self.setup.workers = workers;
        self
    }

    fn window(mut self, window: &'static str) -> Self {
        self.setup.window = Some(window);
        self
    }

    fn at_once(mut self, connections: usize, uploads: usize) -> Self {
        self.setup.at_once = Some((connections, uploads));
        self
    }

    fn link_delay(mut self, milliseconds: u64) -> Self {
        self.setup.link_delay = milliseconds;
        self
    }

    /// With links in advance, and peers that have asked for them.
    fn warmed(mut self) -> Self {
        self.setup.warm_links = Some("auto");
        self.warmed = true;
        self
    }

    fn without_warm_links(mut self) -> Self {
        self.setup.warm_links = Some("off");
        self
    }

    fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    fn content(mut self, content: Content) -> Self {
        self.content = content;
        self
    }

    fn batch(mut self, batch: &str) -> Self {
        batch.clone_into(&mut self.batch);
        self
    }

    fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    fn by_api(mut self) -> Self {
        self.by_api = true;
        self
    }

    fn against(mut self, field: &'static [&'static str]) -> Self {
        self.field = field;
        self
    }

    fn described(mut self) -> Self {
        let scheme = if self.setup.https { "HTTPS" } else { "HTTP" };
        let (size, connections) = (size(self.size), self.plan.connections());
        let shape = match self.shape {
            Shape::Form => "form",
            Shape::Raw => "raw body",
            Shape::TwoFiles => "form of two files",
        };
        let how = match self.plan {
            Plan::Open { .. } => ", at a fixed rate".to_owned(),
            Plan::Slow { idle: 0, .. } => ", slow senders".to_owned(),
            Plan::Slow { idle, .. } => format!(", slow senders beside {idle} idle connections"),
            _ => String::new(),
        };
        let content = match self.content {
            Content::Random => "",
            Content::Returns => ", all `\\r`",
            Content::Dashes => ", all `\\r\\n--`",
            Content::LookAlike => ", all but the boundary",
        };
        let mut what = format!("{scheme} to COS, {connections} × {size}, {shape}{how}{content}");
        if self.setup.link_delay > 0 {
            what.push_str(&format!(", link call {} ms", self.setup.link_delay));
        }
        if let Some(links) = self.setup.warm_links {
            what.push_str(&format!(", links in advance {links}"));
        }
        if let Some(window) = self.setup.window {
            what.push_str(&format!(", replay_window={window}"));
        }
        if self.setup.workers > 1 {
            what.push_str(&format!(", {} workers", self.setup.workers));
        }
        self.what = what;
        self
    }
}

/// `64 KiB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..MIB => format!("{} KiB", bytes / KIB),
        MIB..GIB => format!("{} MiB", bytes / MIB),
        GIB.. => format!("{} GiB", bytes / GIB),
    }
}

/// Keeps the scenarios whose names contain one of `filters`, if there are any. A complete name selects only that scenario,
/// not others that contain it.
pub fn keep_named(scenarios: &mut Vec<Scenario>, filters: &[String]) {
    let whole: Vec<_> = scenarios.iter().map(|scenario| scenario.name.clone()).collect();
    let is_chosen = |name: &String| {
        filters
            .iter()
            .any(|filter| filter == name || !whole.contains(filter) && name.contains(filter))
    };
    scenarios.retain(|scenario| filters.is_empty() || is_chosen(&scenario.name));
}

/// All scenarios in the order in which they run. `scale` shortens those with a duration (1 is the full length).
pub fn all(scale: f64) -> Vec<Scenario> {
    let seconds = (3.0 * scale).max(0.5);
    let closed = |connections| Plan::Closed { connections, seconds };
    let each = |connections, each| Plan::Counted { connections, each };
    let large = if scale < 1.0 { 128 * MIB } else { 512 * MIB };
    let slow_seconds = (6.0 * scale).max(2.0);
    let slowly = |connections| Plan::Slow { connections, idle: 0, seconds: slow_seconds };
    let mut all = Vec::new();

    // The bars.
    let relays: &[&str] = &["nginx", "nginx-default", "haproxy", "node", "go"];
    let few: &[&str] = &["nginx", "haproxy"];
    for (https, scheme) in [(true, "https"), (false, "http")] {
        for workers in [1, 2] {
            let suffix = if workers == 1 { "" } else { "-2workers" };
            let field = if workers == 1 { relays } else { few };
            for (name, size, plan) in
                [("large", large, each(4, 1)), ("small", 64 * KIB, closed(32))]
            {
                let name = format!("{scheme}-{name}{suffix}");
                let scenario = Scenario::form(name, Group::Throughput, size, plan)
                    .https(https)
                    .workers(workers)
                    .against(field);
                all.push(if workers == 1 { scenario.barred() } else { scenario });
            }
        }
    }
    for (https, scheme) in [(true, "https"), (false, "http")] {
        for (name, size, plan) in [("large", large, each(4, 1)), ("small", 64 * KIB, closed(32))] {
            let name = format!("{scheme}-api-{name}");
            let scenario = Scenario::form(name, Group::Throughput, size, plan).https(https);
            all.push(scenario.by_api().barred());
        }
    }
    let latency = |name: &str, plan| Scenario::form(name, Group::Latency, 64 * KIB, plan);
    let relayed: &[&str] = &["direct", "nginx", "haproxy"];
    all.push(latency("latency-warm", closed(1)).warmed().against(relayed).barred());
    // At a fixed rate: one connection that is always busy would use links up sooner than they come in 60 ms.
    let steady = Plan::Open { connections: 1, rate: 100.0, seconds };
    let far = latency("latency-wechat-60ms", steady).link_delay(60).warmed();
    all.push(far.against(&["direct"]).barred());
    all.push(latency("latency", closed(1)).without_warm_links().against(relayed));
    let direct: &[&str] = &["direct", "nginx"];
    all.push(latency("latency-https", closed(1)).https(true).against(direct));
    all.push(latency("latency-link-30ms", closed(1)).link_delay(30).without_warm_links());
    for (https, scheme) in [(true, "https"), (false, "http")] {
        // The rate is set by the throughput of the slowest peer.
        let open = Plan::Open { connections: 64, rate: 0.0, seconds };
        all.push(latency(&format!("{scheme}-open"), open).https(https).against(few));
    }

    let burst = |name: &str| Scenario::form(name, Group::Memory, 8 * MIB, each(200, 2)).fresh();
    all.push(burst("memory-200-window-0").window("0").barred());
    all.push(burst("memory-200").against(few).barred());
    let slow = |name, plan| Scenario::form(name, Group::Memory, 512 * KIB, plan).fresh();
    let crowded = Plan::Slow { connections: 2000, idle: 10_000, seconds: slow_seconds };
    let crowded = slow("idle-10000-slow-2000".to_owned(), crowded).at_once(12_500, 2100);
    all.push(crowded.barred());
    all.push(slow("slow-2000-window-0".to_owned(), slowly(2000)).window("0").barred());
    for connections in [1, 10, 100, 500, 1000, 2000] {
        all.push(slow(format!("slow-{connections}"), slowly(connections)).against(&["nginx"]));
    }

    for (name, content) in [
        ("random", Content::Random),
        ("returns", Content::Returns),
        ("dashes", Content::Dashes),
        ("look-alike", Content::LookAlike),
    ] {
        let size = if scale < 1.0 { 64 * MIB } else { 256 * MIB };
        let name = format!("bodies-{name}");
        let scenario = Scenario::form(name, Group::Bodies, size, each(4, 1));
        all.push(scenario.content(content).batch("bodies").barred());
    }

    // The sweeps.
    for (https, scheme) in [(true, "https"), (false, "http")] {
        for (bytes, plan) in [
            (4 * KIB, closed(32)),
            (64 * KIB, closed(32)),
            (MIB, closed(32)),
            (8 * MIB, closed(32)),
            (large, each(4, 1)),
            (if scale < 1.0 { large } else { 4 * GIB }, each(1, 1)),
        ] {
            let name = format!("{scheme}-size-{}", size(bytes).replace(' ', "").to_lowercase());
            all.push(Scenario::form(name, Group::Sizes, bytes, plan).https(https).against(few));
        }
    }
    for connections in [1, 32, 200] {
        let name = format!("https-{connections}-connections");
        let plan = closed(connections);
        let scenario = Scenario::form(name, Group::Throughput, 64 * KIB, plan);
        all.push(scenario.https(true).against(few));
    }
    for (name, shape) in [("raw", Shape::Raw), ("two-files", Shape::TwoFiles)] {
        let scenario = Scenario::form(name, Group::Throughput, 64 * KIB, closed(32));
        all.push(scenario.https(true).shape(shape));
    }
    let scenario = Scenario::form("link-30ms", Group::Throughput, 64 * KIB, closed(32));
    all.push(scenario.https(true).link_delay(30));
    all.into_iter().map(Scenario::described).collect()
}
