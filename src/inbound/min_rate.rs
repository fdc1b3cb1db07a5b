//! The least rate of a body: how long its client may be slower.
//!
//! A client has an allowance of time. Waiting for it uses the allowance up, and each byte gives back the time that it takes
//! at the least rate, so that a client at that rate never runs out, and one that becomes slow does so soon, however much it
//! has sent before. Only the time counts in which the gateway waits for the client, until its bytes have arrived.

use std::time::Duration;

/// The allowance at first, and at most.
const GRACE: Duration = Duration::from_secs(10);
/// A client that has sent nothing for so long is silent, not slow, which is limited by `upload.idle_timeout`: a phone may
/// be without a network for a while.
const SILENCE: Duration = Duration::from_secs(5);
/// What is left at least after a silence, in which the client becomes fast again.
const AFTER_SILENCE: Duration = Duration::from_secs(2);

/// The rate, and what one client has left of its allowance.
#[derive(Debug)]
pub struct MinRate {
    bytes_per_second: u64,
    grace_left: Duration,
}

impl MinRate {
    /// At least 1 byte per second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), grace_left: GRACE }
    }

    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// The client has sent `bytes`, after the gateway had `waited` for them.
    pub fn sent(&mut self, bytes: usize, waited: Duration) {
        let mut left = self.grace_left.saturating_sub(waited);
        if waited >= SILENCE {
            left = left.max(AFTER_SILENCE);
        }
        // In nanoseconds: small chunks take less than a millisecond each.
        let given_back = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        let given_back = Duration::from_nanos(u64::try_from(given_back).unwrap_or(u64::MAX));
        self.grace_left = left.saturating_add(given_back).min(GRACE);
    }

    /// After how long a wait the client is too slow; `None`: it is silent before that.
    pub fn limit(&self) -> Option<Duration> {
        (self.grace_left < SILENCE).then_some(self.grace_left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how much waiting a client is too slow that sends `bytes` after each `pause`; `None`: not in 10 minutes.
    fn cut_after(min_rate: &mut MinRate, bytes: usize, pause: Duration) -> Option<Duration> {
        let mut waited = Duration::ZERO;
        while waited < Duration::from_secs(600) {
            match min_rate.limit().filter(|limit| *limit < pause) {
                Some(limit) => return Some(waited + limit),
                None => min_rate.sent(bytes, pause),
            }
            waited += pause;
        }
        None
    }

    #[test]
    fn only_a_client_below_the_rate_is_cut_off() {
        let second = Duration::from_secs(1);
        for (bytes, pause, cut) in [
            // The rate, a little more, and bursts of as much after silences.
            (1000, second, None),
            (130, second / 8, None),
            (30_000, 29 * second, None),
            // Half of it, nearly nothing, and bytes that keep silences short.
            (500, second, Some(20)),
            (1, second, Some(10)),
            (1, 6 * second, Some(10)),
            (1, 29 * second, Some(31)),
        ] {
            let cut_off = cut_after(&mut MinRate::new(1000), bytes, pause);
            let seconds = cut_off.map(|after| after.as_secs_f64().round() as u64);
            assert_eq!(seconds, cut, "{bytes} bytes every {pause:?}");
        }
        // Packets just above the rate, each of which takes less or little more than a millisecond.
        for (rate, bytes, micros) in [(64 << 10, 60, 915), (1 << 20, 1448, 1380)] {
            let pause = Duration::from_micros(micros);
            assert_eq!(cut_after(&mut MinRate::new(rate), bytes, pause), None, "{bytes} bytes");
        }
        // However fast it was before.
        let mut min_rate = MinRate::new(1000);
        min_rate.sent(usize::MAX, Duration::ZERO);
        assert!(cut_after(&mut min_rate, 500, second).is_some_and(|after| after <= 20 * second));
    }
}
