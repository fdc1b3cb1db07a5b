//! One attempt's form as it goes out: the head, the bytes as they come, the tail, in exactly the length that was
//! announced, with the CRC computed on the way. The first bytes are kept until the window is passed.

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

/// So much of a form goes out at once where it comes in smaller pieces.
const QUEUE_TARGET: usize = 128 * 1024;

/// Our tail's epilogue where there is none to mirror.
const EPILOGUE: &[u8] = b"\r\n";

/// What a [`RelayBody`] draws from; outlives the connection.
pub struct ReplayableFile {
    source: Source,
    kept: ReplayBuffer,
    ended: Option<FileEnd>,
    whole: bool,
    window: usize,
    /// The source ended in an error and must not be asked again.
    broken: bool,
    /// That error, while nobody has been told of it.
    failed: Option<CosError>,
    /// Read ahead, and not kept.
    next: Option<Bytes>,
    attempt: Option<Attempt>,
}

/// What the relay waits for, and since when: stalls are blamed on who caused them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For the client's next bytes; its own timer watches that.
    Client,
    /// For COS to take what was handed out.
    Upstream,
    /// For the verdict on the whole form, since the last byte was handed out.
    Verdict(Instant),
}

impl Waiting {
    /// Since when the verdict is waited for.
    pub(super) fn verdict_since(self) -> Option<Instant> {
        match self {
            Self::Verdict(since) => Some(since),
            Self::Client | Self::Upstream => None,
        }
    }
}

impl ReplayableFile {
    pub(super) fn new(
        kept: ReplayBuffer,
        ended: Option<FileEnd>,
        source: Source,
        window: usize,
    ) -> Self {
        Self {
            source,
            kept,
            ended,
            whole: true,
            window,
            broken: false,
            failed: None,
            next: None,
            attempt: None,
        }
    }

    /// Whether every byte read so far is still there.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether all of a file would be.
    pub(super) fn fits(&self, framed: FileLength) -> bool {
        framed.length() <= self.window as u64
    }

    /// The file's length, once all of it was read and is still there.
    pub(super) fn known_length(&self) -> Option<u64> {
        (self.whole && self.ended.is_some()).then(|| self.kept.len() as u64)
    }

    /// The attempt is over.
    pub(super) fn end(&mut self) -> Option<Attempt> {
        self.attempt.take()
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.attempt.as_ref().map_or(Waiting::Upstream, |attempt| attempt.waiting)
    }

    /// A reply has come: whatever has not been sent is not sent any more.
    fn stop(&mut self) {
        if let Some(attempt) = &mut self.attempt
            && !matches!(attempt.waiting, Waiting::Verdict(_))
        {
            attempt.waiting = Waiting::Verdict(Instant::now());
        }
    }

