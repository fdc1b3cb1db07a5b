//! Sockets towards clients that are read only when somebody wants their bytes.
//!
//! actix-http reads ahead: up to 128 KiB into its own buffer while up to as much again waits in the payload, and a
//! slow COS makes every upload pin all of it (measured: 0.66 MiB each). So while a request's body is being read, its
//! socket gives no more than was asked for; the rest stays where TCP can push back, in the kernel.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

/// How much is asked for at a time; also what a request's head, with what follows it, may bring unasked. A longer head
/// ends in the timeout for heads.
const PORTION: u64 = 32 * 1024;

/// Says how much may be read from one connection.
pub struct Meter {
    /// `None`: as much as there is.
    allowance: Cell<Option<u64>>,
    reader: RefCell<Option<Waker>>,
}

impl Meter {
    /// A body begins: nothing more is read until it is asked for.
    pub fn hold(&self) {
        self.allowance.set(Some(0));
    }

    /// Asks for some bytes of the body, or for the next request.
    pub fn ask(&self) {
        self.set(Some(PORTION));
    }

    /// Nobody will ask any more: everything may be read, and forgotten.
    pub fn abandon(&self) {
        self.set(None);
    }

    fn set(&self, allowance: Option<u64>) {
        self.allowance.set(allowance);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// A connection read by a [`Meter`].
pub struct Metered<S> {
    stream: Take<S>,
    meter: Rc<Meter>,
}

impl<S: AsyncRead + Unpin> Metered<S> {
    /// For HTTP/1, where one request follows another.
    pub fn new(stream: S) -> Self {
        Self::with(stream, Some(PORTION))
    }

    /// For h2, whose streams have windows of their own: as much as there is.
    pub fn unlimited(stream: S) -> Self {
        Self::with(stream, None)
    }

    fn with(stream: S, allowance: Option<u64>) -> Self {
        let meter = Meter { allowance: Cell::new(allowance), reader: RefCell::default() };
        Self { stream: stream.take(u64::MAX), meter: Rc::new(meter) }
    }

    /// What it is read by.
    pub fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.meter.allowance.get() {
            // A `Take` at its limit would say that the stream has ended.
            Some(0) => {
                self.meter.reader.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
            Some(bytes) => {
                self.stream.set_limit(bytes);
                let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
                self.meter.allowance.set(Some(self.stream.limit()));
                polled
            }
            None => Pin::new(self.stream.get_mut()).poll_read(cx, buffer),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(cx)
    }
}
