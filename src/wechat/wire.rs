//! The JSON objects of WeChat's requests and responses, and the classes of its error codes.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{call_quota, lenient};

/// The fields that every response has, and a refusal has nothing else. `errcode` may be missing from a successful one.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ErrorFields {
    #[serde(default, deserialize_with = "lenient::number")]
    pub errcode: i64,
    #[serde(default, deserialize_with = "lenient::text")]
    pub errmsg: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct TokenReply {
    pub access_token: SecretString,
    /// Seconds.
    #[serde(deserialize_with = "lenient::seconds")]
    pub expires_in: u64,
}

#[derive(Serialize)]
pub(super) struct StableTokenRequest<'a> {
    pub grant_type: &'static str,
    pub appid: &'a str,
    pub secret: &'a str,
    pub force_refresh: bool,
}

/// `POST /cgi-bin/component/api_authorizer_token`.
#[derive(Serialize)]
pub(super) struct AuthorizerTokenRequest<'a> {
    pub component_appid: &'a str,
    pub authorizer_appid: &'a str,
    pub authorizer_refresh_token: &'a str,
}

#[derive(Debug, Deserialize)]
pub(super) struct AuthorizerTokenReply {
    pub authorizer_access_token: SecretString,
    /// Seconds.
    #[serde(deserialize_with = "lenient::seconds")]
    pub expires_in: u64,
    pub authorizer_refresh_token: Option<SecretString>,
}

#[derive(Serialize)]
pub(super) struct UploadFileRequest<'a> {
    pub env: &'a str,
    pub path: &'a str,
}

/// The response to `POST /tcb/uploadfile`: the URL and the fields for one form upload to COS, valid for about 15
/// minutes.
#[derive(Debug, Clone, Deserialize)]
pub struct UploadLink {
    pub url: String,
    /// The form's `x-cos-security-token`.
    pub token: SecretString,
    /// The form's `Signature`.
    pub authorization: SecretString,
    /// `cloud://ENV.BUCKET/PATH`.
    pub file_id: String,
    /// The form's `x-cos-meta-fileid`.
    pub cos_file_id: SecretString,
}

impl UploadLink {
    /// From when and until when the signature is valid, in Unix time: `q-sign-time=START;END`.
    pub fn signed_for(&self) -> Option<(i64, i64)> {
        let mut pairs = self.authorization.expose_secret().split('&');
        let times = pairs.find_map(|pair| pair.strip_prefix("q-sign-time="))?;
        let (start, end) = times.split_once(';')?;
        Some((start.parse().ok()?, end.parse().ok()?))
    }
}

#[derive(Serialize)]
pub(super) struct BatchDownloadRequest<'a> {
    pub env: &'a str,
    pub file_list: Vec<DownloadItem<'a>>,
}

#[derive(Serialize)]
pub(super) struct DownloadItem<'a> {
    pub fileid: &'a str,
    /// Seconds.
    pub max_age: u64,
}

#[derive(Deserialize)]
pub(super) struct BatchDownloadReply {
    #[serde(default, deserialize_with = "lenient::list")]
    pub file_list: Vec<DownloadResult>,
}

/// The result for one file. Its id key has been seen in three spellings, and may be missing.
#[derive(Deserialize)]
pub(super) struct DownloadResult {
    #[serde(default, alias = "files", alias = "file_id", deserialize_with = "lenient::text")]
    pub fileid: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub download_url: String,
    #[serde(default, deserialize_with = "lenient::number")]
    pub status: i64,
    #[serde(default, deserialize_with = "lenient::text")]
    pub errmsg: String,
}

#[derive(Serialize)]
pub(super) struct BatchDeleteRequest<'a> {
    pub env: &'a str,
    pub fileid_list: &'a [&'a str],
}

#[derive(Deserialize)]
pub(super) struct BatchDeleteReply {
    #[serde(default, deserialize_with = "lenient::list")]
    pub delete_list: Vec<DeleteResult>,
}

/// Both forms are accepted: the vendor's documentation declares a list of strings, and its sample shows objects.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum DeleteResult {
    /// The id of a deleted file.
    Id(String),
    Item {
        #[serde(default, alias = "files", alias = "file_id", deserialize_with = "lenient::text")]
        fileid: String,
        #[serde(default, deserialize_with = "lenient::number")]
        status: i64,
        #[serde(default, deserialize_with = "lenient::text")]
        errmsg: String,
    },
}

impl DeleteResult {
    pub(super) fn file_id(&self) -> &str {
        match self {
            Self::Id(file_id) | Self::Item { fileid: file_id, .. } => file_id,
        }
    }
}

/// The token was refused: the call may succeed with another one.
pub(super) fn is_bad_token(errcode: i64) -> bool {
    matches!(errcode, 40001 | 40014 | 42001)
}

/// Transient failures are retried up to this number of attempts in all.
pub(super) const MAX_ATTEMPTS: u32 = 3;

/// How often, in all, a call with this code is attempted; 1: the code is final. The codes of WeChat's back end
/// (-601001, -601003) are worth one retry, the other transient ones two.
pub(super) fn max_attempts(errcode: i64) -> u32 {
    match errcode {
        -1 | -1000 | 45011 | -501001 | -501002 | -501004 | 85113 => MAX_ATTEMPTS,
        -601001 | -601003 => 2,
        _ => 1,
    }
}

/// A quota is used up: the call's own, or one of the environment (requests, reads, writes, storage).
pub(super) fn is_quota(errcode: i64) -> bool {
    matches!(errcode, call_quota::USED_UP | -501003 | -501015 | -501016 | -501017)
}

/// The file does not exist, or was stored without its `x-cos-meta-fileid`.
pub(super) fn is_missing(status: i64, errmsg: &str) -> bool {
    status == -503003 || errmsg.contains("STORAGE_FILE_NONEXIST")
}
