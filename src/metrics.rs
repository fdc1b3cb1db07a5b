//! The metrics: the name, labels and help text of each. No label has values that grow in number with traffic.

pub mod routes;
pub mod warm_links;

use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use routes::RouteMetrics;
use warm_links::WarmLinkMetrics;

/// Upper bounds in seconds: an upload link takes milliseconds, a large file over a phone's uplink an hour.
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
    slow_clients: IntCounterVec,
    resumable: IntCounterVec,
    token_refreshes: IntCounterVec,
    token_age: GaugeVec,
    redis_up: IntGaugeVec,
    wechat_requests: IntCounterVec,
    cos_responses: IntCounterVec,
    forward_auth: IntCounterVec,
    jwks: IntCounterVec,
    hooks: IntCounterVec,
    hooks_queued: IntGauge,
    quotas: IntCounterVec,
    reloads: IntCounterVec,
    last_reload_successful: IntGauge,
    spans: IntCounterVec,
    memory_budget: IntGauge,
    memory_budget_limit: IntGauge,
    spool: IntGauge,
    spool_limit: IntGauge,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    connections: IntGauge,
    connections_shed: IntCounter,
    pub warm_links: WarmLinkMetrics,
}

/// A part of an upload whose duration another party determines: WeChat, the client or COS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// WeChat's upload link.
    Link,
    /// Sending the form to COS, at the client's speed or COS's.
    Send,
    /// From the form's last byte to COS's response.
    Verdict,
    /// Waiting for the owner's back end.
    Hook,
}

impl Stage {
    pub const ALL: [Self; 4] = [Self::Link, Self::Send, Self::Verdict, Self::Hook];

    pub fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Send => "send",
            Self::Verdict => "verdict",
            Self::Hook => "hook",
        }
    }
}

