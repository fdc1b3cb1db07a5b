//! What one request is known by, in its log lines and beyond: its id, its trace, its client and the client's address, and
//! what came of its upload.

use std::cell::{Cell, Ref, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServiceRequest;
use actix_web::http::header::HeaderName;
use actix_web::{HttpMessage, HttpRequest, web};

use super::request_id::RequestId;
use super::request_span::RequestSpan;
use super::server_timing::StageTimes;
use crate::guard::policy::Client;
use crate::http::state::Worker;
use crate::metrics::routes::RouteMetrics;
use crate::metrics::{Metrics, Stage};
use crate::net::trace_context::{self, TraceContext};
use crate::server::connection_limit::Caller;

const TRACEPARENT: HeaderName = HeaderName::from_static(trace_context::TRACEPARENT);

/// In the extensions of every request, as an `Rc`.
#[derive(Default)]
pub struct RequestContext {
    pub id: RequestId,
    /// What further servers are sent: the request's own span, or else the client's valid `traceparent`.
    pub trace: Option<TraceContext>,
    /// `None`: the request is not traced.
    pub span: Option<Rc<RequestSpan>>,
    /// The client's address, from behind trusted proxies.
    pub remote: Option<IpAddr>,
    /// The figures for the access log.
    pub upload: UploadFigures,
    client: RefCell<Option<Arc<Client>>>,
    /// Where its authentication is reported.
    caller: Option<Rc<Caller>>,
}

/// What a request has stored or deleted, and how long that took.
#[derive(Default)]
pub struct UploadFigures {
    stored: Cell<Option<Stored>>,
    /// The path of the first file.
    object: RefCell<Option<String>>,
    road: Cell<Option<&'static str>>,
    attempts: Cell<Option<u32>>,
    has_outcomes: Cell<bool>,
    stages: [Cell<Option<Duration>>; Stage::ALL.len()],
}

/// The files of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub files: u32,
    pub bytes: u64,
}

impl RequestContext {
    /// The context of a request that has just been received from `caller`.
    pub fn assign(request: &ServiceRequest, caller: Option<Rc<Caller>>) -> Rc<Self> {
        let headers = request.headers();
        let mut traces = headers.get_all(&TRACEPARENT);
        // Several lines are not valid.
        let trace = traces.next().filter(|_| traces.next().is_none());
        let peer = request.peer_addr().map(|peer| peer.ip());
        let worker = request.app_data::<web::Data<Worker>>();
        let trace = trace.and_then(|value| TraceContext::parse(value.as_bytes()));
        let tracer = worker.and_then(|worker| worker.shared.tracer.as_ref());
        let span = tracer
            .and_then(|tracer| RequestSpan::begin(tracer, request.method(), request.path(), trace));
        let remote = match worker {
            Some(worker) => peer.map(|peer| worker.shared.proxies.client_ip(peer, headers)),
            None => peer,
        };
        Rc::new(Self {
            id: RequestId::assign(request),
            trace: span.as_ref().map(|span| span.context()).or(trace),
            span,
            remote,
            upload: UploadFigures::default(),
            client: RefCell::default(),
            caller,
        })
    }

    /// The request's client is known, by a valid credential or because none is needed.
    pub fn set_client(&self, client: Arc<Client>) {
        self.client.replace(Some(client));
    }

    /// `None`: the request has no valid credential, or needs no client.
    pub fn client(&self) -> Option<Arc<Client>> {
        self.client.borrow().clone()
    }

    /// The request may be served to its client: its connection is not closed for another one until it is done.
    pub fn set_authenticated(&self) {
        if let Some(caller) = &self.caller {
            caller.set_authenticated();
        }
    }

    /// The request is an upload; [`RequestSpan::set_route`].
    pub fn is_upload(&self, request: &HttpRequest) {
        if let Some(span) = &self.span
            && let Some(route) = request.app_data::<RouteMetrics>()
        {
            span.set_route(route.name());
        }
    }

    /// For the stages of its uploads.
    pub fn stage_times<'a>(&self, metrics: &'a Metrics) -> StageTimes<'a> {
        StageTimes::new(metrics, self.span.clone())
    }

    /// The id of a request, as responses have it; empty before that.
    pub fn id_of(request: &HttpRequest) -> String {
        Self::of(request).id.as_str().to_owned()
    }

    /// The context that [`super::request::track`] assigned; an empty one before that.
    pub fn of(request: &HttpRequest) -> Rc<Self> {
        request.extensions().get::<Rc<Self>>().cloned().unwrap_or_default()
    }
}

impl UploadFigures {
    /// Adds a file that this request has stored.
    pub fn add_stored(&self, bytes: u64) {
        let Stored { files, bytes: before } =
            self.stored.get().unwrap_or(Stored { files: 0, bytes: 0 });
        let (files, bytes) = (files.saturating_add(1), before.saturating_add(bytes));
        self.stored.set(Some(Stored { files, bytes }));
    }

    /// Names the file that the request is about; the first one counts.
    pub fn set_object(&self, object: &str) {
        self.object.borrow_mut().get_or_insert_with(|| object.to_owned());
    }

    /// Each file has an outcome of its own: the problem of the response is one file's, which the audit log has already.
    pub fn set_has_outcomes(&self) {
        self.has_outcomes.set(true);
    }

    pub fn has_outcomes(&self) -> bool {
        self.has_outcomes.get()
    }

    /// `form` or `api`: how files are sent to COS.
    pub fn set_road(&self, road: &'static str) {
        self.road.set(Some(road));
    }

    /// Adds the stages that are over.
    pub fn add_times(&self, times: &StageTimes<'_>) {
        let attempts = self.attempts.get().unwrap_or(0).saturating_add(times.attempts());
        self.attempts.set(Some(attempts).filter(|attempts| *attempts > 0));
        for stage in Stage::ALL {
            let sum = &self.stages[stage as usize];
            if let Some(took) = times.took(stage) {
                sum.set(Some(sum.get().unwrap_or_default() + took));
            }
        }
    }

    /// `None`: no file was stored.
    pub fn stored(&self) -> Option<Stored> {
        self.stored.get()
    }

    pub fn object(&self) -> Ref<'_, Option<String>> {
        self.object.borrow()
    }

    pub fn road(&self) -> Option<&'static str> {
        self.road.get()
    }

    /// `None`: nothing was sent to COS.
    pub fn attempts(&self) -> Option<u32> {
        self.attempts.get()
    }

    /// `None`: the request has had no such stage.
    pub fn stage(&self, stage: Stage) -> Option<Duration> {
        self.stages[stage as usize].get()
    }
}
