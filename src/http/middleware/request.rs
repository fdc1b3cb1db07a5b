//! What every request gets: an id, one log line at its end, and for a failure its problem document.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ALLOW, HeaderName, HeaderValue, VARY};
use actix_web::http::{ConnectionType, Method, Version};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, rt, web};
use bytes::Bytes;
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::h2_limits;
use super::request_body::Inflow;
use super::server_timing::ServerTiming;
use crate::http::extract::client::CallerName;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::server::connection_limit::{Responding, Running, Seat};
use crate::server::h1::body_reader::{BodyReader, ResponseInProgress};
use crate::telemetry;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// How many times as long the rest of a request is read behind a failure that is dressed as a success.
const DRESSED_PATIENCE: u32 = 10;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Characters of a path that are worth a line of the log.
const LOGGED: usize = 1024;
/// What is answered on every connection, to whoever asks how we are.
const HEALTH: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The id a request is known by, in its reply and in every log line.
#[derive(Debug, Clone)]
pub struct RequestId(String);

impl RequestId {
    /// The client's own when it is sane, otherwise a new one.
    fn of(request: &ServiceRequest) -> Self {
        let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
        let sane = |id: &&str| {
            (1..=128).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        Self(given.filter(sane).map_or_else(|| Uuid::now_v7().to_string(), ToOwned::to_owned))
    }

    /// The id of a request that [`requests`] let in.
    pub fn of_running(request: &HttpRequest) -> String {
        let id = request.extensions().get::<Self>().map(|id| id.as_str().to_owned());
        id.unwrap_or_default()
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Outermost: nothing is answered without passing it.
pub async fn requests(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = RequestId::of(&request);
    let span = tracing::info_span!("request", id = id.as_str());
    let method = request.method().clone();
    // Without the query: tickets and tokens may stand there.
    let path: String = request.path().chars().take(LOGGED).collect();
    request.extensions_mut().insert(id.clone());
    let patience = request
        .app_data::<web::Data<Worker>>()
        .map(|worker| worker.shared.settings.server.drain_timeout)
        .unwrap_or_default();
    let counted =
        request.app_data::<web::Data<Worker>>().map(|worker| worker.shared.requests.token());
    let seat = request.conn_data::<Rc<Seat>>().cloned();
    let running = seat.map(|seat| seat.begin(HEALTH.contains(&request.path())));
    let reader = request.conn_data::<Rc<BodyReader>>().cloned();
    let reader = reader.filter(|_| request.version() < Version::HTTP_2);
    let (inflow, closes, bad_head) = match &reader {
        Some(reader) => {
            let started = reader.started();
            let is_refused = started.refused.is_some();
            let inflow = Inflow::of_http1(&mut request, reader, started.body, is_refused);
            (inflow, started.closes, started.refused)
        }
        None => (Inflow::of_http2(&mut request), false, None),
    };
    let in_progress = reader.map(ResponseInProgress::new);
    let admitted = match (bad_head, &running) {
        (Some(error), _) => Err(error.into()),
        (None, Some(running)) => admit(&request, running),
        (None, None) => Ok(()),
    };
    if let Some(running) = &running {
        request.extensions_mut().insert(running.caller());
    }
    if let Err(problem) = admitted {
        request.extensions_mut().insert(Refusal(problem));
    }

    let reply = next.call(request).instrument(span.clone()).await?.map_into_boxed_body();
    let problem = reply.response().error().and_then(|error| error.as_error::<Problem>()).cloned();
    let mut reply = match &problem {
        Some(problem) => with_document(reply, problem, id.as_str()),
        None => reply,
    };
    let refused = running.as_ref().is_some_and(Running::is_refused);
    let last = running.as_ref().is_some_and(Running::is_last);
    // An editor's own shape was answered already.
    let problem = problem.or_else(|| reply.response().extensions().get::<Problem>().cloned());
    let caller = reply.request().extensions().get::<CallerName>().cloned();
    // Browsers drop an early 2xx whose request was cut off, while they keep an early 4xx: it must be read to its end.
    // The query chooses the shape, so only a known caller can make its connection be read that long.
    let dressed = problem.is_some() && reply.status().is_success() && caller.is_some();
    let patience = patience * if dressed { DRESSED_PATIENCE } else { 1 };
    let (mut must_close, mut drains) = (closes, false);
    if let Some(inflow) = inflow {
        must_close |= inflow.skip_continue();
        inflow.skim().await;
        // An empty body is not asked for more.
        let is_empty =
            matches!(reply.response().body().size(), BodySize::None | BodySize::Sized(0));
        if inflow.has_ended() || patience.is_zero() || last || is_empty {
            must_close |= inflow.must_close();
        } else {
            drains = true;
            reply = reply.map_body(|_, body| inflow.drain_behind(body, patience));
        }
    }
    let draining = counted.as_ref().is_some_and(|counted| counted.task_tracker().is_closed());
    let responding = running.map(|running| running.answered(drains));
    reply = reply.map_body(|_, body| {
        let rest = Bytes::new();
        BoxBody::new(Sending { body, rest, responding, _in_progress: in_progress })
    });
    if draining || last || must_close {
        // A client that keeps connections finds a better one.
        reply.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    let timing = reply.request().extensions().get::<ServerTiming>().cloned();
    if let Some(ServerTiming(value)) = timing {
        reply.headers_mut().insert(SERVER_TIMING, value);
    }
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        reply.headers_mut().insert(REQUEST_ID, value);
    }

    let line = Line {
        span,
        method,
        path,
        client: caller.map(|CallerName(name)| name),
        status: reply.status().as_u16(),
        took: started.elapsed(),
        problem,
        refused,
    };
    line.post();
    Ok(reply)
}

/// A request's line in the log.
struct Line {
    span: Span,
    method: Method,
    path: String,
    client: Option<String>,
    status: u16,
    took: Duration,
    problem: Option<Problem>,
    /// It came over a connection for which there was no place.
    refused: bool,
}

thread_local! {
    /// Lines that are to be written.
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Lines that one worker writes in a second of requests of unknown callers, refused or not: a stranger can have as many
/// answered as the network carries, of probes, pages and preflights, too, and must not fill the disk with them.
const STRANGERS_A_SECOND: u32 = 100;

thread_local! {
    static STRANGERS: RefCell<Strangers> = const { RefCell::new(Strangers { written: 0, omitted: 0, counts: false }) };
}

/// Requests of unknown callers in the current second.
struct Strangers {
    written: u32,
    omitted: u32,
    /// A second has begun that will be ended by a task.
    counts: bool,
}

impl Strangers {
    /// Whether one more is written.
    fn admit(&mut self) -> bool {
        if !std::mem::replace(&mut self.counts, true) {
            rt::spawn(async {
                rt::time::sleep(Duration::from_secs(1)).await;
                let ended = STRANGERS.replace(Self { written: 0, omitted: 0, counts: false });
                if ended.omitted > 0 {
                    tracing::warn!(
                        requests = ended.omitted,
                        "more requests of unknown callers were answered; their lines are left out"
                    );
                }
            });
        }
        let room = self.written < STRANGERS_A_SECOND;
        if room {
            self.written += 1
        } else {
            self.omitted += 1
        }
        room
    }
}

impl Line {
    /// Writes it soon, with those of all who are answered now: no reply waits for it.
    fn post(self) {
        let is_first = LINES.with_borrow_mut(|lines| {
            lines.push(self);
            lines.len() == 1
        });
        if is_first {
            rt::spawn(async { telemetry::together(|| LINES.take().iter().for_each(Self::write)) });
        }
    }

    fn write(&self) {
        let Self { span, method, path, client, status, took, problem, refused } = self;
        let (client, _entered) = (client.as_deref(), span.enter());
        match problem {
            // That there is a flood was said once.
            Some(problem) if *refused => {
                tracing::debug!(%method, path, status, ?took, code = problem.code.name());
            }
            _ if client.is_none() && !STRANGERS.with_borrow_mut(Strangers::admit) => {}
            Some(problem) if problem.code.status().is_server_error() => {
                tracing::warn!(%method, path, client, status, ?took, code = problem.code.name(), detail = problem.detail);
            }
            Some(problem) => {
                tracing::info!(%method, path, client, status, ?took, code = problem.code.name(), detail = problem.detail);
            }
            None => tracing::info!(%method, path, client, status, ?took),
        }
    }
}

/// Refuses what a connection may not ask for.
fn admit(request: &ServiceRequest, running: &Running) -> Result<(), Problem> {
    if running.is_refused() {
        return Err(Problem::crowded("too many connections are open already"));
    }
    h2_limits::admit(request, running.seat())
}

/// Bytes of a response that a client takes at once: each is progress, however long the whole is. A window of h2 without
/// settings holds four.
const PIECE: usize = 16 * 1024;

/// A response's body, in pieces, with what must not be dropped before the body is sent.
struct Sending {
    body: BoxBody,
    /// Of what the body gave.
    rest: Bytes,
    responding: Option<Responding>,
    _in_progress: Option<ResponseInProgress>,
}

impl MessageBody for Sending {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => this.rest = bytes,
                polled => {
                    if let (Some(responding), true) = (&this.responding, polled.is_pending()) {
                        responding.awaits_handler();
                    }
                    return polled;
                }
            }
        }
        if let Some(responding) = &this.responding {
            responding.gave();
        }
        let length = this.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(this.rest.split_to(length))))
    }
}

