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

use super::error::{CONNECTING, CosError};
use super::outgoing::{RelayBody, ReplayableFile, Waiting};
use super::target::Target;
use super::verdict::{CosHeaders, CosResponse, is_success};
use crate::net::http_client::exchange::{Exchange, ExchangeError, head};
use crate::net::http_client::response::ResponseError;
use crate::net::http_client::{ConnectError, Pool};

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
        outgoing: &RefCell<ReplayableFile>,
        age: Duration,
    ) -> Result<CosResponse, CosError> {
        let mut connection = match self.pool.pooled(&target.origin, age) {
            Some(connection) => connection,
            None => self.pool.connect(&target.origin).await.map_err(unconnected)?,
        };
        let content_type = ["multipart/form-data; boundary=", boundary].concat();
        let head = head(&target.path, &target.authority, &content_type, body.length());
        let exchange = Exchange::new(&mut connection, head, body, CosHeaders::default());
        let reply = self.drive(exchange, outgoing).await?;
        if !reply.is_refusal() {
            self.pool.put_back(&target.origin, connection);
        }
        Ok(reply)
    }

    /// Runs an exchange until it is over or COS stalls.
    async fn drive(
        &self,
        mut exchange: Exchange<'_, RelayBody, CosHeaders>,
        outgoing: &RefCell<ReplayableFile>,
    ) -> Result<CosResponse, CosError> {
        let mut timer = pin!(sleep_until(Instant::now() + self.timeouts.write));
        let mut reply_since = None;
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = exchange.poll(cx) {
                return Poll::Ready(Ok(result));
            }
            let waiting = outgoing.borrow().waiting();
            // The timer is brought forward when a reply becomes due or begins, not moved for every chunk.
            let since = exchange.reply_began().or(waiting.verdict_since());
            if reply_since != since {
                reply_since = since;
                if let Some(due) = since.map(|since| since + self.timeouts.reply)
                    && due < timer.deadline()
                {
                    timer.as_mut().reset(due);
                }
            }
            while timer.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                let Due { waited_for, limit, since } = self.due(&exchange, waiting, now);
                if now >= since + limit {
                    return Poll::Ready(Err(CosError::Timeout { waited_for, limit }));
                }
                timer.as_mut().reset(since + limit);
            }
            Poll::Pending
        })
        .await;
        let refused = exchange.status().filter(|status| !is_success(*status));
        let (status, body) = match result {
            Ok(Ok(reply)) => (reply.status, reply.body),
            // A refusal stands by its status; a success that cannot be read to its end may hold an error.
            Err(timeout) => (refused.ok_or(timeout)?, Bytes::new()),
            Ok(Err(ExchangeError::Failed(ResponseError::CutShort { status, .. })))
                if !is_success(status) =>
            {
                (status, Bytes::new())
            }
            Ok(Err(ExchangeError::Failed(ResponseError::CutShort { .. }))) => {
                return Err(CosError::NoVerdict("its body cannot be read"));
            }
            Ok(Err(ExchangeError::Failed(ResponseError::Unanswered(cause)))) => {
                return Err(CosError::Unreachable(cause));
            }
            // The cause is told by whoever was to fill the form.
            Ok(Err(ExchangeError::Aborted)) => {
                return Err(CosError::NoVerdict("the form broke off"));
            }
        };
        let is_sent = exchange.is_sent();
        Ok(CosResponse { status, marks: exchange.into_headers(), body, is_sent })
    }

    /// What of COS is waited for at `now`. A reply that has begun must come to its end in time whatever else is waited
    /// for: COS could otherwise hold an upload for as long as its client takes.
    fn due(
        &self,
        exchange: &Exchange<'_, RelayBody, CosHeaders>,
        waiting: Waiting,
        now: Instant,
    ) -> Due {
        let Timeouts { write, reply, .. } = self.timeouts;
        let verdict = |since| Due { waited_for: "the verdict", limit: reply, since };
        let taking = |since| Due { waited_for: "taking the file", limit: write, since };
        let due = match waiting {
            // Its own timer watches the client.
            Waiting::Client => taking(now),
            Waiting::Upstream => taking(exchange.written()),
            Waiting::Verdict(since) => verdict(since.max(exchange.written())),
        };
        match exchange.reply_began().map(verdict) {
            Some(begun) if begun.since + begun.limit < due.since + due.limit => begun,
            _ => due,
        }
    }
}

/// What of COS is waited for, for how long at most, and since when.
struct Due {
    waited_for: &'static str,
    limit: Duration,
    since: Instant,
}

fn unconnected(error: ConnectError) -> CosError {
    match error {
        ConnectError::Timeout(limit) => CosError::Timeout { waited_for: CONNECTING, limit },
        ConnectError::Failed(cause) => CosError::Unreachable(cause),
    }
}