    /// Reads ahead as far as the window goes.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.next.is_none() && self.ended.is_none() && !self.broken {
            if self.kept.len() >= self.window {
                break;
            }
            match ready!(self.poll_source(cx)) {
                Ok(FileEvent::Content(bytes)) => {
                    let before = self.kept.len();
                    if before + bytes.len() > self.window || self.kept.push(&bytes).is_err() {
                        self.next = Some(bytes.slice(self.kept.len() - before..));
                    }
                }
                Ok(FileEvent::End(end)) => self.ended = Some(end),
                Err(error) => self.failed = Some(error),
            }
        }
        Poll::Ready(())
    }

    /// Whether the next bytes are here already, or are the last ones: then they go out with those before them.
    fn has_more_at_hand(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| match attempt.step {
            Step::Head | Step::Kept(_) => true,
            Step::Source => attempt.content + EPILOGUE.len() as u64 >= attempt.framed.length(),
            Step::Done => false,
        })
    }

    fn hand_out(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.waiting = Waiting::Upstream;
        }
    }

    /// The next piece, whether it was read ahead or not. After an error nothing may be asked for.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<FileEvent, CosError>> {
        if let Some(bytes) = self.next.take() {
            return Poll::Ready(Ok(FileEvent::Content(bytes)));
        }
        let piece = ready!(self.source.as_mut().poll_next(cx));
        self.broken = !matches!(piece, Some(Ok(_)));
        Poll::Ready(match piece {
            Some(piece) => piece.map_err(CosError::Source),
            None => Err(CosError::NoVerdict("the source broke off")),
        })
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Aborted>>> {
        loop {
            let Some(attempt) = &mut self.attempt else {
                return Poll::Ready(Some(Err(Aborted)));
            };
            match attempt.step {
                Step::Head => {
                    attempt.step = Step::Kept(0);
                    return Poll::Ready(Some(Ok(attempt.envelope.head.clone())));
                }
                Step::Kept(index) => match self.kept.segment(index) {
                    Some(bytes) => {
                        attempt.step = Step::Kept(index + 1);
                        return Poll::Ready(Some(attempt.content(bytes)));
                    }
                    None => attempt.step = Step::Source,
                },
                Step::Source => {
                    if let Some(end) = &self.ended {
                        return Poll::Ready(Some(attempt.close(end)));
                    }
                    attempt.waiting = Waiting::Client;
                    let piece = ready!(self.poll_source(cx));
                    let Some(attempt) = &mut self.attempt else {
                        return Poll::Ready(Some(Err(Aborted)));
                    };
                    attempt.waiting = Waiting::Upstream;
                    match piece {
                        Ok(FileEvent::Content(bytes)) => {
                            if self.whole {
                                let room = self.kept.len() + bytes.len() <= self.window;
                                self.whole = room && self.kept.push(&bytes).is_ok();
                                if !self.whole {
                                    self.kept.clear();
                                }
                            }
                            return Poll::Ready(Some(attempt.content(bytes)));
                        }
                        Ok(FileEvent::End(end)) => self.ended = Some(end),
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
    /// The next run of what is kept.
    Kept(usize),
    Source,
    /// The tail was handed out.
    Done,
}

/// One attempt.
pub(super) struct Attempt {
    envelope: FormEnvelope,
    framed: FileLength,
    step: Step,
    /// Bytes of the file that were handed out.
    pub(super) content: u64,
    pub(super) crc: Digest,
    waiting: Waiting,
    /// When the form's last byte was handed out.
    pub(super) sent: Option<Instant>,
    /// What ended the body.
    pub(super) failure: Option<CosError>,
}

impl Attempt {
    fn new(envelope: FormEnvelope, framed: FileLength) -> Self {
        Self {
            envelope,
            framed,
            step: Step::Head,
            content: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Xz),
            waiting: Waiting::Upstream,
            sent: None,
            failure: None,
        }
    }

    /// Whether the whole form was handed out.
    pub(super) fn is_complete(&self) -> bool {
        self.step == Step::Done
    }

    fn total(&self) -> u64 {
        let epilogue = match self.framed {
            FileLength::Known(_) => EPILOGUE.len(),
            FileLength::Assumed(_) => 0,
        };
        self.framed.length()
            + (self.envelope.head.len() + self.envelope.closing.len() + epilogue) as u64
    }

    fn content(&mut self, bytes: Bytes) -> Result<Bytes, Aborted> {
        self.content += bytes.len() as u64;
        if self.content > self.framed.length() {
            return self.fail(CosError::LengthMismatch {
                declared: self.framed.length(),
                got: self.content,
            });
        }
        self.crc.update(&bytes);
        Ok(bytes)
    }

    /// The form's tail, if the announced length came true. This is the only place where an object becomes complete.
    fn close(&mut self, end: &FileEnd) -> Result<Bytes, Aborted> {
        let epilogue = match self.framed {
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

/// A form as it goes out behind a request's head.
pub struct RelayBody {
    outgoing: Rc<RefCell<ReplayableFile>>,
}

impl RelayBody {
    /// Begins an attempt. What failed while it was read ahead fails here: COS need not hear of it.
    pub(super) fn begin(
        outgoing: &Rc<RefCell<ReplayableFile>>,
        envelope: FormEnvelope,
        framed: FileLength,
    ) -> Result<Self, CosError> {
        let mut drawn = outgoing.borrow_mut();
        if let Some(error) = drawn.failed.take() {
            return Err(error);
        }
        drawn.attempt = Some(Attempt::new(envelope, framed));
        Ok(Self { outgoing: outgoing.clone() })
    }

    /// In bytes, as the request announces it.
    pub(super) fn length(&self) -> u64 {
        self.outgoing.borrow().attempt.as_ref().map_or(0, Attempt::total)
    }
}

impl BodySource for RelayBody {
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        queue: &mut WriteQueue,
    ) -> Poll<Result<Fill, Aborted>> {
        let mut outgoing = self.outgoing.borrow_mut();
        while !queue.is_full() && (queue.remaining() < QUEUE_TARGET || outgoing.has_more_at_hand())
        {
            match outgoing.poll_bytes(cx) {
                Poll::Ready(Some(bytes)) => queue.push(bytes?),
                Poll::Ready(None) => return Poll::Ready(Ok(Fill::Last)),
                Poll::Pending if !queue.has_remaining() => return Poll::Pending,
                Poll::Pending => {
                    // What is at hand goes out first, and if it does not, that is not the client's doing.
                    outgoing.hand_out();
                    break;
                }
            }
        }
        let done = outgoing.attempt.as_ref().is_none_or(|attempt| attempt.step == Step::Done);
        Poll::Ready(Ok(if done { Fill::Last } else { Fill::More }))
    }

    fn stop(&mut self) {
        self.outgoing.borrow_mut().stop();
    }
}
