//! The temporary keys of cloud hosting (`getauth`): cached for all workers, fetched once for all that wait, and renewed
//! in the background before they expire.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::rt;
use bytes::Bytes;
use moka::Expiry;
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tracing::Instrument;

use super::credentials::Credentials;
use super::sign::unix_now;
use crate::net::backoff::Backoff;
use crate::net::http_client::base_url::BaseUrl;
use crate::net::http_client::call::Call;
use crate::net::http_client::exchange::head;
use crate::net::http_client::{IDLE_TIMEOUT, Pool};

/// Keys are not used in the last minutes before they expire.
const MARGIN: Duration = Duration::from_secs(2 * 60);
/// Keys that are used are renewed from this long before they expire.
const RENEWAL: Duration = Duration::from_secs(10 * 60);
/// The pause before the next renewal where `getauth` returned the same keys, or failed.
const RENEWAL_RETRY: Duration = Duration::from_secs(30);
/// Keys are used for at most this long, whatever `getauth` says. STS issues keys for 36 hours at most.
const MAX_LIFE: Duration = Duration::from_secs(36 * 3600);
/// Keys that COS refused are not accepted again from `getauth` for this long.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Bytes of a response.
const MAX_RESPONSE: usize = 32 * 1024;
/// Characters of WeChat's message in an error.
const MAX_MESSAGE: usize = 256;

/// Why there are no keys.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GetAuthError {
    #[error("getauth could not be reached: {0}")]
    Unreachable(String),
    #[error("getauth took longer than {0:?}")]
    Timeout(Duration),
    #[error("getauth responded with status {0}")]
    Status(u16),
    #[error("getauth refused: {errcode} {message}")]
    Refused { errcode: i64, message: String },
    #[error("the response of getauth cannot be used: {0}")]
    Unusable(&'static str),
}

/// The keys of `getauth`; clones share them.
#[derive(Clone)]
pub struct GetAuth {
    shared: Arc<Shared>,
}

struct Shared {
    url: BaseUrl,
    /// For one request.
    timeout: Duration,
    cache: Cache<(), Arc<Issued>>,
    backoff: Backoff<GetAuthError>,
    /// The keys that COS refused last, and when.
    refused: Mutex<Option<(Arc<Credentials>, Instant)>>,
    /// No renewal starts before this.
    next_renewal: Mutex<Option<Instant>>,
}

/// Keys in use.
struct Issued {
    credentials: Arc<Credentials>,
    fetched: Instant,
    usable_for: Duration,
    renew_after: Duration,
}

impl Issued {
    fn new(credentials: Credentials, life: Duration) -> Self {
        Self {
            credentials: Arc::new(credentials),
            fetched: Instant::now(),
            usable_for: life - MARGIN.min(life / 10),
            renew_after: life - RENEWAL.min(life / 4),
        }
    }
}

/// Keys leave the cache when they are no longer usable.
struct UsableFor;

impl Expiry<(), Arc<Issued>> for UsableFor {
    fn expire_after_create(&self, _: &(), issued: &Arc<Issued>, _: Instant) -> Option<Duration> {
        Some(issued.usable_for)
    }

    fn expire_after_update(
        &self,
        _: &(),
        issued: &Arc<Issued>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(issued.usable_for)
    }
}

impl GetAuth {
    /// `timeout` is for one request to `url`. Does not fetch keys yet.
    pub fn new(url: BaseUrl, timeout: Duration) -> Self {
        let cache = Cache::builder().max_capacity(1).expire_after(UsableFor).build();
        let (backoff, refused, next_renewal) = Default::default();
        Self { shared: Arc::new(Shared { url, timeout, cache, backoff, refused, next_renewal }) }
    }

    /// The time until `getauth` may be asked again, after a failure.
    pub fn retry_after(&self) -> Duration {
        self.shared.backoff.left()
    }

    /// Usable keys. `pool` belongs to the calling worker; it is used only if keys must be fetched.
    pub async fn get(&self, pool: &Rc<Pool>) -> Result<Arc<Credentials>, GetAuthError> {
        let issued = match self.shared.cache.get(&()).await {
            Some(issued) => issued,
            None => self.fetch_shared(pool).await?,
        };
        if issued.fetched.elapsed() >= issued.renew_after {
            self.renew(pool, &issued);
        }
        Ok(issued.credentials.clone())
    }

