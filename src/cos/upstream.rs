//! One form over one connection to COS.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::outgoing::{Outgoing, RelayBody, Waiting};
use super::target::Target;
use super::verdict::{Marks, Reply, is_success};
use super::{CONNECTING, CosError};
use crate::pool::exchange::{Exchange, ExchangeError, head};
use crate::pool::reply::Failure;
use crate::pool::{ConnectError, Pool};

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
    pool: Rc<Pool>,
    timeouts: Timeouts,
}

impl Upstream {
    /// Must be called on a worker.
    pub fn new(tls: Arc<rustls::ClientConfig>, timeouts: Timeouts) -> Rc<Self> {
        Rc::new(Self { pool: Pool::new(tls, timeouts.connect, REPLY_LIMIT), timeouts })
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
        let mut connection = match self.pool.pooled(&target.origin, age) {
            Some(connection) => connection,
            None => self.pool.connect(&target.origin).await.map_err(unconnected)?,
        };
        let content_type = ["multipart/form-data; boundary=", boundary].concat();
        let head = head(&target.path, &target.authority, &content_type, body.length());
        let exchange = Exchange::new(&mut connection, head, body, Marks::default());
        let reply = self.drive(exchange, outgoing).await?;
        self.pool.put_back(&target.origin, connection);
        Ok(reply)
    }

    /// Runs an exchange until it is over or COS stalls.
    async fn drive(
        &self,
        mut exchange: Exchange<'_, RelayBody, Marks>,
        outgoing: &RefCell<Outgoing>,
    ) -> Result<Reply, CosError> {
        let mut timer = pin!(sleep_until(Instant::now() + self.timeouts.write));
        let mut verdict_due = None;
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = exchange.poll(cx) {
                return Poll::Ready(Ok(result));
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
                    Waiting::Upstream => {
                        ("taking the file", self.timeouts.write, exchange.written())
                    }
                    Waiting::Verdict(since) => {
                        ("the verdict", self.timeouts.reply, since.max(exchange.written()))
                    }
                };
                if now >= since + limit {
                    return Poll::Ready(Err(CosError::Timeout { waited_for, limit }));
                }
                timer.as_mut().reset(since + limit);
            }
            Poll::Pending
        })
        .await?;
        let (status, body) = match result {
            Ok(reply) => (reply.status, reply.body),
            // A refusal stands by its status; a success that cannot be read to its end may hold an error.
            Err(ExchangeError::Failed(Failure::CutShort { status, .. })) if !is_success(status) => {
                (status, Bytes::new())
            }
            Err(ExchangeError::Failed(Failure::CutShort { .. })) => {
                return Err(CosError::NoVerdict("its body cannot be read"));
            }
            Err(ExchangeError::Failed(Failure::Unanswered(cause))) => {
                return Err(CosError::Unreachable(cause));
            }
            // The cause is told by whoever was to fill the form.
            Err(ExchangeError::Aborted) => return Err(CosError::NoVerdict("the form broke off")),
        };
        let is_sent = exchange.is_sent();
        Ok(Reply { status, marks: exchange.into_headers(), body, is_sent })
    }
}

fn unconnected(error: ConnectError) -> CosError {
    match error {
        ConnectError::Timeout(limit) => CosError::Timeout { waited_for: CONNECTING, limit },
        ConnectError::Failed(cause) => CosError::Unreachable(cause),
    }
}
