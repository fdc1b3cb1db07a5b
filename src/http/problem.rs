//! Every error a client can see: its code, status and text, in one exhaustive table (RFC 9457 problem documents).

use std::fmt;
use std::sync::OnceLock;

use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cos::error::CosError;
use crate::guard::auth::AuthError;
use crate::guard::limits::LimitError;
use crate::guard::links::LinkError;
use crate::guard::policy::PolicyError;
use crate::guard::types::TypeError;
use crate::inbound::error::InboundError;
use crate::key::KeyError;
use crate::server::h1::head_error::HeadError;
use crate::wechat::error::{FileError, WechatError};
use crate::wechat::error_hints;

/// WeChat rejects a path or a file id.
const INVALID_PATH: i64 = -501007;
/// WeChat's quota of a call is used up for the day.
const QUOTA: i64 = 45009;

macro_rules! codes {
    ($($variant:ident = $name:literal $status:literal $title:literal, $remedy:literal;)+) => {
        /// A kind of failure. Its name is stable: clients and metrics depend on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($variant),+ }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value of `code`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The HTTP status of the response.
            pub fn status(self) -> StatusCode {
                let status = match self { $(Self::$variant => $status),+ };
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// What the code means; the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }

            /// What to do about it, in Markdown; the `detail` of an occurrence is more exact.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy),+ }
            }
        }
    };
}

impl Code {
    /// Whether the same request may succeed when it is sent again later, with nothing changed.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::TruncatedBody
                | Self::ClientStalled
                | Self::RateLimited
                | Self::WechatUnreachable
                | Self::CosUnreachable
                | Self::IntegrityMismatch
                | Self::Overloaded
                | Self::Draining
                | Self::CredentialUnavailable
                | Self::CosBusy
                | Self::WechatTimeout
                | Self::CosTimeout
        )
    }

    /// Whether its responses have a `Retry-After`.
    pub fn has_retry_after(self) -> bool {
        matches!(self.status().as_u16(), 429 | 503)
    }

    /// Its place on the page that explains errors.
    fn url(self) -> String {
        let page = ERRORS_URL.get().map_or(REPOSITORY_ERRORS_URL, String::as_str);
        format!("{page}#{}", self.name())
    }
}

/// The page in the repository; the default of `server.errors_url`.
pub const REPOSITORY_ERRORS_URL: &str =
    concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/en/errors.md");

/// `server.errors_url`. A static, because problem documents are also made where no settings are available.
static ERRORS_URL: OnceLock<String> = OnceLock::new();

/// Sets the page that the `type` of problem documents links to. Only the first call in a process has an effect.
pub fn set_errors_url(url: &str) {
    let _ = ERRORS_URL.set(url.to_owned());
}

