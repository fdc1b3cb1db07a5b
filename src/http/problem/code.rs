//! The codes: the one exhaustive table from a code to its status, its title and what to do about it.

use std::sync::OnceLock;

use actix_web::http::StatusCode;

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

codes! {
    MalformedForm = "malformed_form" 400 "The form cannot be read",
        "Build the form with a library (`FormData`, `curl -F`) and let it set the Content-Type with its boundary.";
    NoFile = "no_file" 400 "The form has no file",
        "Send a part that has a file name, or is called `file` and has a Content-Type; an empty file input does not count.";
    FieldAfterFile = "field_after_file" 400 "A field that must come before the file comes after it",
        "Append `path` and `dir` to the form before the file, or pass them in the URL.";
    FileNotLast = "file_not_last" 400 "Something follows a file of unknown length",
        "Put every field before the file and send one file per request, or name the files with `[]` or add `?multiple=1`. The operator can raise `upload.replay_window_max` and `upload.memory_budget`, so that larger files are sent again from memory, or set `cos.via = \"api\"`, which needs no length.";
    TruncatedBody = "truncated_body" 400 "The request ended before it was complete",
        "Send it again; nothing was stored. If it recurs, look for a proxy that cuts requests short.";
    LengthMismatch = "length_mismatch" 400 "The file's length differs from the announced one",
        "Announce the length that you actually send; if the file changed while it was read, send it again.";
    InvalidPath = "invalid_path" 400 "The path cannot be used",
        "Use a path without special characters and without empty, `.` or `..` folders, outside the gateway's own folder `.resumable`; a file id has the form `cloud://ENV.BUCKET/PATH`.";
    InvalidRequest = "invalid_request" 400 "The request cannot be understood",
        "Correct what `detail` names; the API description defines the request's format.";
    Unauthenticated = "unauthenticated" 401 "A valid key or ticket is needed",
        "Send `Authorization: Bearer …` with a key of `auth.keys` or a ticket that has not expired, or `?ticket=…`.";
    NotAllowed = "not_allowed" 403 "The key or ticket does not allow this",
        "Use a key with this permission, or add the action to the key's `can`.";
    PathNotAllowed = "path_not_allowed" 403 "The key or ticket does not allow this path",
        "Use a path under the `prefix` of the key or ticket; choose paths yourself only if `client_paths` allows it.";
    OriginNotAllowed = "origin_not_allowed" 403 "The page's origin is not allowed",
        "Add the page's origin to `cors.origins`, exactly as the browser sends it.";
    FileNotFound = "file_not_found" 404 "There is no such file",
        "Check the path; a file stored without its `x-cos-meta-fileid` can only be deleted and uploaded again.";
    UploadNotFound = "upload_not_found" 404 "There is no such upload",
        "Create a new upload: this one has expired, was deleted or belongs to another client, or its URL is from a gateway with other `resumable.keys`.";
    NotFound = "not_found" 404 "There is no such URL",
        "Check the URL; behind a proxy, check the path that it forwards.";
    MethodNotAllowed = "method_not_allowed" 405 "The URL does not support this method",
        "Use a method that is listed in the response's `Allow`.";
    OffsetMismatch = "offset_mismatch" 409 "The upload is at another offset",
        "Ask for the offset with HEAD and send the rest from there; clients of tus do so by themselves.";
    TusVersion = "tus_version" 412 "This version of tus is not supported",
        "Send `Tus-Resumable: 1.0.0`.";
    ClientStalled = "client_stalled" 408 "The client stopped sending",
        "Send the request again over a better connection, or raise `upload.idle_timeout`.";
    ClientTooSlow = "client_too_slow" 408 "The client sends too slowly",
        "Send it over a faster connection, or as a resumable upload (`/v1/uploads`), which keeps what arrived. The operator can lower `upload.min_rate`.";
    UploadTooSlow = "upload_too_slow" 408 "The upload took too long for COS",
        "Send the file again over a faster connection, or a smaller one. The operator can raise `upload.max_buffered_file` and `upload.memory_budget`, so that slow uploads are buffered first, or set `cos.via = \"api\"`, which sends files in parts.";
    LengthRequired = "length_required" 411 "The file's length cannot be determined",
        "Send a Content-Length with the request or with the file's part; in chunked requests, files may have at most `upload.max_buffered_file`.";
    FileTooLarge = "file_too_large" 413 "The file is too large",
        "Send a smaller file, or raise `upload.max_file_size`. For resumable uploads, `Tus-Max-Size` may be less: send the file in one request.";
    TooManyFiles = "too_many_files" 413 "Too many files",
        "Send several requests, or raise `upload.max_files`; a list names at most 1000 files.";
    FieldsTooLarge = "fields_too_large" 413 "The request's fields are too large",
        "Send fewer and shorter fields; a JSON request is at most 4 MiB long.";
    TotalQuotaExceeded = "total_quota_exceeded" 413 "The quota is used up",
        "Ask the operator for more: the limits are those of `quota.NAME`. Deleting files does not give anything back by itself.";
    NotMultipart = "not_multipart" 415 "The request is not multipart/form-data",
        "Post `multipart/form-data`, or PUT the file itself to `/v1/files/{path}`.";
    NotOffsetStream = "not_offset_stream" 415 "The request's type is not application/offset+octet-stream",
        "Send `Content-Type: application/offset+octet-stream` with the bytes of an upload.";
    TypeNotAllowed = "type_not_allowed" 415 "Files of this type are not accepted",
        "Send another type, or allow this one in `upload.allowed_types` or in the key's `types`.";
    EncodingNotSupported = "encoding_not_supported" 415 "Compressed or encoded content is not accepted",
        "Send the request without a Content-Encoding, and files without a Content-Transfer-Encoding.";
    RefusedByHook = "refused_by_hook" 422 "The back end refused the file",
        "Send a file that the back end accepts; `detail` is what it says. The file was deleted.";
    Superseded = "superseded" 423 "Another request continues this upload",
        "Nothing, if it is your own: clients send again what was lost. Otherwise ask for the offset with HEAD.";
    OffsetUnavailable = "offset_unavailable" 423 "The offset of the upload cannot be told now",
        "Ask again after `Retry-After`; clients of tus do so by themselves. What arrived is stored. The log has the cause.";
    RateLimited = "rate_limited" 429 "Too many requests",
        "Try again after `Retry-After`; if it recurs, ask for a higher `rate`.";
    DailyQuotaExceeded = "daily_quota_exceeded" 429 "The day's quota is used up",
        "Try again after `Retry-After`, when the day ends at midnight in China; `RateLimit` tells what is left. The operator can raise the limits of `quota.NAME`.";
    ChecksumMismatch = "checksum_mismatch" 460 "The bytes have another checksum than the request says",
        "Send them again; none of them were stored.";
    Internal = "internal" 500 "The gateway failed",
        "Look for the `request_id` in the gateway's log and report it.";
    WechatRefused = "wechat_refused" 502 "WeChat refused the request",
        "`detail` says what to change, and where; give `errcode` and `rid` to WeChat's support.";
    WechatUnreachable = "wechat_unreachable" 502 "No usable response from WeChat",
        "Try again; if it persists, check `wechat.base_url` and the network from the gateway to WeChat.";
    LinkNotAllowed = "link_not_allowed" 502 "WeChat's upload link is not allowed",
        "Add the host that `detail` names to `cos.allowed_hosts`, if that host belongs to Tencent.";
    CosRefused = "cos_refused" 502 "COS refused the file",
        "`cos_code` says why; give `cos_request_id` to Tencent Cloud's support.";
    CosUnreachable = "cos_unreachable" 502 "No response from COS",
        "Try again; anything that may have been stored at a generated path was deleted. If it persists, check the network to COS.";
    IntegrityMismatch = "integrity_mismatch" 502 "COS did not store the bytes that were sent",
        "Send it again; the damaged object was deleted.";
    Overloaded = "overloaded" 503 "The gateway is overloaded",
        "Try again after `Retry-After`; if it recurs, raise `upload.max_concurrent`, `upload.memory_budget` or `server.max_connections`, or add replicas.";
    UploadInterrupted = "upload_interrupted" 503 "The request ended early",
        "Ask for the offset with HEAD and send the rest from there; clients of tus do so by themselves. What arrived is stored.";
    Draining = "draining" 503 "The gateway is shutting down",
        "Try again after `Retry-After`: another gateway, or this one after its restart, will respond.";
    CredentialUnavailable = "credential_unavailable" 503 "Credentials cannot be obtained or checked now",
        "Try again after `Retry-After`; if it persists, `detail` says what is wrong with the credentials for WeChat or COS, or that the server of `auth.forward_url` or `auth.jwt.jwks_url` gives no usable response; the log has the cause.";
    CosBusy = "cos_busy" 503 "COS is busy",
        "Try again after `Retry-After`.";
    WechatTimeout = "wechat_timeout" 504 "WeChat took too long",
        "Try again; if it recurs, raise `wechat.timeout`.";
    CosTimeout = "cos_timeout" 504 "COS took too long",
        "Try again; if it recurs, raise `cos.write_timeout` or `cos.reply_timeout`.";
}

impl Code {
    /// Whether the same request may succeed when it is sent again later, with nothing changed.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::TruncatedBody
                | Self::ClientStalled
                | Self::ClientTooSlow
                | Self::UploadTooSlow
                | Self::OffsetMismatch
                | Self::Superseded
                | Self::OffsetUnavailable
                | Self::ChecksumMismatch
                | Self::RateLimited
                | Self::DailyQuotaExceeded
                | Self::WechatUnreachable
                | Self::CosUnreachable
                | Self::IntegrityMismatch
                | Self::Overloaded
                | Self::UploadInterrupted
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
    pub(super) fn url(self) -> String {
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
