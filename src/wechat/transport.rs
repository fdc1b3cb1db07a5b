//! The HTTP requests of all calls to WeChat, over the gateway's own HTTP client.
//!
//! awc is not used for them. It starts a task and a timer for each call, and setting the timer wakes the reactor
//! (benches/runs/NOTES.md). It also takes an interim response (1xx) for the final one and reuses the connection, so
//! that the final response is read as the response to the next call; it reuses connections after refusals, too, and
//! while bytes of the last response are unread.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Semaphore;

use super::response::MAX_RESPONSE;
use crate::net::http_client::base_url::BaseUrl;
use crate::net::http_client::call::Call;
use crate::net::http_client::exchange::{head, request};
use crate::net::http_client::response::Response;
use crate::net::http_client::{IDLE_TIMEOUT, Pool, SAFE_IDLE_TIME};

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

/// The target of a request: the base URL's path, these pieces of a path below it, and these parameters as the query.
pub(super) fn target(base_url: &BaseUrl, path: &[&str], parameters: &[(&str, &str)]) -> String {
    let path_length: usize = path.iter().map(|piece| piece.len()).sum();
    let query: usize = parameters.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let mut target = String::with_capacity(base_url.path.len() + path_length + query);
    target.push_str(&base_url.path);
    target.extend(path.iter().copied());
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

    /// Sends JSON by POST to a [`target`], and returns the whole response. The error says what failed without the target,
    /// which contains the token. There is no time limit except for connecting, and no limit on concurrent calls: uploads
    /// have limits of their own.
    pub async fn post_unlimited(
        &self,
        base_url: &BaseUrl,
        target: &str,
        body: &[u8],
    ) -> Result<Response, String> {
        self.exchange(base_url, json_request(base_url, target, body), SAFE_IDLE_TIME).await
    }

    /// As [`Self::post_unlimited`], with [`MAX_CONCURRENT_CALLS`] at a time.
    pub async fn post(
        &self,
        base_url: &BaseUrl,
        target: &str,
        body: &[u8],
    ) -> Result<Response, String> {
        let _permit = self.calls.acquire().await;
        self.exchange(base_url, json_request(base_url, target, body), IDLE_TIMEOUT).await
    }

    /// As [`Self::post`], but a GET without a body.
    pub async fn get(&self, base_url: &BaseUrl, target: &str) -> Result<Response, String> {
        let request = head("GET", target, &base_url.authority, &[], None);
        let _permit = self.calls.acquire().await;
        self.exchange(base_url, request.into(), IDLE_TIMEOUT).await
    }

    /// Sends a request over a connection that was idle for less than `max_idle`, or a new one.
    async fn exchange(
        &self,
        base_url: &BaseUrl,
        request: Bytes,
        max_idle: Duration,
    ) -> Result<Response, String> {
        // Every call is safe to repeat.
        let endpoint = &base_url.endpoint;
        let call = Call { endpoint, request, is_head: false, max_idle, is_repeatable: true };
        let (response, ()) = call.send(&self.pool).await.map_err(|error| error.to_string())?;
        Ok(response)
    }
}

fn json_request(base_url: &BaseUrl, target: &str, body: &[u8]) -> Bytes {
    request("POST", target, &base_url.authority, &[("Content-Type", "application/json")], body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_percent_encoded_where_necessary() {
        let base_url = BaseUrl::parse("http://localhost/wx/").unwrap();
        let query = |value| target(&base_url, &["/a", "/b"], &[("x", value), ("y", "1")]);
        assert_eq!(query("62_Abc-9.~"), "/wx/a/b?x=62_Abc-9.~&y=1");
        assert_eq!(query("a+/=é &"), "/wx/a/b?x=a%2B%2F%3D%C3%A9%20%26&y=1");
        assert_eq!(query(""), "/wx/a/b?x=&y=1");
        assert_eq!(target(&base_url, &["/a"], &[]), "/wx/a");
    }
}
