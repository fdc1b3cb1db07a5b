//! The rules between the settings of tickets: `auth.jwt`.

use secrecy::ExposeSecret;

use super::layers::Reader;
use super::model::Settings;
use super::names::JwtAlgorithm;

pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    const ALGORITHM: &str = "auth.jwt.algorithm";
    const KEY: &str = "auth.jwt.key";
    const JWKS_URL: &str = "auth.jwt.jwks_url";
    const MAX_KEYS: usize = 16;
    let jwt = &settings.auth.jwt;
    let key = jwt.key.expose_secret();
    if !reader.is_valid(&[ALGORITHM, KEY, JWKS_URL]) {
        return;
    }
    // Its keys are public.
    if jwt.jwks_url.is_some() && jwt.algorithm == Some(JwtAlgorithm::Hs256) {
        reader.fault(
            JWKS_URL,
            "is set, but auth.jwt.algorithm is \"HS256\", whose key is secret: it can be used with \
                                \"RS256\", \"ES256\" and \"EdDSA\"",
        );
        return;
    }
    let has_others = !jwt.keys.is_empty() || jwt.jwks_url.is_some();
    match (jwt.algorithm, key.is_empty(), &jwt.key_file) {
        (None, true, None) if !has_others => {}
        (None, ..) => reader.fault(
            ALGORITHM,
            "must be set where a key for tickets, or the URL of their keys, is set",
        ),
        (Some(_), true, None) if !has_others => {
            reader.fault(
                KEY,
                "must be set (or auth.jwt.key_file, or auth.jwt.jwks_url) where auth.jwt.algorithm is set",
            );
        }
        (Some(_), false, Some(_)) => {
            reader.fault("auth.jwt.key_file", "is set as well as auth.jwt.key: set one of the two");
        }
        (Some(_), true, _) => {}
        (Some(algorithm), false, None) => ticket_key(KEY, algorithm, key, reader),
    }
    for (name, key) in &jwt.keys {
        if let Some(algorithm) = jwt.algorithm {
            ticket_key(&format!("{KEY}s.{name}"), algorithm, key.expose_secret(), reader);
        }
    }
    // A ticket without a `kid` is verified with each of them.
    if jwt.keys.len() > MAX_KEYS {
        reader.fault("auth.jwt.keys", format!("has more than {MAX_KEYS} keys"));
    }
}

fn ticket_key(name: &str, algorithm: JwtAlgorithm, key: &str, reader: &mut Reader) {
    /// RFC 7518 3.2: at least as long as the hash.
    const MIN_LENGTH: usize = 32;
    let pem = key.starts_with("-----BEGIN ");
    match algorithm {
        // A public key is not secret: any client that has it could sign tickets.
        JwtAlgorithm::Hs256 if pem => {
            reader.fault(name, "is a key in PEM, and HS256 needs a secret: openssl rand -hex 32");
        }
        JwtAlgorithm::Hs256 if key.len() < MIN_LENGTH => reader.fault(
            name,
            format!(
                "is shorter than the {MIN_LENGTH} bytes that HS256 needs: openssl rand -hex 32"
            ),
        ),
        algorithm if algorithm != JwtAlgorithm::Hs256 && !pem => reader
            .fault(name, format!("is not a public key in PEM, which {} needs", algorithm.name())),
        _ => {}
    }
}
