//! The server side of HTTP/1.1 on one socket: heads, bodies by length or chunks, keep-alive, replies, resets.
//! Strict where a lenient server would hide a fault of the sender. Knows neither WeChat nor COS.

use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

const HEAD_MAX: usize = 64 * 1024;
const READ: usize = 64 * 1024;
/// How long a connection that was answered early may stay silent before it is dropped.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the sender closed in the middle of a message")]
    Closed,
    #[error("{0}")]
    BadRequest(&'static str),
}

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

pub struct Head {
    pub method: String,
    /// Percent-decoded; starts with `/`.
    pub path: String,
    pub query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    pub length: Option<u64>,
    pub chunked: bool,
    keep_alive: bool,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

pub enum Content {
    Bytes(Bytes),
    File(File, u64),
}

impl Content {
    fn length(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(_, length) => *length,
        }
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub content: Content,
}

impl Reply {
    pub fn new(status: u16, content_type: &str, content: impl Into<Bytes>) -> Reply {
        Reply {
            status,
            headers: vec![("Content-Type", content_type.to_owned())],
            content: Content::Bytes(content.into()),
        }
    }

    pub fn json(value: &serde_json::Value) -> Reply {
        Reply::new(200, "application/json; charset=UTF-8", value.to_string())
    }

    pub fn text(status: u16, text: impl Into<String>) -> Reply {
        Reply::new(status, "text/plain; charset=utf-8", text.into())
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

    pub async fn send(&mut self, reply: Reply) -> Result<Flow, Broken> {
        self.deliver(reply, Delivery::default()).await
    }

    /// Sends a reply. Before the request's body has ended it says `Connection: close`, and the caller drains.
    pub async fn deliver(&mut self, reply: Reply, how: Delivery) -> Result<Flow, Broken> {
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

fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Broken> {
    // httparse skips empty lines here; from us they would be bytes beyond the last request's length.
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(Broken::BadRequest("bytes beyond the request's length"));
    }
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Broken::BadRequest("not an HTTP request")),
    };
    if request.version != Some(1) {
        return Err(Broken::BadRequest("HTTP/1.1 only"));
    }
    let mut fields = Vec::with_capacity(request.headers.len());
    for header in request.headers.iter() {
        let value = std::str::from_utf8(header.value)
            .map_err(|_| Broken::BadRequest("a header that is not UTF-8"))?;
        fields.push((header.name.to_owned(), value.trim().to_owned()));
    }
    let (path, query) = target(request.path.unwrap_or_default())?;
    let (length_field, chunked) = framing(&fields)?;
    let closes = fields.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("connection")
            && value.split(',').any(|v| v.trim().eq_ignore_ascii_case("close"))
    });
    let head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path,
        query,
        headers: fields,
        length: length_field,
        chunked,
        keep_alive: !closes,
    };
    Ok(Some((head, length)))
}

type Pairs = Vec<(String, String)>;

fn target(target: &str) -> Result<(String, Pairs), Broken> {
    let wrong = || Broken::BadRequest("a wrong request target");
    if !target.starts_with('/') {
        return Err(wrong());
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = percent_decode_str(path).decode_utf8().map_err(|_| wrong())?;
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| wrong())
        };
        pairs.push((decode(name)?, decode(value)?));
    }
    Ok((path.into_owned(), pairs))
}

/// The body's length and whether it is chunked; a request that leaves room for two readings is refused.
fn framing(headers: &[(String, String)]) -> Result<(Option<u64>, bool), Broken> {
    let all = |wanted: &str| -> Vec<&str> {
        let found = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.as_str()).collect()
    };
    if all("host").len() != 1 {
        return Err(Broken::BadRequest("a request needs one Host"));
    }
    let chunked = match all("transfer-encoding")[..] {
        [] => false,
        [coding] if coding.eq_ignore_ascii_case("chunked") => true,
        _ => return Err(Broken::BadRequest("an unknown Transfer-Encoding")),
    };
    let length = match all("content-length")[..] {
        [] => None,
        [digits] if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let length = digits.parse();
            Some(length.map_err(|_| Broken::BadRequest("a Content-Length beyond all bounds"))?)
        }
        _ => return Err(Broken::BadRequest("a wrong Content-Length")),
    };
    if chunked && length.is_some() {
        return Err(Broken::BadRequest("Content-Length and Transfer-Encoding together"));
    }
    Ok((length, chunked))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        302 => "Found",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
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
