//! A request to COS's own API: its signed head.

use percent_encoding::utf8_percent_encode;
use secrecy::ExposeSecret;

use super::credentials::Credentials;
use super::endpoint::{BucketEndpoint, path};
use super::sign::{Signable, VALUE, authorization};
use crate::cos::error::CosError;
use crate::net::http_client::exchange::head;

/// A request before it is signed.
pub(super) struct Request<'a> {
    pub method: &'static str,
    /// Empty for the bucket itself.
    pub key: &'a str,
    /// Not encoded, each name once.
    pub parameters: &'a [(&'static str, &'a str)],
    pub fields: &'a [(&'static str, &'a str)],
    /// Bytes of the body; `None` for a method that has no body.
    pub length: Option<u64>,
}

impl Request<'_> {
    /// The head, signed at `now` (seconds since 1970) with every field and parameter that it has.
    pub fn head(
        &self,
        bucket: &BucketEndpoint,
        credentials: &Credentials,
        now: u64,
    ) -> Result<String, CosError> {
        let length = self.length.map(|length| length.to_string());
        let token = credentials.token.as_ref().map(|token| token.expose_secret());
        let mut fields = self.fields.to_vec();
        fields.extend(token.map(|token| ("x-cos-security-token", token)));
        // A line break would end the field; a byte that is not ASCII may be signed and be received differently.
        if fields.iter().any(|(_, value)| !value.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
            return Err(CosError::Link(
                "a value for a header is not of printable ASCII characters",
            ));
        }
        let mut signed = fields.clone();
        signed.push(("host", bucket.authority.as_str()));
        signed.extend(length.as_deref().map(|length| ("content-length", length)));
        let authorization = authorization(
            &Signable {
                method: self.method,
                path: &["/", self.key].concat(),
                parameters: self.parameters,
                headers: &signed,
            },
            credentials,
            now,
        );
        fields.push(("Authorization", &authorization));
        Ok(head(self.method, &self.target(), &bucket.authority, &fields, self.length))
    }

    /// The path with its query.
    fn target(&self) -> String {
        let mut target = path(self.key);
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.extend(utf8_percent_encode(value, VALUE));
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::EndpointTemplate;
    use super::*;

    fn bucket() -> BucketEndpoint {
        let template = EndpointTemplate::parse("http://127.0.0.1:9000", true).unwrap();
        template.resolve(None, None).unwrap()
    }

    fn request<'a>(fields: &'a [(&'static str, &'a str)]) -> Request<'a> {
        Request {
            method: "PUT",
            key: "a/中 b.png",
            parameters: &[("partNumber", "7"), ("uploadId", "x/y")],
            fields,
            length: Some(5),
        }
    }

    #[test]
    fn every_field_and_parameter_is_signed() {
        let credentials = Credentials::new("AKID", "key", Some("token/+")).unwrap();
        let fields = [("x-cos-meta-fileid", "ab+c/=="), ("Content-Type", "image/png")];
        let head = request(&fields).head(&bucket(), &credentials, 1000).unwrap();
        let lines: Vec<_> = head.split("\r\n").collect();
        assert_eq!(
            lines[..5],
            [
                "PUT /a/%E4%B8%AD%20b.png?partNumber=7&uploadId=x%2Fy HTTP/1.1",
                "Host: 127.0.0.1:9000",
                "x-cos-meta-fileid: ab+c/==",
                "Content-Type: image/png",
                "x-cos-security-token: token/+",
            ]
        );
        let list = "q-header-list=content-length;content-type;host;x-cos-meta-fileid;x-cos-security-token\
                    &q-url-param-list=partnumber;uploadid&";
        assert!(lines[5].starts_with("Authorization: q-sign-algorithm=sha1&q-ak=AKID&"));
        assert!(lines[5].contains(list), "{}", lines[5]);
        assert_eq!(lines[6..], ["Content-Length: 5", "", ""]);
    }

    #[test]
    fn a_value_that_could_end_its_field_is_refused() {
        let credentials = Credentials::new("AKID", "key", None).unwrap();
        for wrong in ["a\r\nx: y", "a\nb", "a\0", "é", "\u{7f}"] {
            let fields = [("Content-Type", wrong)];
            let head = request(&fields).head(&bucket(), &credentials, 1000);
            assert!(matches!(head, Err(CosError::Link(_))), "{wrong:?}");
        }
    }
}
