//! Upload links and download URLs: issued for WeChat's calls, verified by COS. They can be verified without being
//! stored, because everything in them is derived from one secret. Knows neither forms nor sockets.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::sign::{self, Authorization};

/// In a path, everything is encoded except the unreserved characters of RFC 3986 and the slash.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
const URL_SAFE: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The length of the random part of a security token; together with its MAC it is about as long as the vendor's sample.
const NONCE_LENGTH: usize = 360;
const MAC_LENGTH: usize = 40;
/// In base64; the rest of a file id depends on the path as well.
const FILE_ID_PREFIX_LENGTH: usize = 136;

pub struct Links {
    /// `http://host:port` of COS.
    base: String,
    env: String,
    bucket: String,
    life: Duration,
    access_key: String,
    secret_key: String,
}

pub struct UploadLink {
    pub url: String,
    pub token: String,
    pub authorization: String,
    pub file_id: String,
    pub cos_file_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum LinkError {
    #[error("The Signature you specified is invalid.")]
    WrongSignature,
    #[error("The Access Key Id you provided does not exist in our records.")]
    UnknownAccessKey,
    #[error("Request has expired")]
    Expired,
    #[error("Access Denied.")]
    Denied,
}

impl Links {
    pub fn new(base: String, env: &str, bucket: &str, life: Duration, secret: &str) -> Links {
        let derived = |what: &str| sign::hmac_hex(secret.as_bytes(), what.as_bytes());
        Links {
            base,
            env: env.to_owned(),
            bucket: bucket.to_owned(),
            life,
            access_key: format!("AKID{}", &derived("access key")[..32]),
            secret_key: derived("secret key")[..32].to_owned(),
        }
    }

    /// Links signed with these keys instead of the derived ones.
    pub fn with_keys(mut self, access_key: Option<String>, secret_key: Option<String>) -> Links {
        self.access_key = access_key.unwrap_or(self.access_key);
        self.secret_key = secret_key.unwrap_or(self.secret_key);
        self
    }

    /// The owner's SecretId and SecretKey, which also sign requests to the API of COS.
    pub fn keys(&self) -> (&str, &str) {
        (&self.access_key, &self.secret_key)
    }

    /// A link as issued `age` ago; it has already expired if `age` is more than `link_life`.
    pub fn upload(&self, path: &str, age: Duration) -> UploadLink {
        let valid_from = now().saturating_sub(age.as_secs());
        let expires = valid_from + self.life.as_secs();
        let signed = self.signed_path(path);
        let (token, cos_file_id) = self.token_and_file_id(path);
        UploadLink {
            url: self.url(path),
            token,
            authorization: Authorization::write(
                &self.access_key,
                &self.secret_key,
                valid_from,
                expires,
                "post",
                &signed,
            ),
            file_id: format!("{}{path}", self.file_id_prefix()),
            cos_file_id,
        }
    }

    pub fn life(&self) -> Duration {
        self.life
    }

    /// Verifies the form's `Signature` and `x-cos-security-token` for the path they were issued for.
    pub fn verify_upload(
        &self,
        path: &str,
        authorization: &str,
        token: &str,
    ) -> Result<(), LinkError> {
        let read = Authorization::parse(authorization).ok_or(LinkError::WrongSignature)?;
        if read.access_key != self.access_key {
            return Err(LinkError::UnknownAccessKey);
        }
        if now() > read.expires {
            return Err(LinkError::Expired);
        }
        if read.key_time != read.sign_time || now() < read.valid_from {
            return Err(LinkError::WrongSignature);
        }
        let path_signed = self.signed_path(path);
        let right =
            sign::signature(&self.secret_key, read.key_time, read.sign_time, "post", &path_signed);
        if !sign::constant_time_eq(&right, read.signature) {
            return Err(LinkError::WrongSignature);
        }
        // COS treats an access key as unknown without the security token that belongs to it.
        let valid_token =
            token.len() == NONCE_LENGTH + MAC_LENGTH && token.is_char_boundary(NONCE_LENGTH) && {
                let (nonce, mac) = token.split_at(NONCE_LENGTH);
                sign::constant_time_eq(&self.mac(nonce, path), mac)
            };
        if valid_token { Ok(()) } else { Err(LinkError::UnknownAccessKey) }
    }

