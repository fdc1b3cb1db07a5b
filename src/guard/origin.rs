//! Which web pages may call. A multipart post is a "simple" request that CORS does not stop in the browser, so a
//! foreign `Origin` is refused by the server itself.

use actix_web::http::header::{HeaderMap, ORIGIN};

/// The origins of `cors.origins`, and our own.
#[derive(Debug, Clone)]
pub struct Origins {
    listed: Vec<String>,
    own: Option<String>,
}

impl Origins {
    /// `listed` as checked by the settings; `public_url` names our own origin, otherwise the `Host` header does.
    pub fn new(listed: &[String], public_url: Option<&str>) -> Self {
        let own = public_url.map(|url| {
            let authority = url.find("://").map_or(0, |at| at + 3);
            let end = url[authority..].find('/').map_or(url.len(), |slash| authority + slash);
            url[..end].to_ascii_lowercase()
        });
        Self { listed: listed.to_vec(), own }
    }

    /// Whether `origin` is listed.
    pub fn lists(&self, origin: &[u8]) -> bool {
        self.listed.iter().any(|listed| origin.eq_ignore_ascii_case(listed.as_bytes()))
    }

    /// Whether a request may be answered as far as its `Origin` goes; `host` is what its client called us.
    pub fn admit(&self, headers: &HeaderMap, host: Option<&str>) -> bool {
        let Some(origin) = headers.get(ORIGIN) else {
            return true;
        };
        if self.lists(origin.as_bytes()) {
            return true;
        }
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        match &self.own {
            Some(own) => origin.eq_ignore_ascii_case(own),
            None => {
                let authority = origin.split_once("://").map(|(_, authority)| authority);
                host.is_some() && authority.is_some_and(|own| host == Some(own))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn admitted(origins: &Origins, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        origins.admit(&headers, Some("gateway.local:8080"))
    }

    #[test]
    fn foreign_pages_are_refused() {
        let by_host = Origins::new(&["https://panel.example.com".to_owned()], None);
        assert!(admitted(&by_host, None));
        assert!(admitted(&by_host, Some("http://gateway.local:8080")));
        assert!(admitted(&by_host, Some("https://panel.example.com")));
        for foreign in [
            "https://evil.com",
            "https://panel.example.com.evil.com",
            "null",
            "http://gateway.local",
        ] {
            assert!(!admitted(&by_host, Some(foreign)), "{foreign}");
        }
        let by_url = Origins::new(&[], Some("https://files.example.com/gw"));
        assert!(admitted(&by_url, Some("https://files.example.com")));
        assert!(!admitted(&by_url, Some("http://gateway.local:8080")));
    }
}
