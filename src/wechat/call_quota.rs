//! How long to wait after WeChat's errcode 45009: the quota of a call is used up. WeChat has quotas for a minute and for
//! a day, and its response does not tell which one is meant (public reports), so the wait starts short and grows.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub const USED_UP: i64 = 45009;
/// About the rest of a minute.
pub const MIN_PAUSE: Duration = Duration::from_secs(30);
pub const MAX_PAUSE: Duration = Duration::from_secs(10 * 60);
/// A refusal this long after the last one is not of the same period.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 60);

/// The calls whose quota is used up. Each call has its own quota; the names are constants, so their number is bounded.
#[derive(Default)]
pub struct CallQuotas {
    used_up: Mutex<Vec<UsedUp>>,
}

struct UsedUp {
    call: &'static str,
    first_refusal: Instant,
    last_refusal: Instant,
}

impl CallQuotas {
    /// `call` was refused because its quota is used up. Returns the time until the next attempt is worthwhile: as long as
    /// the quota has been used up already, within the two limits. Concurrent refusals have the same time.
    pub fn refused(&self, call: &'static str, now: Instant) -> Duration {
        let mut all = self.used_up.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|quota| now.saturating_duration_since(quota.last_refusal) < FORGET_AFTER);
        let first = match all.iter_mut().find(|quota| quota.call == call) {
            Some(known) => {
                known.last_refusal = now;
                known.first_refusal
            }
            None => {
                all.push(UsedUp { call, first_refusal: now, last_refusal: now });
                now
            }
        };
        now.saturating_duration_since(first).clamp(MIN_PAUSE, MAX_PAUSE)
    }

    /// Whether `call` was refused so recently that another attempt is not yet worthwhile.
    pub fn is_used_up(&self, call: &'static str, now: Instant) -> bool {
        let all = self.used_up.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|quota| quota.call == call).any(|quota| {
            let lasted = quota.last_refusal.saturating_duration_since(quota.first_refusal);
            now < quota.last_refusal + lasted.clamp(MIN_PAUSE, MAX_PAUSE)
        })
    }

    /// `call` was not refused.
    pub fn available(&self, call: &'static str) {
        let mut all = self.used_up.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.is_empty() {
            all.retain(|quota| quota.call != call);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_until_a_call_succeeds_and_each_call_has_its_own() {
        let quotas = CallQuotas::default();
        let began = Instant::now();
        let refused =
            |call, after| quotas.refused(call, began + Duration::from_secs(after)).as_secs();
        assert_eq!(
            [0, 1, 30, 60, 120, 500, 900].map(|after| refused("uploadfile", after)),
            [30, 30, 30, 60, 120, 500, 600]
        );
        let used_up = |after| quotas.is_used_up("uploadfile", began + Duration::from_secs(after));
        assert_eq!([901, 1499, 1500].map(used_up), [true, true, false]);
        assert_eq!(refused("batchdeletefile", 900), 30);
        quotas.available("uploadfile");
        assert_eq!(refused("uploadfile", 901), 30);
        assert_eq!(refused("batchdeletefile", 1000), 100);
        // Nothing was called for hours.
        assert_eq!(refused("batchdeletefile", 9000), 30);
        assert_eq!(quotas.used_up.lock().unwrap().len(), 1);
    }
}
