//! The calls to the auth server: one for all requests that are equal to it, cached, and bounded in number and time.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::http::header::HeaderName;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use moka::policy::EvictionPolicy;
use tokio::sync::Semaphore;

use super::request::{ClientRequest, ForwardedRequest};
use super::response::{Decision, Refusal, client_of};
use crate::guard::policy::Client;
use crate::metrics::Metrics;
use crate::net::http_client::base_url::BaseUrl;
use crate::net::http_client::call::Call;
use crate::net::http_client::{Pool, SAFE_IDLE_TIME};
use crate::settings::{Forward, Settings};

/// Calls at the same time, of all workers. A request for which there is no room waits within `auth.forward_timeout`.
const MAX_CONCURRENT: usize = 64;
/// Bytes of a response.
const MAX_RESPONSE: usize = 16 * 1024;
const MAX_CONNECT: Duration = Duration::from_secs(5);
/// Bytes of all cached clients, and of all cached refusals: 16,384 of each at most.
const MAX_CACHED: u64 = 16 << 20;
/// Bytes of a cached entry without its texts, roughly, rounded up.
const ENTRY: usize = 1024;
/// How long a refusal is cached at most: a user that has just logged in must not be refused for longer.
const MAX_REFUSED: Duration = Duration::from_secs(2);

/// Lines that say that it can or cannot be asked.
const CHANGES: Quota = Quota::per_minute(NonZeroU32::MIN.saturating_add(9));

/// Why the auth server has not let a client in.
#[derive(Debug, Clone)]
pub enum ForwardError {
    Refused(Refusal),
    /// It cannot be asked, or its response cannot be used: no fault of the client. The cause is logged.
    Unavailable,
}

/// One worker's way to the auth server.
#[derive(Clone)]
pub struct AuthServer {
    state: Arc<ForwardState>,
    pool: Rc<Pool>,
}

/// What all workers share.
pub struct ForwardState {
    url: BaseUrl,
    headers: Vec<HeaderName>,
    timeout: Duration,
    /// The permissions of `auth.forward`.
    policy: Client,
    /// By the hash of what the auth server was sent.
    allowed: moka::future::Cache<[u8; 32], Allowed>,
    /// Apart, so that strangers do not displace users.
    refused: moka::sync::Cache<[u8; 32], Refusal>,
    slots: Semaphore,
    /// The last call failed. Only the first failure of several is worth a warning.
    is_failing: AtomicBool,
    /// Lines of such changes. A stranger may know requests that the auth server fails at.
    changes: DefaultDirectRateLimiter,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
struct Allowed {
    client: Arc<Client>,
    /// Bytes, roughly.
    size: u32,
}

impl ForwardState {
    pub fn new(url: BaseUrl, settings: &Settings, metrics: Arc<Metrics>) -> Self {
        let Forward { headers, timeout, cache, policy, .. } = &settings.auth.forward;
        let allowed = moka::future::Cache::builder()
            .max_capacity(MAX_CACHED)
            .weigher(|_, allowed: &Allowed| allowed.size)
            // The default policy would refuse to cache new entries while many others come and go.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(*cache)
            .build();
        let refused = moka::sync::Cache::builder()
            .max_capacity(MAX_CACHED)
            .weigher(|_, refusal: &Refusal| {
                size_of_entry(refusal.detail.as_ref().map_or(0, String::len))
            })
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live((*cache).min(MAX_REFUSED))
            .build();
        Self {
            url,
            headers: headers.clone(),
            timeout: *timeout,
            policy: Client::new("forward", "forward", policy, settings),
            allowed,
            refused,
            slots: Semaphore::new(MAX_CONCURRENT),
            is_failing: AtomicBool::new(false),
            changes: RateLimiter::direct(CHANGES),
            metrics,
        }
    }

    /// Logs the first of several failures.
    fn failed(&self, cause: &str) -> ForwardError {
        self.metrics.forward_auth("failed");
        let is_first = !self.is_failing.swap(true, Ordering::Relaxed);
        match is_first && self.changes.check().is_ok() {
            true => tracing::warn!(cause, "the auth server cannot be asked: auth.forward_url"),
            false => tracing::debug!(cause, "the auth server cannot be asked: auth.forward_url"),
        }
        ForwardError::Unavailable
    }

    fn decided(&self, decision: &'static str) {
        self.metrics.forward_auth(decision);
        if self.is_failing.swap(false, Ordering::Relaxed) && self.changes.check().is_ok() {
            tracing::info!("the auth server can be asked again");
        }
    }
}

fn size_of_entry(text: usize) -> u32 {
    u32::try_from(ENTRY + text).unwrap_or(u32::MAX)
}

impl AuthServer {
    /// Must be called on a thread of the actix system.
    pub fn new(tls: Arc<rustls::ClientConfig>, state: Arc<ForwardState>) -> Self {
        let pool = Pool::new(tls, state.timeout.min(MAX_CONNECT), MAX_RESPONSE);
        Self { state, pool }
    }

    /// Whether it asks by these settings.
    pub fn has_state(&self, state: &Arc<ForwardState>) -> bool {
        Arc::ptr_eq(&self.state, state)
    }

    /// The client of a request, if the auth server lets it in.
    pub async fn client_of(
        &self,
        request: &ClientRequest<'_>,
    ) -> Result<Arc<Client>, ForwardError> {
        let state = &self.state;
        let request = ForwardedRequest::new(&state.url, &state.headers, request);
        let hash = request.hash();
        if let Some(refusal) = state.refused.get(&hash) {
            return Err(ForwardError::Refused(refusal));
        }
        // Where the first of several clients disconnects, the next one of them asks.
        let allowed = state.allowed.try_get_with(hash, self.ask(&request, hash)).await;
        allowed.map(|allowed| allowed.client).map_err(|error| (*error).clone())
    }

    async fn ask(
        &self,
        request: &ForwardedRequest,
        hash: [u8; 32],
    ) -> Result<Allowed, ForwardError> {
        let state = &self.state;
        let call = Call {
            endpoint: &state.url.endpoint,
            request: request.bytes.clone(),
            is_head: false,
            max_idle: SAFE_IDLE_TIME,
            is_repeatable: true,
        };
        let response = async {
            let _slot = state.slots.acquire().await;
            call.send::<()>(&self.pool).await
        };
        let response = match tokio::time::timeout(state.timeout, response).await {
            Err(_) => return Err(state.failed("no response within auth.forward_timeout")),
            Ok(Err(error)) => return Err(state.failed(&error.to_string())),
            Ok(Ok((response, ()))) => response,
        };
        match Decision::from(response) {
            Decision::Allowed(claims) => {
                let client = client_of(&state.policy, &claims, request.fingerprint());
                let client = client.map_err(|error| state.failed(&error.to_string()))?;
                state.decided("allowed");
                // Types and folders take a few times as much memory as in the claims.
                let size = size_of_entry(4 * claims.len());
                Ok(Allowed { client: Arc::new(client), size })
            }
            Decision::Refused(refusal) => {
                state.decided("refused");
                state.refused.insert(hash, refusal.clone());
                Err(ForwardError::Refused(refusal))
            }
            Decision::Unusable(status) => Err(state.failed(&format!("status {status}"))),
        }
    }
}
