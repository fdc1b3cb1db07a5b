//! Parses an upload link and checks that the form may be posted there.

use std::net::{IpAddr, Ipv6Addr};

use hyper::Uri;
use percent_encoding::percent_decode_str;

use super::error::CosError;
use crate::net::http_client::Endpoint;

/// A link's origin and path, checked against the allowed hosts.
#[derive(Debug, Clone)]
pub struct Target {
    pub origin: Endpoint,
    /// Path and query, as in the link.
    pub path: String,
    /// The `Host` header.
    pub authority: String,
}

/// The hosts of `cos.allowed_hosts`: `host[:port]` or `*.host[:port]`, no port = 443 (any with `allow_http`).
#[derive(Debug, Clone)]
pub struct AllowedHosts {
    patterns: Vec<(String, Option<u16>)>,
    allow_http: bool,
}

impl AllowedHosts {
    /// From validated settings.
    pub fn new(patterns: &[String], allow_http: bool) -> Self {
        let split = |pattern: &String| {
            let (host, port) = match pattern.rsplit_once(':') {
                // A colon inside brackets or in a bare IPv6 literal does not precede a port.
                Some((host, port))
                    if !port.contains(']') && !host.contains(':') || host.ends_with(']') =>
                {
                    (host, port.parse().ok())
                }
                _ => (pattern.as_str(), None),
            };
            (host.trim_matches(['[', ']']).to_ascii_lowercase(), port)
        };
        Self { patterns: patterns.iter().map(split).collect(), allow_http }
    }

    /// Parses and checks the link that was requested for `key`; `file_id` is the id that the file will have. A forged
    /// response of WeChat must not make the gateway post elsewhere or store another file: user info is refused, an IP
    /// literal must be listed, a wildcard matches whole labels, and the path must be the one that was asked for.
    pub fn check(&self, link: &str, file_id: &str, key: &str) -> Result<Target, CosError> {
        let target = self.target(link)?;
        // `/<bucket>/<key>`, or `/<key>` where the host names the bucket.
        let (path, _) = target.path.split_once('?').unwrap_or((&target.path, ""));
        let path = path.strip_prefix('/').unwrap_or(path);
        let after_bucket = path.split_once('/').map(|(_, path)| path);
        if !is_key(path, key) && !after_bucket.is_some_and(|path| is_key(path, key)) {
            return Err(CosError::Link(
                "it is not for the path that was asked for; check wechat.base_url",
            ));
        }
        let id = file_id.strip_prefix("cloud://").and_then(|rest| rest.split_once('/'));
        if !id.is_some_and(|(_, path)| is_key(path, key)) {
            return Err(CosError::Link(
                "its file id is not of the path that was asked for; check wechat.base_url",
            ));
        }
        Ok(target)
    }

    /// Parses and checks a download link, which may be for any path.
    pub fn check_download(&self, link: &str) -> Result<Target, CosError> {
        self.target(link)
    }

