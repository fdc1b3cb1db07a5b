//! Who is calling: API keys, compared by their hash in constant time.

use std::sync::Arc;

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::policy::Client;
use crate::settings::{Action, Auth};

/// Why a caller is nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("no key was given")]
    Missing,
    #[error("the Authorization header is not `Bearer KEY`")]
    Scheme,
    #[error("the key is not known")]
    Unknown,
}

/// Everyone who may call.
pub struct Guard {
    keys: Vec<([u8; 32], Arc<Client>)>,
    anonymous: Option<Arc<Client>>,
}

impl Guard {
    /// `client_paths` counts for anonymous callers and for keys that do not say otherwise.
    pub fn new(auth: &Auth, client_paths: bool) -> Self {
        let keys = auth.keys.iter().map(|(name, key)| {
            let client = Client {
                name: name.clone(),
                can: key.can.clone(),
                prefix: key.prefix.clone(),
                client_paths: key.client_paths.unwrap_or(client_paths),
            };
            (key.sha256, Arc::new(client))
        });
        let anonymous = auth.anonymous.then(|| {
            let can = Action::ALL.iter().copied().collect();
            Arc::new(Client { name: "anonymous".to_owned(), can, prefix: None, client_paths })
        });
        Self { keys: keys.collect(), anonymous }
    }

    /// The caller of a request; `token` is the key in its query, where its address takes one there. A wrong key is
    /// refused even where anonymous access is allowed.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        token: Option<&str>,
    ) -> Result<Arc<Client>, AuthError> {
        let Some(value) = headers.get(AUTHORIZATION) else {
            return match token {
                Some(token) => self.find(token).ok_or(AuthError::Unknown),
                None => self.anonymous.clone().ok_or(AuthError::Missing),
            };
        };
        let text = value.to_str().map_err(|_| AuthError::Scheme)?;
        let (scheme, key) = text.split_once(' ').ok_or(AuthError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(AuthError::Scheme);
        }
        self.find(key.trim()).ok_or(AuthError::Unknown)
    }

    /// Looks at every key whichever fits, so that time tells nothing.
    fn find(&self, key: &str) -> Option<Arc<Client>> {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let mut found = u32::MAX;
        for (index, (known, _)) in (0u32..).zip(&self.keys) {
            let same: Choice = known.ct_eq(&hash);
            found = u32::conditional_select(&found, &index, same);
        }
        self.keys.get(found as usize).map(|(_, client)| client.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn guard(anonymous: bool) -> Guard {
        let keys = ["one", "two"].map(|name| {
            let key = crate::settings::ApiKey {
                sha256: Sha256::digest(name.as_bytes()).into(),
                can: [Action::Upload].into(),
                prefix: None,
                client_paths: None,
            };
            (name.to_owned(), key)
        });
        Guard::new(&Auth { anonymous, keys: keys.into() }, false)
    }

    fn who(guard: &Guard, value: Option<&'static str>) -> Result<String, AuthError> {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
        }
        guard.identify(&headers, None).map(|client| client.name.clone())
    }

    #[test]
    fn keys_are_found_and_wrong_ones_are_never_anonymous() {
        for anonymous in [false, true] {
            let guard = guard(anonymous);
            assert_eq!(who(&guard, Some("Bearer one")).as_deref(), Ok("one"));
            assert_eq!(who(&guard, Some("bearer two")).as_deref(), Ok("two"));
            assert_eq!(who(&guard, Some("Bearer three")), Err(AuthError::Unknown));
            assert_eq!(who(&guard, Some("Bearer ")), Err(AuthError::Unknown));
            assert_eq!(who(&guard, Some("Basic one")), Err(AuthError::Scheme));
        }
        assert_eq!(who(&guard(false), None), Err(AuthError::Missing));
        assert_eq!(who(&guard(true), None).as_deref(), Ok("anonymous"));
    }
}
