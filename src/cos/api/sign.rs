//! The `Authorization` header of a request to COS's own API (doc 7778).

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret;
use sha1::{Digest, Sha1};

use super::credentials::Credentials;

/// Seconds before now from which a signature is valid: the clocks of the gateway and COS may differ.
const VALID_BEFORE: u64 = 5 * 60;
/// Seconds after now until which it is valid. COS checks it when it has received the request's head.
const VALID_AFTER: u64 = 30 * 60;

/// The characters that are percent-encoded in values of parameters and headers.
pub(super) const VALUE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What is signed of a request.
pub struct Signable<'a> {
    /// As in the request line.
    pub method: &'a str,
    /// Percent-decoded, with a leading slash.
    pub path: &'a str,
    /// Names and values, not encoded. Each name is there once, and has no character that would be encoded.
    pub parameters: &'a [(&'a str, &'a str)],
    pub headers: &'a [(&'a str, &'a str)],
}

/// The value of the `Authorization` header; `now` in seconds since 1970.
pub fn authorization(request: &Signable<'_>, credentials: &Credentials, now: u64) -> String {
    let period = format!("{};{}", now.saturating_sub(VALID_BEFORE), now + VALID_AFTER);
    authorization_for(request, credentials, &period)
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `period` is the seconds since 1970 from which and until which the signature is valid, with a semicolon between.
fn authorization_for(request: &Signable<'_>, credentials: &Credentials, period: &str) -> String {
    let sign_key = hmac_hex(credentials.secret_key.expose_secret(), period);
    let (parameter_list, parameters) = listed(request.parameters);
    let (header_list, headers) = listed(request.headers);
    let method = request.method.to_ascii_lowercase();
    let http_string = format!("{method}\n{}\n{parameters}\n{headers}\n", request.path);
    let digest = hex::encode(Sha1::digest(http_string));
    let signature = hmac_hex(&sign_key, &format!("sha1\n{period}\n{digest}\n"));
    format!(
        "q-sign-algorithm=sha1&q-ak={}&q-sign-time={period}&q-key-time={period}&q-header-list={header_list}\
         &q-url-param-list={parameter_list}&q-signature={signature}",
        credentials.secret_id
    )
}

/// The names in lower case and sorted, with semicolons between; and names and values as in a query.
fn listed(pairs: &[(&str, &str)]) -> (String, String) {
    let mut pairs: Vec<_> =
        pairs.iter().map(|(name, value)| (name.to_ascii_lowercase(), *value)).collect();
    pairs.sort_unstable();
    let (mut names, mut query) = (String::new(), String::new());
    for (name, value) in pairs {
        if !names.is_empty() {
            names.push(';');
            query.push('&');
        }
        names.push_str(&name);
        // Writing to a String cannot fail.
        let _ = write!(query, "{name}={}", utf8_percent_encode(value, VALUE));
    }
    (names, query)
}

fn hmac_hex(key: &str, text: &str) -> String {
    // HMAC accepts keys of any length, so this cannot fail.
    let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("HMAC takes any key");
    mac.update(text.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: (&str, &str) = ("Host", "examplebucket-1250000000.cos.ap-beijing.myqcloud.com");

    fn documented() -> Credentials {
        let id = "AKIDQjz3ltompVjBni5LitkWHFlFpwkn9U5q";
        Credentials::new(id, "BQYIM75p8x0iWVFSIgqEKwFprpRSVHlz", None).unwrap()
    }

    #[test]
    fn the_documented_put() {
        let request = Signable {
            method: "PUT",
            path: "/exampleobject(腾讯云)",
            parameters: &[],
            headers: &[
                ("Date", "Thu, 16 May 2019 06:45:51 GMT"),
                HOST,
                ("Content-Type", "text/plain"),
                ("Content-Length", "13"),
                ("Content-MD5", "mQ/fVh815F3k6TAUm8m0eg=="),
                ("x-cos-acl", "private"),
                ("x-cos-grant-read", "uin=\"100000000011\""),
            ],
        };
        assert_eq!(
            authorization_for(&request, &documented(), "1557989151;1557996351"),
            "q-sign-algorithm=sha1&q-ak=AKIDQjz3ltompVjBni5LitkWHFlFpwkn9U5q\
             &q-sign-time=1557989151;1557996351&q-key-time=1557989151;1557996351\
             &q-header-list=content-length;content-md5;content-type;date;host;x-cos-acl;x-cos-grant-read\
             &q-url-param-list=&q-signature=3b8851a11a569213c17ba8fa7dcf2abec6935172"
        );
    }

    #[test]
    fn the_documented_get() {
        let request = Signable {
            method: "GET",
            path: "/exampleobject(腾讯云)",
            parameters: &[
                ("response-content-type", "application/octet-stream"),
                ("response-cache-control", "max-age=600"),
            ],
            headers: &[("Date", "Thu, 16 May 2019 06:55:53 GMT"), HOST],
        };
        assert_eq!(
            authorization_for(&request, &documented(), "1557989753;1557996953"),
            "q-sign-algorithm=sha1&q-ak=AKIDQjz3ltompVjBni5LitkWHFlFpwkn9U5q\
             &q-sign-time=1557989753;1557996953&q-key-time=1557989753;1557996953\
             &q-header-list=date;host&q-url-param-list=response-cache-control;response-content-type\
             &q-signature=01681b8c9d798a678e43b685a9f1bba0f6c0e012"
        );
    }

    /// From the tests of cos-go-sdk-v5.
    #[test]
    fn the_go_sdk_s_put() {
        let key = "AKIDZfbOA78asKUYBcXFrJD0a1ICvR98JM";
        let credentials = Credentials::new("QmFzZTY0IGlzIGEgZ2VuZXJp", key, None).unwrap();
        let request = Signable {
            method: "PUT",
            path: "/testfile2",
            parameters: &[],
            headers: &[
                ("Host", "testbucket-125000000.cos.ap-guangzhou.myqcloud.com"),
                ("x-cos-content-sha1", "db8ac1c259eb89d4a131b253bacfca5f319d54f2"),
                ("x-cos-stroage-class", "nearline"),
            ],
        };
        assert!(
            authorization_for(&request, &credentials, "1480932292;1481012292")
                .ends_with("&q-signature=ce4ac0ecbcdb30538b3fee0a97cc6389694ce53a")
        );
    }

    #[test]
    fn names_are_sorted_in_lower_case_and_values_are_encoded() {
        let (names, query) = listed(&[("uploadId", "a/b+c"), ("partNumber", "1"), ("uploads", "")]);
        assert_eq!(names, "partnumber;uploadid;uploads");
        assert_eq!(query, "partnumber=1&uploadid=a%2Fb%2Bc&uploads=");
        assert_eq!(listed(&[("x", "中 ~*'()")]).1, "x=%E4%B8%AD%20~%2A%27%28%29");
    }

    #[test]
    fn a_signature_is_valid_from_before_now_to_well_after() {
        let request = Signable { method: "GET", path: "/", parameters: &[], headers: &[] };
        let text = authorization(&request, &documented(), 1_000_000);
        assert!(text.contains("q-sign-time=999700;1001800&q-key-time=999700;1001800&"), "{text}");
        authorization(&request, &documented(), 0);
    }
}
