//! The outermost middleware: every request is admitted here, its body is given a reader, and its response is followed to
//! its last byte.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ALLOW, VARY};
use actix_web::http::{ConnectionType, Version};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, web};
use bytes::Bytes;
use tracing::Instrument;

use super::access_log::{AccessLine, LOGGED};
use super::h2_limits;
use super::origin::Refusal;
use super::request_body::RequestBody;
use super::request_id::RequestId;
use super::server_timing::{SERVER_TIMING, ServerTiming};
use crate::http::extract::client::CallerName;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::server::connection_limit::{ConnectionHandle, RunningRequest, SendingResponse};
use crate::server::h1::body_reader::{BodyReader, ResponseInProgress};

/// How many times as long the rest of a request is read behind a failure that is dressed as a success.
const ERROR_AS_200_LINGER_FACTOR: u32 = 10;

/// What is answered on every connection, to whoever asks how we are.
const HEALTH: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Outermost: nothing is answered without passing it.
pub async fn track(
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
        .map(|worker| worker.shared.settings.server.lingering_timeout)
        .unwrap_or_default();
    let counted =
        request.app_data::<web::Data<Worker>>().map(|worker| worker.shared.requests.token());
    let handle = request.conn_data::<Rc<ConnectionHandle>>().cloned();
    let running = handle.map(|handle| handle.begin_request(HEALTH.contains(&request.path())));
    let reader = request.conn_data::<Rc<BodyReader>>().cloned();
    let reader = reader.filter(|_| request.version() < Version::HTTP_2);
    let (request_body, closes, bad_head) = match &reader {
        Some(reader) => {
            let started = reader.started();
            let is_refused = started.refused.is_some();
            let request_body =
                RequestBody::of_http1(&mut request, reader, started.body, is_refused);
            (request_body, started.connection_close, started.refused)
        }
        None => (RequestBody::of_http2(&mut request), false, None),
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
    let refused = running.as_ref().is_some_and(RunningRequest::is_refused);
    let last = running.as_ref().is_some_and(RunningRequest::is_last);
    // An editor's own shape was answered already.
    let problem = problem.or_else(|| reply.response().extensions().get::<Problem>().cloned());
    let caller = reply.request().extensions().get::<CallerName>().cloned();
    // Browsers drop an early 2xx whose request was cut off, while they keep an early 4xx: it must be read to its end.
    // The query chooses the shape, so only a known caller can make its connection be read that long.
    let dressed = problem.is_some() && reply.status().is_success() && caller.is_some();
    let patience = patience * if dressed { ERROR_AS_200_LINGER_FACTOR } else { 1 };
    let (mut must_close, mut drains) = (closes, false);
    if let Some(request_body) = request_body {
        must_close |= request_body.skip_continue();
        request_body.discard_buffered().await;
        // An empty body is not asked for more.
        let is_empty =
            matches!(reply.response().body().size(), BodySize::None | BodySize::Sized(0));
        if request_body.has_ended() || patience.is_zero() || last || is_empty {
            must_close |= request_body.must_close();
        } else {
            drains = true;
            reply = reply.map_body(|_, body| request_body.drain_behind(body, patience));
        }
    }
    let draining = counted.as_ref().is_some_and(|counted| counted.task_tracker().is_closed());
    let responding = running.map(|running| running.into_sending(drains));
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
    id.tell(reply.headers_mut());

    let line = AccessLine {
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

/// Refuses what a connection may not ask for.
fn admit(request: &ServiceRequest, running: &RunningRequest) -> Result<(), Problem> {
    if running.is_refused() {
        return Err(Problem::crowded("too many connections are open already"));
    }
    h2_limits::admit(request, running.handle())
}

/// Bytes of a response that a client takes at once: each is progress, however long the whole is. A window of h2 without
/// settings holds four.
const PIECE: usize = 16 * 1024;

/// A response's body, in pieces, with what must not be dropped before the body is sent.
struct Sending {
    body: BoxBody,
    /// Of what the body gave.
    rest: Bytes,
    responding: Option<SendingResponse>,
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
            responding.chunk_produced();
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
