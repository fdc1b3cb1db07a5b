//! The HTTP/1.1 client for upstreams, with a pool of connections on each worker: to COS for the forms, to WeChat's API.
//!
//! A connection belongs to the upload that uses it: dropping the upload closes the connection, and nothing is stored.

pub mod base_url;
pub mod call;
pub mod chunked;
pub mod exchange;
pub mod response;
pub mod retry_after;
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

use response::ResponseParser;
use stream::{MaybeTlsStream, StickyWriteErrors, WriteProgress};

/// Idle connections of one pool, to all endpoints together; never more than were in use at once. An upload that
/// finds none pays for a TLS handshake.
const MAX_IDLE: usize = 256;
/// How long a connection stays idle before it is closed. COS closes idle ones after about a minute.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle time within which the peer is certainly not closing a connection.
pub const SAFE_IDLE_TIME: Duration = Duration::from_secs(2);
/// Bytes that are encrypted before they are written, so that a small file's form is sent in one write. By default
/// rustls buffers 64 KiB.
const TLS_BUFFER: usize = 128 * 1024;

/// Where a connection leads; connections are pooled by it.
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
    /// Bytes of a response's body.
    max_body: usize,
    #[expect(clippy::vec_box, reason = "connections are passed around as boxes")]
    idle: RefCell<HashMap<Endpoint, Vec<Box<Connection>>>>,
}

/// One connection. Boxed, so that it is not copied for every request.
pub struct Connection {
    stream: MaybeTlsStream,
    progress: Rc<WriteProgress>,
    parser: ResponseParser,
    /// The last exchange ended so that another may follow.
    reusable: bool,
    idle_since: Instant,
}

impl Pool {
    /// Must be called on a worker: it starts a local task that sweeps idle connections while the pool lives.
    pub fn new(
        tls: Arc<rustls::ClientConfig>,
        connect_timeout: Duration,
        max_body: usize,
    ) -> Rc<Self> {
        let (tls, idle) = (TlsConnector::from(tls), RefCell::default());
        let pool = Rc::new(Self { tls, connect_timeout, max_body, idle });
        actix_web::rt::spawn(sweep(Rc::downgrade(&pool)));
        pool
    }

    /// Opens a new connection.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Box<Connection>, ConnectError> {
        let limit = self.connect_timeout;
        let progress = WriteProgress::new();
        // Boxed: otherwise the future of every exchange would contain a handshake.
        let stream = timeout(limit, Box::pin(self.stream(endpoint, progress.clone())))
            .await
            .map_err(|_| ConnectError::Timeout(limit))?
            .map_err(|error| ConnectError::Failed(error.to_string()))?;
        let parser = ResponseParser::new(self.max_body);
        let idle_since = Instant::now();
        let mut connection =
            Box::new(Connection { stream, progress, parser, reusable: false, idle_since });
        // Bytes received before the request is sent would be taken for its response.
        if !connection.is_open() {
            let cause =
                "it was closed, or bytes were received over it, before the request was sent";
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
        // Without it the end of the form is sent only after an acknowledgement (p99 45 ms instead of 5).
        stream.set_nodelay(true)?;
        let stream = StickyWriteErrors::new(stream, progress);
        if !endpoint.https {
            return Ok(MaybeTlsStream::Plain(stream));
        }
        let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
        let mut stream = self.tls.connect(name, stream).await?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        Ok(MaybeTlsStream::Tls(Box::new(stream)))
    }

    /// Takes a connection that has been idle for less than `max_idle_time` and is still open, as far as can be seen at
    /// once.
    pub fn pooled(&self, endpoint: &Endpoint, max_idle_time: Duration) -> Option<Box<Connection>> {
        loop {
            // The last one is the one that was in use last.
            let mut connection = self
                .idle
                .borrow_mut()
                .get_mut(endpoint)?
                .pop_if(|connection| connection.idle_since.elapsed() < max_idle_time)?;
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    /// Returns a connection to the pool, if its last exchange ended so that another may follow: with a success, read to
    /// its end.
    pub fn put_back(&self, endpoint: &Endpoint, mut connection: Box<Connection>) {
        if !std::mem::take(&mut connection.reusable) {
            return;
        }
        connection.parser.clear();
        connection.idle_since = Instant::now();
        let mut idle = self.idle.borrow_mut();
        if idle.values().map(Vec::len).sum::<usize>() >= MAX_IDLE {
            return;
        }
        match idle.get_mut(endpoint) {
            Some(connections) => connections.push(connection),
            None => drop(idle.insert(endpoint.clone(), vec![connection])),
        }
    }
}

impl Connection {
    /// Whether it is open, has received nothing, and has not been idle for too long.
    fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        read.is_pending() && self.idle_since.elapsed() < IDLE_TIMEOUT
    }

    /// Reads once, into the parser's buffer; 0 at the end of the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        pin!(self.stream.read_buf(self.parser.buffer())).poll(cx)
    }
}

/// Drops idle connections that are old or closed, which would otherwise stay in CLOSE_WAIT.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_TIMEOUT / 4).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        pool.idle.borrow_mut().retain(|_, connections| {
            connections.retain_mut(|connection| connection.is_open());
            !connections.is_empty()
        });
    }
}
