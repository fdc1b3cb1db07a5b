//! The HTTP requests of all calls to WeChat, over the gateway's own HTTP client.
//!
//! awc is not used for them. It starts a task and a timer for each call, and setting the timer wakes the reactor
//! (benches/runs/NOTES.md). It also takes an interim response (1xx) for the final one and reuses the connection, so
//! that the final response is read as the response to the next call; it reuses connections after refusals, too, and
//! while bytes of the last response are unread.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Semaphore;

use super::response::MAX_RESPONSE;
use crate::net::http_client::exchange::{Exchange, ExchangeError, head};
use crate::net::http_client::response::{Response, ResponseError};
use crate::net::http_client::{ConnectError, Endpoint, IDLE_TIMEOUT, Pool, SAFE_IDLE_TIME};

/// Concurrent calls of one worker, those for upload links aside. A further call waits, within its time limit.
const MAX_CONCURRENT_CALLS: usize = 256;

/// The characters that are percent-encoded in a query parameter.
const PARAMETER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Whether a parameter contains nothing that [`PARAMETER`] encodes. The loop has no branch on a byte, so the compiler
/// vectorizes it to sixteen bytes at a time: every call carries a token, which is long and needs no encoding.
fn is_plain(value: &str) -> bool {
    value.bytes().fold(true, |plain, byte| {
        plain & (byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'_' | b'.' | b'~'))
    })
}

/// The parsed `wechat.base_url`.
#[derive(Debug, Clone)]
pub struct BaseUrl {
    endpoint: Endpoint,
    authority: String,
    /// Without a trailing slash.
    path: String,
}

impl BaseUrl {
    /// `None` where `base_url` is not an http or https URL with a host.
    pub fn parse(base_url: &str) -> Option<Self> {
        let uri: Uri = base_url.parse().ok()?;
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        let (authority, path) = (authority.as_str().to_owned(), uri.path().trim_end_matches('/'));
        Some(Self { endpoint: Endpoint { https, host, port }, authority, path: path.to_owned() })
    }
}

/// `path` with these parameters as its query.
pub(super) fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let query: usize = parameters.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let mut target = String::with_capacity(path.len() + query);
    target.push_str(path);
    for (index, (name, value)) in parameters.iter().enumerate() {
        target.extend([if index == 0 { "?" } else { "&" }, name, "="]);
        if is_plain(value) {
            target.push_str(value);
        } else {
            target.extend(utf8_percent_encode(value, PARAMETER));
        }
    }
    target
}

/// A worker's connections to WeChat.
#[derive(Clone)]
pub struct Transport {
    pool: Rc<Pool>,
    calls: Rc<Semaphore>,
}

impl Transport {
    /// Must be called on a worker's thread.
    pub fn new(tls: Arc<rustls::ClientConfig>, connect_timeout: Duration) -> Self {
        let pool = Pool::new(tls, connect_timeout, MAX_RESPONSE);
        Self { pool, calls: Rc::new(Semaphore::new(MAX_CONCURRENT_CALLS)) }
    }

    /// Sends JSON by POST to `path` below the base URL, and returns the whole response. The error says what failed
    /// without the path, which contains the token. There is no time limit except for connecting, and no limit on
    /// concurrent calls: uploads have limits of their own.
    pub async fn post_unlimited(
        &self,
        base_url: &BaseUrl,
        path: &str,
        body: &[u8],
    ) -> Result<Response, String> {
        self.exchange(base_url, post_request(base_url, path, body), SAFE_IDLE_TIME).await
    }

    /// As [`Self::post_unlimited`], with [`MAX_CONCURRENT_CALLS`] at a time.
    pub async fn post(
        &self,
        base_url: &BaseUrl,
        path: &str,
        body: &[u8],
    ) -> Result<Response, String> {
        let _permit = self.calls.acquire().await;
        self.exchange(base_url, post_request(base_url, path, body), IDLE_TIMEOUT).await
    }

    /// As [`Self::post`], but a GET without a body.
    pub async fn get(&self, base_url: &BaseUrl, path: &str) -> Result<Response, String> {
        let head =
            ["GET ", &base_url.path, path, " HTTP/1.1\r\nHost: ", &base_url.authority, "\r\n\r\n"];
        let _permit = self.calls.acquire().await;
        self.exchange(base_url, head.concat().into(), IDLE_TIMEOUT).await
    }

    /// Sends a request over a connection that was idle for less than `max_idle`, or a new one.
    async fn exchange(
        &self,
        base_url: &BaseUrl,
        request: Bytes,
        max_idle: Duration,
    ) -> Result<Response, String> {
        loop {
            let pooled = self.pool.pooled(&base_url.endpoint, max_idle);
            let is_reused = pooled.is_some();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => {
                    self.pool.connect(&base_url.endpoint).await.map_err(|error| match error {
                        ConnectError::Timeout(_) => format!("connecting: {error}"),
                        ConnectError::Failed(cause) => format!("connecting: {cause}"),
                    })?
                }
            };
            let mut exchange = Exchange::new(&mut connection, request.clone(), (), ());
            match poll_fn(|cx| exchange.poll(cx)).await {
                Ok(response) => {
                    self.pool.put_back(&base_url.endpoint, connection);
                    return Ok(response);
                }
                // The server closed the idle connection before it read the request. Every call is safe to repeat.
                Err(ExchangeError::Failed(ResponseError::NoResponse(_))) if is_reused => {}
                Err(ExchangeError::Failed(ResponseError::NoResponse(cause))) => {
                    return Err(format!("sending: {cause}"));
                }
                Err(ExchangeError::Failed(ResponseError::BadBody { cause, .. })) => {
                    return Err(format!("reading the response: {cause}"));
                }
                Err(ExchangeError::Aborted) => return Err("the exchange was aborted".to_owned()),
            }
        }
    }
}

fn post_request(base_url: &BaseUrl, path: &str, body: &[u8]) -> Bytes {
    let path = [&base_url.path, path].concat();
    let head = head(&path, &base_url.authority, "application/json", body.len() as u64);
    Bytes::from([head.as_bytes(), body].concat())
}

#[cfg(test)]
mod tests {
    use super::with_query;

    #[test]
    fn parameters_are_percent_encoded_where_necessary() {
        let query = |value| with_query("/a", &[("x", value), ("y", "1")]);
        assert_eq!(query("62_Abc-9.~"), "/a?x=62_Abc-9.~&y=1");
        assert_eq!(query("a+/=é &"), "/a?x=a%2B%2F%3D%C3%A9%20%26&y=1");
        assert_eq!(query(""), "/a?x=&y=1");
    }
}
