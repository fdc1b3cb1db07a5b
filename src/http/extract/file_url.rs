//! Stable file URLs: made from a file's path, and parsed back to it.

use std::borrow::Cow;

use actix_web::HttpRequest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::query;
use crate::http::problem::{Code, Problem};
use crate::http::state::AppState;
use crate::key::Key;

/// The prefix of stable URLs after the gateway's base URL.
pub const FILES: &str = "/v1/files/";

/// The path in a stable URL, for the API's description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description; `path` parses it")]
pub struct PathParameter {
    /// The object's path, percent-encoded once; slashes need not be encoded.
    path: Key,
}

/// All but the characters that a path contains unencoded (RFC 3986 unreserved, and the slash).
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A file's stable URL.
pub fn of_file(base: &str, key: &Key) -> String {
    let mut url = String::with_capacity(base.len() + FILES.len() + key.as_str().len());
    url.extend([base, FILES]);
    url.extend(utf8_percent_encode(key.as_str(), PATH));
    url
}

/// The base of the URLs in responses: `server.public_url`, otherwise the scheme and host that the client requested;
/// empty if that host is invalid.
pub fn base(request: &HttpRequest, shared: &AppState) -> String {
    let (server, proxies) = (&shared.settings.server, &shared.proxies);
    if let Some(url) = &server.public_url {
        return url.clone();
    }
    let peer = request.peer_addr().map(|peer| peer.ip());
    let authority = request.uri().authority().map(|host| host.as_str());
    let host = proxies.host(peer, request.headers(), authority);
    let valid = |host: &&str| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
    };
    match host.filter(valid) {
        Some(host) => {
            let own = if server.tls.is_some() { "https" } else { "http" };
            let scheme = proxies.scheme(peer, request.headers(), own);
            format!("{scheme}://{host}")
        }
        None => String::new(),
    }
}

/// The path after `/v1/files/`, decoded once.
pub fn path(request: &HttpRequest) -> Result<String, Problem> {
    let encoded = request.uri().path().strip_prefix(FILES).unwrap_or_default();
    query::decode(encoded)
        .map(Cow::into_owned)
        .map_err(|fault| Problem::new(Code::InvalidPath, format!("the path in the URL {fault}")))
}
