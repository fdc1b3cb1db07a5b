//! `Idempotency-Key`: requests of one client with the same key are one upload.
//!
//! Within [`RETENTION`] a retry gets the response to the first request, or waits for it. If the first one fails, its
//! response is not retained, and a waiting retry is carried out instead. Generated paths are derived from the client, the
//! key and the day of its first use, so that a retry writes to the same object also where the response was lost.
//!
//! Replicas share keys and responses in Redis (`redis`). Without it this cache is empty after a restart, and a retry there
//! or on another replica finds the same object only on the same day.

mod redis;
mod response;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use moka::Expiry;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use uuid::Uuid;

use self::redis::{LeasedKey, RENEWAL, Shared, SharedKeys};
use super::policy::Client;
use crate::net::redis::RedisServer;
use crate::net::redis_map::Bounds;
use crate::settings::Settings;

pub use response::RetainedResponse;

/// How long a response is retained.
const RETENTION: Duration = Duration::from_secs(10 * 60);
/// Of all entries together, in bytes. Each weighs at least [`OVERHEAD`], so there are at most 65,536 of them.
const CAPACITY: u64 = 32 * 1024 * 1024;
/// Bytes that an entry takes besides its response: the cache's bookkeeping, the hashes of key and request, the channel.
const OVERHEAD: usize = 512;
/// How often a retry asks whether the gateway that carries out its request has finished: at first, and at most.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// SHA-256, so that an entry's size does not depend on the length of keys and requests.
type Hash = [u8; 32];

/// The running and completed requests with a key; shared by all workers.
pub struct Idempotency {
    seed: Hash,
    entries: Cache<Scope, Entry>,
    /// `None`: keys are not shared with other gateways.
    shared: Option<SharedKeys>,
    tasks: TaskTracker,
}

/// The scope of a key: a hash of the client, of its ticket's claims and of the key. Two tickets of one user that allow
/// different things share neither responses nor generated paths.
type Scope = Hash;

#[derive(Clone)]
enum Entry {
    /// The channel closes when the request has finished.
    Running {
        request: Hash,
        finished: watch::Receiver<()>,
    },
    Completed {
        request: Hash,
        response: Arc<RetainedResponse>,
    },
    /// The request failed. Another one with the key may be carried out, on the paths of the first one.
    Failed {
        first_used: Timestamp,
    },
}

/// The outcome of [`Idempotency::claim`].
pub enum Claim {
    /// The first request with this key: the receiver of the guard carries it out.
    First(IdempotencyGuard),
    /// A retry; this is the response to the first request.
    Completed(Arc<RetainedResponse>),
    /// The key was used for a different request.
    Mismatch,
}

/// Belongs to the one request that is carried out for a key. If it is dropped before [`Self::complete`], a waiting
/// retry is carried out instead.
pub struct IdempotencyGuard {
    entries: Cache<Scope, Entry>,
    scope: Scope,
    request: Hash,
    first_used: Timestamp,
    /// `None`: the key is not leased in Redis.
    lease: Option<Box<Lease>>,
    /// Dropped only after the entry is replaced or removed, since waiting retries then look at the entry again.
    finished: Option<watch::Sender<()>>,
    /// The seed of generated paths; unique to this scope.
    path_seed: Hash,
}

/// A lease in Redis, which is prolonged as long as this exists.
struct Lease {
    key: LeasedKey,
    shared: SharedKeys,
    tasks: TaskTracker,
    _renewal: AbortOnDropHandle<()>,
}

