//! Tickets: JSON Web Tokens that somebody else mints for its users, checked; their claims as they narrow a policy.
//!
//! One algorithm and one key are set; what a ticket says of its own algorithm or key is believed only where it agrees.

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
use crate::key::Key;
use crate::settings::{Action, Jwt, JwtAlgorithm};

/// How far ahead of ours the clock of who mints tickets may be. A ticket that has ended has ended: by whichever clock,
/// it can be made to last longer.
const CLOCKS: u64 = 60;
/// In a user's name.
const LONGEST_NAME: usize = 128;

/// Why the key for tickets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    #[error("auth.jwt.key_file: {path}: {cause}", path = path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("auth.jwt.key: HS256 needs a secret of at least 32 bytes that is not a key in PEM")]
    Secret,
    #[error("auth.jwt.key: not a public key in PEM for {0}")]
    Public(&'static str),
}

/// Why a ticket is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("it is not a JSON Web Token with the claims of a ticket")]
    Malformed,
    #[error("its algorithm is not {0}")]
    Algorithm(&'static str),
    #[error("its header names extensions (`crit`) that must be understood, and none is")]
    Critical,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has ended")]
    Expired,
    #[error("it is not valid yet")]
    Early,
    #[error("its claim `{0}` is missing or not the expected one")]
    Claim(String),
}

/// A ticket that holds.
#[derive(Debug)]
pub struct Ticket {
    /// The user's name, as who minted it says.
    pub name: Option<String>,
    /// The same for the same ticket only; tells nothing of it.
    pub fingerprint: String,
    pub narrowing: ClaimLimits,
}

/// Checks tickets.
pub struct Tickets {
    algorithm: JwtAlgorithm,
    key: DecodingKey,
    validation: Validation,
}

impl Tickets {
    /// `None` where no algorithm is set. Reads `key_file`.
    pub fn new(jwt: &Jwt) -> Result<Option<Self>, KeyFault> {
        let Some(algorithm) = jwt.algorithm else {
            return Ok(None);
        };
        let text = match &jwt.key_file {
            None => jwt.key.expose_secret().to_owned(),
            Some(path) => fs::read_to_string(path)
                .map_err(|cause| KeyFault::File { path: path.clone(), cause })?,
        };
        let text = text.trim();
        let public = |key: jsonwebtoken::errors::Result<DecodingKey>| {
            key.map_err(|_| KeyFault::Public(algorithm.name()))
        };
        let (named, key) = match algorithm {
            JwtAlgorithm::Hs256 if text.len() < 32 || text.starts_with("-----BEGIN ") => {
                return Err(KeyFault::Secret);
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
        // A claim that is asked for must be there.
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

    /// A ticket's user and claims, if it holds now.
    pub fn check(&self, token: &str) -> Result<Ticket, TicketError> {
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        let decoded = decoded.map_err(|error| self.told(error.kind()))?;
        // Of extensions that must be understood (RFC 7515 4.1.11) none is.
        if decoded.header.crit.is_some() || decoded.header.extras.inner().contains_key("b64") {
            return Err(TicketError::Critical);
        }
        let claims = decoded.claims;
        if claims
            .nbf
            .is_some_and(|from| from > (jsonwebtoken::get_current_timestamp() + CLOCKS) as f64)
        {
            return Err(TicketError::Early);
        }
        let hash = Sha256::digest(token.as_bytes());
        Ok(Ticket {
            name: claims.sub.clone(),
            fingerprint: hex::encode(&hash[..16]),
            narrowing: claims.narrowing()?,
        })
    }

    fn told(&self, kind: &ErrorKind) -> TicketError {
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

/// What a ticket may claim. A claim that is there must say something: `null`, for a value that was forgotten, would
/// otherwise pass for no limit.
#[derive(Deserialize)]
struct Claims {
    #[serde(default, deserialize_with = "given")]
    sub: Option<String>,
    #[serde(default, deserialize_with = "given")]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    can: Option<Names>,
    #[serde(default, deserialize_with = "given")]
    prefix: Option<String>,
    #[serde(default, deserialize_with = "given")]
    path: Option<String>,
    #[serde(default, deserialize_with = "given")]
    max_file_size: Option<Size>,
    #[serde(default, deserialize_with = "given")]
    max_files: Option<usize>,
    #[serde(default, deserialize_with = "given")]
    types: Option<Names>,
}

/// A list, or one string with blanks or commas.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<String>),
    Text(String),
}

/// Bytes, or as in the settings: `"20MiB"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
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
    fn narrowing(self) -> Result<ClaimLimits, TicketError> {
        let wrong = |claim: &str| TicketError::Claim(claim.to_owned());
        if let Some(name) = &self.sub {
            let sane = (1..=LONGEST_NAME).contains(&name.len()) && !name.contains(char::is_control);
            sane.then_some(()).ok_or_else(|| wrong("sub"))?;
        }
        // Names of actions there are not allow nothing.
        let actions = |names: Names| -> BTreeSet<Action> {
            names.list().iter().filter_map(|name| name.parse().ok()).collect()
        };
        let folder = |text: String| {
            let inner = Key::parse(text.strip_suffix('/').unwrap_or(&text));
            inner.map(|inner| format!("{inner}/")).map_err(|_| wrong("prefix"))
        };
        let size = |size: Size| match size {
            Size::Bytes(bytes) => Ok(bytes),
            Size::Text(text) => text
                .parse::<bytesize::ByteSize>()
                .map(|size| size.as_u64())
                .map_err(|_| wrong("max_file_size")),
        };
        let types = |names: Names| {
            let list: Vec<String> =
                names.list().into_iter().map(|name| name.to_ascii_lowercase()).collect();
            // In the settings an empty list means any; a ticket that lists nothing was not meant so.
            if list.is_empty() { Err(wrong("types")) } else { Ok(list) }
        };
        Ok(ClaimLimits {
            can: self.can.map(actions),
            prefix: self.prefix.map(folder).transpose()?,
            path: self.path.map(|path| Key::parse(&path)).transpose().map_err(|_| wrong("path"))?,
            max_file_size: self.max_file_size.map(size).transpose()?,
            max_files: self.max_files,
            types: self.types.map(types).transpose()?,
        })
    }
}
