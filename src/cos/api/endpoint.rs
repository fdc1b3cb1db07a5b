//! Where a bucket is: the endpoint of the settings, the bucket and region of an upload link, and the URLs of objects.

use hyper::Uri;
use percent_encoding::{AsciiSet, utf8_percent_encode};

use super::sign::VALUE;
use crate::cos::target::{Target, is_key};
use crate::net::http_client::Endpoint;

/// The characters that are percent-encoded in an object's path; UTF-8, with the slashes of the key.
const PATH: &AsciiSet = &VALUE.remove(b'/');

const BUCKET: &str = "{bucket}";
const REGION: &str = "{region}";
/// The placeholders are replaced by these labels where a template is checked.
const EXAMPLE: &str = "x-1";

/// The longest bucket name with its APPID, and the longest region: both are labels of a host name.
const MAX_LABEL: usize = 63;

/// Why an endpoint or a bucket cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("it is not a URL")]
    NotAUrl,
    #[error("its scheme is not https")]
    Scheme,
    #[error("it contains user info")]
    UserInfo,
    #[error("its port is not a number")]
    Port,
    #[error("it has a path or a query")]
    Path,
    #[error("the bucket's name is missing, or not of small letters, digits and hyphens")]
    Bucket,
    #[error("the region is missing, or not of small letters, digits and hyphens")]
    Region,
}

/// `cos.api.endpoint`: a URL whose host contains `{bucket}` and `{region}`. Without `{bucket}` the host itself stands
/// for the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointTemplate(String);

/// A bucket's name with its APPID (`name-1250000000`), and its region (`ap-shanghai`) where it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketLocation {
    pub bucket: String,
    pub region: Option<String>,
}

/// A bucket's own origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketEndpoint {
    pub origin: Endpoint,
    /// The `Host` header. It is signed as it is sent.
    pub authority: String,
}

impl EndpointTemplate {
    /// `http` needs `allow_http`.
    pub fn parse(template: &str, allow_http: bool) -> Result<Self, EndpointError> {
        let example = template.replace(BUCKET, EXAMPLE).replace(REGION, EXAMPLE);
        let endpoint = BucketEndpoint::parse(&example)?;
        if !endpoint.origin.https && !allow_http {
            return Err(EndpointError::Scheme);
        }
        Ok(Self(template.to_owned()))
    }

    /// Whether a bucket or a region must be known, from the settings or an upload link.
    pub fn needs_location(&self) -> bool {
        self.0.contains(BUCKET) || self.0.contains(REGION)
    }

    /// The endpoint of this bucket, of which only what the template names is needed.
    pub fn resolve(
        &self,
        bucket: Option<&str>,
        region: Option<&str>,
    ) -> Result<BucketEndpoint, EndpointError> {
        let mut url = self.0.clone();
        for (placeholder, label, error) in
            [(BUCKET, bucket, EndpointError::Bucket), (REGION, region, EndpointError::Region)]
        {
            if url.contains(placeholder) {
                url = url.replace(placeholder, label.filter(|text| is_label(text)).ok_or(error)?);
            }
        }
        BucketEndpoint::parse(&url)
    }
}

impl BucketLocation {
    /// From the upload link for `key`, which was checked: `https://cos.<region>.<domain>/<bucket>/<key>`, or
    /// `https://<bucket>.cos.<region>.<domain>/<key>`. `None` where the link does not name the bucket.
    pub fn of_link(target: &Target, key: &str) -> Option<Self> {
        let labels: Vec<_> = target.origin.host.split('.').collect();
        let (bucket, region) = match *labels {
            [bucket, "cos", region, _, ..] => (Some(bucket), Some(region)),
            ["cos", region, _, ..] => (None, Some(region)),
            _ => (None, None),
        };
        let (path, _) = target.path.split_once('?').unwrap_or((&target.path, ""));
        let in_path = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let in_path = in_path.filter(|(_, rest)| is_key(rest, key)).map(|(bucket, _)| bucket);
        let bucket = bucket.or(in_path).filter(|text| is_label(text))?.to_owned();
        let region = region.filter(|text| is_label(text)).map(ToOwned::to_owned);
        Some(Self { bucket, region })
    }
}

impl BucketEndpoint {
    fn parse(url: &str) -> Result<Self, EndpointError> {
        let uri: Uri = url.parse().map_err(|_| EndpointError::NotAUrl)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(EndpointError::Scheme),
        };
        let authority = uri.authority().ok_or(EndpointError::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return Err(EndpointError::Path);
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            // What follows the host is a port that is no number below 65,536.
            None if authority.as_str() != authority.host() => return Err(EndpointError::Port),
            None if https => 443,
            None => 80,
        };
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let authority = authority.as_str().to_owned();
        Ok(Self { origin: Endpoint { https, host, port }, authority })
    }
}

/// The path of the object `key`, or of the bucket where it is empty.
pub(super) fn path(key: &str) -> String {
    let mut path = String::with_capacity(key.len() + 1);
    path.push('/');
    path.extend(utf8_percent_encode(key, PATH));
    path
}

