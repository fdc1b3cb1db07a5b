//! One file on its way to COS: the form's head, the bytes as they come, the form's tail, in exactly the length that
//! was announced, with the CRC computed on the way.
//!
//! The first bytes are kept until COS has answered or the window is passed, so that a failed attempt can be repeated.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use crc_fast::{CrcAlgorithm, Digest};
use futures::stream::LocalBoxStream;
use hyper::body::{Body, Frame as BodyFrame, SizeHint};
use tokio::time::Instant;

use super::CosError;
use super::form::Frame;
use super::parcel::Parcel;
use super::target::Target;
use super::upstream::{IDLE_FOR, SURE_FOR, Upstream};
use super::verdict::{Receipt, judge};
use crate::memory::Blocks;

/// An error of the source's own kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A file's content in order, then how it ended. Whatever follows [`Piece::End`] is never asked for.
pub type Source = LocalBoxStream<'static, Result<Piece, BoxError>>;

/// A piece of a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Content; never empty.
    Content(Bytes),
    /// The content is complete, and what was read behind it is valid.
    End(End),
}

/// How a file's content ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// No other file follows.
    pub last: bool,
    /// What stood behind the client's closing delimiter: nothing or a line break.
    pub epilogue: &'static [u8],
}

/// How long the part of our form is that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed {
    /// The file has this many bytes.
    Exact(u64),
    /// If the file is the request's last part, it and the client's epilogue have this many bytes together. The
    /// epilogue is mirrored behind our closing delimiter, so the sum is exact whichever it is.
    Guess(u64),
}

impl Framed {
    /// In bytes.
    pub fn length(self) -> u64 {
        match self {
            Self::Exact(length) | Self::Guess(length) => length,
        }
    }
}

/// So much of a form goes out at once where it comes in smaller pieces.
const PARCEL: usize = 32 * 1024;

/// Our tail's epilogue where there is none to mirror.
const EPILOGUE: &[u8] = b"\r\n";

/// A file and what is kept of it, over all attempts to store it.
pub struct Relay {
    outgoing: Rc<RefCell<Outgoing>>,
    unsettled: Cell<bool>,
    took: Cell<Took>,
    verify: bool,
}

/// How long the last attempt took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Took {
    /// Until the form's last byte was handed out, or until the attempt ended before that.
    pub send: Duration,
    /// From then on, until COS's reply was read.
    pub verdict: Option<Duration>,
}

impl Relay {
    /// `kept` are the file's first bytes (all of them when `ended`), `source` gives the rest; `window` is how many
    /// bytes may be kept for another attempt; with `verify` a differing CRC is a failure.
    pub fn new(
        kept: Blocks,
        ended: Option<End>,
        source: Source,
        window: usize,
        verify: bool,
    ) -> Self {
        let outgoing = Outgoing {
            source,
            kept,
            ended,
            whole: true,
            window,
            broken: false,
            failed: None,
            next: None,
            pass: None,
        };
        Self {
            outgoing: Rc::new(RefCell::new(outgoing)),
            unsettled: Cell::new(false),
            took: Cell::default(),
            verify,
        }
    }

    /// Whether every byte read so far is still there.
    pub fn is_replayable(&self) -> bool {
        self.outgoing.borrow().whole
    }

