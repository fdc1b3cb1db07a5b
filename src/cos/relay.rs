//! A file and its attempts to be stored: a failed one can be repeated while all that was read is still there.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::CosError;
use super::form::FormEnvelope;
use super::outgoing::{RelayBody, ReplayableFile};
use super::target::Target;
use super::upstream::Upstream;
use super::verdict::{Receipt, judge};
use crate::file_stream::{FileEnd, FileLength, Source};
use crate::memory::replay_buffer::ReplayBuffer;
use crate::net::http_client::{IDLE_FOR, SURE_FOR};

/// A file and what is kept of it, over all attempts to store it.
pub struct Relay {
    outgoing: Rc<RefCell<ReplayableFile>>,
    outcome_unknown: Cell<bool>,
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
        kept: ReplayBuffer,
        ended: Option<FileEnd>,
        source: Source,
        window: usize,
        verify: bool,
    ) -> Self {
        let outgoing = ReplayableFile::new(kept, ended, source, window);
        Self {
            outgoing: Rc::new(RefCell::new(outgoing)),
            outcome_unknown: Cell::new(false),
            took: Cell::default(),
            verify,
        }
    }

    /// Whether every byte read so far is still there.
    pub fn is_replayable(&self) -> bool {
        self.outgoing.borrow().is_whole()
    }

    /// Whether COS has had the whole form once and its verdict is not known: the file may be stored.
    pub fn is_outcome_unknown(&self) -> bool {
        self.outcome_unknown.get()
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
        self.outgoing.borrow().known_length()
    }

    /// Posts the form to `target` once. A second attempt must be asked for only while [`Self::is_replayable`].
    pub async fn attempt(
        &self,
        upstream: &Upstream,
        target: &Target,
        envelope: FormEnvelope,
        framed: FileLength,
    ) -> Result<Receipt, CosError> {
        let began = Instant::now();
        let boundary = envelope.boundary.clone();
        let body = RelayBody::begin(&self.outgoing, envelope, framed)?;
        // What does not fit the window has one attempt, which a connection that COS is just closing would cost.
        let age = if self.outgoing.borrow().fits(framed) { IDLE_FOR } else { SURE_FOR };
        let answer = upstream.post(target, &boundary, body, &self.outgoing, age).await;

        let Some(attempt) = self.outgoing.borrow_mut().end() else {
            return Err(CosError::NoVerdict("the attempt was lost"));
        };
        let now = Instant::now();
        let sent = attempt.sent;
        self.took
            .set(Took { send: sent.unwrap_or(now) - began, verdict: sent.map(|sent| now - sent) });
        // What ended the body is the cause; what the connection made of it is not.
        if let Some(failure) = attempt.failure {
            return Err(failure);
        }
        let complete = attempt.is_complete();
        let verdict = answer
            .and_then(|reply| judge(&reply, attempt.content, attempt.crc.finalize(), self.verify));
        match verdict {
            Err(error) if complete && !error.is_final() => {
                self.outcome_unknown.set(true);
                Err(error)
            }
            verdict => verdict,
        }
    }
}
