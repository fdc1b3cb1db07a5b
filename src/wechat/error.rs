//! How a call to WeChat, or one file of a call, fails.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::{error_hints, wire};
use crate::settings::CredentialMode;

/// Why a call has no usable result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WechatError {
    /// WeChat's response is an error code. `message` is WeChat's, without control characters.
    #[error("WeChat refused `{call}`: {errcode} {message}{}", parenthesized(.hint))]
    Refused {
        call: &'static str,
        errcode: i64,
        message: String,
        /// What to change, and where ([`error_hints::hint`]).
        hint: Option<Cow<'static, str>>,
        /// How long to wait before the next attempt; only where the quota of the call is used up.
        retry_after: Option<Duration>,
    },
    #[error("WeChat could not be reached for `{call}`: {cause}")]
    Unreachable { call: &'static str, cause: String },
    #[error("WeChat took longer than {limit:?} for `{call}`")]
    Timeout { call: &'static str, limit: Duration },
    /// The response is not what WeChat's documentation promises for the call.
    #[error("WeChat's response to `{call}` cannot be used: {cause}")]
    Unusable { call: &'static str, cause: &'static str },
    /// The gateway has nothing to authenticate with, or WeChat refuses all of it. The text says why.
    #[error("{0}")]
    NoCredential(String),
    /// No access token is available; the next fetch is after `retry_after`.
    #[error("no access token: {cause}")]
    NoToken { cause: Arc<WechatError>, retry_after: Duration },
}

fn parenthesized(hint: &Option<Cow<'static, str>>) -> String {
    hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"))
}

impl WechatError {
    /// A refusal; `message` as WeChat sent it.
    pub(super) fn refused(
        call: &'static str,
        errcode: i64,
        message: &str,
        mode: CredentialMode,
    ) -> Self {
        let message = printable(message);
        let hint = error_hints::hint(errcode, &message, mode);
        Self::Refused { call, errcode, message, hint, retry_after: None }
    }

    /// WeChat's error code, also when it is the cause of [`WechatError::NoToken`].
    pub fn errcode(&self) -> Option<i64> {
        match self {
            Self::Refused { errcode, .. } => Some(*errcode),
            Self::NoToken { cause, .. } => cause.errcode(),
            _ => None,
        }
    }

    /// WeChat's request id, which WeChat's support asks for: `rid: …` at the end of an errmsg.
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

    /// Whether a retry after a short pause may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { errcode, .. } => wire::max_attempts(*errcode) > 1,
            Self::Unreachable { .. } | Self::Unusable { .. } => true,
            Self::Timeout { .. } | Self::NoToken { .. } | Self::NoCredential(_) => false,
        }
    }

    /// How often, in all, a call that fails in this way is attempted.
    pub fn max_attempts(&self) -> u32 {
        match self {
            Self::Refused { errcode, .. } => wire::max_attempts(*errcode),
            _ if self.is_transient() => wire::MAX_ATTEMPTS,
            _ => 1,
        }
    }

    /// The metric label of the outcome: a small fixed set, whatever WeChat responds.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Refused { errcode, .. } if wire::is_bad_token(*errcode) => "bad_token",
            Self::Refused { errcode, .. } if wire::is_quota(*errcode) => "quota",
            Self::Refused { .. } if self.is_transient() => "busy",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Unusable { .. } => "unusable",
            Self::NoCredential(_) | Self::NoToken { .. } => "no_credential",
        }
    }
}

/// Why a call has no result for one file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FileError {
    /// WeChat's status and message for this file alone.
    #[error("{status} {message}")]
    File {
        status: i64,
        message: String,
        /// What to change, and where.
        hint: Option<Cow<'static, str>>,
    },
    /// The call failed as a whole.
    #[error(transparent)]
    Call(#[from] WechatError),
}

impl FileError {
    /// A refusal of one file, as WeChat worded it.
    pub(super) fn refused(status: i64, message: &str, mode: CredentialMode) -> Self {
        let message = printable(message);
        let hint = error_hints::hint(status, &message, mode);
        Self::File { status, message, hint }
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

/// WeChat's text, made safe for log lines and responses: without control characters, at most 512 characters.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(512).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_retried_as_often_as_it_is_worth() {
        let refused = |code| WechatError::refused("uploadfile", code, "", CredentialMode::Stable);
        let transient = [-1, -1000, 45011, -501001, -501002, -501004, 85113];
        let back_end = [-601001, -601003];
        let quota = [45009, -501003, -501015, -501016, -501017];
        let refusals = [
            40013, -501000, -501007, -501009, -501018, -501019, -501020, -501021, -503001, -503002,
            -601002, 1,
        ];
        for (codes, attempts, class) in [
            (&transient[..], 3, "busy"),
            (&back_end, 2, "busy"),
            (&quota, 1, "quota"),
            (&refusals, 1, "refused"),
        ] {
            for code in codes {
                let error = refused(*code);
                assert_eq!((error.max_attempts(), error.class()), (attempts, class), "{code}");
                assert_eq!(error.is_transient(), attempts > 1, "{code}");
            }
        }
    }

    #[test]
    fn one_files_error_is_explained_for_the_mode_in_use() {
        let hint = |mode| match FileError::refused(40001, "invalid credential\n", mode) {
            FileError::File { status: 40001, message, hint: Some(hint) } => {
                assert_eq!(message, "invalid credential");
                hint
            }
            other => panic!("{other:?}"),
        };
        for mode in CredentialMode::ALL {
            assert_eq!(hint(*mode), error_hints::bad_token(*mode), "{mode:?}");
        }
        assert_ne!(hint(CredentialMode::Secret), hint(CredentialMode::Stable));
    }
}
