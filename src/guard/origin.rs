//! Which web pages may call the gateway. A multipart POST is a "simple" request, which browsers send without a CORS
//! preflight, so the server itself refuses a foreign `Origin`.

use actix_web::http::header::{HeaderMap, ORIGIN};

/// The origins of `cors.origins`, and the gateway's own.
#[derive(Debug, Clone)]
pub struct Origins {
    listed: Vec<String>,
    own: Option<String>,
}

impl Origins {
    /// `listed` has been validated by the settings. The gateway's own origin is that of `public_url` if it is set,
    /// otherwise that of the `Host` header.
    pub fn new(listed: &[String], public_url: Option<&str>) -> Self {
        let own = public_url.map(|url| {
            let authority = url.find("://").map_or(0, |at| at + 3);
            let end = url[authority..].find('/').map_or(url.len(), |slash| authority + slash);
            url[..end].to_owned()
        });
        Self { listed: listed.to_vec(), own }
    }

    /// Whether `origin` is listed.
    pub fn is_listed(&self, origin: &[u8]) -> bool {
        std::str::from_utf8(origin)
            .is_ok_and(|origin| self.listed.iter().any(|listed| same(listed, origin)))
    }

    /// Whether the `Origin` of a request is allowed. `host` is the host, with its port, that the client requested.
    pub fn allow(&self, headers: &HeaderMap, host: Option<&str>) -> bool {
        let Some(origin) = headers.get(ORIGIN) else {
            return true;
        };
        if self.is_listed(origin.as_bytes()) {
            return true;
        }
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        match (&self.own, host, origin.split_once("://")) {
            (Some(own), _, _) => same(own, origin),
            (None, Some(host), Some((scheme, authority))) => {
                let [host, authority] =
                    [host, authority].map(|authority| without_default_port(scheme, authority));
                !authority.is_empty() && host.eq_ignore_ascii_case(authority)
            }
            _ => false,
        }
    }
}

/// Whether two origins are the same (RFC 6454 5): scheme and host in any case, with or without the scheme's default
/// port.
fn same(one: &str, other: &str) -> bool {
    match (one.split_once("://"), other.split_once("://")) {
        (Some((scheme, one)), Some((other_scheme, other))) => {
            let [one, other] = [one, other].map(|text| without_default_port(scheme, text));
            scheme.eq_ignore_ascii_case(other_scheme) && one.eq_ignore_ascii_case(other)
        }
        // `null` is the only origin without a scheme.
        _ => one == other,
    }
}

/// Some proxies write the default port into `Host`; browsers omit it from `Origin`.
fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let port = match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => ":443",
        _ if scheme.eq_ignore_ascii_case("http") => ":80",
        _ => return authority,
    };
    authority.strip_suffix(port).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn is_allowed(origins: &Origins, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        origins.allow(&headers, Some("gateway.local:8080"))
    }

    #[test]
    fn foreign_pages_are_refused() {
        let by_host = Origins::new(&["https://panel.example.com".to_owned()], None);
        assert!(is_allowed(&by_host, None));
        assert!(is_allowed(&by_host, Some("http://gateway.local:8080")));
        assert!(is_allowed(&by_host, Some("https://panel.example.com")));
        for foreign in [
            "https://evil.com",
            "https://panel.example.com.evil.com",
            "null",
            "http://gateway.local",
        ] {
            assert!(!is_allowed(&by_host, Some(foreign)), "{foreign}");
        }
        let by_url = Origins::new(&[], Some("https://files.example.com:443/gw"));
        assert!(is_allowed(&by_url, Some("https://files.example.com")));
        assert!(!is_allowed(&by_url, Some("http://gateway.local:8080")));
    }

    #[test]
    fn origins_are_equal_in_any_case_and_with_the_default_port() {
        for (one, other, equal) in [
            ("https://a.example.com", "HTTPS://A.Example.com:443", true),
            ("http://[::1]", "http://[::1]:80", true),
            ("http://a.example.com", "http://a.example.com:443", false),
            ("http://a.example.com:80", "https://a.example.com:443", false),
            ("capacitor://localhost", "CAPACITOR://localhost", true),
            ("capacitor://localhost", "ionic://localhost", false),
            ("file://", "file://", true),
            ("file://", "null", false),
            ("null", "null", true),
            ("null", "NULL", false),
        ] {
            assert_eq!(same(one, other), equal, "{one} {other}");
        }
        let by_host = Origins::new(&[], None);
        for (host, origin, allowed) in [
            ("gw.test:80", "http://gw.test", true),
            ("gw.test", "http://gw.test:80", true),
            ("gw.test:443", "https://gw.test", true),
            ("GW.test:8080", "http://gw.TEST:8080", true),
            ("gw.test:80", "https://gw.test", false),
            ("gw.test:8080", "http://gw.test", false),
            ("", "file://", false),
            (":80", "http://", false),
        ] {
            let origin_header = HeaderValue::from_static(origin);
            let headers = HeaderMap::from_iter([(ORIGIN, origin_header)]);
            assert_eq!(by_host.allow(&headers, Some(host)), allowed, "{host} {origin}");
        }
    }
}
