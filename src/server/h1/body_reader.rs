//! A client connection that actix-http reads heads from, and handlers read bodies from.
//!
//! actix-http reads ahead: up to 128 KiB into its own buffer while up to as much again waits in the payload, and a slow
//! COS makes every upload pin all of it (measured: 0.66 MiB each). It reads a body in pieces that grow from 8 KiB, with an
//! allocation and a copy for each growth. Once it has decoded a second request, it writes the response to the first one
//! as if to the second. So it is given one head at a time ([`head_scan`]), with the framing of the body masked, and the
//! next one only when the response has left its buffer. The handler reads the body from the socket, into pooled buffers.
//!
//! ```text
//!   Head ──a head, its response in progress──▶ Body ──its last byte──▶ Head
//!     └─────────── h2, a closed socket, an abandoned body ───────────▶ Passthrough, Closed
//! ```

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::chunked::{Chunked, Step};
use super::head_scan::{self, BodyFraming, HeadError, MAX_HEAD};
use crate::memory::buffer_pool::{self, Buffer};
use crate::net::write_batch;

/// What is read with a head: all that a small buffer holds where several upload, in one go; otherwise this much, and the
/// rest while the link is on its way.
const FIRST_READ: usize = 8 * 1024;
/// From a head's first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For the first byte of a connection.
const FIRST_BYTE_TIMEOUT: Duration = HEAD_TIMEOUT;
/// What a client sends behind its last response is read for so long.
const LINGER: Duration = Duration::from_secs(1);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a connection's next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadState {
    /// A request's head.
    Head,
    /// The body of the request in progress.
    Body(Remaining),
    /// h2: actix-http reads for itself.
    Passthrough,
    /// Nothing that will be read as a request: the client is gone, a body broke off, or its rest is not wanted.
    Closed,
}

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remaining {
    /// Bytes, at least one.
    Length(u64),
    Chunked(Chunked),
    /// Behind a refused head no byte can be told from another: everything is read and discarded.
    UntilClosed,
}

/// A request that actix-http was given.
#[derive(Debug, Default)]
pub struct Started {
    /// How its body is framed.
    pub body: BodyFraming,
    /// The client asks for the connection's end behind the response.
    pub closes: bool,
    /// Why the request cannot be served, if the head that actix-http was given stands in for a refused one.
    pub refused: Option<HeadError>,
}

/// A client's socket, TLS included.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// One connection's reading.
pub struct ConnReader<S: ?Sized> {
    state: Cell<ReadState>,
    /// What actix-http is to be given, and has not taken yet.
    head_for_actix: RefCell<Bytes>,
    /// Bytes behind that.
    read_ahead: RefCell<Bytes>,
    /// How much of `read_ahead` holds no end of a head.
    scanned: Cell<usize>,
    /// The request given last.
    started: RefCell<Option<Started>>,
    /// That request is not answered yet.
    in_progress: Cell<bool>,
    /// Bytes of its response may be in actix-http's buffer.
    unflushed: Cell<bool>,
    /// What is left to write of an interim response that the body's first read asks for.
    interim: Cell<&'static [u8]>,
    /// The dispatcher's task, while there is nothing for it to read.
    waker: RefCell<Option<Waker>>,
    /// When a head must be here, or a connection's first byte; between requests actix-http keeps the time.
    deadline: Cell<Option<Instant>>,
    timer: RefCell<Option<Pin<Box<Sleep>>>>,
    linger: RefCell<Option<Pin<Box<Sleep>>>>,
    stream: RefCell<S>,
}

/// Reads the bodies of one connection.
pub type BodyReader = ConnReader<dyn Socket>;

/// Between a request's start and the last byte of its response; the connection's next request waits for the end.
pub struct ResponseInProgress(Rc<BodyReader>);

impl ResponseInProgress {
    /// The request that has just started on the connection.
    pub fn new(reader: Rc<BodyReader>) -> Self {
        Self(reader)
    }
}

impl Drop for ResponseInProgress {
    fn drop(&mut self) {
        // The response is encoded; the flush behind it lets the next request in.
        self.0.in_progress.set(false);
        self.0.unflushed.set(true);
    }
}

impl BodyReader {
    /// The request that actix-http was given last; each is told of once.
    pub fn started(&self) -> Started {
        self.started.take().unwrap_or_default()
    }