    fn target(&self, link: &str) -> Result<Target, CosError> {
        let uri: Uri = link.parse().map_err(|_| CosError::Link("it is not a URL"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if self.allow_http => false,
            _ => return Err(CosError::Link("its scheme is not https")),
        };
        let authority = uri.authority().ok_or(CosError::Link("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(CosError::Link("it contains user info"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let port = match (authority.port_u16(), authority.port()) {
            (Some(port), _) => port,
            (None, None) => {
                if https {
                    443
                } else {
                    80
                }
            }
            (None, Some(_)) => return Err(CosError::Link("its port is not a number")),
        };
        if !self.patterns.iter().any(|pattern| self.matches(pattern, &host, port)) {
            return Err(CosError::Link("its host is not in cos.allowed_hosts"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let authority = authority.as_str().to_owned();
        Ok(Target { origin: Endpoint { https, host, port }, path, authority })
    }

    fn matches(
        &self,
        (pattern, allowed_port): &(String, Option<u16>),
        host: &str,
        port: u16,
    ) -> bool {
        let port_fits = match allowed_port {
            Some(allowed) => *allowed == port,
            None => port == 443 || self.allow_http,
        };
        let host_fits = match pattern.strip_prefix('*') {
            Some(suffix) => {
                let literal = host.parse::<IpAddr>().is_ok() || host.parse::<Ipv6Addr>().is_ok();
                !literal && host.strip_suffix(suffix).is_some_and(|label| !label.is_empty())
            }
            None => host == pattern,
        };
        port_fits && host_fits
    }
}

/// Whether `text` is `key`, as it is or percent-decoded.
pub(super) fn is_key(text: &str, key: &str) -> bool {
    text == key || percent_decode_str(text).eq(key.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(patterns: &[&str], allow_http: bool) -> AllowedHosts {
        let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
        AllowedHosts::new(&patterns, allow_http)
    }

    #[test]
    fn only_listed_hosts_are_accepted() {
        let hosts = allowed(
            &["*.myqcloud.com", "cos.example.com:8443", "127.0.0.1:9000", "[::1]:9"],
            false,
        );
        for link in [
            "https://cos.ap-shanghai.myqcloud.com/bucket/a%20b.png?x=1",
            "https://COS.ap-shanghai.MYQCLOUD.com/b",
            "https://cos.example.com:8443/b",
            "https://127.0.0.1:9000/b",
            "https://[::1]:9/b",
        ] {
            assert!(hosts.target(link).is_ok(), "{link}");
        }
        for link in [
            "http://cos.ap-shanghai.myqcloud.com/b",
            "https://myqcloud.com/b",
            "https://evilmyqcloud.com/b",
            "https://cos.myqcloud.com.evil.com/b",
            "https://cos.myqcloud.com@evil.com/b",
            "https://user@cos.myqcloud.com/b",
            "https://cos.myqcloud.com:8443/b",
            "https://cos.example.com/b",
            "https://127.0.0.1/b",
            "https://[::2]:9/b",
            "ftp://cos.myqcloud.com/b",
            "//cos.myqcloud.com/b",
            "",
        ] {
            assert!(hosts.target(link).is_err(), "{link}");
        }
    }

    #[test]
    fn a_link_is_parsed_without_changing_its_path() {
        let target =
            allowed(&["localhost"], true).target("http://localhost:81/b/%E4%B8%AD?q=1").unwrap();
        assert_eq!(target.path, "/b/%E4%B8%AD?q=1");
        assert_eq!(target.authority, "localhost:81");
        assert_eq!(target.origin, Endpoint { https: false, host: "localhost".into(), port: 81 });
    }

    #[test]
    fn a_link_for_another_path_is_refused() {
        let hosts = allowed(&["*.myqcloud.com"], false);
        let check = |path: &str, id: &str, key: &str| {
            let link = format!("https://cos.ap-shanghai.myqcloud.com/{path}");
            hosts.check(&link, &format!("cloud://env.bucket/{id}"), key).is_ok()
        };
        let key = "a/中 x?.png";
        for path in ["a/%E4%B8%AD%20x%3F.png", "a/%e4%b8%ad%20x%3f.png?sign=1"] {
            assert!(check(path, key, key), "{path}");
            assert!(check(&format!("bucket-125/{path}"), key, key), "{path}");
        }
        assert!(check("bucket/100%25.png", "100%.png", "100%.png"));
        assert!(check("bucket/a%2Fb.png", "a%2Fb.png", "a/b.png"));
        for (path, id) in [
            ("bucket/other", "a/b"),
            ("bucket/a/b", "other"),
            ("bucket/a/b", "x/a/b"),
            ("bucket/x/a/b", "a/b"),
            ("bucket/a/b/", "a/b"),
            ("bucket/a/b%2F..%2Fc", "a/b"),
            ("bucket/a/c?a/b", "a/b"),
            ("bucket/A/b", "a/b"),
            ("", "a/b"),
            ("bucket/a/b", ""),
        ] {
            assert!(!check(path, id, "a/b"), "{path} {id}");
        }
        assert!(hosts.check("https://cos.myqcloud.com/b/k", "k", "k").is_err());
    }
}
