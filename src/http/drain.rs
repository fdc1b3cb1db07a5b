//! What a client still sends after it was answered.
//!
//! Browsers and most clients read a reply only when their request is sent; a reset before that is all they see, as a
//! "network error". So an early answer goes out at once and the rest of the request is read and forgotten, for a while.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::connections::Seat;
use super::demand::Meter;
use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_LENGTH, HeaderValue};
use bytes::Bytes;
use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

/// A client that sends nothing for this long has read its reply or never will.
const SILENCE: Duration = Duration::from_secs(5);

/// So much of a body is rather read than its connection given up.
const LITTLE: u64 = 64 * 1024;

/// A request's payload, shared by whoever handles the request and whoever reads what that one left.
#[derive(Clone)]
pub struct Inflow(Rc<Shared>);

struct Shared {
    body: Body,
    ended: Cell<bool>,
}

/// Where the payload comes from.
enum Body {
    /// Of HTTP/1, past the dispatcher.
    Past(Rc<Meter>),
    /// Of HTTP/1, from the dispatcher, which is told how much may be read.
    Metered(RefCell<Payload>, Rc<Meter>),
    /// Of h2, where what is taken shows that it is no flood.
    Counted(RefCell<Payload>, Option<Rc<Seat>>),
}

impl Drop for Shared {
    fn drop(&mut self) {
        match &self.body {
            Body::Metered(_, meter) if !self.ended.get() => meter.abandon(),
            Body::Past(meter) if !self.ended.get() => meter.give_up(),
            _ => {}
        }
    }
}

impl Inflow {
    /// Puts itself between a request and its payload; `None` where there is none. With the meter of its connection, for
    /// HTTP/1.
    pub fn tap(request: &mut ServiceRequest, meter: Option<Rc<Meter>>) -> Option<Self> {
        let past = meter.as_ref().and_then(|meter| meter.begin());
        if let Some(length) = past {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let body = match (request.take_payload(), meter) {
            (_, Some(meter)) if past.is_some() => Body::Past(meter),
            (Payload::None, meter) => {
                meter.iter().for_each(|meter| meter.next());
                return None;
            }
            (payload, Some(meter)) => {
                meter.hold();
                Body::Metered(RefCell::new(payload), meter)
            }
            (payload, None) => {
                let seat = request.request().conn_data::<Rc<Seat>>().cloned();
                Body::Counted(RefCell::new(payload), seat)
            }
        };
        let inflow = Self(Rc::new(Shared { body, ended: Cell::new(false) }));
        request.set_payload(Payload::Stream { payload: Box::pin(inflow.clone()) });
        Some(inflow)
    }

    fn end(&self) {
        self.0.ended.set(true);
        match &self.0.body {
            Body::Past(meter) | Body::Metered(_, meter) => meter.next(),
            Body::Counted(..) => {}
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        match &self.0.body {
            Body::Past(meter) => meter.poll_body(cx).map(|read| {
                read.map(|read| read.map_err(|error| PayloadError::Incomplete(Some(error))))
            }),
            Body::Metered(payload, meter) => {
                let polled = Pin::new(&mut *payload.borrow_mut()).poll_next(cx);
                if polled.is_pending() {
                    meter.ask();
                }
                polled
            }
            Body::Counted(payload, seat) => {
                let polled = Pin::new(&mut *payload.borrow_mut()).poll_next(cx);
                if let (Some(seat), Poll::Ready(Some(Ok(bytes)))) = (seat, &polled) {
                    seat.account().used(bytes.len());
                }
                polled
            }
        }
    }

    /// Reads, and forgets, what has come already of a body of which little is left.
    pub async fn skim(&self) {
        let Body::Past(meter) = &self.0.body else {
            return;
        };
        poll_fn(|cx| {
            while !self.has_ended() && meter.left() <= LITTLE {
                match Pin::new(&mut self.clone()).poll_next(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) | Poll::Pending => break,
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Whether the connection is of no use for another request, which the dispatcher must be told, since it knows nothing
    /// of the body: it broke off, or nobody reads the rest of it.
    pub fn is_in_the_way(&self) -> bool {
        match &self.0.body {
            Body::Past(meter) => !self.has_ended() || meter.is_over(),
            Body::Metered(..) | Body::Counted(..) => false,
        }
    }

    /// Whether the client has sent everything, or will not.
    pub fn has_ended(&self) -> bool {
        self.0.ended.get()
    }

    /// `reply`, followed by nothing until the client has sent everything: at most `patience`, and not when it falls
    /// silent. It does not say that the connection ends, as it may not: proxies that read so (Node's) stop sending at once,
    /// and their client, which is still sending too, sees a reset instead of the reply.
    pub fn drain_behind(self, reply: BoxBody, patience: Duration) -> BoxBody {
        let now = Instant::now();
        BoxBody::new(Draining {
            reply: Some(reply),
            inflow: self,
            until: now + patience,
            timer: Box::pin(sleep_until(now + patience.min(SILENCE))),
            heard: now,
        })
    }
}

impl Stream for Inflow {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended() {
            return Poll::Ready(None);
        }
        let polled = self.poll(cx);
        let is_over = match (&polled, &self.0.body) {
            (Poll::Ready(None | Some(Err(_))), _) => true,
            // What comes next is another request's.
            (Poll::Ready(_), Body::Past(meter)) => meter.left() == 0,
            _ => false,
        };
        if is_over {
            self.end();
        }
        polled
    }
}

struct Draining {
    reply: Option<BoxBody>,
    inflow: Inflow,
    until: Instant,
    heard: Instant,
    timer: Pin<Box<Sleep>>,
}

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
        loop {
            match Pin::new(&mut this.inflow).poll_next(cx) {
                Poll::Ready(Some(Ok(_))) => this.heard = Instant::now(),
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending => break,
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
