//! The spans of requests: which requests have them, and the bounded queue in which finished ones wait for their export.
//! Knows nothing of how they are exported.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::cut_to;
use crate::metrics::{Metrics, Stage};
use crate::net::trace_context::TraceContext;
use crate::settings::Otlp;

/// Spans that wait at most. Further ones are dropped, and counted.
pub const MAX_QUEUED: usize = 2048;
/// Spans that are exported together, unless a single request has more.
pub const BATCH: usize = 512;
/// Spans of stages that one request has at most.
pub const MAX_STAGES: usize = 128;
/// Bytes of a text that a client has a say in.
const MAX_TEXT: usize = 128;

/// In a `traceparent`: the sender has recorded the request.
const SAMPLED: u8 = 1;

/// Decides which requests are traced, and takes their spans.
pub struct Tracer {
    ratio: f64,
    queue: Mutex<Queue>,
    /// A whole batch waits.
    ready: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<RequestSpans>,
    /// Of all requests together.
    spans: usize,
}

/// A finished request: its own span, and those of its stages. Times are in nanoseconds of Unix time.
#[derive(Debug)]
pub struct RequestSpans {
    /// The request's own: `parent_id` is the id of its span.
    pub context: TraceContext,
    /// The span of the client.
    pub parent_id: Option<u64>,
    /// `_OTHER`: none that is known.
    pub method: &'static str,
    /// The pattern.
    pub route: &'static str,
    pub begun: u64,
    pub ended: u64,
    /// `None`: the request ended before its response.
    pub status: Option<u16>,
    /// The problem's code.
    pub error: Option<&'static str>,
    /// The error is not the client's.
    pub is_failure: bool,
    pub request_id: String,
    pub client: Option<String>,
    pub road: Option<&'static str>,
    pub attempts: Option<u32>,
    /// Of the files that were stored.
    pub bytes: Option<u64>,
    pub files: Option<u32>,
    /// At most [`MAX_STAGES`].
    pub stages: Vec<StageSpan>,
    /// Stages beyond that.
    pub stages_omitted: u32,
}

/// A stage of an upload.
#[derive(Debug, Clone, Copy)]
pub struct StageSpan {
    pub id: u64,
    pub stage: Stage,
    pub begun: u64,
    pub ended: u64,
}

impl RequestSpans {
    pub fn count(&self) -> usize {
        1 + self.stages.len()
    }
}

impl Tracer {
    /// `None`: no request is traced.
    pub fn new(settings: &Otlp, metrics: Arc<Metrics>) -> Option<Arc<Self>> {
        settings.endpoint.as_ref()?;
        let (queue, ready) = (Mutex::default(), Notify::new());
        Some(Arc::new(Self { ratio: settings.ratio, queue, ready, metrics }))
    }

    /// The context of a request that is traced, with the id of its own span; `None` for the others. The client decides by
    /// the sampled flag of its own context, if it has one.
    pub fn sample(&self, client: Option<TraceContext>) -> Option<TraceContext> {
        let trace_id = match client {
            Some(client) if client.flags & SAMPLED == 0 => return None,
            Some(client) => client.trace_id,
            None if rand::random::<f64>() < self.ratio => rand::random::<u128>().max(1),
            None => return None,
        };
        Some(TraceContext { trace_id, parent_id: new_id(), flags: SAMPLED })
    }

    /// Queues a request's spans, or drops them if there is no room for all of them.
    pub fn push(&self, request: RequestSpans) {
        let spans = request.count();
        let mut queue = self.lock();
        if queue.spans + spans > MAX_QUEUED {
            drop(queue);
            self.metrics.spans("dropped", spans);
            return;
        }
        queue.spans += spans;
        queue.requests.push_back(request);
        let is_ready = queue.spans >= BATCH;
        drop(queue);
        if is_ready {
            self.ready.notify_one();
        }
    }

    /// The next batch; empty if no request waits.
    pub fn take(&self) -> Vec<RequestSpans> {
        let mut queue = self.lock();
        let (mut batch, mut spans) = (Vec::new(), 0);
        while let Some(request) = queue.requests.front() {
            let count = request.count();
            if spans > 0 && spans + count > BATCH {
                break;
            }
            spans += count;
            batch.extend(queue.requests.pop_front());
        }
        queue.spans -= spans;
        batch
    }

