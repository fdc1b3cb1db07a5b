//! Every error that a client can see, as a problem document (RFC 9457). `code` has the table of codes, and
//! `from_stages` maps each stage's errors to a problem.

mod code;
mod from_stages;

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

pub use self::code::{Code, REPOSITORY_ERRORS_URL, set_errors_url};

/// WeChat rejects a path or a file id.
const INVALID_PATH: i64 = -501007;

/// A failure, as the client sees it.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: Code,
    /// What happened, and how to fix it.
    pub detail: String,
    /// In seconds.
    pub retry_after: Option<u64>,
    /// What WeChat or COS said, if one of them refused.
    pub upstream: Option<Box<Upstream>>,
}

/// The error code and request id that the support of WeChat or COS asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Upstream {
    /// WeChat's error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub errcode: Option<i64>,
    /// WeChat's request id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rid: Option<String>,
    /// COS's error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cos_code: Option<String>,
    /// COS's request id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cos_request_id: Option<String>,
}

/// A problem document (RFC 9457), with additional members.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Document<'a> {
    /// The code's place on the page that explains errors: `server.errors_url`, `#` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// What the code means.
    title: &'static str,
    /// The HTTP status of the response.
    status: u16,
    #[schema(value_type = Code)]
    code: &'static str,
    /// What happened, and how to fix it.
    detail: &'a str,
    /// The request's id, as in the header `X-Request-Id` and in the gateway's log.
    request_id: &'a str,
    #[serde(flatten)]
    #[schema(value_type = Upstream)]
    upstream: Option<&'a Upstream>,
}

impl Problem {
    /// A problem that neither WeChat nor COS reported.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after: None, upstream: None }
    }

    /// Adds the path to the detail, if WeChat rejected the path.
    pub fn with_path(mut self, path: &str) -> Self {
        if self.upstream.as_ref().is_some_and(|upstream| upstream.errcode == Some(INVALID_PATH)) {
            self.detail.push_str(&format!("; the path is `{path}`"));
        }
        self
    }

    /// For a file whose id is the client's own: if WeChat rejects the id, the code is `invalid_path`.
    pub fn of_given_id(mut self) -> Self {
        if self.upstream.as_ref().is_some_and(|upstream| upstream.errcode == Some(INVALID_PATH)) {
            self.code = Code::InvalidPath;
        }
        self
    }

    /// The gateway is shutting down and accepts no new uploads.
    pub fn draining() -> Self {
        let detail = "this gateway is shutting down; try again: another one will respond";
        Self::new(Code::Draining, detail).retry_after(1)
    }

    /// A request with bytes of an upload ended early.
    pub fn upload_interrupted(detail: String) -> Self {
        Self::new(Code::UploadInterrupted, detail).retry_after(1)
    }

    /// Where an upload is cannot be told now, because of `cause`.
    pub fn offset_unavailable(cause: &Self) -> Self {
        let detail = format!("{}: {}", cause.code.name(), cause.detail);
        Self::new(Code::OffsetUnavailable, detail).retry_after(cause.retry_after.unwrap_or(1))
    }

    /// The gateway is overloaded; `what` says with what.
    pub fn overloaded(what: &str) -> Self {
        Self::new(Code::Overloaded, format!("{what}; try again shortly")).retry_after(1)
    }

    /// The problem document.
    pub fn document<'a>(&'a self, request_id: &'a str) -> Document<'a> {
        Document {
            kind: self.code.url(),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            code: self.code.name(),
            detail: &self.detail,
            request_id,
            upstream: self.upstream.as_deref(),
        }
    }

    /// The whole response.
    pub fn response(&self, request_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.code.status());
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, seconds));
        }
        if self.code == Code::Unauthenticated {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        response
            .content_type("application/problem+json")
            .body(serde_json::to_string(&self.document(request_id)).unwrap_or_default())
    }

    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds.max(1));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code.name(), self.detail)
    }
}

/// `middleware::request` makes the response, with the request's id in it.
impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }
}
