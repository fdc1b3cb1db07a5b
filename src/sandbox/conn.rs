//! One accepted connection, plain or TLS: request heads, bodies (with a length or chunked), responses, slow and broken
//! ways to send them, resets. Knows neither WeChat nor COS.

use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::http::{ConnError, Content, Head, Response, parse_head, reason};

const HEAD_MAX: usize = 64 * 1024;
const READ_SIZE: usize = 64 * 1024;
/// How long the client may send nothing while the rest of its body is discarded.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// What happens to the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AfterRequest {
    KeepAlive,
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

/// How a response is sent, where a fault changes it.
#[derive(Default, Clone, Copy)]
pub struct SendOptions {
    pub bytes_per_second: Option<u64>,
    /// The connection is reset after this many bytes of the response's body.
    pub cut_after: Option<u64>,
}

enum Body {
    /// The number of bytes left.
    Sized(u64),
    /// A chunk's length line comes next; `true` after the first chunk, where a CRLF precedes it.
    ChunkLine(bool),
    Chunk(u64),
}

pub struct Conn {
    socket: Socket,
    buffer: BytesMut,
    body: Body,
    expects_continue: bool,
    keep_alive: bool,
    head_only: bool,
    /// The limit at which bodies are read.
    pub bytes_per_second: Option<u64>,
}

impl Conn {
    pub fn new(socket: Socket) -> Conn {
        Conn {
            socket,
            buffer: BytesMut::new(),
            body: Body::Sized(0),
            expects_continue: false,
            keep_alive: true,
            head_only: false,
            bytes_per_second: None,
        }
    }

