//! Access to a file's stable URL: the signatures in signed URLs, which need no other credential.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::key::Key;
use crate::settings::{self, LinkAccess};

/// Why a signed URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("the link's signature is not valid for this path")]
    Signature,
    #[error("the link has expired")]
    Expired,
}

/// Signs and verifies stable URLs.
pub struct LinkPolicy {
    access: LinkAccess,
    keys: Vec<SecretString>,
    /// In seconds.
    max_age: u64,
}

/// How a stable URL is signed.
pub struct SignedQuery {
    /// To append to the URL; empty where links are not signed.
    pub query: String,
    /// `None` where links are not signed.
    pub expires: Option<Timestamp>,
}

impl LinkPolicy {
    pub fn new(links: &settings::Links) -> Self {
        Self {
            access: links.access,
            keys: links.signing_keys.clone(),
            max_age: links.max_age.as_secs().max(1),
        }
    }

    /// Which clients may follow a stable URL.
    pub fn access(&self) -> LinkAccess {
        self.access
    }

    /// The query to append to a file's URL: `?expires=…&signature=…` where links are signed, otherwise empty. `expires`
    /// is in Unix seconds.
    pub fn query(&self, key: &Key, now: Timestamp) -> String {
        self.query_for(key, now, self.max_age).query
    }

    /// The longest lifetime of a signed URL, in seconds.
    pub fn max_age(&self) -> u64 {
        self.max_age
    }

    /// As [`Self::query`], with a lifetime of `seconds`.
    pub fn query_for(&self, key: &Key, now: Timestamp, seconds: u64) -> SignedQuery {
        match (self.access, self.keys.first()) {
            (LinkAccess::Signed, Some(signing_key)) => {
                let expires = now.as_second().saturating_add_unsigned(seconds);
                let signature = hex::encode(mac(signing_key, key, expires).finalize().into_bytes());
                let query = format!("?expires={expires}&signature={signature}");
                SignedQuery { query, expires: Timestamp::from_second(expires).ok() }
            }
            _ => SignedQuery { query: String::new(), expires: None },
        }
    }

    /// Whether `signature` was made with one of `links.signing_keys` for this path and expiry, and has not expired.
    pub fn verify(
        &self,
        key: &Key,
        expires: &str,
        signature: &str,
        now: Timestamp,
    ) -> Result<(), LinkError> {
        let expires: i64 = expires.parse().map_err(|_| LinkError::Signature)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(signature, &mut bytes).map_err(|_| LinkError::Signature)?;
        let signed_with = |signing_key: &SecretString| {
            mac(signing_key, key, expires).verify_slice(&bytes).is_ok()
        };
        if !self.keys.iter().any(signed_with) {
            return Err(LinkError::Signature);
        }
        if expires < now.as_second() { Err(LinkError::Expired) } else { Ok(()) }
    }
}

fn mac(signing_key: &SecretString, key: &Key, expires: i64) -> Hmac<Sha256> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(signing_key.expose_secret().as_bytes())
        .unwrap_or_else(|_| unreachable!("a key of any length"));
    // No path contains a line break, so the parts cannot run together.
    mac.update(format!("link\n{key}\n{expires}").as_bytes());
    mac
}
