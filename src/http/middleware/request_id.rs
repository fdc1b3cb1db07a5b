//! A request's id: the client's own `X-Request-Id`, or a new one.

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request's id, in its response and in each of its log lines.
#[derive(Debug, Clone, Default)]
pub struct RequestId(String);

impl RequestId {
    /// The client's own id if it has 1 to 128 letters, digits, `-`, `_` or `.`; otherwise a new UUID.
    pub fn assign(request: &ServiceRequest) -> Self {
        let client_id = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
        let is_valid = |id: &&str| {
            (1..=128).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        Self(
            client_id
                .filter(is_valid)
                .map_or_else(|| Uuid::now_v7().to_string(), ToOwned::to_owned),
        )
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Sets the response header.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.insert(REQUEST_ID, value);
        }
    }
}
