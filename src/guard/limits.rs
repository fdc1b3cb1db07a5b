//! How many uploads may run at once, of all clients and of one, and how many requests may come.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::policy::Client;
use crate::settings::{Rate, Settings};

/// Clients, and addresses, that are remembered; those not seen for longest are forgotten first.
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
    per_client: Option<usize>,
    address_rate: Option<Quota>,
    clients: Cache<String, Arc<Share>>,
    addresses: Cache<IpAddr, Arc<DefaultDirectRateLimiter>>,
}

/// One client's part.
struct Share {
    rate: Option<DefaultDirectRateLimiter>,
    slots: Option<Arc<Slots>>,
}

impl Limits {
    pub fn new(settings: &Settings) -> Self {
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
            per_client: settings.upload.max_concurrent_per_client,
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
        let limiter =
            self.addresses.get_with(neighbours(address), || Arc::new(RateLimiter::direct(quota)));
        check(&limiter)
    }

    /// Counts a request of a client.
    pub fn count(&self, client: &Client) -> Result<(), LimitError> {
        match client.rate {
            None => Ok(()),
            Some(_) => self.share(client).rate.as_ref().map_or(Ok(()), check),
        }
    }

    /// Takes a place for an upload.
    pub fn take(&self, client: &Client) -> Result<Slot, LimitError> {
        let all = Slots::take(&self.all).map_err(LimitError::Overloaded)?;
        let own = match self.per_client {
            None => Ok(None),
            Some(_) => self.share(client).slots.as_ref().map(Slots::take).transpose(),
        };
        Ok(Slot { _all: all, _own: own.map_err(LimitError::ClientBusy)? })
    }

    fn share(&self, client: &Client) -> Arc<Share> {
        let new = || {
            Arc::new(Share {
                rate: client.rate.and_then(quota).map(RateLimiter::direct),
                slots: self.per_client.map(Slots::new),
            })
        };
        match self.clients.get(&client.id) {
            Some(share) => share,
            None => self.clients.get_with(client.id.clone(), new),
        }
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
pub fn neighbours(address: IpAddr) -> IpAddr {
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
    _all: Place,
    _own: Option<Place>,
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
