//! Sends a file over a connection to COS, with time limits on COS's side.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::attempt::Waiting;
use super::error::{CONNECTING, CosError};
use super::replayable_file::{RelayBody, ReplayableFile};
use super::verdict::{CosResponse, is_success};
use crate::net::http_client::exchange::{Exchange, ExchangeError};
use crate::net::http_client::response::{HeaderVisitor, ResponseError};
use crate::net::http_client::{ConnectError, Endpoint, Pool};

/// The longest body of a response. COS's error documents are below 1 KiB.
const MAX_RESPONSE_BODY: usize = 64 * 1024;

/// How long COS may take for each step.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub connect: Duration,
    /// To accept the next bytes.
    pub write: Duration,
    /// To send the verdict after the form's last byte.
    pub response: Duration,
}

/// A worker's connections to COS.
pub struct Upstream {
    pool: Rc<Pool>,
    timeouts: Timeouts,
}

impl Upstream {
    /// Must be called on a worker.
    pub fn new(tls: Arc<rustls::ClientConfig>, timeouts: Timeouts) -> Rc<Self> {
        let pool = Pool::new(tls, timeouts.connect, MAX_RESPONSE_BODY);
        Rc::new(Self::over(pool, timeouts))
    }

    /// Over the connections of `pool`.
    pub fn over(pool: Rc<Pool>, timeouts: Timeouts) -> Self {
        Self { pool, timeouts }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sends a request and reads COS's response. If the response comes before the body is sent, the rest is not sent and
    /// the connection is not used again. A pooled connection is used only if it was idle for less than `max_idle`.
    pub(super) async fn send<H: HeaderVisitor + Default>(
        &self,
        origin: &Endpoint,
        head: String,
        body: RelayBody,
        file: &RefCell<ReplayableFile>,
        max_idle: Duration,
    ) -> Result<CosResponse<H>, CosError> {
        let mut connection = match self.pool.pooled(origin, max_idle) {
            Some(connection) => connection,
            None => self.pool.connect(origin).await.map_err(connect_error)?,
        };
        let mut exchange = Exchange::new(&mut connection, head, body, H::default());
        let (status, body) = self.drive(&mut exchange, file).await?;
        let is_sent = exchange.is_sent();
        let response = CosResponse { status, headers: exchange.into_visitor(), body, is_sent };
        if !response.is_refusal() {
            self.pool.put_back(origin, connection);
        }
        Ok(response)
    }

    /// Runs an exchange until it ends or COS exceeds a time limit. Returns the response's status and body.
    async fn drive<H: HeaderVisitor>(
        &self,
        exchange: &mut Exchange<'_, RelayBody, H>,
        file: &RefCell<ReplayableFile>,
    ) -> Result<(u16, Bytes), CosError> {
        let mut timer = pin!(sleep_until(Instant::now() + self.timeouts.write));
        let mut response_since = None;
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = exchange.poll(cx) {
                return Poll::Ready(Ok(result));
            }
            let waiting = file.borrow().waiting();
            // The timer is set to an earlier time when the wait for the verdict starts or a response begins. It is not
            // moved for every chunk.
            let since = exchange.response_began().or(waiting.verdict_since());
            if response_since != since {
                response_since = since;
                if let Some(deadline) = since.map(|since| since + self.timeouts.response)
                    && deadline < timer.deadline()
                {
                    timer.as_mut().reset(deadline);
                }
            }
            while timer.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                let Wait { waited_for, limit, since } = self.current_wait(exchange, waiting, now);
                if now >= since + limit {
                    return Poll::Ready(Err(CosError::Timeout { waited_for, limit }));
                }
                timer.as_mut().reset(since + limit);
            }
            Poll::Pending
        })
        .await;
        let refused = exchange.status().filter(|status| !is_success(*status));
        match result {
            Ok(Ok(response)) => Ok((response.status, response.body)),
            // A refusal counts by its status alone. A success that cannot be read to its end may contain an error
            // document.
            Err(timeout) => Ok((refused.ok_or(timeout)?, Bytes::new())),
            Ok(Err(ExchangeError::Failed(ResponseError::BadBody { status, .. })))
                if !is_success(status) =>
            {
                Ok((status, Bytes::new()))
            }
            Ok(Err(ExchangeError::Failed(ResponseError::BadBody { .. }))) => {
                Err(CosError::NoVerdict("the body of its response cannot be read"))
            }
            Ok(Err(ExchangeError::Failed(ResponseError::NoResponse(cause)))) => {
                Err(CosError::Unreachable(cause))
            }
            // The attempt has the cause; `Relay::attempt` returns it.
            Ok(Err(ExchangeError::Aborted)) => Err(CosError::NoVerdict("the form was aborted")),
        }
    }

    /// What COS is waited for at `now`. A response that has begun must end in time whatever else is waited for: COS
    /// could otherwise delay an upload for as long as its client sends.
    fn current_wait<H: HeaderVisitor>(
        &self,
        exchange: &Exchange<'_, RelayBody, H>,
        waiting: Waiting,
        now: Instant,
    ) -> Wait {
        let Timeouts { write, response, .. } = self.timeouts;
        let verdict = |since| Wait { waited_for: "the verdict", limit: response, since };
        let accepting = |since| Wait { waited_for: "accepting the file", limit: write, since };
        let wait = match waiting {
            // The request's body has its own timer for the client.
            Waiting::Client => accepting(now),
            Waiting::Upstream => accepting(exchange.last_written()),
            Waiting::Verdict(since) => verdict(since.max(exchange.last_written())),
        };
        match exchange.response_began().map(verdict) {
            Some(begun) if begun.since + begun.limit < wait.since + wait.limit => begun,
            _ => wait,
        }
    }
}

/// What COS is waited for, for how long at most, and since when.
struct Wait {
    waited_for: &'static str,
    limit: Duration,
    since: Instant,
}

pub(super) fn connect_error(error: ConnectError) -> CosError {
    match error {
        ConnectError::Timeout(limit) => CosError::Timeout { waited_for: CONNECTING, limit },
        ConnectError::Failed(cause) => CosError::Unreachable(cause),
    }
}
