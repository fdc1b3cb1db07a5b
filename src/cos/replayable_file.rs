//! A file that can be sent several times, and the form of one attempt: the head, the file's bytes as they come, the
//! tail, in exactly the announced length, with the file's CRC. The file can be replayed while all of it fits the replay
//! window.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use crc_fast::{CrcAlgorithm, Digest};
use tokio::time::Instant;

use super::error::CosError;
use super::form::FormEnvelope;
use crate::file_stream::{FileEnd, FileEvent, FileLength, Source};
use crate::memory::replay_buffer::ReplayBuffer;
use crate::net::http_client::exchange::{Aborted, BodySource, Fill};
use crate::net::http_client::write_queue::WriteQueue;

/// Smaller chunks of a form are collected up to this many bytes before they are written.
const QUEUE_TARGET: usize = 128 * 1024;

/// The epilogue after the closing delimiter where the client's is not repeated.
const EPILOGUE: &[u8] = b"\r\n";

/// The file that a [`RelayBody`] reads; it outlives the connection of an attempt.
pub struct ReplayableFile {
    source: Source,
    /// The file's first bytes; all bytes read so far while `replayable`.
    replay_buffer: ReplayBuffer,
    /// How the file ended, once it was read to its end.
    end: Option<FileEnd>,
    /// Every byte read so far is in `replay_buffer` or `next_chunk`.
    replayable: bool,
    /// How many bytes may be buffered for another attempt.
    replay_window: usize,
    /// The source returned an error and must not be polled again.
    source_failed: bool,
    /// That error, if it was found while reading ahead and was not returned yet.
    read_ahead_error: Option<CosError>,
    /// A chunk that was read ahead and is not in the buffer.
    next_chunk: Option<Bytes>,
    attempt: Option<Attempt>,
}

/// What an attempt waits for, so that a stall is attributed to the side that causes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For the client's next bytes; the request's body has its own timer for that.
    Client,
    /// For COS to accept the bytes that were given to the connection.
    Upstream,
    /// For the verdict, since the form's last byte was given to the connection.
    Verdict(Instant),
}

impl Waiting {
    /// Since when the verdict is awaited.
    pub(super) fn verdict_since(self) -> Option<Instant> {
        match self {
            Self::Verdict(since) => Some(since),
            Self::Client | Self::Upstream => None,
        }
    }
}

impl ReplayableFile {
    pub(super) fn new(
        replay_buffer: ReplayBuffer,
        end: Option<FileEnd>,
        source: Source,
        replay_window: usize,
    ) -> Self {
        Self {
            source,
            replay_buffer,
            end,
            replayable: true,
            replay_window,
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
        length.length() <= self.replay_window as u64
    }

    /// The file's length, once all of it was read and is still buffered.
    pub(super) fn known_length(&self) -> Option<u64> {
        (self.replayable && self.end.is_some()).then(|| self.replay_buffer.len() as u64)
    }

    /// Ends the attempt and returns it.
    pub(super) fn end_attempt(&mut self) -> Option<Attempt> {
        self.attempt.take()
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.attempt.as_ref().map_or(Waiting::Upstream, |attempt| attempt.waiting)
    }

    /// A response has come: the rest of the form is not sent.
    fn stop(&mut self) {
        if let Some(attempt) = &mut self.attempt
            && !matches!(attempt.waiting, Waiting::Verdict(_))
        {
            attempt.waiting = Waiting::Verdict(Instant::now());
        }
    }

    /// Reads ahead up to the replay window.
    pub(super) fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.next_chunk.is_none() && self.end.is_none() && !self.source_failed {
            if self.replay_buffer.len() >= self.replay_window {
                break;
            }
            match ready!(self.poll_source(cx)) {
                Ok(FileEvent::Content(bytes)) => {
                    let before = self.replay_buffer.len();
                    if before + bytes.len() > self.replay_window
                        || self.replay_buffer.push(&bytes).is_err()
                    {
                        self.next_chunk = Some(bytes.slice(self.replay_buffer.len() - before..));
                    }
                }
                Ok(FileEvent::End(end)) => self.end = Some(end),
                Err(error) => self.read_ahead_error = Some(error),
            }
        }
        Poll::Ready(())
    }

