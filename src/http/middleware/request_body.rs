//! A request's body, shared by the handler, which reads it, and by the lingering close, which discards the rest.
//!
//! Browsers and most other clients read a response only after they have sent their whole request. If the connection is
//! reset before that, they report a network error instead. So an early response is sent at once, and the rest of the
//! request is read and discarded for up to `server.lingering_timeout`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use bytes::Bytes;
use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::server::connection_limit::ConnectionHandle;
use crate::server::h1::body_reader::BodyReader;
use crate::server::h1::head_for_actix::MASKED_TRANSFER_ENCODING;
use crate::server::h1::head_parse::BodyFraming;

/// Lingering ends when the client sends nothing for this long: it has read its response or never will.
const MAX_IDLE: Duration = Duration::from_secs(5);

/// A rest of at most this many bytes is read in order to reuse the connection, or to get a response to a client that is to
/// stop.
const SMALL_REST: u64 = 64 * 1024;

/// A request's body. Clones share it.
#[derive(Clone)]
pub struct RequestBody(Rc<BodyState>);

struct BodyState {
    body: Body,
    finished: Cell<bool>,
}

/// Where the body comes from.
enum Body {
    /// Over HTTP/1: from the connection, bypassing actix-http.
    Http1(Rc<BodyReader>),
    /// Over h2: from the stream. The bytes read are reported to the connection's flood detector.
    Http2(RefCell<Payload>, Option<Rc<ConnectionHandle>>),
}

impl Drop for BodyState {
    fn drop(&mut self) {
        if let (Body::Http1(reader), false) = (&self.body, self.finished.get()) {
            reader.close();
        }
    }
}

