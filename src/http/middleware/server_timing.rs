//! How long each stage of an upload took: the response header `Server-Timing`, and metrics.

use std::cell::Cell;
use std::fmt::Write;
use std::time::Duration;

use actix_web::http::header::{HeaderName, HeaderValue};

use crate::metrics::{Metrics, Stage};

pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The time that each stage took, summed over a request's files.
pub struct StageTimes<'a> {
    metrics: &'a Metrics,
    sums: [(Stage, Cell<Option<Duration>>); 4],
}

impl<'a> StageTimes<'a> {
    pub fn new(metrics: &'a Metrics) -> Self {
        Self { metrics, sums: Stage::ALL.map(|stage| (stage, Cell::new(None))) }
    }

    /// Adds a stage of one file.
    pub fn add(&self, stage: Stage, took: Duration) {
        self.metrics.stage(stage, took);
        for (known, sum) in &self.sums {
            if *known == stage {
                sum.set(Some(sum.get().unwrap_or_default() + took));
            }
        }
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
