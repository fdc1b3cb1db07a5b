//! A JSON Web Key Set: which of its keys can verify tickets of one algorithm.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use serde::Deserialize;

use crate::settings::JwtAlgorithm;

/// Keys that are used; a ticket without a `kid` is verified with each of them.
const MAX_KEYS: usize = 16;
/// Of a `kid`, in bytes.
const MAX_KID: usize = 128;
/// Of an RSA modulus, in bytes: 2,048 to 8,192 bits.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Why a response has no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("its response is no JSON Web Key Set")]
    Malformed,
    #[error("none of the {keys} keys in its response is a public key for {algorithm} signatures")]
    NoKey { keys: usize, algorithm: &'static str },
}

/// The keys of a response that can be used, in their order.
#[derive(Default)]
pub struct KeySet(Vec<(Option<String>, DecodingKey)>);

/// Each key is parsed by itself: one of an unknown type must not spoil the set (RFC 7517, 5).
#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// At least one key and at most 16. Keys of other types and uses are ignored, and so are keys with a `kid` of more
    /// than 128 bytes.
    pub fn parse(algorithm: JwtAlgorithm, body: &[u8]) -> Result<Self, SetError> {
        // Serde would take an array for the members in their order.
        let object = Some(body).filter(|body| body.trim_ascii_start().starts_with(b"{"));
        let document = object.and_then(|body| serde_json::from_slice::<Document>(body).ok());
        let Document { keys } = document.ok_or(SetError::Malformed)?;
        let count = keys.len();
        let usable = keys.into_iter().filter_map(|key| {
            let jwk: Jwk = serde_json::from_value(key).ok()?;
            let key = decoding_key(algorithm, &jwk)?;
            Some((jwk.common.key_id, key))
        });
        let usable: Vec<_> = usable.take(MAX_KEYS).collect();
        match usable.is_empty() {
            true => Err(SetError::NoKey { keys: count, algorithm: algorithm.name() }),
            false => Ok(Self(usable)),
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key has this name.
    pub fn has(&self, kid: &str) -> bool {
        self.0.iter().any(|(name, _)| name.as_deref() == Some(kid))
    }

    /// The keys that may be meant by a ticket: those with its `kid`, or else those without a name; all of them for a
    /// ticket without a `kid`.
    pub fn meant_by(&self, kid: Option<&str>) -> impl Iterator<Item = &DecodingKey> {
        let wanted = kid.filter(|kid| self.has(kid));
        let keys =
            self.0.iter().filter(move |(name, _)| kid.is_none() || name.as_deref() == wanted);
        keys.map(|(_, key)| key)
    }
}

/// `None`: it is no public key for signatures of this algorithm.
fn decoding_key(algorithm: JwtAlgorithm, jwk: &Jwk) -> Option<DecodingKey> {
    let common = &jwk.common;
    let verifies = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    let length = |text: &str| URL_SAFE_NO_PAD.decode(text).map_or(0, |bytes| bytes.len());
    let (name, fits) = match (algorithm, &jwk.algorithm) {
        (JwtAlgorithm::Rs256, AlgorithmParameters::RSA(key)) => {
            (KeyAlgorithm::RS256, RSA_MODULUS.contains(&length(&key.n)))
        }
        (JwtAlgorithm::Es256, AlgorithmParameters::EllipticCurve(key)) => (
            KeyAlgorithm::ES256,
            key.curve == EllipticCurve::P256 && length(&key.x) == 32 && length(&key.y) == 32,
        ),
        (JwtAlgorithm::EdDsa, AlgorithmParameters::OctetKeyPair(key)) => {
            (KeyAlgorithm::EdDSA, key.curve == EllipticCurve::Ed25519 && length(&key.x) == 32)
        }
        // Symmetric keys above all: a published one is no secret.
        _ => return None,
    };
    let is_of_algorithm = common.key_algorithm.is_none_or(|of| of == name);
    let has_short_name = common.key_id.as_ref().is_none_or(|kid| kid.len() <= MAX_KID);
    let is_usable = verifies && fits && is_of_algorithm && has_short_name;
    is_usable.then(|| DecodingKey::from_jwk(jwk).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// RFC 8037, A.2.
    const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn ed(more: &Value) -> Value {
        let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": ED});
        for (name, value) in more.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    fn parse(keys: &[Value]) -> Result<KeySet, SetError> {
        KeySet::parse(JwtAlgorithm::EdDsa, json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn only_public_keys_for_signatures_of_the_algorithm_are_used() {
        let good = [
            json!({}),
            json!({"kid": "k".repeat(MAX_KID), "use": "sig", "alg": "EdDSA", "key_ops": ["verify"]}),
            json!({"key_ops": ["sign", "verify"], "other": {"a": [1]}}),
        ];
        for more in good {
            assert_eq!(parse(&[ed(&more)]).map(|set| set.len()), Ok(1), "{more}");
        }
        let bad = [
            ed(&json!({"use": "enc"})),
            ed(&json!({"use": 1})),
            ed(&json!({"key_ops": ["sign"]})),
            ed(&json!({"key_ops": []})),
            ed(&json!({"alg": "ES256"})),
            ed(&json!({"alg": "of another world"})),
            ed(&json!({"crv": "X25519"})),
            ed(&json!({"crv": "P-256"})),
            ed(&json!({"x": &ED[..40]})),
            ed(&json!({"x": "not base64url!"})),
            ed(&json!({"kid": "k".repeat(MAX_KID + 1)})),
            ed(&json!({"kid": 7})),
            ed(&json!({"kty": "EC", "crv": "P-256", "y": ED})),
            ed(&json!({"kty": "oct", "k": ED})),
            ed(&json!({"kty": "AKP"})),
            json!("text"),
            json!(null),
            json!({}),
        ];
        let all = bad.len();
        for key in &bad {
            let error = SetError::NoKey { keys: 1, algorithm: "EdDSA" };
            assert_eq!(parse(std::slice::from_ref(key)).map(|set| set.len()), Err(error), "{key}");
        }
        // None of them spoils the set.
        let mixed = [&bad[..], &[ed(&json!({"kid": "good"}))]].concat();
        assert!(parse(&mixed).is_ok_and(|set| set.len() == 1 && set.has("good")));
        let error = SetError::NoKey { keys: all, algorithm: "EdDSA" };
        assert_eq!(parse(&bad).map(|set| set.len()), Err(error));
    }

    #[test]
    fn rsa_keys_have_at_least_2048_bits() {
        for (bytes, fits) in [(128, false), (255, false), (256, true), (1024, true), (1025, false)]
        {
            let n = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
            let set = json!({"keys": [{"kty": "RSA", "n": n, "e": "AQAB"}]}).to_string();
            assert_eq!(KeySet::parse(JwtAlgorithm::Rs256, set.as_bytes()).is_ok(), fits, "{bytes}");
        }
    }

    #[test]
    fn what_is_no_set_is_told_apart() {
        for body in ["", "null", "[]", "[[]]", "{}", "{\"keys\":{}}", "<html>", "{\"keys\":[]"] {
            let result = KeySet::parse(JwtAlgorithm::EdDsa, body.as_bytes());
            assert_eq!(result.map(|set| set.len()), Err(SetError::Malformed), "{body}");
        }
        let error = SetError::NoKey { keys: 0, algorithm: "EdDSA" };
        assert_eq!(parse(&[]).map(|set| set.len()), Err(error));
    }

    #[test]
    fn a_ticket_means_the_keys_of_its_name_or_those_without_one() {
        let keys = [json!({"kid": "a"}), json!({}), json!({"kid": "b"}), json!({"kid": "b"})];
        let set = parse(&keys.map(|more| ed(&more))).unwrap();
        let meant = [Some("a"), Some("b"), Some("c"), Some(""), None];
        assert_eq!(meant.map(|kid| set.meant_by(kid).count()), [1, 2, 1, 1, 4]);
    }
}