    /// The file id of the link with this path and security token, which it is derived from.
    pub fn cos_file_id(&self, path: &str, token: &str) -> String {
        // 102 bytes and 22 more give the length and the `==` of the vendor's sample.
        let prefix = base64(&self.derived_bytes(&format!("fileid\n{token}"), 102));
        let tail = self.file_id_tail(&prefix, path);
        prefix + &tail
    }

    /// A file id without an upload link, as `/_/cos/metaid/encode` issues it.
    pub fn encode_file_id(&self, path: &str) -> String {
        self.token_and_file_id(path).1
    }

    /// Whether this is a file id for this path, from a link or from `/_/cos/metaid/encode`.
    pub fn is_file_id(&self, path: &str, file_id: &str) -> bool {
        file_id.split_at_checked(FILE_ID_PREFIX_LENGTH).is_some_and(|(prefix, tail)| {
            sign::constant_time_eq(&self.file_id_tail(prefix, path), tail)
        })
    }

    fn token_and_file_id(&self, path: &str) -> (String, String) {
        loop {
            let token = self.security_token(path);
            let cos_file_id = self.cos_file_id(path, &token);
            // Every id contains `+` and `/`, so that a client that wrongly escapes them fails at once.
            if cos_file_id.contains('+') && cos_file_id.contains('/') {
                return (token, cos_file_id);
            }
        }
    }

    fn file_id_tail(&self, prefix: &str, path: &str) -> String {
        base64(&self.derived_bytes(&format!("fileid\n{prefix}\n{path}"), 22))
    }

    fn derived_bytes(&self, text: &str, length: usize) -> Vec<u8> {
        let blocks = (0..length.div_ceil(20)).flat_map(|block| {
            sign::hmac(self.secret_key.as_bytes(), format!("{text}\n{block}").as_bytes())
        });
        blocks.take(length).collect()
    }

    pub fn download(&self, path: &str, life: Duration) -> String {
        let expires = now() + life.as_secs();
        format!("{}?sign={}&t={expires}", self.url(path), self.download_mac(path, expires))
    }

    pub fn verify_download(
        &self,
        path: &str,
        mac: Option<&str>,
        expires: Option<&str>,
    ) -> Result<(), LinkError> {
        let (Some(mac), Some(expires)) = (mac, expires) else {
            return Err(LinkError::Denied);
        };
        let expires: u64 = expires.parse().map_err(|_| LinkError::WrongSignature)?;
        if !sign::constant_time_eq(&self.download_mac(path, expires), mac) {
            return Err(LinkError::WrongSignature);
        }
        if now() > expires { Err(LinkError::Expired) } else { Ok(()) }
    }

    pub fn file_id_prefix(&self) -> String {
        format!("cloud://{}.{}/", self.env, self.bucket)
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}/{}/{}", self.base, self.bucket, utf8_percent_encode(path, PATH))
    }

    /// The path that the real service signs is not documented; here it is the bucket and the key, not encoded.
    fn signed_path(&self, path: &str) -> String {
        format!("/{}/{path}", self.bucket)
    }

    fn security_token(&self, path: &str) -> String {
        let nonce: String = (0..NONCE_LENGTH)
            .map(|_| char::from(URL_SAFE[fastrand::usize(..URL_SAFE.len())]))
            .collect();
        let mac = self.mac(&nonce, path);
        nonce + &mac
    }

    fn mac(&self, nonce: &str, path: &str) -> String {
        sign::hmac_hex(self.secret_key.as_bytes(), format!("token\n{nonce}\n{path}").as_bytes())
    }

