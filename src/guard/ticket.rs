//! Tickets: JSON Web Tokens (RFC 7519) that a back end signs for its users. This file verifies them and reads their
//! claims as limits of a policy.
//!
//! The settings name one algorithm and its keys, or the URL of the issuer's key set. A ticket whose header names another
//! algorithm is refused. A key that it names (`kid`) is looked for among those, and never anywhere else: a key or a URL
//! in the header (`jwk`, `jku`, `x5c`, `x5u`) is ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, TokenData, Validation};
use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use super::jwks::{Jwks, JwksError, KnownKeys};
use super::policy::ClaimLimits;
use crate::key::{Key, KeyError};
use crate::settings::{Action, Jwt, JwtAlgorithm};

/// Seconds that the issuer's clock may be ahead of the gateway's, for `nbf`. `exp` has no such leeway: the issuer can
/// choose a later one.
const CLOCK_SKEW: u64 = 60;
/// Of `sub`, in bytes.
const MAX_NAME_LENGTH: usize = 128;

/// Why the key that verifies tickets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwtKeyError {
    #[error("auth.jwt.key_file: {path}: {cause}", path = path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("auth.jwt.key: HS256 needs a secret of at least 32 bytes that is not a key in PEM")]
    Secret,
    #[error("auth.jwt.{name}: not a public key in PEM for {algorithm}")]
    Public { name: String, algorithm: &'static str },
}

/// Why a ticket is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("it is not a JSON Web Token with the claims of a ticket")]
    Malformed,
    #[error("its algorithm is not {0}")]
    Algorithm(&'static str),
    #[error("its header requires extensions (`crit`), and none is supported")]
    Critical,
    #[error("its header names a key (`kid`) that is not known")]
    UnknownKey,
    /// No fault of the ticket, as far as is known.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("its claim `{0}` is missing or not the expected one")]
    Claim(String),
}

/// A valid ticket.
#[derive(Debug)]
pub struct Ticket {
    /// The user's name: `sub`.
    pub name: Option<String>,
    /// Identifies this ticket without revealing it: half of its SHA-256, in hex.
    pub fingerprint: String,
    pub limits: ClaimLimits,
}

/// Verifies tickets.
pub struct TicketVerifier {
    algorithm: JwtAlgorithm,
    /// `auth.jwt.key`: of tickets that name no key, or one that is not known.
    key: Option<DecodingKey>,
    /// By the names of `kid`. A ticket that names no key may be signed by any of them.
    named: BTreeMap<String, DecodingKey>,
    /// `auth.jwt.jwks_url`: the issuer's, which are looked at after those of the settings.
    jwks: Option<Arc<Jwks>>,
    validation: Validation,
}

impl TicketVerifier {
    /// `None` where no algorithm is set. Reads `key_file`.
    pub fn new(jwt: &Jwt, jwks: Option<Arc<Jwks>>) -> Result<Option<Self>, JwtKeyError> {
        let Some(algorithm) = jwt.algorithm else {
            return Ok(None);
        };
        let key = key_text(jwt)?.map(|text| decoding_key(algorithm, "key", &text)).transpose()?;
        let named = jwt.keys.iter().map(|(name, text)| {
            let key =
                decoding_key(algorithm, &format!("keys.{name}"), text.expose_secret().trim())?;
            Ok((name.clone(), key))
        });
        let named = named.collect::<Result<_, JwtKeyError>>()?;
        let mut validation = Validation::new(algorithm_of(algorithm));
        validation.leeway = 0;
        // Issuer and audience are required once the settings name them.
        let mut required = vec!["exp"];
        if let Some(issuer) = &jwt.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        match &jwt.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        Ok(Some(Self { algorithm, key, named, jwks, validation }))
    }

    /// A ticket's user and limits, if it is valid now.
    pub fn verify(&self, token: &str) -> Result<Ticket, TicketError> {
        let decoded = self.decode(token)?;
        // Extensions in `crit` must be understood (RFC 7515 4.1.11), and the gateway supports none.
        if decoded.header.crit.is_some() || decoded.header.extras.inner().contains_key("b64") {
            return Err(TicketError::Critical);
        }
        let claims = decoded.claims;
        if claims
            .nbf
            .is_some_and(|from| from > (jsonwebtoken::get_current_timestamp() + CLOCK_SKEW) as f64)
        {
            return Err(TicketError::NotYetValid);
        }
        let hash = Sha256::digest(token.as_bytes());
        Ok(Ticket {
            name: claims.sub.clone(),
            fingerprint: hex::encode(&hash[..16]),
            limits: claims.limits()?,
        })
    }

