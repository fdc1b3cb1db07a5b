//! The keys that an issuer publishes as a JSON Web Key Set (RFC 7517) at `auth.jwt.jwks_url`: fetched by one task for all
//! workers, and cached.
//!
//! - `set`: which keys of a response are used; `fetch`: the calls and the task
//!
//! A ticket whose key is not known lets the set be fetched at once, and waits for that. Tickets with made-up keys make no
//! more calls than one in [`MIN_INTERVAL`].

pub mod fetch;
pub mod set;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::net::http_client::base_url::BaseUrl;
use crate::settings::JwtAlgorithm;
use set::KeySet;

/// Of one fetch, as that of `auth.forward_timeout` by default.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two fetches that tickets cause.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// How long keys are used where the set cannot be fetched again.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a ticket's key is not known, where that is not known to be the ticket's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// A fetch is running or allowed, and may bring it.
    #[error("the keys of tickets have to be fetched")]
    NotFetched,
    #[error("the keys of tickets cannot be fetched now")]
    Unavailable { retry_after: Duration },
}

/// The key set of one URL, shared by all workers.
pub struct Jwks {
    url: BaseUrl,
    algorithm: JwtAlgorithm,
    state: watch::Sender<State>,
    metrics: Arc<Metrics>,
}

struct State {
    keys: Arc<KeySet>,
    /// When they were.
    fetched: Option<Instant>,
    /// A fetch is running, or the task is asked for one.
    is_fetching: bool,
    /// When a ticket may cause the next one.
    next: Instant,
    /// The last fetch failed. Only the first failure of several is worth a warning.
    is_failing: bool,
}

impl State {
    /// The keys, unless they are too old.
    fn usable(&self) -> Option<&Arc<KeySet>> {
        let is_fresh = self.fetched.is_some_and(|fetched| fetched.elapsed() < MAX_AGE);
        is_fresh.then_some(&self.keys)
    }

    fn may_fetch(&self) -> bool {
        self.is_fetching || Instant::now() >= self.next
    }
}

impl Jwks {
    /// Without keys. Its tickets wait for the first fetch, which [`fetch::start`] begins.
    pub fn new(url: BaseUrl, algorithm: JwtAlgorithm, metrics: Arc<Metrics>) -> Self {
        let state = State {
            keys: Arc::default(),
            fetched: None,
            is_fetching: true,
            next: Instant::now(),
            is_failing: false,
        };
        Self { url, algorithm, state: watch::Sender::new(state), metrics }
    }

    /// Whether it is the key set of this URL for this algorithm.
    pub fn is_of(&self, url: &BaseUrl, algorithm: JwtAlgorithm) -> bool {
        self.url == *url && self.algorithm == algorithm
    }

    /// The keys that can be used now; none of them where the set could not be fetched for a day.
    pub fn keys(&self) -> Arc<KeySet> {
        self.state.borrow().usable().cloned().unwrap_or_default()
    }

    /// Why a ticket's key is not among [`keys`](Self::keys). `None`: the issuer has no such key.
    pub fn missing(&self) -> Option<JwksError> {
        let state = self.state.borrow();
        if state.may_fetch() {
            return Some(JwksError::NotFetched);
        }
        let retry_after = state.next.saturating_duration_since(Instant::now());
        state.usable().is_none().then_some(JwksError::Unavailable { retry_after })
    }

    /// Waits for the fetch that is running, or that is allowed now.
    pub async fn fetched(&self) {
        let mut state = self.state.subscribe();
        self.state.send_if_modified(|state| {
            let begins = !state.is_fetching && state.may_fetch();
            if begins {
                state.is_fetching = true;
                state.next = Instant::now() + MIN_INTERVAL;
            }
            begins
        });
        // The task ends a fetch within its timeout; the limit here is for one that has ended itself.
        let ended = state.wait_for(|state| !state.is_fetching);
        _ = tokio::time::timeout(TIMEOUT + Duration::from_secs(1), ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwks() -> Jwks {
        let url = BaseUrl::parse("http://issuer.test/keys").unwrap();
        Jwks::new(url, JwtAlgorithm::EdDsa, Arc::new(Metrics::new(std::iter::empty()).unwrap()))
    }

    fn set() -> KeySet {
        let body = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        KeySet::parse(JwtAlgorithm::EdDsa, body.as_bytes()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_used_for_a_day_while_fetches_fail() {
        let jwks = jwks();
        jwks.finish(Ok(set()));
        tokio::time::advance(MAX_AGE - Duration::from_secs(1)).await;
        jwks.finish(Err(fetch::FetchError::Timeout));
        assert_eq!(jwks.keys().len(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(jwks.keys().len(), 0);
        // A ticket may ask for the set once; then it is not the ticket's fault.
        assert_eq!(jwks.missing(), Some(JwksError::NotFetched));
        let (_, ()) = tokio::join!(jwks.fetched(), async {
            jwks.finish(Err(fetch::FetchError::Timeout));
        });
        assert_eq!(jwks.missing(), Some(JwksError::Unavailable { retry_after: MIN_INTERVAL }));
        tokio::time::advance(MIN_INTERVAL).await;
        assert_eq!(jwks.missing(), Some(JwksError::NotFetched));
        jwks.finish(Ok(set()));
        assert_eq!(jwks.keys().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_ended_does_not_let_requests_wait_for_ever() {
        let jwks = jwks();
        let began = Instant::now();
        jwks.fetched().await;
        assert_eq!(began.elapsed(), TIMEOUT + Duration::from_secs(1));
    }
}
