//! What is measured: the names, labels and help texts of every metric, in one place. No label has values that grow with
//! traffic.

use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Upper bounds in seconds: a link call takes milliseconds, a large file over a phone's uplink an hour.
const SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// The process's metrics, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    uploads: IntCounterVec,
    upload_bytes: IntCounter,
    in_flight: IntGauge,
    upload_seconds: HistogramVec,
    replays: IntCounterVec,
    token_refreshes: IntCounterVec,
    token_age: GaugeVec,
    redis_up: IntGaugeVec,
    wechat_requests: IntCounterVec,
    cos_responses: IntCounterVec,
    memory_budget: IntGauge,
    connections: IntGauge,
    connections_shed: IntCounter,
}

/// A part of an upload that somebody else can be slow in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// WeChat's upload link.
    Link,
    /// The form's way to COS, at the client's pace or COS's.
    Send,
    /// From the form's last byte to COS's reply.
    Verdict,
}

impl Stage {
    pub const ALL: [Self; 3] = [Self::Link, Self::Send, Self::Verdict];

    pub fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Send => "send",
            Self::Verdict => "verdict",
        }
    }
}

impl Metrics {
    /// Every metric at zero. `results` are all the ends an upload can have.
    pub fn new(results: impl Iterator<Item = &'static str>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, label: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), label)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let upload_bytes =
            IntCounter::new("gateway_upload_bytes_total", "Bytes of the files that were stored")?;
        registry.register(Box::new(upload_bytes.clone()))?;
        let connections_shed = IntCounter::new(
            "gateway_connections_shed_total",
            "Connections that had to go, or were refused, because there were too many",
        )?;
        registry.register(Box::new(connections_shed.clone()))?;
        let upload_seconds = HistogramVec::new(
            HistogramOpts::new("gateway_upload_seconds", "How long each stage of an upload took")
                .buckets(SECONDS.to_vec()),
            &["stage"],
        )?;
        registry.register(Box::new(upload_seconds.clone()))?;
        // Without labels, as vectors: they do not show until there is something to show.
        let token_age = GaugeVec::new(
            Opts::new("gateway_token_age_seconds", "Since the access token in use was fetched"),
            &[],
        )?;
        registry.register(Box::new(token_age.clone()))?;
        let redis_up = IntGaugeVec::new(
            Opts::new("gateway_redis_up", "Whether tokens can be shared with the other replicas"),
            &[],
        )?;
        registry.register(Box::new(redis_up.clone()))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;

        let metrics = Self {
            uploads: counters(
                "gateway_uploads_total",
                "Files by how their upload ended: stored, or the problem's code",
                &["result"],
            )?,
            upload_bytes,
            in_flight: gauge("gateway_uploads_in_flight", "Upload requests being served")?,
            upload_seconds,
            replays: counters(
                "gateway_replays_total",
                "Files that were sent to COS again, by what had gone wrong",
                &["cause"],
            )?,
            token_refreshes: counters(
                "gateway_token_refreshes_total",
                "Access tokens by how they were come by: fetched, shared, failed",
                &["result"],
            )?,
            token_age,
            redis_up,
            wechat_requests: counters(
                "gateway_wechat_requests_total",
                "Calls to WeChat by what kind of answer they had",
                &["call", "errcode_class"],
            )?,
            cos_responses: counters(
                "gateway_cos_responses_total",
                "Forms posted to COS by its answer: a class of statuses, or none",
                &["class"],
            )?,
            memory_budget: gauge(
                "gateway_memory_budget_bytes",
                "Memory that replay windows and held files take of upload.memory_budget",
            )?,
            connections: gauge("gateway_connections", "Connections of clients")?,
            connections_shed,
            registry,
        };
        for result in results.chain(["stored"]) {
            metrics.uploads.with_label_values(&[result]);
        }
        for stage in Stage::ALL {
            metrics.upload_seconds.with_label_values(&[stage.name()]);
        }
        for result in ["fetched", "shared", "failed"] {
            metrics.token_refreshes.with_label_values(&[result]);
        }
        Ok(metrics)
    }

    /// A file's upload ended: `stored` or a code.
    pub fn upload(&self, result: &'static str) {
        self.uploads.with_label_values(&[result]).inc();
    }

    /// A file of this many bytes was stored.
    pub fn stored(&self, bytes: u64) {
        self.upload(Self::STORED);
        self.upload_bytes.inc_by(bytes);
    }

    const STORED: &str = "stored";

    /// An upload request begins; it ends when what is returned is dropped.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    pub fn stage(&self, stage: Stage, took: Duration) {
        self.upload_seconds.with_label_values(&[stage.name()]).observe(took.as_secs_f64());
    }

    /// A file is sent again.
    pub fn replay(&self, cause: &'static str) {
        self.replays.with_label_values(&[cause]).inc();
    }

    /// An access token was wanted: `fetched`, `shared` or `failed`.
    pub fn token(&self, result: &'static str) {
        self.token_refreshes.with_label_values(&[result]).inc();
    }

    pub fn redis(&self, up: bool) {
        self.redis_up.with_label_values::<&str>(&[]).set(up.into());
    }

    pub fn wechat(&self, call: &'static str, class: &'static str) {
        self.wechat_requests.with_label_values(&[call, class]).inc();
    }

    /// COS answered a form: `2xx` and so on, or `none`.
    pub fn cos(&self, class: &'static str) {
        self.cos_responses.with_label_values(&[class]).inc();
    }

    /// A client has connected.
    pub fn connected(&self) {
        self.connections.inc();
    }

    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// There were too many connections.
    pub fn shed(&self) {
        self.connections_shed.inc();
    }

    /// All of them in Prometheus' text format; `kept` is what the memory budget has given out.
    pub fn text(
        &self,
        kept: u64,
        token_age: Option<Duration>,
    ) -> Result<Vec<u8>, prometheus::Error> {
        self.memory_budget.set(i64::try_from(kept).unwrap_or(i64::MAX));
        match token_age {
            Some(age) => self.token_age.with_label_values::<&str>(&[]).set(age.as_secs_f64()),
            None => self.token_age.reset(),
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// One upload request while it is served.
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
