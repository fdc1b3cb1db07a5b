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
use tokio_util::sync::CancellationToken;

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
    /// A fetch is running or allowed, and may bring it. `after`: how many had ended before.
    #[error("the keys of tickets have to be fetched")]
    NotFetched { after: u64 },
    #[error("the keys of tickets cannot be fetched now")]
    Unavailable { retry_after: Duration },
}

/// The key set of one URL, shared by all workers.
pub struct Jwks {
    url: BaseUrl,
    algorithm: JwtAlgorithm,
    state: watch::Sender<State>,
    /// Cancelled once a reload has put another key set, or none, in its place: snapshots of the settings before that may
    /// live as long as the process.
    pub replaced: CancellationToken,
    metrics: Arc<Metrics>,
}

/// What is known of an issuer's keys at one time.
pub struct KnownKeys {
    /// Those that can be used now; none of them where the set could not be fetched for a day.
    pub keys: Arc<KeySet>,
    /// Why another key is not among them. `None`: the issuer has no such key.
    pub missing: Option<JwksError>,
}

struct State {
    keys: Arc<KeySet>,
    /// When they were.
    fetched: Option<Instant>,
    /// A fetch is running, or the task is asked for one.
    is_fetching: bool,
    /// How many have ended.
    fetches: u64,
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
            fetches: 0,
            next: Instant::now(),
            is_failing: false,
        };
        let (state, replaced) = (watch::Sender::new(state), CancellationToken::new());
        Self { url, algorithm, state, replaced, metrics }
    }

    /// Whether it is the key set of this URL for this algorithm.
    pub fn is_of(&self, url: &BaseUrl, algorithm: JwtAlgorithm) -> bool {
        self.url == *url && self.algorithm == algorithm
    }

    /// The keys, and why others are missing. Of the same time: a fetch that ends in between would make a key that it
    /// brings look like one that the issuer does not have.
    pub fn known(&self) -> KnownKeys {
        let state = self.state.borrow();
        let usable = state.usable();
        let missing = match usable {
            _ if state.may_fetch() => Some(JwksError::NotFetched { after: state.fetches }),
            Some(_) => None,
            None => {
                let retry_after = state.next.saturating_duration_since(Instant::now());
                Some(JwksError::Unavailable { retry_after })
            }
        };
        KnownKeys { keys: usable.cloned().unwrap_or_default(), missing }
    }

    /// Waits for a fetch beyond the first `after`: for the one that is running, or that is allowed now.
    pub async fn fetched(&self, after: u64) {
        let mut state = self.state.subscribe();
        self.state.send_if_modified(|state| {
            let begins = state.fetches == after && !state.is_fetching && state.may_fetch();
            if begins {
                state.is_fetching = true;
                state.next = Instant::now() + MIN_INTERVAL;
            }
            begins
        });
        // The task ends a fetch within its timeout; the limit here is for one that has ended itself.
        let ended = state.wait_for(|state| state.fetches > after || !state.is_fetching);
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
        assert_eq!(jwks.known().keys.len(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(jwks.known().keys.len(), 0);
        // A ticket may ask for the set once; then it is not the ticket's fault.
        assert_eq!(jwks.known().missing, Some(JwksError::NotFetched { after: 2 }));
        let (_, ()) = tokio::join!(jwks.fetched(2), async {
            jwks.finish(Err(fetch::FetchError::Timeout));
        });
        assert_eq!(
            jwks.known().missing,
            Some(JwksError::Unavailable { retry_after: MIN_INTERVAL })
        );
        tokio::time::advance(MIN_INTERVAL).await;
        assert_eq!(jwks.known().missing, Some(JwksError::NotFetched { after: 3 }));
        jwks.finish(Ok(set()));
        assert_eq!(jwks.known().keys.len(), 1);
    }

    /// A ticket is verified between the two.
    #[tokio::test]
    async fn a_fetch_that_ends_meanwhile_is_enough() {
        let jwks = jwks();
        let known = jwks.known();
        jwks.finish(Ok(set()));
        assert_eq!(
            (known.keys.len(), known.missing),
            (0, Some(JwksError::NotFetched { after: 0 }))
        );
        jwks.fetched(0).await;
        assert!(jwks.known().keys.has("a"));
        assert!(!jwks.state.borrow().is_fetching);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_ended_does_not_let_requests_wait_for_ever() {
        let jwks = jwks();
        let began = Instant::now();
        jwks.fetched(0).await;
        assert_eq!(began.elapsed(), TIMEOUT + Duration::from_secs(1));
    }
}
