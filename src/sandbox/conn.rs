//! One accepted connection, plain or TLS: heads, bodies by length or chunks, replies, slow and broken ways to send
//! them, resets. Knows neither WeChat nor COS.

use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::http::{Broken, Content, Head, Response, parse_head, reason};

const HEAD_MAX: usize = 64 * 1024;
const READ: usize = 64 * 1024;
/// How long a connection that was answered early may stay silent before it is dropped.
const DRAIN: Duration = Duration::from_secs(10);

/// What becomes of the connection when a request is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Flow {
    Next,
    Close,
    Reset,
}

pub enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match self {
            Socket::Plain(tcp) => tcp,
            Socket::Tls(tls) => tls.get_ref().0,
        }
    }

    async fn read(&mut self, into: &mut BytesMut, limit: usize) -> io::Result<usize> {
        into.reserve(limit);
        let mut into = into.limit(limit);
        match self {
            Socket::Plain(tcp) => tcp.read_buf(&mut into).await,
            Socket::Tls(tls) => tls.read_buf(&mut into).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Socket::Plain(tcp) => tcp.write_all(bytes).await,
            Socket::Tls(tls) => {
                tls.write_all(bytes).await?;
                tls.flush().await
            }
        }
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Socket::Plain(tcp) => tcp.shutdown().await,
            Socket::Tls(tls) => tls.shutdown().await,
        }
    }
}

/// How a reply goes out when a fault wants it different.
#[derive(Default, Clone, Copy)]
pub struct Delivery {
    pub bytes_per_second: Option<u64>,
    /// Resets the connection behind that many bytes of the reply's body.
    pub cut_after: Option<u64>,
}

enum Body {
    /// So many bytes are still to come.
    Sized(u64),
    /// A chunk's length line comes next; `true` behind the first chunk, where a CRLF comes before it.
    ChunkLine(bool),
    Chunk(u64),
}

pub struct Conn {
    socket: Socket,
    held: BytesMut,
    body: Body,
    expects_continue: bool,
    keep_alive: bool,
    head_only: bool,
    /// Reads no faster than that.
    pub bytes_per_second: Option<u64>,
}

impl Conn {
    pub fn new(socket: Socket) -> Conn {
        Conn {
            socket,
            held: BytesMut::new(),
            body: Body::Sized(0),
            expects_continue: false,
            keep_alive: true,
            head_only: false,
            bytes_per_second: None,
        }
    }

    /// The next request's head; `None` when the sender has closed between two requests.
    pub async fn head(&mut self) -> Result<Option<Head>, Broken> {
        loop {
            if let Some((head, length)) = parse_head(&self.held)? {
                let _ = self.held.split_to(length);
                self.keep_alive = head.keep_alive;
                self.head_only = head.method == "HEAD";
                self.expects_continue = head
                    .header("expect")
                    .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
                self.body = if head.chunked {
                    Body::ChunkLine(false)
                } else {
                    Body::Sized(head.length.unwrap_or(0))
                };
                return Ok(Some(head));
            }
            if self.held.len() > HEAD_MAX {
                return Err(Broken::BadRequest("the request's head is too large"));
            }
            if self.socket.read(&mut self.held, 8 * 1024).await? == 0 {
                return if self.held.is_empty() { Ok(None) } else { Err(Broken::Closed) };
            }
        }
    }

    pub fn body_done(&self) -> bool {
        matches!(self.body, Body::Sized(0))
    }

    /// The next piece of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.expects_continue && !self.body_done() {
            self.expects_continue = false;
            if self.held.is_empty() {
                self.socket.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
        }
        loop {
            match self.body {
                Body::Sized(0) => return Ok(None),
                Body::Sized(left) => {
                    let piece = self.piece(left).await?;
                    self.body = Body::Sized(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Body::Chunk(0) => self.body = Body::ChunkLine(true),
                Body::Chunk(left) => {
                    let piece = self.piece(left).await?;
                    self.body = Body::Chunk(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Body::ChunkLine(behind) => {
                    if behind && !self.line().await?.is_empty() {
                        return Err(Broken::BadRequest("a chunk is longer than its length"));
                    }
                    let line = self.line().await?;
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    let length = u64::from_str_radix(digits, 16)
                        .map_err(|_| Broken::BadRequest("a chunk without a length"))?;
                    if length > 0 {
                        self.body = Body::Chunk(length);
                        continue;
                    }
                    while !self.line().await?.is_empty() {}
                    self.body = Body::Sized(0);
                }
            }
        }
    }

    async fn piece(&mut self, left: u64) -> Result<Bytes, Broken> {
        let mut limit = READ;
        if let Some(rate) = self.bytes_per_second {
            limit = step(rate);
            pause(limit, rate).await;
        }
        if self.held.is_empty() {
            self.fill(limit).await?;
        }
        let length = self.held.len().min(limit).min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(self.held.split_to(length).freeze())
    }

    async fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = self.held.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.held.split_to(end + 2);
                return std::str::from_utf8(&line[..end])
                    .map(str::to_owned)
                    .map_err(|_| Broken::BadRequest("a chunk line that is not text"));
            }
            if self.held.len() > 4096 {
                return Err(Broken::BadRequest("a chunk line that does not end"));
            }
            self.fill(READ).await?;
        }
    }

