//! Limits on concurrent uploads (of all clients and of each one) and on the rate of requests (of each client and each
//! IP address).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::policy::Client;
use crate::memory::budget::{Budget, Share};
use crate::settings::{Rate, Settings};

/// Clients, and IP addresses, whose rates are tracked; the least recently used are evicted first. A client's id has at
/// most 133 bytes (a ticket's `sub` and its kind), so each cache takes at most some 40 MB.
const MAX_TRACKED: u64 = 100_000;
/// Longer than any [`Rate`] takes to refill.
const IDLE_EXPIRY: Duration = Duration::from_secs(2 * 3600);

/// Why a request is refused; a later one may be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("{0} uploads are running already")]
    Overloaded(usize),
    #[error("this client has {0} uploads running already")]
    ClientBusy(usize),
    #[error("too many requests")]
    TooFast {
        /// When the next request will be accepted.
        retry_after: Duration,
    },
}

/// Counts running uploads and requests; shared by all workers.
pub struct Limits {
    slots: Arc<Slots>,
    max_concurrent: usize,
    per_client: usize,
    budget: Arc<Budget>,
    running: Arc<RunningUploads>,
    address_rate: Option<Rate>,
    /// A client, or an IP address, has a limiter for each rate: a reload may change it, and requests that began before
    /// are counted with the old one.
    clients: Cache<(String, Rate), Arc<DefaultDirectRateLimiter>>,
    addresses: Cache<(IpAddr, Rate), Arc<DefaultDirectRateLimiter>>,
}

/// The clients with running uploads, by their id: at most as many as there are uploads.
#[derive(Debug, Default)]
struct RunningUploads(Mutex<HashMap<String, ClientUploads>>);

/// The running uploads of one client.
#[derive(Debug)]
struct ClientUploads {
    count: usize,
    memory: Arc<Share>,
}

impl Limits {
    /// `budget` is the memory for the buffers of all uploads together.
    pub fn new(settings: &Settings, budget: Arc<Budget>) -> Self {
        fn lru<
            K: std::hash::Hash + Eq + Send + Sync + 'static,
            V: Clone + Send + Sync + 'static,
        >() -> Cache<K, V> {
            Cache::builder()
                .max_capacity(MAX_TRACKED)
                // The default policy would refuse to cache new entries while many others come and go.
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(IDLE_EXPIRY)
                .build()
        }
        Self {
            slots: Arc::default(),
            max_concurrent: settings.upload.max_concurrent,
            per_client: settings.upload.max_concurrent_per_client.unwrap_or(usize::MAX),
            budget,
            running: Arc::default(),
            address_rate: settings.auth.address_rate,
            clients: lru(),
            addresses: lru(),
        }
    }

    /// The limits of `settings`, with the same counts.
    pub fn reloaded(&self, settings: &Settings) -> Self {
        Self {
            slots: self.slots.clone(),
            max_concurrent: settings.upload.max_concurrent,
            per_client: settings.upload.max_concurrent_per_client.unwrap_or(usize::MAX),
            budget: self.budget.clone(),
            running: self.running.clone(),
            address_rate: settings.auth.address_rate,
            clients: self.clients.clone(),
            addresses: self.addresses.clone(),
        }
    }

    /// Counts a request from an IP address.
    pub fn count_address(&self, address: IpAddr) -> Result<(), LimitError> {
        let Some((rate, quota)) = self.address_rate.and_then(with_quota) else {
            return Ok(());
        };
        let limiter = self
            .addresses
            .get_with((rate_limit_key(address), rate), || Arc::new(RateLimiter::direct(quota)));
        check(&limiter)
    }

    /// Counts a request of a client.
    pub fn count(&self, client: &Client) -> Result<(), LimitError> {
        let Some((rate, quota)) = client.rate.and_then(with_quota) else {
            return Ok(());
        };
        let new = || Arc::new(RateLimiter::direct(quota));
        check(&self.clients.get_with((client.id.clone(), rate), new))
    }

    /// Takes an upload slot: one of all slots, and one of the client's.
    pub fn take_slot(&self, client: &Client) -> Result<Slot, LimitError> {
        let permit =
            Slots::take(&self.slots, self.max_concurrent).map_err(LimitError::Overloaded)?;
        let mut running = self.running.lock();
        let memory = match running.get_mut(&client.id) {
            Some(uploads) if uploads.count >= self.per_client => {
                return Err(LimitError::ClientBusy(self.per_client));
            }
            Some(uploads) => {
                uploads.count += 1;
                uploads.memory.clone()
            }
            None => {
                let memory = Share::new(self.budget.clone());
                let uploads = ClientUploads { count: 1, memory: memory.clone() };
                running.insert(client.id.clone(), uploads);
                memory
            }
        };
        let running = self.running.clone();
        Ok(Slot { client: client.id.clone(), memory, running, _permit: permit })
    }
}

