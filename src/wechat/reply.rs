//! A call's reply: read within its bounds, and taken for what it says.

use std::pin::Pin;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::answer::Answer;
use super::error::WechatError;
use super::error_hints;
use crate::net::http_client::response::Response;
use crate::settings::CredentialMode;

/// A reply may be this long.
pub(super) const REPLY_LIMIT: usize = 1024 * 1024;

/// What a call's reply says, as soon as `sent` has brought it, all within `limit`. `sent` is pinned by the caller: moved
/// here it would be in the caller's future twice.
pub(super) async fn exchange<R: DeserializeOwned>(
    call: &'static str,
    mode: CredentialMode,
    sent: Pin<&mut impl Future<Output = Result<Response, String>>>,
    limit: Duration,
) -> Result<R, WechatError> {
    let reply = timeout(limit, sent).await;
    let reply = reply.map_err(|_| WechatError::Timeout { call, limit })?;
    let reply = reply.map_err(|cause| WechatError::Unreachable { call, cause })?;
    accept(call, mode, reply.status)?;
    understand(call, mode, &reply.body)
}

/// WeChat answers everything with success; another status is a proxy's, or the sidecar's.
fn accept(call: &'static str, mode: CredentialMode, status: u16) -> Result<(), WechatError> {
    let cause = match status {
        200..300 => return Ok(()),
        502 if mode == CredentialMode::Open => {
            format!("HTTP status 502; {}", error_hints::bad_gateway())
        }
        status => format!("HTTP status {status}"),
    };
    Err(WechatError::Unreachable { call, cause })
}

/// A reply, or the error that it holds.
fn understand<R: DeserializeOwned>(
    call: &'static str,
    mode: CredentialMode,
    reply: &[u8],
) -> Result<R, WechatError> {
    let unusable = |cause| WechatError::Unusable { call, cause };
    // Some of WeChat's servers, and proxies in front of them, begin with a byte order mark.
    let reply = reply.strip_prefix(b"\xef\xbb\xbf").unwrap_or(reply);
    let (envelope, reply) = match serde_json::from_slice::<Answer<R>>(reply) {
        Ok(Answer { envelope, reply }) => (envelope, Some(reply)),
        // A refusal has no more than the envelope.
        Err(_) => {
            (serde_json::from_slice(reply).map_err(|_| unusable("it is no JSON object"))?, None)
        }
    };
    if envelope.errcode != 0 {
        return Err(WechatError::refused(call, envelope.errcode, &envelope.errmsg, mode));
    }
    reply.ok_or_else(|| unusable("a field is missing"))
}
