//! Fetches the key set: at the start, every few minutes, and where a ticket's key is not known.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};

use super::set::{KeySet, SetError};
use super::{Jwks, TIMEOUT};
use crate::net::http_client::call::{Call, CallError};
use crate::net::http_client::{Endpoint, Pool, SAFE_IDLE_TIME};
use crate::settings::JwtAlgorithm;

/// Bytes of a response.
const MAX_RESPONSE: usize = 64 * 1024;
/// Between two fetches in the background; a random part of up to a tenth is added.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The same after a failure.
const RETRY: Duration = Duration::from_secs(30);

/// Why a fetch brings no keys.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no response within {TIMEOUT:?}")]
    Timeout,
    #[error("{0}")]
    Call(#[from] CallError),
    /// Redirects are among them: they are not followed.
    #[error("status {0}")]
    Status(u16),
    #[error("{0}")]
    Set(#[from] SetError),
}

/// One thread's way to the issuer.
pub struct Fetcher {
    pool: Rc<Pool>,
    request: Bytes,
    algorithm: JwtAlgorithm,
    endpoint: Endpoint,
}

impl Fetcher {
    /// Must be called on a thread of the actix system.
    pub fn new(tls: Arc<rustls::ClientConfig>, jwks: &Jwks) -> Self {
        let url = &jwks.url;
        let path = if url.path.is_empty() { "/" } else { &url.path };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/jwk-set+json, application/json\r\n\
             User-Agent: tcb-upload-gateway/{}\r\n\r\n",
            url.authority,
            env!("CARGO_PKG_VERSION")
        );
        Self {
            pool: Pool::new(tls, TIMEOUT, MAX_RESPONSE),
            request: request.into(),
            algorithm: jwks.algorithm,
            endpoint: url.endpoint.clone(),
        }
    }

    /// The keys that the issuer publishes now.
    pub async fn fetch(&self) -> Result<KeySet, FetchError> {
        let call = Call {
            endpoint: &self.endpoint,
            request: self.request.clone(),
            is_head: false,
            max_idle: SAFE_IDLE_TIME,
            is_repeatable: true,
        };
        let response = timeout(TIMEOUT, call.send::<()>(&self.pool)).await;
        let (response, ()) = response.map_err(|_| FetchError::Timeout)??;
        match response.status {
            200 => Ok(KeySet::parse(self.algorithm, &response.body)?),
            status => Err(FetchError::Status(status)),
        }
    }
}

/// Starts the task that fetches. Once `jwks` is replaced, it fetches only for requests that began before, and ends with
/// the last of them. Must be called on a thread of the actix system, once.
pub fn start(tls: Arc<rustls::ClientConfig>, jwks: &Arc<Jwks>) {
    let fetcher = Fetcher::new(tls, jwks);
    let mut state = jwks.state.subscribe();
    let replaced = jwks.replaced.clone();
    let jwks = Arc::downgrade(jwks);
    actix_web::rt::spawn(async move {
        // The first one is asked for from the beginning.
        let mut next = Instant::now() + INTERVAL;
        loop {
            let is_replaced = replaced.is_cancelled();
            let is_over = tokio::select! {
                asked = state.wait_for(|state| state.is_fetching) => asked.is_err(),
                () = sleep_until(next), if !is_replaced => false,
                () = replaced.cancelled(), if !is_replaced => continue,
            };
            if is_over {
                return;
            }
            match jwks.upgrade() {
                Some(jwks) => jwks.begin(),
                None => return,
            }
            let result = fetcher.fetch().await;
            let pause = if result.is_ok() { INTERVAL } else { RETRY };
            next = Instant::now() + pause + pause.mul_f64(rand::random_range(0.0..0.1));
            match jwks.upgrade() {
                Some(jwks) => jwks.finish(result),
                None => return,
            }
        }
    });
}

impl Jwks {
    fn begin(&self) {
        self.state.send_modify(|state| state.is_fetching = true);
    }

    /// Takes over the keys of a fetch; a failed one leaves the former keys. Logs the first of several failures.
    pub(super) fn finish(&self, result: Result<KeySet, FetchError>) {
        self.metrics.jwks(if result.is_ok() { "fetched" } else { "failed" });
        let is_failing = result.is_err();
        let was_failing = self.state.borrow().is_failing;
        match &result {
            Ok(keys) if was_failing || self.known().keys.is_empty() => {
                tracing::info!(
                    keys = keys.len(),
                    "the keys of tickets were fetched: auth.jwt.jwks_url"
                );
            }
            Ok(keys) => tracing::debug!(keys = keys.len(), "the keys of tickets were fetched"),
            Err(error) => {
                let cause = error.to_string();
                match was_failing {
                    false => tracing::warn!(
                        cause,
                        "the keys of tickets cannot be fetched: auth.jwt.jwks_url"
                    ),
                    true => tracing::debug!(
                        cause,
                        "the keys of tickets cannot be fetched: auth.jwt.jwks_url"
                    ),
                }
            }
        }
        self.state.send_modify(|state| {
            if let Ok(keys) = result {
                (state.keys, state.fetched) = (Arc::new(keys), Some(Instant::now()));
            }
            (state.is_failing, state.is_fetching) = (is_failing, false);
            state.fetches += 1;
        });
    }
}