    /// Whether COS has had the whole form once and its verdict is not known: the file may be stored.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.get()
    }

    /// How long the last attempt took.
    pub fn took(&self) -> Took {
        self.took.get()
    }

    /// Reads ahead as far as the window goes. To be dropped at any time: what was read is kept.
    pub async fn read_ahead(&self) {
        poll_fn(|cx| self.outgoing.borrow_mut().poll_ahead(cx)).await;
    }

    /// The file's length, once all of it was read ahead.
    pub fn known_length(&self) -> Option<u64> {
        let outgoing = self.outgoing.borrow();
        (outgoing.whole && outgoing.ended.is_some()).then(|| outgoing.kept.len() as u64)
    }

    /// Posts the form to `target` once. A second attempt must be asked for only while [`Self::is_replayable`].
    pub async fn attempt(
        &self,
        upstream: &Upstream,
        target: &Target,
        frame: Frame,
        framed: Framed,
    ) -> Result<Receipt, CosError> {
        let began = Instant::now();
        // It failed while it was read ahead: COS need not hear of it.
        if let Some(error) = self.outgoing.borrow_mut().failed.take() {
            return Err(error);
        }
        let boundary = frame.boundary.clone();
        self.outgoing.borrow_mut().pass = Some(Pass::new(frame, framed));
        let body = RelayBody { outgoing: self.outgoing.clone() };
        // What does not fit the window has one attempt, which a connection that COS is just closing would cost.
        let repeatable = framed.length() <= self.outgoing.borrow().window as u64;
        let age = if repeatable { IDLE_FOR } else { SURE_FOR };
        let answer = upstream.post(target, &boundary, body, &self.outgoing, age).await;

        let Some(pass) = self.outgoing.borrow_mut().pass.take() else {
            return Err(CosError::NoVerdict("the attempt was lost"));
        };
        let now = Instant::now();
        let sent = pass.sent;
        self.took
            .set(Took { send: sent.unwrap_or(now) - began, verdict: sent.map(|sent| now - sent) });
        // What ended the body is the cause; what the connection made of it is not.
        if let Some(failure) = pass.failure {
            return Err(failure);
        }
        let complete = pass.step == Step::Done;
        let verdict =
            answer.and_then(|reply| judge(&reply, pass.content, pass.crc.finalize(), self.verify));
        match verdict {
            Ok(_) if !complete => {
                Err(CosError::NoVerdict("a success before the last byte was sent"))
            }
            Err(error) if complete && !error.is_final() => {
                self.unsettled.set(true);
                Err(error)
            }
            verdict => verdict,
        }
    }
}

/// What a [`RelayBody`] draws from; outlives the connection.
pub struct Outgoing {
    source: Source,
    kept: Blocks,
    ended: Option<End>,
    whole: bool,
    window: usize,
    /// The source ended in an error and must not be asked again.
    broken: bool,
    /// That error, while nobody has been told of it.
    failed: Option<CosError>,
    /// Read ahead, and not kept.
    next: Option<Bytes>,
    pass: Option<Pass>,
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

impl Outgoing {
    pub(super) fn waiting(&self) -> Waiting {
        self.pass.as_ref().map_or(Waiting::Upstream, |pass| pass.waiting)
    }

    /// A reply has come: whatever has not been sent is not sent any more. Says whether all of it was.
    pub(super) fn stop(&mut self) -> bool {
        let Some(pass) = &mut self.pass else {
            return false;
        };
        pass.stopped = true;
        pass.waiting = Waiting::Verdict(Instant::now());
        pass.step == Step::Done
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.next.is_none() && self.ended.is_none() && !self.broken {
            if self.kept.len() >= self.window {
                break;
            }
            match ready!(self.poll_source(cx)) {
                Ok(Piece::Content(bytes)) => {
                    let before = self.kept.len();
                    if before + bytes.len() > self.window || self.kept.push(&bytes).is_err() {
                        self.next = Some(bytes.slice(self.kept.len() - before..));
                    }
                }
                Ok(Piece::End(end)) => self.ended = Some(end),
                Err(error) => self.failed = Some(error),
            }
        }
        Poll::Ready(())
    }

    /// Whether the next bytes are here already, or are the last ones: then they go out with those before them.
    fn has_more_at_hand(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| match pass.step {
            Step::Head | Step::Kept(_) => true,
            Step::Source => pass.content + EPILOGUE.len() as u64 >= pass.framed.length(),
            Step::Done => false,
        })
    }

    fn hand_out(&mut self) {
        if let Some(pass) = &mut self.pass {
            pass.waiting = Waiting::Upstream;
        }
    }