    /// The next request's head; `None` when the client has closed the connection between two requests.
    pub async fn head(&mut self) -> Result<Option<Head>, ConnError> {
        loop {
            if let Some((head, length)) = parse_head(&self.buffer)? {
                let _ = self.buffer.split_to(length);
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
            if self.buffer.len() > HEAD_MAX {
                return Err(ConnError::BadRequest("the request's head is too large"));
            }
            if self.socket.read(&mut self.buffer, 8 * 1024).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ConnError::Closed) };
            }
        }
    }

    pub fn body_done(&self) -> bool {
        matches!(self.body, Body::Sized(0))
    }

    /// The next bytes of the body; `None` at its end.
    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, ConnError> {
        if self.expects_continue && !self.body_done() {
            self.expects_continue = false;
            if self.buffer.is_empty() {
                self.socket.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
        }
        loop {
            match self.body {
                Body::Sized(0) => return Ok(None),
                Body::Sized(left) => {
                    let bytes = self.take_bytes(left).await?;
                    self.body = Body::Sized(left - bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Body::Chunk(0) => self.body = Body::ChunkLine(true),
                Body::Chunk(left) => {
                    let bytes = self.take_bytes(left).await?;
                    self.body = Body::Chunk(left - bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Body::ChunkLine(after_chunk) => {
                    if after_chunk && !self.line().await?.is_empty() {
                        return Err(ConnError::BadRequest("a chunk is longer than its length"));
                    }
                    let line = self.line().await?;
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    let length = u64::from_str_radix(digits, 16)
                        .map_err(|_| ConnError::BadRequest("a chunk without a length"))?;
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

    async fn take_bytes(&mut self, left: u64) -> Result<Bytes, ConnError> {
        let mut limit = READ_SIZE;
        if let Some(rate) = self.bytes_per_second {
            limit = step(rate);
            pause(limit, rate).await;
        }
        if self.buffer.is_empty() {
            self.fill(limit).await?;
        }
        let length = self.buffer.len().min(limit).min(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn line(&mut self) -> Result<String, ConnError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffer.split_to(end + 2);
                return std::str::from_utf8(&line[..end])
                    .map(str::to_owned)
                    .map_err(|_| ConnError::BadRequest("a chunk line that is not text"));
            }
            if self.buffer.len() > 4096 {
                return Err(ConnError::BadRequest("a chunk line that does not end"));
            }
            self.fill(READ_SIZE).await?;
        }
    }

    async fn fill(&mut self, limit: usize) -> Result<(), ConnError> {
        if self.socket.read(&mut self.buffer, limit).await? == 0 {
            return Err(ConnError::Closed);
        }
        Ok(())
    }

    pub async fn whole_body(&mut self, limit: usize) -> Result<Vec<u8>, ConnError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next_bytes().await? {
            if whole.len() + bytes.len() > limit {
                return Err(ConnError::BadRequest("the body is too large"));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }

    pub async fn send(&mut self, response: Response) -> Result<AfterRequest, ConnError> {
        self.send_with(response, SendOptions::default()).await
    }

    /// Sends a response. If the request's body is not read to its end, the response has `Connection: close`, and the
    /// caller must call [`Self::discard_body`].
    pub async fn send_with(
        &mut self,
        response: Response,
        options: SendOptions,
    ) -> Result<AfterRequest, ConnError> {
        let close = !self.keep_alive || !self.body_done();
        let mut out = Vec::with_capacity(1024);
        let reason = reason(response.status);
        write!(out, "HTTP/1.1 {} {reason}\r\n", response.status)?;
        for (name, value) in &response.headers {
            write!(out, "{name}: {value}\r\n")?;
        }
        for (name, value) in &response.metadata {
            write!(out, "{name}: {value}\r\n")?;
        }
        if !response.is_without_content() {
            write!(out, "Content-Length: {}\r\n", response.content.length())?;
        }
        if close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only && !response.is_without_content() {
            match response.content {
                Content::Bytes(bytes) if options.is_plain() && bytes.len() <= READ_SIZE => {
                    out.extend_from_slice(&bytes)
                }
                content => {
                    self.socket.write(&out).await?;
                    out.clear();
                    if self.stream(content, options).await? {
                        return Ok(AfterRequest::Reset);
                    }
                }
            }
        }
        self.socket.write(&out).await?;
        if options.cut_after.is_some() {
            return Ok(AfterRequest::Reset);
        }
        Ok(if close { AfterRequest::Close } else { AfterRequest::KeepAlive })
    }

    /// Writes a body in steps; returns whether `cut_after` cut it short.
    async fn stream(
        &mut self,
        mut content: Content,
        options: SendOptions,
    ) -> Result<bool, ConnError> {
        let step = options.bytes_per_second.map_or(READ_SIZE, step) as u64;
        let mut left = content.length().min(options.cut_after.unwrap_or(u64::MAX));
        let cut = left < content.length();
        let mut block = vec![0; READ_SIZE];
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
            match options.bytes_per_second {
                Some(rate) => pause(length, rate).await,
                // The file is read with blocking calls: other connections must run in between.
                None => tokio::task::yield_now().await,
            }
        }
        Ok(cut)
    }

    /// Sends bytes unchanged; they need not be HTTP.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), ConnError> {
        Ok(self.socket.write(bytes).await?)
    }

    /// Reads the rest of the body and discards it, so that the client can read an early response.
    pub async fn discard_body(&mut self) {
        while let Ok(Ok(Some(_))) = tokio::time::timeout(DISCARD_TIMEOUT, self.next_bytes()).await {
        }
    }

    /// Makes the next response the connection's last one.
    pub fn disable_keep_alive(&mut self) {
        self.keep_alive = false;
    }

    /// Waits, without reading, until the peer has closed the connection. The close is not noticed while the peer has
    /// more unsent bytes than fit in the socket's buffers: its FIN comes after them.
    pub async fn wait_for_close(&self) {
        loop {
            match self.socket.tcp().ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => {}
                _ => return,
            }
            // Unread bytes keep the socket readable, so there is no event for the close that follows them.
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

impl SendOptions {
    fn is_plain(self) -> bool {
        self.bytes_per_second.is_none() && self.cut_after.is_none()
    }
}

/// The bytes of one step: there are 20 steps a second, so that a slow transfer is also a steady one.
fn step(rate: u64) -> usize {
    (rate / 20).clamp(1, READ_SIZE as u64) as usize
}

async fn pause(bytes: usize, rate: u64) {
    tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)).await;
}

/// The first future's output, or `None` if the second one completes before it.
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
