//! The access token in use, shared by all workers: concurrent callers share one fetch, and a token that is used is
//! renewed in the background before it expires.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::rt;
use moka::Expiry;
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use secrecy::{ExposeSecret, SecretString};
use tracing::Instrument;

use super::fetch::{IssuedToken, SlidingWindow, TokenFetcher};
use super::redis::{RedisTokenStore, TokenOrigin};
use crate::metrics::Metrics;
use crate::net::backoff::{Backoff, MIN_BACKOFF};
use crate::settings::CredentialMode;
use crate::wechat::error::WechatError;
use crate::wechat::redis_probe::RedisUnavailable;
use crate::wechat::transport::Transport;
use crate::wechat::{call_quota, error_hints};

/// A token is not used in the last minutes before it expires.
const MARGIN: Duration = Duration::from_secs(4 * 60);
/// Its renewal begins this long before it expires: from then on `stable_token` returns the next token.
const RENEWAL: Duration = Duration::from_secs(5 * 60);
/// The pause before the next renewal where `stable_token` returned the same token, or the renewal failed.
const RENEWAL_RETRY: Duration = Duration::from_secs(30);
/// A token that is refused within this time was never valid, or another program fetches tokens that replace it.
const EARLY: Duration = Duration::from_secs(60);
/// This many tokens that are refused early, within [`EARLY`], are replaced at once; further ones cause a back-off.
const MAX_EARLY_REFUSALS: usize = 10;
/// A refused token is not accepted again from `stable_token` or Redis for this long.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// A token in use.
#[derive(Debug)]
pub struct Token {
    value: SecretString,
    usable_for: Duration,
    renew_after: Duration,
    fetched: Instant,
    /// Whether a caller has got it since it was fetched. An unused token is not renewed.
    used: AtomicBool,
}

impl Token {
    fn new(IssuedToken { token: value, life, .. }: IssuedToken) -> Self {
        let jitter = 0.75 + 0.25 * fastrand::f64();
        let margin = MARGIN.mul_f64(jitter).min(life / 10);
        let renewal = RENEWAL.min(life / 8);
        Self {
            value,
            usable_for: life - margin,
            renew_after: life - renewal,
            fetched: Instant::now(),
            used: AtomicBool::new(false),
        }
    }
}

impl ExposeSecret<str> for Token {
    fn expose_secret(&self) -> &str {
        self.value.expose_secret()
    }
}

/// The cache; clones share it.
#[derive(Clone)]
pub struct TokenCache {
    shared: Arc<CacheState>,
}

struct CacheState {
    fetcher: TokenFetcher,
    /// `None`: the token is not shared with other gateways.
    store: Option<RedisTokenStore>,
    metrics: Arc<Metrics>,
    cache: Cache<(), Arc<Token>>,
    /// The last token that WeChat refused, and when.
    refused: Mutex<Option<(SecretString, Instant)>>,
    early_refusals: SlidingWindow,
    backoff: Backoff<Arc<WechatError>>,
}

/// A token leaves the cache when it is no longer usable.
struct UsableFor;

impl Expiry<(), Arc<Token>> for UsableFor {
    fn expire_after_create(&self, _: &(), token: &Arc<Token>, _: Instant) -> Option<Duration> {
        Some(token.usable_for)
    }

    fn expire_after_update(
        &self,
        _: &(),
        token: &Arc<Token>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.usable_for)
    }
}

impl TokenCache {
    /// Does not fetch a token yet.
    pub fn new(
        fetcher: TokenFetcher,
        store: Option<RedisTokenStore>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let cache = Cache::builder().max_capacity(1).expire_after(UsableFor).build();
        let (refused, backoff) = (Mutex::new(None), Backoff::default());
        let early_refusals = SlidingWindow::new(MAX_EARLY_REFUSALS, EARLY, Duration::ZERO);
        let shared =
            CacheState { fetcher, store, metrics, cache, refused, early_refusals, backoff };
        Self { shared: Arc::new(shared) }
    }

