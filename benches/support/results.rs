//! The results, round by round: as they are stored, compared and put into tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::load::Outcome;
use super::scenarios::Group;

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

/// A run of the bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    pub date: String,
    pub command: String,
    pub commit: String,
    pub machine: String,
    pub versions: BTreeMap<String, String>,
    /// Whether clients and upstream were a thread that polls (`polling`).
    #[serde(default)]
    pub polling: bool,
    pub scenarios: Vec<Measured>,
}

/// The results of one scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    pub what: String,
    pub group: Group,
    pub size: u64,
    pub connections: usize,
    /// Uploads per second, if they were sent at a fixed rate.
    pub rate: Option<f64>,
    pub peers: Vec<Figures>,
}

/// The results of one peer in one scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    pub name: String,
    pub rounds: Vec<Round>,
    /// Over all rounds: a share of the uploads, and the milliseconds within which they were finished.
    pub latency: Vec<(f64, f64)>,
}

/// The results of one peer in one round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Round {
    pub uploads: u64,
    pub errors: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub idle_rss_kib: u64,
    pub peak_rss_kib: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
}

/// A figure of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    UploadsPerSecond,
    MibPerSecond,
    P50,
    P90,
    P99,
    P999,
    /// Seconds.
    CpuPerGib,
    /// Seconds.
    CpuPer1000,
    /// MiB.
    PeakRss,
}

impl Round {
    /// Of uploads of `size` bytes each; `rss`: idle and peak, in KiB.
    pub fn of(outcome: &Outcome, size: u64, cpu_seconds: f64, rss: (u64, u64)) -> Self {
        let ms = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e6;
        Self {
            uploads: outcome.uploads,
            errors: outcome.errors,
            bytes: outcome.uploads * size,
            seconds: outcome.seconds,
            cpu_seconds,
            idle_rss_kib: rss.0,
            peak_rss_kib: rss.1,
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
        }
    }

    pub fn figure(&self, figure: Figure) -> f64 {
        match figure {
            Figure::UploadsPerSecond => self.uploads as f64 / self.seconds,
            Figure::MibPerSecond => self.bytes as f64 / MIB / self.seconds,
            Figure::P50 => self.p50_ms,
            Figure::P90 => self.p90_ms,
            Figure::P99 => self.p99_ms,
            Figure::P999 => self.p999_ms,
            Figure::CpuPerGib => self.cpu_seconds / (self.bytes as f64 / GIB),
            Figure::CpuPer1000 => self.cpu_seconds / (self.uploads as f64 / 1000.0),
            Figure::PeakRss => self.peak_rss_kib as f64 / 1024.0,
        }
    }

    /// MiB that each upload in flight added to the peer's idle memory.
    pub fn rss_per_upload(&self, connections: usize) -> f64 {
        let added = self.peak_rss_kib.saturating_sub(self.idle_rss_kib);
        added as f64 / 1024.0 / connections as f64
    }
}

impl Figures {
    pub fn median(&self, figure: Figure) -> f64 {
        median(self.rounds.iter().map(|round| round.figure(figure)))
    }

    pub fn errors(&self) -> u64 {
        self.rounds.iter().map(|round| round.errors).sum()
    }

    /// The points of `latency` (in nanoseconds) that are stored.
    pub fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
        let values = latency
            .iter_quantiles(2)
            .map(|value| (value.quantile_iterated_to(), value.value_iterated_to() as f64 / 1e6));
        values.take_while(|(quantile, _)| *quantile < 1.0).collect()
    }
}

impl Measured {
    pub fn peer(&self, name: &str) -> Option<&Figures> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    /// One peer's figure against another's in the same round, for each round.
    fn ratios(&self, peer: &str, against: &str, figure: Figure) -> Option<Vec<f64>> {
        let (ours, theirs) = (self.peer(peer)?, self.peer(against)?);
        let pairs = ours.rounds.iter().zip(&theirs.rounds);
        Some(pairs.map(|(ours, theirs)| ours.figure(figure) / theirs.figure(figure)).collect())
    }

