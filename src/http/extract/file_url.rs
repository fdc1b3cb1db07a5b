//! Paths in addresses: a file's stable address, and the path an address names.

use std::borrow::Cow;

use actix_web::HttpRequest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::query;
use crate::http::problem::{Code, Problem};
use crate::http::state::AppState;
use crate::key::Key;

/// Where files live below the gateway's base.
pub const FILES: &str = "/v1/files/";

/// The path an address names, as the API's description has it.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description; `path` reads it")]
pub struct PathParameter {
    /// The object's path, percent-encoded once; its slashes may stay as they are.
    path: Key,
}

/// What stands in a path without being encoded (RFC 3986 unreserved, and the slash).
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A file's stable address.
pub fn of_file(base: &str, key: &Key) -> String {
    let mut address = String::with_capacity(base.len() + FILES.len() + key.as_str().len());
    address.extend([base, FILES]);
    address.extend(utf8_percent_encode(key.as_str(), PATH));
    address
}

/// The base of the addresses in replies: `public_url`, otherwise what the client called us.
pub fn base(request: &HttpRequest, shared: &AppState) -> String {
    let (server, proxies) = (&shared.settings.server, &shared.proxies);
    if let Some(url) = &server.public_url {
        return url.clone();
    }
    let peer = request.peer_addr().map(|peer| peer.ip());
    let authority = request.uri().authority().map(|host| host.as_str());
    let host = proxies.host(peer, request.headers(), authority);
    let sane = |host: &&str| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
    };
    match host.filter(sane) {
        Some(host) => {
            let own = if server.tls.is_some() { "https" } else { "http" };
            let scheme = proxies.scheme(peer, request.headers(), own);
            format!("{scheme}://{host}")
        }
        None => String::new(),
    }
}

/// The path behind `/v1/files/`, decoded once.
pub fn path(request: &HttpRequest) -> Result<String, Problem> {
    let encoded = request.uri().path().strip_prefix(FILES).unwrap_or_default();
    query::decode(encoded)
        .map(Cow::into_owned)
        .map_err(|fault| Problem::new(Code::InvalidPath, format!("the path in the URL {fault}")))
}