/// A name that becomes a label of a host name: with any other characters, a forged link could make the gateway send
/// signed requests to another host.
fn is_label(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "https://{bucket}.cos.{region}.myqcloud.com";

    fn target(https: bool, host: &str, port: u16, path: &str) -> Target {
        let origin = Endpoint { https, host: host.to_owned(), port };
        Target { origin, path: path.to_owned(), authority: host.to_owned() }
    }

    #[test]
    fn the_default_endpoint_has_bucket_and_region_in_its_host() {
        let template = EndpointTemplate::parse(DEFAULT, false).unwrap();
        assert!(template.needs_location());
        let endpoint = template.resolve(Some("7465-env-125"), Some("ap-shanghai")).unwrap();
        let host = "7465-env-125.cos.ap-shanghai.myqcloud.com";
        assert_eq!(endpoint.authority, host);
        assert_eq!(endpoint.origin, Endpoint { https: true, host: host.to_owned(), port: 443 });
        let resolve = |bucket, region| template.resolve(bucket, region);
        assert_eq!(resolve(None, Some("r")), Err(EndpointError::Bucket));
        assert_eq!(resolve(Some("b"), None), Err(EndpointError::Region));
        let long = "b".repeat(MAX_LABEL + 1);
        for bucket in ["", "a.b", "a/b", "evil.com/", "a@b", "A", "a:1", "é", "a#", &long] {
            assert_eq!(resolve(Some(bucket), Some("r")), Err(EndpointError::Bucket), "{bucket}");
            assert_eq!(resolve(Some("b"), Some(bucket)), Err(EndpointError::Region), "{bucket}");
        }
        assert!(resolve(Some(&long[1..]), Some("r")).is_ok());
    }

    #[test]
    fn a_host_without_placeholders_stands_for_the_bucket() {
        let template = EndpointTemplate::parse("http://127.0.0.1:9000/", true).unwrap();
        assert!(!template.needs_location());
        let endpoint = template.resolve(None, None).unwrap();
        assert_eq!(endpoint.authority, "127.0.0.1:9000");
        let origin = Endpoint { https: false, host: "127.0.0.1".to_owned(), port: 9000 };
        assert_eq!(endpoint.origin, origin);
        let ipv6 = EndpointTemplate::parse("https://[::1]:9", false).unwrap();
        assert_eq!(ipv6.resolve(None, None).unwrap().origin.host, "::1");
    }

    #[test]
    fn endpoints_that_cannot_be_used_are_refused() {
        for (template, error) in [
            ("http://{bucket}.cos.{region}.myqcloud.com", EndpointError::Scheme),
            ("ftp://cos.example.com", EndpointError::Scheme),
            ("cos.example.com", EndpointError::Scheme),
            ("https://user@cos.example.com", EndpointError::UserInfo),
            ("https://{bucket}@cos.example.com", EndpointError::UserInfo),
            ("https://cos.example.com/{bucket}", EndpointError::Path),
            ("https://cos.example.com/?x", EndpointError::Path),
            ("https://{other}.example.com", EndpointError::NotAUrl),
            ("https://cos.example.com:70000", EndpointError::Port),
            ("", EndpointError::NotAUrl),
        ] {
            assert_eq!(EndpointTemplate::parse(template, false), Err(error), "{template}");
        }
    }

    #[test]
    fn a_bucket_is_learned_from_a_link() {
        let of = |https, host, path| {
            BucketLocation::of_link(&target(https, host, 443, path), "a/中")
                .map(|location| (location.bucket, location.region))
        };
        let known = |bucket: &str, region: &str| Some((bucket.to_owned(), Some(region.to_owned())));
        let regional = "cos.ap-shanghai.myqcloud.com";
        let path = "/7465-env-125/a/%E4%B8%AD?x";
        assert_eq!(of(true, regional, path), known("7465-env-125", "ap-shanghai"));
        let own = "7465-env-125.cos.ap-shanghai.myqcloud.com";
        assert_eq!(of(true, own, "/a/%E4%B8%AD"), known("7465-env-125", "ap-shanghai"));
        assert_eq!(of(false, "127.0.0.1", "/bucket/a/中"), Some(("bucket".to_owned(), None)));
        for (host, path) in [
            // The first folder of the key is no bucket.
            ("7465-env-125.tcb.qcloud.la", "/a/%E4%B8%AD"),
            (regional, "/a/%E4%B8%AD"),
            (regional, "/bucket/other"),
            (regional, "/"),
            (regional, "/%2e%2e/a/%E4%B8%AD"),
            ("evil_.cos.ap-shanghai.myqcloud.com", "/a/%E4%B8%AD"),
        ] {
            assert_eq!(of(true, host, path), None, "{host}{path}");
        }
    }

    #[test]
    fn paths_are_encoded_and_slashes_stay() {
        assert_eq!(path("a/中 b+~.png"), "/a/%E4%B8%AD%20b%2B~.png");
        assert_eq!(path("100%/?#&="), "/100%25/%3F%23%26%3D");
        assert_eq!(path(""), "/");
    }
}
