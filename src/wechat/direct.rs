//! The call that every upload waits for, over connections of our own: awc starts a task and a timer for each call, and
//! wakes the reactor to set it (benches/runs/NOTES.md). All other calls are awc's.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Uri;

use super::reply::REPLY_LIMIT;
use crate::pool::exchange::{Exchange, ExchangeError, head};
use crate::pool::reply::{Failure, Reply};
use crate::pool::{ConnectError, Origin, Pool, SURE_FOR};

/// WeChat's address, taken apart once.
#[derive(Debug, Clone)]
pub struct Address {
    origin: Origin,
    authority: String,
    /// Without a trailing slash.
    path: String,
}

impl Address {
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
        Some(Self { origin: Origin { https, host, port }, authority, path: path.to_owned() })
    }
}

/// A worker's connections for it.
#[derive(Clone)]
pub struct Direct(Rc<Pool>);

impl Direct {
    /// Must be called on a worker.
    pub fn new(tls: Arc<rustls::ClientConfig>, connect_timeout: Duration) -> Self {
        Self(Pool::for_short(tls, connect_timeout, REPLY_LIMIT))
    }

    /// Posts JSON to `path` below the address; gives the whole reply, or says what failed without naming the path, which
    /// holds the token. No timer but that for connecting.
    pub async fn post(&self, address: &Address, path: &str, body: &[u8]) -> Result<Reply, String> {
        let path = [&address.path, path].concat();
        let head = head(&path, &address.authority, "application/json", body.len() as u64);
        let request = Bytes::from([head.as_bytes(), body].concat());
        loop {
            let kept = self.0.pooled(&address.origin, SURE_FOR);
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.0.connect(&address.origin).await.map_err(|error| match error {
                    ConnectError::Timeout(_) => format!("connecting: {error}"),
                    ConnectError::Failed(cause) => format!("connecting: {cause}"),
                })?,
            };
            let mut exchange = Exchange::new(&mut connection, request.clone(), (), ());
            match poll_fn(|cx| exchange.poll(cx)).await {
                Ok(reply) => {
                    self.0.put_back(&address.origin, connection);
                    return Ok(reply);
                }
                // It was being closed when we took it; asking for a link again stores nothing.
                Err(ExchangeError::Failed(Failure::Unanswered(_))) if is_kept => {}
                Err(ExchangeError::Failed(Failure::Unanswered(cause))) => {
                    return Err(format!("sending: {cause}"));
                }
                Err(ExchangeError::Failed(Failure::CutShort { cause, .. })) => {
                    return Err(format!("reading the reply: {cause}"));
                }
                Err(ExchangeError::Aborted) => return Err("it broke off".to_owned()),
            }
        }
    }
}
