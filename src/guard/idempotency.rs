//! Requests that are sent again: the same client's same `Idempotency-Key` is one upload.
//!
//! Within [`REMEMBERED`] a repeat gets the first one's reply, or waits for it; one that failed is nobody's reply, and who
//! waited takes its claim. What another replica, or this one before a restart, stored is not known here: so generated
//! names come from the client and its key, and a repeat lands on the same object.

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

/// How long a reply is kept.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// For all entries together, in bytes. Since none weighs less than [`OVERHEAD`], there are at most 65,536 of them.
const ROOM: u64 = 32 * 1024 * 1024;
/// What an entry costs beside its reply: the cache's own bookkeeping, the key's and the request's hash, the channel.
const OVERHEAD: usize = 512;
/// What a kept header costs beside its name and value.
const HEADER_OVERHEAD: usize = 64;

/// SHA-256: of fixed size however long what it stands for.
type Hash = [u8; 32];

/// An upload's reply, to be given again.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Answer {
    /// In bytes.
    fn weight(&self) -> usize {
        let headers = self.headers.iter();
        let headers =
            headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
        self.body.len() + headers.sum::<usize>()
    }
}

/// All that is known of repeats; shared by all workers.
pub struct Idempotency {
    seed: Hash,
    entries: Cache<Scope, Entry>,
}

/// Whose key it is: a hash of the client, of what its ticket claims, and of the key. Two tickets of one user that allow
/// different things share no replies and no names.
type Scope = Hash;

#[derive(Clone)]
enum Entry {
    /// Its end is told by the sender's going away.
    Running {
        request: Hash,
        end: watch::Receiver<()>,
    },
    Done {
        request: Hash,
        answer: Arc<Answer>,
    },
}

/// What to do with a request.
pub enum Claim {
    /// It is the first: do it.
    Granted(IdempotencyGuard),
    /// It was done.
    Done(Arc<Answer>),
    /// The key was used for another request.
    Other,
}

/// The right to do what a key stands for. Dropped without an answer, it goes to whoever waits.
pub struct IdempotencyGuard {
    entries: Cache<Scope, Entry>,
    scope: Scope,
    request: Hash,
    /// Dropped behind the entry: who wakes must find it gone or done.
    end: Option<watch::Sender<()>>,
    /// Nobody else's names come from this.
    names: Hash,
}

impl Idempotency {
    /// Names come from what all replicas have in common: the environment, the app and its secret.
    pub fn new(settings: &Settings) -> Self {
        let wechat = &settings.wechat;
        let secret = wechat.secret.expose_secret();
        let seed = ["names of repeats", &wechat.env, &wechat.appid, secret].map(str::as_bytes);
        let entries = Cache::builder()
            .max_capacity(ROOM)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_: &Scope, entry: &Entry| entry.weight())
            .expire_after(Lives)
            .build();
        Self { seed: hash(&seed), entries }
    }

    /// Waits for its claim. `request` is what must be the same in a repeat, in parts.
    pub async fn begin(&self, client: &Client, key: &str, request: &[&str]) -> Claim {
        let claims = client.claims.as_ref().map_or(&[][..], |claims| claims);
        let scope = hash(&[client.id.as_bytes(), claims, key.as_bytes()]);
        let request: Hash = hash(&request.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        loop {
            let (end, running) = watch::channel(());
            let new = || Entry::Running { request, end: running };
            let entry = self.entries.entry(scope).or_insert_with(new);
            let first = entry.is_fresh();
            match entry.into_value() {
                Entry::Running { request, .. } if first => {
                    let claim = IdempotencyGuard {
                        entries: self.entries.clone(),
                        names: hmac(&self.seed, &[&scope]),
                        scope,
                        request,
                        end: Some(end),
                    };
                    return Claim::Granted(claim);
                }
                Entry::Running { request: known, .. } | Entry::Done { request: known, .. }
                    if known != request =>
                {
                    return Claim::Other;
                }
                // An error is what is waited for: the sender is gone.
                Entry::Running { mut end, .. } => drop(end.changed().await),
                Entry::Done { answer, .. } => return Claim::Done(answer),
            }
        }
    }
}

impl IdempotencyGuard {
    /// The `index`-th file's id, the same wherever and whenever it is asked for.
    pub fn uuid(&self, index: usize) -> Uuid {
        let name = hmac(&self.names, &[&(index as u64).to_be_bytes()]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&name[..16]);
        Uuid::new_v8(bytes)
    }

    /// It was done; repeats get this answer.
    pub fn done(mut self, answer: Answer) {
        let done = Entry::Done { request: self.request, answer: Arc::new(answer) };
        self.entries.insert(self.scope, done);
        self.end = None;
    }
}

impl Drop for IdempotencyGuard {
    fn drop(&mut self) {
        if self.end.is_some() {
            self.entries.invalidate(&self.scope);
        }
    }
}

/// Of several parts, each with its length, so that no two lists of parts run together.
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
        let answer = match self {
            Self::Running { .. } => 0,
            Self::Done { answer, .. } => answer.weight(),
        };
        u32::try_from(OVERHEAD + answer).unwrap_or(u32::MAX)
    }
}

/// A running upload has no end that is known.
struct Lives;

impl Expiry<Scope, Entry> for Lives {
    fn expire_after_create(&self, _: &Scope, entry: &Entry, _: Instant) -> Option<Duration> {
        matches!(entry, Entry::Done { .. }).then_some(REMEMBERED)
    }

    fn expire_after_update(
        &self,
        _: &Scope,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        matches!(entry, Entry::Done { .. }).then_some(REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Policy;

    #[tokio::test]
    async fn what_is_kept_has_a_bound_in_bytes_and_in_entries() {
        let settings = Settings::from_layers(None, None, Default::default()).unwrap();
        let policy = Policy {
            can: [].into(),
            prefix: None,
            client_paths: None,
            max_file_size: None,
            max_files: None,
            types: Vec::new(),
            rate: None,
        };
        let client = Client::new("key", "k", &policy, &settings);
        for (length, many) in [(0, 80_000), (4000, 10_000), (1 << 20, 100)] {
            let idempotency = Idempotency::new(&settings);
            let request = "x".repeat(10_000);
            let body = Bytes::from(vec![b'x'; length]);
            for n in 0..many {
                let begun = idempotency.begin(&client, &n.to_string(), &[&request]).await;
                let Claim::Granted(claim) = begun else { panic!("not the first: {n}") };
                claim.done(Answer { status: 201, headers: Vec::new(), body: body.clone() });
            }
            idempotency.entries.run_pending_tasks();
            let entries = &idempotency.entries;
            assert!(entries.weighted_size() <= ROOM, "{}", entries.weighted_size());
            assert!(entries.weighted_size() > ROOM / 2, "{}", entries.weighted_size());
            assert!(entries.entry_count() <= ROOM / OVERHEAD as u64);
        }
    }
}
