//! How many links a pool should have, from its uploads of the last minutes. Pure arithmetic; the caller tells the time.

use std::time::{Duration, Instant};

/// Uploads are counted for this long.
pub(super) const WINDOW: Duration = Duration::from_secs(SLOTS as u64 * SLOT.as_secs());
const SLOT: Duration = Duration::from_secs(10);
const SLOTS: usize = 30;
/// The newest slots, from which a rate that has changed is told.
const RECENT_SLOTS: usize = 3;
/// Of [`WINDOW`]: one a minute. With fewer, no link is asked for.
pub(super) const MIN_USES: u32 = 5;
/// As many uploads of the window justify one link. Fewer than pay for one that is not used (`pools`), so that a new
/// pool soon has enough.
const USES_PER_LINK: u32 = 10;
/// The chance that an upload finds no link, where uploads come independently of one another.
const MISS: f64 = 0.01;
/// The chance that a link is not used in time.
const UNUSED: f64 = 0.05;

/// A pool's uploads of the last [`WINDOW`].
pub(super) struct Uses {
    since: Instant,
    /// The number of the newest slot since `since`.
    newest: u64,
    /// Slot `n` is at `n % SLOTS`.
    counts: [u32; SLOTS],
}

impl Uses {
    pub fn new(now: Instant) -> Self {
        Self { since: now, newest: 0, counts: [0; SLOTS] }
    }

    pub fn add(&mut self, now: Instant) {
        self.advance(now);
        let count = &mut self.counts[(self.newest % SLOTS as u64) as usize];
        *count = count.saturating_add(1);
    }

    pub fn total(&mut self, now: Instant) -> u32 {
        self.advance(now);
        self.counts.iter().sum()
    }

    fn recent(&self) -> u32 {
        let slots = (0..RECENT_SLOTS as u64).filter_map(|back| self.newest.checked_sub(back));
        slots.map(|slot| self.counts[(slot % SLOTS as u64) as usize]).sum()
    }

    /// Forgets what is older than the window.
    fn advance(&mut self, now: Instant) {
        let slot = now.saturating_duration_since(self.since).as_secs() / SLOT.as_secs();
        for passed in (self.newest + 1..=slot).take(SLOTS) {
            self.counts[(passed % SLOTS as u64) as usize] = 0;
        }
        self.newest = self.newest.max(slot);
    }

    /// How many links there should be, those that were asked for included. `latency`: from asking for a link to having
    /// it; `max_age`: how long a link can be used.
    ///
    /// - Enough that uploads find one while links that were used are being replaced.
    /// - Not so many that some would become too old, even if the lower one of two rates goes on: that of the whole
    ///   window, and that of its end.
    /// - Not more than the uploads justify: of a burst that ends, at most one link for 10 uploads is left.
    pub fn wanted(
        &mut self,
        now: Instant,
        latency: Duration,
        max_age: Duration,
        limit: usize,
    ) -> usize {
        let total = self.total(now);
        if total < MIN_USES {
            return 0;
        }
        let (total_count, recent) = (f64::from(total), f64::from(self.recent()));
        let age = now.saturating_duration_since(self.since).as_secs_f64().max(1.0);
        let window = WINDOW.as_secs_f64();
        let end = (RECENT_SLOTS as u64 * SLOT.as_secs()) as f64;
        let low = (total_count / window).min(recent / end);
        let high = (total_count / age.min(window)).max(recent / age.min(end));
        let needed = needed(high * latency.as_secs_f64(), limit).max(1);
        let usable = usable(low * max_age.as_secs_f64(), limit);
        let justified = (total / USES_PER_LINK).max(1) as usize;
        needed.min(usable).min(justified).min(limit)
    }
}

/// The fewest links that suffice where `mean` uploads come while one is replaced; at most `limit`.
fn needed(mean: f64, limit: usize) -> usize {
    if is_far_above(mean, limit) {
        return limit;
    }
    let mut fewer = 0.0;
    for (links, chance) in poisson(mean).enumerate().take(limit) {
        if 1.0 - fewer <= MISS {
            return links;
        }
        fewer += chance;
    }
    limit
}