    /// The mode that tokens are fetched in.
    pub fn mode(&self) -> CredentialMode {
        self.shared.fetcher.mode()
    }

    /// How long ago the token in use was fetched; `None` while there is none.
    pub async fn age(&self) -> Option<Duration> {
        self.shared.cache.get(&()).await.map(|token| token.fetched.elapsed())
    }

    /// Whether the token can be shared with the other gateways at the moment; `Ok` where it is not shared.
    pub async fn check_sharing(&self) -> Result<(), RedisUnavailable> {
        match &self.shared.store {
            Some(store) => store.probe().await,
            None => Ok(()),
        }
    }

    /// A usable token. `http` belongs to the calling worker; it is used only if a token must be fetched.
    pub async fn get(&self, http: &Transport) -> Result<Arc<Token>, WechatError> {
        let token = match self.shared.cache.get(&()).await {
            Some(token) => token,
            None => self.fetch_shared(http).await?,
        };
        token.used.store(true, Ordering::Relaxed);
        Ok(token)
    }

    /// WeChat refused `bad`. It is dropped only if it is still the token in use: another upload may have replaced it
    /// already.
    pub async fn reject(&self, bad: &Token) {
        let CacheState { cache, store, refused, early_refusals, .. } = &*self.shared;
        let dropped = cache
            .entry(())
            .and_compute_with(|entry| {
                let same = entry.is_some_and(|entry| {
                    entry.value().value.expose_secret() == bad.value.expose_secret()
                });
                if same {
                    // Noted before the token is removed: a caller that then finds none must not take it from Redis.
                    *lock(refused) = Some((bad.value.clone(), Instant::now()));
                }
                std::future::ready(if same { Op::Remove } else { Op::Nop })
            })
            .await;
        if !matches!(dropped, CompResult::Removed(_)) {
            return;
        }
        if bad.fetched.elapsed() < EARLY && !early_refusals.take() {
            let cause = "WeChat refuses each new token at once: ";
            let cause = format!("{cause}{}", error_hints::bad_token(self.mode()));
            let pause = self.shared.backoff.failed(Arc::new(WechatError::NoCredential(cause)));
            tracing::warn!(?pause, "new access tokens are refused");
        }
        if let Some(store) = store {
            store.reject(&bad.value).await;
        }
    }

    /// Replaces `old` by `new`, unless another token has replaced `old` meanwhile.
    async fn replace(&self, old: &Arc<Token>, new: Arc<Token>) {
        self.shared
            .cache
            .entry(())
            .and_compute_with(|entry| {
                let other = entry.is_some_and(|entry| !Arc::ptr_eq(entry.value(), old));
                std::future::ready(if other { Op::Nop } else { Op::Put(new) })
            })
            .await;
    }

    /// Waits for a fetch, which all callers of all workers share through the cache. It runs as a task of its own, so
    /// that it goes on when the first caller's request is dropped.
    async fn fetch_shared(&self, http: &Transport) -> Result<Arc<Token>, WechatError> {
        let (tokens, client) = (self.clone(), http.clone());
        let fetch = async move {
            let init = tokens.fetch(&client);
            tokens.shared.cache.try_get_with((), init).await
        };
        // Its log lines carry the id of the request that first needed the token.
        let task = rt::spawn(fetch.in_current_span());
        match task.await {
            Ok(result) => result.map_err(|cause| self.no_token(cause)),
            Err(_) => {
                let cause = "the worker that fetched the token has stopped".to_owned();
                Err(WechatError::Unreachable { call: "token", cause })
            }
        }
    }

    async fn fetch(&self, http: &Transport) -> Result<Arc<Token>, WechatError> {
        self.shared.backoff.check().map_err(|cause| (*cause).clone())?;
        let mut issued = self.obtain(http, None).await;
        if issued.as_ref().is_err_and(WechatError::is_transient) {
            tokio::time::sleep(MIN_BACKOFF.mul_f64(0.3 + 0.4 * fastrand::f64())).await;
            issued = self.obtain(http, None).await;
        }
        match issued {
            Ok((issued, origin)) => {
                self.shared.backoff.succeeded();
                tracing::info!(life = ?issued.life, ?origin, "access token available");
                let token = Arc::new(Token::new(issued));
                self.spawn_renewal(http, &token);
                Ok(token)
            }
            Err(error) => {
                let pause = self.back_off(&error);
                tracing::warn!(%error, ?pause, "no access token");
                Err(error)
            }
        }
    }

