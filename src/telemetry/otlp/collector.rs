//! One attempt to export a batch: a POST, and what the collector's response says (OTLP 1.10, "OTLP/HTTP").

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::timeout;

use crate::net::http_client::base_url::BaseUrl;
use crate::net::http_client::call::{Call, CallError};
use crate::net::http_client::exchange::request;
use crate::net::http_client::retry_after::RetryAfter;
use crate::net::http_client::{Pool, SAFE_IDLE_TIME};
use crate::settings::Otlp;

/// The path of the signal, below the URL of the collector.
const TRACES: &str = "/v1/traces";
/// Of one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CONNECT: Duration = Duration::from_secs(5);
/// Bytes of a response.
const MAX_RESPONSE: usize = 64 * 1024;
/// Characters of the collector's own text in the log.
const MAX_MESSAGE: usize = 200;

/// What the collector made of a batch.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// It has taken all spans but so many.
    Accepted { rejected: usize, cause: String },
    /// It may take them later.
    Unavailable { cause: String, retry_after: Option<Duration> },
    /// Sending them again is not expected to help.
    Refused(String),
}

/// The way to the collector.
pub struct Collector {
    pool: Rc<Pool>,
    url: BaseUrl,
    path: String,
    headers: Vec<(String, SecretString)>,
}

impl Collector {
    /// `None`: there is no endpoint, or it is not a URL that requests can be sent to. Must be called on a thread of the
    /// actix system.
    pub fn new(tls: Arc<rustls::ClientConfig>, settings: &Otlp) -> Option<Self> {
        let url = BaseUrl::parse(settings.endpoint.as_deref()?)?;
        let pool = Pool::new(tls, MAX_CONNECT, MAX_RESPONSE);
        Some(Self { pool, path: path_below(&url.path), url, headers: settings.fields() })
    }

    /// Sends a batch once. Redirects are not followed.
    pub(super) async fn send(&self, body: &[u8]) -> Outcome {
        let call = Call {
            endpoint: &self.url.endpoint,
            request: self.request(body),
            is_head: false,
            max_idle: SAFE_IDLE_TIME,
            // A span that comes twice has the same id.
            is_repeatable: true,
        };
        match timeout(TIMEOUT, call.send::<RetryAfter>(&self.pool)).await {
            Err(_) => unavailable(format!("no response within {TIMEOUT:?}"), None),
            // By its status, whatever its body.
            Ok(Err(CallError::BadBody { status, .. })) => outcome(status, &[], None),
            Ok(Err(error)) => unavailable(error.to_string(), None),
            Ok(Ok((response, RetryAfter(retry_after)))) => {
                outcome(response.status, &response.body, retry_after)
            }
        }
    }

    fn request(&self, body: &[u8]) -> Bytes {
        let mut fields = vec![
            ("Content-Type", "application/json"),
            ("User-Agent", concat!("tcb-upload-gateway/", env!("CARGO_PKG_VERSION"))),
        ];
        let own = self.headers.iter();
        fields.extend(own.map(|(name, value)| (name.as_str(), value.expose_secret())));
        request("POST", &self.path, &self.url.authority, &fields, body)
    }
}

/// The URL of the settings is that of all signals, as `OTEL_EXPORTER_OTLP_ENDPOINT`; that of traces alone is understood.
fn path_below(base: &str) -> String {
    match base.ends_with(TRACES) {
        true => base.to_owned(),
        false => format!("{base}{TRACES}"),
    }
}

fn unavailable(cause: String, retry_after: Option<Duration>) -> Outcome {
    Outcome::Unavailable { cause, retry_after }
}

fn outcome(status: u16, body: &[u8], retry_after: Option<Duration>) -> Outcome {
    match status {
        200..300 => accepted(body),
        429 | 502 | 503 | 504 => unavailable(format!("status {status}"), retry_after),
        _ => Outcome::Refused(format!("status {status}")),
    }
}

/// A partial success names the number of rejected spans, as JSON writes 64 bits: in a string, or as a number.
fn accepted(body: &[u8]) -> Outcome {
    let response: Value = serde_json::from_slice(body).unwrap_or_default();
    let partial = &response["partialSuccess"];
    let rejected = match &partial["rejectedSpans"] {
        Value::String(digits) => digits.parse().ok(),
        number => number.as_u64(),
    };
    let rejected = usize::try_from(rejected.unwrap_or(0)).unwrap_or(usize::MAX);
    let message = partial["errorMessage"].as_str().unwrap_or_default();
    let message: String = message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
    Outcome::Accepted { rejected, cause: format!("{rejected} spans are rejected: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_traces_is_appended_to_the_url_of_all_signals() {
        for (base, path) in [
            ("", "/v1/traces"),
            ("/otlp", "/otlp/v1/traces"),
            ("/v1/traces", "/v1/traces"),
            ("/otlp/v1/traces", "/otlp/v1/traces"),
        ] {
            assert_eq!(path_below(base), path);
        }
    }

    #[test]
    fn statuses_say_whether_a_batch_is_sent_again() {
        let pause = Some(Duration::from_secs(3));
        for status in [429, 502, 503, 504] {
            let expected = unavailable(format!("status {status}"), pause);
            assert_eq!(outcome(status, b"", pause), expected);
        }
        for status in [301, 400, 401, 404, 413, 500, 501] {
            assert_eq!(outcome(status, b"", pause), Outcome::Refused(format!("status {status}")));
        }
        for (body, expected) in [
            ("", 0),
            ("{}", 0),
            ("no JSON", 0),
            (r#"{"partialSuccess":{}}"#, 0),
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too\nold"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":3}}"#, 3),
        ] {
            let Outcome::Accepted { rejected, cause } = outcome(200, body.as_bytes(), None) else {
                panic!("{body}")
            };
            assert_eq!(rejected, expected, "{body}");
            assert!(!cause.contains('\n'), "{cause}");
        }
    }
}
