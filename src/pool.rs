//! HTTP/1.1 connections to upstreams, kept per worker: to COS for the forms, to WeChat for upload links.
//!
//! hyper's connection is polled in the task of the request that goes over it, so dropping an upload closes its
//! connection, which stores nothing.

pub mod wire;

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Body;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use wire::{Pulse, Tap, Wire};

/// Idle connections kept for one origin and worker, never more than were in use at once, and for how long. COS closes idle
/// ones after a minute or so. With fewer than uploads in flight, the others pay for a TLS handshake each.
const IDLE_CONNECTIONS: usize = 256;
pub const IDLE_FOR: Duration = Duration::from_secs(20);
/// So long ago an idle connection was in use that the other side is not about to close it.
pub const SURE_FOR: Duration = Duration::from_secs(2);
/// What hyper may hold of a request while the other side does not take it.
const WRITE_BUFFER: usize = 16 * 1024;

/// Records that are encrypted before they are written: a small file's form goes out in one write. rustls stops at 64 KiB.
const TLS_BUFFER: usize = 128 * 1024;

/// What connections are pooled by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub https: bool,
    /// Lower case; an IPv6 literal without its brackets.
    pub host: String,
    pub port: u16,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("it takes longer than {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Failed(String),
}

/// A worker's connections for requests with bodies of one kind.
pub struct Pool<B: Body + 'static> {
    tls: TlsConnector,
    connect_timeout: Duration,
    #[expect(clippy::vec_box, reason = "it is the box that goes from hand to hand")]
    idle: RefCell<HashMap<Origin, Vec<Box<Link<B>>>>>,
}

/// One connection. Large: it is boxed, so that it is not moved about for every request.
pub struct Link<B: Body + 'static> {
    pub sender: SendRequest<B>,
    /// To be polled for as long as something is sent or expected.
    pub connection: Connection<TokioIo<Wire>, B>,
    pub pulse: Rc<Pulse>,
    since: Instant,
}

impl<B> Pool<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Must be called on a worker: it starts a local task that sweeps idle connections while the pool lives.
    pub fn new(tls: Arc<rustls::ClientConfig>, connect_timeout: Duration) -> Rc<Self> {
        let (tls, idle) = (TlsConnector::from(tls), RefCell::default());
        let pool = Rc::new(Self { tls, connect_timeout, idle });
        actix_web::rt::spawn(sweep(Rc::downgrade(&pool)));
        pool
    }

    /// A connection of its own.
    pub async fn connect(&self, origin: &Origin) -> Result<Box<Link<B>>, ConnectError> {
        let limit = self.connect_timeout;
        let pulse = Pulse::new();
        let wire = timeout(limit, self.wire(origin, pulse.clone()))
            .await
            .map_err(|_| ConnectError::Timeout(limit))?
            .map_err(|error| ConnectError::Failed(error.to_string()))?;
        let (sender, connection) = Builder::new()
            .max_buf_size(WRITE_BUFFER)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|error| ConnectError::Failed(told(&error)))?;
        Ok(Box::new(Link { sender, connection, pulse, since: Instant::now() }))
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
        let mut stream = self.tls.connect(name, tap).await?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        Ok(Wire::Tls(Box::new(stream)))
    }

    /// An idle connection, in use less than `age` ago, that is still open as far as can be seen without waiting.
    pub async fn pooled(&self, origin: &Origin, age: Duration) -> Option<Box<Link<B>>> {
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

    /// Keeps a connection on which nothing is expected any more, if the other side does.
    pub async fn put_back(&self, origin: &Origin, mut link: Box<Link<B>>) {
        link.since = Instant::now();
        if !poll_fn(|cx| Poll::Ready(link.is_open(cx))).await {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        match idle.get_mut(origin) {
            Some(links) if links.len() < IDLE_CONNECTIONS => links.push(link),
            Some(_) => {}
            None => drop(idle.insert(origin.clone(), vec![link])),
        }
    }
}

impl<B> Link<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
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
async fn sweep<B>(pool: Weak<Pool<B>>)
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    loop {
        tokio::time::sleep(IDLE_FOR / 4).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        poll_fn(|cx| {
            pool.idle.borrow_mut().retain(|_, links| {
                links.retain_mut(|link| link.is_open(cx));
                !links.is_empty()
            });
            Poll::Ready(())
        })
        .await;
    }
}

/// What went wrong with a connection, with its cause. hyper's errors name no URL.
pub fn told(error: &hyper::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
