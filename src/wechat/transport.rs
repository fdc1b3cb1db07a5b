//! WeChat's calls, over connections of our own. awc starts a task and a timer for each call, and wakes the reactor to set
//! it (benches/runs/NOTES.md); it takes an interim response for the response and uses the connection again, where the
//! response itself is then that to the next call; and it does so after refusals, and with bytes left over.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Semaphore;

use super::reply::REPLY_LIMIT;
use crate::net::http_client::exchange::{Exchange, ExchangeError, head};
use crate::net::http_client::response::{Response, ResponseError};
use crate::net::http_client::{ConnectError, Endpoint, IDLE_FOR, Pool, SURE_FOR};

/// Calls other than those for upload links that one worker makes at once; more wait, within their time.
const CALLS: usize = 256;

/// What a query's parameter must not hold as it is.
const PARAMETER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Whether a parameter holds nothing that [`PARAMETER`] encodes. No branch on a byte, so that the compiler looks at
/// sixteen at a time: every call carries a token, which is plain and long.
fn is_plain(value: &str) -> bool {
    value.bytes().fold(true, |plain, byte| {
        plain & (byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'_' | b'.' | b'~'))
    })
}

/// WeChat's address, taken apart once.
#[derive(Debug, Clone)]
pub struct BaseUrl {
    origin: Endpoint,
    authority: String,
    /// Without a trailing slash.
    path: String,
}

impl BaseUrl {
    /// `base_url` without a trailing slash; `None` for what is no URL with a host.
    pub fn of(base_url: &str) -> Option<Self> {
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
        Some(Self { origin: Endpoint { https, host, port }, authority, path: path.to_owned() })
    }
}

/// `path` with a query of these parameters.
pub(super) fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let values: usize = parameters.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let (given, mut path) = (path, String::with_capacity(path.len() + values));
    path.push_str(given);
    for (index, (name, value)) in parameters.iter().enumerate() {
        path.extend([if index == 0 { "?" } else { "&" }, name, "="]);
        if is_plain(value) {
            path.push_str(value);
        } else {
            path.extend(utf8_percent_encode(value, PARAMETER));
        }
    }
    path
}

/// A worker's connections for it.
#[derive(Clone)]
pub struct Transport {
    pool: Rc<Pool>,
    calls: Rc<Semaphore>,
}

impl Transport {
    /// Must be called on a worker.
    pub fn new(tls: Arc<rustls::ClientConfig>, connect_timeout: Duration) -> Self {
        let pool = Pool::batched(tls, connect_timeout, REPLY_LIMIT);
        Self { pool, calls: Rc::new(Semaphore::new(CALLS)) }
    }

    /// Posts JSON to `path` below the address, as every upload does; gives the whole reply, or says what failed without
    /// naming the path, which holds the token. No timer but that for connecting.
    pub async fn post_at_once(
        &self,
        address: &BaseUrl,
        path: &str,
        body: &[u8],
    ) -> Result<Response, String> {
        self.exchange(address, posted(address, path, body), SURE_FOR).await
    }

    /// The same, of [`CALLS`] at a time.
    pub async fn post(
        &self,
        address: &BaseUrl,
        path: &str,
        body: &[u8],
    ) -> Result<Response, String> {
        let _call = self.calls.acquire().await;
        self.exchange(address, posted(address, path, body), IDLE_FOR).await
    }

    /// Gets `path`, likewise.
    pub async fn get(&self, address: &BaseUrl, path: &str) -> Result<Response, String> {
        let head =
            ["GET ", &address.path, path, " HTTP/1.1\r\nHost: ", &address.authority, "\r\n\r\n"];
        let _call = self.calls.acquire().await;
        self.exchange(address, head.concat().into(), IDLE_FOR).await
    }

    /// Sends a request over a connection that was idle for less than `age`, or a new one.
    async fn exchange(
        &self,
        address: &BaseUrl,
        request: Bytes,
        age: Duration,
    ) -> Result<Response, String> {
        loop {
            let kept = self.pool.pooled(&address.origin, age);
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.pool.connect(&address.origin).await.map_err(|error| match error {
                    ConnectError::Timeout(_) => format!("connecting: {error}"),
                    ConnectError::Failed(cause) => format!("connecting: {cause}"),
                })?,
            };
            let mut exchange = Exchange::new(&mut connection, request.clone(), (), ());
            match poll_fn(|cx| exchange.poll(cx)).await {
                Ok(reply) => {
                    self.pool.put_back(&address.origin, connection);
                    return Ok(reply);
                }
                // It was being closed when we took it; no call does anything else when it is made again.
                Err(ExchangeError::Failed(ResponseError::Unanswered(_))) if is_kept => {}
                Err(ExchangeError::Failed(ResponseError::Unanswered(cause))) => {
                    return Err(format!("sending: {cause}"));
                }
                Err(ExchangeError::Failed(ResponseError::CutShort { cause, .. })) => {
                    return Err(format!("reading the reply: {cause}"));
                }
                Err(ExchangeError::Aborted) => return Err("it broke off".to_owned()),
            }
        }
    }
}

fn posted(address: &BaseUrl, path: &str, body: &[u8]) -> Bytes {
    let path = [&address.path, path].concat();
    let head = head(&path, &address.authority, "application/json", body.len() as u64);
    Bytes::from([head.as_bytes(), body].concat())
}

#[cfg(test)]
mod tests {
    use super::with_query;

    #[test]
    fn parameters_are_encoded_where_they_must_be() {
        let query = |value| with_query("/a", &[("x", value), ("y", "1")]);
        assert_eq!(query("62_Abc-9.~"), "/a?x=62_Abc-9.~&y=1");
        assert_eq!(query("a+/=é &"), "/a?x=a%2B%2F%3D%C3%A9%20%26&y=1");
        assert_eq!(query(""), "/a?x=&y=1");
    }
}
