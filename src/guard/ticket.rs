//! Tickets: JSON Web Tokens (RFC 7519) that a back end signs for its users. This file verifies them and reads their
//! claims as limits of a policy.
//!
//! The settings name one algorithm and one key. A ticket whose header names another algorithm is refused, and a key
//! that it names is ignored.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

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
    #[error("auth.jwt.key: not a public key in PEM for {0}")]
    Public(&'static str),
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
    key: DecodingKey,
    validation: Validation,
}

impl TicketVerifier {
    /// `None` where no algorithm is set. Reads `key_file`.
    pub fn new(jwt: &Jwt) -> Result<Option<Self>, JwtKeyError> {
        let Some(algorithm) = jwt.algorithm else {
            return Ok(None);
        };
        let text = key_text(jwt)?;
        let text = text.as_str();
        let public = |key: jsonwebtoken::errors::Result<DecodingKey>| {
            key.map_err(|_| JwtKeyError::Public(algorithm.name()))
        };
        let (named, key) = match algorithm {
            JwtAlgorithm::Hs256 if text.len() < 32 || text.starts_with("-----BEGIN ") => {
                return Err(JwtKeyError::Secret);
            }
            JwtAlgorithm::Hs256 => (Algorithm::HS256, DecodingKey::from_secret(text.as_bytes())),
            JwtAlgorithm::Rs256 => {
                (Algorithm::RS256, public(DecodingKey::from_rsa_pem(text.as_bytes()))?)
            }
            JwtAlgorithm::Es256 => {
                (Algorithm::ES256, public(DecodingKey::from_ec_pem(text.as_bytes()))?)
            }
            JwtAlgorithm::EdDsa => {
                (Algorithm::EdDSA, public(DecodingKey::from_ed_pem(text.as_bytes()))?)
            }
        };
        let mut validation = Validation::new(named);
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
        Ok(Some(Self { algorithm, key, validation }))
    }

    /// A ticket's user and limits, if it is valid now.
    pub fn verify(&self, token: &str) -> Result<Ticket, TicketError> {
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        let decoded = decoded.map_err(|error| self.error(error.kind()))?;
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

/// The key, from the settings or from `key_file`.
pub(super) fn key_text(jwt: &Jwt) -> Result<String, JwtKeyError> {
    let text = match &jwt.key_file {
        None => return Ok(jwt.key.expose_secret().trim().to_owned()),
        Some(path) => fs::read_to_string(path)
            .map_err(|cause| JwtKeyError::File { path: path.clone(), cause })?,
    };
    Ok(text.trim().to_owned())
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