    /// The rest of the body will not be read: the connection ends.
    pub fn close(&self) {
        self.state.set(ReadState::Closed);
        self.wake();
    }

    /// Bytes left of a body whose length is known.
    pub fn known_rest(&self) -> Option<u64> {
        match self.state.get() {
            ReadState::Body(Remaining::Length(left)) => Some(left),
            ReadState::Body(_) => None,
            ReadState::Head | ReadState::Passthrough | ReadState::Closed => Some(0),
        }
    }

    /// Whether a body broke off, and the connection with it.
    pub fn is_closed(&self) -> bool {
        self.state.get() == ReadState::Closed
    }

    /// Reads on in the body; `None` at its end. Chunks are never empty: an early end is an error.
    pub fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            let ReadState::Body(remaining) = self.state.get() else {
                return Poll::Ready(None);
            };
            let mut ahead = self.read_ahead.borrow_mut();
            if ahead.is_empty() {
                match ready!(self.poll_more(cx, remaining)) {
                    Ok(bytes) => *ahead = bytes,
                    Err(error) => {
                        self.state.set(ReadState::Closed);
                        let is_end = remaining == Remaining::UntilClosed;
                        return Poll::Ready(if is_end { None } else { Some(Err(error)) });
                    }
                }
            }
            let (bytes, state) = match remaining {
                Remaining::Length(left) => {
                    let bytes = take(&mut ahead, left);
                    let state = match left - bytes.len() as u64 {
                        0 => ReadState::Head,
                        left => ReadState::Body(Remaining::Length(left)),
                    };
                    (Some(bytes), state)
                }
                Remaining::UntilClosed => (Some(std::mem::take(&mut *ahead)), self.state.get()),
                Remaining::Chunked(mut chunked) => match chunked.step(&mut ahead) {
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
                unpin(&mut ahead);
                // A client that goes away is seen by reading on.
                self.wake();
            }
            return Poll::Ready(bytes.map(Ok));
        }
    }

    /// The body's next bytes; its end is an error.
    fn poll_more(&self, cx: &mut Context<'_>, remaining: Remaining) -> Poll<io::Result<Bytes>> {
        while !self.interim.get().is_empty() {
            ready!(self.poll_interim(cx))?;
        }
        let buffer = Buffer::take(match remaining {
            Remaining::Length(left) => left,
            // A guess: most are small.
            Remaining::Chunked(_) => u64::from(u16::MAX),
            Remaining::UntilClosed => 0,
        });
        self.poll_read(cx, buffer, usize::MAX).map(|read| match read {
            Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            read => read,
        })
    }
}

/// Lets go of the pooled buffer that `bytes` are in: what waits for a client would pin it for as long as that one likes.
fn unpin(bytes: &mut Bytes) {
    if !bytes.is_empty() && buffer_pool::pooled_capacity_of(bytes).is_some() {
        *bytes = Bytes::copy_from_slice(bytes);
    }
}

/// The first `most` of `bytes`.
fn take(bytes: &mut Bytes, most: u64) -> Bytes {
    bytes.split_to(bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX)))
}

impl<S: Socket + ?Sized> ConnReader<S> {
    /// Whether the client waits for `100 Continue`: it is sent when the body is first read.
    pub fn awaits_continue(&self) -> bool {
        self.interim.get().len() == CONTINUE.len()
    }