    /// COS refused `bad`. The keys are dropped only if they are still those in use; another request may have replaced
    /// them already.
    pub async fn reject(&self, bad: &Arc<Credentials>) {
        let Shared { cache, refused, .. } = &*self.shared;
        let dropped = cache
            .entry(())
            .and_compute_with(|entry| {
                let same = entry.is_some_and(|entry| Arc::ptr_eq(&entry.value().credentials, bad));
                if same {
                    // Noted before they are removed: the fetch that follows must not accept them again.
                    *lock(refused) = Some((bad.clone(), Instant::now()));
                }
                std::future::ready(if same { Op::Remove } else { Op::Nop })
            })
            .await;
        if matches!(dropped, CompResult::Removed(_)) {
            tracing::warn!("COS refused the temporary keys; they are fetched again");
        }
    }

    /// Waits for a fetch, which all callers of all workers share through the cache. It runs as a task of its own, so
    /// that it goes on when the first caller's request is dropped.
    async fn fetch_shared(&self, pool: &Rc<Pool>) -> Result<Arc<Issued>, GetAuthError> {
        let (keys, pool) = (self.clone(), pool.clone());
        let fetch = async move {
            let init = keys.fetch_or_back_off(&pool);
            keys.shared.cache.try_get_with((), init).await
        };
        match rt::spawn(fetch.in_current_span()).await {
            Ok(result) => result.map_err(|cause| (*cause).clone()),
            Err(_) => {
                let cause = "the worker that fetched the keys has stopped";
                Err(GetAuthError::Unreachable(cause.to_owned()))
            }
        }
    }

    async fn fetch_or_back_off(&self, pool: &Pool) -> Result<Arc<Issued>, GetAuthError> {
        self.shared.backoff.check()?;
        match self.fetch(pool).await {
            Ok(issued) => {
                self.shared.backoff.succeeded();
                tracing::info!(usable_for = ?issued.usable_for, "temporary keys of COS available");
                Ok(Arc::new(issued))
            }
            Err(error) => {
                let pause = self.shared.backoff.failed(error.clone());
                tracing::warn!(%error, ?pause, "no temporary keys of COS");
                Err(error)
            }
        }
    }

    /// Starts a task on the calling worker that replaces `old`, unless one was started a short time ago.
    fn renew(&self, pool: &Rc<Pool>, old: &Arc<Issued>) {
        let now = Instant::now();
        {
            let mut next = lock(&self.shared.next_renewal);
            if next.is_some_and(|next| now < next) {
                return;
            }
            *next = Some(now + RENEWAL_RETRY.min(old.usable_for / 10));
        }
        let (keys, pool, old) = (self.clone(), pool.clone(), old.clone());
        rt::spawn(async move {
            match keys.fetch(&pool).await {
                Ok(new) if new.credentials.is_same(&old.credentials) => {}
                Ok(new) => {
                    tracing::info!(usable_for = ?new.usable_for, "temporary keys of COS renewed");
                    keys.replace(&old, Arc::new(new)).await;
                }
                // The old keys are still usable. When they have expired, the next request fetches new ones.
                Err(error) => tracing::warn!(%error, "temporary keys of COS not renewed yet"),
            }
        });
    }

    /// Replaces `old` by `new`, unless other keys have replaced `old` meanwhile.
    async fn replace(&self, old: &Arc<Issued>, new: Arc<Issued>) {
        let entry = self.shared.cache.entry(());
        entry
            .and_compute_with(|entry| {
                let other = entry.is_some_and(|entry| !Arc::ptr_eq(entry.value(), old));
                std::future::ready(if other { Op::Nop } else { Op::Put(new) })
            })
            .await;
    }

