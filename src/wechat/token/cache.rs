//! The access token, shared by all workers: fetched once however many wait for it, renewed before anyone has to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::rt;
use moka::Expiry;
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use secrecy::{ExposeSecret, SecretString};
use tracing::Instrument;

use super::fetch::{Credential, Issued, SlidingWindow};
use super::redis::{RedisUnavailable, Replicas, TokenOrigin};
use crate::metrics::Metrics;
use crate::settings::CredentialMode;
use crate::wechat::error::WechatError;
use crate::wechat::error_hints;
use crate::wechat::transport::Transport;

/// A token is not used in its last minutes: this many,
const MARGIN: Duration = Duration::from_secs(4 * 60);
/// and its renewal begins this long before its end, which is when `stable_token` begins to hand out the next one.
const RENEWAL: Duration = Duration::from_secs(5 * 60);
/// `stable_token` may hand back the same token; then it is asked again after this long.
const SAME_AGAIN: Duration = Duration::from_secs(30);
/// After a failed fetch: from the first to the last, doubling.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
/// A token that is refused so soon was never good for WeChat, or another program fetches one against us.
const YOUNG: Duration = Duration::from_secs(60);
/// So many of them in a minute are replaced at once; then it is backed off as after a failed fetch.
const YOUNG_REFUSALS: usize = 10;
/// A refused token that WeChat hands out again is tried again after this long.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// A token in use.
#[derive(Debug)]
pub struct Token {
    value: SecretString,
    usable: Duration,
    renew_after: Duration,
    fetched: Instant,
    /// Handed out since it was fetched: an unused one is left to lapse.
    used: AtomicBool,
}

