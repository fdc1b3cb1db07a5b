//! What a run has found, as Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::arguments::RunPlan;
use super::calls::{STAGES, Stored};
use super::connection::Opened;
use super::drive::Tally;

/// The process is one thread: from this share of a processor on, its speed is what is measured.
const BUSY: f64 = 0.8;

/// Quantiles of a duration in milliseconds.
#[derive(Debug, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        let max = histogram.max() as f64 / 1e6;
        (!histogram.is_empty()).then(|| Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }

    fn row(&self) -> String {
        let Self { p50, p90, p99, max } = self;
        format!("{p50:.1} | {p90:.1} | {p99:.1} | {max:.1}")
    }
}

/// The first upload, on a new connection. In milliseconds.
#[derive(Debug, Serialize)]
pub struct First {
    /// In bytes.
    pub size: u64,
    pub dns_ms: f64,
    pub tcp_ms: f64,
    pub tls_ms: Option<f64>,
    pub upload_ms: f64,
    /// By the gateway's names for them.
    pub stages_ms: BTreeMap<&'static str, f64>,
    /// `same`, or why the file was not compared.
    pub download: String,
}

impl First {
    pub fn new(size: u64, opened: Opened, upload_ms: f64, stored: &Stored) -> Self {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        let stages = STAGES.into_iter().zip(stored.stages);
        Self {
            size,
            dns_ms: ms(opened.dns),
            tcp_ms: ms(opened.tcp),
            tls_ms: opened.tls.map(ms),
            upload_ms,
            stages_ms: stages.filter_map(|(stage, took)| Some((stage, took?))).collect(),
            download: String::new(),
        }
    }

    /// In milliseconds, with the connection.
    pub fn total_ms(&self) -> f64 {
        self.dns_ms + self.tcp_ms + self.tls_ms.unwrap_or(0.0) + self.upload_ms
    }

    /// `DNS 0.1, TCP 0.2, upload 3.0 (link 1.0)`
    pub fn told(&self) -> String {
        let mut told = format!("DNS {:.1}, TCP {:.1}", self.dns_ms, self.tcp_ms);
        if let Some(tls) = self.tls_ms {
            let _ = write!(told, ", TLS {tls:.1}");
        }
        let stages = self.stages_ms.iter().map(|(stage, took)| format!("{stage} {took:.1}"));
        let stages = stages.collect::<Vec<_>>().join(", ");
        let _ = write!(told, ", upload {:.1}", self.upload_ms);
        if !stages.is_empty() {
            let _ = write!(told, " ({stages})");
        }
        told
    }
}

/// What was deleted.
#[derive(Debug, Default, Serialize)]
pub struct Deletion {
    /// Without the check's file.
    pub deleted: u64,
    /// Stored, and not deleted; with `--keep`, the check's file is one of them.
    pub remaining: u64,
    /// Why the first that remains was not deleted.
    pub error: Option<String>,
    /// Some of those that remain: ids or paths.
    pub examples: Vec<String>,
}

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub target: String,
    /// RFC 3339.
    pub date: String,
    /// The gateway's, if it tells it.
    pub version: Option<String>,
    /// The run's name: its requests have ids `bench-RUN-NUMBER`.
    pub run: String,
    /// Of each file, in bytes.
    pub size: u64,
    pub connections: u16,
    /// Uploads a second in an open loop.
    pub rate: Option<f64>,
    pub first: First,
    pub seconds: f64,
    /// Why the load ended.
    pub end: String,
    pub uploads: u64,
    pub failed: u64,
    /// Scheduled uploads that were not sent.
    pub unsent: u64,
    pub uploads_per_second: f64,
    pub mib_per_second: f64,
    pub latency_ms: Option<Quantiles>,
    /// In an open loop.
    pub wait_ms: Option<Quantiles>,
    /// By the gateway's names for them.
    pub stages_ms: BTreeMap<&'static str, Quantiles>,
    pub rest_ms: Option<Quantiles>,
    pub errors: BTreeMap<String, u64>,
    pub first_error: Option<String>,
    pub paused_seconds: f64,
    pub opened_connections: u64,
    /// Of one processor.
    pub client_cpu: f64,
    /// Failed uploads whose files may be stored.
    pub unknown: u64,
    /// The folder that all stored files share.
    pub folder: String,
    pub deletion: Deletion,
}

