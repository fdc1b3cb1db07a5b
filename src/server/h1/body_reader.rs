//! A connection's read state, and the bodies that handlers read from it.
//!
//! actix-http reads ahead: up to 128 KiB into its own buffer while as much again is queued in the payload, and a slow
//! COS makes every upload pin all of it (measured: 0.66 MiB each). It reads a body in chunks that grow from 8 KiB, with
//! an allocation and a copy for each growth. Once it has decoded a second request, it writes the response to the first
//! one as if to the second. So it is given one head at a time ([`reader_io`](super::reader_io)), with the framing of
//! the body masked, and the next head only when the response has left its buffer. The handler reads the body from the
//! socket, into pooled buffers.
//!
//! ```text
//!   Head ──a head, its response in progress──▶ Body ──its last byte──▶ Head
//!   Head, Body ──a closed socket, a body whose rest is not read──▶ Closed
//! ```

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::chunked::{Chunked, Step};
use super::head_error::HeadError;
use super::head_parse::BodyFraming;
use crate::memory::buffer_pool::{self, Buffer};
use crate::net::deadline::DeadlineTimer;

/// The interim response that a client asks for with `Expect: 100-continue`.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a connection's next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadState {
    /// A request's head.
    Head,
    /// The body of the request in progress.
    Body(Remaining),
    /// Nothing more is read as a request: the client is gone, a body broke off, or the rest of a body is not wanted.
    Closed,
}

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remaining {
    /// Bytes, at least one.
    Length(u64),
    Chunked(Chunked),
    /// After a refused head it is not known where a body ends: everything is read and discarded.
    UntilClosed,
}

/// The request whose head actix-http was given last.
#[derive(Debug, Default)]
pub struct StartedRequest {
    /// How its body is framed.
    pub body: BodyFraming,
    /// The client asks for the connection to be closed after the response.
    pub connection_close: bool,
    /// Why the request is refused, if the head that actix-http was given is a stand-in.
    pub refused: Option<HeadError>,
}

/// A client's socket, TLS included.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// How far one connection is read.
pub struct ConnReader<S: ?Sized> {
    pub(super) state: Cell<ReadState>,
    /// The head that actix-http is to read, as far as it has not read it yet.
    pub(super) head_for_actix: RefCell<Bytes>,
    /// Bytes received after that head.
    pub(super) read_ahead: RefCell<Bytes>,
    /// Where in `read_ahead` the search for a head's end resumes.
    pub(super) scan_from: Cell<usize>,
    /// The request that was started last, until it is taken.
    pub(super) started: RefCell<Option<StartedRequest>>,
    /// The response to that request is not encoded to its end.
    pub(super) in_progress: Cell<bool>,
    /// Bytes of its response may be in actix-http's buffer.
    pub(super) unflushed: Cell<bool>,
    /// What is left to write of an interim response, which is sent when the body is first read.
    pub(super) interim: Cell<&'static [u8]>,
    /// actix-http's task, while there is nothing for it to read.
    pub(super) waker: RefCell<Option<Waker>>,
    /// By when a head, or a connection's first byte, must be here; between requests actix-http keeps the time.
    pub(super) deadline: Cell<Option<Instant>>,
    pub(super) timer: RefCell<DeadlineTimer>,
    /// Runs once the connection is shut down.
    pub(super) linger_timer: RefCell<Option<Pin<Box<Sleep>>>>,
    /// Bytes that are still discarded then.
    pub(super) linger_limit: Cell<u64>,
    pub(super) stream: RefCell<S>,
}

/// Reads the bodies of one connection.
pub type BodyReader = ConnReader<dyn Socket>;

/// Lasts from a request's start to the last byte of its response. The connection's next request is read only after it.
pub struct ResponseInProgress(Rc<BodyReader>);

impl ResponseInProgress {
    /// For the request that was started last on the connection.
    pub fn new(reader: Rc<BodyReader>) -> Self {
        Self(reader)
    }
}

impl Drop for ResponseInProgress {
    fn drop(&mut self) {
        // The response is encoded; the flush that follows lets the next request in.
        self.0.in_progress.set(false);
        self.0.unflushed.set(true);
    }
}

impl BodyReader {
    /// Takes the request that was started last.
    pub fn started(&self) -> StartedRequest {
        self.started.take().unwrap_or_default()
    }

    /// The rest of the body will not be read: the connection closes.
    pub fn close(&self) {
        self.state.set(ReadState::Closed);
        self.wake();
    }

    /// Once the connection is shut down, `bytes` at most are read and discarded: a client that goes on sending gets a reset.
    pub fn limit_linger(&self, bytes: u64) {
        self.linger_limit.set(bytes);
    }

    /// Bytes left of a body whose length is known.
    pub fn remaining_length(&self) -> Option<u64> {
        match self.state.get() {
            ReadState::Body(Remaining::Length(left)) => Some(left),
            ReadState::Body(_) => None,
            ReadState::Head | ReadState::Closed => Some(0),
        }
    }

    /// Whether a body broke off, and the connection with it.
    pub fn is_closed(&self) -> bool {
        self.state.get() == ReadState::Closed
    }