    async fn fill(&mut self, limit: usize) -> Result<(), Broken> {
        if self.socket.read(&mut self.held, limit).await? == 0 {
            return Err(Broken::Closed);
        }
        Ok(())
    }

    pub async fn whole_body(&mut self, limit: usize) -> Result<Vec<u8>, Broken> {
        let mut whole = Vec::new();
        while let Some(piece) = self.chunk().await? {
            if whole.len() + piece.len() > limit {
                return Err(Broken::BadRequest("the body is too large"));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    pub async fn send(&mut self, reply: Response) -> Result<Flow, Broken> {
        self.deliver(reply, Delivery::default()).await
    }

    /// Sends a reply. Before the request's body has ended it says `Connection: close`, and the caller drains.
    pub async fn deliver(&mut self, reply: Response, how: Delivery) -> Result<Flow, Broken> {
        let close = !self.keep_alive || !self.body_done();
        let mut out = Vec::with_capacity(1024);
        let reason = reason(reply.status);
        write!(out, "HTTP/1.1 {} {reason}\r\n", reply.status)?;
        for (name, value) in &reply.headers {
            write!(out, "{name}: {value}\r\n")?;
        }
        if reply.status != 204 {
            write!(out, "Content-Length: {}\r\n", reply.content.length())?;
        }
        if close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only && reply.status != 204 {
            match reply.content {
                Content::Bytes(bytes) if how.is_plain() && bytes.len() <= READ => {
                    out.extend_from_slice(&bytes)
                }
                content => {
                    self.socket.write(&out).await?;
                    out.clear();
                    if self.stream(content, how).await? {
                        return Ok(Flow::Reset);
                    }
                }
            }
        }
        self.socket.write(&out).await?;
        if how.cut_after.is_some() {
            return Ok(Flow::Reset);
        }
        Ok(if close { Flow::Close } else { Flow::Next })
    }

    /// Writes a body piece by piece; true when it was cut on the way.
    async fn stream(&mut self, mut content: Content, how: Delivery) -> Result<bool, Broken> {
        let step = how.bytes_per_second.map_or(READ, step) as u64;
        let mut left = content.length().min(how.cut_after.unwrap_or(u64::MAX));
        let cut = left < content.length();
        let mut block = vec![0; READ];
        while left > 0 {
            let length = step.min(left) as usize;
            match &mut content {
                Content::Bytes(bytes) => self.socket.write(&bytes.split_to(length)).await?,
                Content::File(file, _) => {
                    file.read_exact(&mut block[..length])?;
                    self.socket.write(&block[..length]).await?;
                }
            }
            left -= length as u64;
            match how.bytes_per_second {
                Some(rate) => pause(length, rate).await,
                // The file is read with blocking calls: others get their turn in between.
                None => tokio::task::yield_now().await,
            }
        }
        Ok(cut)
    }

    /// Bytes as they are, HTTP or not.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        Ok(self.socket.write(bytes).await?)
    }

    /// Reads what still comes and drops it, so that the sender gets to read an early reply.
    pub async fn drain(&mut self) {
        while let Ok(Ok(Some(_))) = tokio::time::timeout(DRAIN, self.chunk()).await {}
    }

    /// The next reply is this connection's last.
    pub fn close_next(&mut self) {
        self.keep_alive = false;
    }

    /// Waits without reading until the peer has closed. A peer that closes behind more than the socket's buffers hold
    /// goes unnoticed: its FIN waits for the bytes before it.
    pub async fn wait_for_peer_to_leave(&self) {
        loop {
            match self.socket.tcp().ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => {}
                _ => return,
            }
            // Unread bytes keep the socket readable; there is no event to wait on for the close behind them.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn finish_writing(&mut self) {
        let _ = self.socket.shutdown().await;
    }

    /// Drops the connection with a TCP reset instead of an orderly close.
    pub fn reset(self) {
        let _ = self.socket.tcp().set_zero_linger();
    }
}

impl Delivery {
    fn is_plain(self) -> bool {
        self.bytes_per_second.is_none() && self.cut_after.is_none()
    }
}

/// Twenty steps a second, so that a slow side is a steady one.
fn step(rate: u64) -> usize {
    (rate / 20).clamp(1, READ as u64) as usize
}

async fn pause(bytes: usize, rate: u64) {
    tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)).await;
}

/// The first future's output, or `None` when the second is done before it.
pub async fn first_of<T>(
    first: impl Future<Output = T>,
    second: impl Future<Output = ()>,
) -> Option<T> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(|context| {
        if let Poll::Ready(output) = first.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        second.as_mut().poll(context).map(|()| None)
    })
    .await
}
