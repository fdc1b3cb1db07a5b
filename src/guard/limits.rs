//! How many uploads may run at once, of all clients and of one, and how many requests may come.

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

/// Clients, and addresses, that are remembered; those not seen for longest are forgotten first. A client's id is at most
/// 133 bytes long (a ticket's `sub` and its kind), so each map is at most some 40 MB.
const REMEMBERED: u64 = 100_000;
/// The longest that any [`Rate`] takes to forgive, and more.
const FORGOTTEN: Duration = Duration::from_secs(2 * 3600);

/// Why a request is refused now and may be taken later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("{0} uploads are running already")]
    Overloaded(usize),
    #[error("this client has {0} uploads running already")]
    ClientBusy(usize),
    #[error("too many requests")]
    TooFast {
        /// When one more will be taken.
        retry_after: Duration,
    },
}

/// Counts places and requests; shared by all workers.
pub struct Limits {
    all: Arc<Slots>,
    per_client: usize,
    budget: Arc<Budget>,
    running: Arc<Running>,
    address_rate: Option<Quota>,
    clients: Cache<String, Arc<DefaultDirectRateLimiter>>,
    addresses: Cache<IpAddr, Arc<DefaultDirectRateLimiter>>,
}

/// The clients that have uploads running, by their id. As many as there are uploads at most.
#[derive(Debug, Default)]
struct Running(Mutex<HashMap<String, Uploads>>);

/// What runs of one client.
#[derive(Debug)]
struct Uploads {
    count: usize,
    memory: Arc<Share>,
}

impl Limits {
    /// `budget` is what uploads may keep in memory, together.
    pub fn new(settings: &Settings, budget: Arc<Budget>) -> Self {
        fn remembered<
            K: std::hash::Hash + Eq + Send + Sync + 'static,
            V: Clone + Send + Sync + 'static,
        >() -> Cache<K, V> {
            Cache::builder()
                .max_capacity(REMEMBERED)
                // The default would not let newcomers in where many come and go.
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(FORGOTTEN)
                .build()
        }
        Self {
            all: Slots::new(settings.upload.max_concurrent),
            per_client: settings.upload.max_concurrent_per_client.unwrap_or(usize::MAX),
            budget,
            running: Arc::default(),
            address_rate: settings.auth.address_rate.and_then(quota),
            clients: remembered(),
            addresses: remembered(),
        }
    }

    /// Counts a request of an address.
    pub fn count_address(&self, address: IpAddr) -> Result<(), LimitError> {
        let Some(quota) = self.address_rate else {
            return Ok(());
        };
        let limiter = self
            .addresses
            .get_with(rate_limit_key(address), || Arc::new(RateLimiter::direct(quota)));
        check(&limiter)
    }

    /// Counts a request of a client.
    pub fn count(&self, client: &Client) -> Result<(), LimitError> {
        let Some(quota) = client.rate.and_then(quota) else {
            return Ok(());
        };
        match self.clients.get(&client.id) {
            Some(limiter) => check(&limiter),
            None => {
                let new = || Arc::new(RateLimiter::direct(quota));
                check(&self.clients.get_with(client.id.clone(), new))
            }
        }
    }

    /// Takes a place for an upload, of all and of its client's.
    pub fn take(&self, client: &Client) -> Result<Slot, LimitError> {
        let all = Slots::take(&self.all).map_err(LimitError::Overloaded)?;
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
                let uploads = Uploads { count: 1, memory: memory.clone() };
                running.insert(client.id.clone(), uploads);
                memory
            }
        };
        Ok(Slot { client: client.id.clone(), memory, running: self.running.clone(), _all: all })
    }
}

impl Running {
    /// Nothing is left half done under this lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Uploads>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn quota(rate: Rate) -> Option<Quota> {
    Quota::with_period(rate.per / rate.requests.get()).map(|quota| quota.allow_burst(rate.requests))
}

fn check(limiter: &DefaultDirectRateLimiter) -> Result<(), LimitError> {
    limiter.check().map_err(|not_until| {
        let retry_after = not_until.wait_time_from(DefaultClock::default().now());
        LimitError::TooFast { retry_after }
    })
}

/// What counts as one address: whoever has one of IPv6 has its /64.
pub fn rate_limit_key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

/// Places for uploads.
#[derive(Debug)]
struct Slots {
    max: usize,
    taken: AtomicUsize,
}

/// A taken place, of all and of its client's; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    client: String,
    memory: Arc<Share>,
    running: Arc<Running>,
    _all: Place,
}

impl Slot {
    /// What the client's uploads may keep in memory, together.
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

#[derive(Debug)]
struct Place(Arc<Slots>);

impl Slots {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: AtomicUsize::new(0) })
    }

    /// Takes a place, or says how many there are.
    fn take(slots: &Arc<Self>) -> Result<Place, usize> {
        slots
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < slots.max).then_some(taken + 1)
            })
            .map(|_| Place(slots.clone()))
            .map_err(|_| slots.max)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
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
        };
        let client = Client::new("user", "u", &policy, &settings);
        (Limits::new(&settings, Budget::new(1 << 20)), client)
    }

    #[test]
    fn more_addresses_and_clients_than_are_remembered_displace_the_oldest() {
        let (limits, client) = limits(|settings| settings.auth.address_rate = Some(FIVE));
        for n in 0..120_000u32 {
            limits.count_address(IpAddr::V4(n.into())).unwrap();
            limits.count(&client.named("u", format!("user:{n:0>128}"))).unwrap();
        }
        limits.addresses.run_pending_tasks();
        limits.clients.run_pending_tasks();
        assert!(limits.addresses.entry_count() <= REMEMBERED);
        assert!(limits.clients.entry_count() <= REMEMBERED);
        // Those seen last are known.
        for _ in 0..4 {
            limits.count_address(IpAddr::V4(119_999.into())).unwrap();
        }
        assert!(limits.count_address(IpAddr::V4(119_999.into())).is_err());
    }

    #[test]
    fn nothing_is_kept_of_a_client_without_uploads() {
        let (limits, client) =
            limits(|settings| settings.upload.max_concurrent_per_client = Some(2));
        let other = client.named("v", "user:v".to_owned());
        let slots = [limits.take(&client).unwrap(), limits.take(&client).unwrap()];
        assert_eq!(limits.take(&client).unwrap_err(), LimitError::ClientBusy(2));
        let others = limits.take(&other).unwrap();
        assert!(Arc::ptr_eq(&slots[0].memory(), &slots[1].memory()));
        assert!(!Arc::ptr_eq(&slots[0].memory(), &others.memory()));
        assert_eq!(limits.running.lock().len(), 2);
        drop(slots);
        assert_eq!(limits.running.lock().len(), 1);
        let again = limits.take(&client).unwrap();
        drop((again, others));
        assert!(limits.running.lock().is_empty());
        assert_eq!(limits.all.taken.load(Ordering::Relaxed), 0);
    }
}
