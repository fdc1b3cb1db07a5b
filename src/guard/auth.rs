//! Who is calling: API keys, compared by their hash in constant time; tickets; users that WeChat's platform names.

use std::sync::Arc;

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use rand::RngExt;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::policy::{Client, PolicyError};
use super::ticket::{KeyFault, TicketError, Tickets};
use crate::settings::{Action, Policy, Settings};

/// Where WeChat's cloud hosting puts the openid of who calls.
const OPENID: &str = "x-wx-openid";

/// Why a caller is nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("no key was given")]
    Missing,
    #[error("the Authorization header is not `Bearer KEY`")]
    Scheme,
    #[error("the key is not known")]
    Unknown,
    #[error(
        "a key stands in the address, where only tickets may: addresses are logged and passed on"
    )]
    KeyInAddress,
    #[error("the ticket is refused: {0}")]
    Ticket(#[from] TicketError),
    /// The ticket holds, and claims only what its kind may not reach.
    #[error(transparent)]
    Beyond(#[from] PolicyError),
}

/// A credential that stands in the address instead of a header.
#[derive(Debug, Clone, Copy)]
pub enum InAddress<'a> {
    /// `?ticket=`
    Ticket(&'a str),
    /// `?access_token=` of WeChat's own calls, whose clients can send it in no other way.
    KeyOrTicket(&'a str),
}

/// Everyone who may call.
pub struct Guard {
    keys: Vec<([u8; 32], Arc<Client>)>,
    tickets: Option<(Tickets, Client)>,
    wx: Option<Client>,
    anonymous: Option<Arc<Client>>,
}

impl Guard {
    /// Reads the key for tickets where that is a file.
    pub fn new(settings: &Settings) -> Result<Self, KeyFault> {
        let auth = &settings.auth;
        let client = |kind, name, policy| Client::new(kind, name, policy, settings);
        let keys = auth
            .keys
            .iter()
            .map(|(name, key)| (key.sha256, Arc::new(client("key", name, &key.policy))));
        let everything = Policy {
            can: Action::ALL.iter().copied().collect(),
            prefix: None,
            client_paths: None,
            max_file_size: None,
            max_files: None,
            types: Vec::new(),
            rate: None,
        };
        let tickets = Tickets::new(&auth.jwt)?;
        Ok(Self {
            keys: keys.collect(),
            tickets: tickets.map(|tickets| (tickets, client("ticket", "ticket", &auth.jwt.policy))),
            wx: auth.trust_wx_headers.then(|| client("wx", "wx", &auth.wx)),
            anonymous: auth
                .anonymous
                .then(|| Arc::new(client("anonymous", "anonymous", &everything))),
        })
    }

    /// The caller of a request. A wrong credential is refused even where none is needed; the header's counts before the
    /// address's.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        token: Option<InAddress<'_>>,
    ) -> Result<Arc<Client>, AuthError> {
        if let Some(value) = headers.get(AUTHORIZATION) {
            let text = value.to_str().map_err(|_| AuthError::Scheme)?;
            let (scheme, credential) = text.split_once(' ').ok_or(AuthError::Scheme)?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(AuthError::Scheme);
            }
            return self.find(credential.trim(), true);
        }
        match token {
            Some(InAddress::Ticket(token)) => return self.find(token, false),
            Some(InAddress::KeyOrTicket(token)) => return self.find(token, true),
            None => {}
        }
        if let Some(wx) = &self.wx
            && let Some(openid) = headers.get(OPENID).and_then(|value| value.to_str().ok())
            && is_openid(openid)
        {
            return Ok(Arc::new(wx.named(openid, format!("wx:{openid}"))));
        }
        self.anonymous.clone().ok_or(AuthError::Missing)
    }

    /// Whether a request's headers have a credential, right or wrong.
    pub fn is_shown(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(AUTHORIZATION) || (self.wx.is_some() && headers.contains_key(OPENID))
    }

    fn find(&self, credential: &str, may_be_key: bool) -> Result<Arc<Client>, AuthError> {
        match (self.key(credential), &self.tickets) {
            (Some(client), _) if may_be_key => Ok(client),
            (Some(_), _) => Err(AuthError::KeyInAddress),
            (None, Some((tickets, client))) if credential.matches('.').count() == 2 => {
                let ticket = tickets.check(credential)?;
                let client = match &ticket.name {
                    Some(name) => client.named(name, format!("user:{name}")),
                    None => client.named("ticket", format!("ticket:{}", ticket.fingerprint)),
                };
                Ok(Arc::new(client.narrowed(ticket.narrowing)?))
            }
            (None, _) => Err(AuthError::Unknown),
        }
    }

    /// Looks at every key whichever fits, so that time tells nothing.
    fn key(&self, key: &str) -> Option<Arc<Client>> {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let mut found = u32::MAX;
        for (index, (known, _)) in (0u32..).zip(&self.keys) {
            let same: Choice = known.ct_eq(&hash);
            found = u32::conditional_select(&found, &index, same);
        }
        self.keys.get(found as usize).map(|(_, client)| client.clone())
    }
}

/// WeChat's are 28 characters of base64url.
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

/// What `auth.keys.NAME.sha256` is for a key.
pub fn hash_key(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}