impl Idempotency {
    /// Generated paths derive from what all replicas have in common: the environment, the app and its secret.
    /// `tasks` are waited for at shutdown.
    pub fn new(settings: &Settings, redis: Option<&RedisServer>, tasks: TaskTracker) -> Self {
        let wechat = &settings.wechat;
        let secret = wechat.secret.expose_secret();
        let seed = ["names of repeats", &wechat.env, &wechat.appid, secret].map(str::as_bytes);
        let entries = Cache::builder()
            .max_capacity(CAPACITY)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_: &Scope, entry: &Entry| entry.weight())
            .expire_after(ExpireFinished)
            .build();
        let bounds = Bounds {
            entries: CAPACITY as usize / OVERHEAD,
            bytes: CAPACITY as usize,
            life: RETENTION,
        };
        let shared = redis.map(|server| SharedKeys::new(server, &wechat.env, RETENTION, bounds));
        Self { seed: hash(&seed), entries, shared, tasks }
    }

    /// Claims `key` for a request; waits while another request with it is running. `request` is what must be equal in a
    /// retry, in parts.
    pub async fn claim(&self, client: &Client, key: &str, request: &[&str]) -> Claim {
        let claims = client.claims.as_ref().map_or(&[][..], |claims| claims);
        let scope = hash(&[client.id.as_bytes(), claims, key.as_bytes()]);
        let request: Hash = hash(&request.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        loop {
            let (sender, finished) = watch::channel(());
            let running = Entry::Running { request, finished };
            let mut known = None;
            self.entries.entry(scope).and_compute_with(|entry| {
                known = entry.map(|entry| entry.into_value());
                match known {
                    None | Some(Entry::Failed { .. }) => Op::Put(running),
                    Some(_) => Op::Nop,
                }
            });
            match known {
                None => return self.first(scope, request, None, sender).await,
                Some(Entry::Failed { first_used }) => {
                    return self.first(scope, request, Some(first_used), sender).await;
                }
                Some(
                    Entry::Running { request: known, .. } | Entry::Completed { request: known, .. },
                ) if known != request => return Claim::Mismatch,
                // The expected outcome is an error: the sender has been dropped.
                Some(Entry::Running { mut finished, .. }) => drop(finished.changed().await),
                Some(Entry::Completed { response, .. }) => return Claim::Completed(response),
            }
        }
    }

    /// The first request with its key on this gateway.
    async fn first(
        &self,
        scope: Scope,
        request: Hash,
        first_used: Option<Timestamp>,
        finished: watch::Sender<()>,
    ) -> Claim {
        let mut guard = IdempotencyGuard {
            entries: self.entries.clone(),
            path_seed: hmac(&self.seed, &[&scope]),
            scope,
            request,
            first_used: first_used.unwrap_or_else(Timestamp::now),
            lease: None,
            finished: Some(finished),
        };
        let Some(shared) = &self.shared else { return Claim::First(guard) };
        let key = LeasedKey {
            // What Redis has tells nothing of clients and their keys.
            id: hex::encode(&hmac(&self.seed, &[b"key", &scope])[..16]),
            request: hex::encode(&hmac(&self.seed, &[b"request", &request])[..16]),
            lease: format!("{:032x}", rand::random::<u128>()),
        };
        let mut interval = POLL_INTERVAL;
        loop {
            match shared.acquire(&key, first_used).await {
                Ok(Shared::First(first_used)) => {
                    guard.first_used = first_used;
                    guard.lease = Some(Box::new(Lease {
                        key: key.clone(),
                        shared: shared.clone(),
                        tasks: self.tasks.clone(),
                        _renewal: prolong(shared.clone(), key, first_used),
                    }));
                    return Claim::First(guard);
                }
                Ok(Shared::Running) => {
                    tokio::time::sleep(interval.mul_f64(0.5 + fastrand::f64())).await;
                    interval = (2 * interval).min(MAX_POLL_INTERVAL);
                }
                Ok(Shared::Completed(text)) => match RetainedResponse::from_text(&text) {
                    Some(response) => {
                        let response = Arc::new(response);
                        guard.retain(response.clone());
                        return Claim::Completed(response);
                    }
                    // Of another release: as if it were lost.
                    None => return Claim::First(guard),
                },
                Ok(Shared::Mismatch) => return Claim::Mismatch,
                // Logged by the connection.
                Err(_) => return Claim::First(guard),
            }
        }
    }
}

/// Prolongs a lease until the returned handle is dropped.
fn prolong(shared: SharedKeys, key: LeasedKey, first_used: Timestamp) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEWAL).await;
            // The next round tries again: a lease outlives several.
            let _ = shared.acquire(&key, Some(first_used)).await;
        }
    }))
}

