//! The I/O that actix-http is given instead of the socket: one request's head at a time, within its time limit, the
//! responses, and the lingering close of the connection.
//!
//! Where the connection's [`ConnectionHandle`] says so, it closes at once, or as soon as there is nothing to read.
//!
//! The states of a connection are drawn in [`body_reader`](super::body_reader).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

use super::body_reader::{
    BodyReader, CONTINUE, ConnReader, ReadState, Remaining, Socket, StartedRequest,
    copy_out_of_pool, split_front,
};
use super::chunked::Chunked;
use super::head_error::{HeadError, MAX_HEAD};
use super::head_for_actix::stand_in;
use super::head_parse::{self, BodyFraming};
use super::head_scan;
use crate::memory::buffer_pool::Buffer;
use crate::server::connection_limit::ConnectionHandle;

/// Bytes of the first read of a head; the rest of the body arrives while the upload link is fetched.
const FIRST_READ: usize = 8 * 1024;
/// From a head's first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For the first byte of a connection.
const FIRST_BYTE_TIMEOUT: Duration = HEAD_TIMEOUT;
/// How long bytes that a client sends after the connection's last response are read and discarded, before the socket is
/// closed. The rest of one request's body has `server.lingering_timeout` before that.
const LINGER: Duration = Duration::from_secs(1);

/// What the bytes read ahead begin with.
#[derive(PartialEq)]
enum Next {
    /// A whole head of this length.
    Head(usize),
    Refused(HeadError),
    /// A protocol whose clients could not read a response.
    OtherProtocol,
    /// Too few bytes to tell.
    Partial,
}

impl<S: Socket + ?Sized> ConnReader<S> {
    fn next(&self, read_ahead: &Bytes) -> Next {
        if head_scan::is_other_protocol(read_ahead) {
            return Next::OtherProtocol;
        }
        match head_scan::find_end(read_ahead, self.scan_from.get()) {
            Some(end) if end > MAX_HEAD => Next::Refused(HeadError::TooLong),
            Some(end) => Next::Head(end),
            None if read_ahead.len() >= MAX_HEAD => Next::Refused(HeadError::TooLong),
            None if !read_ahead.is_empty() && !head_scan::may_be_http(read_ahead) => {
                Next::Refused(HeadError::NotHttp)
            }
            None => Next::Partial,
        }
    }

    /// Reads a request's head and starts the request, once the response before it is sent. Before that the socket is
    /// read, too, as long as nothing has arrived, to see a client that disconnects. Ready without a head: the
    /// connection closes.
    fn poll_head(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_busy = self.in_progress.get() || self.unflushed.get();
        loop {
            let mut read_ahead = self.read_ahead.borrow_mut();
            if self.scan_from.get() == 0 {
                let line_breaks = head_scan::leading_line_breaks(&read_ahead);
                read_ahead.advance(line_breaks);
                if !read_ahead.is_empty() {
                    // A head's time runs from its first bytes.
                    self.deadline.set(None);
                }
            }
            let next = self.next(&read_ahead);
            if is_busy && next != Next::Partial {
                copy_out_of_pool(&mut read_ahead);
                return self.wait(cx);
            }
            match next {
                Next::Head(end) => {
                    let head = split_front(&mut read_ahead, end as u64);
                    self.start_request(head_parse::parse(&head), head, read_ahead.is_empty());
                    return Poll::Ready(Ok(()));
                }
                Next::Refused(error) => {
                    self.start_request(Err(error), std::mem::take(&mut *read_ahead), true);
                    return Poll::Ready(Ok(()));
                }
                Next::OtherProtocol => {
                    self.state.set(ReadState::Closed);
                    return Poll::Ready(Ok(()));
                }
                Next::Partial => self.scan_from.set(head_scan::resume_from(&read_ahead)),
            }
            let Poll::Ready(more) = self.poll_read(cx, Buffer::take(0), FIRST_READ)? else {
                copy_out_of_pool(&mut read_ahead);
                if is_busy {
                    // The time for the rest of a head begins when the request may be served.
                    return if read_ahead.is_empty() { Poll::Pending } else { self.wait(cx) };
                }
                ready!(self.poll_deadline(cx, !read_ahead.is_empty()));
                if read_ahead.is_empty() {
                    self.state.set(ReadState::Closed);
                } else {
                    let error = HeadError::TimedOut(HEAD_TIMEOUT.as_secs());
                    self.start_request(Err(error), std::mem::take(&mut *read_ahead), true);
                }
                return Poll::Ready(Ok(()));
            };
            if more.is_empty() {
                self.state.set(ReadState::Closed);
                return Poll::Ready(Ok(()));
            }
            *read_ahead =
                if read_ahead.is_empty() { more } else { [&read_ahead[..], &more].concat().into() };
        }
    }

    /// Ready once the time for a head, or for a connection's first byte, is over.
    fn poll_deadline(&self, cx: &mut Context<'_>, has_begun: bool) -> Poll<()> {
        let deadline = match self.deadline.get() {
            Some(deadline) => deadline,
            None if has_begun => Instant::now() + HEAD_TIMEOUT,
            None => return Poll::Pending,
        };
        self.deadline.set(Some(deadline));
        self.timer.borrow_mut().poll(cx, deadline)
    }

