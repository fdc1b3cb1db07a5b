//! The pause after a failed fetch: it doubles with each further failure, and until it is over the last failure is the
//! result.

use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pause after a failure doubles from the first value to the second.
pub const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// The last failure, if no success followed.
pub struct Backoff<E>(Mutex<Option<Failure<E>>>);

struct Failure<E> {
    until: Instant,
    pause: Duration,
    cause: E,
}

impl<E> Default for Backoff<E> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<E: Clone> Backoff<E> {
    /// Whether a fetch is allowed now; the last failure where it is not.
    pub fn check(&self) -> Result<(), E> {
        match &*self.lock() {
            Some(failure) if Instant::now() < failure.until => Err(failure.cause.clone()),
            _ => Ok(()),
        }
    }

    /// Lets fetches fail with `cause` until the pause that it returns is over. The pause varies, so that gateways that
    /// failed together do not fetch together.
    pub fn failed(&self, cause: E) -> Duration {
        self.failed_for(cause, MIN_BACKOFF..=MAX_BACKOFF)
    }

    /// As [`Self::failed`], with other limits of the pause.
    pub fn failed_for(&self, cause: E, limits: RangeInclusive<Duration>) -> Duration {
        let mut last = self.lock();
        let doubled = last.as_ref().map_or(*limits.start(), |last| last.pause * 2);
        let pause = doubled.clamp(*limits.start(), *limits.end());
        let jittered = pause.mul_f64(0.8 + 0.4 * fastrand::f64());
        *last = Some(Failure { until: Instant::now() + jittered, pause, cause });
        jittered
    }

    /// A fetch succeeded.
    pub fn succeeded(&self) {
        *self.lock() = None;
    }

    /// Whether no success has followed the last failure, if there was one.
    pub fn is_failing(&self) -> bool {
        self.lock().is_some()
    }

    /// The time until a fetch is allowed.
    pub fn left(&self) -> Duration {
        let until = self.lock().as_ref().map(|failure| failure.until);
        until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default()
    }

    /// A poisoned lock is used all the same: no code that holds it leaves its data inconsistent.
    fn lock(&self) -> MutexGuard<'_, Option<Failure<E>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_until_a_success() {
        let backoff = Backoff::default();
        assert_eq!(backoff.check(), Ok(()));
        let mut expected = MIN_BACKOFF;
        for failure in 0..10 {
            let pause = backoff.failed(failure);
            assert!((expected.mul_f64(0.79)..expected.mul_f64(1.21)).contains(&pause), "{pause:?}");
            assert_eq!(backoff.check(), Err(failure));
            assert!(backoff.left() <= pause && backoff.left() > pause / 2);
            expected = (expected * 2).min(MAX_BACKOFF);
        }
        backoff.succeeded();
        assert_eq!((backoff.check(), backoff.left()), (Ok(()), Duration::ZERO));
        assert!(backoff.failed(0) < MIN_BACKOFF * 2);
    }
}
