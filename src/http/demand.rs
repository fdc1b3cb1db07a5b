//! Sockets towards clients that are read only when somebody wants their bytes, and bodies that are read past actix-http.
//!
//! actix-http reads ahead: up to 128 KiB into its own buffer while up to as much again waits in the payload, and a
//! slow COS makes every upload pin all of it (measured: 0.66 MiB each). And it reads a body in pieces that grow from 8
//! KiB, with an allocation and a copy for each growth. So it is given each request's head, and is told nothing of a
//! body: the length in the head that it sees is zero, the true one is put back behind it ([`Meter::begin`]), and whoever
//! reads the body takes it from the socket, into buffers that are used again and again.
//!
//! That needs to know where a head ends ([`Framing`]). Where that is in doubt actix-http reads for itself, as much as is
//! asked for and no more; the rest stays where TCP can push back, in the kernel.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio::time::{Sleep, sleep};

use super::framing::Framing;
use crate::buffers::{self, Buffer};
use crate::turn;

/// How much is asked for at a time; also what the dispatcher is given beyond the request that it is at. A longer head
/// it reads, and limits, by itself.
const PORTION: usize = 32 * 1024;
/// A head is read with what follows it: all that a small buffer holds where several upload, in one go; otherwise this much,
/// and the rest while the link is on its way.
const FIRST: usize = 8 * 1024;
/// What a client sends behind its last reply is read for so long: a reset would take the reply from it.
const LINGER: Duration = Duration::from_secs(1);

/// What the next bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// A request.
    Request,
    /// So much of a body that the dispatcher knows nothing of.
    Body(u64),
    /// What only the dispatcher can tell.
    Doubtful,
    /// Nothing: a body broke off, or nobody wants the rest of it. Whatever still comes is no request.
    Over,
}

/// The inside of a client's connection.
pub struct Inlet<S: ?Sized> {
    flow: Cell<Flow>,
    /// What was read for the dispatcher, and that it has not taken yet.
    due: RefCell<Bytes>,
    /// What was read behind that.
    ahead: RefCell<Bytes>,
    /// What the dispatcher may be given while a request runs, where it reads; `None`: as much as there is.
    allowance: Cell<Option<usize>>,
    /// The dispatcher was given a request, and has not answered it yet.
    runs: Cell<bool>,
    /// The dispatcher, which waits.
    reader: RefCell<Option<Waker>>,
    lingers: RefCell<Option<Pin<Box<Sleep>>>>,
    stream: RefCell<S>,
}

/// Says how much may be read from one connection, and reads its bodies.
pub type Meter = Inlet<dyn AsyncRead + Unpin>;

/// A request that runs: its connection's next one waits until this is dropped, which must be when its reply is encoded.
/// actix-http would encode it as one to the request that it decoded last, without a body if that is a HEAD.
pub struct Answering(Rc<Meter>);

impl Answering {
    /// Of a request that has begun on the connection of `meter`.
    pub fn new(meter: Rc<Meter>) -> Self {
        Self(meter)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.runs.set(false);
        self.0.wake();
    }
}

impl Meter {
    /// A request begins. How long its body is, if that is read here.
    pub fn begin(&self) -> Option<u64> {
        self.runs.set(true);
        match self.flow.get() {
            Flow::Body(length) => Some(length),
            Flow::Request | Flow::Doubtful | Flow::Over => None,
        }
    }

    /// The dispatcher has a body: it gets no more of it until it is asked for.
    pub fn hold(&self) {
        self.allowance.set(Some(0));
    }

    /// Asks the dispatcher for some bytes of the body.
    pub fn ask(&self) {
        self.set(Some(PORTION));
    }

    /// The body has ended: asks for the next request. Not later: where requests are sent ahead, actix-http keeps the
    /// connection only if it finds the next one before it has answered this one.
    pub fn next(&self) {
        self.ask();
    }

    /// Nobody will ask any more: everything may be read, and forgotten.
    pub fn abandon(&self) {
        self.set(None);
    }

    /// Nobody will read the rest of a body: the connection ends.
    pub fn give_up(&self) {
        self.flow.set(Flow::Over);
        self.set(None);
    }

    fn set(&self, allowance: Option<usize>) {
        self.allowance.set(allowance);
        self.wake();
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// What is left of a body that is read here.
    pub fn left(&self) -> u64 {
        match self.flow.get() {
            Flow::Body(left) => left,
            Flow::Request | Flow::Doubtful | Flow::Over => 0,
        }
    }

    /// Whether a body broke off, and the connection with it.
    pub fn is_over(&self) -> bool {
        self.flow.get() == Flow::Over
    }

    /// Reads on in the body; `None` at its end. Never empty: an early end is an error.
    pub fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Flow::Body(left) = self.flow.get() else {
            return Poll::Ready(None);
        };
        let mut ahead = self.ahead.borrow_mut();
        if ahead.is_empty() {
            let read = match ready!(self.poll_read(cx, Buffer::take(left), usize::MAX)) {
                Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
                read => read,
            };
            match read {
                Ok(bytes) => *ahead = bytes,
                Err(error) => {
                    self.flow.set(Flow::Over);
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let bytes = take(&mut ahead, left);
        let left = left - bytes.len() as u64;
        self.flow.set(if left > 0 { Flow::Body(left) } else { Flow::Request });
        if left == 0 {
            free(&mut ahead);
        }
        Poll::Ready(Some(Ok(bytes)))
    }
}

/// Lets go of the buffer that `bytes` are in: what waits for a client would pin it for as long as that one likes.
fn free(bytes: &mut Bytes) {
    if !bytes.is_empty() && buffers::behind(bytes).is_some() {
        *bytes = Bytes::copy_from_slice(bytes);
    }
}

/// The first `most` of `bytes`.
fn take(bytes: &mut Bytes, most: u64) -> Bytes {
    bytes.split_to(bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX)))
}

impl<S: AsyncRead + Unpin + ?Sized> Inlet<S> {
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
}

/// A connection read by a [`Meter`]. The `Take` is a limit only while the dispatcher reads.
pub struct Metered<S>(Rc<Inlet<Take<S>>>);

impl<S: AsyncRead + Unpin + 'static> Metered<S> {
    /// For HTTP/1, where one request follows another.
    pub fn new(stream: S) -> Self {
        Self::with(stream, Flow::Request, Some(PORTION))
    }

