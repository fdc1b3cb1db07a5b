//! What a client looks like from in front of our proxies: its address, and what it called us.
//!
//! Anybody can write `X-Forwarded-*`; it counts only as far as it was written by proxies that are trusted.

use std::net::IpAddr;

use actix_web::http::header::{HOST, HeaderMap};
use ipnet::IpNet;

const FOR: &str = "x-forwarded-for";
const FORWARDED_HOST: &str = "x-forwarded-host";
const PROTO: &str = "x-forwarded-proto";

/// `server.trusted_proxies`.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.to_vec())
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's address: the last one named that is no proxy of ours. `peer` is who connected.
    pub fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut address = peer.to_canonical();
        // The nearest proxy writes at the end, and the last line is the nearest, too.
        let lines: Vec<_> = headers.get_all(FOR).filter_map(|line| line.to_str().ok()).collect();
        for named in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            if !self.trust(address) {
                break;
            }
            match parse(named.trim()) {
                Some(named) => address = named,
                None => break,
            }
        }
        address
    }

    /// The host, with its port where it has one, that the client called. May be anything the client likes.
    pub fn host<'h>(
        &self,
        peer: Option<IpAddr>,
        headers: &'h HeaderMap,
        authority: Option<&'h str>,
    ) -> Option<&'h str> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        self.last(peer, headers, FORWARDED_HOST).or_else(|| text(HOST.as_str())).or(authority)
    }

    /// `https` or `http`, as the client's own connection was; `own` is that of ours.
    pub fn scheme(
        &self,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
        own: &'static str,
    ) -> &'static str {
        match self.last(peer, headers, PROTO) {
            Some(proto) if proto.eq_ignore_ascii_case("https") => "https",
            Some(proto) if proto.eq_ignore_ascii_case("http") => "http",
            _ => own,
        }
    }

    /// What the proxy that connected says: the last of several.
    fn last<'h>(
        &self,
        peer: Option<IpAddr>,
        headers: &'h HeaderMap,
        name: &str,
    ) -> Option<&'h str> {
        peer.filter(|peer| self.trust(peer.to_canonical()))?;
        let line = headers.get_all(name).last()?.to_str().ok()?;
        line.rsplit(',').next().map(str::trim).filter(|value| !value.is_empty())
    }
}

/// An address as proxies write it: some add the port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    bare.or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn proxies() -> Proxies {
        Proxies::new(&["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()])
    }

    #[test]
    fn only_what_trusted_proxies_wrote_counts() {
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
            let told = proxies().address(peer.parse().unwrap(), &headers(&lines));
            assert_eq!(told, address.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
    }

    #[test]
    fn host_and_scheme_are_the_proxy_s_or_the_request_s_own() {
        let headers = headers(&[
            ("host", "inner"),
            (FORWARDED_HOST, "evil.example.org, files.example.com"),
            (PROTO, "https"),
        ]);
        let near = Some("10.0.0.1".parse().unwrap());
        let far = Some("1.2.3.4".parse().unwrap());
        let all = proxies();
        assert_eq!(all.host(near, &headers, None), Some("files.example.com"));
        assert_eq!(all.host(far, &headers, None), Some("inner"));
        assert_eq!(all.scheme(near, &headers, "http"), "https");
        assert_eq!(all.scheme(far, &headers, "http"), "http");
    }
}
