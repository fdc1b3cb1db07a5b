//! Minting of tickets: what a key may pass on to its users, and the signed token.
//!
//! A ticket never allows more than the key that mints it. Where a request asks for more it is refused; what it leaves out
//! is filled in from the key.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use uuid::Uuid;

use super::policy::{ClaimLimits, Client, PolicyError};
use super::ticket::{JwtKeyError, is_user_name, key_text};
use crate::settings::{Action, JwtAlgorithm, Settings};

/// Bytes of a ticket: it must fit into a request's head, as a header or in the URL.
const MAX_TICKET: usize = 8 * 1024;

/// Why no ticket is minted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    #[error("`sub` is a name of 1 to 128 bytes without control characters")]
    User,
    #[error("`ttl` is a whole number of seconds from 1 to {0} (auth.jwt.max_ttl)")]
    Lifetime(u64),
    #[error("`{claim}` asks for more than {by} allows")]
    Beyond { claim: &'static str, by: String },
    #[error(
        "the key `{0}` and auth.jwt have no action in common, so the ticket would allow nothing"
    )]
    Nothing(String),
    #[error("the claims make a ticket of more than {MAX_TICKET} bytes")]
    TooLong,
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// A minted ticket.
pub struct Minted {
    pub ticket: String,
    /// In Unix seconds.
    pub expires_at: u64,
}

/// Mints tickets with the secret that verifies them.
pub struct TicketMinter {
    key: EncodingKey,
    issuer: Option<String>,
    audience: Option<String>,
    max_ttl: Duration,
    /// What any ticket may do: `auth.jwt`.
    tickets: Client,
}

#[derive(Serialize)]
struct Claims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    iat: u64,
    exp: u64,
    /// Tickets without a `sub` are different clients.
    jti: String,
    #[serde(flatten)]
    limits: LimitClaims<'a>,
}

#[derive(Serialize)]
struct LimitClaims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    can: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_paths: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_file_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_files: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    types: Option<&'a [String]>,
}

impl TicketMinter {
    /// `None` unless `auth.jwt.key` or `key_file` is a secret that signs tickets: HS256. Reads that file.
    pub fn new(settings: &Settings) -> Result<Option<Self>, JwtKeyError> {
        let jwt = &settings.auth.jwt;
        if jwt.algorithm != Some(JwtAlgorithm::Hs256) {
            return Ok(None);
        }
        let Some(key) = key_text(jwt)? else { return Ok(None) };
        Ok(Some(Self {
            key: EncodingKey::from_secret(key.as_bytes()),
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            max_ttl: jwt.max_ttl,
            tickets: Client::new("ticket", "ticket", &jwt.policy, settings),
        }))
    }

    /// Mints a ticket for the user `sub` on behalf of the key `minter`, whose own list of types is `own_types`.
    /// `seconds`: its lifetime.
    pub fn mint(
        &self,
        minter: &Client,
        own_types: &[String],
        sub: Option<&str>,
        seconds: f64,
        asked: ClaimLimits,
    ) -> Result<Minted, MintError> {
        if sub.is_some_and(|sub| !is_user_name(sub)) {
            return Err(MintError::User);
        }
        let most = self.max_ttl.as_secs();
        // Some languages write `60.0`.
        if seconds.fract() != 0.0 || !(1.0..=most as f64).contains(&seconds) {
            return Err(MintError::Lifetime(most));
        }
        let limits = self.limits(minter, own_types, asked)?;
        let iat = jsonwebtoken::get_current_timestamp();
        let expires_at = iat + seconds as u64;
        let claims = Claims {
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
            sub,
            iat,
            exp: expires_at,
            jti: Uuid::now_v7().simple().to_string(),
            limits: LimitClaims {
                can: limits
                    .can
                    .as_ref()
                    .map(|can| can.iter().map(|action| action.name()).collect()),
                prefix: limits.prefix.as_deref(),
                path: limits.path.as_ref().map(|path| path.as_str()),
                client_paths: limits.client_paths,
                max_file_size: limits.max_file_size,
                max_files: limits.max_files,
                types: limits.types.as_deref(),
            },
        };
        // HS256 signs with any key, so that only the length can be wrong.
        let ticket = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key);
        match ticket {
            Ok(ticket) if ticket.len() <= MAX_TICKET => Ok(Minted { ticket, expires_at }),
            _ => Err(MintError::TooLong),
        }
    }

    /// What the ticket allows: what was asked for, and what the key is limited to besides.
    fn limits(
        &self,
        minter: &Client,
        own_types: &[String],
        asked: ClaimLimits,
    ) -> Result<ClaimLimits, MintError> {
        let by = format!("the key `{}`", minter.name);
        refuse_beyond(minter, &by, &asked)?;
        refuse_beyond(&self.tickets, "auth.jwt", &asked)?;
        let can = match asked.can {
            Some(can) => can,
            None => minter.can.intersection(&self.tickets.can).copied().collect(),
        };
        if can.is_empty() {
            return Err(MintError::Nothing(minter.name.clone()));
        }
        if let Some(path) = &asked.path {
            minter.may_reach(path.as_str())?;
            if can.contains(&Action::Upload) || can.contains(&Action::Link) {
                minter.may_choose_paths()?;
            }
        }
        let own_size = minter.has_file_limits.then_some(minter.max_file_size);
        let own_files = (minter.max_files < self.tickets.max_files).then_some(minter.max_files);
        let own_types = (!own_types.is_empty()).then(|| own_types.to_vec());
        let limits = ClaimLimits {
            can: Some(can),
            prefix: asked.prefix.or_else(|| minter.prefix.clone()),
            path: asked.path,
            client_paths: asked
                .client_paths
                .filter(|may| !may)
                .or((!minter.client_paths).then_some(false)),
            max_file_size: asked.max_file_size.or(own_size),
            max_files: asked.max_files.or(own_files),
            types: asked.types.or(own_types),
        };
        // The folders of key and `auth.jwt` may exclude each other, as may `prefix` and `path`.
        self.tickets.clone().limited_by(limits.clone())?;
        Ok(limits)
    }
}

/// Fails if a claim asks for more than `policy` allows.
fn refuse_beyond(policy: &Client, by: &str, asked: &ClaimLimits) -> Result<(), MintError> {
    let is_outside = |prefix: &String| {
        policy.prefix.as_ref().is_some_and(|own| !prefix.starts_with(own.as_str()))
    };
    let excess = [
        ("can", asked.can.as_ref().is_some_and(|can| !can.is_subset(&policy.can))),
        ("prefix", asked.prefix.as_ref().is_some_and(is_outside)),
        ("client_paths", asked.client_paths == Some(true) && !policy.client_paths),
        ("max_file_size", asked.max_file_size.is_some_and(|size| size > policy.max_file_size)),
        ("max_files", asked.max_files.is_some_and(|files| files > policy.max_files)),
        ("types", asked.types.as_ref().is_some_and(|types| !policy.types.cover(types))),
    ];
    match excess.into_iter().find(|(_, is_more)| *is_more) {
        Some((claim, _)) => Err(MintError::Beyond { claim, by: by.to_owned() }),
        None => Ok(()),
    }
}
