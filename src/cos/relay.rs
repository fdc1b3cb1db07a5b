//! One attempt to send a file to COS, and the state that a further attempt needs: it can be repeated while all bytes read
//! so far are still buffered. `http/upload/transfer` decides whether it is.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::attempt::Envelope;
use super::error::CosError;
use super::form::FormEnvelope;
use super::replayable_file::{BufferLimits, RelayBody, ReplayableFile, Slowness};
use super::target::Target;
use super::upstream::Upstream;
use super::verdict::{CosResponse, Receipt, judge};
use crate::file_stream::{FileEnd, FileLength, Source};
use crate::memory::replay_buffer::ReplayBuffer;
use crate::net::http_client::exchange::head;
use crate::net::http_client::response::HeaderVisitor;
use crate::net::http_client::{Endpoint, IDLE_TIMEOUT, SAFE_IDLE_TIME};

/// A file and its state over all attempts to store it.
pub struct Relay {
    file: Rc<RefCell<ReplayableFile>>,
    outcome_unknown: Cell<bool>,
    times: Cell<Option<AttemptTimes>>,
    verify: bool,
}

/// How long the last attempt took.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttemptTimes {
    /// Until the last byte was given to the connection, or until the attempt failed before that.
    pub send: Duration,
    /// From then until COS's response was read.
    pub verdict: Option<Duration>,
}

impl Relay {
    /// `replay_buffer` has the file's first bytes (all of them if `end` is given) and `source` gives the rest.
    /// With `verify`, a CRC that differs is a failure.
    pub fn new(
        replay_buffer: ReplayBuffer,
        end: Option<FileEnd>,
        source: Source,
        limits: BufferLimits,
        verify: bool,
    ) -> Self {
        let file = ReplayableFile::new(replay_buffer, end, source, limits);
        Self {
            file: Rc::new(RefCell::new(file)),
            outcome_unknown: Cell::new(false),
            times: Cell::default(),
            verify,
        }
    }

    /// Whether every byte read so far is still buffered, so that another attempt is possible.
    pub fn is_replayable(&self) -> bool {
        self.file.borrow().is_replayable()
    }

    /// Whether an attempt sent everything and got no final verdict: the file may be stored.
    pub fn is_outcome_unknown(&self) -> bool {
        self.outcome_unknown.get()
    }

    /// How long the last attempt took. `None`: it never began, since the file could not be read.
    pub fn attempt_times(&self) -> Option<AttemptTimes> {
        self.times.get()
    }

    /// Reads ahead up to the replay window. The future may be dropped at any time: no byte that was read is lost.
    pub async fn read_ahead(&self) {
        poll_fn(|cx| self.file.borrow_mut().poll_read_ahead(cx)).await;
    }

    /// Bytes that were read ahead and are buffered.
    pub(super) fn buffered(&self) -> u64 {
        self.file.borrow().buffered() as u64
    }

    /// Makes the file end with what is buffered, while no attempt runs. Returns what was read after that.
    pub(super) fn cut(&self) -> Bytes {
        self.file.borrow_mut().cut()
    }

    /// The source's error, if reading ahead has found one.
    pub fn take_read_error(&self) -> Result<(), CosError> {
        self.file.borrow_mut().take_read_error()
    }

    /// What was done about a slow client.
    pub fn slowness(&self) -> Slowness {
        self.file.borrow().slowness()
    }

    /// After [`CosError::SlowClient`], with [`Slowness::Spooled`]: the whole file, which is sent by other means. No further
    /// attempt is possible.
    pub fn take_source(&self) -> Source {
        self.file.borrow_mut().take_source()
    }

    /// After [`CosError::SlowClient`], with [`Slowness::Spooled`]: there is no room for that, so the file is sent as it
    /// comes.
    pub fn stream_slow(&self) {
        self.file.borrow_mut().stream_slow();
    }

    /// After [`CosError::SlowClient`]: buffers the file of `length` until it is complete, or until its client is fast
    /// enough. No byte that was read is lost.
    pub async fn buffer_slow(&self, length: FileLength) {
        poll_fn(|cx| self.file.borrow_mut().poll_buffer_slow(cx, length.length())).await;
    }

    /// The file's length, once all of it was read ahead.
    pub fn known_length(&self) -> Option<u64> {
        self.file.borrow().known_length()
    }

    /// Posts the form to `target` once. A further attempt is allowed only while [`Self::is_replayable`].
    // Not `async`: the future would contain the envelope once more.
    pub fn post(
        &self,
        upstream: &Upstream,
        target: &Target,
        mut envelope: FormEnvelope,
        length: FileLength,
    ) -> impl Future<Output = Result<Receipt, CosError>> {
        let content_type = std::mem::take(&mut envelope.content_type);
        let head = move |length| {
            let fields = [("Content-Type", content_type.as_str())];
            head("POST", &target.path, &target.authority, &fields, Some(length))
        };
        let judge = |response: CosResponse, size, crc| judge(&response, size, crc, self.verify);
        self.attempt(upstream, &target.origin, head, Envelope::Form(envelope), length, judge)
    }

    /// Sends the file once, with the head that `head` makes for a body of so many bytes; `judge` is given the response,
    /// the file's size and its CRC-64. A further attempt is allowed only while [`Self::is_replayable`].
    pub(super) async fn attempt<H: HeaderVisitor + Default, T>(
        &self,
        upstream: &Upstream,
        origin: &Endpoint,
        head: impl FnOnce(u64) -> String,
        envelope: Envelope,
        length: FileLength,
        judge: impl FnOnce(CosResponse<H>, u64, u64) -> Result<T, CosError>,
    ) -> Result<T, CosError> {
        self.times.set(None);
        let began = Instant::now();
        let body = RelayBody::begin(&self.file, envelope, length)?;
        let head = head(body.length());
        // A file larger than the window has one attempt, which must not fail because COS is closing an idle connection.
        let max_idle =
            if self.file.borrow().fits_window(length) { IDLE_TIMEOUT } else { SAFE_IDLE_TIME };
        let response = upstream.send(origin, head, body, &self.file, max_idle).await;

        let Some(attempt) = self.file.borrow_mut().end_attempt() else {
            return Err(CosError::NoVerdict("the attempt's state was lost"));
        };
        let now = Instant::now();
        let sent = attempt.sent;
        self.times.set(Some(AttemptTimes {
            send: sent.unwrap_or(now) - began,
            verdict: sent.map(|sent| now - sent),
        }));
        // If the body was aborted, that is the cause; the connection's error follows from it.
        if let Some(failure) = attempt.failure {
            return Err(failure);
        }
        let complete = attempt.is_complete();
        let verdict =
            response.and_then(|response| judge(response, attempt.content, attempt.crc.finalize()));
        match verdict {
            Err(error) if complete && !error.is_final() => {
                self.outcome_unknown.set(true);
                Err(error)
            }
            verdict => verdict,
        }
    }
}
