//! From an HTTP response of WeChat's to the result of a call: its length and status are checked, its JSON is parsed.

use std::pin::Pin;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::WechatError;
use super::error_hints;
use super::response_body::ResponseBody;
use crate::net::http_client::response::Response;
use crate::settings::CredentialMode;

/// In bytes; the HTTP client refuses a longer response.
pub(super) const MAX_RESPONSE: usize = 1024 * 1024;

/// The result of the call whose response `response` resolves to, within `limit`. The future is pinned by the caller: if
/// it were moved in here, the caller's own future would contain it twice.
pub(super) async fn receive<R: DeserializeOwned>(
    call: &'static str,
    mode: CredentialMode,
    response: Pin<&mut impl Future<Output = Result<Response, String>>>,
    limit: Duration,
) -> Result<R, WechatError> {
    let response = timeout(limit, response).await;
    let response = response.map_err(|_| WechatError::Timeout { call, limit })?;
    let response = response.map_err(|cause| WechatError::Unreachable { call, cause })?;
    check_status(call, mode, response.status)?;
    parse(call, mode, &response.body)
}

/// WeChat responds with status 200 even to a call that it refuses; any other status is a proxy's, or the sidecar's.
fn check_status(call: &'static str, mode: CredentialMode, status: u16) -> Result<(), WechatError> {
    let cause = match status {
        200..300 => return Ok(()),
        502 if mode == CredentialMode::Open => {
            format!("HTTP status 502; {}", error_hints::bad_gateway())
        }
        status => format!("HTTP status {status}"),
    };
    Err(WechatError::Unreachable { call, cause })
}

/// The result in a response's body, or the error code that the body has instead.
fn parse<R: DeserializeOwned>(
    call: &'static str,
    mode: CredentialMode,
    body: &[u8],
) -> Result<R, WechatError> {
    let unusable = |cause| WechatError::Unusable { call, cause };
    // Some of WeChat's servers, and proxies in front of them, begin with a byte order mark.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let (error, result) = match serde_json::from_slice::<ResponseBody<R>>(body) {
        Ok(ResponseBody { error, result }) => (error, Some(result)),
        // A refusal has the error fields only.
        Err(_) => {
            (serde_json::from_slice(body).map_err(|_| unusable("it is not a JSON object"))?, None)
        }
    };
    if error.errcode != 0 {
        return Err(WechatError::refused(call, error.errcode, &error.errmsg, mode));
    }
    result.ok_or_else(|| unusable("a field is missing"))
}
