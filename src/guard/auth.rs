//! Authentication: identifies the client of a request by its API key (hashes compared in constant time), by its ticket,
//! or by the openid that WeChat's cloud hosting adds. A request with none of them is left to the auth server, if there
//! is one; otherwise it is anonymous.

use std::sync::Arc;

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use rand::RngExt;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::jwks::{Jwks, JwksError};
use super::minting::TicketMinter;
use super::policy::{Client, PolicyError};
use super::ticket::{JwtKeyError, TicketError, TicketVerifier};
use crate::settings::{Action, Policy, Settings};

/// The header in which WeChat's cloud hosting sends the user's openid.
const OPENID: &str = "x-wx-openid";

/// Why the client of a request is not identified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("no key was given")]
    Missing,
    #[error("the Authorization header is not `Bearer KEY`")]
    Scheme,
    #[error("the key is not known")]
    Unknown,
    #[error("an API key is in the URL, where only tickets may be: URLs are logged and passed on")]
    KeyInUrl,
    #[error("the ticket is refused: {0}")]
    Ticket(TicketError),
    /// The ticket cannot be verified now.
    #[error(transparent)]
    Jwks(JwksError),
    /// The ticket is valid, but claims only a folder or path outside those of `auth.jwt`.
    #[error(transparent)]
    OutOfScope(#[from] PolicyError),
}

impl From<TicketError> for AuthError {
    fn from(error: TicketError) -> Self {
        match error {
            TicketError::Jwks(error) => Self::Jwks(error),
            error => Self::Ticket(error),
        }
    }
}