    /// Makes `head`, or what stands in for it, the next that actix-http reads. `is_all`: no byte of the body was
    /// received with it.
    fn start_request(
        &self,
        parsed: Result<head_parse::Head, HeadError>,
        head: Bytes,
        is_all: bool,
    ) {
        self.scan_from.set(0);
        self.deadline.set(None);
        self.in_progress.set(true);
        let (head, body, connection_close, refused) = match parsed {
            Ok(parsed) => {
                // A client that has sent some of the body does not wait for the interim response.
                let interim = if parsed.expects_continue && is_all { CONTINUE } else { b"" };
                self.interim.set(interim);
                let head = parsed.for_actix.map_or(head, Bytes::from);
                (head, parsed.body, parsed.connection_close, None)
            }
            Err(error) => (stand_in(&head).into(), BodyFraming::None, true, Some(error)),
        };
        self.state.set(match body {
            _ if refused.is_some() => ReadState::Body(Remaining::UntilClosed),
            BodyFraming::Length(length @ 1..) => ReadState::Body(Remaining::Length(length)),
            BodyFraming::Chunked => ReadState::Body(Remaining::Chunked(Chunked::new())),
            BodyFraming::None | BodyFraming::Length(0) => ReadState::Head,
        });
        self.head_for_actix.replace(head);
        self.started.replace(Some(StartedRequest { body, connection_close, refused }));
    }
}

/// What actix-http reads and writes instead of the socket.
pub struct ReaderIo<S> {
    reader: Rc<ConnReader<S>>,
    handle: Rc<ConnectionHandle>,
}

impl<S: Socket + 'static> ReaderIo<S> {
    pub fn new(stream: S, handle: Rc<ConnectionHandle>) -> Self {
        let reader = Rc::new(ConnReader {
            state: Cell::new(ReadState::Head),
            head_for_actix: RefCell::default(),
            read_ahead: RefCell::default(),
            scan_from: Cell::default(),
            started: RefCell::default(),
            in_progress: Cell::default(),
            unflushed: Cell::default(),
            interim: Cell::default(),
            waker: RefCell::default(),
            deadline: Cell::new(Some(Instant::now() + FIRST_BYTE_TIMEOUT)),
            timer: RefCell::default(),
            linger_timer: RefCell::default(),
            linger_limit: Cell::new(u64::MAX),
            stream: RefCell::new(stream),
        });
        Self { reader, handle }
    }

    pub fn handle(&self) -> &Rc<ConnectionHandle> {
        &self.handle
    }

    /// What reads the connection's bodies.
    pub fn body_reader(&self) -> Rc<BodyReader> {
        self.reader.clone()
    }
}

impl<S: Socket> ConnReader<S> {
    /// Gives actix-http the next head, or as much of it as fits.
    fn poll_head_for_actix(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head_for_actix.borrow().is_empty() {
            match self.state.get() {
                ReadState::Head => ready!(self.poll_head(cx))?,
                ReadState::Body(_) => return self.wait(cx),
                // actix-http takes this for the end of the connection, and closes it.
                ReadState::Closed => return Poll::Ready(Ok(())),
            }
        }
        let bytes = split_front(&mut self.head_for_actix.borrow_mut(), buffer.remaining() as u64);
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> AsyncRead for ReaderIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // At once, even while a handler runs or TLS has buffered something to read.
        if self.handle.is_aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let polled = self.reader.poll_head_for_actix(cx, buffer);
        if polled.is_pending() && self.handle.should_close(cx.waker()) {
            return Poll::Ready(Ok(()));
        }
        polled
    }
}

impl<S: Socket> AsyncWrite for ReaderIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let reader = &self.reader;
        reader.skip_continue();
        while !reader.interim.get().is_empty() {
            ready!(reader.poll_interim(cx))?;
        }
        Pin::new(&mut *reader.stream.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let reader = &self.reader;
        ready!(Pin::new(&mut *reader.stream.borrow_mut()).poll_flush(cx))?;
        // actix-http flushes when its own buffer is empty.
        if reader.unflushed.replace(false) {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }

    /// Lingering close: what still arrives, be it the rest of a body or pipelined requests after the last response, is
    /// read and discarded for [`LINGER`]. A reset could otherwise take the last response from the client (RFC 9112,
    /// 9.6). It ends sooner where the sender of a body is to notice soon.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let reader = &self.reader;
        ready!(Pin::new(&mut *reader.stream.borrow_mut()).poll_shutdown(cx))?;
        while let Poll::Ready(read) = reader.poll_read(cx, Buffer::take(0), usize::MAX) {
            let read = read.map_or(0, |bytes| bytes.len() as u64);
            let left = reader.linger_limit.get().saturating_sub(read);
            if read == 0 || left == 0 {
                return Poll::Ready(Ok(()));
            }
            reader.linger_limit.set(left);
        }
        let mut timer = reader.linger_timer.borrow_mut();
        timer.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(cx).map(Ok)
    }
}
