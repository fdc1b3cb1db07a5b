//! HTTP/1.1 connections to upstreams, kept per worker: to COS for the forms, to WeChat for upload links.
//!
//! A connection belongs to the upload that uses it, so dropping the upload closes it, which stores nothing.

pub mod chunked;
pub mod exchange;
pub mod response;
pub mod stream;
pub mod write_queue;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::write_batch;
use response::ResponseParser;
use stream::{MaybeTlsStream, StickyWriteErrors, WriteProgress};

/// Idle connections kept for one worker, whatever their origins, never more than were in use at once, and for how long.
/// COS closes idle ones after a minute or so. With fewer than uploads in flight, the others pay for a TLS handshake each.
const IDLE_CONNECTIONS: usize = 256;
pub const IDLE_FOR: Duration = Duration::from_secs(20);
/// So long ago an idle connection was in use that the other side is not about to close it.
pub const SURE_FOR: Duration = Duration::from_secs(2);
/// Records that are encrypted before they are written: a small file's form goes out in one write. rustls stops at 64 KiB.
const TLS_BUFFER: usize = 128 * 1024;

/// What connections are pooled by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
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

/// A worker's connections of one kind.
pub struct Pool {
    tls: TlsConnector,
    connect_timeout: Duration,
    /// Bytes that may follow a reply's head.
    reply_limit: usize,
    /// Its requests are.
    batched: bool,
    #[expect(clippy::vec_box, reason = "it is the box that goes from hand to hand")]
    idle: RefCell<HashMap<Endpoint, Vec<Box<Connection>>>>,
}

/// One connection. Boxed, so that it is not moved about for every request.
pub struct Connection {
    stream: MaybeTlsStream,
    progress: Rc<WriteProgress>,
    parser: ResponseParser,
    /// The last exchange ended so that another may follow.
    keeps: bool,
    since: Instant,
}

impl Pool {
    /// For requests of any length. Must be called on a worker: it starts a local task that sweeps idle connections while
    /// the pool lives.
    pub fn new(
        tls: Arc<rustls::ClientConfig>,
        connect_timeout: Duration,
        reply_limit: usize,
    ) -> Rc<Self> {
        Self::with(tls, connect_timeout, reply_limit, false)
    }

    /// The same for short requests, which may be held to be sent along with others.
    pub fn batched(
        tls: Arc<rustls::ClientConfig>,
        connect_timeout: Duration,
        reply_limit: usize,
    ) -> Rc<Self> {
        Self::with(tls, connect_timeout, reply_limit, true)
    }

    fn with(
        tls: Arc<rustls::ClientConfig>,
        connect_timeout: Duration,
        reply_limit: usize,
        batched: bool,
    ) -> Rc<Self> {
        let (tls, idle) = (TlsConnector::from(tls), RefCell::default());
        let pool = Rc::new(Self { tls, connect_timeout, reply_limit, batched, idle });
        actix_web::rt::spawn(sweep(Rc::downgrade(&pool)));
        pool
    }

    /// A connection of its own.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Box<Connection>, ConnectError> {
        let limit = self.connect_timeout;
        let progress = WriteProgress::new();
        let stream = timeout(limit, self.stream(endpoint, progress.clone()))
            .await
            .map_err(|_| ConnectError::Timeout(limit))?
            .map_err(|error| ConnectError::Failed(error.to_string()))?;
        let parser = ResponseParser::new(self.reply_limit);
        let since = Instant::now();
        let mut connection = Box::new(Connection { stream, progress, parser, keeps: false, since });
        // What came before the request would pass for its response.
        if !connection.is_open() {
            let cause = "it was closed, or something came over it, before the request was sent";
            return Err(ConnectError::Failed(cause.to_owned()));
        }
        Ok(connection)
    }

    async fn stream(
        &self,
        endpoint: &Endpoint,
        progress: Rc<WriteProgress>,
    ) -> io::Result<MaybeTlsStream> {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        // Without it the form's tail waits for an acknowledgement (p99 45 ms instead of 5).
        stream.set_nodelay(true)?;
        let stream = if self.batched {
            write_batch::Stream::batched(stream)
        } else {
            write_batch::Stream::new(stream)
        };
        let stream = StickyWriteErrors::new(stream, progress);
        if !endpoint.https {
            return Ok(MaybeTlsStream::Plain(stream));
        }
        let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
        let mut stream = self.tls.connect(name, stream).await?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        Ok(MaybeTlsStream::Tls(Box::new(stream)))
    }

    /// An idle connection, in use less than `age` ago, that is still open as far as can be seen without waiting.
    pub fn pooled(&self, endpoint: &Endpoint, age: Duration) -> Option<Box<Connection>> {
        loop {
            // The last one put back is the youngest.
            let mut connection = self
                .idle
                .borrow_mut()
                .get_mut(endpoint)?
                .pop_if(|connection| connection.since.elapsed() < age)?;
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection, if its last exchange ended so that another may follow: with a success read to its end.
    pub fn put_back(&self, endpoint: &Endpoint, mut connection: Box<Connection>) {
        if !std::mem::take(&mut connection.keeps) {
            return;
        }
        connection.parser.clear();
        connection.since = Instant::now();
        let mut idle = self.idle.borrow_mut();
        if idle.values().map(Vec::len).sum::<usize>() >= IDLE_CONNECTIONS {
            return;
        }
        match idle.get_mut(endpoint) {
            Some(kept) => kept.push(connection),
            None => drop(idle.insert(endpoint.clone(), vec![connection])),
        }
    }
}

impl Connection {
    /// Whether it is idle and not closed yet: nothing has come that could be read.
    fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        read.is_pending() && self.since.elapsed() < IDLE_FOR
    }

    /// Reads once, behind what was received; 0 at its end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        pin!(self.stream.read_buf(self.parser.room())).poll(cx)
    }
}

/// Drops idle connections that are old or closed: nobody looks at them otherwise, and they sit in CLOSE_WAIT.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_FOR / 4).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        pool.idle.borrow_mut().retain(|_, kept| {
            kept.retain_mut(|connection| connection.is_open());
            !kept.is_empty()
        });
    }
}
