//! The form that COS accepts: its fields in the required order, the file last.

use std::fmt::Write;

use bytes::Bytes;
use rand::RngExt;

use super::error::CosError;

/// The form's fields: those from the upload link, and the object's Content-Type.
pub struct Fields<'a> {
    pub key: &'a str,
    pub signature: &'a str,
    pub security_token: &'a str,
    /// The link's `cos_file_id`, byte for byte; an object stored without it can never be downloaded.
    pub file_id: &'a str,
    /// COS ignores the file part's own type; without this field an image downloads instead of showing (doc 14690).
    pub content_type: Option<&'a str>,
    /// Sent with each download, as is `cache_control` (doc 14690).
    pub content_disposition: Option<&'a str>,
    pub cache_control: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// Names and values in COS's order; the file comes after them.
    pub fn ordered(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let fields = [
            ("key", Some(self.key)),
            ("Signature", Some(self.signature)),
            ("x-cos-security-token", Some(self.security_token)),
            ("x-cos-meta-fileid", Some(self.file_id)),
            ("Content-Type", self.content_type),
            ("Content-Disposition", self.content_disposition),
            ("Cache-Control", self.cache_control),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// An estimate of a form's length without its values and the file.
const HEAD_OVERHEAD: usize = 1280;
/// The form's own media type, but for its boundary.
const CONTENT_TYPE: &str = "multipart/form-data; boundary=";
const BOUNDARY_LENGTH: usize = "gateway-".len() + 32;
/// The head of the file's part.
const FILE_HEAD: &str = "\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
                         Content-Type: application/octet-stream\r\n\r\n";

/// The whole form but the file's bytes. It contains a signature, so it has no `Debug`.
#[derive(Clone)]
pub struct FormEnvelope {
    /// The request's: `multipart/form-data`, and the boundary without quotes, as COS requires. The boundary is random for
    /// each upload: a client that can predict it can put a second `key` into its file.
    pub content_type: String,
    /// From the first delimiter to the file's first byte.
    pub head: Bytes,
    /// `\r\n--boundary--`.
    pub closing: Bytes,
}

impl FormEnvelope {
    /// Builds the envelope. A value with a line break is refused: it could end its part, and WeChat never sends one.
    pub fn new(fields: &Fields<'_>) -> Result<Self, CosError> {
        let mut content_type = String::with_capacity(CONTENT_TYPE.len() + BOUNDARY_LENGTH);
        content_type.push_str(CONTENT_TYPE);
        // Writing to a string does not fail.
        let _ = write!(content_type, "gateway-{:032x}", rand::rng().random::<u128>());
        let boundary = &content_type[CONTENT_TYPE.len()..];
        let values: usize = fields.ordered().map(|(_, value)| value.len()).sum();
        let mut head = String::with_capacity(values + HEAD_OVERHEAD);
        for (name, value) in fields.ordered() {
            if memchr::memchr2(b'\r', b'\n', value.as_bytes()).is_some() {
                return Err(CosError::Link("a form field contains a line break"));
            }
            head.extend(["--", boundary, "\r\nContent-Disposition: form-data; name=\"", name]);
            head.extend(["\"\r\n\r\n", value, "\r\n"]);
        }
        head.extend(["--", boundary, FILE_HEAD]);
        let file = head.len();
        head.extend(["\r\n--", boundary, "--"]);
        let mut head = Bytes::from(head);
        let closing = head.split_off(file);
        Ok(Self { content_type, head, closing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(content_type: Option<&str>) -> Fields<'_> {
        Fields {
            key: "a/中.png",
            signature: "q-sign-algorithm=sha1&q-ak=x",
            security_token: "token",
            file_id: "ab+c/d==",
            content_type,
            content_disposition: None,
            cache_control: None,
        }
    }

    #[test]
    fn fields_are_in_cos_order_with_the_file_last() {
        let envelope = FormEnvelope::new(&fields(Some("image/png"))).unwrap();
        let head = String::from_utf8(envelope.head.to_vec()).unwrap();
        let names: Vec<_> =
            head.split("name=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        // "file" twice: the part's name and its constant file name.
        let expected = [
            "key",
            "Signature",
            "x-cos-security-token",
            "x-cos-meta-fileid",
            "Content-Type",
            "file",
            "file",
        ];
        assert_eq!(names, expected);
        assert!(head.contains("name=\"x-cos-meta-fileid\"\r\n\r\nab+c/d==\r\n--"));
        assert!(head.ends_with("\r\n\r\n"));
        let (_, boundary) = envelope.content_type.split_once("form-data; boundary=").unwrap();
        assert!(head.starts_with(&format!("--{boundary}\r\n")));
        assert_eq!(envelope.closing, format!("\r\n--{boundary}--").as_bytes());
    }

    #[test]
    fn a_value_that_could_end_its_part_is_refused() {
        for with_break in [
            Fields { signature: "a\r\n--x", ..fields(None) },
            Fields { content_disposition: Some("inline\n--x"), ..fields(None) },
            Fields { cache_control: Some("no-store\r"), ..fields(None) },
        ] {
            assert!(matches!(FormEnvelope::new(&with_break), Err(CosError::Link(_))));
        }
    }

    #[test]
    fn boundaries_do_not_repeat() {
        let all: std::collections::HashSet<_> =
            (0..100).map(|_| FormEnvelope::new(&fields(None)).unwrap().content_type).collect();
        assert_eq!(all.len(), 100);
    }
}
