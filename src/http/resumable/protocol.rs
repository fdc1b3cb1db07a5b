//! The headers of tus 1.0 (<https://tus.io/protocols/resumable-upload>).

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::http::problem::{Code, Problem};
use crate::key::KeyError;

pub const VERSION: &str = "1.0.0";
pub const EXTENSIONS: &str = "creation,creation-with-upload,termination,expiration,checksum";
/// Only with COS's API: a form must announce its length.
pub const DEFERRED_LENGTH: &str = "creation-defer-length";
pub const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
pub const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
pub const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
pub const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
pub const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// Bytes of `Upload-Metadata` at most: it is part of the upload's URL.
const MAX_METADATA: usize = 2 * 1024;
/// The metadata that the gateway uses: what a file is called, its type, where it is stored.
const USED: [&str; 6] = ["filename", "name", "filetype", "type", "path", "dir"];
/// Those of them that say where the file is stored: they must be text.
const NAMING: [&str; 2] = ["path", "dir"];
/// COS's limit of an object, 48.8 TB, is far below; sums do not overflow.
const MAX_NUMBER: u64 = 1 << 60;

/// The method that is meant: some clients can send only GET and POST (`X-HTTP-Method-Override`).
pub fn method(method: &Method, headers: &HeaderMap) -> Result<Method, Problem> {
    match single(headers, &METHOD_OVERRIDE)? {
        Some(meant) if method == Method::POST => {
            let upper = meant.to_ascii_uppercase();
            upper.parse().map_err(|_| invalid(format!("`{METHOD_OVERRIDE}` is not a method")))
        }
        _ => Ok(method.clone()),
    }
}

/// The method of a request as its handler takes it: only an upload's URL can have an override, which is then valid.
pub fn meant_method(request: &HttpRequest) -> Method {
    let own = request.method();
    match request.path().starts_with("/v1/uploads/") {
        true => method(own, request.headers()).unwrap_or_else(|_| own.clone()),
        false => own.clone(),
    }
}

/// Refuses a piece of a file that is to be put together from several uploads: it would be stored as a file of its own.
pub fn refuse_concatenation(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.contains_key(UPLOAD_CONCAT) {
        true => Err(invalid(
            "the extension `concatenation` is not supported: leave out `Upload-Concat` (tus-js-client, Uppy: \
             `parallelUploads: 1`)",
        )),
        false => Ok(()),
    }
}

/// Fails unless the client says that it uses this version.
pub fn check_version(headers: &HeaderMap) -> Result<(), Problem> {
    match single(headers, &TUS_RESUMABLE)? {
        Some(VERSION) => Ok(()),
        Some(_) => Err(Problem::new(
            Code::TusVersion,
            format!("`Tus-Resumable` has another version than {VERSION}"),
        )),
        None => Err(Problem::new(
            Code::TusVersion,
            format!("the request has no `Tus-Resumable: {VERSION}`"),
        )),
    }
}

/// Fails unless the body is announced as bytes of an upload.
pub fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    match is_offset_stream(headers) {
        true => Ok(()),
        false => Err(Problem::new(
            Code::NotOffsetStream,
            "bytes of an upload are sent with `Content-Type: application/offset+octet-stream`",
        )),
    }
}

/// Whether the body is announced as bytes of an upload.
pub fn is_offset_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/offset+octet-stream")
    })
}

/// A header with a number of bytes; `None` where it is missing.
pub fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Problem> {
    let Some(value) = single(headers, name)? else {
        return Ok(None);
    };
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if is_number && number <= MAX_NUMBER => Ok(Some(number)),
        _ => Err(invalid(format!("`{name}` is not a number of bytes"))),
    }
}

/// The length of a new upload; `None` where it is told later.
pub fn length_at_creation(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let length = number(headers, &UPLOAD_LENGTH)?;
    let deferred = single(headers, &UPLOAD_DEFER_LENGTH)?;
    match (length, deferred) {
        (Some(length), None) => Ok(Some(length)),
        (None, Some("1")) => Ok(None),
        (None, Some(_)) => Err(invalid("`Upload-Defer-Length` can only be 1")),
        (Some(_), Some(_)) => {
            Err(invalid("the request has both `Upload-Length` and `Upload-Defer-Length`"))
        }
        (None, None) => {
            Err(invalid("the request has neither `Upload-Length` nor `Upload-Defer-Length: 1`"))
        }
    }
}

/// What `Upload-Metadata` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// As it was sent.
    pub raw: String,
    pairs: Vec<(String, String)>,
}

