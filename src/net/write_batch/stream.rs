//! A TCP stream that takes its turn: what it has read is answered behind the others, and short answers go out together.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use actix_web::rt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::batch::{BatchGate, batching_enabled};

/// What is short: replies, requests for links.
const SHORT: usize = 4 * 1024;

thread_local! {
    /// Streams that hold something.
    static QUEUED: RefCell<Vec<Rc<RefCell<Inner>>>> = const { RefCell::new(Vec::new()) };
}

/// A TCP stream.
pub struct Stream {
    inner: Rc<RefCell<Inner>>,
    turn: BatchGate,
    /// Short writes are held, too.
    holds: bool,
}

struct Inner {
    tcp: TcpStream,
    /// What was written and is not sent.
    held: Vec<u8>,
    /// It is in the outbox.
    posted: bool,
    /// Whoever wrote it, who is to send what the outbox could not.
    writer: Option<Waker>,
}

impl Stream {
    /// One whose writes are sent before they are done.
    pub fn new(tcp: TcpStream) -> Self {
        let inner = Inner { tcp, held: Vec::new(), posted: false, writer: None };
        Self { inner: Rc::new(RefCell::new(inner)), turn: BatchGate::default(), holds: false }
    }

    /// One whose short writes may be sent a little later: behind the others that are ready, in one go with theirs. That is
    /// done even if it is dropped before; what the other side does not take then waits for this one's next read or write.
    pub fn batched(tcp: TcpStream) -> Self {
        Self { holds: true, ..Self::new(tcp) }
    }

    /// The other side's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.borrow().tcp.peer_addr()
    }

    /// Short writes go out at once, without waiting for what was sent before to be acknowledged.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.inner.borrow().tcp.set_nodelay(nodelay)
    }

    fn poll_slices(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.borrow_mut();
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.holds && inner.held.len() + length <= SHORT && batching_enabled() {
            slices.iter().for_each(|slice| inner.held.extend_from_slice(slice));
            inner.writer = Some(cx.waker().clone());
            if !inner.posted {
                inner.posted = true;
                enqueue(self.inner.clone());
            }
            return Poll::Ready(Ok(length));
        }
        ready!(inner.poll_send(cx))?;
        ready!(self.turn.poll_write(cx));
        Pin::new(&mut inner.tcp).poll_write_vectored(cx, slices)
    }
}

impl Inner {
    /// Sends what is held.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.held));
            self.sent(sent?);
        }
        Poll::Ready(Ok(()))
    }

    /// The same without waiting. Who cannot be sent to is found out by reading from him.
    fn send_now(&mut self) {
        self.posted = false;
        let writer = self.writer.take();
        match self.tcp.try_write(&self.held) {
            Ok(sent) => self.sent(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.held.clear(),
        }
        if !self.held.is_empty() {
            writer.inspect(Waker::wake_by_ref);
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.held.drain(..bytes);
    }
}

/// Puts a stream into the outbox, which is emptied behind all that are ready now.
fn enqueue(stream: Rc<RefCell<Inner>>) {
    let is_first = QUEUED.with_borrow_mut(|outbox| {
        outbox.push(stream);
        outbox.len() == 1
    });
    if is_first {
        rt::spawn(async {
            for stream in QUEUED.take() {
                stream.borrow_mut().send_now();
            }
        });
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        if !inner.posted && !inner.held.is_empty() {
            // What comes of it is seen by the next write, or read.
            let _ = inner.poll_send(cx);
        }
        let polled = Pin::new(&mut inner.tcp).poll_read(cx, buffer);
        drop(inner);
        if polled.is_ready() {
            self.turn.read();
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_slices(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_slices(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is in the outbox is as good as sent.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        if inner.posted { Poll::Ready(Ok(())) } else { inner.poll_send(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::io::Read;
    use std::net;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::write_batch::batch::{BusyUpload, FEW};

    const LONG: [u8; SHORT + 1] = [7; SHORT + 1];

    fn run(test: impl Future<Output = ()>) {
        rt::System::new().block_on(test);
    }

    /// A stream, its other end, and so many uploads that short writes are held.
    async fn connected() -> (Stream, net::TcpStream, Vec<BusyUpload>) {
        let listener = net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let near = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let far = listener.accept().unwrap().0;
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let near = TcpStream::from_std(near).unwrap();
        near.writable().await.unwrap();
        let uploads = (0..=FEW).map(|_| BusyUpload::begin()).collect();
        (Stream::batched(near), far, uploads)
    }

    /// Lets everybody have a turn who is ready.
    async fn a_turn() {
        rt::spawn(async {}).await.unwrap();
    }

    fn has_come(far: &mut net::TcpStream) -> bool {
        far.set_nonblocking(true).unwrap();
        let came = far.peek(&mut [0]);
        far.set_nonblocking(false).unwrap();
        came.is_ok_and(|bytes| bytes > 0)
    }

    #[test]
    fn short_answers_wait_for_the_others() {
        run(async {
            let (mut stream, mut far, mut uploads) = connected().await;
            let (mut other, mut other_far, _) = connected().await;
            stream.write_all(b"one").await.unwrap();
            stream.flush().await.unwrap();
            other.write_all(b"other").await.unwrap();
            stream.write_all(b" two").await.unwrap();
            assert!(!has_come(&mut far) && !has_come(&mut other_far));
            a_turn().await;
            let mut came = [0; 7];
            far.read_exact(&mut came).unwrap();
            assert_eq!(&came, b"one two");
            other_far.read_exact(&mut came[..5]).unwrap();
            // Nobody waits where there are few.
            uploads.truncate(FEW);
            stream.write_all(b"now").await.unwrap();
            assert!(has_come(&mut far));
        });
    }

    #[test]
    fn what_is_written_later_comes_later() {
        run(async {
            let (mut stream, mut far, _uploads) = connected().await;
            stream.write_all(b"short").await.unwrap();
            stream.write_all(&LONG).await.unwrap();
            stream.write_all(b"end").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut came = Vec::new();
            far.read_to_end(&mut came).unwrap();
            assert_eq!(came, [&b"short"[..], &LONG, b"end"].concat());
        });
    }

    #[test]
    fn what_is_held_is_sent_even_if_nobody_is_left() {
        run(async {
            let (mut stream, mut far, _uploads) = connected().await;
            stream.write_all(b"bye").await.unwrap();
            drop(stream);
            a_turn().await;
            let mut came = Vec::new();
            far.read_to_end(&mut came).unwrap();
            assert_eq!(came, b"bye");
        });
    }

    #[test]
    fn a_full_connection_is_sent_the_rest_when_it_takes_it() {
        run(async {
            let (mut stream, mut far, _uploads) = connected().await;
            let mut sent = 0;
            loop {
                let written = std::future::poll_fn(|cx| {
                    Poll::Ready(Pin::new(&mut stream).poll_write(cx, &LONG))
                });
                match written.await {
                    Poll::Ready(bytes) => sent += bytes.unwrap(),
                    Poll::Pending => break,
                }
            }
            stream.write_all(b"the end").await.unwrap();
            a_turn().await;
            let reader = std::thread::spawn(move || {
                let mut came = vec![0; sent + 7];
                far.read_exact(&mut came).unwrap();
                came
            });
            // It waits for the other side, as connections do, and hears that it was closed.
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
            assert!(reader.join().unwrap().ends_with(b"the end"));
        });
    }
}
