//! The client's IP address, and the host and scheme that it requested, where proxies stand in front of the gateway.
//!
//! Clients can send `X-Forwarded-*` themselves, so a value counts only if a trusted proxy wrote it.

use std::net::IpAddr;

use actix_web::http::header::{HOST, HeaderMap, HeaderName};
use ipnet::IpNet;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// `server.trusted_proxies`.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.to_vec())
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's IP address: the last one in `X-Forwarded-For` that is not a trusted proxy. `peer` is the other end
    /// of the connection.
    pub fn client_ip(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut address = peer.to_canonical();
        // Each proxy appends to the header, or adds a line of its own below, so the nearest proxy's value is the last.
        let lines: Vec<_> = headers.get_all(&FOR).filter_map(|line| line.to_str().ok()).collect();
        for named in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            if !self.contains(address) {
                break;
            }
            match parse(named.trim()) {
                Some(named) => address = named,
                None => break,
            }
        }
        address
    }

    /// The host that the client requested, with its port if it has one. Its text is the client's and not validated.
    pub fn host<'h>(
        &self,
        peer: Option<IpAddr>,
        headers: &'h HeaderMap,
        authority: Option<&'h str>,
    ) -> Option<&'h str> {
        let forwarded = self.last_value(peer, headers, &FORWARDED_HOST);
        let host = || headers.get(&HOST).and_then(|value| value.to_str().ok());
        forwarded.or_else(host).or(authority)
    }

    /// `https` or `http`: the scheme of the client's own connection. `own` is that of the connection to the gateway.
    pub fn scheme(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
        own: &'static str,
    ) -> &'static str {
        match self.last_value(peer, headers, &PROTO) {
            Some(proto) if proto.eq_ignore_ascii_case("https") => "https",
            Some(proto) if proto.eq_ignore_ascii_case("http") => "http",
            _ => own,
        }
    }

    /// The value that the proxy at the other end of the connection wrote: the last one.
    fn last_value<'h>(
        &self,
        peer: Option<IpAddr>,
        headers: &'h HeaderMap,
        name: &HeaderName,
    ) -> Option<&'h str> {
        peer.filter(|peer| self.contains(peer.to_canonical()))?;
        let line = headers.get_all(name).last()?.to_str().ok()?;
        line.rsplit(',').next().map(str::trim).filter(|value| !value.is_empty())
    }
}

/// An IP address as proxies write it; some add the port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    bare.or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    fn proxies() -> TrustedProxies {
        TrustedProxies::new(&["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()])
    }

    #[test]
    fn only_values_of_trusted_proxies_count() {
        for (peer, lines, address) in [
            ("1.2.3.4", vec!["9.9.9.9"], "1.2.3.4"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", vec!["8.8.8.8, 9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", vec!["8.8.8.8, 9.9.9.9, 10.0.0.2"], "9.9.9.9"),
            ("10.0.0.1", vec!["8.8.8.8", "9.9.9.9"], "9.9.9.9"),
            ("10.0.0.1", vec!["9.9.9.9:1234"], "9.9.9.9"),
            ("10.0.0.1", vec!["[2001:db8::1]:99"], "2001:db8::1"),
            ("10.0.0.1", vec!["9.9.9.9, nonsense"], "10.0.0.1"),
            ("10.0.0.1", vec!["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("::ffff:10.0.0.1", vec!["9.9.9.9"], "9.9.9.9"),
            ("fd00::1", vec!["9.9.9.9"], "9.9.9.9"),
        ] {
            let lines: Vec<_> = lines.into_iter().map(|line| (FOR, line)).collect();
            let client = proxies().client_ip(peer.parse().unwrap(), &headers(&lines));
            assert_eq!(client, address.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
    }

    #[test]
    fn host_and_scheme_come_from_a_trusted_proxy_or_the_request_itself() {
        let headers = headers(&[
            (HOST, "inner"),
            (FORWARDED_HOST, "evil.example.org, files.example.com"),
            (PROTO, "https"),
        ]);
        let trusted = Some("10.0.0.1".parse().unwrap());
        let untrusted = Some("1.2.3.4".parse().unwrap());
        let all = proxies();
        assert_eq!(all.host(trusted, &headers, None), Some("files.example.com"));
        assert_eq!(all.host(untrusted, &headers, None), Some("inner"));
        assert_eq!(all.scheme(trusted, &headers, "http"), "https");
        assert_eq!(all.scheme(untrusted, &headers, "http"), "http");
    }
}
