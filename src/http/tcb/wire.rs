//! Requests and responses of `/tcb/*` and of the token endpoints, as in WeChat's documents.
//!
//! The types of requests only describe them: WeChat reports errors field by field with its own codes, so requests are
//! parsed as JSON values.

use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

/// A successful response, or WeChat's error; always with HTTP 200.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum TcbResponse<T> {
    Success(T),
    Failed(Failed),
}

/// A call that failed as a whole.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// WeChat's error code; for what the gateway itself refuses, the nearest one.
    pub errcode: i64,
    pub errmsg: String,
}

#[derive(ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a description")]
pub struct TokenRequest {
    /// `client_credential`
    grant_type: String,
    /// Any.
    appid: String,
    /// An API key of the gateway.
    secret: String,
}

#[derive(Serialize, ToSchema)]
pub struct TokenReply<'a> {
    pub access_token: &'a str,
    /// Seconds.
    pub expires_in: u32,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "a description")]
pub struct UploadFileRequest {
    /// The cloud environment; the gateway's own when it is missing.
    env: Option<String>,
    /// The object's path.
    #[schema(min_length = 1)]
    path: String,
}

#[derive(Serialize, ToSchema)]
pub struct UploadFileReply<'a> {
    /// 0
    pub errcode: i64,
    pub errmsg: &'static str,
    /// The URL to which the form is posted.
    pub url: &'a str,
    /// The form's `x-cos-security-token`.
    pub token: &'a str,
    /// The form's `Signature`.
    pub authorization: &'a str,
    /// The file's id once it is stored.
    pub file_id: &'a str,
    /// The form's `x-cos-meta-fileid`.
    pub cos_file_id: &'a str,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "a description")]
pub struct BatchDownloadRequest {
    /// The cloud environment; the gateway's own when it is missing.
    env: Option<String>,
    #[schema(min_items = 1, max_items = 1000)]
    file_list: Vec<WantedFile>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "a description")]
pub struct WantedFile {
    #[schema(min_length = 1)]
    fileid: String,
    /// Lifetime of the link in seconds.
    #[schema(minimum = 1, maximum = 4_294_967_295_u32)]
    max_age: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub struct BatchDownloadReply<'a> {
    /// 0
    pub errcode: i64,
    pub errmsg: &'static str,
    pub file_list: Vec<LinkedFile<'a>>,
}

#[derive(Serialize, ToSchema)]
pub struct LinkedFile<'a> {
    pub fileid: &'a str,
    /// Empty if there is none.
    pub download_url: String,
    /// 0, or the file's own error code.
    pub status: i64,
    pub errmsg: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "a description")]
pub struct BatchDeleteRequest {
    /// The cloud environment; the gateway's own when it is missing.
    env: Option<String>,
    #[schema(min_items = 1, max_items = 1000)]
    fileid_list: Vec<String>,
}

#[derive(Serialize, ToSchema)]
pub struct BatchDeleteReply<'a> {
    /// 0
    pub errcode: i64,
    pub errmsg: &'static str,
    pub delete_list: Vec<DeletedFile<'a>>,
}

#[derive(Serialize, ToSchema)]
pub struct DeletedFile<'a> {
    pub fileid: &'a str,
    /// 0, or the file's own error code.
    pub status: i64,
    pub errmsg: String,
}

/// `errmsg` of a success.
pub const OK: &str = "ok";

/// A file's `status` and `errmsg`.
pub type Status = (i64, String);
