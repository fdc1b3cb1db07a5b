//! The export of spans by OTLP over HTTP: in batches, and again where the collector may take them later. A collector that
//! fails costs its spans and nothing else.
//!
//! Not by the crates of OpenTelemetry: their batch processor has no limit in bytes, and does not tell how many spans it
//! has dropped; it exports on a thread of its own that blocks, so that the HTTP client here cannot be used; and they
//! bring along a dozen crates.

mod collector;
mod encode;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::spans::{RequestSpans, Tracer};
pub use collector::Collector;
use collector::Outcome;
use encode::Resource;

/// How long a span waits at most for others of its batch.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the last batches may take when the gateway stops.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// How often a batch is sent.
const MAX_ATTEMPTS: u32 = 5;
/// The pause after a failed attempt doubles, from this one on.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that a collector may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The running export.
pub struct Exporter {
    tracer: Arc<Tracer>,
    in_flight: Rc<Cell<usize>>,
    stopping: CancellationToken,
    stopped: CancellationToken,
}

impl Exporter {
    /// Must be called on a thread of the actix system.
    pub fn start(collector: Collector, tracer: Arc<Tracer>) -> Self {
        let (stopping, stopped) = (CancellationToken::new(), CancellationToken::new());
        let export = Export {
            collector,
            tracer: tracer.clone(),
            resource: Resource::new(),
            is_failing: Cell::new(false),
            in_flight: Rc::default(),
            stopping: stopping.clone(),
        };
        let (on_stop, in_flight) = (stopped.clone(), export.in_flight.clone());
        actix_web::rt::spawn(async move {
            export.run().await;
            on_stop.cancel();
        });
        Self { tracer, in_flight, stopping, stopped }
    }

    /// Exports what is queued, each batch by one more attempt, within two seconds.
    pub async fn finish(&self) {
        self.stopping.cancel();
        if timeout(FLUSH_LIMIT, self.stopped.cancelled()).await.is_ok() {
            return;
        }
        let mut lost = self.in_flight.get();
        loop {
            let batch = self.tracer.take();
            if batch.is_empty() {
                break;
            }
            lost += spans_of(&batch);
        }
        self.tracer.count("dropped", lost);
        tracing::warn!(spans = lost, "the gateway stops before all spans are exported");
    }
}

fn spans_of(batch: &[RequestSpans]) -> usize {
    batch.iter().map(RequestSpans::count).sum()
}

/// The task that exports.
struct Export {
    collector: Collector,
    tracer: Arc<Tracer>,
    resource: Resource,
    /// The last attempt failed. Only the first failure of several is worth a warning.
    is_failing: Cell<bool>,
    /// The spans of the batch that is being sent.
    in_flight: Rc<Cell<usize>>,
    stopping: CancellationToken,
}

impl Export {
    async fn run(&self) {
        loop {
            let is_last = tokio::select! {
                () = self.stopping.cancelled() => true,
                () = self.tracer.ready() => false,
                () = sleep(INTERVAL) => false,
            };
            loop {
                let batch = self.tracer.take();
                if batch.is_empty() {
                    break;
                }
                self.export(&batch).await;
            }
            if is_last {
                return;
            }
        }
    }

    async fn export(&self, batch: &[RequestSpans]) {
        let spans = spans_of(batch);
        self.in_flight.set(spans);
        match self.send(encode::request(&self.resource, batch).into()).await {
            Ok(rejected) => {
                let rejected = rejected.min(spans);
                self.tracer.count("failed", rejected);
                self.tracer.count("exported", spans - rejected);
            }
            Err(cause) => {
                self.tracer.count("failed", spans);
                tracing::debug!(cause, spans, "spans are lost");
            }
        }
        self.in_flight.set(0);
    }

    /// Returns how many spans the collector has rejected, or why it has taken none.
    async fn send(&self, request: Bytes) -> Result<usize, String> {
        let mut attempt = 1;
        loop {
            let (cause, retry_after) = match self.collector.send(&request).await {
                Outcome::Accepted { rejected: 0, .. } => {
                    if self.is_failing.replace(false) {
                        tracing::info!("spans are exported again");
                    }
                    return Ok(0);
                }
                Outcome::Accepted { rejected, cause } => {
                    self.failed(&cause);
                    return Ok(rejected);
                }
                Outcome::Refused(cause) => {
                    self.failed(&cause);
                    return Err(cause);
                }
                Outcome::Unavailable { cause, retry_after } => (cause, retry_after),
            };
            self.failed(&cause);
            if attempt == MAX_ATTEMPTS || self.stopping.is_cancelled() {
                return Err(cause);
            }
            tokio::select! {
                () = sleep(pause(attempt, retry_after)) => {}
                () = self.stopping.cancelled() => {}
            }
            attempt += 1;
        }
    }

    /// Logs the first of several failures.
    fn failed(&self, cause: &str) {
        const TEXT: &str = "spans cannot be exported: telemetry.otlp_endpoint";
        match self.is_failing.replace(true) {
            false => tracing::warn!(cause, "{TEXT}"),
            true => tracing::debug!(cause, "{TEXT}"),
        }
    }
}

/// After the attempt with this number. It varies, so that gateways that failed together do not repeat together.
fn pause(attempt: u32, retry_after: Option<Duration>) -> Duration {
    let doubled = MIN_PAUSE * (1 << attempt.saturating_sub(1).min(5));
    let pause = doubled.max(retry_after.unwrap_or_default()).min(MAX_PAUSE);
    // A collector's own pause is not made shorter.
    pause.mul_f64(1.0 + 0.2 * fastrand::f64())
}
