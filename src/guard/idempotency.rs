//! `Idempotency-Key`: requests of one client with the same key are one upload.
//!
//! Within [`RETENTION`] a retry gets the response to the first request, or waits for it. If the first one fails, its
//! response is not retained, and a waiting retry is carried out instead. This cache is empty after a restart and not
//! shared between replicas; generated paths are therefore derived from the client and the key, and a retry there
//! overwrites the same object.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use uuid::Uuid;

use super::policy::Client;
use crate::settings::Settings;

/// How long a response is retained.
const RETENTION: Duration = Duration::from_secs(10 * 60);
/// Of all entries together, in bytes. Each weighs at least [`OVERHEAD`], so there are at most 65,536 of them.
const CAPACITY: u64 = 32 * 1024 * 1024;
/// Bytes that an entry takes besides its response: the cache's bookkeeping, the hashes of key and request, the channel.
const OVERHEAD: usize = 512;
/// Bytes that a retained header takes besides its name and value.
const HEADER_OVERHEAD: usize = 64;

/// SHA-256, so that an entry's size does not depend on the length of keys and requests.
type Hash = [u8; 32];

/// The retained response to an upload.
#[derive(Debug)]
pub struct RetainedResponse {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl RetainedResponse {
    /// In bytes.
    fn weight(&self) -> usize {
        let headers = self.headers.iter();
        let headers =
            headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
        self.body.len() + headers.sum::<usize>()
    }
}

/// The running and completed requests with a key; shared by all workers.
pub struct Idempotency {
    seed: Hash,
    entries: Cache<Scope, Entry>,
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
    /// Dropped only after the entry is replaced or removed, since waiting retries then look at the entry again.
    finished: Option<watch::Sender<()>>,
    /// The seed of generated paths; unique to this scope.
    path_seed: Hash,
}

impl Idempotency {
    /// Generated paths derive from what all replicas have in common: the environment, the app and its secret.
    pub fn new(settings: &Settings) -> Self {
        let wechat = &settings.wechat;
        let secret = wechat.secret.expose_secret();
        let seed = ["names of repeats", &wechat.env, &wechat.appid, secret].map(str::as_bytes);
        let entries = Cache::builder()
            .max_capacity(CAPACITY)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_: &Scope, entry: &Entry| entry.weight())
            .expire_after(ExpireCompleted)
            .build();
        Self { seed: hash(&seed), entries }
    }

    /// Claims `key` for a request; waits while another request with it is running. `request` is what must be equal in a
    /// retry, in parts.
    pub async fn claim(&self, client: &Client, key: &str, request: &[&str]) -> Claim {
        let claims = client.claims.as_ref().map_or(&[][..], |claims| claims);
        let scope = hash(&[client.id.as_bytes(), claims, key.as_bytes()]);
        let request: Hash = hash(&request.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        loop {
            let (sender, finished) = watch::channel(());
            let new = || Entry::Running { request, finished };
            let entry = self.entries.entry(scope).or_insert_with(new);
            let first = entry.is_fresh();
            match entry.into_value() {
                Entry::Running { request, .. } if first => {
                    return Claim::First(IdempotencyGuard {
                        entries: self.entries.clone(),
                        path_seed: hmac(&self.seed, &[&scope]),
                        scope,
                        request,
                        finished: Some(sender),
                    });
                }
                Entry::Running { request: known, .. } | Entry::Completed { request: known, .. }
                    if known != request =>
                {
                    return Claim::Mismatch;
                }
                // The expected outcome is an error: the sender has been dropped.
                Entry::Running { mut finished, .. } => drop(finished.changed().await),
                Entry::Completed { response, .. } => return Claim::Completed(response),
            }
        }
    }
}

impl IdempotencyGuard {
    /// The id in the generated path of the `index`-th file: the same on every replica and after a restart.
    pub fn uuid(&self, index: usize) -> Uuid {
        let hash = hmac(&self.path_seed, &[&(index as u64).to_be_bytes()]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Uuid::new_v8(bytes)
    }

    /// Retains the response for retries.
    pub fn complete(mut self, response: RetainedResponse) {
        let entry = Entry::Completed { request: self.request, response: Arc::new(response) };
        self.entries.insert(self.scope, entry);
        self.finished = None;
    }
}

impl Drop for IdempotencyGuard {
    fn drop(&mut self) {
        if self.finished.is_some() {
            self.entries.invalidate(&self.scope);
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
            Self::Running { .. } => 0,
            Self::Completed { response, .. } => response.weight(),
        };
        u32::try_from(OVERHEAD + response).unwrap_or(u32::MAX)
    }
}

/// Completed requests expire after [`RETENTION`]; running ones do not.
struct ExpireCompleted;

impl Expiry<Scope, Entry> for ExpireCompleted {
    fn expire_after_create(&self, _: &Scope, entry: &Entry, _: Instant) -> Option<Duration> {
        matches!(entry, Entry::Completed { .. }).then_some(RETENTION)
    }

    fn expire_after_update(
        &self,
        _: &Scope,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        matches!(entry, Entry::Completed { .. }).then_some(RETENTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Policy;

    #[tokio::test]
    async fn the_cache_is_bounded_in_bytes_and_in_entries() {
        let settings = Settings::from_layers(None, None, Default::default()).unwrap();
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
        let client = Client::new("key", "k", &policy, &settings);
        for (length, many) in [(0, 80_000), (4000, 10_000), (1 << 20, 100)] {
            let idempotency = Idempotency::new(&settings);
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
