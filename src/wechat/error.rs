//! Why a call to WeChat, or one file of a call, has no usable result.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::{error_hints, wire};
use crate::settings::CredentialMode;

/// Why WeChat gave no answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WechatError {
    /// WeChat answered with an error code. `message` is its own, without control characters.
    #[error("WeChat refused `{call}`: {errcode} {message}{}", hint(.advice))]
    Refused {
        call: &'static str,
        errcode: i64,
        message: String,
        /// What to change, and where.
        advice: Option<Cow<'static, str>>,
    },
    #[error("WeChat could not be reached for `{call}`: {cause}")]
    Unreachable { call: &'static str, cause: String },
    #[error("WeChat took longer than {limit:?} for `{call}`")]
    Timeout { call: &'static str, limit: Duration },
    /// A reply that is not what the call promises.
    #[error("WeChat's reply to `{call}` cannot be used: {cause}")]
    Unusable { call: &'static str, cause: &'static str },
    /// What shall show who we are is not there.
    #[error("{0}")]
    Credential(String),
    /// No access token can be had at the moment.
    #[error("no access token: {cause}")]
    NoToken { cause: Arc<WechatError>, retry_after: Duration },
}

fn hint(advice: &Option<Cow<'static, str>>) -> String {
    advice.as_ref().map_or_else(String::new, |advice| format!(" ({advice})"))
}

impl WechatError {
    /// A refusal, as WeChat worded it.
    pub(super) fn refused(
        call: &'static str,
        errcode: i64,
        message: &str,
        mode: CredentialMode,
    ) -> Self {
        let message = printable(message);
        let advice = error_hints::advice(errcode, &message, mode);
        Self::Refused { call, errcode, message, advice }
    }

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
            Self::Refused { message, .. } => rid(message),
            Self::NoToken { cause, .. } => cause.rid(),
            _ => None,
        }
    }

    /// Whether WeChat refused the token that the call was made with.
    pub fn is_bad_token(&self) -> bool {
        matches!(self, Self::Refused { errcode, .. } if wire::is_bad_token(*errcode))
    }

    /// Whether asking again shortly may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { errcode, .. } => wire::is_transient(*errcode),
            Self::Unreachable { .. } | Self::Unusable { .. } => true,
            Self::Timeout { .. } | Self::NoToken { .. } | Self::Credential(_) => false,
        }
    }

    /// What kind of answer it is, as a metric's label: few values, whatever WeChat answers.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Refused { errcode, .. } if wire::is_bad_token(*errcode) => "bad_token",
            Self::Refused { errcode, .. } if wire::is_transient(*errcode) => "busy",
            Self::Refused { errcode: 45009, .. } => "quota",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Unusable { .. } => "unusable",
            Self::Credential(_) | Self::NoToken { .. } => "no_credential",
        }
    }
}

/// Why one file of a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FileError {
    /// What WeChat said of this file alone.
    #[error("{status} {message}")]
    File {
        status: i64,
        message: String,
        /// What to change, and where.
        advice: Option<Cow<'static, str>>,
    },
    /// The call that asked for it failed as a whole.
    #[error(transparent)]
    Call(#[from] WechatError),
}

impl FileError {
    /// A refusal of one file, as WeChat worded it.
    pub(super) fn refused(status: i64, message: &str, mode: CredentialMode) -> Self {
        let message = printable(message);
        let advice = error_hints::advice(status, &message, mode);
        Self::File { status, message, advice }
    }

    /// The file does not exist, or was stored without its `x-cos-meta-fileid`.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::File { status, message, .. } => wire::is_missing(*status, message),
            Self::Call(WechatError::Refused { errcode, message, .. }) => {
                wire::is_missing(*errcode, message)
            }
            Self::Call(_) => false,
        }
    }
}

/// `rid: …` at the end of an errmsg.
fn rid(message: &str) -> Option<&str> {
    let (_, rid) = message.rsplit_once("rid: ")?;
    rid.split_whitespace().next()
}

/// Text of WeChat's, fit for a log line and a reply.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(512).collect()
}
