//! Who may follow a file's stable address, and the signatures that let those follow it who have nothing else.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::key::Key;
use crate::settings::{self, LinkAccess};

/// Why a signature lets nobody through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("the link's signature is not one of ours for this path")]
    Signature,
    #[error("the link has ended")]
    Ended,
}

/// Signs and checks links.
pub struct LinkPolicy {
    access: LinkAccess,
    keys: Vec<SecretString>,
    max_age: i64,
}

impl LinkPolicy {
    pub fn new(links: &settings::Links) -> Self {
        Self {
            access: links.access,
            keys: links.signing_keys.clone(),
            max_age: links.max_age.as_secs().max(1).cast_signed(),
        }
    }

    /// Who may follow a link.
    pub fn access(&self) -> LinkAccess {
        self.access
    }

    /// What stands behind a file's address: `?expires=…&signature=…` where links are signed, otherwise nothing.
    pub fn query(&self, key: &Key, now: Timestamp) -> String {
        match (self.access, self.keys.first()) {
            (LinkAccess::Signed, Some(first)) => {
                let expires = now.as_second() + self.max_age;
                let signature = hex::encode(mac(first, key, expires).finalize().into_bytes());
                format!("?expires={expires}&signature={signature}")
            }
            _ => String::new(),
        }
    }

    /// Whether `signature` is of one of our keys, for this path and time, and the time has not come.
    pub fn check(
        &self,
        key: &Key,
        expires: &str,
        signature: &str,
        now: Timestamp,
    ) -> Result<(), LinkError> {
        let expires: i64 = expires.parse().map_err(|_| LinkError::Signature)?;
        let mut given = [0; 32];
        hex::decode_to_slice(signature, &mut given).map_err(|_| LinkError::Signature)?;
        let signed = |by: &SecretString| mac(by, key, expires).verify_slice(&given).is_ok();
        if !self.keys.iter().any(signed) {
            return Err(LinkError::Signature);
        }
        if expires < now.as_second() { Err(LinkError::Ended) } else { Ok(()) }
    }
}

fn mac(by: &SecretString, key: &Key, expires: i64) -> Hmac<Sha256> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(by.expose_secret().as_bytes())
        .unwrap_or_else(|_| unreachable!("a key of any length"));
    // No path has a line break in it.
    mac.update(format!("link\n{key}\n{expires}").as_bytes());
    mac
}