/// A credential in the URL's query instead of a header.
#[derive(Debug, Clone, Copy)]
pub enum UrlCredential<'a> {
    /// `?ticket=`
    Ticket(&'a str),
    /// `?access_token=` of calls to WeChat's API, whose clients cannot send it in a header.
    KeyOrTicket(&'a str),
}

/// All clients that may call, by their credentials.
pub struct Guard {
    keys: Vec<([u8; 32], Arc<Client>)>,
    tickets: Option<(TicketVerifier, Client)>,
    minter: Option<TicketMinter>,
    wx: Option<Client>,
    /// The auth server of `auth.forward_url` decides about requests without one of these.
    forwards: bool,
    anonymous: Option<Arc<Client>>,
}

impl Guard {
    /// Reads `auth.jwt.key_file` if it is set. `jwks`: the keys of `auth.jwt.jwks_url`.
    pub fn new(settings: &Settings, jwks: Option<Arc<Jwks>>) -> Result<Self, JwtKeyError> {
        let auth = &settings.auth;
        let client = |kind, name, policy| Client::new(kind, name, policy, settings);
        let keys = auth
            .keys
            .iter()
            .map(|(name, key)| (key.sha256, Arc::new(client("key", name, &key.policy))));
        let all_actions = Policy {
            can: Action::ON_FILES.into(),
            prefix: None,
            client_paths: None,
            max_file_size: None,
            max_files: None,
            types: Vec::new(),
            rate: None,
            quota: None,
        };
        let tickets = TicketVerifier::new(&auth.jwt, jwks)?;
        Ok(Self {
            keys: keys.collect(),
            tickets: tickets.map(|tickets| (tickets, client("ticket", "ticket", &auth.jwt.policy))),
            minter: TicketMinter::new(settings)?,
            wx: auth.trust_wx_headers.then(|| client("wx", "wx", &auth.wx)),
            forwards: auth.forward.url.is_some(),
            anonymous: auth
                .anonymous
                .then(|| Arc::new(client("anonymous", "anonymous", &all_actions))),
        })
    }

    /// What mints tickets, if the gateway has the secret that they are signed with.
    pub fn minter(&self) -> Option<&TicketMinter> {
        self.minter.as_ref()
    }

    /// Waits for the keys of tickets where identifying a client failed with [`JwksError::NotFetched`], whose `after` it
    /// takes. Another attempt may then succeed.
    pub async fn fetched_keys(&self, after: u64) {
        if let Some((tickets, _)) = &self.tickets {
            tickets.fetched_keys(after).await;
        }
    }

    /// The client of a request; `None`: the auth server decides. A wrong credential is refused even where none is
    /// needed; the `Authorization` header takes precedence over the URL. Where there is an auth server, an
    /// `Authorization` without a valid key or ticket is for that server to judge.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        url_credential: Option<UrlCredential<'_>>,
    ) -> Result<Option<Arc<Client>>, AuthError> {
        if let Some(value) = headers.get(AUTHORIZATION) {
            match self.client_of_header(value) {
                Err(AuthError::Scheme | AuthError::Unknown | AuthError::Ticket(_))
                    if self.forwards => {}
                client => return client.map(Some),
            }
        }
        match url_credential {
            Some(UrlCredential::Ticket(text)) => return self.client_of(text, false).map(Some),
            Some(UrlCredential::KeyOrTicket(text)) => return self.client_of(text, true).map(Some),
            None => {}
        }
        if let Some(wx) = &self.wx
            && let Some(openid) = headers.get(OPENID).and_then(|value| value.to_str().ok())
            && is_openid(openid)
        {
            return Ok(Some(Arc::new(wx.with_identity(openid, format!("wx:{openid}")))));
        }
        match &self.anonymous {
            _ if self.forwards => Ok(None),
            None => Err(AuthError::Missing),
            anonymous => Ok(anonymous.clone()),
        }
    }

    /// The client of a key or ticket in a request's body or parameters.
    pub fn identify_by_text(&self, key_or_ticket: &str) -> Result<Arc<Client>, AuthError> {
        self.client_of(key_or_ticket, true)
    }

    /// Whether a request's headers have a credential, valid or not.
    pub fn has_credential(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(AUTHORIZATION) || (self.wx.is_some() && headers.contains_key(OPENID))
    }

    fn client_of_header(&self, value: &HeaderValue) -> Result<Arc<Client>, AuthError> {
        let text = value.to_str().map_err(|_| AuthError::Scheme)?;
        let (scheme, credential) = text.split_once(' ').ok_or(AuthError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(AuthError::Scheme);
        }
        self.client_of(credential.trim(), true)
    }

    fn client_of(&self, credential: &str, may_be_key: bool) -> Result<Arc<Client>, AuthError> {
        match (self.client_of_key(credential), &self.tickets) {
            (Some(client), _) if may_be_key => Ok(client),
            (Some(_), _) => Err(AuthError::KeyInUrl),
            (None, Some((tickets, client))) if credential.matches('.').count() == 2 => {
                let ticket = tickets.verify(credential)?;
                let client = match &ticket.name {
                    Some(name) => client.with_identity(name, format!("user:{name}")),
                    None => {
                        client.with_identity("ticket", format!("ticket:{}", ticket.fingerprint))
                    }
                };
                Ok(Arc::new(client.limited_by(ticket.limits)?))
            }
            (None, _) => Err(AuthError::Unknown),
        }
    }

    /// Compares every key even after a match, so that the time taken tells nothing about the keys.
    fn client_of_key(&self, key: &str) -> Option<Arc<Client>> {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let mut found = u32::MAX;
        for (index, (known, _)) in (0u32..).zip(&self.keys) {
            let same: Choice = known.ct_eq(&hash);
            found = u32::conditional_select(&found, &index, same);
        }
        self.keys.get(found as usize).map(|(_, client)| client.clone())
    }
}

/// WeChat's openids are 28 characters of base64url; other lengths up to 64 are accepted.
fn is_openid(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// A new key of 256 random bits.
pub fn new_key() -> String {
    let mut key = [0; 32];
    rand::rng().fill(&mut key);
    hex::encode(key)
}

/// The value of `auth.keys.NAME.sha256` for a key.
pub fn hash_key(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}