codes! {
    MalformedForm = "malformed_form" 400 "The form cannot be read",
        "Build the form with a library (`FormData`, `curl -F`) and let it set the Content-Type with its boundary.";
    NoFile = "no_file" 400 "The form has no file",
        "Send a part that has a file name, or is called `file` and has a Content-Type; an empty file input is no file.";
    FieldAfterFile = "field_after_file" 400 "A field that belongs before the file stands after it",
        "Append `path` and `dir` to the form before the file, or put them into the URL.";
    FileNotLast = "file_not_last" 400 "Something follows a file of unknown length",
        "Put every field before the file and send one file per request, or name the files with `[]` or add `?multiple=1`.";
    TruncatedBody = "truncated_body" 400 "The request ended before it was complete",
        "Send it again; nothing was stored. If it recurs, look for a proxy that cuts requests short.";
    LengthMismatch = "length_mismatch" 400 "The file is not as long as was announced",
        "Announce the length that is really sent; a file that changes while it is read must be sent again.";
    InvalidPath = "invalid_path" 400 "The path cannot be used",
        "Use a path without empty, `.` or `..` folders and special characters; a file id is `cloud://ENV.BUCKET/PATH`.";
    InvalidRequest = "invalid_request" 400 "The request cannot be understood",
        "Correct what `detail` names; the request's shape is in the API's description.";
    Unauthenticated = "unauthenticated" 401 "A valid key or ticket is needed",
        "Send `Authorization: Bearer …` with a key of `auth.keys` or a ticket that has not expired, or `?ticket=…`.";
    NotAllowed = "not_allowed" 403 "The key or ticket does not allow this",
        "Use a key that may do this, or add the action to the key's `can`.";
    PathNotAllowed = "path_not_allowed" 403 "The key or ticket does not allow this path",
        "Stay under the `prefix` of the key or ticket; name paths only where `client_paths` allows it.";
    OriginNotAllowed = "origin_not_allowed" 403 "The page's origin is not allowed",
        "Add the page's origin to `cors.origins`, exactly as the browser sends it.";
    FileNotFound = "file_not_found" 404 "There is no such file",
        "Check the path; a file stored without its `x-cos-meta-fileid` can only be deleted and sent again.";
    NotFound = "not_found" 404 "There is no such URL",
        "Check the URL; behind a proxy, the path that it passes on.";
    MethodNotAllowed = "method_not_allowed" 405 "The URL does not support this method",
        "Use a method that the response's `Allow` names.";
    ClientStalled = "client_stalled" 408 "The client stopped sending",
        "Send the request again over a better connection, or raise `upload.idle_timeout`.";
    LengthRequired = "length_required" 411 "The file's length cannot be known",
        "Send a Content-Length with the request or with the file's part; files of chunked requests may be as long as `upload.max_buffered_file`.";
    FileTooLarge = "file_too_large" 413 "The file is too large",
        "Send a smaller file, or raise `upload.max_file_size`.";
    TooManyFiles = "too_many_files" 413 "Too many files",
        "Send several requests, or raise `upload.max_files`; a list names at most 1000 files.";
    FieldsTooLarge = "fields_too_large" 413 "The request's fields are too large",
        "Send fewer and shorter fields; a JSON request is at most 4 MiB long.";
    NotMultipart = "not_multipart" 415 "The request is not multipart/form-data",
        "Post `multipart/form-data`, or PUT the file itself to `/v1/files/{path}`.";
    TypeNotAllowed = "type_not_allowed" 415 "Files of this type are not accepted",
        "Send another type, or allow this one in `upload.allowed_types` or in the key's `types`.";
    EncodingNotSupported = "encoding_not_supported" 415 "Compressed or encoded content is not accepted",
        "Send the request without a Content-Encoding, and files without a Content-Transfer-Encoding.";
    RateLimited = "rate_limited" 429 "Too many requests",
        "Try again after `Retry-After`; if it recurs, ask for a higher `rate`.";
    Internal = "internal" 500 "The gateway failed",
        "Look for the `request_id` in the gateway's log and report it.";
    WechatRefused = "wechat_refused" 502 "WeChat refused",
        "`detail` says what to change, and where; `errcode` and `rid` are what WeChat's support asks for.";
    WechatUnreachable = "wechat_unreachable" 502 "No usable response from WeChat",
        "Try again; if it persists, check `wechat.base_url` and the network from the gateway to WeChat.";
    LinkNotAllowed = "link_not_allowed" 502 "WeChat's upload link may not be used",
        "Add the host that `detail` names to `cos.allowed_hosts`, if it is Tencent's.";
    CosRefused = "cos_refused" 502 "COS refused the file",
        "`cos_code` says why; `cos_request_id` is what Tencent Cloud's support asks for.";
    CosUnreachable = "cos_unreachable" 502 "No response from COS",
        "Try again; what may have arrived at a generated path was deleted. If it persists, check the network to COS.";
    IntegrityMismatch = "integrity_mismatch" 502 "COS stored other bytes than were sent",
        "Send it again; the damaged object was deleted.";
    Overloaded = "overloaded" 503 "The gateway is overloaded",
        "Try again after `Retry-After`; if it recurs, raise `upload.max_concurrent`, `upload.memory_budget` or `server.max_connections`, or add replicas.";
    Draining = "draining" 503 "The gateway is shutting down",
        "Try again after `Retry-After`: another gateway, or this one after its restart, will respond.";
    CredentialUnavailable = "credential_unavailable" 503 "No access token is available",
        "Try again after `Retry-After`; if it persists, `detail` says what is wrong with the credentials.";
    CosBusy = "cos_busy" 503 "COS is busy",
        "Try again after `Retry-After`.";
    WechatTimeout = "wechat_timeout" 504 "WeChat took too long",
        "Try again; if it recurs, raise `wechat.timeout`.";
    CosTimeout = "cos_timeout" 504 "COS took too long",
        "Try again; if it recurs, raise `cos.write_timeout` or `cos.reply_timeout`.";
}