    /// For h2, whose streams have windows of their own: as much as there is.
    pub fn unlimited(stream: S) -> Self {
        Self::with(stream, Flow::Doubtful, None)
    }

    fn with(stream: S, flow: Flow, allowance: Option<usize>) -> Self {
        Self(Rc::new(Inlet {
            flow: Cell::new(flow),
            due: RefCell::default(),
            ahead: RefCell::default(),
            allowance: Cell::new(allowance),
            runs: Cell::default(),
            reader: RefCell::default(),
            lingers: RefCell::default(),
            stream: RefCell::new(stream.take(u64::MAX)),
        }))
    }

    /// What it is read by.
    pub fn meter(&self) -> Rc<Meter> {
        self.0.clone()
    }
}

impl<S: AsyncRead + Unpin> Inlet<Take<S>> {
    /// How much the dispatcher may read for itself. While no request runs there is nobody to ask for more of a long head,
    /// which the dispatcher limits.
    fn most(&self) -> usize {
        self.allowance.get().map_or(usize::MAX, |most| if self.runs.get() { most } else { PORTION })
    }

    /// At most `most` bytes from the socket.
    fn poll_give(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let mut stream = self.stream.borrow_mut();
        stream.set_limit(most as u64);
        let polled = Pin::new(&mut *stream).poll_read(cx, buffer);
        stream.set_limit(u64::MAX);
        let gave = buffer.filled().len() - before;
        self.allowance.set(self.allowance.get().map(|allowance| allowance.saturating_sub(gave)));
        polled
    }

    /// The dispatcher is woken when there is something new.
    fn wait<T>(&self, cx: &Context<'_>) -> Poll<T> {
        let mut reader = self.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Reads a request's head, and makes it due when the one before it is answered. Until then it reads, too, as long as
    /// nothing comes: that is how a client's end is seen.
    fn poll_request(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ahead = self.ahead.borrow_mut();
            let framing = Framing::of(&ahead);
            let is_partial = framing == Framing::Partial && ahead.len() < PORTION;
            if !is_partial && self.runs.get() {
                free(&mut ahead);
                return self.wait(cx);
            }
            match framing {
                Framing::Whole { head, body, digits } => {
                    self.runs.set(true);
                    let head = take(&mut ahead, head as u64);
                    self.due.replace(if body == 0 {
                        head
                    } else {
                        let mut curtailed = head.to_vec();
                        curtailed[digits].fill(b'0');
                        self.flow.set(Flow::Body(body));
                        curtailed.into()
                    });
                    return Poll::Ready(Ok(()));
                }
                _ if is_partial => {}
                Framing::Partial | Framing::Doubtful => {
                    self.doubt(&mut ahead);
                    return Poll::Ready(Ok(()));
                }
            }
            let most = if turn::are_several() { usize::MAX } else { FIRST };
            let Poll::Ready(more) = self.poll_read(cx, Buffer::take(0), most)? else {
                free(&mut ahead);
                return Poll::Pending;
            };
            if more.is_empty() {
                self.doubt(&mut ahead);
                return Poll::Ready(Ok(()));
            }
            // Nearly always all of it.
            *ahead = if ahead.is_empty() { more } else { [&ahead[..], &more].concat().into() };
        }
    }

    /// The dispatcher gets what there is, and reads on for itself.
    fn doubt(&self, ahead: &mut Bytes) {
        self.flow.set(Flow::Doubtful);
        self.due.replace(std::mem::take(ahead));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inlet = &self.0;
        if inlet.due.borrow().is_empty() {
            // A `Take` at its limit would say that the stream has ended.
            match inlet.flow.get() {
                Flow::Request => ready!(inlet.poll_request(cx))?,
                Flow::Body(_) => return inlet.wait(cx),
                Flow::Doubtful if inlet.most() == 0 => return inlet.wait(cx),
                Flow::Doubtful => {}
                // The dispatcher takes it for the connection's end, and ends it.
                Flow::Over => return Poll::Ready(Ok(())),
            }
        }
        let mut due = inlet.due.borrow_mut();
        if due.is_empty() {
            return inlet.poll_give(cx, buffer, inlet.most());
        }
        let now = take(&mut due, buffer.remaining() as u64);
        buffer.put_slice(&now);
        Poll::Ready(Ok(()))
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

    /// Where a body was not read to its end, what still comes of it is read and forgotten, as actix-http does with bodies
    /// that it knows of.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inlet = &self.0;
        ready!(Pin::new(inlet.stream.borrow_mut().get_mut()).poll_shutdown(cx))?;
        if !matches!(inlet.flow.get(), Flow::Body(_) | Flow::Over) {
            return Poll::Ready(Ok(()));
        }
        while let Poll::Ready(read) = inlet.poll_read(cx, Buffer::take(0), usize::MAX) {
            if read.map_or(true, |bytes| bytes.is_empty()) {
                return Poll::Ready(Ok(()));
            }
        }
        let mut lingers = inlet.lingers.borrow_mut();
        lingers.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(cx).map(Ok)
    }
}
