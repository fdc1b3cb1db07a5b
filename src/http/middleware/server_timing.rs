//! How long each stage of an upload took: the response header `Server-Timing`, and metrics.

use std::cell::Cell;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderName, HeaderValue};

use super::request_span::RequestSpan;
use crate::metrics::{Metrics, Stage};

pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The time that each stage took, summed over a request's files.
pub struct StageTimes<'a> {
    metrics: &'a Metrics,
    sums: [(Stage, Cell<Option<Duration>>); 4],
    attempts: Cell<u32>,
    /// `None`: the request is not traced.
    span: Option<Rc<RequestSpan>>,
}

impl<'a> StageTimes<'a> {
    pub fn new(metrics: &'a Metrics, span: Option<Rc<RequestSpan>>) -> Self {
        let sums = Stage::ALL.map(|stage| (stage, Cell::new(None)));
        Self { metrics, sums, attempts: Cell::new(0), span }
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
        for (known, sum) in &self.sums {
            if *known == stage {
                sum.set(Some(sum.get().unwrap_or_default() + took));
            }
        }
    }

    /// How often a file was sent, from its first byte; COS's API counts as one attempt, whatever it repeats of a file.
    pub fn attempts(&self) -> u32 {
        self.attempts.get()
    }

    /// The stage's time so far; `None` before it is over for the first time.
    pub fn took(&self, stage: Stage) -> Option<Duration> {
        self.sums.iter().find(|(known, _)| *known == stage).and_then(|(_, sum)| sum.get())
    }

    /// The header's value; `None` while no stage is over.
    pub fn header(&self) -> Option<ServerTiming> {
        let mut text = String::with_capacity(64);
        for (stage, sum) in &self.sums {
            let Some(took) = sum.get() else {
                continue;
            };
            let separator = if text.is_empty() { "" } else { ", " };
            let (milliseconds, tenth) = (took.as_millis(), took.subsec_micros() / 100 % 10);
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{};dur={milliseconds}.{tenth}", stage.name());
        }
        if text.is_empty() {
            return None;
        }
        HeaderValue::try_from(text).ok().map(ServerTiming)
    }
}

/// The value of `Server-Timing`, in the request's extensions until the response is made.
#[derive(Clone)]
pub struct ServerTiming(pub HeaderValue);
