//! The credentials that requests are signed with.

use secrecy::{ExposeSecret, SecretString};

/// The longest SecretId and SecretKey in bytes. Those of COS have 36 and 32, temporary ones about 80 and 44.
const MAX_KEY: usize = 256;
/// The longest security token in bytes; those of temporary keys have up to about 2,000.
const MAX_TOKEN: usize = 8 * 1024;

/// A SecretId, its SecretKey, and the security token of temporary keys. It has no `Debug`.
pub struct Credentials {
    pub secret_id: String,
    pub secret_key: SecretString,
    pub token: Option<SecretString>,
}

impl Credentials {
    /// Checks that the texts can stand in a header. An empty token is none.
    pub fn new(
        secret_id: &str,
        secret_key: &str,
        token: Option<&str>,
    ) -> Result<Self, &'static str> {
        let fits = |text: &str, limit: usize| {
            (1..=limit).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        // An ampersand would end the SecretId's parameter in the Authorization header.
        if !fits(secret_id, MAX_KEY) || secret_id.contains('&') {
            return Err(
                "the SecretId is missing, too long, or has characters that no SecretId has",
            );
        }
        if !fits(secret_key, MAX_KEY) {
            return Err(
                "the SecretKey is missing, too long, or has characters that no SecretKey has",
            );
        }
        let token = token.filter(|token| !token.is_empty());
        if token.is_some_and(|token| !fits(token, MAX_TOKEN)) {
            return Err("the security token is too long, or has characters that no token has");
        }
        let (secret_id, secret_key) = (secret_id.to_owned(), secret_key.into());
        Ok(Self { secret_id, secret_key, token: token.map(SecretString::from) })
    }

    /// Whether both are the same keys.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let token = |of: &Self| of.token.as_ref().map(|token| token.expose_secret().to_owned());
        self.secret_id == other.secret_id
            && self.secret_key.expose_secret() == other.secret_key.expose_secret()
            && token(self) == token(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_can_stand_in_a_header() {
        fn is_valid(id: &str, key: &str, token: Option<&str>) -> bool {
            Credentials::new(id, key, token).is_ok()
        }
        assert!(is_valid("AKIDx-_", "k/+=", Some("t")));
        assert!(is_valid(&"i".repeat(MAX_KEY), &"k".repeat(MAX_KEY), None));
        assert!(Credentials::new("i", "k", Some("")).unwrap().token.is_none());
        assert!(is_valid("i", "k", Some(&"t".repeat(MAX_TOKEN))));
        let long = "k".repeat(MAX_KEY + 1);
        for wrong in ["", "a b", "a\r\nb", "é", &long] {
            assert!(!is_valid(wrong, "k", None), "{wrong}");
            assert!(!is_valid("i", wrong, None), "{wrong}");
        }
        assert!(!is_valid("a&q-ak=b", "k", None));
        assert!(!is_valid("i", "k", Some("a\nb")));
        assert!(!is_valid("i", "k", Some(&"t".repeat(MAX_TOKEN + 1))));
    }
}
