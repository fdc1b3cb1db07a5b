//! The keys that requests to the API of COS are signed with: the owner's pair, and the temporary keys of
//! `/_/cos/getauth`. Knows neither requests nor signatures.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The oldest temporary keys are forgotten beyond this number, and are unknown to COS then.
const TEMPORARY_MAX: usize = 1000;
const URL_SAFE: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[derive(Clone)]
pub struct TemporaryKey {
    pub id: String,
    pub secret: String,
    pub token: String,
    /// In seconds since the Unix epoch; the key is valid before it.
    pub expires: u64,
}

pub struct Keys {
    id: String,
    secret: String,
    life: Duration,
    temporary: VecDeque<TemporaryKey>,
}

/// The secret that belongs to the SecretId of a request.
#[derive(Debug, PartialEq)]
pub enum FoundKey<'a> {
    Owner {
        secret: &'a str,
    },
    Temporary {
        secret: &'a str,
    },
    Expired,
    /// The SecretId is not known, or not together with this security token.
    Unknown,
}

impl Keys {
    pub fn new((id, secret): (&str, &str), life: Duration) -> Keys {
        Keys { id: id.to_owned(), secret: secret.to_owned(), life, temporary: VecDeque::new() }
    }

    pub fn issue(&mut self) -> TemporaryKey {
        let key = TemporaryKey {
            id: format!("AKID{}", random(64)),
            secret: random(44),
            token: random(400),
            expires: now() + self.life.as_secs(),
        };
        self.temporary.push_back(key.clone());
        if self.temporary.len() > TEMPORARY_MAX {
            self.temporary.pop_front();
        }
        key
    }

    /// `token` is the request's `x-cos-security-token`, which must be there for temporary keys, and for them only.
    pub fn find(&self, id: &str, token: Option<&str>) -> FoundKey<'_> {
        if id == self.id && token.is_none() {
            return FoundKey::Owner { secret: &self.secret };
        }
        match self.temporary.iter().find(|key| key.id == id) {
            Some(key) if token != Some(&key.token) => FoundKey::Unknown,
            Some(key) if now() >= key.expires => FoundKey::Expired,
            Some(key) => FoundKey::Temporary { secret: &key.secret },
            None => FoundKey::Unknown,
        }
    }

    /// Everything that must not be in a log.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let temporary = self.temporary.iter().flat_map(|key| [&key.secret, &key.token]);
        temporary.chain([&self.secret]).map(String::as_str)
    }
}

fn random(length: usize) -> String {
    (0..length).map(|_| char::from(URL_SAFE[fastrand::usize(..URL_SAFE.len())])).collect()
}

/// In seconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_key_is_known_with_its_token_until_it_expires() {
        let mut keys = Keys::new(("owner", "secret"), Duration::from_secs(60));
        let key = keys.issue();
        assert!(matches!(keys.find(&key.id, Some(&key.token)), FoundKey::Temporary { .. }));
        assert_eq!(keys.find(&key.id, None), FoundKey::Unknown);
        assert_eq!(keys.find(&key.id, Some("other")), FoundKey::Unknown);
        assert_eq!(keys.find("owner", None), FoundKey::Owner { secret: "secret" });
        assert_eq!(keys.find("owner", Some(&key.token)), FoundKey::Unknown);
        keys.life = Duration::ZERO;
        let key = keys.issue();
        assert_eq!(keys.find(&key.id, Some(&key.token)), FoundKey::Expired);
    }

    #[test]
    fn the_number_of_temporary_keys_is_bounded() {
        let mut keys = Keys::new(("owner", "secret"), Duration::from_secs(60));
        let first = keys.issue();
        for _ in 0..TEMPORARY_MAX {
            keys.issue();
        }
        assert_eq!(keys.temporary.len(), TEMPORARY_MAX);
        assert_eq!(keys.find(&first.id, Some(&first.token)), FoundKey::Unknown);
    }
}
