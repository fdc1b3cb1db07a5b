//! The counters of all quotas: in Redis where it is set, otherwise in memory. While Redis is unavailable this gateway
//! counts in its own memory, and tells Redis later what was stored meanwhile (`unsent`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::amount::{Amount, Refusal, Usage, Wanted};
use super::counter::{Granted, ReservationId};
use super::memory::MemoryCounters;
use super::redis::RedisCounters;
use super::unsent::Unsent;
use crate::metrics::Metrics;
use crate::net::redis::RedisServer;
use crate::settings::{Quota, Settings};

/// How long the reservation of a running upload stays in Redis after its gateway was killed.
const LIFE: Duration = Duration::from_secs(300);
/// How often a gateway prolongs the reservations of its running uploads.
const RENEWAL: Duration = Duration::from_secs(60);

/// Shared by all workers.
pub struct Quotas {
    memory: MemoryCounters,
    redis: Option<RedisCounters>,
    /// The reservations that are prolonged, with their subjects: one for each running upload.
    running: Mutex<HashMap<ReservationId, Arc<str>>>,
    unsent: Unsent,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
}

/// How long a reservation lives.
#[derive(Debug, Clone, Copy)]
pub enum Lifetime {
    /// As long as its reservation.
    Running,
    /// Of a resumable upload, until this time in seconds since 1970.
    Until(ReservationId, i64),
}