/// The most links that are used in time where `mean` uploads come while they can be used; at most `limit`.
fn usable(mean: f64, limit: usize) -> usize {
    if is_far_above(mean, limit) {
        return limit;
    }
    let mut fewer = 0.0;
    for (links, chance) in poisson(mean).enumerate().take(limit) {
        fewer += chance;
        if fewer > UNUSED {
            return links;
        }
    }
    limit
}

/// Whether fewer events than `limit` are so unlikely that their chances need not be added up: less than 2 %.
fn is_far_above(mean: f64, limit: usize) -> bool {
    mean > 4.0 * limit as f64
}

/// The chances of 0, 1, 2 … events where there are `mean` on average. Of a large mean, the chances of few events are 0.
fn poisson(mean: f64) -> impl Iterator<Item = f64> {
    let first = ((-mean).exp(), 1.0);
    let chances = std::iter::successors(Some(first), move |(chance, events)| {
        Some((chance * mean / events, events + 1.0))
    });
    chances.map(|(chance, _)| chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Duration = Duration::from_millis(100);
    const MAX_AGE: Duration = Duration::from_secs(450);

    /// What is wanted after `uploads` at equal intervals of `every`.
    fn wanted_after(uploads: u32, every: Duration, max_age: Duration) -> usize {
        let began = Instant::now();
        let mut uses = Uses::new(began);
        let mut now = began;
        for n in 0..uploads {
            now = began + every * n;
            uses.add(now);
        }
        uses.wanted(now, LATENCY, max_age, 64)
    }

    #[test]
    fn more_uploads_need_more_links() {
        for (per_second, links) in [(1, 2), (20, 7), (100, 19), (1000, 64)] {
            let every = Duration::from_secs(1) / per_second;
            let wanted = wanted_after(per_second * 300, every, MAX_AGE);
            assert_eq!(wanted, links, "{per_second} a second");
        }
    }

    #[test]
    fn below_one_upload_a_minute_there_is_no_link() {
        let minute = Duration::from_secs(60);
        assert_eq!(wanted_after(100, minute + Duration::from_secs(20), MAX_AGE), 0);
        assert_eq!(wanted_after(100, minute - Duration::from_secs(1), MAX_AGE), 1);
        assert_eq!(wanted_after(4, Duration::from_millis(1), MAX_AGE), 0, "too few to know");
    }

    #[test]
    fn links_of_a_short_life_are_asked_for_only_where_uploads_follow_one_another_closely() {
        let short = Duration::from_secs(5);
        assert_eq!(wanted_after(100, Duration::from_secs(10), short), 0);
        assert_eq!(wanted_after(600, Duration::from_millis(500), short), 3, "of 10 in that time");
        assert_eq!(wanted_after(6000, Duration::from_millis(50), short), 7);
    }

    #[test]
    fn a_burst_justifies_few_links_and_none_after_its_end() {
        let began = Instant::now();
        let mut uses = Uses::new(began);
        for n in 0..100_u32 {
            uses.add(began + Duration::from_millis(10) * n);
        }
        let after = |uses: &mut Uses, seconds| {
            uses.wanted(began + Duration::from_secs(seconds), LATENCY, MAX_AGE, 64)
        };
        assert_eq!(after(&mut uses, 1), 10);
        assert_eq!(after(&mut uses, 40), 0, "nothing comes any more");
        assert_eq!(uses.total(began + Duration::from_secs(299)), 100);
        assert_eq!(uses.total(began + Duration::from_secs(300)), 0);
        assert_eq!(uses.total(began + Duration::from_secs(1_000_000)), 0);
    }

    #[test]
    fn the_limit_is_never_exceeded() {
        let began = Instant::now();
        let mut uses = Uses::new(began);
        for _ in 0..100_000 {
            uses.add(began);
        }
        assert_eq!(uses.wanted(began, LATENCY, MAX_AGE, 3), 3);
        assert_eq!(uses.wanted(began, LATENCY, Duration::ZERO, 3), 0);
    }
}
