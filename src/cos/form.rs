//! The form COS wants: its fields in the one order it accepts, the file last.

use bytes::Bytes;
use rand::RngExt;

use super::error::CosError;

/// What an upload link hands us for the form, and what we say of the object.
pub struct Fields<'a> {
    pub key: &'a str,
    pub signature: &'a str,
    pub security_token: &'a str,
    /// The link's `cos_file_id`, byte for byte; an object stored without it can never be downloaded.
    pub file_id: &'a str,
    /// COS ignores the file part's own type; without this field an image downloads instead of showing (doc 14690).
    pub content_type: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// Names and values in COS's order; the file comes behind them.
    pub fn ordered(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let fields = [
            ("key", Some(self.key)),
            ("Signature", Some(self.signature)),
            ("x-cos-security-token", Some(self.security_token)),
            ("x-cos-meta-fileid", Some(self.file_id)),
            ("Content-Type", self.content_type),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// What a form's head is longer than its values.
const FRAMING: usize = 1024;

/// Everything of the form but the file's bytes. Holds a signature: no `Debug`.
#[derive(Clone)]
pub struct FormEnvelope {
    /// Without quotes, as COS wants it. Random for each upload: a client that could predict it could put a second
    /// `key` into its file.
    pub boundary: String,
    /// From the first delimiter to the file's first byte.
    pub head: Bytes,
    /// `\r\n--boundary--`.
    pub closing: Bytes,
}

impl FormEnvelope {
    /// Builds the envelope. A line break in a value would let it end its part: refused, as WeChat never sends one.
    pub fn new(fields: &Fields<'_>) -> Result<Self, CosError> {
        let boundary = ["gateway-", &hex::encode(rand::rng().random::<[u8; 16]>())].concat();
        let values: usize = fields.ordered().map(|(_, value)| value.len()).sum();
        let mut head = String::with_capacity(values + FRAMING);
        for (name, value) in fields.ordered() {
            if memchr::memchr2(b'\r', b'\n', value.as_bytes()).is_some() {
                return Err(CosError::Link("a form field holds a line break"));
            }
            for piece in
                ["--", &boundary, "\r\nContent-Disposition: form-data; name=\"", name, "\"\r\n\r\n"]
            {
                head.push_str(piece);
            }
            head.push_str(value);
            head.push_str("\r\n");
        }
        for piece in [
            "--",
            &boundary,
            "\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n",
            "Content-Type: application/octet-stream\r\n\r\n",
        ] {
            head.push_str(piece);
        }
        let closing = Bytes::from(["\r\n--", &boundary, "--"].concat());
        Ok(Self { boundary, head: Bytes::from(head), closing })
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
        }
    }

    #[test]
    fn fields_stand_in_cos_order_with_the_file_last() {
        let envelope = FormEnvelope::new(&fields(Some("image/png"))).unwrap();
        let head = String::from_utf8(envelope.head.to_vec()).unwrap();
        let names: Vec<_> =
            head.split("name=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        // "file" twice: the part's name and its fixed file name.
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
        assert_eq!(envelope.closing, format!("\r\n--{}--", envelope.boundary).as_bytes());
    }

    #[test]
    fn a_value_that_could_end_its_part_is_refused() {
        let with_break = Fields { signature: "a\r\n--x", ..fields(None) };
        assert!(matches!(FormEnvelope::new(&with_break), Err(CosError::Link(_))));
    }

    #[test]
    fn boundaries_do_not_repeat() {
        let all: std::collections::HashSet<_> =
            (0..100).map(|_| FormEnvelope::new(&fields(None)).unwrap().boundary).collect();
        assert_eq!(all.len(), 100);
    }
}
