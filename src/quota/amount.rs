//! Bytes and files: what an upload asks for, what was used, and why an upload is refused.

use crate::settings::Quota;

/// Seconds that China's time, in which a quota's day ends, is ahead of UTC; it has no daylight saving time.
pub const DAY_OFFSET: i64 = 8 * 3600;
pub const DAY: i64 = 86_400;

/// How much is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub bytes: u64,
    pub files: u64,
}

impl Amount {
    pub const NONE: Self = Self { bytes: 0, files: 0 };

    pub fn plus(self, other: Self) -> Self {
        let bytes = self.bytes.saturating_add(other.bytes);
        Self { bytes, files: self.files.saturating_add(other.files) }
    }

    pub fn minus(self, other: Self) -> Self {
        let bytes = self.bytes.saturating_sub(other.bytes);
        Self { bytes, files: self.files.saturating_sub(other.files) }
    }

    pub fn min(self, other: Self) -> Self {
        Self { bytes: self.bytes.min(other.bytes), files: self.files.min(other.files) }
    }

    /// Whether neither is less than in `other`.
    pub fn contains(self, other: Self) -> bool {
        self.bytes >= other.bytes && self.files >= other.files
    }
}

/// What an upload asks for before its body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What it stores at least; if less is left, it is refused.
    pub least: Amount,
    /// What it may store; so much is reserved, or what is left.
    pub most: Amount,
}

/// What a client has used of its quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Stored today.
    pub day: Amount,
    /// Ever stored.
    pub total: Amount,
    /// Reserved by other uploads that are running.
    pub reserved: Amount,
    /// Seconds until the day ends.
    pub resets_in: u64,
}

/// A limit of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// As in the settings.
    pub name: &'static str,
    pub is_daily: bool,
    pub of_bytes: bool,
    pub max: u64,
    pub used: u64,
    pub reserved: u64,
}

impl Limit {
    /// What is neither used nor reserved.
    pub fn left(&self) -> u64 {
        self.max.saturating_sub(self.used).saturating_sub(self.reserved)
    }
}

/// Why an upload is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is larger than what a day allows.
    LargerThanDay(Limit),
    /// All that may ever be stored is stored.
    Total(Limit),
    /// The rest of the day's quota is too small.
    Day(Limit),
    /// It would fit if other uploads had not reserved the rest.
    Reserved,
    /// There are too many clients to count, or too many reservations of this one.
    Full,
}

impl Usage {
    /// The limits of `quota` that are set.
    pub fn limits(&self, quota: &Quota) -> impl Iterator<Item = Limit> {
        let (day, total, reserved) = (self.day, self.total, self.reserved);
        let limit = |name, is_daily, of_bytes, max: Option<u64>, used: Amount| {
            let (used, reserved) =
                if of_bytes { (used.bytes, reserved.bytes) } else { (used.files, reserved.files) };
            max.map(|max| Limit { name, is_daily, of_bytes, max, used, reserved })
        };
        [
            limit("bytes_per_day", true, true, quota.bytes_per_day, day),
            limit("files_per_day", true, false, quota.files_per_day, day),
            limit("bytes", false, true, quota.bytes, total),
            limit("files", false, false, quota.files, total),
        ]
        .into_iter()
        .flatten()
    }

    /// What can be reserved.
    pub fn left(&self, quota: &Quota) -> Amount {
        let mut left = Amount { bytes: u64::MAX, files: u64::MAX };
        for limit in self.limits(quota) {
            let least = if limit.of_bytes { &mut left.bytes } else { &mut left.files };
            *least = (*least).min(limit.left());
        }
        left
    }

    /// Why `least` cannot be reserved. What lasts takes precedence over what passes.
    pub fn refusal(&self, quota: &Quota, least: Amount) -> Refusal {
        let wanted = |limit: &Limit| if limit.of_bytes { least.bytes } else { least.files };
        let exceeds = |limit: &Limit| limit.used.saturating_add(wanted(limit)) > limit.max;
        let exceeded: Vec<Limit> = self.limits(quota).filter(exceeds).collect();
        let total = exceeded.iter().find(|limit| !limit.is_daily);
        let larger = exceeded.iter().find(|limit| limit.is_daily && wanted(limit) > limit.max);
        match (total, larger, exceeded.first()) {
            (Some(total), _, _) => Refusal::Total(*total),
            (_, Some(day), _) => Refusal::LargerThanDay(*day),
            (_, _, Some(day)) => Refusal::Day(*day),
            _ => Refusal::Reserved,
        }
    }
}

/// The day of a time in seconds since 1970.
pub fn day_of(now: i64) -> i64 {
    (now + DAY_OFFSET).div_euclid(DAY)
}

/// Seconds until the day ends.
pub fn resets_in(now: i64) -> u64 {
    u64::try_from(DAY - (now + DAY_OFFSET).rem_euclid(DAY)).unwrap_or_default()
}
