//! The counter of one client or user in memory.

use std::collections::HashMap;

use super::amount::{Amount, Refusal, Usage, Wanted, day_of, resets_in};
use crate::settings::Quota;

/// Reservations of one client.
pub(super) const MAX_RESERVATIONS: usize = 10_000;

/// Identifies a reservation.
pub type ReservationId = [u8; 16];

/// What was granted to an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    pub amount: Amount,
    /// Without this reservation.
    pub usage: Usage,
}

/// Times are in seconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Counter {
    /// The day of `stored_today`.
    day: i64,
    stored_today: Amount,
    stored: Amount,
    reservations: HashMap<ReservationId, Reserved>,
    /// Its quota, as far as it is known, limits days alone: `stored` need not be kept.
    is_daily: bool,
}

#[derive(Debug)]
struct Reserved {
    amount: Amount,
    expires: i64,
}

impl Counter {
    /// Reserves what `wanted` asks for, or what is left of it.
    pub fn reserve(
        &mut self,
        quota: &Quota,
        id: ReservationId,
        wanted: Wanted,
        now: i64,
        expires: i64,
    ) -> Result<Granted, (Refusal, Usage)> {
        self.is_daily = !quota.has_total();
        let usage = self.usage(now);
        if self.reservations.len() >= MAX_RESERVATIONS {
            return Err((Refusal::Full, usage));
        }
        let amount = wanted.most.min(usage.left(quota));
        if !amount.contains(wanted.least) {
            return Err((usage.refusal(quota, wanted.least), usage));
        }
        self.reservations.insert(id, Reserved { amount, expires });
        Ok(Granted { amount, usage })
    }

    /// Ends a reservation, and counts what was stored.
    pub fn conclude(&mut self, id: &ReservationId, stored: Amount, now: i64) -> Usage {
        self.reservations.remove(id);
        self.advance(now);
        self.stored_today = self.stored_today.plus(stored);
        self.stored = self.stored.plus(stored);
        self.usage(now)
    }

    /// Whether a new counter would be the same.
    pub fn is_blank(&mut self, now: i64) -> bool {
        self.advance(now);
        self.reservations.is_empty()
            && self.stored_today == Amount::NONE
            && (self.is_daily || self.stored == Amount::NONE)
    }

    fn usage(&mut self, now: i64) -> Usage {
        self.advance(now);
        let amounts = self.reservations.values().map(|reserved| reserved.amount);
        let reserved = amounts.fold(Amount::NONE, Amount::plus);
        let resets_in = resets_in(now);
        Usage { day: self.stored_today, total: self.stored, reserved, resets_in }
    }

    /// Begins the next day, and removes expired reservations. A clock that was set back begins no day again.
    fn advance(&mut self, now: i64) {
        let today = day_of(now);
        if today > self.day {
            (self.day, self.stored_today) = (today, Amount::NONE);
        }
        self.reservations.retain(|_, reserved| reserved.expires > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::QuotaPer;

    /// 2026-01-01T00:00:00 in China.
    const MIDNIGHT: i64 = 1_767_196_800;
    const NEVER: i64 = i64::MAX;

    fn quota() -> Quota {
        Quota {
            name: "q".to_owned(),
            per: QuotaPer::Sub,
            bytes_per_day: Some(100),
            files_per_day: Some(3),
            bytes: Some(150),
            files: None,
        }
    }

    fn exactly(bytes: u64) -> Wanted {
        let amount = Amount { bytes, files: 1 };
        Wanted { least: amount, most: amount }
    }

    fn store(counter: &mut Counter, bytes: u64, now: i64) -> Result<Usage, Refusal> {
        let id = [bytes as u8; 16];
        counter
            .reserve(&quota(), id, exactly(bytes), now, NEVER)
            .map_err(|(refusal, _)| refusal)?;
        Ok(counter.conclude(&id, Amount { bytes, files: 1 }, now))
    }

    #[test]
    fn a_day_ends_at_midnight_in_china_and_a_total_does_not() {
        let mut counter = Counter::default();
        let before = MIDNIGHT - 1;
        assert_eq!(store(&mut counter, 60, before).unwrap().resets_in, 1);
        assert!(matches!(store(&mut counter, 41, before), Err(Refusal::Day(_))));
        assert!(matches!(store(&mut counter, 101, before), Err(Refusal::Total(_))));
        let usage = store(&mut counter, 41, MIDNIGHT).unwrap();
        assert_eq!((usage.day.bytes, usage.total.bytes, usage.resets_in), (41, 101, 86_400));
        // The clock was set back: the new day's count stays.
        assert_eq!(counter.usage(before).day.bytes, 41);
        assert!(matches!(store(&mut counter, 50, MIDNIGHT), Err(Refusal::Total(_))));
        assert!(store(&mut counter, 49, MIDNIGHT).is_ok());
        assert!(matches!(store(&mut counter, 1, MIDNIGHT + 86_400), Err(Refusal::Total(_))));
    }

    #[test]
    fn a_reservation_counts_for_the_day_on_which_it_is_stored() {
        let mut counter = Counter::default();
        counter.reserve(&quota(), [1; 16], exactly(80), MIDNIGHT - 5, NEVER).unwrap();
        assert_eq!(store(&mut counter, 21, MIDNIGHT), Err(Refusal::Reserved));
        let usage = counter.conclude(&[1; 16], Amount { bytes: 80, files: 1 }, MIDNIGHT + 5);
        assert_eq!((usage.day.bytes, usage.reserved), (80, Amount::NONE));
    }

    #[test]
    fn a_reservation_expires_and_is_released_without_files() {
        let mut counter = Counter::default();
        counter.reserve(&quota(), [1; 16], exactly(80), MIDNIGHT, MIDNIGHT + 10).unwrap();
        counter.reserve(&quota(), [2; 16], exactly(20), MIDNIGHT, NEVER).unwrap();
        assert_eq!(store(&mut counter, 21, MIDNIGHT + 9), Err(Refusal::Reserved));
        counter.conclude(&[2; 16], Amount::NONE, MIDNIGHT + 9);
        assert!(!counter.is_blank(MIDNIGHT + 9));
        assert!(counter.is_blank(MIDNIGHT + 10));
        assert!(store(&mut counter, 100, MIDNIGHT + 10).is_ok());
    }

    #[test]
    fn an_upload_of_unknown_length_gets_what_is_left() {
        let mut counter = Counter::default();
        let (least, most) = (Amount { bytes: 1, files: 1 }, Amount { bytes: 1000, files: 20 });
        let wanted = Wanted { least, most };
        let granted = counter.reserve(&quota(), [1; 16], wanted, MIDNIGHT, NEVER).unwrap();
        assert_eq!(granted.amount, Amount { bytes: 100, files: 3 });
        let refused = counter.reserve(&quota(), [2; 16], wanted, MIDNIGHT, NEVER).unwrap_err();
        assert_eq!(refused.0, Refusal::Reserved);
    }
}
