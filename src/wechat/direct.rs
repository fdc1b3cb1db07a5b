//! The call that every upload waits for, over connections of our own: awc starts a task and a timer for each call, and
//! wakes the reactor to set it (benches/runs/NOTES.md). All other calls are awc's.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode, Uri};

use super::reply::REPLY_LIMIT;
use crate::pool::{ConnectError, Link, Origin, Pool, SURE_FOR, told};

type Body = Full<Bytes>;

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
pub struct Direct(Rc<Pool<Body>>);

impl Direct {
    pub fn new(pool: Rc<Pool<Body>>) -> Self {
        Self(pool)
    }

    /// Posts JSON to `path` below the address; gives the status and the whole reply, or says what failed without naming
    /// the path, which holds the token. No timer but that for connecting.
    pub async fn post(
        &self,
        address: &Address,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), String> {
        let body = Bytes::from(body);
        loop {
            let kept = self.0.pooled(&address.origin, SURE_FOR).await;
            let is_kept = kept.is_some();
            let mut link = match kept {
                Some(link) => link,
                None => self.0.connect(&address.origin).await.map_err(|error| match error {
                    ConnectError::Timeout(_) => format!("connecting: {error}"),
                    ConnectError::Failed(cause) => format!("connecting: {cause}"),
                })?,
            };
            let request = Request::post(format!("{}{path}", address.path))
                .header(HOST, &address.authority)
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()))
                .map_err(|_| "its URL is invalid".to_owned())?;
            match exchange(&mut link, request).await {
                Ok(reply) => {
                    self.0.put_back(&address.origin, link).await;
                    return Ok(reply);
                }
                // It was being closed when we took it; asking for a link again stores nothing.
                Err(Failure::Unanswered(_)) if is_kept => {}
                Err(Failure::Unanswered(cause)) => return Err(format!("sending: {cause}")),
                Err(Failure::CutShort(cause)) => return Err(format!("reading the reply: {cause}")),
            }
        }
    }
}

enum Failure {
    /// No head of a reply came.
    Unanswered(String),
    /// Its body did not come to an end, or to one that is near enough.
    CutShort(String),
}

/// One request and its reply, with the connection that carries them.
async fn exchange(
    link: &mut Link<Body>,
    request: Request<Body>,
) -> Result<(StatusCode, Bytes), Failure> {
    let Link { sender, connection, .. } = link;
    let response = sender.send_request(request);
    let has_head = Cell::new(false);
    let mut exchange = pin!(async {
        let response = response.await.map_err(|error| Failure::Unanswered(told(&error)))?;
        has_head.set(true);
        read(response).await
    });
    let mut closed = false;
    poll_fn(|cx| {
        loop {
            if !closed {
                // How it closed is told by the exchange.
                closed = Pin::new(&mut *connection).poll(cx).is_ready();
            }
            let had_head = has_head.get();
            let polled = exchange.as_mut().poll(cx);
            // Once it has the head it has asked for the body, which nearly always is there already.
            if polled.is_ready() || had_head == has_head.get() {
                return polled;
            }
        }
    })
    .await
}

async fn read(response: Response<Incoming>) -> Result<(StatusCode, Bytes), Failure> {
    let status = response.status();
    let body = Limited::new(response.into_body(), REPLY_LIMIT).collect().await;
    let body = body.map_err(|error| Failure::CutShort(error.to_string()))?;
    Ok((status, body.to_bytes()))
}
