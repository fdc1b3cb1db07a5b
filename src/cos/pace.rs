//! How fast a client sends, measured by the time that is spent waiting for it, and how long the rest of its file will
//! take.

use std::time::Duration;

use tokio::time::Instant;

/// Waiting time after which the rate is known. The samples of about the last two such times count.
const OBSERVATION: Duration = Duration::from_secs(2);
/// The first bytes of a file do not count: a connection may need time to come up, and then be fast.
const UNCOUNTED: u64 = 64 * 1024;

/// The rate of one client's file. Time in which COS does not accept bytes does not count as waiting for the client.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// All bytes so far.
    total: u64,
    /// Bytes, and the time that was spent waiting for them.
    bytes: f64,
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    /// The client has not sent the next bytes yet.
    pub fn wait(&mut self) {
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    /// Waiting for the client ended without bytes of it.
    pub fn interrupt(&mut self) {
        self.waiting_since = None;
    }

    /// The client has sent so many bytes.
    pub fn received(&mut self, bytes: usize) {
        let since = self.waiting_since.take();
        if self.total >= UNCOUNTED {
            self.bytes += bytes as f64;
            self.waited += since.map_or(Duration::ZERO, |since| since.elapsed());
        }
        self.total += bytes as u64;
        if self.waited > 2 * OBSERVATION {
            self.bytes /= 2.0;
            self.waited /= 2;
        }
    }

    /// Whether the client was waited for long enough to know its rate, or for a tenth of `limit`.
    pub fn is_known(&self, limit: Duration) -> bool {
        self.waited >= OBSERVATION.min(limit / 10)
    }

    /// How long the client will take for `bytes` more.
    pub fn time_for(&self, bytes: u64) -> Duration {
        let seconds = self.waited.as_secs_f64() * bytes as f64 / self.bytes.max(1.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn send(pace: &mut Pace, bytes: usize, after: Duration) {
        pace.wait();
        tokio::time::advance(after).await;
        pace.received(bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_client_counts() {
        let mut pace = Pace { total: UNCOUNTED, ..Pace::default() };
        pace.received(1000);
        assert_eq!(pace.time_for(1000), Duration::ZERO);
        pace.wait();
        tokio::time::advance(Duration::from_secs(60)).await;
        pace.interrupt();
        pace.received(1000);
        assert_eq!(pace.time_for(1000), Duration::ZERO);
        assert!(!pace.is_known(Duration::from_secs(150)));
        send(&mut pace, 2000, Duration::from_secs(2)).await;
        assert!(pace.is_known(Duration::from_secs(150)));
        assert_eq!(pace.time_for(4000), Duration::from_secs(2));
        assert!(Pace::default().is_known(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_after_the_first_bytes_does_not_count() {
        let mut pace = Pace::default();
        send(&mut pace, 1000, Duration::from_secs(20)).await;
        send(&mut pace, 63 * 1024, Duration::from_secs(20)).await;
        send(&mut pace, 1000, Duration::from_secs(20)).await;
        assert_eq!(pace.time_for(1000), Duration::ZERO);
        send(&mut pace, 1000, Duration::from_secs(20)).await;
        assert_eq!(pace.time_for(1000), Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_has_risen_is_seen_soon() {
        let mut pace = Pace::default();
        for _ in 0..130 {
            send(&mut pace, 1000, Duration::from_secs(1)).await;
        }
        assert_eq!(pace.time_for(1000).as_secs(), 1);
        for _ in 0..10 {
            send(&mut pace, 100_000, Duration::from_secs(1)).await;
        }
        assert!(pace.time_for(100_000) < Duration::from_millis(1100));
    }
}