impl Metrics {
    /// Every metric at zero. `results` are all codes that an upload can fail with.
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
            "Connections closed, or requests on them refused, because there were too many",
        )?;
        registry.register(Box::new(connections_shed.clone()))?;
        let upload_seconds = HistogramVec::new(
            HistogramOpts::new("gateway_upload_seconds", "How long each stage of an upload took")
                .buckets(SECONDS.to_vec()),
            &["stage"],
        )?;
        registry.register(Box::new(upload_seconds.clone()))?;
        let request_seconds = HistogramVec::new(
            HistogramOpts::new(
                "gateway_request_seconds",
                "Time until a response began, by route; uploads take as long as their clients and COS",
            )
            .buckets(SECONDS.to_vec()),
            &["route"],
        )?;
        registry.register(Box::new(request_seconds.clone()))?;
        let build = IntGaugeVec::new(
            Opts::new("gateway_build_info", "1; the version is a label"),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        // Vectors without labels are not shown until they have a value.
        let token_age = GaugeVec::new(
            Opts::new(
                "gateway_token_age_seconds",
                "Time since the access token in use was fetched",
            ),
            &[],
        )?;
        registry.register(Box::new(token_age.clone()))?;
        let redis_up =
            IntGaugeVec::new(Opts::new("gateway_redis_up", "Whether Redis can be used"), &[])?;
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
                "Files sent to COS again, by what had gone wrong",
                &["cause"],
            )?,
            slow_clients: counters(
                "gateway_slow_clients_total",
                "Files whose clients were too slow for COS, by what was done: buffered, spooled, streamed",
                &["action"],
            )?,
            resumable: counters(
                "gateway_resumable_total",
                "Events of resumable uploads: created, begun, continued, stored, terminated",
                &["event"],
            )?,
            token_refreshes: counters(
                "gateway_token_refreshes_total",
                "Attempts to get an access token by result: fetched, shared, failed",
                &["result"],
            )?,
            token_age,
            redis_up,
            wechat_requests: counters(
                "gateway_wechat_requests_total",
                "Calls to WeChat by the class of the response's errcode",
                &["call", "errcode_class"],
            )?,
            cos_responses: counters(
                "gateway_cos_responses_total",
                "Forms posted to COS by the response: a class of statuses, or none",
                &["class"],
            )?,
            forward_auth: counters(
                "gateway_forward_auth_total",
                "Calls to the auth server by result: allowed, refused, failed",
                &["result"],
            )?,
            jwks: counters(
                "gateway_jwks_fetches_total",
                "Fetches of the issuer's key set by result: fetched, failed",
                &["result"],
            )?,
            hooks: counters(
                "gateway_hooks_total",
                "Events for the back end by what happened: queued, delivered, refused, failed (one attempt), dropped",
                &["event", "result"],
            )?,
            hooks_queued: gauge(
                "gateway_hooks_queued",
                "Events that wait for the back end: those in Redis, and those in this gateway's memory",
            )?,
            quotas: counters(
                "gateway_quotas_total",
                "Uploads with a quota: admitted, refused; alone: counted by this gateway alone, without Redis",
                &["result"],
            )?,
            reloads: counters(
                "gateway_reloads_total",
                "Reloads of the settings: applied, or failed, which changed nothing",
                &["result"],
            )?,
            last_reload_successful: gauge(
                "gateway_last_reload_successful",
                "1 unless the last reload has failed: the files then differ from the settings in use",
            )?,
            spans: counters(
                "gateway_spans_total",
                "Spans of traced requests by result: exported, failed, dropped for lack of room",
                &["result"],
            )?,
            memory_budget: gauge(
                "gateway_memory_budget_bytes",
                "Memory that replay windows and buffered files use of upload.memory_budget",
            )?,
            memory_budget_limit: gauge(
                "gateway_memory_budget_limit_bytes",
                "upload.memory_budget",
            )?,
            spool_limit: gauge(
                "gateway_spool_limit_bytes",
                "resumable.spool_limit; 0 without a spool",
            )?,
            spool: gauge(
                "gateway_spool_bytes",
                "Bytes of files in the spool, with those that are reserved, of resumable.spool_limit",
            )?,
            requests: counters(
                "gateway_requests_total",
                "Requests by route, method and class of the response's status",
                &["route", "method", "class"],
            )?,
            request_seconds,
            connections: gauge("gateway_connections", "Connections of clients")?,
            connections_shed,
            warm_links: WarmLinkMetrics::new(&registry)?,
            registry,
        };
        for result in results.chain(["stored"]) {
            metrics.uploads.with_label_values(&[result]);
        }
        for stage in Stage::ALL {
            metrics.upload_seconds.with_label_values(&[stage.name()]);
        }
        for action in ["buffered", "spooled", "streamed"] {
            metrics.slow_clients.with_label_values(&[action]);
        }
        for event in ["created", "begun", "continued", "stored", "terminated"] {
            metrics.resumable.with_label_values(&[event]);
        }
        for result in ["admitted", "refused", "alone"] {
            metrics.quotas.with_label_values(&[result]);
        }
        for result in ["applied", "failed"] {
            metrics.reloads.with_label_values(&[result]);
        }
        metrics.last_reload_successful.set(1);
        for result in ["exported", "failed", "dropped"] {
            metrics.spans.with_label_values(&[result]);
        }
        for result in ["allowed", "refused", "failed"] {
            metrics.forward_auth.with_label_values(&[result]);
        }
        for result in ["fetched", "failed"] {
            metrics.jwks.with_label_values(&[result]);
        }
        // Prometheus sees no increase in a counter that begins with 1.
        for event in ["file.stored", "file.deleted"] {
            for result in ["queued", "delivered", "refused", "failed", "dropped"] {
                metrics.hooks.with_label_values(&[event, result]);
            }
        }
        for call in ["uploadfile", "batchdownloadfile", "batchdeletefile"] {
            for class in ["ok", "quota"] {
                metrics.wechat_requests.with_label_values(&[call, class]);
            }
        }
        for class in ["2xx", "5xx", "none"] {
            metrics.cos_responses.with_label_values(&[class]);
        }
        for result in ["fetched", "shared", "failed"] {
            metrics.token_refreshes.with_label_values(&[result]);
        }
        Ok(metrics)
    }

    /// Tells the limits of what [`text`](Self::text) is given: bytes of the memory budget, and of the spool.
    pub fn limits(&self, memory_budget: u64, spool: u64) {
        self.memory_budget_limit.set(i64::try_from(memory_budget).unwrap_or(i64::MAX));
        self.spool_limit.set(i64::try_from(spool).unwrap_or(i64::MAX));
    }

    /// Counts a file's upload by its result: `stored` or a problem's code.
    pub fn upload(&self, result: &'static str) {
        self.uploads.with_label_values(&[result]).inc();
    }

    /// Counts a stored file of this many bytes.
    pub fn stored(&self, bytes: u64) {
        self.upload(Self::STORED);
        self.upload_bytes.inc_by(bytes);
    }

    const STORED: &str = "stored";

    /// Counts an upload request as in flight until the returned value is dropped.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    pub fn stage(&self, stage: Stage, took: Duration) {
        self.upload_seconds.with_label_values(&[stage.name()]).observe(took.as_secs_f64());
    }

    /// Counts a file that is sent to COS again.
    pub fn replay(&self, cause: &'static str) {
        self.replays.with_label_values(&[cause]).inc();
    }

    /// Counts a file whose client is too slow for COS: `buffered` first, or `streamed` all the same.
    pub fn slow_client(&self, action: &'static str) {
        self.slow_clients.with_label_values(&[action]).inc();
    }

    /// Counts an event of a resumable upload; `begun` and `continued` are requests with its first or further bytes.
    pub fn resumable(&self, event: &'static str) {
        self.resumable.with_label_values(&[event]).inc();
    }

    /// Counts a call to the auth server: `allowed`, `refused` or `failed`.
    pub fn forward_auth(&self, result: &'static str) {
        self.forward_auth.with_label_values(&[result]).inc();
    }

    /// Counts a fetch of the issuer's key set: `fetched` or `failed`.
    pub fn jwks(&self, result: &'static str) {
        self.jwks.with_label_values(&[result]).inc();
    }

    /// Counts an event for the back end: `queued`, `delivered`, `refused`, `failed` or `dropped`.
    pub fn hook(&self, event: &'static str, result: &'static str) {
        self.hooks.with_label_values(&[event, result]).inc();
    }

    /// Counts an upload that has a quota: `admitted` or `refused`, and `alone` as well if Redis was unavailable.
    pub fn quota(&self, result: &'static str) {
        self.quotas.with_label_values(&[result]).inc();
    }

    /// Counts a reload of the settings: `applied` or `failed`.
    pub fn reload(&self, result: &'static str) {
        self.reloads.with_label_values(&[result]).inc();
        self.last_reload_successful.set(i64::from(result == "applied"));
    }

    /// Counts spans: `exported`, `failed` or `dropped`.
    pub fn spans(&self, result: &'static str, spans: usize) {
        self.spans.with_label_values(&[result]).inc_by(spans as u64);
    }

    pub fn hooks_queued(&self, events: usize) {
        self.hooks_queued.set(i64::try_from(events).unwrap_or(i64::MAX));
    }

    /// Counts an attempt to get an access token: `fetched`, `shared` or `failed`.
    pub fn token(&self, result: &'static str) {
        self.token_refreshes.with_label_values(&[result]).inc();
    }

    pub fn redis(&self, up: bool) {
        self.redis_up.with_label_values::<&str>(&[]).set(up.into());
    }

    pub fn wechat(&self, call: &'static str, class: &'static str) {
        self.wechat_requests.with_label_values(&[call, class]).inc();
    }

    /// Counts COS's response to a form: `2xx` and so on, or `none`.
    pub fn cos(&self, class: &'static str) {
        self.cos_responses.with_label_values(&[class]).inc();
    }

    /// The figures of a route, of which `methods` are served: `"GET, HEAD"`.
    pub fn route(&self, route: &'static str, methods: &'static str) -> RouteMetrics {
        RouteMetrics::new(route, methods, &self.requests, &self.request_seconds)
    }

    /// Counts a client's connection as open.
    pub fn connected(&self) {
        self.connections.inc();
    }

    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// Counts a connection that was closed, or a request that was refused, for lack of slots.
    pub fn shed(&self) {
        self.connections_shed.inc();
    }

    /// All metrics in Prometheus' text format; `buffered` are the bytes charged to the memory budget,
    /// `spooled` those charged to the spool's quota.
    pub fn text(
        &self,
        buffered: u64,
        spooled: u64,
        token_age: Option<Duration>,
    ) -> Result<Vec<u8>, prometheus::Error> {
        self.memory_budget.set(i64::try_from(buffered).unwrap_or(i64::MAX));
        self.spool.set(i64::try_from(spooled).unwrap_or(i64::MAX));
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
