//! The outermost middleware: it admits every request, gives it its body, and follows its response to the last byte.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, VARY,
};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, web};
use bytes::Bytes;
use tracing::{Instrument, field};

use super::access_log::{self, AccessLine};
use super::h2_limits;
use super::origin::Refusal;
use super::request_body::RequestBody;
use super::request_context::RequestContext;
use super::request_id::RequestId;
use super::server_timing::{self, SERVER_TIMING};
use crate::http::problem::{Code, Problem};
use crate::http::quota::RateLimitHeaders;
use crate::http::state::Worker;
use crate::metrics::routes::RouteMetrics;
use crate::net::trace_context::TraceContext;
use crate::server::connection_limit::{ConnectionHandle, RunningRequest, SendingResponse};
use crate::server::h1::body_reader::{BodyReader, ResponseInProgress};
use crate::server::h1::head_error::HeadError;

/// After an error that is sent as HTTP 200, `server.lingering_timeout` is multiplied by this.
const ERROR_AS_200_LINGER_FACTOR: u32 = 10;

/// Paths that are served even on connections over the limit.
const HEALTH: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Serves one request. No request and no response bypasses this function.
pub async fn track(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let handle = request.conn_data::<Rc<ConnectionHandle>>().cloned();
    let is_probe = HEALTH.contains(&request.path());
    let running = handle.map(|handle| handle.begin_request(is_probe));
    let context = RequestContext::assign(&request, running.as_ref().map(RunningRequest::caller));
    let id = &context.id;
    // The upload's id is known once the URL of a resumable upload was opened.
    // The level is the highest, so that the ids are in warnings and errors also where those alone are logged.
    let span = tracing::error_span!(
        "request",
        request_id = id.as_str(),
        trace_id = context.trace.map(TraceContext::trace_id_text),
        upload = field::Empty
    );
    let method = request.method().clone();
    let path = access_log::logged_path(request.path());
    request.extensions_mut().insert(context.clone());
    let lingering_timeout = request
        .app_data::<web::Data<Worker>>()
        .map(|worker| worker.shared.settings.server.lingering_timeout)
        .unwrap_or_default();
    let shared = request.app_data::<web::Data<Worker>>().map(|worker| &worker.shared);
    // A shutdown waits for it.
    let _counted = shared.map(|shared| shared.requests.token());
    let draining = shared.map(|shared| shared.draining.clone());
    let Received { body, closes, bad_head, in_progress } = receive(&mut request);
    if let Err(problem) = admit(&request, bad_head, running.as_ref()) {
        request.extensions_mut().insert(Refusal(problem));
    }

    let response = next.call(request).instrument(span.clone()).await?.map_into_boxed_body();

    let (mut response, problem) = with_document(response, id);
    let refused = running.as_ref().is_some_and(RunningRequest::is_refused);
    let is_last = running.as_ref().is_some_and(RunningRequest::is_last);
    let client = context.client();
    // Browsers discard a 2xx that arrives before they have sent their request, while they keep an early 4xx. So the
    // rest of such a request must be read. Any caller can choose these profiles in the query, hence only callers with a
    // valid credential get the longer timeout.
    let error_as_200 = problem.is_some() && response.status().is_success() && client.is_some();
    let lingering_timeout =
        lingering_timeout * if error_as_200 { ERROR_AS_200_LINGER_FACTOR } else { 1 };
    // The sooner the client of a resumable upload notices, the fewer bytes it sends again. Browsers repeat a request by
    // themselves when a reused connection breaks, from the old offset, and read no response before they have sent it all.
    let is_interrupted = problem.as_ref().is_some_and(|problem| {
        matches!(problem.code, Code::UploadInterrupted | Code::OffsetMismatch)
    });
    let (mut must_close, mut lingers) = (closes, false);
    if let Some(body) = body {
        must_close |= body.skip_continue();
        body.discard_buffered().await;
        if is_interrupted {
            body.limit_linger();
        }
        lingers = !is_last && !is_interrupted && must_linger(&body, &response, lingering_timeout);
        if lingers {
            response = response.map_body(|_, sent| body.linger_after(sent, lingering_timeout));
        } else {
            must_close |= body.must_close();
        }
    }
    let shutting_down = draining.is_some_and(|draining| draining.is_cancelled());
    let sending = running.map(|running| running.into_sending(lingers));
    response = response.map_body(|_, body| {
        let rest = Bytes::new();
        BoxBody::new(ResponseBody { body, rest, sending, _in_progress: in_progress })
    });
    if shutting_down || is_last || must_close {
        // While the gateway shuts down, a client then opens its next connection elsewhere.
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    add_headers(&mut response, &context);

    let audit = response.request().app_data::<web::Data<Worker>>();
    let audit = audit.map(|worker| &worker.shared.audit).filter(|audit| audit.is_on()).cloned();
    let (status, took) = (response.status().as_u16(), started.elapsed());
    let route = response.request().app_data::<RouteMetrics>().map(|route| {
        route.respond(method.as_str(), status, took);
        route.name()
    });
    let line = AccessLine {
        span,
        context,
        method,
        path,
        route,
        client,
        status,
        took,
        problem,
        refused,
        is_probe,
        audit,
    };
    line.enqueue();
    Ok(response)
}

/// A request as its connection delivered it.
struct Received {
    body: Option<RequestBody>,
    /// The client wants the connection closed after the response.
    closes: bool,
    /// Why the head cannot be served.
    bad_head: Option<HeadError>,
    /// `None` over h2.
    in_progress: Option<ResponseInProgress>,
}

/// Gives the request its body, and takes what the connection reader knows of it.
fn receive(request: &mut ServiceRequest) -> Received {
    let reader = request.conn_data::<Rc<BodyReader>>().cloned();
    let (body, closes, bad_head) = match &reader {
        Some(reader) => {
            let started = reader.started();
            let is_refused = started.refused.is_some();
            let body = RequestBody::of_http1(request, reader, started.body, is_refused);
            (body, started.connection_close, started.refused)
        }
        None => (RequestBody::of_http2(request), false, None),
    };
    let in_progress = reader.map(ResponseInProgress::new);
    Received { body, closes, bad_head, in_progress }
}

/// Refuses a request whose head is invalid, or that is beyond the limits of its connection.
fn admit(
    request: &ServiceRequest,
    bad_head: Option<HeadError>,
    running: Option<&RunningRequest>,
) -> Result<(), Problem> {
    if let Some(error) = bad_head {
        return Err(error.into());
    }
    let Some(running) = running else {
        return Ok(());
    };
    if running.is_refused() {
        return Err(Problem::overloaded("too many connections are open already"));
    }
    h2_limits::check(request, running.handle())
}

/// Puts the problem document into the response to a failed request, and returns the problem for the log. The headers
/// that CORS, the method check and tus added stay.
fn with_document(
    response: ServiceResponse<BoxBody>,
    id: &RequestId,
) -> (ServiceResponse<BoxBody>, Option<Problem>) {
    let error = response.response().error();
    let Some(problem) = error.and_then(|error| error.as_error::<Problem>()).cloned() else {
        // A problem that an editor's own response contains already.
        let problem = response.response().extensions().get::<Problem>().cloned();
        return (response, problem);
    };
    let mut document = problem.response(id.as_str());
    for (name, value) in response.headers() {
        let is_kept = |prefix| name.as_str().starts_with(prefix);
        if name == VARY || name == ALLOW || is_kept("access-control-") || is_kept("tus-") {
            document.headers_mut().append(name.clone(), value.clone());
        }
    }
    (response.into_response(document), Some(problem))
}

/// Whether the response stays open while the rest of the request is discarded. With an empty response body it cannot:
/// actix-web does not poll that.
fn must_linger(
    body: &RequestBody,
    response: &ServiceResponse<BoxBody>,
    lingering_timeout: Duration,
) -> bool {
    let is_empty = matches!(response.response().body().size(), BodySize::None | BodySize::Sized(0));
    !body.is_finished() && !lingering_timeout.is_zero() && !is_empty
}

fn add_headers(response: &mut ServiceResponse<BoxBody>, context: &RequestContext) {
    if let Some(value) = server_timing::header(|stage| context.upload.stage(stage)) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
    let quota = response.request().extensions_mut().remove::<RateLimitHeaders>();
    if let Some(quota) = quota {
        quota.add_to(response.headers_mut());
    }
    context.id.insert_into(response.headers_mut());
    // The CORS middleware adds it for pages of every origin.
    if !response.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        response.headers_mut().remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    }
}

/// A response is sent in chunks of at most this many bytes. Each chunk that the client takes counts as progress,
/// however long the whole response is. An h2 window of default size has room for four.
const MAX_CHUNK: usize = 16 * 1024;

/// A response's body in chunks, with what must live until the body is sent.
struct ResponseBody {
    body: BoxBody,
    /// What is left of the body's last chunk.
    rest: Bytes,
    sending: Option<SendingResponse>,
    _in_progress: Option<ResponseInProgress>,
}

impl MessageBody for ResponseBody {
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
                    if let (Some(sending), true) = (&this.sending, polled.is_pending()) {
                        sending.awaits_handler();
                    }
                    return polled;
                }
            }
        }
        if let Some(sending) = &this.sending {
            sending.chunk_produced();
        }
        let length = this.rest.len().min(MAX_CHUNK);
        Poll::Ready(Some(Ok(this.rest.split_to(length))))
    }
}
