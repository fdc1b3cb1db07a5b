//! A request's body, shared by the handler that reads it and by what discards the rest of it.
//!
//! Browsers and most clients read a response only when their request is sent; a reset before that is all they see, as a
//! "network error". So an early response goes out at once and the rest of the request is read and discarded, for a while.

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

/// A client that sends nothing for this long has read its response or never will.
const SILENCE: Duration = Duration::from_secs(5);

/// So much of a body is rather read than its connection given up.
const LITTLE: u64 = 64 * 1024;

/// A request's body, which may be read from two places.
#[derive(Clone)]
pub struct RequestBody(Rc<BodyState>);

struct BodyState {
    body: Body,
    ended: Cell<bool>,
}

/// Where the body comes from.
enum Body {
    /// Over HTTP/1: from the connection, past actix-http.
    Http1(Rc<BodyReader>),
    /// Over h2: from the stream. What is read shows that the connection is no flood.
    Http2(RefCell<Payload>, Option<Rc<ConnectionHandle>>),
}

impl Drop for BodyState {
    fn drop(&mut self) {
        if let (Body::Http1(reader), false) = (&self.body, self.ended.get()) {
            reader.close();
        }
    }
}

impl RequestBody {
    /// Puts itself between an HTTP/1 request and its body, and unmasks how that is framed; `None` where there is no body.
    pub fn of_http1(
        request: &mut ServiceRequest,
        reader: &Rc<BodyReader>,
        framing: BodyFraming,
        is_refused: bool,
    ) -> Option<Self> {
        const MASKED: HeaderName = HeaderName::from_static(MASKED_TRANSFER_ENCODING);
        let headers = request.headers_mut();
        match framing {
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
        Some(Self::between(request, Body::Http1(reader.clone())))
    }

    /// The same for a request over h2.
    pub fn of_http2(request: &mut ServiceRequest) -> Option<Self> {
        let handle = request.conn_data::<Rc<ConnectionHandle>>().cloned();
        match request.take_payload() {
            Payload::None => None,
            payload => Some(Self::between(request, Body::Http2(RefCell::new(payload), handle))),
        }
    }

    fn between(request: &mut ServiceRequest, body: Body) -> Self {
        let request_body = Self(Rc::new(BodyState { body, ended: Cell::new(false) }));
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

    /// Reads, and discards, what has come already of a body of which little is left.
    pub async fn discard_buffered(&self) {
        let mut left = match &self.0.body {
            Body::Http1(reader) => reader.remaining_length().unwrap_or(LITTLE),
            // A request without a body is told from others by reading it.
            Body::Http2(..) => LITTLE,
        };
        if left > LITTLE {
            return;
        }
        poll_fn(|cx| {
            while !self.has_ended() && left > 0 {
                match Pin::new(&mut self.clone()).poll_next(cx) {
                    Poll::Ready(Some(Ok(bytes))) => left = left.saturating_sub(bytes.len() as u64),
                    Poll::Ready(_) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Whether the connection is of no use for another request, which actix-http must be told, since it knows nothing of
    /// the body: it broke off, or its rest is not read.
    pub fn must_close(&self) -> bool {
        match &self.0.body {
            Body::Http1(reader) => !self.has_ended() || reader.is_closed(),
            Body::Http2(..) => false,
        }
    }

    /// The client waits to be told to send the body, and will not be. Whether that is so.
    pub fn skip_continue(&self) -> bool {
        match &self.0.body {
            Body::Http1(reader) if reader.awaits_continue() => {
                reader.skip_continue();
                true
            }
            _ => false,
        }
    }

    /// Whether the client has sent everything, or will not.
    pub fn has_ended(&self) -> bool {
        self.0.ended.get()
    }

    /// `reply`, followed by nothing until the client has sent everything: at most `patience`, and not when it falls
    /// silent. It does not say that the connection ends, as it may not: proxies that read so (Node's) stop sending at once,
    /// and their client, which is still sending too, sees a reset instead of the response.
    pub fn drain_behind(self, reply: BoxBody, patience: Duration) -> BoxBody {
        let now = Instant::now();
        BoxBody::new(Draining {
            reply: Some(reply),
            request_body: self,
            until: now + patience,
            timer: Box::pin(sleep_until(now + patience.min(SILENCE))),
            heard: now,
        })
    }
}

impl Stream for RequestBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended() {
            return Poll::Ready(None);
        }
        let polled = self.poll(cx);
        let is_over = match (&polled, &self.0.body) {
            (Poll::Ready(None | Some(Err(_))), _) => true,
            // What comes next is another request's.
            (Poll::Ready(_), Body::Http1(reader)) => reader.remaining_length() == Some(0),
            _ => false,
        };
        if is_over {
            self.0.ended.set(true);
        }
        polled
    }
}

struct Draining {
    reply: Option<BoxBody>,
    request_body: RequestBody,
    until: Instant,
    heard: Instant,
    timer: Pin<Box<Sleep>>,
}

/// Pieces of a body that are discarded in one go; then other connections have their turn.
const PIECES_A_TURN: usize = 64;

impl MessageBody for Draining {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.reply.as_ref().map_or(BodySize::Sized(0), MessageBody::size)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = &mut *self;
        if let Some(reply) = &mut this.reply {
            match Pin::new(reply).poll_next(cx) {
                Poll::Ready(None) => this.reply = None,
                other => return other,
            }
        }
        let mut pieces = 0;
        loop {
            match Pin::new(&mut this.request_body).poll_next(cx) {
                Poll::Ready(Some(Ok(_))) => this.heard = Instant::now(),
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending => break,
            }
            pieces += 1;
            if pieces == PIECES_A_TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        while this.timer.as_mut().poll(cx).is_ready() {
            let end = this.until.min(this.heard + SILENCE);
            if Instant::now() >= end {
                return Poll::Ready(None);
            }
            this.timer.as_mut().reset(end);
        }
        Poll::Pending
    }
}
