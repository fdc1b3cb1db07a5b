//! The signatures of COS requests (doc 7778): issued and verified as documented. Knows nothing of HTTP, links or
//! objects.

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::{Digest, Sha1};

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub fn hmac(key: &[u8], text: &[u8]) -> [u8; 20] {
    // HMAC accepts keys of any length, so this cannot fail.
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

pub fn hmac_hex(key: &[u8], text: &[u8]) -> String {
    hex::encode(hmac(key, text))
}

pub fn sha1_hex(bytes: &[u8]) -> String {
    hex::encode(Sha1::digest(bytes))
}

/// Compares two texts in a time that does not depend on where they differ.
pub fn constant_time_eq(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes().zip(b.bytes()).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// `q-signature` of a request without signed parameters and headers. `path` is percent-decoded and starts with `/`.
pub fn signature(
    secret_key: &str,
    key_time: &str,
    sign_time: &str,
    method: &str,
    path: &str,
) -> String {
    let http_string = http_string(method, path, &[], &[]);
    sign_http_string(secret_key, key_time, sign_time, &http_string)
}

/// The HttpString of a request. The names are encoded and lower case, and the lists sorted by them; the values are
/// plain.
pub fn http_string(
    method: &str,
    path: &str,
    parameters: &[(&str, &str)],
    headers: &[(&str, &str)],
) -> String {
    let joined = |list: &[(&str, &str)]| {
        let pairs = list.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
        pairs.collect::<Vec<_>>().join("&")
    };
    format!(
        "{}\n{path}\n{}\n{}\n",
        method.to_ascii_lowercase(),
        joined(parameters),
        joined(headers)
    )
}

/// `UrlEncode` of the documentation: everything is encoded except the unreserved characters of RFC 3986.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

pub fn sign_http_string(
    secret_key: &str,
    key_time: &str,
    sign_time: &str,
    http_string: &str,
) -> String {
    sign_digest(secret_key, key_time, sign_time, &sha1_hex(http_string.as_bytes()))
}

fn sign_digest(secret_key: &str, key_time: &str, sign_time: &str, digest: &str) -> String {
    let sign_key = hmac_hex(secret_key.as_bytes(), key_time.as_bytes());
    let string_to_sign = format!("sha1\n{sign_time}\n{digest}\n");
    hmac_hex(sign_key.as_bytes(), string_to_sign.as_bytes())
}

/// The parsed `Signature` field of a form.
#[derive(Debug, PartialEq)]
pub struct Authorization<'a> {
    pub access_key: &'a str,
    pub sign_time: &'a str,
    pub key_time: &'a str,
    pub valid_from: u64,
    pub expires: u64,
    pub signature: &'a str,
}

impl<'a> Authorization<'a> {
    /// Accepts exactly the seven parameters of a COS signature, in their order, with both lists empty: a client must
    /// send the text of the link unchanged.
    pub fn parse(text: &'a str) -> Option<Authorization<'a>> {
        let mut parts = text.split('&');
        let mut next = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        if next("q-sign-algorithm")? != "sha1" {
            return None;
        }
        let access_key = next("q-ak")?;
        let sign_time = next("q-sign-time")?;
        let key_time = next("q-key-time")?;
        if !next("q-header-list")?.is_empty() || !next("q-url-param-list")?.is_empty() {
            return None;
        }
        let signature = next("q-signature")?;
        if parts.next().is_some() {
            return None;
        }
        let (valid_from, expires) = sign_time.split_once(';')?;
        Some(Authorization {
            access_key,
            sign_time,
            key_time,
            valid_from: valid_from.parse().ok()?,
            expires: expires.parse().ok()?,
            signature,
        })
    }

    pub fn write(
        access_key: &str,
        secret_key: &str,
        valid_from: u64,
        expires: u64,
        method: &str,
        path: &str,
    ) -> String {
        let time = format!("{valid_from};{expires}");
        let signature = signature(secret_key, &time, &time, method, path);
        format!(
            "q-sign-algorithm=sha1&q-ak={access_key}&q-sign-time={time}&q-key-time={time}\
             &q-header-list=&q-url-param-list=&q-signature={signature}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "BQYIM75p8x0iWVFSIgqEKwFprpRSVHlz";
    const TIME: &str = "1557989151;1557996351";

    #[test]
    fn the_documented_vector() {
        assert_eq!(
            hmac_hex(SECRET.as_bytes(), TIME.as_bytes()),
            "eb2519b498b02ac213cb1f3d1a3d27a3b3c9bc5f"
        );
        assert_eq!(
            sign_digest(SECRET, TIME, TIME, "8b2751e77f43a0995d6e9eb9477f4b685cca4172"),
            "3b8851a11a569213c17ba8fa7dcf2abec6935172"
        );
    }

    /// Both examples of doc 7778.
    #[test]
    fn the_documented_requests() {
        let upload = http_string(
            "PUT",
            "/exampleobject(腾讯云)",
            &[],
            &[
                ("content-length", "13"),
                ("content-md5", "mQ/fVh815F3k6TAUm8m0eg=="),
                ("content-type", "text/plain"),
                ("date", "Thu, 16 May 2019 06:45:51 GMT"),
                ("host", "examplebucket-1250000000.cos.ap-beijing.myqcloud.com"),
                ("x-cos-acl", "private"),
                ("x-cos-grant-read", "uin=\"100000000011\""),
            ],
        );
        assert_eq!(
            sign_http_string(SECRET, TIME, TIME, &upload),
            "3b8851a11a569213c17ba8fa7dcf2abec6935172"
        );
        let download = http_string(
            "GET",
            "/exampleobject(腾讯云)",
            &[
                ("response-cache-control", "max-age=600"),
                ("response-content-type", "application/octet-stream"),
            ],
            &[
                ("date", "Thu, 16 May 2019 06:55:53 GMT"),
                ("host", "examplebucket-1250000000.cos.ap-beijing.myqcloud.com"),
            ],
        );
        let time = "1557989753;1557996953";
        assert_eq!(
            sign_http_string(SECRET, time, time, &download),
            "01681b8c9d798a678e43b685a9f1bba0f6c0e012"
        );
    }

    #[test]
    fn what_is_written_reads_back_and_verifies() {
        let text = Authorization::write("AKID", SECRET, 10, 910, "post", "/bucket/目录/a b.png");
        let read = Authorization::parse(&text).unwrap();
        assert_eq!((read.access_key, read.valid_from, read.expires), ("AKID", 10, 910));
        assert_eq!(
            read.signature,
            signature(SECRET, read.key_time, read.sign_time, "POST", "/bucket/目录/a b.png")
        );
        assert_ne!(
            read.signature,
            signature(SECRET, read.key_time, read.sign_time, "post", "/bucket/other")
        );
    }

    #[test]
    fn rearranged_or_extended_authorizations_are_refused() {
        let text = Authorization::write("AKID", SECRET, 10, 910, "post", "/b/k");
        let extended = format!("{text}&x=1");
        let swapped =
            text.replace("q-header-list=&q-url-param-list=", "q-url-param-list=&q-header-list=");
        for wrong in ["", "q-ak=1", &extended, &swapped, &text.replace("sha1", "md5")] {
            assert_eq!(Authorization::parse(wrong), None, "{wrong}");
        }
    }
}
