//! WeChat's side: credentials, access tokens, upload and download links.
//!
//! Knows nothing of clients, forms or COS connections.

pub mod api;
pub mod credential;
pub mod token;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

/// Why WeChat gave no answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WechatError {
    /// WeChat answered with an error code. `message` is its own, without control characters.
    #[error("WeChat refused `{call}`: {errcode} {message}")]
    Refused { call: &'static str, errcode: i64, message: String },
    #[error("WeChat could not be reached for `{call}`: {cause}")]
    Unreachable { call: &'static str, cause: String },
    #[error("WeChat took longer than {limit:?} for `{call}`")]
    Timeout { call: &'static str, limit: Duration },
    /// A reply that is not what the call promises.
    #[error("WeChat's reply to `{call}` cannot be used: {cause}")]
    Unusable { call: &'static str, cause: &'static str },
    /// No access token can be had at the moment.
    #[error("no access token: {cause}")]
    NoToken { cause: Arc<WechatError>, retry_after: Duration },
}

impl WechatError {
    /// WeChat's error code, also behind [`WechatError::NoToken`].
    pub fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused { errcode, .. } => Some(*errcode),
            Self::NoToken { cause, .. } => cause.errcode(),
            _ => None,
        }
    }

    /// WeChat's request id, which its support asks for: `rid: …` at the end of an errmsg.
    pub fn rid(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => {
                let (_, rid) = message.rsplit_once("rid: ")?;
                rid.split_whitespace().next()
            }
            Self::NoToken { cause, .. } => cause.rid(),
            _ => None,
        }
    }

    /// Whether asking again shortly may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { errcode, .. } => wire::is_transient(*errcode),
            Self::Unreachable { .. } | Self::Unusable { .. } => true,
            Self::Timeout { .. } | Self::NoToken { .. } => false,
        }
    }
}