    /// Reads the body's next chunk, never empty; `None` at the body's end. An early end is an error.
    pub fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            let ReadState::Body(remaining) = self.state.get() else {
                return Poll::Ready(None);
            };
            let mut read_ahead = self.read_ahead.borrow_mut();
            if read_ahead.is_empty() {
                match ready!(self.poll_more(cx, remaining)) {
                    Ok(bytes) => *read_ahead = bytes,
                    Err(error) => {
                        self.state.set(ReadState::Closed);
                        let is_end = remaining == Remaining::UntilClosed;
                        return Poll::Ready(if is_end { None } else { Some(Err(error)) });
                    }
                }
            }
            let (bytes, state) = match remaining {
                Remaining::Length(left) => {
                    let bytes = split_front(&mut read_ahead, left);
                    let state = match left - bytes.len() as u64 {
                        0 => ReadState::Head,
                        left => ReadState::Body(Remaining::Length(left)),
                    };
                    (Some(bytes), state)
                }
                Remaining::UntilClosed => {
                    (Some(std::mem::take(&mut *read_ahead)), self.state.get())
                }
                Remaining::Chunked(mut chunked) => match chunked.step(&mut read_ahead) {
                    Ok(Step::Data(bytes)) => {
                        (Some(bytes), ReadState::Body(Remaining::Chunked(chunked)))
                    }
                    Ok(Step::More) => {
                        self.state.set(ReadState::Body(Remaining::Chunked(chunked)));
                        continue;
                    }
                    Ok(Step::End) => (None, ReadState::Head),
                    Err(error) => {
                        self.state.set(ReadState::Closed);
                        let error = io::Error::new(io::ErrorKind::InvalidData, error);
                        return Poll::Ready(Some(Err(error)));
                    }
                },
            };
            self.state.set(state);
            if state == ReadState::Head {
                copy_out_of_pool(&mut read_ahead);
                // actix-http reads on, and so sees a client that disconnects.
                self.wake();
            }
            return Poll::Ready(bytes.map(Ok));
        }
    }

    /// Reads the body's next bytes; the end of the connection is an error.
    fn poll_more(&self, cx: &mut Context<'_>, remaining: Remaining) -> Poll<io::Result<Bytes>> {
        while !self.interim.get().is_empty() {
            ready!(self.poll_interim(cx))?;
        }
        let buffer = Buffer::take(match remaining {
            Remaining::Length(left) => left,
            // A guess: most bodies are small.
            Remaining::Chunked(_) => u64::from(u16::MAX),
            Remaining::UntilClosed => 0,
        });
        self.poll_read(cx, buffer, usize::MAX).map(|read| match read {
            Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            read => read,
        })
    }
}

/// Moves `bytes` out of a pooled buffer, which they would pin until the client sends more.
pub(super) fn copy_out_of_pool(bytes: &mut Bytes) {
    if !bytes.is_empty() && buffer_pool::pooled_capacity_of(bytes).is_some() {
        *bytes = Bytes::copy_from_slice(bytes);
    }
}

/// Splits off the first bytes, `most` at most.
pub(super) fn split_front(bytes: &mut Bytes, most: u64) -> Bytes {
    bytes.split_to(bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX)))
}

impl<S: Socket + ?Sized> ConnReader<S> {
    /// Whether the client waits for `100 Continue`: it is sent when the body is first read.
    pub fn awaits_continue(&self) -> bool {
        self.interim.get().len() == CONTINUE.len()
    }

    /// The final response is sent instead of `100 Continue`.
    pub fn skip_continue(&self) {
        if self.awaits_continue() {
            self.interim.set(b"");
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Pending, as there is nothing for actix-http to read; its task is woken when there is.
    pub(super) fn wait<T>(&self, cx: &Context<'_>) -> Poll<T> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Reads what has arrived, as much as fits into the buffer and `most` bytes at most; nothing at the connection's
    /// end.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        mut buffer: Buffer,
        most: usize,
    ) -> Poll<io::Result<Bytes>> {
        let mut stream = self.stream.borrow_mut();
        let mut unfilled = buffer.unfilled(most);
        // TLS gives one record at a time. A socket that gave less than it was asked for is not read again.
        let last = loop {
            let filled = unfilled.filled().len();
            match Pin::new(&mut *stream).poll_read(cx, &mut unfilled) {
                Poll::Ready(Ok(())) if unfilled.filled().len() == filled => {
                    break Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) if unfilled.remaining() > 0 => {}
                polled => break polled,
            }
        };
        // An end or error after these bytes is reported again by the next read.
        match unfilled.filled().len() {
            0 => last.map_ok(|()| Bytes::new()),
            filled => Poll::Ready(Ok(buffer.freeze(filled))),
        }
    }

    /// Continues writing the interim response. Nothing else is being written: the response before it is flushed, and
    /// the next response first writes what is left of it ([`ReaderIo::poll_write`](super::reader_io::ReaderIo)).
    pub(super) fn poll_interim(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream.borrow_mut();
        let rest = self.interim.get();
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
        self.interim.set(&rest[written..]);
        if written == rest.len() {
            return Pin::new(&mut *stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }
}
