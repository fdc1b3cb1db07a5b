//! `x-cos-meta-fileid`, without which WeChat cannot download an object, by the call of cloud hosting (`metaid`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::cos::error::CosError;
use crate::cos::upstream::connect_error;
use crate::net::http_client::base_url::BaseUrl;
use crate::net::http_client::call::{Call, CallError};
use crate::net::http_client::exchange::request;
use crate::net::http_client::{IDLE_TIMEOUT, Pool};

/// The longest value that is accepted, in bytes: it becomes a header.
const MAX_FILE_ID: usize = 1024;

const UNUSABLE: CosError = CosError::Link("the response of metaid has no file id");

#[derive(Serialize)]
struct MetaIdRequest<'a> {
    /// Empty: the file belongs to the administration, not to a user.
    openid: &'static str,
    bucket: &'a str,
    paths: [&'a str; 1],
}

#[derive(Deserialize)]
struct MetaIdResponse {
    #[serde(default)]
    errcode: i64,
    respdata: Option<MetaIds>,
}

#[derive(Deserialize)]
struct MetaIds {
    x_cos_meta_field_strs: Vec<String>,
}

/// The file id of the object `key` in `bucket`, within `limit`, by `POST` to `url` (`cos.api.metaid_url`).
pub async fn fetch(
    pool: &Pool,
    url: &BaseUrl,
    limit: Duration,
    bucket: &str,
    key: &str,
) -> Result<String, CosError> {
    let path = ["/", key].concat();
    let body = MetaIdRequest { openid: "", bucket, paths: [&path] };
    let body = serde_json::to_vec(&body).map_err(|_| UNUSABLE)?;
    let fields = [("Content-Type", "application/json")];
    let call = Call {
        endpoint: &url.endpoint,
        request: request("POST", &url.path, &url.authority, &fields, &body),
        is_head: false,
        max_idle: IDLE_TIMEOUT,
        is_repeatable: true,
    };
    let (response, ()) = timeout(limit, call.send(pool))
        .await
        .map_err(|_| CosError::Timeout { waited_for: "the file id", limit })?
        .map_err(|error| match error {
            CallError::Connect(error) => connect_error(error),
            other => CosError::Unreachable(other.to_string()),
        })?;
    if !response.is_success() {
        return Err(CosError::Unreachable(format!("metaid responded {}", response.status)));
    }
    file_id(&response.body)
}

fn file_id(body: &[u8]) -> Result<String, CosError> {
    let response: MetaIdResponse = serde_json::from_slice(body).map_err(|_| UNUSABLE)?;
    if response.errcode != 0 {
        let errcode = response.errcode;
        return Err(CosError::Unreachable(format!("metaid refused with errcode {errcode}")));
    }
    let ids = response.respdata.map(|data| data.x_cos_meta_field_strs).unwrap_or_default();
    let is_usable = |id: &String| {
        (1..=MAX_FILE_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    ids.into_iter().next().filter(is_usable).ok_or(UNUSABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_id_is_taken() {
        let with = |id: &str| {
            let body = format!(
                r#"{{"errcode":0,"errmsg":"ok","respdata":{{"x_cos_meta_field_strs":[{id}]}}}}"#
            );
            file_id(body.as_bytes())
        };
        assert_eq!(with(r#""ab+c/d==""#).unwrap(), "ab+c/d==");
        assert!(with(&format!("\"{}\"", "x".repeat(MAX_FILE_ID))).is_ok());
        let long = format!("\"{}\"", "x".repeat(MAX_FILE_ID + 1));
        for wrong in ["", r#""""#, r#""a\r\nb""#, r#""a b""#, "1", &long] {
            assert!(matches!(with(wrong), Err(CosError::Link(_))), "{wrong}");
        }
        assert!(matches!(file_id(b"{}"), Err(CosError::Link(_))));
        assert!(matches!(file_id(b""), Err(CosError::Link(_))));
        let refused = file_id(br#"{"errcode":41001,"errmsg":"x"}"#);
        assert!(matches!(refused, Err(CosError::Unreachable(cause)) if cause.contains("41001")));
    }
}
