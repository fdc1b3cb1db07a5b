//! The id of a request: the client's own, or a new one.

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id a request is known by, in its reply and in every log line.
#[derive(Debug, Clone)]
pub struct RequestId(String);

impl RequestId {
    /// The client's own when it is sane, otherwise a new one.
    pub fn of(request: &ServiceRequest) -> Self {
        let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
        let sane = |id: &&str| {
            (1..=128).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        Self(given.filter(sane).map_or_else(|| Uuid::now_v7().to_string(), ToOwned::to_owned))
    }

    /// The id of a request that [`requests`] let in.
    pub fn of_running(request: &HttpRequest) -> String {
        let id = request.extensions().get::<Self>().map(|id| id.as_str().to_owned());
        id.unwrap_or_default()
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts it into a response's head.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.insert(REQUEST_ID, value);
        }
    }
}
