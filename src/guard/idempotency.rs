//! Requests that are sent again: the same client's same `Idempotency-Key` is one upload.
//!
//! Within [`REMEMBERED`] a repeat gets the first one's reply, or waits for it; one that failed is nobody's reply, and who
//! waited takes its turn. What another replica, or this one before a restart, stored is not known here: so generated
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

use crate::settings::Settings;

/// How long a reply is kept.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// For all replies that are kept, in bytes.
const ROOM: u64 = 32 * 1024 * 1024;
/// What an entry costs beside its reply.
const OVERHEAD: usize = 512;

/// An upload's reply, to be given again.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// All that is known of repeats; shared by all workers.
pub struct Idempotency {
    seed: [u8; 32],
    entries: Cache<Scope, Entry>,
}

/// Whose key it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Scope {
    client: String,
    key: String,
}

#[derive(Clone)]
enum Entry {
    /// Its end is told by the sender's going away.
    Running {
        request: Arc<str>,
        end: watch::Receiver<()>,
    },
    Done {
        request: Arc<str>,
        answer: Arc<Answer>,
    },
}

/// What to do with a request.
pub enum Begun {
    /// It is the first: do it.
    Turn(Turn),
    /// It was done.
    Done(Arc<Answer>),
    /// The key was used for another request.
    Other,
}

/// The right to do what a key stands for. Dropped without an answer, it goes to whoever waits.
pub struct Turn {
    entries: Cache<Scope, Entry>,
    scope: Scope,
    request: Arc<str>,
    /// Dropped behind the entry: who wakes must find it gone or done.
    end: Option<watch::Sender<()>>,
    /// Nobody else's names come from this.
    names: [u8; 32],
}

impl Idempotency {
    /// Names come from what all replicas have in common: the environment, the app and its secret.
    pub fn new(settings: &Settings) -> Self {
        let wechat = &settings.wechat;
        let mut seed = Sha256::new();
        for part in ["names of repeats", &wechat.env, &wechat.appid, wechat.secret.expose_secret()]
        {
            seed.update((part.len() as u64).to_be_bytes());
            seed.update(part);
        }
        let entries = Cache::builder()
            .max_capacity(ROOM)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_: &Scope, entry: &Entry| entry.weight())
            .expire_after(Lives)
            .build();
        Self { seed: seed.finalize().into(), entries }
    }

    /// Waits for its turn. `request` is what must be the same in a repeat.
    pub async fn begin(&self, client: &str, key: &str, request: &str) -> Begun {
        let scope = Scope { client: client.to_owned(), key: key.to_owned() };
        loop {
            let (end, running) = watch::channel(());
            let new = || Entry::Running { request: request.into(), end: running };
            let entry = self.entries.entry(scope.clone()).or_insert_with(new);
            let first = entry.is_fresh();
            match entry.into_value() {
                Entry::Running { request, .. } if first => {
                    let turn = Turn {
                        entries: self.entries.clone(),
                        names: self.names(&scope),
                        scope,
                        request,
                        end: Some(end),
                    };
                    return Begun::Turn(turn);
                }
                Entry::Running { request: known, .. } | Entry::Done { request: known, .. }
                    if *known != *request =>
                {
                    return Begun::Other;
                }
                // An error is what is waited for: the sender is gone.
                Entry::Running { mut end, .. } => drop(end.changed().await),
                Entry::Done { answer, .. } => return Begun::Done(answer),
            }
        }
    }

    fn names(&self, scope: &Scope) -> [u8; 32] {
        let client = scope.client.as_bytes();
        let length = (client.len() as u64).to_be_bytes();
        hmac(&self.seed, &[&length, client, scope.key.as_bytes()])
    }
}

impl Turn {
    /// The `index`-th file's id, the same wherever and whenever it is asked for.
    pub fn uuid(&self, index: usize) -> Uuid {
        let name = hmac(&self.names, &[&(index as u64).to_be_bytes()]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&name[..16]);
        Uuid::new_v8(bytes)
    }

    /// It was done; repeats get this answer.
    pub fn done(mut self, answer: Answer) {
        let done = Entry::Done { request: self.request.clone(), answer: Arc::new(answer) };
        self.entries.insert(self.scope.clone(), done);
        self.end = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.end.is_some() {
            self.entries.invalidate(&self.scope);
        }
    }
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("a key of any length"));
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

impl Entry {
    fn weight(&self) -> u32 {
        let answer = match self {
            Self::Running { .. } => 0,
            Self::Done { answer, .. } => answer.body.len(),
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
