//! A TCP stream with batched writes: after a read it writes after the other connections, and short writes are queued.

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

/// Bytes of a write that is short: responses, requests for upload links.
const SHORT: usize = 4 * 1024;

thread_local! {
    /// Streams whose queued bytes are sent by the next batch.
    static QUEUED: RefCell<Vec<Rc<RefCell<Inner>>>> = const { RefCell::new(Vec::new()) };
}

/// A TCP stream whose writes are delayed until other connections have read, while batching is on.
pub struct Stream {
    inner: Rc<RefCell<Inner>>,
    gate: BatchGate,
    /// Whether short writes are queued, too.
    queues_short: bool,
}

struct Inner {
    tcp: TcpStream,
    /// Bytes that were written and are not sent.
    unsent: Vec<u8>,
    /// It is in [`QUEUED`].
    is_queued: bool,
    /// The task that wrote last: it sends what the batch could not.
    writer: Option<Waker>,
}

impl Stream {
    /// Queues nothing: a write completes when the socket has taken its bytes.
    pub fn new(tcp: TcpStream) -> Self {
        let inner = Inner { tcp, unsent: Vec::new(), is_queued: false, writer: None };
        Self {
            inner: Rc::new(RefCell::new(inner)),
            gate: BatchGate::default(),
            queues_short: false,
        }
    }

    /// Queues short writes: they complete at once, and are sent together with those of the other connections that are
    /// ready now, even if this stream is dropped before. What the socket does not take is sent by
    /// the next read or write.
    pub fn batched(tcp: TcpStream) -> Self {
        Self { queues_short: true, ..Self::new(tcp) }
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.inner.borrow().tcp.peer_addr()
    }

    /// Sets TCP_NODELAY.
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
        if self.queues_short && inner.unsent.len() + length <= SHORT && batching_enabled() {
            slices.iter().for_each(|slice| inner.unsent.extend_from_slice(slice));
            inner.writer = Some(cx.waker().clone());
            if !inner.is_queued {
                inner.is_queued = true;
                enqueue(self.inner.clone());
            }
            return Poll::Ready(Ok(length));
        }
        ready!(inner.poll_send(cx))?;
        ready!(self.gate.poll_write(cx));
        Pin::new(&mut inner.tcp).poll_write_vectored(cx, slices)
    }
}

impl Inner {
    /// Sends the unsent bytes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.unsent));
            self.unsent.drain(..sent?);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what the socket takes now. A broken connection is noticed by the next read.
    fn send_now(&mut self) {
        self.is_queued = false;
        let writer = self.writer.take();
        match self.tcp.try_write(&self.unsent) {
            Ok(sent) => drop(self.unsent.drain(..sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.unsent.clear(),
        }
        if !self.unsent.is_empty() {
            writer.inspect(Waker::wake_by_ref);
        }
    }
}

/// Queues a stream for the next batch, which is sent after all tasks that are ready now.
fn enqueue(stream: Rc<RefCell<Inner>>) {
    let is_first = QUEUED.with_borrow_mut(|queued| {
        queued.push(stream);
        queued.len() == 1
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
        if !inner.is_queued && !inner.unsent.is_empty() {
            // A failure is reported by the next write or read.
            let _ = inner.poll_send(cx);
        }
        let polled = Pin::new(&mut inner.tcp).poll_read(cx, buffer);
        drop(inner);
        if polled.is_ready() {
            self.gate.read();
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

    /// Does not wait for queued bytes.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.borrow_mut();
        if inner.is_queued { Poll::Ready(Ok(())) } else { inner.poll_send(cx) }
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
    use crate::net::write_batch::batch::{BusyUpload, MAX_UNBATCHED_UPLOADS};

    const LONG: [u8; SHORT + 1] = [7; SHORT + 1];

    fn run(test: impl Future<Output = ()>) {
        rt::System::new().block_on(test);
    }

    /// A stream, its peer, and enough uploads for batching.
    async fn connected() -> (Stream, net::TcpStream, Vec<BusyUpload>) {
        let listener = net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let local = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        local.set_nonblocking(true).unwrap();
        let peer = listener.accept().unwrap().0;
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let local = TcpStream::from_std(local).unwrap();
        local.writable().await.unwrap();
        let uploads = (0..=MAX_UNBATCHED_UPLOADS).map(|_| BusyUpload::begin()).collect();
        (Stream::batched(local), peer, uploads)
    }

    /// Lets all tasks run that are ready.
    async fn run_ready_tasks() {
        rt::spawn(async {}).await.unwrap();
    }

    fn has_arrived(peer: &mut net::TcpStream) -> bool {
        peer.set_nonblocking(true).unwrap();
        let peeked = peer.peek(&mut [0]);
        peer.set_nonblocking(false).unwrap();
        peeked.is_ok_and(|bytes| bytes > 0)
    }

    #[test]
    fn short_writes_are_sent_after_the_other_tasks() {
        run(async {
            let (mut stream, mut peer, mut uploads) = connected().await;
            let (mut other, mut other_peer, _) = connected().await;
            stream.write_all(b"one").await.unwrap();
            stream.flush().await.unwrap();
            other.write_all(b"other").await.unwrap();
            stream.write_all(b" two").await.unwrap();
            assert!(!has_arrived(&mut peer) && !has_arrived(&mut other_peer));
            run_ready_tasks().await;
            let mut received = [0; 7];
            peer.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"one two");
            other_peer.read_exact(&mut received[..5]).unwrap();
            // With few uploads nothing is queued.
            uploads.truncate(MAX_UNBATCHED_UPLOADS);
            stream.write_all(b"now").await.unwrap();
            assert!(has_arrived(&mut peer));
        });
    }

    #[test]
    fn writes_stay_in_order() {
        run(async {
            let (mut stream, mut peer, _uploads) = connected().await;
            stream.write_all(b"short").await.unwrap();
            stream.write_all(&LONG).await.unwrap();
            stream.write_all(b"end").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            assert_eq!(received, [&b"short"[..], &LONG, b"end"].concat());
        });
    }

    #[test]
    fn queued_bytes_of_a_dropped_stream_are_sent() {
        run(async {
            let (mut stream, mut peer, _uploads) = connected().await;
            stream.write_all(b"bye").await.unwrap();
            drop(stream);
            run_ready_tasks().await;
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            assert_eq!(received, b"bye");
        });
    }

    #[test]
    fn bytes_that_a_full_socket_did_not_take_are_sent_later() {
        run(async {
            let (mut stream, mut peer, _uploads) = connected().await;
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
            run_ready_tasks().await;
            let reader = std::thread::spawn(move || {
                let mut received = vec![0; sent + 7];
                peer.read_exact(&mut received).unwrap();
                received
            });
            // Reads until the peer closes, and sends the rest meanwhile.
            assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
            assert!(reader.join().unwrap().ends_with(b"the end"));
        });
    }
}
