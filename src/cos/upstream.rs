//! Connections to COS: a small pool per worker, and one form over one of them.
//!
//! hyper's connection is polled in the same task as the request, so dropping an upload closes its connection, which
//! stores nothing. awc cannot carry uploads: it reads a reply only after the whole body is sent, so that an early
//! refusal is lost or hangs, and it copies every chunk.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::outgoing::{Outgoing, RelayBody, Waiting};
use super::target::{Origin, Target};
use super::verdict::Reply;
use super::wire::{Pulse, Tap, Wire};
use super::{CONNECTING, CosError};

/// Idle connections kept for one origin and worker, and for how long. COS closes idle ones after a minute or so.
const IDLE_CONNECTIONS: usize = 64;
pub(super) const IDLE_FOR: Duration = Duration::from_secs(20);
/// So long ago an idle connection was in use that COS is not about to close it.
pub(super) const SURE_FOR: Duration = Duration::from_secs(2);
/// COS's error documents are below 1 KiB.
const REPLY_LIMIT: usize = 64 * 1024;
/// What hyper may hold of the form while COS does not take it.
const WRITE_BUFFER: usize = 16 * 1024;

type Http = Connection<TokioIo<Wire>, RelayBody>;

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
    tls: TlsConnector,
    timeouts: Timeouts,
    idle: RefCell<HashMap<Origin, Vec<Link>>>,
}

/// One connection.
struct Link {
    sender: SendRequest<RelayBody>,
    connection: Http,
    pulse: Rc<Pulse>,
    since: Instant,
}

impl Upstream {
    /// Must be called on a worker: it starts a local task that sweeps idle connections while the pool lives.
    pub fn new(tls: Arc<rustls::ClientConfig>, timeouts: Timeouts) -> Rc<Self> {
        let idle = RefCell::new(HashMap::new());
        let upstream = Rc::new(Self { tls: TlsConnector::from(tls), timeouts, idle });
        actix_web::rt::spawn(sweep(Rc::downgrade(&upstream)));
        upstream
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
        let mut link = match self.pooled(&target.origin, age).await {
            Some(link) => link,
            None => self.connect(&target.origin).await?,
        };
        let request = Request::post(&target.path)
            .header(HOST, &target.authority)
            .header(CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
            .body(body)
            .map_err(|_| CosError::Link("it cannot be sent in a request"))?;

        let mut sent_whole = false;
        let reply = {
            let response = link.sender.send_request(request);
            let exchange = async {
                let response = response.await.map_err(|error| unreachable(&error))?;
                sent_whole = outgoing.borrow_mut().stop();
                read(response).await
            };
            self.drive(exchange, &mut link.connection, &link.pulse, outgoing).await?
        };
        if sent_whole {
            self.put_back(target.origin.clone(), link).await;
        }
        Ok(reply)
    }

    /// Runs an exchange and its connection together until the exchange is over or COS stalls.
    async fn drive<T>(
        &self,
        exchange: impl Future<Output = Result<T, CosError>>,
        connection: &mut Http,
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

    async fn connect(&self, origin: &Origin) -> Result<Link, CosError> {
        let limit = self.timeouts.connect;
        let pulse = Pulse::new();
        let wire = timeout(limit, self.wire(origin, pulse.clone()))
            .await
            .map_err(|_| CosError::Timeout { waited_for: CONNECTING, limit })?
            .map_err(|error| CosError::Unreachable(error.to_string()))?;
        let (sender, connection) = Builder::new()
            .max_buf_size(WRITE_BUFFER)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|error| unreachable(&error))?;
        Ok(Link { sender, connection, pulse, since: Instant::now() })
    }

    async fn wire(&self, origin: &Origin, pulse: Rc<Pulse>) -> io::Result<Wire> {
        let stream = TcpStream::connect((origin.host.as_str(), origin.port)).await?;
        // Without it the form's tail waits for an acknowledgement (p99 45 ms instead of 5).
        stream.set_nodelay(true)?;
        let tap = Tap::new(stream, pulse);
        if !origin.https {
            return Ok(Wire::Plain(tap));
        }
        let name = ServerName::try_from(origin.host.clone()).map_err(io::Error::other)?;
        Ok(Wire::Tls(Box::new(self.tls.connect(name, tap).await?)))
    }

    /// An idle connection that is still open as far as can be seen without waiting.
    async fn pooled(&self, origin: &Origin, age: Duration) -> Option<Link> {
        loop {
            // The last one put back is the youngest.
            let mut link = self
                .idle
                .borrow_mut()
                .get_mut(origin)?
                .pop_if(|link| link.since.elapsed() < age)?;
            if poll_fn(|cx| Poll::Ready(link.is_usable(cx))).await {
                return Some(link);
            }
        }
    }

    async fn put_back(&self, origin: Origin, mut link: Link) {
        link.since = Instant::now();
        if poll_fn(|cx| Poll::Ready(link.is_open(cx))).await {
            let mut idle = self.idle.borrow_mut();
            let links = idle.entry(origin).or_default();
            if links.len() < IDLE_CONNECTIONS {
                links.push(link);
            }
        }
    }
}

impl Link {
    /// Polls the connection, which sees a close that has arrived.
    fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        let closed = Pin::new(&mut self.connection).poll(cx).is_ready();
        !closed && !self.sender.is_closed() && self.since.elapsed() < IDLE_FOR
    }

    fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_open(cx) && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }
}

/// Drops idle connections that are old or closed: nobody polls them otherwise, and they sit in CLOSE_WAIT.
async fn sweep(upstream: Weak<Upstream>) {
    loop {
        tokio::time::sleep(IDLE_FOR / 4).await;
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        poll_fn(|cx| {
            upstream.idle.borrow_mut().retain(|_, links| {
                links.retain_mut(|link| link.is_open(cx));
                !links.is_empty()
            });
            Poll::Ready(())
        })
        .await;
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

fn unreachable(error: &hyper::Error) -> CosError {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    CosError::Unreachable(format!("{error}{}", cause.unwrap_or_default()))
}