    /// The median of these ratios.
    pub fn ratio(&self, peer: &str, against: &str, figure: Figure) -> Option<f64> {
        Some(median(self.ratios(peer, against, figure)?.into_iter()))
    }

    pub fn rss_per_upload(&self, peer: &str) -> Option<f64> {
        let rounds = &self.peer(peer)?.rounds;
        Some(median(rounds.iter().map(|round| round.rss_per_upload(self.connections))))
    }
}

impl Results {
    pub fn scenario(&self, name: &str) -> Option<&Measured> {
        self.scenarios.iter().find(|scenario| scenario.name == name)
    }
}

/// The middle value, or the mean of the two in the middle; NaN without values.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => (values[even / 2 - 1] + values[even / 2]) / 2.0,
    }
}

const COLUMNS: [(&str, Figure); 8] = [
    ("uploads/s", Figure::UploadsPerSecond),
    ("MiB/s", Figure::MibPerSecond),
    ("p50 ms", Figure::P50),
    ("p90", Figure::P90),
    ("p99", Figure::P99),
    ("p99.9", Figure::P999),
    ("CPU s/GiB", Figure::CpuPerGib),
    ("CPU s/1000", Figure::CpuPer1000),
];

impl Measured {
    /// A Markdown table of medians. The last column is the CPU of each peer against the first gateway's, as the median
    /// of the rounds' ratios.
    pub fn table(&self, reference: &str) -> String {
        let mut table = String::from("| |");
        for (title, _) in COLUMNS {
            let _ = write!(table, " {title} |");
        }
        table.push_str(" peak RSS MiB | RSS/upload MiB | errors | CPU ratio |\n|---|");
        table.push_str(&"---:|".repeat(COLUMNS.len() + 4));
        table.push('\n');
        for peer in &self.peers {
            let _ = write!(table, "| {} |", peer.name);
            for (_, figure) in COLUMNS {
                let _ = write!(table, " {} |", number(peer.median(figure)));
            }
            let ratio = self.ratio(&peer.name, reference, Figure::CpuPerGib);
            let _ = writeln!(
                table,
                " {} | {} | {} | {} |",
                number(peer.median(Figure::PeakRss)),
                number(self.rss_per_upload(&peer.name).unwrap_or(f64::NAN)),
                peer.errors(),
                number(ratio.unwrap_or(f64::NAN)),
            );
        }
        table
    }

    /// A Markdown table of what an upload costs each peer, and of how many it carries, with the medians of the rounds'
    /// ratios to `reference` and the lowest and the highest of them.
    pub fn costs(&self, reference: &str) -> String {
        let mut table = format!(
            "| | CPU µs/upload | of {reference} | lowest-highest | uploads/s | of {reference} | lowest-highest | errors |\n|---|{}\n",
            "---:|".repeat(7)
        );
        for peer in &self.peers {
            let _ = write!(table, "| {} |", peer.name);
            for (figure, unit) in [(Figure::CpuPer1000, 1000.0), (Figure::UploadsPerSecond, 1.0)] {
                let mut ratios = self.ratios(&peer.name, reference, figure).unwrap_or_default();
                ratios.sort_by(f64::total_cmp);
                let [low, high] = [ratios.first(), ratios.last()]
                    .map(|ratio| number(ratio.copied().unwrap_or(f64::NAN)));
                let (value, ratio) = (peer.median(figure) * unit, median(ratios.into_iter()));
                let _ = write!(table, " {} | {} | {low}-{high} |", number(value), number(ratio));
            }
            let _ = writeln!(table, " {} |", peer.errors());
        }
        table
    }

    pub fn title(&self) -> String {
        let rate = self.rate.map(|rate| format!(", {rate:.0} uploads/s")).unwrap_or_default();
        format!("{} ({}{rate})", self.name, self.what)
    }
}

/// A number with three significant digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
