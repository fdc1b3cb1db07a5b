//! A file that can be sent several times: it can be replayed while all bytes read so far are in its replay window. The
//! window grows while memory is free. A file whose client is slow is buffered first, if it fits into memory.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::attempt::{Attempt, EPILOGUE, Envelope, Step, Waiting};
use super::error::CosError;
use super::pace::Pace;
use crate::file_stream::{FileEnd, FileEvent, FileLength, Source};
use crate::memory::replay_buffer::ReplayBuffer;
use crate::net::http_client::exchange::{Aborted, BodySource, Fill};
use crate::net::http_client::write_queue::WriteQueue;

/// Smaller chunks of a form are collected up to this many bytes before they are written.
const QUEUE_TARGET: usize = 128 * 1024;

/// How much of a file may be buffered.
#[derive(Debug, Clone, Copy)]
pub struct BufferLimits {
    /// In bytes: of every file, for another attempt.
    pub window: usize,
    /// In bytes: if that much memory is free when the file exceeds `window`.
    pub window_max: usize,
    /// In bytes: of a file whose client would take longer than `slow_limit` to send it.
    pub slow_file: usize,
    /// Zero: no file is buffered for that.
    pub slow_limit: Duration,
    /// A file that exceeds `slow_file`, or for which memory has no room, can be spooled.
    pub has_spool: bool,
}

impl BufferLimits {
    /// Only for another attempt.
    pub fn window(bytes: usize) -> Self {
        Self {
            window: bytes,
            window_max: bytes,
            slow_file: 0,
            slow_limit: Duration::ZERO,
            has_spool: false,
        }
    }
}

/// The file that a [`RelayBody`] reads; it outlives the connection of an attempt.
pub struct ReplayableFile {
    source: Source,
    /// The file's first bytes; all bytes read so far while `replayable`.
    replay_buffer: ReplayBuffer,
    /// How the file ended, once it was read to its end.
    end: Option<FileEnd>,
    /// Every byte read so far is in `replay_buffer` or `next_chunk`.
    replayable: bool,
    limits: BufferLimits,
    /// How fast the client sends.
    pace: Pace,
    /// Bytes read from the source.
    received: u64,
    slowness: Slowness,
    /// Memory for [`BufferLimits::window_max`] is reserved; `None` before that was tried.
    has_grown: Option<bool>,
    /// The source returned an error and must not be polled again.
    source_failed: bool,
    /// That error, if it was found while reading ahead and was not returned yet.
    read_ahead_error: Option<CosError>,
    /// A chunk that was read ahead and is not in the buffer.
    next_chunk: Option<Bytes>,
    attempt: Option<Attempt>,
}

/// What was done about a client that would take longer than [`BufferLimits::slow_limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slowness {
    None,
    /// The attempt was ended, and the file is buffered first.
    Buffered,
    /// The attempt was ended; the file does not fit into memory, and is spooled first.
    Spooled,
    /// The file does not fit into memory, and is sent as it comes.
    Streamed,
}

impl ReplayableFile {
    pub(super) fn new(
        replay_buffer: ReplayBuffer,
        end: Option<FileEnd>,
        source: Source,
        limits: BufferLimits,
    ) -> Self {
        Self {
            received: replay_buffer.len() as u64,
            source,
            replay_buffer,
            end,
            replayable: true,
            limits,
            pace: Pace::default(),
            slowness: Slowness::None,
            has_grown: None,
            source_failed: false,
            read_ahead_error: None,
            next_chunk: None,
            attempt: None,
        }
    }

    /// Whether every byte read so far is still buffered, so that another attempt is possible.
    pub(super) fn is_replayable(&self) -> bool {
        self.replayable
    }

    /// Whether a file of this length fits the replay window.
    pub(super) fn fits_window(&self, length: FileLength) -> bool {
        length.length() <= self.limits.window as u64
    }

    /// The file's length, once all of it was read and is still buffered.
    pub(super) fn known_length(&self) -> Option<u64> {
        (self.replayable && self.end.is_some()).then(|| self.replay_buffer.len() as u64)
    }

    pub(super) fn take_read_error(&mut self) -> Result<(), CosError> {
        self.read_ahead_error.take().map_or(Ok(()), Err)
    }

    pub(super) fn slowness(&self) -> Slowness {
        self.slowness
    }

    /// Whether so many bytes may be buffered for another attempt.
    fn fits(&mut self, bytes: usize) -> bool {
        let BufferLimits { window, window_max, .. } = self.limits;
        if bytes <= window || bytes > window_max {
            return bytes <= window;
        }
        let buffered = self.replay_buffer.len();
        let buffer = &mut self.replay_buffer;
        *self.has_grown.get_or_insert_with(|| buffer.reserve(window_max - buffered))
    }

    /// Ends the attempt and returns it.
    pub(super) fn end_attempt(&mut self) -> Option<Attempt> {
        self.attempt.take()
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.attempt.as_ref().map_or(Waiting::Upstream, |attempt| attempt.waiting)
    }