    /// The final response comes instead of `100 Continue`.
    pub fn skip_continue(&self) {
        if self.awaits_continue() {
            self.interim.set(b"");
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// There is nothing for actix-http to read; its task is woken when there is.
    fn wait<T>(&self, cx: &Context<'_>) -> Poll<T> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Reads as much as there is and the buffer holds, `most` bytes at most; nothing at the end.
    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        mut buffer: Buffer,
        most: usize,
    ) -> Poll<io::Result<Bytes>> {
        let mut stream = self.stream.borrow_mut();
        let mut unfilled = buffer.unfilled(most);
        // TLS gives one record at a time; a socket that gave less than it was asked for is not asked again.
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
        // Whatever comes behind what was read will be told again.
        match unfilled.filled().len() {
            0 => last.map_ok(|()| Bytes::new()),
            filled => Poll::Ready(Ok(buffer.freeze(filled))),
        }
    }

    /// Writes on in the interim response. Nothing else is being written: the response before it is flushed, and the one
    /// to come takes over what is left ([`ReaderIo::poll_write`]).
    fn poll_interim(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream.borrow_mut();
        let rest = self.interim.get();
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
        self.interim.set(&rest[written..]);
        if written == rest.len() {
            return Pin::new(&mut *stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// What the bytes read ahead begin with.
    fn next(&self, ahead: &Bytes) -> Next {
        if head_scan::is_other_protocol(ahead) {
            return Next::OtherProtocol;
        }
        match head_scan::find_end(ahead, self.scanned.get()) {
            Some(end) if end > MAX_HEAD => Next::Refused(HeadError::TooLong),
            Some(end) => Next::Head(end),
            None if ahead.len() >= MAX_HEAD => Next::Refused(HeadError::TooLong),
            None if !ahead.is_empty() && !head_scan::may_be_http(ahead) => {
                Next::Refused(HeadError::NotHttp)
            }
            None => Next::Partial,
        }
    }

    /// Reads a request's head and makes it the next one, once the response before it is out. Until then it reads, too, as
    /// long as nothing comes: that is how a client's end is seen. Ready with nothing to give: the connection ends.
    fn poll_head(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_busy = self.in_progress.get() || self.unflushed.get();
        loop {
            let mut ahead = self.read_ahead.borrow_mut();
            if self.scanned.get() == 0 {
                let line_breaks = head_scan::leading_line_breaks(&ahead);
                ahead.advance(line_breaks);
                if !ahead.is_empty() {
                    // A head's time runs from its first bytes.
                    self.deadline.set(None);
                }
            }
            let next = self.next(&ahead);
            if is_busy && next != Next::Partial {
                unpin(&mut ahead);
                return self.wait(cx);
            }
            match next {
                Next::Head(end) => {
                    let head = take(&mut ahead, end as u64);
                    self.begin(head_scan::read(&head), head, ahead.is_empty());
                    return Poll::Ready(Ok(()));
                }
                Next::Refused(error) => {
                    self.begin(Err(error), std::mem::take(&mut *ahead), true);
                    return Poll::Ready(Ok(()));
                }
                Next::OtherProtocol => {
                    self.state.set(ReadState::Closed);
                    return Poll::Ready(Ok(()));
                }
                Next::Partial => self.scanned.set(head_scan::scanned(&ahead)),
            }
            let most = if write_batch::batching_enabled() { usize::MAX } else { FIRST_READ };
            let Poll::Ready(more) = self.poll_read(cx, Buffer::take(0), most)? else {
                unpin(&mut ahead);
                if is_busy {
                    // The time for the rest of a head begins when it may be served.
                    return if ahead.is_empty() { Poll::Pending } else { self.wait(cx) };
                }
                ready!(self.poll_deadline(cx, !ahead.is_empty()));
                if ahead.is_empty() {
                    self.state.set(ReadState::Closed);
                } else {
                    let error = HeadError::TimedOut(HEAD_TIMEOUT.as_secs());
                    self.begin(Err(error), std::mem::take(&mut *ahead), true);
                }
                return Poll::Ready(Ok(()));
            };
            if more.is_empty() {
                self.state.set(ReadState::Closed);
                return Poll::Ready(Ok(()));
            }
            *ahead = if ahead.is_empty() { more } else { [&ahead[..], &more].concat().into() };
        }
    }

    /// Whether the time for a head, or for a connection's first byte, is over. The timer is moved only when it fires too
    /// early.
    fn poll_deadline(&self, cx: &mut Context<'_>, has_begun: bool) -> Poll<()> {
        let end = match self.deadline.get() {
            Some(end) => end,
            None if has_begun => Instant::now() + HEAD_TIMEOUT,
            None => return Poll::Pending,
        };
        self.deadline.set(Some(end));
        let mut timer = self.timer.borrow_mut();
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() > end {
            timer.as_mut().reset(end);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
    }

    /// Makes a head the next that actix-http reads. `is_all`: no byte has come behind it.
    fn begin(&self, read: Result<head_scan::Head, HeadError>, head: Bytes, is_all: bool) {
        self.scanned.set(0);
        self.deadline.set(None);
        self.in_progress.set(true);
        let (head, body, closes, refused) = match read {
            Ok(read) => {
                // A client that has sent some of the body does not wait.
                self.interim.set(if read.expects_continue && is_all { CONTINUE } else { b"" });
                (read.rewritten.map_or(head, Bytes::from), read.body, read.closes, None)
            }
            Err(error) => (head_scan::stand_in(&head).into(), BodyFraming::None, true, Some(error)),
        };
        self.state.set(match body {
            _ if refused.is_some() => ReadState::Body(Remaining::UntilClosed),
            BodyFraming::Length(length @ 1..) => ReadState::Body(Remaining::Length(length)),
            BodyFraming::Chunked => ReadState::Body(Remaining::Chunked(Chunked::new())),
            BodyFraming::None | BodyFraming::Length(0) => ReadState::Head,
        });
        self.head_for_actix.replace(head);
        self.started.replace(Some(Started { body, closes, refused }));
    }
}

/// What is next on a connection.
#[derive(PartialEq)]
enum Next {
    /// A whole head of so many bytes.
    Head(usize),
    Refused(HeadError),
    /// Nothing that can be answered.
    OtherProtocol,
    /// More bytes will tell.
    Partial,
}

/// What actix-http reads and writes instead of the socket.
pub struct ReaderIo<S>(Rc<ConnReader<S>>);

impl<S: Socket + 'static> ReaderIo<S> {
    /// For HTTP/1, where one request follows another.
    pub fn http1(stream: S) -> Self {
        let reader = Self::with(stream, ReadState::Head);
        reader.0.deadline.set(Some(Instant::now() + FIRST_BYTE_TIMEOUT));
        reader
    }

    /// For h2, whose streams have windows of their own.
    pub fn passthrough(stream: S) -> Self {
        Self::with(stream, ReadState::Passthrough)
    }

    fn with(stream: S, state: ReadState) -> Self {
        Self(Rc::new(ConnReader {
            state: Cell::new(state),
            head_for_actix: RefCell::default(),
            read_ahead: RefCell::default(),
            scanned: Cell::default(),
            started: RefCell::default(),
            in_progress: Cell::default(),
            unflushed: Cell::default(),
            interim: Cell::default(),
            waker: RefCell::default(),
            deadline: Cell::default(),
            timer: RefCell::default(),
            linger: RefCell::default(),
            stream: RefCell::new(stream),
        }))
    }

    /// What reads the connection's bodies.
    pub fn reader(&self) -> Rc<BodyReader> {
        self.0.clone()
    }
}

impl<S: Socket> AsyncRead for ReaderIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let reader = &self.0;
        if reader.head_for_actix.borrow().is_empty() {
            match reader.state.get() {
                ReadState::Head => ready!(reader.poll_head(cx))?,
                ReadState::Body(_) => return reader.wait(cx),
                ReadState::Passthrough => {
                    return Pin::new(&mut *reader.stream.borrow_mut()).poll_read(cx, buffer);
                }
                // actix-http takes it for the connection's end, and ends it.
                ReadState::Closed => return Poll::Ready(Ok(())),
            }
        }
        let now = take(&mut reader.head_for_actix.borrow_mut(), buffer.remaining() as u64);
        buffer.put_slice(&now);
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> AsyncWrite for ReaderIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let reader = &self.0;
        reader.skip_continue();
        while !reader.interim.get().is_empty() {
            ready!(reader.poll_interim(cx))?;
        }
        Pin::new(&mut *reader.stream.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write_vectored(cx, slices)
    }

    /// h2 writes in slices, and HTTP/1, whose writes go past an interim response, in one piece.
    fn is_write_vectored(&self) -> bool {
        self.0.state.get() == ReadState::Passthrough && self.0.stream.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let reader = &self.0;
        ready!(Pin::new(&mut *reader.stream.borrow_mut()).poll_flush(cx))?;
        // actix-http flushes when its own buffer is empty.
        if reader.unflushed.replace(false) {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }

    /// What still comes is read and discarded for a while, be it the rest of a body, or of a pipeline behind the last
    /// response: a reset would take that from the client (RFC 9112, 9.6).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let reader = &self.0;
        ready!(Pin::new(&mut *reader.stream.borrow_mut()).poll_shutdown(cx))?;
        if reader.state.get() == ReadState::Passthrough {
            return Poll::Ready(Ok(()));
        }
        while let Poll::Ready(read) = reader.poll_read(cx, Buffer::take(0), usize::MAX) {
            if read.map_or(true, |bytes| bytes.is_empty()) {
                return Poll::Ready(Ok(()));
            }
        }
        let mut linger = reader.linger.borrow_mut();
        linger.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(cx).map(Ok)
    }
}
