//! The request to the auth server: which parts of the client's request it has. Nothing else of it is sent.

use std::net::IpAddr;

use actix_web::http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, USER_AGENT};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::net::http_client::base_url::BaseUrl;
use crate::net::trace_context::{TRACEPARENT, TraceContext};

const OWN_USER_AGENT: &str = concat!("tcb-upload-gateway/", env!("CARGO_PKG_VERSION"));

/// What the auth server may learn of a client's request.
pub struct ClientRequest<'a> {
    pub method: &'a str,
    /// Without the query, which may have the signatures of links.
    pub path: &'a str,
    pub scheme: &'a str,
    pub host: Option<&'a str>,
    pub address: Option<IpAddr>,
    pub headers: &'a HeaderMap,
    pub trace: Option<TraceContext>,
}

/// A request to the auth server. It has secrets, so it is dropped once it is sent; only its hashes are cached.
pub struct ForwardedRequest {
    pub bytes: Bytes,
    /// Where the lines begin that tell one client from another.
    credentials: usize,
    /// Where they end. What follows is no part of the hashes: the trace differs from request to request.
    end: usize,
}

impl ForwardedRequest {
    /// A GET. `named` are the headers of `auth.forward_headers`.
    pub fn new(server: &BaseUrl, named: &[HeaderName], of: &ClientRequest<'_>) -> Self {
        let path = if server.path.is_empty() { "/" } else { &server.path };
        let mut bytes = [b"GET ".as_slice(), path.as_bytes(), b" HTTP/1.1\r\n"].concat();
        let mut line = |name: &str, value: &[u8]| {
            for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
                bytes.extend_from_slice(piece);
            }
            bytes.len()
        };
        line("Host", server.authority.as_bytes());
        // Frameworks then refuse with 401 instead of a redirect to their login page.
        line("Accept", b"application/json");
        if !named.contains(&USER_AGENT) {
            line("User-Agent", OWN_USER_AGENT.as_bytes());
        }
        line("X-Forwarded-Method", of.method.as_bytes());
        line("X-Forwarded-Proto", of.scheme.as_bytes());
        if let Some(host) = of.host {
            line("X-Forwarded-Host", host.as_bytes());
        }
        let before_address = line("X-Forwarded-Uri", of.path.as_bytes());
        let address = of.address.map(|address| address.to_string()).unwrap_or_default();
        let after_address = line("X-Forwarded-For", address.as_bytes());
        let mut end = after_address;
        // The gateway itself reads the first one only.
        if let Some(value) = of.headers.get(AUTHORIZATION) {
            end = line("Authorization", value.as_bytes());
        }
        // HTTP/2 clients may send several lines, which are one in HTTP/1.1 (RFC 9113, 8.2.3).
        let cookies: Vec<_> = of.headers.get_all(COOKIE).map(|value| value.as_bytes()).collect();
        if !cookies.is_empty() {
            end = line("Cookie", &cookies.join(&b"; "[..]));
        }
        let named = named.iter().filter(|name| ![AUTHORIZATION, COOKIE].contains(name));
        for name in named.clone() {
            for value in of.headers.get_all(name) {
                end = line(name.as_str(), value.as_bytes());
            }
        }
        // Clients without any credential differ only in their IP address.
        let credentials = if end == after_address { before_address } else { after_address };
        if let Some(trace) = of.trace.filter(|_| !named.clone().any(|name| name == TRACEPARENT)) {
            line(TRACEPARENT, trace.to_string().as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        Self { bytes: bytes.into(), credentials, end }
    }

    /// Equal for requests that are equal in all that the auth server is sent, apart from their traces.
    pub fn hash(&self) -> [u8; 32] {
        self.hash_from(0)
    }

    /// Identifies the client by its credentials without revealing them: half of their SHA-256, in hex.
    pub fn fingerprint(&self) -> String {
        hex::encode(&self.hash_from(self.credentials)[..16])
    }

    fn hash_from(&self, begin: usize) -> [u8; 32] {
        let hashed = &self.bytes[begin..self.end];
        Sha256::new().chain_update(hashed).chain_update(b"\r\n").finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn request(
        path: &str,
        address: [u8; 4],
        lines: &[(&'static str, &'static str)],
    ) -> ForwardedRequest {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let server = BaseUrl::parse("http://auth.test:81/check").unwrap();
        let of = ClientRequest {
            method: "POST",
            path,
            scheme: "https",
            host: Some("files.test"),
            address: Some(address.into()),
            headers: &headers,
            trace: None,
        };
        let named = [HeaderName::from_static("x-session"), COOKIE];
        ForwardedRequest::new(&server, &named, &of)
    }

    #[test]
    fn only_the_listed_parts_are_sent() {
        let lines = [
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("authorization", "Basic eDp5"),
            ("x-session", "s"),
            ("x-forwarded-for", "9.9.9.9"),
            ("x-other", "secret"),
        ];
        let request = request("/v1/files", [1, 2, 3, 4], &lines);
        let text = format!(
            "GET /check HTTP/1.1\r\nHost: auth.test:81\r\nAccept: application/json\r\n\
             User-Agent: {OWN_USER_AGENT}\r\nX-Forwarded-Method: POST\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: files.test\r\nX-Forwarded-Uri: /v1/files\r\nX-Forwarded-For: 1.2.3.4\r\n\
             Authorization: Basic eDp5\r\nCookie: a=1; b=2\r\nx-session: s\r\n\r\n"
        );
        assert_eq!(String::from_utf8_lossy(&request.bytes), text);
    }

    #[test]
    fn a_client_is_identified_by_its_credentials_or_else_by_its_address() {
        let session = [("cookie", "session=1")];
        let one = request("/v1/files", [1, 2, 3, 4], &session);
        let other = request("/v1/uploads", [5, 6, 7, 8], &session);
        assert_ne!(one.hash(), other.hash());
        assert_eq!(one.fingerprint(), other.fingerprint());
        let another = request("/v1/files", [1, 2, 3, 4], &[("cookie", "session=2")]);
        assert_ne!(one.fingerprint(), another.fingerprint());
        let [without, same, different] =
            [("/a", [1, 1, 1, 1]), ("/b", [1, 1, 1, 1]), ("/a", [2, 2, 2, 2])]
                .map(|(path, address)| request(path, address, &[]).fingerprint());
        assert_eq!(without, same);
        assert_ne!(without, different);
    }
}
