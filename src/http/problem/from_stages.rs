//! What each stage's errors are to the client: code, detail with advice, `Retry-After`.

use std::time::Duration;

use super::{Code, Problem, Upstream};
use crate::cos::error::CosError;
use crate::guard::auth::AuthError;
use crate::guard::forward_auth::response::Refusal;
use crate::guard::forward_auth::server::ForwardError;
use crate::guard::jwks::JwksError;
use crate::guard::limits::LimitError;
use crate::guard::links::LinkError;
use crate::guard::minting::MintError;
use crate::guard::policy::PolicyError;
use crate::guard::types::TypeError;
use crate::inbound::error::InboundError;
use crate::key::KeyError;
use crate::server::h1::head_error::HeadError;
use crate::spool::SpoolError;
use crate::wechat::error::{FileError, WechatError};

/// For `Retry-After`: rounded up, since an earlier attempt would fail again.
fn whole_seconds(pause: Duration) -> u64 {
    pause.as_secs() + u64::from(pause.subsec_nanos() > 0)
}

impl From<InboundError> for Problem {
    fn from(error: InboundError) -> Self {
        use InboundError as E;
        let code = match &error {
            E::NotMultipart(_) => Code::NotMultipart,
            E::Encoding(_) | E::PartEncoding { .. } => Code::EncodingNotSupported,
            E::Boundary(_)
            | E::BoundaryNotFound { .. }
            | E::EmptyBody
            | E::FieldEncoding { .. }
            | E::Malformed(_)
            | E::Head { .. }
            | E::LineFeeds => Code::MalformedForm,
            E::NoFile | E::TextForFile { .. } | E::MediaWithoutName { .. } => Code::NoFile,
            E::FilePiece { .. } => Code::InvalidRequest,
            E::FieldAfterFile(_) => Code::FieldAfterFile,
            E::Truncated | E::Unclosed(_) => Code::TruncatedBody,
            E::Superseded => Code::Superseded,
            E::Draining => Code::Draining,
            E::LengthMismatch { .. } => Code::LengthMismatch,
            E::LengthRequired => Code::LengthRequired,
            E::FieldsTooLarge { .. } | E::FieldTooLarge { .. } | E::HeadTooLarge(_) => {
                Code::FieldsTooLarge
            }
            E::TooManyFiles(_) => Code::TooManyFiles,
            E::FileTooLarge(_) => Code::FileTooLarge,
            E::Stalled(_) => Code::ClientStalled,
            E::TooSlow(_) => Code::ClientTooSlow,
            E::OutOfMemory => Code::Overloaded,
            E::Digest(_) | E::DigestMismatch { .. } => Code::InvalidRequest,
        };
        let advice = match &error {
            E::NotMultipart(_) => {
                "; post a form with a file, or PUT the file itself to /v1/files/{path}"
            }
            E::Boundary(_) | E::BoundaryNotFound { .. } => {
                "; this happens where the Content-Type is set by hand: leave it out, and the client (fetch, axios, a \
                 form library) writes it with the boundary of the form that it sends"
            }
            E::EmptyBody => {
                "; append the file to the form, and send that form as the request's body"
            }
            E::Encoding(_) => "; send it without an encoding",
            E::PartEncoding { .. } => {
                "; send the file's bytes as they are (`binary`), without this header"
            }
            E::LineFeeds => {
                " (RFC 2046): write `\\r\\n` after each boundary and header, and before each boundary"
            }
            E::NoFile => {
                "; a part is a file if it has a filename, or if it is called `file` and has a Content-Type; an empty \
                 file input is not a file"
            }
            E::TextForFile { .. } => {
                ": the page appended text and no File. Append the File or Blob itself (`input.files[0]`), or give the \
                 part a filename"
            }
            E::MediaWithoutName { .. } | E::FieldTooLarge { .. } => {
                "; if it is a file, send it with one: `Content-Disposition: form-data; name=\"…\"; filename=\"…\"`"
            }
            E::FilePiece { remedy, .. } => {
                let detail = format!(
                    "{error}; it would be stored as if it were the whole file: switch chunking off ({remedy})"
                );
                return Self::new(code, detail);
            }
            E::FieldAfterFile(_) => "; append it to the form before the file",
            E::LengthRequired => {
                "; send a Content-Length with the request or with the file's part, or a smaller file"
            }
            E::OutOfMemory => "; send a Content-Length, or try again later",
            E::Truncated | E::Unclosed(_) => "; nothing was stored",
            E::TooSlow(_) => "; send it over a faster connection, or as a resumable upload",
            E::DigestMismatch { .. } => {
                "; nothing was stored: the file changed while it was read, or was damaged on its way; send it again"
            }
            _ => "",
        };
        let problem = Self::new(code, format!("{error}{advice}"));
        match code {
            Code::Overloaded => problem.retry_after(5),
            Code::Draining => problem.retry_after(1),
            _ => problem,
        }
    }
}

