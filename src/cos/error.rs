//! Why an object was not stored, or cannot be vouched for.

use std::time::Duration;

use crate::file_stream::BoxError;

/// Why an object was not stored, or cannot be vouched for.
#[derive(Debug, thiserror::Error)]
pub enum CosError {
    /// The client's side ended the upload; the cause is the source's own.
    #[error("the source of the file failed")]
    Source(#[source] BoxError),
    /// The file was taken for the form's last part and is not; it has `content` bytes.
    #[error("another part follows the file")]
    NotLast { content: u64 },
    #[error("{got} bytes came where {declared} were declared")]
    LengthMismatch { declared: u64, got: u64 },
    /// The link must not be posted to.
    #[error("the upload link is not allowed: {0}")]
    Link(&'static str),
    /// No verdict: the connection could not be made or broke.
    #[error("no answer from COS: {0}")]
    Unreachable(String),
    #[error("COS: {waited_for} took longer than {limit:?}")]
    Timeout { waited_for: &'static str, limit: Duration },
    #[error("COS answered {status} {code}: {message}")]
    Refused { status: u16, code: String, message: String, request_id: Option<String> },
    /// An answer that is no verdict: a success before the last byte, or one that cannot be read.
    #[error("COS's answer is no verdict: {0}")]
    NoVerdict(&'static str),
    #[error("COS stored other bytes than were sent (CRC-64 {theirs}, sent {ours})")]
    Integrity { ours: u64, theirs: String },
}

impl CosError {
    /// Whether the same bytes may be sent again, given that they are still all there.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::NoVerdict(_) => true,
            Self::Refused { status, code, .. } => {
                matches!(status, 500 | 502 | 503 | 504)
                    || code == "RequestTimeout"
                    || self.wants_fresh_link()
            }
            Self::Timeout { waited_for, .. } => *waited_for == CONNECTING,
            _ => false,
        }
    }

    /// Whether COS has said for certain that it stored nothing. It may fail after it has stored a file.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status < 500)
    }

    /// COS's answer as a metric's label; `None` when COS had no part in it.
    pub fn answer_class(&self) -> Option<&'static str> {
        match self {
            Self::Source(_)
            | Self::NotLast { .. }
            | Self::LengthMismatch { .. }
            | Self::Link(_) => None,
            Self::Unreachable(_) | Self::Timeout { .. } => Some("none"),
            Self::NoVerdict(_) | Self::Integrity { .. } => Some("2xx"),
            Self::Refused { status, .. } => Some(match status {
                500.. => "5xx",
                400.. => "4xx",
                300.. => "3xx",
                _ => "2xx",
            }),
        }
    }

    /// What it is about a failure that makes another attempt worth while, as a metric's label.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NotLast { .. } => "not_last",
            Self::Unreachable(_) => "unreachable",
            Self::NoVerdict(_) => "no_verdict",
            Self::Timeout { .. } => "timeout",
            error if error.wants_fresh_link() => "expired_link",
            Self::Refused { status: 503, .. } => "busy",
            _ => "refused",
        }
    }

    /// The link had expired: another one may do.
    pub fn wants_fresh_link(&self) -> bool {
        match self {
            Self::Refused { status: 403, code, message, .. } => {
                code == "ExpiredToken" || code == "AccessDenied" && message.contains("expired")
            }
            Self::Refused { code, .. } => code == "ExpiredToken",
            _ => false,
        }
    }
}

pub(super) const CONNECTING: &str = "connecting";