impl RunningUploads {
    /// A poisoned lock is still used: no panic leaves the map inconsistent.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, ClientUploads>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_quota(rate: Rate) -> Option<(Rate, Quota)> {
    let quota = Quota::with_period(rate.per / rate.requests.get())?;
    Some((rate, quota.allow_burst(rate.requests)))
}

fn check(limiter: &DefaultDirectRateLimiter) -> Result<(), LimitError> {
    limiter.check().map_err(|not_until| {
        let retry_after = not_until.wait_time_from(DefaultClock::default().now());
        LimitError::TooFast { retry_after }
    })
}

/// The key under which an IP address is counted: an IPv6 address by its /64 network, all of which one subscriber has.
pub fn rate_limit_key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

/// Counts the upload slots in use.
#[derive(Debug, Default)]
struct Slots {
    used: AtomicUsize,
}

/// An upload slot in use; released when dropped.
#[derive(Debug)]
pub struct Slot {
    client: String,
    memory: Arc<Share>,
    running: Arc<RunningUploads>,
    _permit: Permit,
}

impl Slot {
    /// The memory share of all uploads of this client.
    pub fn memory(&self) -> Arc<Share> {
        self.memory.clone()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        if let Some(uploads) = running.get_mut(&self.client) {
            uploads.count -= 1;
            if uploads.count == 0 {
                running.remove(&self.client);
            }
        }
    }
}

/// One of [`Slots`]; released when dropped.
#[derive(Debug)]
struct Permit(Arc<Slots>);

impl Slots {
    /// Takes one of `max` slots; `Err` is `max` if all are in use.
    fn take(slots: &Arc<Self>, max: usize) -> Result<Permit, usize> {
        slots
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < max).then_some(used + 1)
            })
            .map(|_| Permit(slots.clone()))
            .map_err(|_| max)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Policy;

    const FIVE: Rate =
        Rate { requests: std::num::NonZeroU32::new(5).unwrap(), per: Duration::from_secs(60) };

    fn limits(change: impl FnOnce(&mut Settings)) -> (Limits, Client) {
        let mut settings = Settings::from_layers(None, None, Default::default()).unwrap();
        change(&mut settings);
        let policy = Policy {
            can: [].into(),
            prefix: None,
            client_paths: None,
            max_file_size: None,
            max_files: None,
            types: Vec::new(),
            rate: Some(FIVE),
            quota: None,
        };
        let client = Client::new("user", "u", &policy, &settings);
        (Limits::new(&settings, Budget::new(1 << 20)), client)
    }

    #[test]
    fn beyond_the_maximum_the_least_recently_used_clients_and_addresses_are_evicted() {
        let (limits, client) = limits(|settings| settings.auth.address_rate = Some(FIVE));
        for n in 0..120_000u32 {
            limits.count_address(IpAddr::V4(n.into())).unwrap();
            limits.count(&client.with_identity("u", format!("user:{n:0>128}"))).unwrap();
        }
        limits.addresses.run_pending_tasks();
        limits.clients.run_pending_tasks();
        assert!(limits.addresses.entry_count() <= MAX_TRACKED);
        assert!(limits.clients.entry_count() <= MAX_TRACKED);
        // The most recent address is still tracked.
        for _ in 0..4 {
            limits.count_address(IpAddr::V4(119_999.into())).unwrap();
        }
        assert!(limits.count_address(IpAddr::V4(119_999.into())).is_err());
    }

    #[test]
    fn a_client_without_uploads_takes_no_memory() {
        let (limits, client) =
            limits(|settings| settings.upload.max_concurrent_per_client = Some(2));
        let other = client.with_identity("v", "user:v".to_owned());
        let slots = [limits.take_slot(&client).unwrap(), limits.take_slot(&client).unwrap()];
        assert_eq!(limits.take_slot(&client).unwrap_err(), LimitError::ClientBusy(2));
        let others = limits.take_slot(&other).unwrap();
        assert!(Arc::ptr_eq(&slots[0].memory(), &slots[1].memory()));
        assert!(!Arc::ptr_eq(&slots[0].memory(), &others.memory()));
        assert_eq!(limits.running.lock().len(), 2);
        drop(slots);
        assert_eq!(limits.running.lock().len(), 1);
        let again = limits.take_slot(&client).unwrap();
        drop((again, others));
        assert!(limits.running.lock().is_empty());
        assert_eq!(limits.slots.used.load(Ordering::Relaxed), 0);
    }
}
