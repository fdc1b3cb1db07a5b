//! The response to an upload, as it is retained for repeats of the request, in memory and as text for Redis.

use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes that a retained header takes besides its name and value.
const HEADER_OVERHEAD: usize = 64;

/// The retained response to an upload.
#[derive(Debug, PartialEq)]
pub struct RetainedResponse {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// As it is in Redis. A later release may write other members besides.
#[derive(Serialize, Deserialize)]
struct Text<'a> {
    status: u16,
    headers: Vec<(String, String)>,
    body: std::borrow::Cow<'a, str>,
}

impl RetainedResponse {
    /// In bytes.
    pub(super) fn weight(&self) -> usize {
        let headers = self.headers.iter();
        let headers =
            headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
        self.body.len() + headers.sum::<usize>()
    }

    /// `None`: it is not text.
    pub(super) fn to_text(&self) -> Option<String> {
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            headers.push((name.as_str().to_owned(), value.to_str().ok()?.to_owned()));
        }
        let body = std::str::from_utf8(&self.body).ok()?.into();
        serde_json::to_string(&Text { status: self.status, headers, body }).ok()
    }

    /// `None`: it is no response.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let Text { status, headers: texts, body } = serde_json::from_str(text).ok()?;
        let mut headers = Vec::new();
        for (name, value) in texts {
            headers.push((name.parse().ok()?, value.parse().ok()?));
        }
        Some(Self { status, headers, body: body.into_owned().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_survives_redis() {
        let headers = vec![
            (HeaderName::from_static("location"), HeaderValue::from_static("/v1/files/a b")),
            (HeaderName::from_static("x-twice"), HeaderValue::from_static("1")),
            (HeaderName::from_static("x-twice"), HeaderValue::from_static("2")),
        ];
        let body = Bytes::from("{\"name\": \"文件\n\"}");
        let response = RetainedResponse { status: 201, headers, body };
        let text = response.to_text().expect("text");
        assert_eq!(RetainedResponse::from_text(&text), Some(response));
        for wrong in ["", "{}", r#"{"status":201,"headers":[["a b","c"]],"body":""}"#] {
            assert_eq!(RetainedResponse::from_text(wrong), None);
        }
        let binary = RetainedResponse {
            status: 200,
            headers: Vec::new(),
            body: Bytes::from_static(b"\xff"),
        };
        assert_eq!(binary.to_text(), None);
    }
}
