//! The errors of storing an object: it was not stored, or it is not certain that it was stored undamaged.

use std::time::Duration;

use super::api::getauth::GetAuthError;
use crate::file_stream::BoxError;

/// Why an object was not stored, or why it is not certain that it was stored undamaged.
#[derive(Debug, thiserror::Error)]
pub enum CosError {
    /// Reading the file from the client failed; the cause is the source's error.
    #[error("the source of the file failed")]
    Source(#[source] BoxError),
    /// The file was assumed to be the form's last part and is not; it has `content` bytes.
    #[error("another part follows the file")]
    NotLast { content: u64 },
    /// The client would take so long that COS would refuse the file after its last byte. The attempt was ended in order
    /// to buffer the file first; everything that was read is buffered.
    #[error("the client is too slow for one form")]
    SlowClient,
    /// The length of the file's next part is not known, and it cannot be buffered.
    #[error("memory is used up")]
    OutOfMemory,
    #[error("{declared} bytes were declared, but {got} were received")]
    LengthMismatch { declared: u64, got: u64 },
    /// The form must not be posted to this link.
    #[error("the upload link is not allowed: {0}")]
    Link(&'static str),
    /// No verdict: the connection could not be made, or it broke.
    #[error("no response from COS: {0}")]
    Unreachable(String),
    #[error("COS: {waited_for} took longer than {limit:?}")]
    Timeout { waited_for: &'static str, limit: Duration },
    #[error("COS responded {status} {code}: {message}")]
    Refused { status: u16, code: String, message: String, request_id: Option<String> },
    /// A response that is no verdict: a success before the last byte was sent, or a response that cannot be read.
    #[error("no verdict from COS: {0}")]
    NoVerdict(&'static str),
    #[error("COS stored other bytes than were sent (CRC-64 {theirs}, sent {ours})")]
    Integrity { ours: u64, theirs: String },
    /// COS's own API cannot be used, for lack of keys; they are fetched again after `retry_after`.
    #[error("no keys for COS: {cause}")]
    Keys { cause: GetAuthError, retry_after: Duration },
}

impl CosError {
    /// Whether it makes sense to send the same bytes again, if all of them are still buffered.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::NoVerdict(_) => true,
            Self::Refused { status, code, .. } => {
                matches!(status, 500 | 502 | 503 | 504)
                    || code == "RequestTimeout"
                    || code == TOO_SLOW
                    || self.wants_fresh_link()
            }
            Self::Timeout { waited_for, .. } => *waited_for == CONNECTING,
            _ => false,
        }
    }

    /// Whether it is certain that COS stored nothing. A 5xx is not: COS can fail after it has stored a file.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status < 500)
    }

    /// COS's response as a metric's label; `None` when the failure is not COS's.
    pub fn response_class(&self) -> Option<&'static str> {
        match self {
            Self::Source(_)
            | Self::NotLast { .. }
            | Self::SlowClient
            | Self::OutOfMemory
            | Self::LengthMismatch { .. }
            | Self::Link(_)
            | Self::Keys { .. } => None,
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

    /// Why the file is sent again after this failure, as a metric's label.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NotLast { .. } => "not_last",
            Self::SlowClient => "slow_client",
            Self::Unreachable(_) => "unreachable",
            Self::NoVerdict(_) => "no_verdict",
            Self::Timeout { .. } => "timeout",
            error if error.wants_fresh_link() => "expired_link",
            error if error.is_too_slow() => "too_slow",
            Self::Refused { status: 503, .. } => "busy",
            _ => "refused",
        }
    }

    /// Whether the file took longer than COS allows, which COS says after its last byte.
    pub fn is_too_slow(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == TOO_SLOW)
    }

    /// Whether COS refused the keys that a request was signed with: they have expired, or they are unknown.
    pub fn is_about_keys(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "InvalidAccessKeyId")
            || self.wants_fresh_link()
    }

    /// Whether COS refused the request with this code.
    pub(super) fn is_refused_as(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }

    /// Whether COS refused what the request was signed with, for whatever reason.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status: 403, .. }) || self.wants_fresh_link()
    }

    /// Whether the link has expired, so that a new one may help.
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

/// COS's code for a body that took too long.
const TOO_SLOW: &str = "UserNetworkTooSlow";

pub(super) const CONNECTING: &str = "connecting";