    /// The next piece, whether it was read ahead or not. After an error nothing may be asked for.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, CosError>> {
        if let Some(bytes) = self.next.take() {
            return Poll::Ready(Ok(Piece::Content(bytes)));
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
            let Some(pass) = &mut self.pass else {
                return Poll::Ready(Some(Err(Aborted)));
            };
            if pass.stopped {
                return Poll::Pending;
            }
            match pass.step {
                Step::Head => {
                    pass.step = Step::Kept(0);
                    return Poll::Ready(Some(Ok(pass.frame.head.clone())));
                }
                Step::Kept(index) => match self.kept.run(index) {
                    Some(bytes) => {
                        pass.step = Step::Kept(index + 1);
                        return Poll::Ready(Some(pass.content(bytes)));
                    }
                    None => pass.step = Step::Source,
                },
                Step::Source => {
                    if let Some(end) = self.ended {
                        return Poll::Ready(Some(pass.close(end)));
                    }
                    pass.waiting = Waiting::Client;
                    let piece = ready!(self.poll_source(cx));
                    let Some(pass) = &mut self.pass else {
                        return Poll::Ready(Some(Err(Aborted)));
                    };
                    pass.waiting = Waiting::Upstream;
                    match piece {
                        Ok(Piece::Content(bytes)) => {
                            if self.whole {
                                let room = self.kept.len() + bytes.len() <= self.window;
                                self.whole = room && self.kept.push(&bytes).is_ok();
                                if !self.whole {
                                    self.kept.clear();
                                }
                            }
                            return Poll::Ready(Some(pass.content(bytes)));
                        }
                        Ok(Piece::End(end)) => self.ended = Some(end),
                        Err(error) => return Poll::Ready(Some(pass.fail(error))),
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
struct Pass {
    frame: Frame,
    framed: Framed,
    step: Step,
    content: u64,
    crc: Digest,
    waiting: Waiting,
    /// When the form's last byte was handed out.
    sent: Option<Instant>,
    stopped: bool,
    failure: Option<CosError>,
}

impl Pass {
    fn new(frame: Frame, framed: Framed) -> Self {
        Self {
            frame,
            framed,
            step: Step::Head,
            content: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Xz),
            waiting: Waiting::Upstream,
            sent: None,
            stopped: false,
            failure: None,
        }
    }

    fn total(&self) -> u64 {
        let epilogue = match self.framed {
            Framed::Exact(_) => EPILOGUE.len(),
            Framed::Guess(_) => 0,
        };
        self.framed.length() + (self.frame.head.len() + self.frame.closing.len() + epilogue) as u64
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
    fn close(&mut self, end: End) -> Result<Bytes, Aborted> {
        let epilogue = match self.framed {
            Framed::Exact(length) if self.content == length => EPILOGUE,
            Framed::Exact(declared) => {
                return self.fail(CosError::LengthMismatch { declared, got: self.content });
            }
            Framed::Guess(length)
                if end.last && self.content + end.epilogue.len() as u64 == length =>
            {
                end.epilogue
            }
            Framed::Guess(_) => {
                return self.fail(CosError::NotLast { content: self.content });
            }
        };
        self.step = Step::Done;
        let now = Instant::now();
        self.sent = Some(now);
        self.waiting = Waiting::Verdict(now);
        let closing = self.frame.closing.clone();
        Ok(if epilogue.is_empty() { closing } else { [&closing[..], epilogue].concat().into() })
    }

    fn fail(&mut self, failure: CosError) -> Result<Bytes, Aborted> {
        self.failure = Some(failure);
        Err(Aborted)
    }
}

/// The body ended without being complete; why is kept by the pass.
#[derive(Debug, thiserror::Error)]
#[error("the upload was aborted")]
pub struct Aborted;

/// A form as hyper sends it.
pub struct RelayBody {
    outgoing: Rc<RefCell<Outgoing>>,
}

impl Body for RelayBody {
    type Data = Parcel;
    type Error = Aborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Parcel>, Aborted>>> {
        let mut outgoing = self.outgoing.borrow_mut();
        let mut parcel = Parcel::default();
        while !parcel.is_full() && (parcel.remaining() < PARCEL || outgoing.has_more_at_hand()) {
            match outgoing.poll_bytes(cx) {
                Poll::Ready(Some(Ok(bytes))) => parcel.push(bytes),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) if !parcel.has_remaining() => return Poll::Ready(None),
                Poll::Pending if !parcel.has_remaining() => return Poll::Pending,
                Poll::Ready(None) => break,
                Poll::Pending => {
                    // What is at hand goes out first, and if it does not, that is not the client's doing.
                    outgoing.hand_out();
                    break;
                }
            }
        }
        Poll::Ready(Some(Ok(BodyFrame::data(parcel))))
    }

    fn is_end_stream(&self) -> bool {
        let outgoing = self.outgoing.borrow();
        outgoing.pass.as_ref().is_none_or(|pass| pass.step == Step::Done)
    }

    fn size_hint(&self) -> SizeHint {
        let outgoing = self.outgoing.borrow();
        SizeHint::with_exact(outgoing.pass.as_ref().map_or(0, Pass::total))
    }
}

/// How long COS may take for what.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub connect: Duration,
    /// Without taking a byte.
    pub write: Duration,
    /// For the verdict after the last byte.
    pub reply: Duration,
}
