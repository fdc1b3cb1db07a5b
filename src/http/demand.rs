//! Sockets towards clients that are read only when somebody wants their bytes, and bodies that are read past actix-http.
//!
//! actix-http reads ahead: up to 128 KiB into its own buffer while up to as much again waits in the payload, and a
//! slow COS makes every upload pin all of it (measured: 0.66 MiB each). So while a request's body is being read, its
//! socket gives no more than was asked for; the rest stays where TCP can push back, in the kernel.
//!
//! And it reads a body in pieces that grow from 8 KiB, with an allocation and a copy for each growth. So a body whose
//! length is known is taken from the socket by whoever reads it, into buffers that are used again and again, and the
//! dispatcher is shown as many zeros in its place: it counts along, and remains the one that knows where a request ends.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use crate::buffers::Buffer;

/// How much is asked for at a time; also what a request's head, with what follows it, may bring unasked. A longer head
/// ends in the timeout for heads.
const PORTION: usize = 32 * 1024;
/// A head is read in one step a turn, of this size or of what the dispatcher's buffer still has room for, which nearly
/// all fit into: what follows it is better read by who wants it. The buffer has 8 KiB; filled beyond this it is enlarged
/// and moved.
const HEAD: usize = 8 * 1024 - SPARE;
/// Zeros that the dispatcher is shown in one turn: what its buffer holds when it has grown once, or, while it is far
/// behind, as much as it grows to for a large body. Each turn polls all of the request; each growth moves what is held.
const SHOWN: usize = 16 * 1024;
const SHOWN_WHEN_BEHIND: usize = 64 * 1024;
/// With less room than this the dispatcher enlarges its buffer before it reads, and moves all that it holds, even for
/// nothing: as much is left free (moving zeros was 6 % of a large upload's CPU).
const SPARE: usize = 1024;
/// Zeros that the dispatcher may still have to be shown while more is read past it: without a bound, an upload that
/// never has to wait would leave it ever further behind, and keep its worker to itself.
const OWED: u64 = 128 * 1024;

/// The inside of a client's connection.
pub struct Inlet<S: ?Sized> {
    /// What the dispatcher may read; `None`: as much as there is.
    allowance: Cell<Option<usize>>,
    /// Between two requests.
    at_head: Cell<bool>,
    /// Bytes of the body that were read past the dispatcher and that it has not been shown yet.
    owed: Cell<u64>,
    /// What the dispatcher has been given in this turn.
    given: Cell<usize>,
    /// Whether the last that it was given was all it could take: there may be more.
    filled: Cell<bool>,
    /// How often the dispatcher has come to read.
    turn: Cell<u64>,
    reader: RefCell<Option<Waker>>,
    stream: RefCell<S>,
}

/// Says how much may be read from one connection, and reads its bodies.
pub type Meter = Inlet<dyn AsyncRead + Unpin>;

impl Meter {
    /// A body begins: nothing more is read until it is asked for.
    pub fn hold(&self) {
        self.at_head.set(false);
        self.allowance.set(Some(0));
    }

    /// Asks the dispatcher for some bytes of the body.
    pub fn ask(&self) {
        self.set(Some(PORTION));
    }

    /// The body has ended: asks for the next request. Not later: where requests are sent ahead, actix-http keeps the
    /// connection only if it finds the next one before it has answered this one.
    pub fn next(&self) {
        self.at_head.set(true);
        self.ask();
    }

    /// Nobody will ask any more: everything may be read, and forgotten.
    pub fn abandon(&self) {
        self.set(None);
    }