impl RequestBody {
    /// Gives an HTTP/1 request its body, and restores the framing headers that the connection reader masked. `None` if
    /// there is no body.
    pub fn of_http1(
        request: &mut ServiceRequest,
        reader: &Rc<BodyReader>,
        framing: BodyFraming,
        is_refused: bool,
    ) -> Option<Self> {
        const MASKED: HeaderName = HeaderName::from_static(MASKED_TRANSFER_ENCODING);
        let headers = request.headers_mut();
        match framing {
            // The framing of a refused request is not known: everything up to the connection's end is discarded.
            BodyFraming::None if is_refused => {}
            BodyFraming::None => return None,
            BodyFraming::Length(length) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                if length == 0 {
                    return None;
                }
            }
            BodyFraming::Chunked => {
                headers.remove(&MASKED);
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        Some(Self::attach(request, Body::Http1(reader.clone())))
    }

    /// Replaces the body of an h2 request. `None` if there is no body.
    pub fn of_http2(request: &mut ServiceRequest) -> Option<Self> {
        let handle = request.conn_data::<Rc<ConnectionHandle>>().cloned();
        match request.take_payload() {
            Payload::None => None,
            payload => Some(Self::attach(request, Body::Http2(RefCell::new(payload), handle))),
        }
    }

    fn attach(request: &mut ServiceRequest, body: Body) -> Self {
        let request_body = Self(Rc::new(BodyState { body, finished: Cell::new(false) }));
        request.set_payload(Payload::Stream { payload: Box::pin(request_body.clone()) });
        request_body
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        match &self.0.body {
            Body::Http1(reader) => reader.poll_body(cx).map(|read| {
                read.map(|read| read.map_err(|error| PayloadError::Incomplete(Some(error))))
            }),
            Body::Http2(payload, handle) => {
                let polled = Pin::new(&mut *payload.borrow_mut()).poll_next(cx);
                if let (Some(handle), Poll::Ready(Some(Ok(bytes)))) = (handle, &polled) {
                    handle.flood_detector().used(bytes.len());
                }
                polled
            }
        }
    }

    /// Discards the bytes that have arrived already, if at most [`SMALL_REST`] bytes of the body are left.
    pub async fn discard_buffered(&self) {
        let mut left = match &self.0.body {
            Body::Http1(reader) => reader.remaining_length().unwrap_or(SMALL_REST),
            // Only reading tells whether an h2 request has a body.
            Body::Http2(..) => SMALL_REST,
        };
        if left > SMALL_REST {
            return;
        }
        poll_fn(|cx| {
            while !self.is_finished() && left > 0 {
                match Pin::new(&mut self.clone()).poll_next(cx) {
                    Poll::Ready(Some(Ok(bytes))) => left = left.saturating_sub(bytes.len() as u64),
                    Poll::Ready(_) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Whether the connection cannot carry another request: the body broke off, or its rest is not read. actix-http
    /// must be told, since it does not see the body.
    pub fn must_close(&self) -> bool {
        match &self.0.body {
            Body::Http1(reader) => !self.is_finished() || reader.is_closed(),
            Body::Http2(..) => false,
        }
    }

    /// The client is to notice soon that its request has ended: little of the rest is read. A response may be lost by that.
    pub fn limit_linger(&self) {
        if let Body::Http1(reader) = &self.0.body {
            reader.limit_linger(SMALL_REST);
        }
    }

    /// Drops a `100 Continue` that has not been sent. Returns whether there was one: the client then will not send its
    /// body.
    pub fn skip_continue(&self) -> bool {
        match &self.0.body {
            Body::Http1(reader) if reader.awaits_continue() => {
                reader.skip_continue();
                true
            }
            _ => false,
        }
    }

    /// Whether nothing more of the body will come.
    pub fn is_finished(&self) -> bool {
        self.0.finished.get()
    }

    /// A response body that sends `response` and then stays open while the rest of the request is discarded: for at
    /// most `timeout`, or until the client has been idle for [`MAX_IDLE`].
    ///
    /// The response has no `Connection: close`. A proxy that sees it (Node's does this) stops sending at once, and its
    /// own client, which is still sending, gets a reset instead of the response.
    pub fn linger_after(self, response: BoxBody, timeout: Duration) -> BoxBody {
        let now = Instant::now();
        BoxBody::new(LingeringBody {
            response: Some(response),
            request_body: self,
            deadline: now + timeout,
            timer: Box::pin(sleep_until(now + timeout.min(MAX_IDLE))),
            last_read: now,
        })
    }
}

impl Stream for RequestBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_finished() {
            return Poll::Ready(None);
        }
        let polled = self.poll(cx);
        let is_finished = match (&polled, &self.0.body) {
            (Poll::Ready(None | Some(Err(_))), _) => true,
            // The bytes that follow belong to the next request.
            (Poll::Ready(_), Body::Http1(reader)) => reader.remaining_length() == Some(0),
            _ => false,
        };
        if is_finished {
            self.0.finished.set(true);
        }
        polled
    }
}

/// See [`RequestBody::linger_after`].
struct LingeringBody {
    /// `None` once it is sent.
    response: Option<BoxBody>,
    request_body: RequestBody,
    deadline: Instant,
    /// When the client last sent something.
    last_read: Instant,
    timer: Pin<Box<Sleep>>,
}

/// Chunks discarded in one poll, so that other connections are served too.
const CHUNKS_PER_POLL: usize = 64;

impl MessageBody for LingeringBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.response.as_ref().map_or(BodySize::Sized(0), MessageBody::size)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = &mut *self;
        if let Some(response) = &mut this.response {
            match Pin::new(response).poll_next(cx) {
                Poll::Ready(None) => this.response = None,
                other => return other,
            }
        }
        let mut chunks = 0;
        loop {
            match Pin::new(&mut this.request_body).poll_next(cx) {
                Poll::Ready(Some(Ok(_))) => this.last_read = Instant::now(),
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending => break,
            }
            chunks += 1;
            if chunks == CHUNKS_PER_POLL {
                cx.waker().wake_by_ref();
                break;
            }
        }
        while this.timer.as_mut().poll(cx).is_ready() {
            let end = this.deadline.min(this.last_read + MAX_IDLE);
            if Instant::now() >= end {
                return Poll::Ready(None);
            }
            this.timer.as_mut().reset(end);
        }
        Poll::Pending
    }
}
