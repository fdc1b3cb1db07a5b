//! Who was slow in an upload: told to the client in `Server-Timing`, to the operator as metrics.

use std::cell::Cell;
use std::time::Duration;

use actix_web::http::header::HeaderValue;

use crate::metrics::{Metrics, Stage};

/// The stages of a request's files, each summed up.
pub struct Times<'a> {
    metrics: &'a Metrics,
    sums: [(Stage, Cell<Option<Duration>>); 3],
}

impl<'a> Times<'a> {
    /// Nothing has taken any time yet.
    pub fn new(metrics: &'a Metrics) -> Self {
        Self { metrics, sums: Stage::ALL.map(|stage| (stage, Cell::new(None))) }
    }

    /// A file's stage is over.
    pub fn add(&self, stage: Stage, took: Duration) {
        self.metrics.stage(stage, took);
        for (known, sum) in &self.sums {
            if *known == stage {
                sum.set(Some(sum.get().unwrap_or_default() + took));
            }
        }
    }

    /// For the reply; `None` while no stage is over.
    pub fn header(&self) -> Option<ServerTiming> {
        let stages = self.sums.iter().filter_map(|(stage, sum)| {
            let milliseconds = sum.get()?.as_secs_f64() * 1000.0;
            Some(format!("{};dur={milliseconds:.1}", stage.name()))
        });
        let text = stages.collect::<Vec<_>>().join(", ");
        if text.is_empty() {
            return None;
        }
        HeaderValue::try_from(text).ok().map(ServerTiming)
    }
}

/// The `Server-Timing` of a request, in its extensions until its reply is made.
#[derive(Clone)]
pub struct ServerTiming(pub HeaderValue);