impl Quotas {
    /// `tasks` are waited for at shutdown.
    pub fn new(
        settings: &Settings,
        redis: Option<&RedisServer>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Self {
        let max_life = settings.resumable.expire_after.max(LIFE);
        Self {
            memory: MemoryCounters::default(),
            // Quotas may be added by a reload. The connection is opened for the first of them.
            redis: redis.map(|server| RedisCounters::new(server, &settings.wechat.env, max_life)),
            running: Mutex::default(),
            unsent: Unsent::default(),
            metrics,
            tasks,
        }
    }

    /// Prolongs reservations, and tells Redis what it was not told. Runs forever; returns at once without Redis.
    pub async fn maintain(self: Arc<Self>) {
        let Some(redis) = &self.redis else { return };
        loop {
            tokio::time::sleep(RENEWAL).await;
            let running: Vec<_> = {
                let running = lock(&self.running);
                running.iter().map(|(id, subject)| (*id, subject.clone())).collect()
            };
            for (id, subject) in running {
                // The next round tries again: a reservation outlives several.
                let _ = redis.renew(&subject, &id, LIFE).await;
            }
            for subject in self.unsent.subjects() {
                self.send(redis, &subject).await;
            }
        }
    }

    /// Grants what `wanted` asks for, or what is left of it. `subject` identifies quota and client.
    pub(super) async fn grant(
        self: &Arc<Self>,
        quota: &Arc<Quota>,
        subject: &Arc<str>,
        wanted: Wanted,
        lifetime: Lifetime,
    ) -> Result<(ReservationId, Granted), (Refusal, Usage)> {
        let id = match lifetime {
            Lifetime::Running => rand::random(),
            Lifetime::Until(id, _) => id,
        };
        let granted = self.granted(quota, subject, id, wanted, lifetime).await;
        self.metrics.quota(if granted.is_ok() { "admitted" } else { "refused" });
        let granted = granted?;
        if self.redis.is_some() && matches!(lifetime, Lifetime::Running) {
            lock(&self.running).insert(id, subject.clone());
        }
        Ok((id, granted))
    }

    async fn granted(
        self: &Arc<Self>,
        quota: &Arc<Quota>,
        subject: &Arc<str>,
        id: ReservationId,
        wanted: Wanted,
        lifetime: Lifetime,
    ) -> Result<Granted, (Refusal, Usage)> {
        let expires = match lifetime {
            Lifetime::Running => i64::MAX,
            Lifetime::Until(_, expires) => expires,
        };
        if let Some(redis) = &self.redis {
            self.send(redis, subject).await;
            let life = match lifetime {
                Lifetime::Running => LIFE,
                Lifetime::Until(..) => {
                    let left = expires.saturating_sub(Timestamp::now().as_second());
                    Duration::from_secs(u64::try_from(left).unwrap_or_default())
                }
            };
            let mut in_doubt = InDoubt { quotas: self, quota, subject, id, is_known: false };
            return match redis.reserve(quota, subject, id, wanted, life).await {
                Ok(granted) => {
                    in_doubt.is_known = true;
                    granted
                }
                // Logged by the connection.
                Err(_) => {
                    self.metrics.quota("alone");
                    let granted = self.memory.reserve(quota, subject, id, wanted, expires);
                    in_doubt.is_known = granted.is_ok();
                    granted
                }
            };
        }
        self.memory.reserve(quota, subject, id, wanted, expires)
    }

    /// Ends a reservation, which may have been made by another gateway, and counts what was stored. `is_repeated`: another
    /// gateway may have done so before; in Redis it is then counted only if the reservation is still there.
    pub async fn conclude(
        &self,
        quota: &Arc<Quota>,
        subject: &Arc<str>,
        id: &ReservationId,
        stored: Amount,
        is_repeated: bool,
    ) -> Usage {
        let Some(redis) = &self.redis else {
            return self.memory.conclude(subject, id, stored);
        };
        lock(&self.running).remove(id);
        match redis.conclude(quota, subject, id, stored, is_repeated).await {
            Ok(usage) => {
                // Made while Redis was unavailable.
                self.memory.conclude(subject, id, Amount::NONE);
                usage
            }
            Err(_) => {
                self.unsent.add(quota, subject, *id, stored);
                self.memory.conclude(subject, id, stored)
            }
        }
    }

    /// As [`Self::conclude`], and begins at once: where Redis must be told, as a task that a shutdown waits for, and that
    /// the caller need not wait for. `None`: the task has failed.
    pub(super) fn conclude_as_task(
        self: Arc<Self>,
        quota: Arc<Quota>,
        subject: Arc<str>,
        id: ReservationId,
        stored: Amount,
    ) -> impl Future<Output = Option<Usage>> + use<> {
        let concluded = match (&self.redis, Handle::try_current()) {
            (Some(_), Ok(runtime)) => {
                let quotas = self.clone();
                let concluded =
                    async move { quotas.conclude(&quota, &subject, &id, stored, false).await };
                Err(runtime.spawn(self.tasks.track_future(concluded)))
            }
            _ => Ok(self.memory.conclude(&subject, &id, stored)),
        };
        async move {
            match concluded {
                Ok(usage) => Some(usage),
                Err(running) => running.await.ok(),
            }
        }
    }

    /// Tells Redis what it was not told of one client. What Redis does not confirm stays, and so does the rest if the future
    /// is dropped.
    async fn send(&self, redis: &RedisCounters, subject: &Arc<str>) {
        while let Some((quota, id, stored)) = self.unsent.first(subject) {
            if redis.conclude(&quota, subject, &id, stored, false).await.is_err() {
                return;
            }
            self.unsent.remove(subject, &id);
        }
    }
}

/// A reservation that Redis may have made. Dropped where no upload has it, it ends there, too: the client was gone before
/// Redis responded, or Redis did not and the upload is refused.
struct InDoubt<'a> {
    quotas: &'a Arc<Quotas>,
    quota: &'a Arc<Quota>,
    subject: &'a Arc<str>,
    id: ReservationId,
    /// An upload has it, or it was refused.
    is_known: bool,
}

impl Drop for InDoubt<'_> {
    fn drop(&mut self) {
        if !self.is_known {
            let (quotas, quota) = (self.quotas.clone(), self.quota.clone());
            let subject = self.subject.clone();
            drop(quotas.conclude_as_task(quota, subject, self.id, Amount::NONE));
        }
    }
}

/// A poisoned lock is still used: no panic leaves a map inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