impl Metadata {
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(raw) = single(headers, &UPLOAD_METADATA)? else {
            return Ok(Self::default());
        };
        Self::parse(raw)
    }

    /// The value of the header.
    pub fn parse(raw: &str) -> Result<Self, Problem> {
        if raw.len() > MAX_METADATA {
            return Err(Problem::new(
                Code::FieldsTooLarge,
                format!("`Upload-Metadata` has more than {MAX_METADATA} bytes"),
            ));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        // An empty header has no pairs.
        for pair in raw.split(',').map(str::trim).filter(|_| !raw.trim().is_empty()) {
            let (name, value) = pair.split_once(' ').unwrap_or((pair, ""));
            if name.is_empty() {
                return Err(invalid("a pair of `Upload-Metadata` has no name"));
            }
            if pairs.iter().any(|(other, _)| other == name) {
                return Err(invalid(format!("`Upload-Metadata` has `{name}` twice")));
            }
            let bytes = STANDARD.decode(value.trim());
            let bytes = bytes
                .map_err(|_| invalid(format!("`{name}` of `Upload-Metadata` is not Base64")))?;
            let value = match String::from_utf8(bytes) {
                Ok(value) => value,
                // Two files could have the same.
                Err(_) if NAMING.contains(&name) => return Err(KeyError::Encoding.into()),
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            };
            pairs.push((name.to_owned(), value));
        }
        Ok(Self { raw: raw.to_owned(), pairs })
    }

    /// Names and values that say nothing that the gateway itself uses.
    pub fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        pairs.filter(|(name, _)| !USED.contains(name))
    }

    /// The value of the first of `names` that has one, and is not empty.
    pub fn get<'a>(&'a self, names: &[&str]) -> Option<&'a str> {
        let value = |name: &&str| self.pairs.iter().find(|(other, _)| other == name);
        let mut values = names.iter().filter_map(value).map(|(_, value)| value.as_str());
        values.find(|value| !value.is_empty())
    }
}

/// A header that may occur once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut lines = headers.get_all(name);
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| invalid(format!("`{name}` is not ASCII")))
        }
        (Some(_), Some(_)) => Err(invalid(format!("the request has `{name}` twice"))),
    }
}

/// An HTTP date, as in `Upload-Expires`.
pub fn http_date(unix_seconds: i64) -> String {
    let time = Timestamp::from_second(unix_seconds).unwrap_or(Timestamp::MAX);
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

pub fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn numbers_are_digits_only() {
        let number = |value| number(&headers(&[(UPLOAD_OFFSET, value)]), &UPLOAD_OFFSET);
        assert_eq!(number("0").unwrap(), Some(0));
        assert_eq!(number("1152921504606846976").unwrap(), Some(MAX_NUMBER));
        for bad in
            ["", "-1", "+1", "1.0", "1e3", "1152921504606846977", "99999999999999999999", "1 "]
        {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_length_is_told_now_or_later() {
        let length = |lines: &[(HeaderName, &str)]| length_at_creation(&headers(lines));
        assert_eq!(length(&[(UPLOAD_LENGTH, "5")]).unwrap(), Some(5));
        assert_eq!(length(&[(UPLOAD_DEFER_LENGTH, "1")]).unwrap(), None);
        for bad in [
            &[][..],
            &[(UPLOAD_DEFER_LENGTH, "0")],
            &[(UPLOAD_LENGTH, "5"), (UPLOAD_DEFER_LENGTH, "1")],
            &[(UPLOAD_LENGTH, "5"), (UPLOAD_LENGTH, "5")],
        ] {
            assert!(length(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn metadata_is_pairs_of_names_and_base64() {
        let metadata = |value: &str| Metadata::of(&headers(&[(UPLOAD_METADATA, value)]));
        let read = metadata("filename 5paH5Lu2LnBuZw==,is_confidential, name ZQ==").unwrap();
        assert_eq!(read.get(&["filename", "name"]), Some("文件.png"));
        assert_eq!(read.get(&["is_confidential", "name"]), Some("e"));
        assert_eq!(read.get(&["path"]), None);
        assert_eq!(metadata("").unwrap(), Metadata::default());
        assert_eq!(metadata("name 1tA=").unwrap().get(&["name"]), Some("\u{fffd}\u{fffd}"));
        for naming in ["path YS/WKnR4dA==", "dir 1tA="] {
            assert_eq!(metadata(naming).unwrap_err().code, Code::InvalidPath, "{naming}");
        }
        assert!(metadata(&format!("a {}", "QUFB".repeat(511))).is_ok());
        for bad in ["a %", "a QQ==,a QQ==", ",", "a QQ==,", &format!("a {}", "QUFB".repeat(512))] {
            assert!(metadata(bad).is_err(), "{bad:?}");
        }
    }
}
