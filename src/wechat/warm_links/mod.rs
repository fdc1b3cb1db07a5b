//! Upload links that are asked for before the uploads come: for generated paths, whose keys the gateway makes itself.
//! An upload that finds one waits for no call to WeChat.
//!
//! - `sizing`: how many links a pool should have
//! - `pools`: one pool for each shape of keys (folder with the client's part and the date, extension and so on), and
//!   what bounds them; each link is used once
//! - `refill`: the calls, one task for each environment
//!
//! The pools of several gateways know nothing of one another.

mod pools;
mod refill;
mod sizing;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::Notify;

use self::pools::{Now, Pools};
use super::wire::UploadLink;
use crate::key::{Generated, Key, KeyShape};
use crate::metrics::warm_links::{DropReason, WarmLinkMetrics};
use crate::settings;

/// The most links of a pool by `auto`. It is about what 400 uploads a second need where a call takes 100 ms.
const AUTO: usize = 64;

/// The pools of one environment; shared by all workers.
pub struct WarmLinks {
    is_on: AtomicBool,
    pools: Mutex<Pools>,
    /// A pool wants a link.
    wanted: Notify,
}

impl WarmLinks {
    pub(super) fn new(setting: settings::WarmLinks, metrics: WarmLinkMetrics) -> Self {
        let limit = limit(setting);
        Self {
            is_on: AtomicBool::new(limit > 0),
            pools: Mutex::new(Pools::new(limit, metrics)),
            wanted: Notify::new(),
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

    /// A link for an upload to a generated key, and the key that it is for, which takes the place of `key`. `None`: none
    /// is ready. Either way the upload counts for how many links should be ready.
    pub fn take(&self, key: &Key, generated: Generated) -> Option<(Key, UploadLink)> {
        if !self.is_on.load(Ordering::Relaxed) {
            return None;
        }
        let shape = KeyShape::of(key, generated.uuid)?;
        let (taken, wants) = self.lock().take(shape, generated.until, now());
        if wants {
            self.wanted.notify_one();
        }
        taken
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
