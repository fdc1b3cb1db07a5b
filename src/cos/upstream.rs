//! One form over one connection to COS.
//!
//! awc cannot carry uploads: it reads a reply only after the whole body is sent, so that an early refusal is lost or
//! hangs, and it copies every chunk.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::Connection;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};

use super::outgoing::{Outgoing, RelayBody, Waiting};
use super::target::Target;
use super::verdict::Reply;
use super::{CONNECTING, CosError};
use crate::pool::wire::{Pulse, Wire};
use crate::pool::{ConnectError, Link, Pool, told};

/// COS's error documents are below 1 KiB.
const REPLY_LIMIT: usize = 64 * 1024;

/// How long COS may take for what.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub connect: Duration,
    /// Without taking a byte.
    pub write: Duration,
    /// For the verdict after the last byte.
    pub reply: Duration,
}

/// A worker's connections to COS.
pub struct Upstream {
    pool: Rc<Pool<RelayBody>>,
    timeouts: Timeouts,
}

impl Upstream {
    /// Must be called on a worker.
    pub fn new(tls: Arc<rustls::ClientConfig>, timeouts: Timeouts) -> Rc<Self> {
        Rc::new(Self { pool: Pool::new(tls, timeouts.connect), timeouts })
    }

    /// Posts a form and reads COS's reply, which may come before the form is sent: then the rest is not sent and the
    /// connection is not used again. Only a connection that was idle for less than `age` is taken from the pool.
    pub(super) async fn post(
        &self,
        target: &Target,
        boundary: &str,
        body: RelayBody,
        outgoing: &RefCell<Outgoing>,
        age: Duration,
    ) -> Result<Reply, CosError> {
        let mut link = match self.pool.pooled(&target.origin, age).await {
            Some(link) => link,
            None => self.pool.connect(&target.origin).await.map_err(unconnected)?,
        };
        let request = Request::post(&target.path)
            .header(HOST, &target.authority)
            .header(CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
            .body(body)
            .map_err(|_| CosError::Link("it cannot be sent in a request"))?;

        let mut sent_whole = false;
        let Link { sender, connection, pulse, .. } = &mut *link;
        let reply = {
            let response = sender.send_request(request);
            let exchange = async {
                let response = response.await.map_err(|error| unreachable(&error))?;
                sent_whole = outgoing.borrow_mut().stop();
                read(response).await
            };
            self.drive(exchange, connection, pulse, outgoing).await?
        };
        if sent_whole {
            self.pool.put_back(&target.origin, link).await;
        }
        Ok(reply)
    }

    /// Runs an exchange and its connection together until the exchange is over or COS stalls.
    async fn drive<T>(
        &self,
        exchange: impl Future<Output = Result<T, CosError>>,
        connection: &mut Connection<TokioIo<Wire>, RelayBody>,
        pulse: &Pulse,
        outgoing: &RefCell<Outgoing>,
    ) -> Result<T, CosError> {
        let mut exchange = pin!(exchange);
        let mut timer = pin!(sleep_until(Instant::now() + self.timeouts.write));
        let mut closed = false;
        let mut verdict_due = None;
        poll_fn(|cx| {
            if !closed {
                // How it closed is told by the exchange.
                closed = Pin::new(&mut *connection).poll(cx).is_ready();
            }
            if let Poll::Ready(result) = exchange.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            // The timer is moved only when it fires or the verdict becomes due, not for every chunk.
            if let Waiting::Verdict(since) = outgoing.borrow().waiting()
                && verdict_due.replace(since) != Some(since)
            {
                timer.as_mut().reset(since + self.timeouts.reply);
            }
            while timer.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                let (waited_for, limit, since) = match outgoing.borrow().waiting() {
                    Waiting::Client => ("taking the file", self.timeouts.write, now),
                    Waiting::Upstream => ("taking the file", self.timeouts.write, pulse.written()),
                    Waiting::Verdict(since) => {
                        ("the verdict", self.timeouts.reply, since.max(pulse.written()))
                    }
                };
                if now >= since + limit {
                    return Poll::Ready(Err(CosError::Timeout { waited_for, limit }));
                }
                timer.as_mut().reset(since + limit);
            }
            Poll::Pending
        })
        .await
    }
}

async fn read(response: Response<Incoming>) -> Result<Reply, CosError> {
    let text = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.chars().take(128).collect::<String>())
    };
    let (request_id, crc64) = (text("x-cos-request-id"), text("x-cos-hash-crc64ecma"));
    let status = response.status();
    let body = match Limited::new(response.into_body(), REPLY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        // A refusal stands by its status; a success that cannot be read to its end may hold an error.
        Err(_) if !status.is_success() => Bytes::new(),
        Err(_) => return Err(CosError::NoVerdict("its body cannot be read")),
    };
    Ok(Reply { status, request_id, crc64, body })
}

fn unconnected(error: ConnectError) -> CosError {
    match error {
        ConnectError::Timeout(limit) => CosError::Timeout { waited_for: CONNECTING, limit },
        ConnectError::Failed(cause) => CosError::Unreachable(cause),
    }
}

fn unreachable(error: &hyper::Error) -> CosError {
    CosError::Unreachable(told(error))
}
