//! The log of overloads: one line when connections begin to be closed or refused, and one when that is over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// Without a closed or refused connection for this long, an overload is over: a flood comes in waves.
const CALM: Duration = Duration::from_secs(5);

/// Counts every closed or refused connection, and logs each overload once. Shared by all workers.
pub struct LoadShedLog {
    pub(super) metrics: Arc<Metrics>,
    overload: Mutex<Option<Overload>>,
}

struct Overload {
    began: Instant,
    /// When a connection was last closed or refused.
    last: Instant,
}

impl LoadShedLog {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics, overload: Mutex::new(None) })
    }

    /// A connection is closed, or a request refused, for lack of slots.
    pub(super) fn shed(&self) {
        self.metrics.shed();
        let now = Instant::now();
        let mut overload = self.overload.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *overload {
            Some(overload) => overload.last = now,
            None => {
                *overload = Some(Overload { began: now, last: now });
                tracing::warn!(
                    "too many connections: those without a running request are closed, and while there are none, \
                     requests on new connections are refused"
                );
            }
        }
    }

    /// Logs the end of an overload, if it is over by now. To be called whenever a connection closes.
    pub(super) fn check_over(&self) {
        let mut overload = self.overload.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Overload { began, .. }) =
            overload.take_if(|overload| overload.last.elapsed() >= CALM)
        {
            tracing::info!(lasted = ?began.elapsed(), "every connection has a slot again");
        }
    }
}