impl Report {
    pub fn new(plan: &RunPlan, run: &str, first: First, tally: &Tally) -> Self {
        let stages = STAGES.into_iter().zip(&tally.stages);
        let seconds = tally.seconds.max(1e-9);
        Self {
            target: plan.target(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            version: None,
            run: run.to_owned(),
            size: plan.size,
            connections: plan.connections,
            rate: plan.rate,
            first,
            seconds: tally.seconds,
            end: tally.end.as_ref().map(ToString::to_string).unwrap_or_default(),
            uploads: tally.uploads,
            failed: tally.failed,
            unsent: tally.unsent,
            uploads_per_second: tally.uploads as f64 / seconds,
            mib_per_second: (tally.uploads * plan.size) as f64 / 1024.0 / 1024.0 / seconds,
            latency_ms: Quantiles::of(&tally.latency),
            wait_ms: plan.rate.and_then(|_| Quantiles::of(&tally.wait)),
            stages_ms: stages
                .filter_map(|(stage, times)| Some((stage, Quantiles::of(times)?)))
                .collect(),
            rest_ms: Quantiles::of(&tally.rest),
            errors: tally.errors.clone(),
            first_error: tally.first_error.clone(),
            paused_seconds: tally.paused.as_secs_f64(),
            opened_connections: tally.connections,
            client_cpu: tally.cpu / seconds,
            unknown: tally.unknown,
            folder: tally.folder.clone().unwrap_or_default(),
            deletion: Deletion::default(),
        }
    }

    /// The figures, the latency with its parts, then what is to be known of them.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| | |\n|---|---:|\n");
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "| {name} | {value} |");
        };
        let version = self.version.as_deref().unwrap_or("not told");
        row("target", self.target.clone());
        row("gateway's version", version.to_owned());
        let rate = self.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} uploads/s"));
        let size = bytesize::ByteSize(self.size);
        row("load", format!("{size} × {} connections, {rate}", self.connections));
        row("uploads", format!("{} in {:.1} s", self.uploads, self.seconds));
        row("**uploads/s**", format!("**{:.1}**", self.uploads_per_second));
        row("**MiB/s**", format!("**{:.1}**", self.mib_per_second));
        row("failed", self.failed.to_string());
        for (label, count) in &self.errors {
            row(&format!("… {label}"), count.to_string());
        }
        if self.unsent > 0 {
            row("scheduled, not sent", self.unsent.to_string());
        }
        if self.paused_seconds > 0.0 {
            row("paused (`Retry-After`)", format!("{:.1} s", self.paused_seconds));
        }
        row("first upload", format!("{:.1} ms", self.first.total_ms()));
        row("connections opened", self.opened_connections.to_string());
        row("client's CPU", format!("{:.0} %", self.client_cpu * 100.0));
        let told = [
            ("**latency**", self.latency_ms.as_ref()),
            ("wait for a connection", self.wait_ms.as_ref()),
            ("link: WeChat", self.stages_ms.get("link")),
            ("send: to COS, as bytes arrive", self.stages_ms.get("send")),
            ("verdict: COS, after the last byte", self.stages_ms.get("verdict")),
            ("hook: your back end", self.stages_ms.get("hook")),
            ("rest: network, gateway, client", self.rest_ms.as_ref()),
        ];
        text.push_str("\n| ms | p50 | p90 | p99 | max |\n|---|---:|---:|---:|---:|\n");
        for (name, quantiles) in told {
            if let Some(quantiles) = quantiles {
                let _ = writeln!(text, "| {name} | {} |", quantiles.row());
            }
        }
        let _ = write!(text, "\n{}", self.notes());
        text
    }

    fn notes(&self) -> String {
        let mut notes = format!(
            "Ended: {}. First upload: {} ms. Downloaded again: {}. Request ids: bench-{}-*.\n",
            self.end,
            self.first.told(),
            self.first.download,
            self.run
        );
        let mut note = |text: String| {
            let _ = writeln!(notes, "{text}");
        };
        if let Some(error) = &self.first_error {
            note(format!("The first error: {error}"));
        }
        if self.stages_ms.is_empty() {
            note(
                "The responses have no Server-Timing: the parts of the latency are unknown.".into(),
            );
        }
        if self.client_cpu > BUSY {
            note(
                "The client was busy nearly all of the time: it may have been the bottleneck."
                    .into(),
            );
        }
        if self.unknown > 0 {
            note(format!(
                "{} uploads failed without a verdict: their files may be stored.",
                self.unknown
            ));
        }
        let Deletion { deleted, remaining, error, examples } = &self.deletion;
        let mut left = format!("Deleted: {deleted} files; remaining: {remaining}");
        if *remaining > 0 {
            let _ = write!(left, ", in `{}/`, such as {}", self.folder, examples.join(", "));
        }
        if let Some(error) = error {
            let _ = write!(left, " ({error})");
        }
        note(format!("{left}."));
        notes
    }

    /// Whether every upload succeeded that was to be sent.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.unsent == 0
    }
}
