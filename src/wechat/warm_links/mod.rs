//! Upload links that are asked for before the uploads come: for generated paths, whose keys the gateway makes itself.
//! An upload that finds one waits for no call to WeChat.
//!
//! - `sizing`: how many links a pool should have
//! - `pools`: one pool for each shape of keys (folder with the client's part and the date, extension and so on), and
//!   what bounds them; each link is used once
//! - `refill`: the calls, on the workers of the uploads
//!
//! The pools of several gateways know nothing of one another.

mod pools;
mod refill;
mod sizing;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::pools::{Now, Pools};
use super::wire::UploadLink;
use crate::key::{Generated, Key, KeyShape};
use crate::metrics::warm_links::{DropReason, WarmLinkMetrics};
use crate::net::backoff::Backoff;
use crate::settings;

/// The most links of a pool by `auto`. It is about what 400 uploads a second need where a call takes 100 ms.
const AUTO: usize = 64;
/// How often links are looked for that are too old.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The pools of one environment; shared by all workers.
pub struct WarmLinks {
    is_on: AtomicBool,
    pools: Mutex<Pools>,
    /// Of calls in advance that failed.
    backoff: Backoff<()>,
}

impl WarmLinks {
    pub(super) fn new(setting: settings::WarmLinks, metrics: WarmLinkMetrics) -> Self {
        let limit = limit(setting);
        Self {
            is_on: AtomicBool::new(limit > 0),
            pools: Mutex::new(Pools::new(limit, metrics)),
            backoff: Backoff::default(),
        }
    }

    /// Takes over changed settings. `has_other_keys`: generated keys look otherwise from now on.
    pub fn reload(&self, setting: settings::WarmLinks, has_other_keys: bool) {
        let limit = limit(setting);
        let mut pools = self.lock();
        if has_other_keys {
            pools.clear(DropReason::Ended);
        }
        pools.set_limit(limit);
        self.is_on.store(limit > 0, Ordering::Relaxed);
    }

    /// As [`Wechat::warm_link`](super::api::Wechat::warm_link). `true`: links are to be asked for.
    fn take(&self, key: &Key, generated: Generated) -> (Option<(Key, UploadLink)>, bool) {
        if !self.is_on.load(Ordering::Relaxed) {
            return (None, false);
        }
        match KeyShape::of(key, generated.uuid) {
            Some(shape) => self.lock().take(shape, generated.until, now()),
            None => (None, false),
        }
    }

    /// Drops links that are too old, every few seconds, until `stop`. Their age is checked again when they are taken.
    pub async fn sweep_until(&self, stop: CancellationToken) {
        let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = sweeps.tick() => self.lock().sweep(now()),
            }
        }
    }

    /// COS has refused a link that it should have accepted: the others are of its age, so they are dropped.
    pub fn refused(&self) {
        self.lock().clear(DropReason::Refused);
    }

    /// A poisoned lock is used all the same: the worst that an inconsistent count does is a link less.
    fn lock(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn limit(setting: settings::WarmLinks) -> usize {
    match setting {
        settings::WarmLinks::Off => 0,
        settings::WarmLinks::Auto => AUTO,
        settings::WarmLinks::UpTo(links) => links,
    }
}

fn now() -> Now {
    Now { instant: Instant::now(), unix: Timestamp::now().as_second() }
}
