//! One request and its reply over a connection. What is at hand goes out in one write, the request's head with it, and a
//! reply that comes early is heard while there is still something to send.
//!
//! No client of the libraries does both, and they hand each request from one task or queue to another
//! (`benches/runs/NOTES.md`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::Connection;
use super::response::{HeaderVisitor, Response, ResponseError};
use super::write_queue::{RUNS, WriteQueue};

/// The head of a request with a body of `length` bytes. What it names must be of a URL that was parsed, or our own: a line
/// break would end its line.
pub fn head(path: &str, authority: &str, content_type: &str, length: u64) -> String {
    let pieces = [
        "POST ",
        path,
        " HTTP/1.1\r\nHost: ",
        authority,
        "\r\nContent-Type: ",
        content_type,
        "\r\nContent-Length: ",
        &length.to_string(),
        "\r\n\r\n",
    ];
    pieces.concat()
}

/// The rest of a request, behind its head.
pub trait BodySource {
    /// Puts what is at hand into `queue`, which may hold something already; pending only while it batched nothing.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut WriteQueue,
    ) -> Poll<Result<Fill, Aborted>>;

    /// A reply has come: whatever was not sent is not sent any more.
    fn stop(&mut self);
}

/// Whether more is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    More,
    Last,
}

/// The request cannot be completed; whoever was to fill it knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted;

/// For a request that is whole from the start.
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

/// An exchange under way.
pub struct Exchange<'c, O, H> {
    connection: &'c mut Connection,
    outflow: O,
    headers: H,
    queue: WriteQueue,
    sending: Sending,
    /// Since when a reply is under way.
    began: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Fill,
    Write(Fill),
    Sent,
    /// A reply came first.
    Stopped,
}

/// How an exchange failed.
#[derive(Debug, PartialEq, Eq)]
pub enum ExchangeError {
    Aborted,
    Failed(ResponseError),
}

impl<'c, O: BodySource, H: HeaderVisitor> Exchange<'c, O, H> {
    /// Of a request that begins with `head`, where `headers` is shown those of the reply.
    pub fn new(
        connection: &'c mut Connection,
        head: impl Into<Bytes>,
        outflow: O,
        headers: H,
    ) -> Self {
        let mut queue = WriteQueue::default();
        queue.push(head.into());
        Self { connection, outflow, headers, queue, sending: Sending::Fill, began: None }
    }

    /// Whether the whole request was sent.
    pub fn is_sent(&self) -> bool {
        self.sending == Sending::Sent
    }

    /// Whoever was shown the reply's headers.
    pub fn into_headers(self) -> H {
        self.headers
    }

    /// When the kernel last took bytes from us.
    pub fn written(&self) -> Instant {
        self.connection.progress.written()
    }

    /// Since when a part of a reply is there whose end is not, whether or not the request is sent. Whole interim
    /// responses do not count.
    pub fn reply_began(&self) -> Option<Instant> {
        self.began
    }

    /// The reply's status, once its head has come.
    pub fn status(&self) -> Option<u16> {
        self.connection.parser.status()
    }

    /// The reply, read to its end. The connection can be kept if it says so, and if it is a success: after a refusal the
    /// other side may close it, whatever it says.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, ExchangeError>> {
        match self.poll_send(cx) {
            Poll::Ready(Err(SendError::Aborted)) => {
                return Poll::Ready(Err(ExchangeError::Aborted));
            }
            Poll::Ready(Err(SendError::Io(error))) => {
                return Poll::Ready(Err(ExchangeError::Failed(ResponseError::Unanswered(
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
            self.outflow.stop();
        }
        let reply = ready!(polled).map_err(ExchangeError::Failed)?;
        self.connection.keeps =
            reply.is_success() && self.is_sent() && self.connection.parser.keeps();
        Poll::Ready(Ok(reply))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            match self.sending {
                Sending::Fill => {
                    let filled = ready!(self.outflow.poll_fill(cx, &mut self.queue));
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
            let mut slices = [IoSlice::new(&[]); RUNS];
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
            if let Some(reply) = parser.advance(&mut self.headers)? {
                return Poll::Ready(Ok(reply));
            }
            match parser.has_begun() {
                true => drop(self.began.get_or_insert_with(Instant::now)),
                false => self.began = None,
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
