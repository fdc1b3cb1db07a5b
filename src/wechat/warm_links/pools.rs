//! The pools: which links are ready, which are to be asked for, and what bounds both. Makes no calls, and is told the
//! time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use uuid::Uuid;

use super::sizing::{MIN_USES, Uses};
use crate::key::{Key, KeyShape};
use crate::metrics::warm_links::{DropReason, WarmLinkMetrics};
use crate::wechat::wire::UploadLink;

/// Shapes whose uploads are counted. One that is not in use is displaced by another, one in use is not.
pub(super) const MAX_POOLS: usize = 256;
/// Links of all pools, with those that were asked for.
pub(super) const MAX_LINKS: usize = 512;
/// In bytes; about three times what WeChat sends. Together with [`MAX_LINKS`] it bounds the memory, to 4 MiB.
pub(super) const MAX_LINK_SIZE: usize = 8 * 1024;
/// The unused links that are paid for by no upload.
pub(super) const START_CREDIT: f64 = 10.0;
/// Calls at a time, of all workers.
const MAX_CALLS: usize = 64;
/// As many uploads pay for one link that is not used.
pub(super) const USES_PER_UNUSED: f64 = 20.0;
/// The life of a link, unless it says that it is shorter (WeChat's documentation: about 15 minutes).
const LIFE: Duration = Duration::from_secs(900);
/// Links with less time to be used are not stored.
const MIN_MAX_AGE: Duration = Duration::from_secs(1);
/// A call may take longer than the last ones did.
const LATENCY_MARGIN: f64 = 1.5;
/// Of a call, before one was made.
const FIRST_LATENCY: Duration = Duration::from_millis(200);

/// Every pool of one environment.
pub(super) struct Pools {
    /// The most links of a pool; 0: switched off.
    limit: usize,
    pools: HashMap<KeyShape, Pool>,
    /// Pools that want a link, each at most once.
    wanting: VecDeque<KeyShape>,
    /// Links of all pools.
    ready: usize,
    /// Calls in flight, those for pools that have ended meanwhile included.
    asked: usize,
    /// The links that may still be lost: each upload adds a twentieth, each unused link takes one. Never more links are
    /// open than this, so whatever the load is, at most `START_CREDIT` and a twentieth of the uploads are lost.
    credit: f64,
    /// Of a call for a link, smoothed.
    latency: Duration,
    /// How long the newest link can be used: half of its life.
    max_age: Duration,
    next_id: u64,
    metrics: WarmLinkMetrics,
}

/// The links of one shape.
struct Pool {
    /// Tells it from an earlier pool of the same shape.
    id: u64,
    /// In Unix time in seconds: no upload has this shape from then on.
    until: Option<i64>,
    uses: Uses,
    last_use: Instant,
    ready: VecDeque<ReadyLink>,
    asked: usize,
    is_wanting: bool,
}

struct ReadyLink {
    key: Key,
    link: UploadLink,
    usable_until: Instant,
}

/// A link that is to be asked for.
pub(super) struct Ask {
    shape: KeyShape,
    pool: u64,
    pub key: Key,
    pub asked_at: Instant,
}

/// The same time by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub instant: Instant,
    /// Unix time in seconds.
    pub unix: i64,
}

impl Pool {
    fn has_ended(&self, now: Now) -> bool {
        self.until.is_some_and(|until| now.unix >= until)
    }

    /// Returns how many there were.
    fn drop_expired(&mut self, now: Instant) -> usize {
        let before = self.ready.len();
        self.ready.retain(|ready| now < ready.usable_until);
        before - self.ready.len()
    }
}

impl Pools {
    pub fn new(limit: usize, metrics: WarmLinkMetrics) -> Self {
        Self {
            limit,
            pools: HashMap::new(),
            wanting: VecDeque::new(),
            ready: 0,
            asked: 0,
            credit: START_CREDIT,
            latency: FIRST_LATENCY,
            max_age: LIFE / 2,
            next_id: 0,
            metrics,
        }
    }