    /// Whether the next bytes are in memory already, or are the form's last ones: then they are written together with
    /// the bytes before them.
    fn has_more_ready(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| match attempt.step {
            Step::Head | Step::Replay(_) => true,
            Step::Source => attempt.content + EPILOGUE.len() as u64 >= attempt.length.length(),
            Step::Done => false,
        })
    }

    fn set_waiting_for_upstream(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.waiting = Waiting::Upstream;
        }
    }

    /// The next event, whether it was read ahead or not. Must not be called after an error.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<FileEvent, CosError>> {
        if let Some(bytes) = self.next_chunk.take() {
            return Poll::Ready(Ok(FileEvent::Content(bytes)));
        }
        let event = ready!(self.source.as_mut().poll_next(cx));
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
                    return Poll::Ready(Some(Ok(attempt.envelope.head.clone())));
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
                    match event {
                        Ok(FileEvent::Content(bytes)) => {
                            if self.replayable {
                                let fits =
                                    self.replay_buffer.len() + bytes.len() <= self.replay_window;
                                self.replayable = fits && self.replay_buffer.push(&bytes).is_ok();
                                if !self.replayable {
                                    self.replay_buffer.clear();
                                }
                            }
                            return Poll::Ready(Some(attempt.content(bytes)));
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Head,
    /// The run of the replay buffer with this index.
    Replay(usize),
    Source,
    /// The tail was given to the connection.
    Done,
}

/// One attempt to send the file.
pub(super) struct Attempt {
    envelope: FormEnvelope,
    length: FileLength,
    step: Step,
    /// Bytes of the file that were given to the connection.
    pub(super) content: u64,
    pub(super) crc: Digest,
    waiting: Waiting,
    /// When the form's last byte was given to the connection.
    pub(super) sent: Option<Instant>,
    /// Why the body was aborted.
    pub(super) failure: Option<CosError>,
}

impl Attempt {
    fn new(envelope: FormEnvelope, length: FileLength) -> Self {
        Self {
            envelope,
            length,
            step: Step::Head,
            content: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Xz),
            waiting: Waiting::Upstream,
            sent: None,
            failure: None,
        }
    }

    /// Whether the whole form was given to the connection.
    pub(super) fn is_complete(&self) -> bool {
        self.step == Step::Done
    }

    /// The form's length in bytes.
    fn form_length(&self) -> u64 {
        let epilogue = match self.length {
            FileLength::Known(_) => EPILOGUE.len(),
            FileLength::Assumed(_) => 0,
        };
        self.length.length()
            + (self.envelope.head.len() + self.envelope.closing.len() + epilogue) as u64
    }

    fn content(&mut self, bytes: Bytes) -> Result<Bytes, Aborted> {
        self.content += bytes.len() as u64;
        if self.content > self.length.length() {
            return self.fail(CosError::LengthMismatch {
                declared: self.length.length(),
                got: self.content,
            });
        }
        self.crc.update(&bytes);
        Ok(bytes)
    }

    /// The form's tail, if the file has the announced length. This is the only place where an object becomes complete.
    fn close(&mut self, end: &FileEnd) -> Result<Bytes, Aborted> {
        let epilogue = match self.length {
            FileLength::Known(length) if self.content == length => EPILOGUE,
            FileLength::Known(declared) => {
                return self.fail(CosError::LengthMismatch { declared, got: self.content });
            }
            FileLength::Assumed(length)
                if end.last && self.content + end.epilogue.len() as u64 == length =>
            {
                &end.epilogue[..]
            }
            FileLength::Assumed(_) => {
                return self.fail(CosError::NotLast { content: self.content });
            }
        };
        self.step = Step::Done;
        let now = Instant::now();
        self.sent = Some(now);
        self.waiting = Waiting::Verdict(now);
        let closing = self.envelope.closing.clone();
        Ok(if epilogue.is_empty() { closing } else { [&closing[..], epilogue].concat().into() })
    }

    fn fail(&mut self, failure: CosError) -> Result<Bytes, Aborted> {
        self.failure = Some(failure);
        Err(Aborted)
    }
}

/// The form of one attempt, as a request's body.
pub struct RelayBody {
    file: Rc<RefCell<ReplayableFile>>,
}

impl RelayBody {
    /// Begins an attempt. An error that was found while reading ahead is returned here, before COS gets a request.
    pub(super) fn begin(
        file: &Rc<RefCell<ReplayableFile>>,
        envelope: FormEnvelope,
        length: FileLength,
    ) -> Result<Self, CosError> {
        let mut borrowed = file.borrow_mut();
        if let Some(error) = borrowed.read_ahead_error.take() {
            return Err(error);
        }
        borrowed.attempt = Some(Attempt::new(envelope, length));
        Ok(Self { file: file.clone() })
    }

    /// The Content-Length of the POST to COS.
    pub(super) fn length(&self) -> u64 {
        self.file.borrow().attempt.as_ref().map_or(0, Attempt::form_length)
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
                Poll::Ready(Some(bytes)) => queue.push(bytes?),
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
