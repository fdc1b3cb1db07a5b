//! Requests by route, method and class of status, and how long they took.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

/// The classes of statuses.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// A method that its route does not serve, and the route of requests for which there is none.
pub const OTHER: &str = "other";

/// The figures of one route, looked up once: requests then cost no lookup by label.
#[derive(Clone)]
pub struct RouteMetrics {
    name: &'static str,
    by_method: Vec<(&'static str, [IntCounter; CLASSES.len()])>,
    seconds: Histogram,
}

impl RouteMetrics {
    /// `requests` has the labels route, method and class; `seconds` the route.
    pub(super) fn new(
        route: &'static str,
        methods: &'static str,
        requests: &IntCounterVec,
        seconds: &HistogramVec,
    ) -> Self {
        let by_method = methods.split(", ").chain([OTHER]).map(|method| {
            let of = |class| requests.with_label_values(&[route, method, class]);
            (method, CLASSES.map(of))
        });
        Self {
            name: route,
            by_method: by_method.collect(),
            seconds: seconds.with_label_values(&[route]),
        }
    }

    /// The route's pattern, or [`OTHER`].
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Counts a response with this status, which began after `took`.
    pub fn respond(&self, method: &str, status: u16, took: Duration) {
        let class = usize::from((status / 100).clamp(2, 5) - 2);
        let served = self.by_method.iter().find(|(name, _)| *name == method);
        if let Some((_, counters)) = served.or(self.by_method.last()) {
            counters[class].inc();
        }
        self.seconds.observe(took.as_secs_f64());
    }
}