    fn set(&self, allowance: Option<usize>) {
        self.allowance.set(allowance);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Counts the dispatcher's turns: each begins with reading, then everything that was read is decoded.
    pub fn turn(&self) -> u64 {
        self.turn.get()
    }

    /// Whether the dispatcher has counted every byte of the body that was read.
    pub fn is_settled(&self) -> bool {
        self.owed.get() == 0
    }

    /// Reads at most `most` bytes of the body past the dispatcher, which must have been on [`Self::hold`] and have
    /// nothing left of what it has read. Never empty: an end is an error.
    pub fn poll_body(&self, cx: &mut Context<'_>, most: u64) -> Poll<io::Result<Bytes>> {
        if self.owed.get() > OWED {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut stream = self.stream.borrow_mut();
        let mut buffer = Buffer::take(most);
        let mut unfilled = buffer.unfilled(most);
        // TLS gives one record at a time; a socket that gave less than it was asked for is not asked again.
        let last = loop {
            let filled = unfilled.filled().len();
            match Pin::new(&mut *stream).poll_read(cx, &mut unfilled) {
                Poll::Ready(Ok(())) if unfilled.filled().len() == filled => {
                    break Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(())) if unfilled.remaining() > 0 => {}
                Poll::Ready(Ok(())) => break Poll::Pending,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        match unfilled.filled().len() {
            0 => last,
            // Whatever comes behind these bytes will be told again.
            filled => {
                self.owed.set(self.owed.get() + filled as u64);
                Poll::Ready(Ok(buffer.freeze(filled)))
            }
        }
    }
}

/// A connection read by a [`Meter`]. The `Take` is a limit only while the dispatcher reads.
pub struct Metered<S>(Rc<Inlet<Take<S>>>);

impl<S: AsyncRead + Unpin + 'static> Metered<S> {
    /// For HTTP/1, where one request follows another.
    pub fn new(stream: S) -> Self {
        Self::with(stream, Some(PORTION))
    }

    /// For h2, whose streams have windows of their own: as much as there is.
    pub fn unlimited(stream: S) -> Self {
        Self::with(stream, None)
    }

    fn with(stream: S, allowance: Option<usize>) -> Self {
        Self(Rc::new(Inlet {
            allowance: Cell::new(allowance),
            at_head: Cell::new(true),
            owed: Cell::default(),
            given: Cell::default(),
            filled: Cell::default(),
            turn: Cell::default(),
            reader: RefCell::default(),
            stream: RefCell::new(stream.take(u64::MAX)),
        }))
    }

    /// What it is read by.
    pub fn meter(&self) -> Rc<Meter> {
        self.0.clone()
    }
}

impl<S: AsyncRead + Unpin> Inlet<Take<S>> {
    /// At most `most` bytes from the socket.
    fn poll_give(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining().min(most));
        let mut stream = self.stream.borrow_mut();
        stream.set_limit(most as u64);
        let polled = Pin::new(&mut *stream).poll_read(cx, buffer);
        stream.set_limit(u64::MAX);
        let given = buffer.filled().len() - before;
        self.given.set(self.given.get() + given);
        self.filled.set(given == room);
        self.allowance.set(self.allowance.get().map(|allowance| allowance - given));
        polled
    }

    /// Zeros for bytes that were read past the dispatcher.
    fn poll_show(&self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let owed = usize::try_from(self.owed.get()).unwrap_or(usize::MAX);
        let most = if owed > SHOWN_WHEN_BEHIND { SHOWN_WHEN_BEHIND } else { SHOWN };
        let (room, given) = (buffer.remaining(), self.given.get());
        let room = match room {
            // Left free in the last turn: less than that, and the whole buffer is used again, from its beginning.
            ..=SPARE if given == 0 => 1,
            ..=SPARE => 0,
            // Filled, it grows.
            _ if given + room < most => room,
            _ => room - SPARE,
        };
        let shown = owed.min(room).min(most.saturating_sub(given));
        if shown == 0 {
            return self.pause(cx);
        }
        buffer.initialize_unfilled_to(shown);
        buffer.advance(shown);
        self.owed.set(self.owed.get() - shown as u64);
        self.given.set(self.given.get() + shown);
        self.filled.set(false);
        Poll::Ready(Ok(()))
    }

    /// Ends the dispatcher's reading for this turn; there is more for it in the next. While a body is held, whoever
    /// reads it sees to it that there is one.
    fn pause(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.given.set(0);
        if self.allowance.get() == Some(0) {
            self.reader.replace(Some(cx.waker().clone()));
        } else {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inlet = &self.0;
        inlet.turn.set(inlet.turn.get() + 1);
        if inlet.owed.get() > 0 {
            return inlet.poll_show(cx, buffer);
        }
        let polled = match inlet.allowance.get() {
            // A `Take` at its limit would say that the stream has ended.
            Some(0) => {
                inlet.reader.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
            // Asked once more where it filled less, the socket says for nothing that it is empty.
            Some(_) if inlet.at_head.get() && inlet.given.get() > 0 && inlet.filled.get() => {
                return inlet.pause(cx);
            }
            Some(most) if inlet.at_head.get() => inlet.poll_give(cx, buffer, most.min(HEAD)),
            Some(most) => inlet.poll_give(cx, buffer, most),
            None => inlet.poll_give(cx, buffer, usize::MAX),
        };
        if polled.is_pending() {
            inlet.given.set(0);
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.stream.borrow_mut().get_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.stream.borrow_mut().get_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.stream.borrow().get_ref().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.stream.borrow_mut().get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.stream.borrow_mut().get_mut()).poll_shutdown(cx)
    }
}
