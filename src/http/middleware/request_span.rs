//! The span of a request that is traced: when it and the stages of its uploads begin and end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix_web::http::Method;

use crate::http::problem::Code;
use crate::metrics::Stage;
use crate::metrics::routes::OTHER;
use crate::net::trace_context::TraceContext;
use crate::telemetry::spans::{MAX_STAGES, RequestSpans, StageSpan, Tracer, bounded, new_id};

/// The API. Probes, metrics, the console and the documentation have no spans.
const TRACED: [&str; 3] = ["/v1/", "/tcb/", "/cgi-bin/"];

/// Of a request that is traced. It is exported once it has ended: by its response, or, if it is an upload, when it is
/// dropped because the client has disconnected.
pub struct RequestSpan {
    tracer: Arc<Tracer>,
    context: TraceContext,
    parent_id: Option<u64>,
    method: &'static str,
    begun: Instant,
    /// In nanoseconds of Unix time.
    begun_unix: u64,
    /// Of an upload.
    route: Cell<Option<&'static str>>,
    stages: RefCell<Vec<StageSpan>>,
    omitted: Cell<u32>,
    has_ended: Cell<bool>,
}

/// How a request has ended.
#[derive(Default)]
pub struct Ended<'a> {
    /// The pattern, or [`OTHER`].
    pub route: Option<&'static str>,
    /// `None`: there was no response.
    pub status: Option<u16>,
    pub error: Option<Code>,
    pub request_id: &'a str,
    pub client: Option<&'a str>,
    pub road: Option<&'static str>,
    pub attempts: Option<u32>,
    pub bytes: Option<u64>,
    /// If there are several.
    pub files: Option<u32>,
}

impl RequestSpan {
    /// `None`: the request is not traced. `client` is the context that it came with.
    pub fn begin(
        tracer: &Arc<Tracer>,
        method: &Method,
        path: &str,
        client: Option<TraceContext>,
    ) -> Option<Rc<Self>> {
        if !TRACED.iter().any(|prefix| path.starts_with(prefix)) {
            return None;
        }
        let context = tracer.sample(client)?;
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Some(Rc::new(Self {
            tracer: tracer.clone(),
            context,
            parent_id: client.map(|client| client.parent_id),
            method: name_of(method),
            begun: Instant::now(),
            begun_unix: nanoseconds(since_epoch.unwrap_or_default()),
            route: Cell::new(None),
            stages: RefCell::default(),
            omitted: Cell::new(0),
            has_ended: Cell::new(false),
        }))
    }

    /// What further servers are sent: the request's span is the parent of theirs.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// It is an upload by this route, so that it is exported even if its client disconnects.
    pub fn set_route(&self, route: &'static str) {
        self.route.set(Some(route));
    }

    /// What [`Self::set_route`] was told.
    pub fn route(&self) -> Option<&'static str> {
        self.route.get()
    }

    /// Adds a stage that took so long, until `ended`.
    pub fn add(&self, stage: Stage, took: Duration, ended: Instant) {
        let mut stages = self.stages.borrow_mut();
        if stages.len() >= MAX_STAGES {
            self.omitted.set(self.omitted.get().saturating_add(1));
            return;
        }
        let ended = self.unix(ended);
        let begun = ended.saturating_sub(nanoseconds(took)).max(self.begun_unix);
        stages.push(StageSpan { id: new_id(), stage, begun, ended });
    }

    /// Queues the span for its export, unless no route has the request.
    pub fn end(&self, ended: &Ended<'_>) {
        let Some(route) = ended.route.filter(|route| *route != OTHER) else {
            self.has_ended.set(true);
            return;
        };
        if self.has_ended.replace(true) {
            return;
        }
        let has_failed = |code: Code| ended.status.is_none() || code.status().is_server_error();
        self.tracer.push(RequestSpans {
            context: self.context,
            parent_id: self.parent_id,
            method: self.method,
            route,
            begun: self.begun_unix,
            ended: self.unix(Instant::now()),
            status: ended.status,
            error: ended.error.map(Code::name),
            is_failure: ended.error.is_some_and(has_failed),
            request_id: bounded(ended.request_id),
            client: ended.client.map(bounded),
            road: ended.road,
            attempts: ended.attempts,
            bytes: ended.bytes,
            files: ended.files,
            stages: self.stages.take(),
            stages_omitted: self.omitted.get(),
        });
    }

    /// By the monotonic clock, so that the times of a request are in order.
    fn unix(&self, at: Instant) -> u64 {
        self.begun_unix.saturating_add(nanoseconds(at.saturating_duration_since(self.begun)))
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if !self.has_ended.get() {
            let error = Some(Code::TruncatedBody);
            self.end(&Ended { route: self.route.get(), error, ..Ended::default() });
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The methods of RFC 9110 and RFC 5789; a client can make up others.
fn name_of(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::settings::Otlp;

    #[test]
    fn an_upload_that_is_dropped_before_its_response_is_exported() {
        let endpoint = Some("http://127.0.0.1:4318".to_owned());
        let metrics = Arc::new(Metrics::new([].into_iter()).expect("names"));
        let settings = Otlp { endpoint, headers: None, ratio: 1.0 };
        let tracer = Tracer::new(&settings, metrics).expect("an endpoint");
        let begin = || RequestSpan::begin(&tracer, &Method::PUT, "/v1/files/x", None);
        // No upload.
        drop(begin());
        assert!(tracer.take().is_empty());
        let span = begin().expect("it is traced");
        span.set_route("/v1/files/{path:.*}");
        span.add(Stage::Link, Duration::ZERO, Instant::now());
        drop(span);
        let [request] = &tracer.take()[..] else { panic!("one request") };
        assert_eq!((request.status, request.error), (None, Some("truncated_body")));
        assert!(request.is_failure && request.stages.len() == 1);
        // One with a response is exported once.
        let span = begin().expect("it is traced");
        span.set_route("/v1/files");
        span.end(&Ended { route: Some("/v1/files"), status: Some(201), ..Ended::default() });
        drop(span);
        assert_eq!(tracer.take().len(), 1);
    }
}
