//! What a client still sends after it was answered.
//!
//! Browsers and most clients read a reply only when their request is sent; a reset before that is all they see, as a
//! "network error". So an early answer goes out at once and the rest of the request is read and forgotten, for a while.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::connections::Seat;
use super::demand::Meter;
use crate::inbound::body::announced_length;
use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest};
use actix_web::error::PayloadError;
use actix_web::http::Version;
use bytes::Bytes;
use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

/// A client that sends nothing for this long has read its reply or never will.
const SILENCE: Duration = Duration::from_secs(5);

/// A request's payload, shared by whoever handles the request and whoever reads what that one left.
#[derive(Clone)]
pub struct Inflow(Rc<Shared>);

struct Shared {
    payload: RefCell<Payload>,
    ended: Cell<bool>,
    /// Of the connection, over HTTP/1.
    meter: Option<Rc<Meter>>,
    /// Bytes still to come, where the request announced them.
    left: Cell<Option<u64>>,
    /// In which of the dispatcher's turns it had nothing for us.
    dry: Cell<Option<u64>>,
    /// Of the connection, over h2, where what is taken shows that it is no flood.
    seat: Option<Rc<Seat>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.ended.get() {
            self.meter.iter().for_each(|meter| meter.abandon());
        }
    }
}

impl Inflow {
    /// Puts itself between a request and its payload; `None` where there is none.
    pub fn tap(request: &mut ServiceRequest) -> Option<Self> {
        let is_h2 = request.version() >= Version::HTTP_2;
        let meter = request.request().conn_data::<Rc<Meter>>().cloned().filter(|_| !is_h2);
        let seat = request.request().conn_data::<Rc<Seat>>().cloned().filter(|_| is_h2);
        let payload = request.take_payload();
        if matches!(payload, Payload::None) {
            meter.iter().for_each(|meter| meter.next());
            return None;
        }
        meter.iter().for_each(|meter| meter.hold());
        let shared = Shared {
            payload: RefCell::new(payload),
            ended: Cell::new(false),
            meter,
            left: Cell::new(announced_length(request.headers())),
            dry: Cell::default(),
            seat,
        };
        let inflow = Self(Rc::new(shared));
        request.set_payload(Payload::Stream { payload: Box::pin(inflow.clone()) });
        Some(inflow)
    }

    /// Waits until the dispatcher has counted what was read past it: until then it takes the request for unfinished,
    /// and closes the connection behind a reply.
    pub async fn settled(&self) {
        let Some(meter) = &self.0.meter else {
            return;
        };
        poll_fn(|cx| {
            if meter.is_settled() {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn end(&self) {
        self.0.ended.set(true);
        self.0.meter.iter().for_each(|meter| meter.next());
    }

    /// The dispatcher has nothing for us. What it had read may not be decoded yet, or wait behind a full payload; it is
    /// when it still has nothing in its next turn. From then on the body's bytes are taken from the socket.
    fn poll_past(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        let (Some(meter), Some(left)) = (&self.0.meter, self.0.left.get()) else {
            self.0.meter.iter().for_each(|meter| meter.ask());
            return Poll::Pending;
        };
        let turn = meter.turn();
        if self.0.dry.get().is_none_or(|dry| dry == turn) {
            if self.0.dry.replace(Some(turn)).is_none() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        // The dispatcher forgets what nobody waits for.
        self.0.payload.replace(Payload::None);
        if left == 0 {
            self.end();
            return Poll::Ready(None);
        }
        Poll::Ready(Some(match ready!(meter.poll_body(cx, left)) {
            Ok(bytes) => {
                self.0.left.set(Some(left - bytes.len() as u64));
                Ok(bytes)
            }
            Err(error) => {
                self.end();
                Err(PayloadError::Incomplete(Some(error)))
            }
        }))
    }

    /// Whether the client has sent everything, or will not.
    pub fn has_ended(&self) -> bool {
        self.0.ended.get()
    }

    /// `reply`, followed by nothing until the client has sent everything: at most `patience`, and not when it falls
    /// silent.
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
        if matches!(*self.0.payload.borrow(), Payload::None) {
            return self.poll_past(cx);
        }
        let polled = Pin::new(&mut *self.0.payload.borrow_mut()).poll_next(cx);
        if let (Some(seat), Poll::Ready(Some(Ok(bytes)))) = (&self.0.seat, &polled) {
            seat.account().used(bytes.len());
        }
        match &polled {
            Poll::Ready(None | Some(Err(_))) => self.end(),
            Poll::Ready(Some(Ok(bytes))) => {
                let left = self.0.left.get();
                self.0.left.set(left.map(|left| left.saturating_sub(bytes.len() as u64)));
                self.0.dry.set(None);
            }
            Poll::Pending => return self.poll_past(cx),
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
