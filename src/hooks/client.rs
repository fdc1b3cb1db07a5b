//! One attempt to send an event: a signed POST, whose response is read to a limit.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::event::Message;
use super::signature::SigningKeys;
use crate::net::http_client::base_url::BaseUrl;
use crate::net::http_client::call::{Call, CallError};
use crate::net::http_client::exchange::request;
use crate::net::http_client::response::Response;
use crate::net::http_client::retry_after::RetryAfter;
use crate::net::http_client::{Pool, SAFE_IDLE_TIME};
use crate::net::trace_context::TRACEPARENT;

/// Bytes of a response.
pub const MAX_RESPONSE: usize = 64 * 1024;
/// The longest pause that a response's `Retry-After` may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
const MAX_CONNECT: Duration = Duration::from_secs(5);

/// What the back end made of an event.
pub enum Outcome {
    /// 2xx, with the response's body.
    Accepted(Bytes),
    /// 4xx, with the response's body: sending the event again is not expected to help.
    Refused { status: u16, body: Bytes },
    /// No response in time, a redirect, or a status that says that it may succeed later.
    Unavailable { cause: String, retry_after: Option<Duration> },
}

/// One thread's connections to the back end.
#[derive(Clone)]
pub struct HookClient {
    pool: Rc<Pool>,
    url: BaseUrl,
    keys: SigningKeys,
    timeout: Duration,
}

impl HookClient {
    /// Must be called on a thread of the actix system.
    pub fn new(
        tls: Arc<rustls::ClientConfig>,
        url: BaseUrl,
        keys: SigningKeys,
        timeout: Duration,
    ) -> Self {
        let pool = Pool::new(tls, timeout.min(MAX_CONNECT), MAX_RESPONSE);
        Self { pool, url, keys, timeout }
    }

    /// Sends an event once, within the time limit for an attempt.
    pub async fn send(&self, message: &Message) -> Outcome {
        self.send_within(message, self.timeout).await
    }

    /// Sends an event once, within `limit`. Redirects are not followed.
    pub async fn send_within(&self, message: &Message, limit: Duration) -> Outcome {
        let unavailable = |cause| Outcome::Unavailable { cause, retry_after: None };
        let call = Call {
            endpoint: &self.url.endpoint,
            request: self.request(message),
            is_head: false,
            max_idle: SAFE_IDLE_TIME,
            // The receiver recognizes an event by its id.
            is_repeatable: true,
        };
        match tokio::time::timeout(limit, call.send::<RetryAfter>(&self.pool)).await {
            Err(_) => unavailable(format!("no response within {limit:?}")),
            // A refusal is one by its status, whatever its body.
            Ok(Err(CallError::BadBody { status, .. })) if is_refusal(status) => {
                Outcome::Refused { status, body: Bytes::new() }
            }
            Ok(Err(error)) => unavailable(error.to_string()),
            Ok(Ok((response, RetryAfter(retry_after)))) => {
                outcome(response, retry_after.map(|pause| pause.min(MAX_RETRY_AFTER)))
            }
        }
    }

    fn request(&self, message: &Message) -> Bytes {
        let now = Timestamp::now().as_second();
        let signature = self.keys.sign(&message.id, now, &message.body);
        let (now, trace) = (now.to_string(), message.trace.map(|trace| trace.to_string()));
        let mut fields = vec![
            ("Content-Type", "application/json"),
            ("User-Agent", concat!("tcb-upload-gateway/", env!("CARGO_PKG_VERSION"))),
            ("webhook-id", message.id.as_str()),
            ("webhook-timestamp", &now),
            ("webhook-signature", &signature),
        ];
        fields.extend(trace.as_deref().map(|trace| (TRACEPARENT, trace)));
        let path = if self.url.path.is_empty() { "/" } else { &self.url.path };
        request("POST", path, &self.url.authority, &fields, &message.body)
    }
}

/// Not Request Timeout, Too Early and Too Many Requests: they do not object to the event itself.
fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) && ![408, 425, 429].contains(&status)
}

fn outcome(response: Response, retry_after: Option<Duration>) -> Outcome {
    let Response { status, body } = response;
    match status {
        200..300 => Outcome::Accepted(body),
        _ if is_refusal(status) => Outcome::Refused { status, body },
        _ => Outcome::Unavailable { cause: format!("status {status}"), retry_after },
    }
}
