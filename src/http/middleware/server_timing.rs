//! How long each stage of an upload took: the response header `Server-Timing`, and metrics.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderName, HeaderValue};

use super::request_span::RequestSpan;
use crate::metrics::{Metrics, Stage};
use crate::telemetry::access::push_milliseconds;

pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The time that each stage took, summed over a request's files.
pub struct StageTimes<'a> {
    metrics: &'a Metrics,
    sums: [Cell<Option<Duration>>; Stage::ALL.len()],
    attempts: Cell<u32>,
    /// `None`: the request is not traced.
    span: Option<Rc<RequestSpan>>,
}

impl<'a> StageTimes<'a> {
    pub fn new(metrics: &'a Metrics, span: Option<Rc<RequestSpan>>) -> Self {
        Self { metrics, sums: Default::default(), attempts: Cell::new(0), span }
    }

    /// Adds a stage of one file that has just ended, and began at `began`.
    pub fn add_since(&self, stage: Stage, began: Instant) {
        let now = Instant::now();
        self.add(stage, now - began, now);
    }

    /// Adds an attempt to send a file that has ended at `ended`, with COS's verdict or without.
    pub fn add_attempt(&self, send: Duration, verdict: Option<Duration>, ended: Instant) {
        let sent = verdict.and_then(|verdict| ended.checked_sub(verdict)).unwrap_or(ended);
        self.add(Stage::Send, send, sent);
        if let Some(verdict) = verdict {
            self.add(Stage::Verdict, verdict, ended);
        }
    }

    fn add(&self, stage: Stage, took: Duration, ended: Instant) {
        self.metrics.stage(stage, took);
        if let Some(span) = &self.span {
            span.add(stage, took, ended);
        }
        if stage == Stage::Send {
            self.attempts.set(self.attempts.get().saturating_add(1));
        }
        let sum = &self.sums[stage as usize];
        sum.set(Some(sum.get().unwrap_or_default() + took));
    }

    /// How often a file was sent, from its first byte; COS's API counts as one attempt, whatever it repeats of a file.
    pub fn attempts(&self) -> u32 {
        self.attempts.get()
    }

    /// The stage's time so far; `None` before it is over for the first time.
    pub fn took(&self, stage: Stage) -> Option<Duration> {
        self.sums[stage as usize].get()
    }
}

/// The value of `Server-Timing`, given how long each stage took; `None` where none is over.
pub fn header(took: impl Fn(Stage) -> Option<Duration>) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(64);
    for stage in Stage::ALL {
        let Some(took) = took(stage) else {
            continue;
        };
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(stage.name().as_bytes());
        text.extend_from_slice(b";dur=");
        push_milliseconds(&mut text, took);
    }
    HeaderValue::from_bytes(&text).ok().filter(|_| !text.is_empty())
}