    fn download_mac(&self, path: &str, expires: u64) -> String {
        sign::hmac_hex(self.secret_key.as_bytes(), format!("get\n{path}\n{expires}").as_bytes())
    }
}

/// A key, percent-encoded for a URL.
pub fn encoded(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// The length of a key when it is encoded, which is the length that COS limits.
pub fn encoded_length(path: &str) -> usize {
    utf8_percent_encode(path, PATH).map(str::len).sum()
}

/// In seconds since the Unix epoch. COS counts whole seconds, and a link is valid until its last second is over.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let of = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = of(0) << 16 | of(1) << 8 | of(2);
        for digit in 0..4 {
            if digit > group.len() {
                text.push('=');
            } else {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links::new("http://h:1".into(), "env", "bucket", Duration::from_secs(900), "secret")
    }

    #[test]
    fn base64_by_rfc_4648() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_link_is_good_for_its_path_its_token_and_its_time_only() {
        let links = links();
        let path = "目录/a b+c.png";
        let link = links.upload(path, Duration::ZERO);
        let other = links.upload(path, Duration::ZERO);
        assert_eq!(link.url, "http://h:1/bucket/%E7%9B%AE%E5%BD%95/a%20b%2Bc.png");
        assert_eq!(link.file_id, format!("cloud://env.bucket/{path}"));
        assert_eq!(link.cos_file_id.len(), 168);
        assert_eq!(links.cos_file_id(path, &link.token), link.cos_file_id);
        assert_ne!(other.cos_file_id, link.cos_file_id);
        for file_id in [&link.cos_file_id, &links.encode_file_id(path)] {
            assert!(links.is_file_id(path, file_id));
            assert!(!links.is_file_id("other", file_id));
            assert!(!links.is_file_id(path, &file_id.replace('+', " ")));
        }
        assert!(!links.is_file_id(path, ""));

        let verify = |path: &str, authorization: &str, token: &str| {
            links.verify_upload(path, authorization, token)
        };
        assert_eq!(verify(path, &link.authorization, &link.token), Ok(()));
        assert_eq!(
            verify("other", &link.authorization, &link.token),
            Err(LinkError::WrongSignature)
        );
        assert_eq!(verify(path, "", &link.token), Err(LinkError::WrongSignature));
        assert_eq!(verify(path, &link.authorization, ""), Err(LinkError::UnknownAccessKey));
        assert_eq!(
            verify(path, &link.authorization, &links.upload("other", Duration::ZERO).token),
            Err(LinkError::UnknownAccessKey)
        );
        let foreign = link.authorization.replace("q-ak=AKID", "q-ak=AKIX");
        assert_eq!(verify(path, &foreign, &link.token), Err(LinkError::UnknownAccessKey));
        let old = links.upload(path, Duration::from_secs(1000));
        assert_eq!(verify(path, &old.authorization, &old.token), Err(LinkError::Expired));
    }

    #[test]
    fn a_download_url_is_good_for_its_path_and_its_time_only() {
        let links = links();
        let url = links.download("a/b", Duration::from_secs(5));
        let (_, query) = url.split_once("?sign=").unwrap();
        let (mac, expires) = query.split_once("&t=").unwrap();
        assert_eq!(links.verify_download("a/b", Some(mac), Some(expires)), Ok(()));
        assert_eq!(
            links.verify_download("a/c", Some(mac), Some(expires)),
            Err(LinkError::WrongSignature)
        );
        assert_eq!(
            links.verify_download("a/b", Some(mac), Some("9999999999")),
            Err(LinkError::WrongSignature)
        );
        assert_eq!(links.verify_download("a/b", None, None), Err(LinkError::Denied));
        let past = now() - 1;
        let mac = links.download_mac("a/b", past);
        assert_eq!(
            links.verify_download("a/b", Some(&mac), Some(&past.to_string())),
            Err(LinkError::Expired)
        );
    }
}
