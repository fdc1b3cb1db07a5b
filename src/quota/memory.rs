//! The counters of all clients in this gateway's memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::amount::{Amount, Refusal, Usage, Wanted};
use super::counter::{Counter, Granted, ReservationId};
use crate::settings::Quota;

/// Clients that are counted: a counter takes some 300 bytes besides its client's id of at most 133. No counter that says
/// something is dropped, because its client could then exceed its quota: a further client is refused instead.
const MAX_COUNTERS: usize = 100_000;

#[derive(Default)]
pub(super) struct MemoryCounters(Mutex<HashMap<String, Counter>>);

impl MemoryCounters {
    /// `subject` identifies quota and client. `expires` is in seconds since 1970.
    pub fn reserve(
        &self,
        quota: &Quota,
        subject: &str,
        id: ReservationId,
        wanted: Wanted,
        expires: i64,
    ) -> Result<Granted, (Refusal, Usage)> {
        let now = Timestamp::now().as_second();
        let mut counters = self.lock();
        if !counters.contains_key(subject) {
            make_room(&mut counters, now);
            if counters.len() >= MAX_COUNTERS {
                return Err((Refusal::Full, Usage::default()));
            }
        }
        let counter = counters.entry(subject.to_owned()).or_default();
        counter.reserve(quota, id, wanted, now, expires)
    }

    pub fn conclude(&self, subject: &str, id: &ReservationId, stored: Amount) -> Usage {
        let now = Timestamp::now().as_second();
        let mut counters = self.lock();
        if let Some(counter) = counters.get_mut(subject) {
            return counter.conclude(id, stored, now);
        }
        if stored == Amount::NONE || counters.len() >= MAX_COUNTERS {
            return Usage::default();
        }
        // A resumable upload that was created before a restart.
        counters.entry(subject.to_owned()).or_default().conclude(id, stored, now)
    }

    /// A poisoned lock is still used: no panic leaves the counters inconsistent.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Counter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the counters that say nothing, once there is no room. This looks at all of them, so it makes room for several.
fn make_room(counters: &mut HashMap<String, Counter>, now: i64) {
    if counters.len() >= MAX_COUNTERS {
        counters.retain(|_, counter| !counter.is_blank(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::QuotaPer;

    #[test]
    fn counters_are_bounded_and_none_that_says_something_is_dropped() {
        let quota = Quota {
            name: "q".to_owned(),
            per: QuotaPer::Sub,
            bytes_per_day: Some(10),
            files_per_day: None,
            bytes: None,
            files: None,
        };
        let one = Amount { bytes: 10, files: 1 };
        let wanted = Wanted { least: one, most: one };
        let counters = MemoryCounters::default();
        let subject = |n: usize| format!("q:user:{n}");
        for n in 0..MAX_COUNTERS {
            counters.reserve(&quota, &subject(n), [1; 16], wanted, i64::MAX).unwrap();
            // One of two has stored its file.
            let stored = if n % 2 == 0 { one } else { Amount::NONE };
            counters.conclude(&subject(n), &[1; 16], stored);
        }
        counters.reserve(&quota, "q:user:new", [1; 16], wanted, i64::MAX).unwrap();
        assert_eq!(counters.lock().len(), MAX_COUNTERS / 2 + 1);
        for n in (0..MAX_COUNTERS).step_by(2) {
            let refused = counters.reserve(&quota, &subject(n), [2; 16], wanted, i64::MAX);
            assert!(matches!(refused, Err((Refusal::Day(_), _))), "{n}");
        }
        for n in MAX_COUNTERS..2 * MAX_COUNTERS {
            let reserved = counters.reserve(&quota, &subject(n), [1; 16], wanted, i64::MAX);
            let has_room = n < MAX_COUNTERS * 3 / 2 - 1;
            assert_eq!(reserved.is_ok(), has_room, "{n}");
            if !has_room {
                assert_eq!(reserved.unwrap_err().0, Refusal::Full);
                break;
            }
        }
    }
}
