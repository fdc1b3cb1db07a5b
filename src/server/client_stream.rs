//! A client's connection twice: as TCP gives it, where it can be ended, and as HTTP reads it, where it can be ended while
//! it is not being read, and be seen to be a flood.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection_limit::ConnectionHandle;
use crate::net::write_batch;

/// A client's TCP stream in its place.
pub struct TcpClient {
    stream: write_batch::Stream,
    handle: Rc<ConnectionHandle>,
    /// The socket takes no more; until when that may be so.
    blocked_until: Option<Instant>,
    blocked: Alarm,
}

impl TcpClient {
    pub fn new(stream: TcpStream, handle: Rc<ConnectionHandle>) -> Self {
        let stream = write_batch::Stream::batched(stream);
        Self { stream, handle, blocked_until: None, blocked: Alarm::default() }
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    pub fn handle(&self) -> &Rc<ConnectionHandle> {
        &self.handle
    }

    /// Short writes go out at once. What h2 tells a sender of its windows is short, and would otherwise wait for the
    /// answer to what went before, 40 ms where the sender has nothing to say until then.
    pub fn without_delay(&self) {
        // Slower without it, and no worse.
        let _ = self.stream.set_nodelay(true);
    }

    /// The outcome of a write: an error once the client has taken nothing for `server.write_timeout`.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.handle.set_blocked(written.is_pending());
        if written.is_ready() {
            self.blocked_until = None;
            return written;
        }
        let limit = self.handle.write_timeout();
        let end = *self.blocked_until.get_or_insert_with(|| Instant::now() + limit);
        ready!(self.blocked.poll(cx, end));
        tracing::debug!("a client takes none of its response; its connection is closed");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// A timer that is moved only when it fires too early: most deadlines are forgotten before.
#[derive(Default)]
struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Whether the time is over.
    fn poll(&mut self, cx: &mut Context<'_>, end: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
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
}

impl Drop for TcpClient {
    fn drop(&mut self) {
        self.handle.closed();
    }
}

impl AsyncRead for TcpClient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.handle.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_pending() && self.handle.is_over(cx.waker()) {
            return Poll::Ready(Ok(()));
        }
        polled
    }
}

impl AsyncWrite for TcpClient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.handle.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.handle.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.handle.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let this = &mut *self;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A client's connection as HTTP reads it, TLS aside; a flood of h2 frames ends it.
pub struct ClientStream<S> {
    pub stream: S,
    pub handle: Rc<ConnectionHandle>,
    /// Bytes that were read since there was nothing to read, or since its turn ended.
    read: usize,
    /// When the responses on its streams must have moved on.
    stuck: Alarm,
}

/// What is read of an h2 connection before whoever wants its frames has a turn: otherwise a whole window of them is
/// piled up first, in memory that is new each time. Turns of 128 KiB wake everybody too often: a large upload takes a
/// seventh longer and half as much CPU again.
const TURN: usize = 512 * 1024;

impl<S> ClientStream<S> {
    pub fn new(stream: S, handle: Rc<ConnectionHandle>) -> Self {
        Self { stream, handle, read: 0, stuck: Alarm::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // At once, even if a handler runs or TLS holds something to read.
        if self.handle.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.handle.is_h2() && self.read >= TURN {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let came = buffer.filled().len() - before;
        self.read = if polled.is_pending() { 0 } else { self.read + came };
        if self.handle.is_h2() && !self.handle.flood_detector().came(came) {
            tracing::warn!(
                "a client floods its h2 connection with frames that carry nothing; it is closed"
            );
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if polled.is_pending() {
            if self.handle.is_over(cx.waker()) {
                return Poll::Ready(Ok(()));
            }
            // A peer that opens no window is not seen by the socket, which takes everything.
            if self.handle.is_h2()
                && let Some(end) = self.handle.response_deadline()
                && self.stuck.poll(cx, end.into()).is_ready()
            {
                tracing::debug!(
                    "a client takes none of its responses; its h2 connection is closed"
                );
                self.handle.break_off();
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