/// Puts the problem document into the reply to a failed request; what was said besides (of CORS, of methods) stays.
fn with_document<B>(
    reply: ServiceResponse<B>,
    problem: &Problem,
    id: &str,
) -> ServiceResponse<BoxBody> {
    let mut document = problem.reply(id);
    for (name, value) in reply.headers() {
        if name == VARY || name == ALLOW || name.as_str().starts_with("access-control-") {
            document.headers_mut().append(name.clone(), value.clone());
        }
    }
    reply.into_response(document)
}

/// Why a request is refused before it is looked at: by its head, or for want of room. [`origins`] tells, so that the
/// response has what CORS asks for.
struct Refusal(Problem);

/// Refuses what [`requests`] found wrong, and pages of foreign origins.
pub async fn origins(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let refusal = request.extensions_mut().remove::<Refusal>();
    if let Some(Refusal(problem)) = refusal {
        return Ok(request.error_response(problem));
    }
    let admitted = request.app_data::<web::Data<Worker>>().is_none_or(|worker| {
        let (headers, peer) = (request.headers(), request.peer_addr().map(|peer| peer.ip()));
        let authority = request.uri().authority().map(|host| host.as_str());
        let host = worker.shared.proxies.host(peer, headers, authority);
        worker.shared.origins.admit(headers, host)
    });
    if !admitted {
        let detail =
            "the page that sent this request is of an origin that cors.origins does not list";
        return Ok(request.error_response(Problem::new(Code::OriginNotAllowed, detail)));
    }
    next.call(request).await.map(ServiceResponse::map_into_boxed_body)
}