    /// A token other than `old` and the one that was refused last: from Redis, or fetched.
    async fn obtain(
        &self,
        http: &Transport,
        old: Option<&SecretString>,
    ) -> Result<(IssuedToken, TokenOrigin), WechatError> {
        let CacheState { fetcher, store, metrics, refused, .. } = &*self.shared;
        let refused = lock(refused).clone().filter(|(_, at)| at.elapsed() < REFUSED_FOR);
        let refused = refused.as_ref().map(|(token, _)| token);
        let fetch = |refresh| fetcher.fetch(http, refused, refresh);
        let unshared = async || fetch(None).await.map(|issued| (issued, TokenOrigin::Fetched));
        let obtained = match store {
            None => unshared().await,
            Some(store) => {
                let excluded: Vec<_> = old.into_iter().chain(refused).collect();
                match store.obtain(&excluded, fetch).await {
                    Ok(obtained) => obtained,
                    Err(RedisUnavailable) => unshared().await,
                }
            }
        };
        metrics.token(match &obtained {
            Ok((_, TokenOrigin::Fetched)) => "fetched",
            Ok((_, TokenOrigin::Shared)) => "shared",
            Err(_) => "failed",
        });
        obtained
    }

    /// Lets fetches fail with `error` until the pause that it returns is over; it is longer where the quota of the call
    /// is used up.
    fn back_off(&self, error: &WechatError) -> Duration {
        let (backoff, cause) = (&self.shared.backoff, Arc::new(error.clone()));
        match error.errcode() {
            Some(call_quota::USED_UP) => {
                backoff.failed_for(cause, call_quota::MIN_PAUSE..=call_quota::MAX_PAUSE)
            }
            _ => backoff.failed(cause),
        }
    }

    fn no_token(&self, cause: Arc<WechatError>) -> WechatError {
        WechatError::NoToken { cause, retry_after: self.shared.backoff.left() }
    }

    /// Starts a task on the calling worker that renews `token` before it expires, if it is used until then.
    fn spawn_renewal(&self, http: &Transport, token: &Arc<Token>) {
        let (tokens, http, own) = (self.clone(), http.clone(), Arc::downgrade(token));
        let after = token.renew_after;
        rt::spawn(async move {
            tokio::time::sleep(after).await;
            loop {
                let Some(old) = tokens.shared.cache.get(&()).await else {
                    return;
                };
                // The token was refused meanwhile, and the one that replaced it has its own renewal.
                if !std::ptr::eq(Arc::as_ptr(&old), own.as_ptr()) {
                    return;
                }
                if !old.used.load(Ordering::Relaxed) {
                    return;
                }
                match tokens.obtain(&http, Some(&old.value)).await {
                    Ok((issued, origin)) => {
                        let life = issued.life;
                        let new = Arc::new(Token::new(issued));
                        let same = new.value.expose_secret() == old.value.expose_secret();
                        if same {
                            tokio::time::sleep(RENEWAL_RETRY.min(old.usable_for / 10)).await;
                            continue;
                        }
                        tracing::info!(?life, ?origin, "access token renewed");
                        tokens.spawn_renewal(&http, &new);
                        tokens.replace(&old, new).await;
                        return;
                    }
                    Err(error) => {
                        // The old token is still usable. When it has expired, the next request fetches a new one.
                        let pause = RENEWAL_RETRY.min(old.usable_for / 10);
                        tracing::warn!(%error, ?pause, "access token not renewed yet");
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        });
    }
}

/// A poisoned lock is used all the same: no code that holds these locks leaves its data inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
