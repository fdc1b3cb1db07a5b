//! The I/O that actix-http is given for an h2 connection: floods of frames, responses that the client does not read, and
//! the order to close. Flow control is left to h2.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection_limit::ConnectionHandle;
use crate::net::deadline::DeadlineTimer;

/// Bytes read of an h2 connection before the tasks that consume its frames are polled. Without a limit a whole window
/// is buffered first, in newly allocated memory each time. With 128 KiB the tasks are woken too often: a large upload
/// takes a seventh longer and half as much CPU again.
const READ_BEFORE_YIELD: usize = 512 * 1024;

/// An h2 connection, above TLS.
pub struct H2Stream<S> {
    stream: S,
    handle: Rc<ConnectionHandle>,
    /// Bytes read since the last poll that was pending.
    read_in_a_row: usize,
    /// For [`ConnectionHandle::response_deadline`].
    response_timer: DeadlineTimer,
}

impl<S> H2Stream<S> {
    pub fn new(stream: S, handle: Rc<ConnectionHandle>) -> Self {
        handle.set_h2();
        Self { stream, handle, read_in_a_row: 0, response_timer: DeadlineTimer::default() }
    }

    pub fn handle(&self) -> &Rc<ConnectionHandle> {
        &self.handle
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for H2Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // At once, even while a handler runs or TLS has buffered something to read.
        if self.handle.is_aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.read_in_a_row >= READ_BEFORE_YIELD {
            self.read_in_a_row = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let received = buffer.filled().len() - before;
        self.read_in_a_row = if polled.is_pending() { 0 } else { self.read_in_a_row + received };
        if !self.handle.flood_detector().received(received) {
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
            if let Some(deadline) = self.handle.response_deadline()
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

impl<S: AsyncWrite + Unpin> AsyncWrite for H2Stream<S> {
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
