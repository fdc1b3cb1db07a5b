//! A client's connection below TLS ([`ClientTcpStream`]: write timeouts) and above it ([`ClientStream`]: h2 floods, h2
//! responses that the client does not read). Both levels close it when its [`ConnectionHandle`] says so.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::connection_limit::ConnectionHandle;
use crate::net::deadline::DeadlineTimer;

/// A client's TCP stream, counted as a connection until it is dropped.
pub struct ClientTcpStream {
    stream: TcpStream,
    handle: Rc<ConnectionHandle>,
    /// By when the socket must take bytes again, while it takes none.
    write_deadline: Option<Instant>,
    write_timer: DeadlineTimer,
}

impl ClientTcpStream {
    pub fn new(stream: TcpStream, handle: Rc<ConnectionHandle>) -> Self {
        Self { stream, handle, write_deadline: None, write_timer: DeadlineTimer::default() }
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    pub fn handle(&self) -> &Rc<ConnectionHandle> {
        &self.handle
    }

    /// Sends short writes at once. h2 window updates are short, and would otherwise be delayed until the write before
    /// them is acknowledged: 40 ms where the client has nothing to send until the update arrives.
    pub fn set_nodelay(&self) {
        // A failure only costs speed.
        let _ = self.stream.set_nodelay(true);
    }

    /// Passes a write's outcome on; an error once the client has taken nothing for `server.write_timeout`.
    fn with_write_timeout<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.handle.set_write_blocked(written.is_pending());
        if written.is_ready() {
            self.write_deadline = None;
            return written;
        }
        let timeout = self.handle.write_timeout();
        let deadline = *self.write_deadline.get_or_insert_with(|| Instant::now() + timeout);
        ready!(self.write_timer.poll(cx, deadline));
        tracing::debug!("the client does not read its response; the connection is closed");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for ClientTcpStream {
    fn drop(&mut self) {
        self.handle.closed();
    }
}

impl AsyncRead for ClientTcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.handle.is_aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_pending() && self.handle.should_close(cx.waker()) {
            return Poll::Ready(Ok(()));
        }
        polled
    }
}

impl AsyncWrite for ClientTcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.handle.is_aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.with_write_timeout(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.handle.is_aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.with_write_timeout(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.handle.is_aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let this = &mut *self;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.with_write_timeout(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A client's connection as HTTP reads it, below it TLS where that is on.
pub struct ClientStream<S> {
    pub stream: S,
    pub handle: Rc<ConnectionHandle>,
    /// Bytes read since the last poll that was pending.
    read_in_a_row: usize,
    /// For [`ConnectionHandle::response_deadline`].
    response_timer: DeadlineTimer,
}

/// Bytes read of an h2 connection before the tasks that consume its frames are polled. Without a limit a whole window
/// is buffered first, in newly allocated memory each time. With 128 KiB the tasks are woken too often: a large upload
/// takes a seventh longer and half as much CPU again.
const READ_BEFORE_YIELD: usize = 512 * 1024;

impl<S> ClientStream<S> {
    pub fn new(stream: S, handle: Rc<ConnectionHandle>) -> Self {
        Self { stream, handle, read_in_a_row: 0, response_timer: DeadlineTimer::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // At once, even while a handler runs or TLS has buffered something to read.
        if self.handle.is_aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.handle.is_h2() && self.read_in_a_row >= READ_BEFORE_YIELD {
            self.read_in_a_row = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let received = buffer.filled().len() - before;
        self.read_in_a_row = if polled.is_pending() { 0 } else { self.read_in_a_row + received };
        if self.handle.is_h2() && !self.handle.flood_detector().received(received) {
            tracing::warn!(
                "a client floods its h2 connection with frames that carry nothing; the connection is closed"
            );
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if polled.is_pending() {
            if self.handle.should_close(cx.waker()) {
                return Poll::Ready(Ok(()));
            }
            // A client that opens no h2 window does not block the socket, which takes every frame that is written.
            if self.handle.is_h2()
                && let Some(deadline) = self.handle.response_deadline()
                && self.response_timer.poll(cx, deadline.into()).is_ready()
            {
                tracing::debug!(
                    "the client does not read its responses; the h2 connection is closed"
                );
                self.handle.abort();
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
