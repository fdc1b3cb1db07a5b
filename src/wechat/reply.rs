//! A call's reply: read within its bounds, and taken for what it says.

use std::time::Duration;

use awc::ClientRequest;
use awc::error::SendRequestError;
use awc::http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::answer::Answer;
use super::credential::Mode;
use super::{WechatError, advice};

/// A reply may be this long.
pub(super) const REPLY_LIMIT: usize = 1024 * 1024;

/// Sends one request by awc and reads its reply, all of it within `limit`.
pub(super) async fn exchange<R: DeserializeOwned>(
    call: &'static str,
    mode: Mode,
    request: ClientRequest,
    body: Option<Vec<u8>>,
    limit: Duration,
) -> Result<R, WechatError> {
    let work = async {
        let request = request.timeout(limit);
        let sent = match body {
            Some(body) => request.insert_header((CONTENT_TYPE, "application/json")).send_body(body),
            None => request.send(),
        };
        let unreachable = |cause: String| WechatError::Unreachable { call, cause };
        let mut reply = sent.await.map_err(|error| match error {
            SendRequestError::Timeout => WechatError::Timeout { call, limit },
            error => unreachable(without_url(&error)),
        })?;
        accept(call, mode, reply.status().as_u16())?;
        let bytes = reply
            .body()
            .limit(REPLY_LIMIT)
            .await
            .map_err(|error| unreachable(format!("reading the reply: {error}")))?;
        understand(call, mode, &bytes)
    };
    timeout(limit, work).await.map_err(|_| WechatError::Timeout { call, limit })?
}

/// WeChat answers everything with success; another status is a proxy's, or the sidecar's.
pub(super) fn accept(call: &'static str, mode: Mode, status: u16) -> Result<(), WechatError> {
    let cause = match status {
        200..300 => return Ok(()),
        502 if mode == Mode::Open => format!("HTTP status 502; {}", advice::bad_gateway()),
        status => format!("HTTP status {status}"),
    };
    Err(WechatError::Unreachable { call, cause })
}

/// A reply, or the error that it holds.
pub(super) fn understand<R: DeserializeOwned>(
    call: &'static str,
    mode: Mode,
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

/// awc's errors do not name the URL, which holds the secret or the token; this keeps it so by naming the kind only.
fn without_url(error: &SendRequestError) -> String {
    use SendRequestError as E;
    match error {
        E::Connect(cause) => format!("connecting: {cause}"),
        E::Send(cause) => format!("sending: {cause}"),
        E::Response(cause) => format!("reading the reply's head: {cause}"),
        E::Url(_) => "its URL is invalid".to_owned(),
        _ => "the request failed".to_owned(),
    }
}