impl IdempotencyGuard {
    /// The id in the generated path of the `index`-th file: the same on every replica and after a restart.
    pub fn uuid(&self, index: usize) -> Uuid {
        let hash = hmac(&self.path_seed, &[&(index as u64).to_be_bytes()]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Uuid::new_v8(bytes)
    }

    /// When the key was first used: the day in generated paths.
    pub fn first_used(&self) -> Timestamp {
        self.first_used
    }

    /// Retains the response for retries.
    pub fn complete(mut self, response: RetainedResponse) {
        let response = Arc::new(response);
        self.retain(response.clone());
        self.release(Some(response));
    }

    fn retain(&mut self, response: Arc<RetainedResponse>) {
        let entry = Entry::Completed { request: self.request, response };
        self.entries.insert(self.scope, entry);
        self.finished = None;
    }

    /// Tells Redis, if this gateway has the lease. The client need not wait for it: until then, retries elsewhere do.
    fn release(&mut self, response: Option<Arc<RetainedResponse>>) {
        let (Some(lease), Ok(runtime)) = (self.lease.take(), Handle::try_current()) else { return };
        let tasks = lease.tasks.clone();
        let released = async move {
            let text = response.and_then(|response| response.to_text());
            lease.shared.release(&lease.key, text.as_deref()).await;
        };
        runtime.spawn(tasks.track_future(released));
    }
}

impl Drop for IdempotencyGuard {
    fn drop(&mut self) {
        if self.finished.is_some() {
            self.entries.insert(self.scope, Entry::Failed { first_used: self.first_used });
            self.release(None);
        }
    }
}

/// The hash of several parts, each with its length, so that different lists of parts cannot give the same bytes.
fn hash(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn hmac(key: &Hash, parts: &[&[u8]]) -> Hash {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("a key of any length"));
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

impl Entry {
    fn weight(&self) -> u32 {
        let response = match self {
            Self::Running { .. } | Self::Failed { .. } => 0,
            Self::Completed { response, .. } => response.weight(),
        };
        u32::try_from(OVERHEAD + response).unwrap_or(u32::MAX)
    }
}

/// Completed and failed requests expire after [`RETENTION`]; running ones do not.
struct ExpireFinished;

impl Expiry<Scope, Entry> for ExpireFinished {
    fn expire_after_create(&self, _: &Scope, entry: &Entry, _: Instant) -> Option<Duration> {
        (!matches!(entry, Entry::Running { .. })).then_some(RETENTION)
    }

    fn expire_after_update(
        &self,
        _: &Scope,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        (!matches!(entry, Entry::Running { .. })).then_some(RETENTION)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::settings::Policy;

    fn client(settings: &Settings) -> Client {
        let policy = Policy {
            can: [].into(),
            prefix: None,
            client_paths: None,
            max_file_size: None,
            max_files: None,
            types: Vec::new(),
            rate: None,
            quota: None,
        };
        Client::new("key", "k", &policy, settings)
    }

    #[tokio::test]
    async fn a_retry_after_a_failure_has_the_day_of_the_first_request() {
        let settings = Settings::from_layers(None, None, Default::default()).unwrap();
        let client = client(&settings);
        let idempotency = Idempotency::new(&settings, None, TaskTracker::new());
        let first = async |key: &str, request: &str| match idempotency
            .claim(&client, key, &[request])
            .await
        {
            Claim::First(guard) => guard,
            _ => panic!("not the first"),
        };
        let mut guard = first("k", "a").await;
        let yesterday: Timestamp = "2026-03-04T23:59:59Z".parse().unwrap();
        guard.first_used = yesterday;
        drop(guard);
        // Also where it is corrected, and where it fails again.
        for request in ["a", "b"] {
            assert_eq!(first("k", request).await.first_used(), yesterday);
        }
        assert_ne!(first("other", "a").await.first_used(), yesterday);
    }

    #[tokio::test]
    async fn the_cache_is_bounded_in_bytes_and_in_entries() {
        let settings = Settings::from_layers(None, None, Default::default()).unwrap();
        let client = client(&settings);
        for (length, many) in [(0, 80_000), (4000, 10_000), (1 << 20, 100)] {
            let idempotency = Idempotency::new(&settings, None, TaskTracker::new());
            let request = "x".repeat(10_000);
            let body = Bytes::from(vec![b'x'; length]);
            for n in 0..many {
                let claim = idempotency.claim(&client, &n.to_string(), &[&request]).await;
                let Claim::First(guard) = claim else { panic!("not the first: {n}") };
                let body = body.clone();
                guard.complete(RetainedResponse { status: 201, headers: Vec::new(), body });
            }
            idempotency.entries.run_pending_tasks();
            let entries = &idempotency.entries;
            assert!(entries.weighted_size() <= CAPACITY, "{}", entries.weighted_size());
            assert!(entries.weighted_size() > CAPACITY / 2, "{}", entries.weighted_size());
            assert!(entries.entry_count() <= CAPACITY / OVERHEAD as u64);
        }
    }
}
