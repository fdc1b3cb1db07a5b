//! One request and its response over a connection. The bytes that are ready are sent in one write, together with the
//! request's head, and an early response is read while there is still something to send.
//!
//! No client library does both, and they pass each request from one task or queue to another (`benches/runs/NOTES.md`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::Connection;
use super::response::{HeaderVisitor, Response, ResponseError};
use super::write_queue::{SEGMENTS, WriteQueue};

/// The head of a request for `target`, a path with its query. `length` is that of the body in bytes; `None` for a method
/// that has no body. The texts must be parts of a parsed URL, constants, or checked by the caller: a line break in them
/// would end the line.
pub fn head(
    method: &str,
    target: &str,
    authority: &str,
    fields: &[(&str, &str)],
    length: Option<u64>,
) -> String {
    head_with_room(method, target, authority, fields, length, 0)
}

/// A whole request with a body that is in memory; the rest as for [`head`].
pub fn request(
    method: &str,
    target: &str,
    authority: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Bytes {
    let length = Some(body.len() as u64);
    let head = head_with_room(method, target, authority, fields, length, body.len());
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    request.into()
}

/// A head with room for so many bytes behind it.
fn head_with_room(
    method: &str,
    target: &str,
    authority: &str,
    fields: &[(&str, &str)],
    length: Option<u64>,
    room: usize,
) -> String {
    let fields_length: usize =
        fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let capacity = HEAD_OVERHEAD + method.len() + target.len() + authority.len() + fields_length;
    let mut head = String::with_capacity(capacity + room);
    head.extend([method, " ", target, " HTTP/1.1\r\nHost: ", authority, "\r\n"]);
    for (name, value) in fields {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if let Some(length) = length {
        head.extend(["Content-Length: ", itoa::Buffer::new().format(length), "\r\n"]);
    }
    head.push_str("\r\n");
    head
}

/// Bytes of a head without its texts: the separators, and a Content-Length of 20 digits.
const HEAD_OVERHEAD: usize = 64;

/// Gives the body of a request.
pub trait BodySource {
    /// Appends the bytes that are ready to `queue`, which need not be empty; pending only if there are none.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut WriteQueue,
    ) -> Poll<Result<Fill, Aborted>>;

    /// A response has arrived: the rest of the body is not sent.
    fn stop(&mut self);
}

/// Whether more of the body follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    More,
    Last,
}

/// The request cannot be completed; its [`BodySource`] knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted;

/// No body, or one that was passed together with the head.
impl BodySource for () {
    fn poll_fill(
        &mut self,
        _: &mut Context<'_>,
        _: &mut WriteQueue,
    ) -> Poll<Result<Fill, Aborted>> {
        Poll::Ready(Ok(Fill::Last))
    }

    fn stop(&mut self) {}
}

/// A request that is being sent, or its response being received.
pub struct Exchange<'c, B, V> {
    connection: &'c mut Connection,
    body: B,
    visitor: V,
    queue: WriteQueue,
    sending: Sending,
    /// When the first bytes of the response were received.
    response_began: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Fill,
    Write(Fill),
    Sent,
    /// A response arrived before all was sent.
    Stopped,
}

/// Why an exchange failed.
#[derive(Debug, PartialEq, Eq)]
pub enum ExchangeError {
    Aborted,
    Failed(ResponseError),
}

impl<'c, B: BodySource, V: HeaderVisitor> Exchange<'c, B, V> {
    /// An exchange for a request that begins with `head`; `visitor` is given the response's headers.
    pub fn new(
        connection: &'c mut Connection,
        head: impl Into<Bytes>,
        body: B,
        visitor: V,
    ) -> Self {
        let mut queue = WriteQueue::default();
        queue.push(head.into());
        Self { connection, body, visitor, queue, sending: Sending::Fill, response_began: None }
    }

    /// For a HEAD request: its response has no body, whatever its headers announce.
    pub fn without_response_body(self) -> Self {
        self.connection.parser.expect_no_body();
        self
    }

    /// Whether the whole request was sent.
    pub fn is_sent(&self) -> bool {
        self.sending == Sending::Sent
    }

    /// The visitor that was given the response's headers.
    pub fn into_visitor(self) -> V {
        self.visitor
    }

    /// When the kernel last took bytes of the connection.
    pub fn last_written(&self) -> Instant {
        self.connection.progress.last_written()
    }

    /// When the first bytes were received of a response that is not complete, whether or not the request is sent.
    /// Complete interim responses do not count.
    pub fn response_began(&self) -> Option<Instant> {
        self.response_began
    }

    /// The response's status, once its head was received.
    pub fn status(&self) -> Option<u16> {
        self.connection.parser.status()
    }

    /// The response, read to its end. The connection can be used again if the response says so and is a success: after
    /// a refusal the peer may close it, whatever it says.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, ExchangeError>> {
        match self.poll_send(cx) {
            Poll::Ready(Err(SendError::Aborted)) => {
                return Poll::Ready(Err(ExchangeError::Aborted));
            }
            Poll::Ready(Err(SendError::Io(error))) => {
                return Poll::Ready(Err(ExchangeError::Failed(ResponseError::NoResponse(
                    error.to_string(),
                ))));
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        let had_head = self.connection.parser.has_head();
        let polled = self.poll_receive(cx);
        if !had_head && self.connection.parser.has_head() {
            if self.sending != Sending::Sent {
                self.sending = Sending::Stopped;
            }
            self.body.stop();
        }
        let response = ready!(polled).map_err(ExchangeError::Failed)?;
        self.connection.reusable =
            response.is_success() && self.is_sent() && self.connection.parser.is_reusable();
        Poll::Ready(Ok(response))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            match self.sending {
                Sending::Fill => {
                    let filled = ready!(self.body.poll_fill(cx, &mut self.queue));
                    self.sending = Sending::Write(filled.map_err(|Aborted| SendError::Aborted)?);
                }
                Sending::Write(fill) => {
                    ready!(self.poll_write(cx))?;
                    self.sending = match fill {
                        Fill::More => Sending::Fill,
                        Fill::Last => Sending::Sent,
                    };
                }
                Sending::Sent | Sending::Stopped => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(&mut self.connection.stream);
        while self.queue.has_remaining() {
            let mut slices = [IoSlice::new(&[]); SEGMENTS];
            let used = self.queue.chunks_vectored(&mut slices);
            match ready!(stream.as_mut().poll_write_vectored(cx, &slices[..used]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.queue.advance(written),
            }
        }
        stream.poll_flush(cx)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, ResponseError>> {
        loop {
            let read = ready!(self.connection.poll_read(cx));
            let parser = &mut self.connection.parser;
            match read {
                Ok(0) => return Poll::Ready(parser.end(None)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(parser.end(Some(error.to_string()))),
            }
            if let Some(response) = parser.advance(&mut self.visitor)? {
                return Poll::Ready(Ok(response));
            }
            match parser.has_begun() {
                true => drop(self.response_began.get_or_insert_with(Instant::now)),
                false => self.response_began = None,
            }
        }
    }
}

enum SendError {
    Aborted,
    Io(io::Error),
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
