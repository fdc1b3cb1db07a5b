//! A client's connection below TLS: it is counted, its writes have a timeout, and it closes when its
//! [`ConnectionHandle`] says so.

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