    /// A response has come: the rest is not sent.
    fn stop(&mut self) {
        if let Some(attempt) = &mut self.attempt
            && !matches!(attempt.waiting, Waiting::Verdict(_))
        {
            attempt.waiting = Waiting::Verdict(Instant::now());
        }
    }

    /// Reads ahead up to the replay window.
    pub(super) fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Memory may have become free since the chunk was read.
        if let Some(bytes) = self.next_chunk.take() {
            self.buffer(bytes);
        }
        while self.next_chunk.is_none() && self.end.is_none() && !self.source_failed {
            if self.replay_buffer.len() >= self.limits.window {
                break;
            }
            ready!(self.poll_buffer(cx));
        }
        Poll::Ready(())
    }

    /// Buffers a file of `length` bytes until it is complete, until the client is fast enough for the rest of it, or
    /// until memory is used up.
    pub(super) fn poll_buffer_slow(&mut self, cx: &mut Context<'_>, length: u64) -> Poll<()> {
        while self.next_chunk.is_none() && self.end.is_none() && !self.source_failed {
            let BufferLimits { slow_limit, .. } = self.limits;
            let left = self.pace.time_for(length.saturating_sub(self.received));
            if self.pace.is_known(slow_limit) && left <= slow_limit / 2 {
                break;
            }
            ready!(self.poll_buffer(cx));
        }
        Poll::Ready(())
    }

    /// Reads the next event into the buffer. Content that does not fit becomes the next chunk.
    fn poll_buffer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.poll_source(cx)) {
            Ok(FileEvent::Content(bytes)) => self.buffer(bytes),
            Ok(FileEvent::End(end)) => self.end = Some(end),
            Err(error) => self.read_ahead_error = Some(error),
        }
        Poll::Ready(())
    }

    fn buffer(&mut self, bytes: Bytes) {
        let before = self.replay_buffer.len();
        if !self.fits(before + bytes.len()) || self.replay_buffer.push(&bytes).is_err() {
            self.next_chunk = Some(bytes.slice(self.replay_buffer.len() - before..));
        }
    }

    /// Bytes buffered.
    pub(super) fn buffered(&self) -> usize {
        self.replay_buffer.len()
    }

    /// Makes the file end with what is buffered. Returns the chunk that was read after that.
    pub(super) fn cut(&mut self) -> Bytes {
        self.end = Some(FileEnd { last: true, epilogue: Bytes::new() });
        self.next_chunk.take().unwrap_or_default()
    }

    /// Retains a chunk for another attempt, if all bytes before it are retained and it fits.
    fn retain(&mut self, bytes: &Bytes) {
        if self.replayable {
            let fits = self.fits(self.replay_buffer.len() + bytes.len());
            self.replayable = fits && self.replay_buffer.push(bytes).is_ok();
            if !self.replayable {
                self.replay_buffer.clear();
            }
        }
    }

    /// Whether the attempt must end because its client is slow, now that `bytes` were read of `length` in all: COS would
    /// refuse it after its last byte. Decided once, at the latest when the bytes can no longer be retained.
    fn must_buffer_first(&mut self, bytes: usize, length: u64, began: Instant) -> bool {
        let BufferLimits { slow_file, slow_limit, .. } = self.limits;
        let buffered = self.replay_buffer.len();
        let leaves_window = self.replayable && !self.fits(buffered + bytes);
        if slow_limit.is_zero()
            || self.slowness != Slowness::None && !self.replayable
            || !self.pace.is_known(slow_limit) && !leaves_window
        {
            return false;
        }
        let left = length.saturating_sub(self.received);
        if began.elapsed().saturating_add(self.pace.time_for(left)) <= slow_limit {
            return false;
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX).saturating_add(bytes);
        let can_buffer = self.replayable
            && buffered.saturating_add(left) <= slow_file
            && self.replay_buffer.has_room_for(left);
        let can_spool = self.replayable && self.limits.has_spool;
        self.slowness = if can_buffer {
            self.limits.window = slow_file;
            Slowness::Buffered
        } else if can_spool {
            // These bytes are the last to be buffered.
            self.limits.window = self.limits.window.max(buffered + bytes);
            Slowness::Spooled
        } else {
            Slowness::Streamed
        };
        can_buffer || can_spool
    }

    /// The file cannot be spooled after all: it is sent as it comes.
    pub(super) fn stream_slow(&mut self) {
        self.slowness = Slowness::Streamed;
        self.limits.has_spool = false;
    }

    /// What was buffered, and what is still to come, while no attempt runs. The file itself is empty then.
    pub(super) fn take_source(&mut self) -> Source {
        let buffered = self.replay_buffer.take().into_segments();
        let events =
            buffered.chain(self.next_chunk.take()).map(|bytes| Ok(FileEvent::Content(bytes)));
        let end = self.end.take().map(|end| Ok(FileEvent::End(end)));
        let rest = std::mem::replace(&mut self.source, Box::pin(stream::empty()));
        self.source_failed = true;
        Box::pin(stream::iter(events.chain(end)).chain(rest))
    }

    /// Whether the next bytes are buffered, or are the form's last ones: then they are written together with the bytes
    /// before them. Others are read once few bytes are queued: if they cannot be retained, the buffer's charge is released,
    /// and what is queued of it is not charged any more.
    fn has_more_ready(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| match attempt.step {
            Step::Head => true,
            Step::Replay(index) if self.replay_buffer.has_segment(index) => true,
            Step::Replay(_) | Step::Source => {
                attempt.content + EPILOGUE.len() as u64 >= attempt.length.length()
            }
            Step::Done => false,
        })
    }

    fn set_waiting_for_upstream(&mut self) {
        self.pace.interrupt();
        if let Some(attempt) = &mut self.attempt {
            attempt.waiting = Waiting::Upstream;
        }
    }

    /// The next event, whether it was read ahead or not. Must not be called after an error.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<FileEvent, CosError>> {
        if let Some(bytes) = self.next_chunk.take() {
            return Poll::Ready(Ok(FileEvent::Content(bytes)));
        }
        let Poll::Ready(event) = self.source.as_mut().poll_next(cx) else {
            self.pace.wait();
            return Poll::Pending;
        };
        if let Some(Ok(FileEvent::Content(bytes))) = &event {
            self.pace.received(bytes.len());
            self.received += bytes.len() as u64;
        }
        self.source_failed = !matches!(event, Some(Ok(_)));
        Poll::Ready(match event {
            Some(event) => event.map_err(CosError::Source),
            None => Err(CosError::NoVerdict("the file's source ended early")),
        })
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Aborted>>> {
        loop {
            let Some(attempt) = &mut self.attempt else {
                return Poll::Ready(Some(Err(Aborted)));
            };
            match attempt.step {
                Step::Head => {
                    attempt.step = Step::Replay(0);
                    return Poll::Ready(Some(Ok(attempt.head())));
                }
                Step::Replay(index) => match self.replay_buffer.segment(index) {
                    Some(bytes) => {
                        attempt.step = Step::Replay(index + 1);
                        return Poll::Ready(Some(attempt.content(bytes)));
                    }
                    None => attempt.step = Step::Source,
                },
                Step::Source => {
                    if let Some(end) = &self.end {
                        return Poll::Ready(Some(attempt.close(end)));
                    }
                    attempt.waiting = Waiting::Client;
                    let event = ready!(self.poll_source(cx));
                    let Some(attempt) = &mut self.attempt else {
                        return Poll::Ready(Some(Err(Aborted)));
                    };
                    attempt.waiting = Waiting::Upstream;
                    let (length, began) = (attempt.length.length(), attempt.began);
                    match event {
                        Ok(FileEvent::Content(bytes)) => {
                            let is_slow = self.must_buffer_first(bytes.len(), length, began);
                            self.retain(&bytes);
                            let Some(attempt) = &mut self.attempt else {
                                return Poll::Ready(Some(Err(Aborted)));
                            };
                            return Poll::Ready(Some(if is_slow && self.replayable {
                                attempt.fail(CosError::SlowClient)
                            } else {
                                attempt.content(bytes)
                            }));
                        }
                        Ok(FileEvent::End(end)) => self.end = Some(end),
                        Err(error) => return Poll::Ready(Some(attempt.fail(error))),
                    }
                }
                Step::Done => return Poll::Ready(None),
            }
        }
    }
}

