//! Signatures of events (Standard Webhooks 1.0, symmetric): HMAC-SHA256 of `id.timestamp.body`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

/// What serialized secrets begin with.
const PREFIX: &str = "whsec_";

/// The keys of `hooks.secret`: each signs, so that a receiver may verify by the old one or the new one.
#[derive(Clone)]
pub struct SigningKeys(Vec<SecretSlice<u8>>);

impl SigningKeys {
    /// `secrets` were checked with the settings; one that cannot be decoded would not be used.
    pub fn new(secrets: &[SecretString]) -> Self {
        let keys = secrets.iter().filter_map(|secret| {
            let encoded = secret.expose_secret().strip_prefix(PREFIX)?;
            STANDARD.decode(encoded).ok().map(SecretSlice::from)
        });
        Self(keys.collect())
    }

    /// The value of `webhook-signature`; `timestamp` is in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let head = format!("{id}.{timestamp}.");
        let signatures = self.0.iter().map(|key| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret())
                .unwrap_or_else(|_| unreachable!("a key of any length"));
            mac.update(head.as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's libraries.
    #[test]
    fn a_signature_is_that_of_the_standard() {
        let keys = SigningKeys::new(&["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into()]);
        let signature =
            keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