    /// Another limit for each pool. Links that are ready stay, unless it is 0.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        if limit == 0 {
            self.clear(DropReason::Ended);
        }
    }

    /// Counts an upload to a key of `shape`, and gives it a link and the key that it is for. `true`: a link is to be
    /// asked for.
    pub fn take(
        &mut self,
        shape: KeyShape,
        until: Option<i64>,
        now: Now,
    ) -> (Option<(Key, UploadLink)>, bool) {
        if self.limit == 0 || until.is_some_and(|until| now.unix >= until) {
            return (None, false);
        }
        self.credit = (self.credit + 1.0 / USES_PER_UNUSED).min(MAX_LINKS as f64);
        if !self.pools.contains_key(&shape) && !self.add(shape.clone(), until, now) {
            return (None, false);
        }
        let (latency, max_age, limit) = (self.latency, self.max_age, self.limit);
        let Some(pool) = self.pools.get_mut(&shape) else {
            return (None, false);
        };
        pool.uses.add(now.instant);
        pool.last_use = now.instant;
        let expired = pool.drop_expired(now.instant);
        let taken = pool.ready.pop_front();
        let wanted = pool.uses.wanted(now.instant, latency, max_age, limit);
        match &taken {
            Some(_) => self.metrics.used.inc(),
            None if wanted > 0 => self.metrics.missed.inc(),
            None => {}
        }
        let wants = pool.ready.len() + pool.asked < wanted;
        if wants && !pool.is_wanting {
            pool.is_wanting = true;
            self.wanting.push_back(shape);
        }
        self.ready -= usize::from(taken.is_some());
        self.lost(DropReason::Expired, expired);
        self.show();
        (taken.map(|ready| (ready.key, ready.link)), wants)
    }

    /// Adds a pool, in the place of the one that is used least where there are too many. Fails if all are in use: new
    /// shapes, which clients may invent, must not displace them.
    fn add(&mut self, shape: KeyShape, until: Option<i64>, now: Now) -> bool {
        if self.pools.len() >= MAX_POOLS {
            let uses = self.pools.iter_mut().map(|(shape, pool)| {
                let uses = if pool.has_ended(now) { 0 } else { pool.uses.total(now.instant) };
                (uses, pool.last_use, shape)
            });
            let least = uses.min_by_key(|(uses, last_use, _)| (*uses, *last_use));
            match least {
                Some((uses, _, shape)) if uses < MIN_USES => {
                    let shape = shape.clone();
                    self.remove(&shape, DropReason::Displaced);
                }
                _ => return false,
            }
        }
        let pool = Pool {
            id: self.next_id,
            until,
            uses: Uses::new(now.instant),
            last_use: now.instant,
            ready: VecDeque::new(),
            asked: 0,
            is_wanting: false,
        };
        self.next_id += 1;
        self.pools.insert(shape, pool);
        true
    }

    /// A link that is to be asked for now, if there is one. Its result must be told to [`Self::received`].
    pub fn next_ask(&mut self, now: Now) -> Option<Ask> {
        if self.asked >= MAX_CALLS {
            return None;
        }
        while let Some(shape) = self.wanting.front() {
            let open = self.ready + self.asked;
            if open >= MAX_LINKS || open as f64 + 1.0 > self.credit {
                // Later uploads ask again, as soon as there is room.
                self.stop_asking();
                return None;
            }
            let Some(pool) = self.pools.get_mut(shape).filter(|pool| !pool.has_ended(now)) else {
                self.wanting.pop_front();
                continue;
            };
            let wanted = pool.uses.wanted(now.instant, self.latency, self.max_age, self.limit);
            if pool.ready.len() + pool.asked < wanted
                && let Ok(key) = shape.key(Uuid::now_v7())
            {
                pool.asked += 1;
                self.asked += 1;
                self.metrics.asked.inc();
                let (shape, pool) = (shape.clone(), pool.id);
                return Some(Ask { shape, pool, key, asked_at: now.instant });
            }
            pool.is_wanting = false;
            self.wanting.pop_front();
        }
        None
    }

    /// Forgets which pools want links; each asks again at its next upload.
    pub fn stop_asking(&mut self) {
        for shape in self.wanting.drain(..) {
            if let Some(pool) = self.pools.get_mut(&shape) {
                pool.is_wanting = false;
            }
        }
    }

    /// The result of a call; `None`: it failed.
    pub fn received(&mut self, ask: Ask, link: Option<UploadLink>, now: Now) {
        let Ask { shape, pool: id, key, asked_at } = ask;
        self.asked -= 1;
        let mut pool = self.pools.get_mut(&shape).filter(|pool| pool.id == id);
        if let Some(pool) = &mut pool {
            pool.asked -= 1;
        }
        match link {
            None => {
                self.metrics.failed.inc();
                self.credit = (self.credit - 1.0).max(0.0);
            }
            Some(link) => {
                let took = now.instant.saturating_duration_since(asked_at);
                self.latency = (self.latency * 7 + took.mul_f64(LATENCY_MARGIN)) / 8;
                let max_age = life(&link) / 2;
                let is_usable = size(&link) <= MAX_LINK_SIZE && max_age >= MIN_MAX_AGE;
                if is_usable {
                    self.max_age = max_age;
                }
                let usable_until = asked_at + max_age;
                match pool.filter(|pool| !pool.has_ended(now)) {
                    _ if !is_usable => self.unused(DropReason::Unusable, 1),
                    None => self.unused(DropReason::Ended, 1),
                    Some(_) if usable_until <= now.instant => self.unused(DropReason::Expired, 1),
                    Some(pool) => {
                        pool.ready.push_back(ReadyLink { key, link, usable_until });
                        self.ready += 1;
                    }
                }
            }
        }
        self.show();
    }

    /// Drops links that are too old, and pools whose date is over or that had no upload for [`super::sizing::WINDOW`].
    pub fn sweep(&mut self, now: Now) {
        let mut over = Vec::new();
        let mut expired = 0;
        for (shape, pool) in &mut self.pools {
            if pool.has_ended(now) {
                over.push((shape.clone(), DropReason::Ended));
            } else if pool.uses.total(now.instant) == 0 && pool.asked == 0 {
                over.push((shape.clone(), DropReason::Idle));
            } else {
                expired += pool.drop_expired(now.instant);
            }
        }
        self.lost(DropReason::Expired, expired);
        for (shape, reason) in over {
            self.remove(&shape, reason);
        }
        // What one link has said of its life does not count for ever: a longer one is tried again.
        self.max_age = (self.max_age + self.max_age / 64).min(LIFE / 2);
        self.show();
    }

    /// Drops all links; the pools begin anew.
    pub fn clear(&mut self, reason: DropReason) {
        self.wanting.clear();
        for (_, pool) in std::mem::take(&mut self.pools) {
            self.lost(reason, pool.ready.len());
        }
        self.show();
    }

    /// What was asked for is counted until it is received.
    fn remove(&mut self, shape: &KeyShape, reason: DropReason) {
        if let Some(pool) = self.pools.remove(shape) {
            self.lost(reason, pool.ready.len());
        }
        self.wanting.retain(|wanting| wanting != shape);
    }

    /// Counts links that were ready.
    fn lost(&mut self, reason: DropReason, links: usize) {
        self.ready -= links;
        self.unused(reason, links);
    }

    fn unused(&mut self, reason: DropReason, links: usize) {
        if links > 0 {
            self.metrics.dropped(reason, links);
            self.credit = (self.credit - links as f64).max(0.0);
        }
    }

    fn show(&self) {
        self.metrics.ready.set(i64::try_from(self.ready).unwrap_or(i64::MAX));
        self.metrics.pools.set(i64::try_from(self.pools.len()).unwrap_or(i64::MAX));
    }
}

/// How long a link can be used after it was asked for.
fn life(link: &UploadLink) -> Duration {
    let signed_for = link.signed_for().and_then(|(start, end)| end.checked_sub(start));
    let seconds = signed_for.map(|seconds| u64::try_from(seconds).unwrap_or_default());
    seconds.map_or(LIFE, |seconds| Duration::from_secs(seconds).min(LIFE))
}

/// In bytes.
fn size(link: &UploadLink) -> usize {
    let secrets = [&link.token, &link.authorization, &link.cos_file_id];
    let secret: usize = secrets.iter().map(|secret| secret.expose_secret().len()).sum();
    link.url.len() + link.file_id.len() + secret
}