impl From<HeadError> for Problem {
    fn from(error: HeadError) -> Self {
        use HeadError as E;
        let code = match &error {
            E::NotHttp | E::RequestLine | E::Version | E::TargetForm => Code::InvalidRequest,
            E::Target(..) | E::TargetEncoding => Code::InvalidRequest,
            E::FoldedField(_) | E::Field(_) | E::Host => Code::InvalidRequest,
            E::Length | E::TwoFramings | E::TransferEncoding => Code::InvalidRequest,
            E::Connect => Code::MethodNotAllowed,
            E::TooManyFields | E::TooLong | E::TargetTooLong => Code::FieldsTooLarge,
            E::LengthRequired => Code::LengthRequired,
            E::TimedOut(_) => Code::ClientStalled,
        };
        Self::new(code, error.to_string())
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        Self::new(Code::InvalidPath, error.to_string())
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        let advice = match error {
            AuthError::OutOfScope(error) => return error.into(),
            AuthError::Jwks(error) => return error.into(),
            AuthError::Ticket(_) => "get a new ticket",
            AuthError::KeyInUrl | AuthError::Missing | AuthError::Scheme | AuthError::Unknown => {
                "send `Authorization: Bearer KEY`"
            }
        };
        Self::new(Code::Unauthenticated, format!("{error}; {advice}"))
    }
}

impl From<JwksError> for Problem {
    fn from(error: JwksError) -> Self {
        let pause = match error {
            JwksError::NotFetched { .. } => Duration::from_secs(5),
            JwksError::Unavailable { retry_after } => retry_after,
        };
        let detail = "the issuer's keys, which tickets are verified with, cannot be fetched now; this is no fault of the \
                      request; try again later";
        Self::new(Code::CredentialUnavailable, detail).retry_after(whole_seconds(pause).max(1))
    }
}

impl From<MintError> for Problem {
    fn from(error: MintError) -> Self {
        let code = match error {
            MintError::User | MintError::Lifetime(_) | MintError::TooLong => Code::InvalidRequest,
            MintError::Beyond { .. } | MintError::Nothing(_) => Code::NotAllowed,
            MintError::Policy(error) => return error.into(),
        };
        Self::new(code, error.to_string())
    }
}

impl From<ForwardError> for Problem {
    fn from(error: ForwardError) -> Self {
        let Refusal { is_forbidden, detail } = match error {
            ForwardError::Refused(refusal) => refusal,
            ForwardError::Unavailable => {
                let detail = "the auth server that decides about this request cannot be asked now; this is no fault of \
                              the request; try again later";
                return Self::new(Code::CredentialUnavailable, detail).retry_after(5);
            }
        };
        let (code, otherwise) = match is_forbidden {
            true => (Code::NotAllowed, "the auth server does not allow this"),
            false => (Code::Unauthenticated, "the auth server does not know this session; log in"),
        };
        Self::new(code, detail.unwrap_or_else(|| otherwise.to_owned()))
    }
}

impl From<PolicyError> for Problem {
    fn from(error: PolicyError) -> Self {
        let code = match &error {
            PolicyError::Action { .. } | PolicyError::LinkBypassesLimits { .. } => Code::NotAllowed,
            PolicyError::Paths { .. }
            | PolicyError::Outside { .. }
            | PolicyError::OtherPath { .. } => Code::PathNotAllowed,
            PolicyError::NoFiles { .. } => Code::TooManyFiles,
            PolicyError::Key(_) => Code::InvalidPath,
        };
        Self::new(code, error.to_string())
    }
}

impl From<SpoolError> for Problem {
    fn from(error: SpoolError) -> Self {
        match &error {
            SpoolError::Full => {
                Self::new(Code::Overloaded, format!("{error}; try again later")).retry_after(5)
            }
            SpoolError::Io(_) => Self::new(Code::Internal, error.to_string()),
        }
    }
}

impl From<LimitError> for Problem {
    fn from(error: LimitError) -> Self {
        let (code, seconds) = match error {
            LimitError::Overloaded(_) => (Code::Overloaded, 1),
            LimitError::ClientBusy(_) => (Code::RateLimited, 1),
            LimitError::TooFast { retry_after } => (Code::RateLimited, whole_seconds(retry_after)),
        };
        Self::new(code, format!("{error}; try again later")).retry_after(seconds)
    }
}

impl From<TypeError> for Problem {
    fn from(error: TypeError) -> Self {
        Self::new(Code::TypeNotAllowed, error.to_string())
    }
}

impl From<LinkError> for Problem {
    fn from(error: LinkError) -> Self {
        Self::new(
            Code::NotAllowed,
            format!("{error}; get a new link from the page or service that gave you this one"),
        )
    }
}