/// One attempt, as a request's body.
pub struct RelayBody {
    file: Rc<RefCell<ReplayableFile>>,
}

impl RelayBody {
    /// Begins an attempt. An error that was found while reading ahead is returned here, before COS gets a request.
    pub(super) fn begin(
        file: &Rc<RefCell<ReplayableFile>>,
        envelope: Envelope,
        length: FileLength,
    ) -> Result<Self, CosError> {
        let mut borrowed = file.borrow_mut();
        borrowed.take_read_error()?;
        borrowed.attempt = Some(Attempt::new(envelope, length));
        Ok(Self { file: file.clone() })
    }

    /// The request's Content-Length.
    pub(super) fn length(&self) -> u64 {
        self.file.borrow().attempt.as_ref().map_or(0, Attempt::body_length)
    }
}

impl BodySource for RelayBody {
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut WriteQueue,
    ) -> Poll<Result<Fill, Aborted>> {
        let mut file = self.file.borrow_mut();
        while !queue.is_full() && (queue.remaining() < QUEUE_TARGET || file.has_more_ready()) {
            match file.poll_bytes(cx) {
                Poll::Ready(Some(bytes)) => {
                    let bytes = bytes?;
                    if !bytes.is_empty() {
                        queue.push(bytes);
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Ok(Fill::Last)),
                Poll::Pending if !queue.has_remaining() => return Poll::Pending,
                Poll::Pending => {
                    // The queued bytes are written first; if that stalls, COS is the cause and not the client.
                    file.set_waiting_for_upstream();
                    break;
                }
            }
        }
        let done = file.attempt.as_ref().is_none_or(|attempt| attempt.step == Step::Done);
        Poll::Ready(Ok(if done { Fill::Last } else { Fill::More }))
    }

    fn stop(&mut self) {
        self.file.borrow_mut().stop();
    }
}