    /// Waits for a fetch of the issuer's keys: see [`JwksError::NotFetched`].
    pub async fn fetched_keys(&self, after: u64) {
        if let Some(jwks) = &self.jwks {
            jwks.fetched(after).await;
        }
    }

    /// Verifies a ticket with the key that it names, if that is known; otherwise with each key that may be meant.
    fn decode(&self, token: &str) -> Result<TokenData<Claims>, TicketError> {
        let decode = |key: &DecodingKey| {
            let decoded = jsonwebtoken::decode::<Claims>(token, key, &self.validation);
            decoded.map_err(|error| self.error(error.kind()))
        };
        let kid = match self.named.is_empty() && self.jwks.is_none() {
            true => None,
            false => self.kid(token)?,
        };
        if let Some(key) = kid.as_ref().and_then(|kid| self.named.get(kid)) {
            return decode(key);
        }
        let named = self.named.values().filter(|_| kid.is_none());
        let fetched = self.jwks.as_ref().map(|jwks| jwks.known());
        let of_issuer = fetched.iter().flat_map(|known| known.keys.meant_by(kid.as_deref()));
        let mut result = Err(TicketError::UnknownKey);
        for key in self.key.iter().chain(named).chain(of_issuer) {
            result = decode(key);
            if !matches!(result, Err(TicketError::Signature)) {
                return result;
            }
        }
        let has_kid = |known: &KnownKeys| kid.as_ref().is_some_and(|kid| known.keys.has(kid));
        match fetched.filter(|known| !has_kid(known)).and_then(|known| known.missing) {
            Some(error) => Err(error.into()),
            None => result,
        }
    }

    /// The key that a ticket names. A ticket of another algorithm is refused: no key could verify it.
    fn kid(&self, token: &str) -> Result<Option<String>, TicketError> {
        let header = jsonwebtoken::decode_header(token);
        let header = header.map_err(|error| self.error(error.kind()))?;
        match header.alg == algorithm_of(self.algorithm) {
            true => Ok(header.kid),
            false => Err(TicketError::Algorithm(self.algorithm.name())),
        }
    }

    fn error(&self, kind: &ErrorKind) -> TicketError {
        match kind {
            ErrorKind::ExpiredSignature => TicketError::Expired,
            ErrorKind::InvalidAlgorithm => TicketError::Algorithm(self.algorithm.name()),
            ErrorKind::InvalidSignature => TicketError::Signature,
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                TicketError::Claim(claim.clone())
            }
            ErrorKind::InvalidIssuer => TicketError::Claim("iss".to_owned()),
            ErrorKind::InvalidAudience => TicketError::Claim("aud".to_owned()),
            _ => TicketError::Malformed,
        }
    }
}