    /// Keys other than those that COS has just refused.
    async fn fetch(&self, pool: &Pool) -> Result<Issued, GetAuthError> {
        let Shared { url, timeout, refused, .. } = &*self.shared;
        let request = Bytes::from(head("GET", &url.path, &url.authority, &[], None));
        let call = Call {
            endpoint: &url.endpoint,
            request,
            is_head: false,
            max_idle: IDLE_TIMEOUT,
            is_repeatable: true,
        };
        let (response, ()) = tokio::time::timeout(*timeout, call.send(pool))
            .await
            .map_err(|_| GetAuthError::Timeout(*timeout))?
            .map_err(|error| GetAuthError::Unreachable(error.to_string()))?;
        if !response.is_success() {
            return Err(GetAuthError::Status(response.status));
        }
        let issued = issued(&response.body, unix_now())?;
        let refused = lock(refused).clone().filter(|(_, at)| at.elapsed() < REFUSED_FOR);
        if refused.is_some_and(|(refused, _)| refused.is_same(&issued.credentials)) {
            return Err(GetAuthError::Unusable("they are the keys that COS has just refused"));
        }
        Ok(issued)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeysResponse {
    tmp_secret_id: Option<String>,
    tmp_secret_key: Option<SecretString>,
    token: Option<SecretString>,
    /// Seconds since 1970.
    expired_time: Option<u64>,
    /// Where WeChat refuses the call.
    #[serde(default, rename = "errcode")]
    errcode: i64,
    #[serde(default, rename = "errmsg")]
    errmsg: String,
}

fn issued(body: &[u8], now: u64) -> Result<Issued, GetAuthError> {
    if body.len() > MAX_RESPONSE {
        return Err(GetAuthError::Unusable("it is too long"));
    }
    let response: KeysResponse = serde_json::from_slice(body)
        .map_err(|_| GetAuthError::Unusable("it is not the JSON that is documented"))?;
    let KeysResponse { errcode, errmsg, .. } = response;
    if errcode != 0 {
        let printable = errmsg.chars().filter(|character| !character.is_control());
        let message = printable.take(MAX_MESSAGE).collect();
        return Err(GetAuthError::Refused { errcode, message });
    }
    let (Some(secret_id), Some(secret_key), Some(token), Some(expires)) =
        (response.tmp_secret_id, response.tmp_secret_key, response.token, response.expired_time)
    else {
        return Err(GetAuthError::Unusable("a field is missing"));
    };
    let credentials =
        Credentials::new(&secret_id, secret_key.expose_secret(), Some(token.expose_secret()))
            .map_err(GetAuthError::Unusable)?;
    let life = Duration::from_secs(expires.saturating_sub(now)).min(MAX_LIFE);
    if life.is_zero() {
        return Err(GetAuthError::Unusable(
            "the keys have expired, or the gateway's clock is wrong",
        ));
    }
    Ok(Issued::new(credentials, life))
}

/// A poisoned lock is used all the same: no code that holds these locks leaves its data inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(expired_time: &str) -> Result<Issued, GetAuthError> {
        let body = format!(
            r#"{{"TmpSecretId":"id","TmpSecretKey":"key","Token":"token","ExpiredTime":{expired_time},"x":1}}"#
        );
        issued(body.as_bytes(), 1000)
    }

    #[test]
    fn keys_are_used_until_shortly_before_they_expire() {
        let times = |life: u64| {
            let issued = parsed(&(1000 + life).to_string()).ok().unwrap();
            (issued.usable_for.as_secs(), issued.renew_after.as_secs())
        };
        assert_eq!(times(7200), (7080, 6600));
        assert_eq!(times(100), (90, 75));
        assert_eq!(times(u64::MAX - 1000), (36 * 3600 - 120, 36 * 3600 - 600));
        for expired in ["1000", "1", "0"] {
            assert!(matches!(parsed(expired), Err(GetAuthError::Unusable(_))), "{expired}");
        }
    }

    #[test]
    fn responses_without_keys_are_told_apart() {
        let unusable = |body: &str| {
            let result = issued(body.as_bytes(), 1000);
            matches!(result, Err(GetAuthError::Unusable(_)))
        };
        for body in [
            "",
            "[]",
            "<html>",
            "{}",
            r#"{"TmpSecretId":"id","TmpSecretKey":"key","ExpiredTime":2000}"#,
            r#"{"TmpSecretId":"","TmpSecretKey":"key","Token":"t","ExpiredTime":2000}"#,
            r#"{"TmpSecretId":"id","TmpSecretKey":"k\n","Token":"t","ExpiredTime":2000}"#,
            r#"{"TmpSecretId":"id","TmpSecretKey":"key","Token":"t\r\nx: y","ExpiredTime":2000}"#,
        ] {
            assert!(unusable(body), "{body}");
        }
        assert!(parsed(&format!("2000{}", " ".repeat(MAX_RESPONSE - 200))).is_ok());
        assert!(parsed(&format!("2000{}", " ".repeat(MAX_RESPONSE))).is_err());
        let refusal = r#"{"errcode":41001,"errmsg":"access_token\nmissing"}"#;
        match issued(refusal.as_bytes(), 1000) {
            Err(GetAuthError::Refused { errcode: 41001, message }) => {
                assert_eq!(message, "access_tokenmissing");
            }
            _ => panic!("not a refusal"),
        }
    }
}