impl From<WechatError> for Problem {
    fn from(error: WechatError) -> Self {
        let (errcode, rid) = (error.errcode(), error.rid().map(ToOwned::to_owned));
        let mut problem = match &error {
            WechatError::Refused { retry_after, .. } => {
                let problem = Self::new(Code::WechatRefused, error.to_string());
                match retry_after {
                    Some(pause) => problem.retry_after(whole_seconds(*pause)),
                    None => problem,
                }
            }
            WechatError::Unreachable { .. } | WechatError::Unusable { .. } => {
                Self::new(Code::WechatUnreachable, error.to_string())
            }
            WechatError::NoCredential(_) => {
                Self::new(Code::CredentialUnavailable, error.to_string()).retry_after(10)
            }
            WechatError::Timeout { .. } => Self::new(Code::WechatTimeout, error.to_string()),
            WechatError::NoToken { retry_after, .. } => {
                let seconds = whole_seconds(*retry_after);
                Self::new(Code::CredentialUnavailable, error.to_string()).retry_after(seconds)
            }
        };
        if errcode.is_some() {
            problem.upstream = Some(Box::new(Upstream { errcode, rid, ..Upstream::default() }));
        }
        problem
    }
}

impl Problem {
    /// The failure of one file of a call to WeChat; `file` is its path or id.
    pub fn of_file(error: &FileError, file: &str) -> Self {
        match error {
            missing if missing.is_missing() => Self::missing_file(file),
            FileError::File { status, message, hint } => {
                Self::wechat_file(*status, message, hint.as_deref(), file)
            }
            FileError::Call(error) => error.clone().into(),
        }
    }

    pub fn missing_file(file: &str) -> Self {
        Self::new(
            Code::FileNotFound,
            format!(
                "`{file}` does not exist, or was stored without its x-cos-meta-fileid: such a file can never be \
                 downloaded, only deleted and sent again"
            ),
        )
    }

    /// WeChat refused one file of a batch call.
    fn wechat_file(status: i64, message: &str, hint: Option<&str>, file: &str) -> Self {
        let hint = hint.map_or_else(String::new, |hint| format!(" ({hint})"));
        let detail = format!("WeChat refused `{file}`: {status} {message}{hint}");
        let mut problem = Self::new(Code::WechatRefused, detail);
        problem.upstream =
            Some(Box::new(Upstream { errcode: Some(status), ..Upstream::default() }));
        problem
    }
}

impl From<CosError> for Problem {
    fn from(error: CosError) -> Self {
        match error {
            CosError::Source(cause) => match cause.downcast::<InboundError>() {
                Ok(inbound) => (*inbound).into(),
                Err(_) => Self::new(Code::Internal, "reading the file failed"),
            },
            CosError::NotLast { .. } => Self::new(
                Code::FileNotLast,
                "something follows the file, so the length that was inferred for the file is wrong, and the file is not \
                 in memory to be sent again; put every field before the file, send one file per request, or name the \
                 files with `[]` (or add ?multiple=1) so that each is buffered until it is complete. The operator can \
                 retain more of each file (upload.replay_window_max, upload.memory_budget), or set cos.via = \"api\", \
                 which needs no length",
            ),
            CosError::OutOfMemory => InboundError::OutOfMemory.into(),
            CosError::SlowClient => Self::new(Code::UploadTooSlow, error.to_string()),
            CosError::LengthMismatch { declared, got } => {
                InboundError::LengthMismatch { declared, got }.into()
            }
            CosError::Link(_) => Self::new(Code::LinkNotAllowed, error.to_string()),
            CosError::Unreachable(_) | CosError::NoVerdict(_) => {
                Self::new(Code::CosUnreachable, error.to_string())
            }
            CosError::Timeout { .. } => Self::new(Code::CosTimeout, error.to_string()),
            CosError::Refused { status: 503, .. } => {
                Self::cos(Code::CosBusy, &error.to_string(), &error).retry_after(5)
            }
            CosError::Refused { .. } if error.is_too_slow() => Self::cos(
                Code::UploadTooSlow,
                "COS takes no upload that lasts longer than about 200 s, and says so after the last byte; nothing was \
                 stored. Send it again over a faster connection, or a smaller file; the operator can buffer larger \
                 files of slow clients (upload.max_buffered_file, upload.memory_budget) or set cos.via = \"api\"",
                &error,
            ),
            CosError::Refused { .. } => Self::cos(Code::CosRefused, &error.to_string(), &error),
            CosError::Integrity { .. } => Self::new(Code::IntegrityMismatch, error.to_string()),
            CosError::Keys { retry_after, .. } => {
                Self::new(Code::CredentialUnavailable, error.to_string())
                    .retry_after(whole_seconds(retry_after))
            }
        }
    }
}

impl Problem {
    fn cos(code: Code, detail: &str, error: &CosError) -> Self {
        let mut problem = Self::new(code, detail.to_owned());
        if let CosError::Refused { code, request_id, .. } = error {
            problem.upstream = Some(Box::new(Upstream {
                cos_code: Some(code.clone()).filter(|code| !code.is_empty()),
                cos_request_id: request_id.clone(),
                ..Upstream::default()
            }));
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cos::api::getauth::GetAuthError;

    #[test]
    fn a_pause_is_rounded_up_and_never_zero() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (9900, 10), (60_000, 60)] {
            let retry_after = Duration::from_millis(millis);
            let keys = CosError::Keys { cause: GetAuthError::Unusable("none"), retry_after };
            let limit = LimitError::TooFast { retry_after };
            for problem in [Problem::from(keys), limit.into()] {
                assert_eq!(problem.retry_after, Some(seconds), "{millis} ms, {problem}");
            }
        }
    }
}