    /// Waits until there is a whole batch.
    pub async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Counts spans by what has become of them: `exported`, `dropped` or `failed`.
    pub fn count(&self, result: &'static str, spans: usize) {
        self.metrics.spans(result, spans);
    }

    /// A poisoned lock is used all the same: no code that holds it leaves its data inconsistent.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The id of a span: random, and not zero.
pub fn new_id() -> u64 {
    rand::random::<u64>().max(1)
}

/// A text, cut to what a span may have of it.
pub fn bounded(text: &str) -> String {
    cut_to(MAX_TEXT, text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(ratio: f64) -> Arc<Tracer> {
        let endpoint = Some("http://127.0.0.1:4318".to_owned());
        let metrics = Arc::new(Metrics::new([].into_iter()).expect("names"));
        Tracer::new(&Otlp { endpoint, headers: None, ratio }, metrics).expect("an endpoint")
    }

    fn request(stages: usize) -> RequestSpans {
        let stage = StageSpan { id: 1, stage: Stage::Link, begun: 1, ended: 2 };
        RequestSpans {
            context: TraceContext { trace_id: 1, parent_id: 1, flags: 1 },
            parent_id: None,
            method: "PUT",
            route: "/v1/files/{path:.*}",
            begun: 1,
            ended: 2,
            status: Some(201),
            error: None,
            is_failure: false,
            request_id: bounded(&"é".repeat(1000)),
            client: Some(bounded(&"x".repeat(1000))),
            road: Some("form"),
            attempts: Some(1),
            bytes: Some(1),
            files: None,
            stages: vec![stage; stages],
            stages_omitted: 0,
        }
    }

    fn dropped(tracer: &Tracer) -> String {
        let text = tracer.metrics.text(0, 0, None).expect("metrics");
        let text = String::from_utf8(text).expect("text");
        let line = text.lines().find(|line| line.contains("spans_total{result=\"dropped\"}"));
        line.expect("a counter").to_owned()
    }

    #[test]
    fn the_queue_is_bounded_in_spans_and_thereby_in_bytes() {
        let tracer = tracer(1.0);
        for _ in 0..MAX_QUEUED - 3 {
            tracer.push(request(0));
        }
        // 4 spans have no room where 3 have.
        tracer.push(request(3));
        assert!(dropped(&tracer).ends_with(" 4"), "{}", dropped(&tracer));
        tracer.push(request(2));
        tracer.push(request(0));
        assert!(dropped(&tracer).ends_with(" 5"), "{}", dropped(&tracer));
        // The texts of a request are its only parts of variable size, besides its stages, which count as spans.
        let one = request(0);
        let text = one.request_id.len() + one.client.as_ref().map_or(0, String::len);
        assert_eq!(text, 2 * MAX_TEXT);
        let largest = size_of::<RequestSpans>().max(size_of::<StageSpan>()) + text;
        assert!(MAX_QUEUED * largest <= 1 << 20, "{largest}");
    }

    #[test]
    fn batches_have_whole_requests() {
        let tracer = tracer(1.0);
        for stages in [MAX_STAGES; 5] {
            tracer.push(request(stages));
        }
        let sizes = [tracer.take(), tracer.take(), tracer.take()].map(|batch| batch.len());
        assert_eq!(sizes, [3, 2, 0]);
        assert_eq!(tracer.lock().spans, 0);
    }

    #[test]
    fn the_client_decides_and_otherwise_the_ratio() {
        let client = |flags| Some(TraceContext { trace_id: 7, parent_id: 8, flags });
        for ratio in [0.0, 1.0] {
            let tracer = tracer(ratio);
            for flags in [0, 2, 0xfe] {
                assert_eq!(tracer.sample(client(flags)), None);
            }
            for flags in [1, 3, 0xff] {
                let own = tracer.sample(client(flags)).expect("it is sampled");
                assert_eq!((own.trace_id, own.flags), (7, 1));
                assert_ne!(own.parent_id, 8);
            }
            assert_eq!(tracer.sample(None).is_some(), ratio == 1.0);
        }
        let tracer = tracer(0.5);
        let sampled = (0..1000).filter(|_| tracer.sample(None).is_some()).count();
        assert!((300..700).contains(&sampled), "{sampled}");
    }
}