impl Token {
    fn new(Issued { token: value, life, .. }: Issued) -> Self {
        let jitter = 0.75 + 0.25 * fastrand::f64();
        let margin = MARGIN.mul_f64(jitter).min(life / 10);
        let renewal = RENEWAL.min(life / 8);
        Self {
            value,
            usable: life - margin,
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
pub struct Tokens {
    shared: Arc<TokenState>,
}

struct TokenState {
    credential: Credential,
    /// `None`: this gateway is alone, or needs to know of no other.
    replicas: Option<Replicas>,
    metrics: Arc<Metrics>,
    cache: Cache<(), Arc<Token>>,
    /// The last token that WeChat refused, and when.
    refused: Mutex<Option<(SecretString, Instant)>>,
    young_refusals: SlidingWindow,
    backoff: Mutex<Option<Backoff>>,
}

struct Backoff {
    until: Instant,
    pause: Duration,
    cause: Arc<WechatError>,
}

struct Life;

impl Expiry<(), Arc<Token>> for Life {
    fn expire_after_create(&self, _: &(), token: &Arc<Token>, _: Instant) -> Option<Duration> {
        Some(token.usable)
    }

    fn expire_after_update(
        &self,
        _: &(),
        token: &Arc<Token>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(token.usable)
    }
}

impl Tokens {
    /// Fetches nothing yet.
    pub fn new(credential: Credential, replicas: Option<Replicas>, metrics: Arc<Metrics>) -> Self {
        let cache = Cache::builder().max_capacity(1).expire_after(Life).build();
        let (refused, backoff) = (Mutex::new(None), Mutex::new(None));
        let young_refusals = SlidingWindow::new(YOUNG_REFUSALS, YOUNG, Duration::ZERO);
        let shared =
            TokenState { credential, replicas, metrics, cache, refused, young_refusals, backoff };
        Self { shared: Arc::new(shared) }
    }

    /// How they are fetched.
    pub fn mode(&self) -> CredentialMode {
        self.shared.credential.mode()
    }

    /// How long ago the token in use was fetched; `None` while there is none.
    pub async fn age(&self) -> Option<Duration> {
        self.shared.cache.get(&()).await.map(|token| token.fetched.elapsed())
    }

    /// Whether the other gateways can be reached, where tokens are shared with any.
    pub async fn shared(&self) -> Result<(), RedisUnavailable> {
        match &self.shared.replicas {
            Some(replicas) => replicas.probe().await,
            None => Ok(()),
        }
    }

    /// A usable token. `http` are the calling worker's connections; they are used only if a token must be fetched.
    pub async fn get(&self, http: &Transport) -> Result<Arc<Token>, WechatError> {
        let token = match self.shared.cache.get(&()).await {
            Some(token) => token,
            None => self.fetched(http).await?,
        };
        token.used.store(true, Ordering::Relaxed);
        Ok(token)
    }

    /// Says that WeChat refused `bad`. It is dropped only if it is still the one in use: another upload may have had
    /// it renewed already.
    pub async fn reject(&self, bad: &Token) {
        let TokenState { cache, replicas, refused, young_refusals, .. } = &*self.shared;
        let dropped = cache
            .entry(())
            .and_compute_with(|entry| {
                let same = entry.is_some_and(|entry| {
                    entry.value().value.expose_secret() == bad.value.expose_secret()
                });
                if same {
                    // Before it is gone: whoever finds none must not take this one from Redis again.
                    *lock(refused) = Some((bad.value.clone(), Instant::now()));
                }
                std::future::ready(if same { Op::Remove } else { Op::Nop })
            })
            .await;
        if !matches!(dropped, CompResult::Removed(_)) {
            return;
        }
        if bad.fetched.elapsed() < YOUNG && !young_refusals.take() {
            let cause = "WeChat refuses each new token at once: ";
            let cause = format!("{cause}{}", error_hints::bad_token(self.mode()));
            let pause = self.back_off(&WechatError::Credential(cause));
            tracing::warn!(?pause, "new tokens are refused");
        }
        if let Some(replicas) = replicas {
            replicas.reject(&bad.value).await;
        }
    }

    /// Puts `new` where `old` was, unless another one has been fetched in its place.
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

    /// Waits for a fetch that runs as a task of its own, so that it survives whoever asked first going away. All
    /// tasks of all workers share one fetch through the cache.
    async fn fetched(&self, http: &Transport) -> Result<Arc<Token>, WechatError> {
        let (tokens, client) = (self.clone(), http.clone());
        let fetch = async move {
            let init = tokens.fetch(&client);
            tokens.shared.cache.try_get_with((), init).await
        };
        // What it logs is known by the request that needed the token first.
        let task = rt::spawn(fetch.in_current_span());
        match task.await {
            Ok(result) => result.map_err(|cause| self.no_token(cause)),
            Err(_) => {
                let cause = "the fetch was lost with the worker that made it".to_owned();
                Err(WechatError::Unreachable { call: "token", cause })
            }
        }
    }

    async fn fetch(&self, http: &Transport) -> Result<Arc<Token>, WechatError> {
        if let Some(backoff) = &*self.backoff()
            && Instant::now() < backoff.until
        {
            return Err((*backoff.cause).clone());
        }
        let mut issued = self.obtain(http, None).await;
        if issued.as_ref().is_err_and(WechatError::is_transient) {
            tokio::time::sleep(FIRST_BACKOFF.mul_f64(0.3 + 0.4 * fastrand::f64())).await;
            issued = self.obtain(http, None).await;
        }
        match issued {
            Ok((issued, origin)) => {
                *self.backoff() = None;
                tracing::info!(life = ?issued.life, ?origin, "access token at hand");
                let token = Arc::new(Token::new(issued));
                self.renew_ahead(http, &token);
                Ok(token)
            }
            Err(error) => {
                let pause = self.back_off(&error);
                tracing::warn!(%error, ?pause, "no access token");
                Err(error)
            }
        }
    }

    /// A token other than `old` and the one that was refused last: another gateway's, or a fetched one.
    async fn obtain(
        &self,
        http: &Transport,
        old: Option<&SecretString>,
    ) -> Result<(Issued, TokenOrigin), WechatError> {
        let TokenState { credential, replicas, metrics, refused, .. } = &*self.shared;
        let refused = lock(refused).clone().filter(|(_, at)| at.elapsed() < REFUSED_FOR);
        let refused = refused.as_ref().map(|(token, _)| token);
        let fetch = |refresh| credential.fetch(http, refused, refresh);
        let alone = async || fetch(None).await.map(|issued| (issued, TokenOrigin::Fetched));
        let obtained = match replicas {
            None => alone().await,
            Some(replicas) => {
                let not: Vec<_> = old.into_iter().chain(refused).collect();
                match replicas.obtain(&not, fetch).await {
                    Ok(obtained) => obtained,
                    Err(RedisUnavailable) => alone().await,
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

    fn back_off(&self, error: &WechatError) -> Duration {
        let mut backoff = self.backoff();
        let doubled = backoff.as_ref().map_or(FIRST_BACKOFF, |last| last.pause * 2);
        let pause = doubled.min(LAST_BACKOFF);
        let jittered = pause.mul_f64(0.8 + 0.4 * fastrand::f64());
        let until = Instant::now() + jittered;
        *backoff = Some(Backoff { until, pause, cause: Arc::new(error.clone()) });
        jittered
    }

    fn no_token(&self, cause: Arc<WechatError>) -> WechatError {
        let until = self.backoff().as_ref().map(|backoff| backoff.until);
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        WechatError::NoToken { cause, retry_after: left.unwrap_or_default() }
    }

    fn backoff(&self) -> MutexGuard<'_, Option<Backoff>> {
        lock(&self.shared.backoff)
    }

    /// Renews `token` before its end, if it was used until then. Runs on the worker that fetched it.
    fn renew_ahead(&self, http: &Transport, token: &Arc<Token>) {
        let (tokens, http, own) = (self.clone(), http.clone(), Arc::downgrade(token));
        let after = token.renew_after;
        rt::spawn(async move {
            tokio::time::sleep(after).await;
            loop {
                let Some(old) = tokens.shared.cache.get(&()).await else {
                    return;
                };
                // It was refused meanwhile, and the one that took its place has a renewal of its own.
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
                            tokio::time::sleep(SAME_AGAIN.min(old.usable / 10)).await;
                            continue;
                        }
                        tracing::info!(?life, ?origin, "access token renewed");
                        tokens.renew_ahead(&http, &new);
                        tokens.replace(&old, new).await;
                        return;
                    }
                    Err(error) => {
                        // The old one is still good for a while; whoever finds it gone fetches in the foreground.
                        let pause = SAME_AGAIN.min(old.usable / 10);
                        tracing::warn!(%error, ?pause, "access token not renewed yet");
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        });
    }
}

/// Nothing is left half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