fn algorithm_of(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Hs256 => Algorithm::HS256,
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Es256 => Algorithm::ES256,
        JwtAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

/// `name`: of the setting, below `auth.jwt`.
fn decoding_key(
    algorithm: JwtAlgorithm,
    name: &str,
    text: &str,
) -> Result<DecodingKey, JwtKeyError> {
    let key = match algorithm {
        JwtAlgorithm::Hs256 if text.len() < 32 || text.starts_with("-----BEGIN ") => {
            return Err(JwtKeyError::Secret);
        }
        JwtAlgorithm::Hs256 => Ok(DecodingKey::from_secret(text.as_bytes())),
        JwtAlgorithm::Rs256 => DecodingKey::from_rsa_pem(text.as_bytes()),
        JwtAlgorithm::Es256 => DecodingKey::from_ec_pem(text.as_bytes()),
        JwtAlgorithm::EdDsa => DecodingKey::from_ed_pem(text.as_bytes()),
    };
    key.map_err(|_| JwtKeyError::Public { name: name.to_owned(), algorithm: algorithm.name() })
}

/// The key of `auth.jwt.key` or of `key_file`, if one of them is set.
pub(super) fn key_text(jwt: &Jwt) -> Result<Option<String>, JwtKeyError> {
    let text = match &jwt.key_file {
        None => jwt.key.expose_secret().to_owned(),
        Some(path) => fs::read_to_string(path)
            .map_err(|cause| JwtKeyError::File { path: path.clone(), cause })?,
    };
    let is_set = jwt.key_file.is_some() || !text.trim().is_empty();
    Ok(is_set.then(|| text.trim().to_owned()))
}

/// Reads claims that are not signed, since the auth server itself sends them: the user's name and its limits. `exp` and
/// `nbf` are ignored.
pub fn parse_claims(json: &[u8]) -> Result<(Option<String>, ClaimLimits), TicketError> {
    // Serde would take an array for the members in their order.
    let object = Some(json).filter(|json| json.trim_ascii_start().starts_with(b"{"));
    let claims = object.and_then(|json| serde_json::from_slice::<Claims>(json).ok());
    let claims = claims.ok_or(TicketError::Malformed)?;
    Ok((claims.sub.clone(), claims.limits()?))
}

/// The claims that the gateway reads. A claim that is present must have a value: `null`, from an issuer that forgot
/// one, would otherwise mean no limit.
#[derive(Deserialize)]
struct Claims {
    #[serde(default, deserialize_with = "not_null")]
    sub: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "not_null")]
    can: Option<Names>,
    #[serde(default, deserialize_with = "not_null")]
    prefix: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    path: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    client_paths: Option<bool>,
    #[serde(default, deserialize_with = "not_null")]
    max_file_size: Option<Size>,
    #[serde(default, deserialize_with = "not_null")]
    max_files: Option<usize>,
    #[serde(default, deserialize_with = "not_null")]
    types: Option<Names>,
}

/// A list, or one string whose names are separated by blanks or commas.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<String>),
    Text(String),
}

/// In bytes, or as text with a unit as in the settings: `"20MiB"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    /// `Err`: the text is no size.
    pub fn bytes(self) -> Result<u64, String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Text(text) => text.parse::<bytesize::ByteSize>().map(|size| size.as_u64()),
        }
    }
}

/// Whether `sub` may be this name.
pub(super) fn is_user_name(name: &str) -> bool {
    (1..=MAX_NAME_LENGTH).contains(&name.len()) && !name.contains(char::is_control)
}

/// A folder, which may end with `/`; the result does.
pub fn folder(text: &str) -> Result<String, KeyError> {
    Key::parse(text.strip_suffix('/').unwrap_or(text)).map(|folder| format!("{folder}/"))
}

/// A value that must not be `null`.
pub fn not_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Names {
    fn list(self) -> Vec<String> {
        match self {
            Self::List(names) => names,
            Self::Text(text) => {
                let names = text.split([' ', ',']).filter(|name| !name.is_empty());
                names.map(ToOwned::to_owned).collect()
            }
        }
    }
}

impl Claims {
    fn limits(self) -> Result<ClaimLimits, TicketError> {
        let wrong = |claim: &str| TicketError::Claim(claim.to_owned());
        if let Some(name) = &self.sub {
            is_user_name(name).then_some(()).ok_or_else(|| wrong("sub"))?;
        }
        // Unknown actions allow nothing.
        let actions = |names: Names| -> BTreeSet<Action> {
            names.list().iter().filter_map(|name| name.parse().ok()).collect()
        };
        let folder = |text: String| folder(&text).map_err(|_| wrong("prefix"));
        let size = |size: Size| size.bytes().map_err(|_| wrong("max_file_size"));
        let types = |names: Names| {
            let list: Vec<String> =
                names.list().into_iter().map(|name| name.to_ascii_lowercase()).collect();
            // In the settings an empty list means any type. A ticket with an empty list is refused, since its issuer
            // cannot have meant that.
            if list.is_empty() { Err(wrong("types")) } else { Ok(list) }
        };
        Ok(ClaimLimits {
            can: self.can.map(actions),
            prefix: self.prefix.map(folder).transpose()?,
            path: self.path.map(|path| Key::parse(&path)).transpose().map_err(|_| wrong("path"))?,
            client_paths: self.client_paths,
            max_file_size: self.max_file_size.map(size).transpose()?,
            max_files: self.max_files,
            types: self.types.map(types).transpose()?,
        })
    }
}
