//! A URL from the settings that requests are made to.

use hyper::Uri;

use super::Endpoint;

/// A parsed http or https URL, below which the paths of calls lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    pub endpoint: Endpoint,
    /// The `Host` header.
    pub authority: String,
    /// Without a trailing slash, and without a query.
    pub path: String,
}

impl BaseUrl {
    /// `None` where `base_url` is not an http or https URL with a host.
    pub fn parse(base_url: &str) -> Option<Self> {
        let uri: Uri = base_url.parse().ok()?;
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        let (authority, path) = (authority.as_str().to_owned(), uri.path().trim_end_matches('/'));
        Some(Self { endpoint: Endpoint { https, host, port }, authority, path: path.to_owned() })
    }
}