/// A failure, as the client sees it.
#[derive(Debug, Clone)]
pub struct Problem {
    pub code: Code,
    /// What happened and what to do, for the person who can do it.
    pub detail: String,
    /// In seconds.
    pub retry_after: Option<u64>,
    /// What WeChat or COS said, if one of them refused.
    pub upstream: Option<Box<Upstream>>,
}

/// Identifies a failure towards the support of WeChat or COS.
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
    /// What happened and what to do, for the person who can do it.
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

    fn retry_after(mut self, seconds: u64) -> Self {
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
            E::LengthMismatch { .. } => Code::LengthMismatch,
            E::LengthRequired => Code::LengthRequired,
            E::FieldsTooLarge { .. } | E::FieldTooLarge { .. } | E::HeadTooLarge(_) => {
                Code::FieldsTooLarge
            }
            E::TooManyFiles(_) => Code::TooManyFiles,
            E::FileTooLarge(_) => Code::FileTooLarge,
            E::Stalled(_) => Code::ClientStalled,
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
            E::DigestMismatch { .. } => {
                "; nothing was stored: the file changed while it was read, or was damaged on its way; send it again"
            }
            _ => "",
        };
        let problem = Self::new(code, format!("{error}{advice}"));
        if code == Code::Overloaded { problem.retry_after(5) } else { problem }
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
            AuthError::Ticket(_) => "get a new ticket",
            AuthError::KeyInUrl | AuthError::Missing | AuthError::Scheme | AuthError::Unknown => {
                "send `Authorization: Bearer KEY`"
            }
        };
        Self::new(Code::Unauthenticated, format!("{error}; {advice}"))
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

impl From<LimitError> for Problem {
    fn from(error: LimitError) -> Self {
        let (code, seconds) = match error {
            LimitError::Overloaded(_) => (Code::Overloaded, 1),
            LimitError::ClientBusy(_) => (Code::RateLimited, 1),
            LimitError::TooFast { retry_after } => {
                (Code::RateLimited, retry_after.as_secs_f64().ceil() as u64)
            }
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
            WechatError::Refused { .. } => Self::new(Code::WechatRefused, error.to_string()),
            WechatError::Unreachable { .. } | WechatError::Unusable { .. } => {
                Self::new(Code::WechatUnreachable, error.to_string())
            }
            WechatError::NoCredential(_) => {
                Self::new(Code::CredentialUnavailable, error.to_string()).retry_after(10)
            }
            WechatError::Timeout { .. } => Self::new(Code::WechatTimeout, error.to_string()),
            WechatError::NoToken { retry_after, .. } => {
                let seconds = retry_after.as_secs_f64().ceil() as u64;
                Self::new(Code::CredentialUnavailable, error.to_string()).retry_after(seconds)
            }
        };
        // The quota is refilled at midnight; an earlier retry fails again.
        if errcode == Some(QUOTA) {
            problem = problem.retry_after(error_hints::seconds_until_midnight(Timestamp::now()));
        }
        if errcode.is_some() {
            problem.upstream = Some(Box::new(Upstream { errcode, rid, ..Upstream::default() }));
        }
        problem
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Call(error) => error.into(),
            FileError::File { status, message, hint } => {
                Self::wechat_file(status, &message, hint.as_deref(), "the file")
            }
        }
    }
}

impl Problem {
    /// WeChat refused one file of a batch call.
    pub fn wechat_file(status: i64, message: &str, hint: Option<&str>, file: &str) -> Self {
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
                "something follows the file, so the length that was inferred for the file is wrong; put every field \
                 before the file, send one file per request, or name the files with `[]` (or add ?multiple=1) so that \
                 each is buffered until it is complete",
            ),
            CosError::LengthMismatch { declared, got } => {
                InboundError::LengthMismatch { declared, got }.into()
            }
            CosError::Link(_) => Self::new(Code::LinkNotAllowed, error.to_string()),
            CosError::Unreachable(_) | CosError::NoVerdict(_) => {
                Self::new(Code::CosUnreachable, error.to_string())
            }
            CosError::Timeout { .. } => Self::new(Code::CosTimeout, error.to_string()),
            CosError::Refused { status: 503, .. } => {
                Self::cos(Code::CosBusy, &error).retry_after(5)
            }
            CosError::Refused { .. } => Self::cos(Code::CosRefused, &error),
            CosError::Integrity { .. } => Self::new(Code::IntegrityMismatch, error.to_string()),
        }
    }
}

impl Problem {
    fn cos(code: Code, error: &CosError) -> Self {
        let mut problem = Self::new(code, error.to_string());
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
