//! What one client may do.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::types::Types;
use crate::key::{Key, KeyError};
use crate::settings::{Action, Policy, Rate, Settings};

/// The id of a caller without any credential.
const ANONYMOUS: &str = "anonymous:anonymous";

/// A caller and what it is allowed.
#[derive(Debug, Clone)]
pub struct Client {
    /// As people know it.
    pub name: String,
    /// What limits and repeats go by: never the same for two callers, though a key and a user may share a name.
    pub id: String,
    pub can: BTreeSet<Action>,
    /// A folder ending with `/`: generated paths are put under it, a path of the client's own must lie under it.
    pub prefix: Option<String>,
    /// The only path there is for it, named by who minted its ticket.
    pub path: Option<Key>,
    /// Whether it may name an object's path.
    pub client_paths: bool,
    /// In bytes.
    pub max_file_size: u64,
    pub max_files: usize,
    pub types: Types,
    pub rate: Option<Rate>,
    /// Its files are held to bounds of its own, which somebody who posts to COS directly would pass by.
    pub bounded: bool,
    /// A hash of the ticket's claims that narrowed it: the same `id` may come with tickets that allow different things.
    pub claims: Option<[u8; 32]>,
}

/// Why a client may not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("`{client}` may not {action}")]
    Action { client: String, action: &'static str },
    #[error(
        "`{client}` may not have upload links: its files are limited in size or type, and a link is not"
    )]
    Unbounded { client: String },
    #[error(
        "`{client}` may not name paths: leave the path out and the gateway makes one, or allow it with \
         `upload.client_paths = true` for all callers, or with `client_paths = true` of the caller's own key \
         (`auth.keys.NAME.client_paths`) or of tickets (`auth.jwt.client_paths`)"
    )]
    Paths { client: String },
    #[error("`{client}` may only use paths under `{prefix}`")]
    Outside { client: String, prefix: String },
    #[error("`{client}` may only use the path `{path}`")]
    OtherPath { client: String, path: Key },
    #[error("`{client}` may not store any file: its ticket claims `max_files` 0")]
    NoFiles { client: String },
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What a ticket's claims leave of what its kind may do.
#[derive(Debug, Default)]
pub struct ClaimLimits {
    pub can: Option<BTreeSet<Action>>,
    /// A folder ending with `/`.
    pub prefix: Option<String>,
    pub path: Option<Key>,
    pub max_file_size: Option<u64>,
    pub max_files: Option<usize>,
    pub types: Option<Vec<String>>,
}

impl ClaimLimits {
    /// The same for claims that allow the same. Each part is written with its length, so that no two sets of claims
    /// run together.
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |name: &str, values: Option<Vec<&str>>| {
            let Some(values) = values else { return };
            for text in [name].into_iter().chain(values) {
                hash.update((text.len() as u64).to_be_bytes());
                hash.update(text);
            }
        };
        let (size, files) =
            (self.max_file_size.map(|n| n.to_string()), self.max_files.map(|n| n.to_string()));
        part("can", self.can.as_ref().map(|can| can.iter().map(|action| action.name()).collect()));
        part("prefix", self.prefix.as_deref().map(|prefix| vec![prefix]));
        part("path", self.path.as_ref().map(|path| vec![path.as_str()]));
        part("max_file_size", size.as_deref().map(|size| vec![size]));
        part("max_files", files.as_deref().map(|files| vec![files]));
        part("types", self.types.as_ref().map(|types| types.iter().map(String::as_str).collect()));
        hash.finalize().into()
    }
}

impl Client {
    /// A client of `settings` as `policy` has it; `kind` keeps apart the names of different kinds of callers.
    pub fn new(kind: &str, name: &str, policy: &Policy, settings: &Settings) -> Self {
        let upload = &settings.upload;
        let at_most = |own: Option<u64>, all: u64| own.unwrap_or(all).min(all);
        Self {
            name: name.to_owned(),
            id: format!("{kind}:{name}"),
            can: policy.can.clone(),
            prefix: policy.prefix.clone(),
            path: None,
            client_paths: policy.client_paths.unwrap_or(upload.client_paths),
            max_file_size: at_most(policy.max_file_size, upload.max_file_size),
            max_files: policy.max_files.unwrap_or(upload.max_files).min(upload.max_files),
            types: Types::new([&upload.allowed_types, &policy.types]),
            rate: policy.rate.or(settings.auth.rate),
            bounded: policy.max_file_size.is_some() || !policy.types.is_empty(),
            claims: None,
        }
    }

    /// The same under another name, told apart from others by `id`.
    pub fn named(&self, name: &str, id: String) -> Self {
        Self { name: name.to_owned(), id, ..self.clone() }
    }

    /// Whether it is nobody in particular.
    pub fn is_anonymous(&self) -> bool {
        self.id == ANONYMOUS
    }

    /// Whether a part of the storage is all there is for it.
    pub fn is_confined(&self) -> bool {
        self.prefix.is_some() || self.path.is_some()
    }

    /// Takes away what `claims` do not allow; nothing is added. Fails where nothing would be left to reach.
    pub fn narrowed(mut self, claims: ClaimLimits) -> Result<Self, PolicyError> {
        self.claims = Some(claims.hash());
        if let Some(can) = claims.can {
            self.can.retain(|action| can.contains(action));
        }
        if let Some(prefix) = claims.prefix {
            self.prefix = match self.prefix.take() {
                Some(own) if own.starts_with(&prefix) => Some(own),
                Some(own) if !prefix.starts_with(&own) => {
                    return Err(PolicyError::Outside { client: self.name, prefix: own });
                }
                _ => Some(prefix),
            };
        }
        if let Some(path) = claims.path {
            self.reach(path.as_str())?;
            self.path = Some(path);
        }
        if let Some(size) = claims.max_file_size {
            self.max_file_size = self.max_file_size.min(size);
            self.bounded = true;
        }
        if let Some(files) = claims.max_files {
            self.max_files = self.max_files.min(files);
        }
        if let Some(types) = claims.types {
            self.types.narrow(&types);
            self.bounded = true;
        }
        Ok(self)
    }

    /// Whether it may do `action`.
    pub fn may(&self, action: Action) -> Result<(), PolicyError> {
        if !self.can.contains(&action) {
            return Err(PolicyError::Action { client: self.name.clone(), action: action.name() });
        }
        if action == Action::Link && self.bounded {
            return Err(PolicyError::Unbounded { client: self.name.clone() });
        }
        if matches!(action, Action::Upload | Action::Link) && self.max_files == 0 {
            return Err(PolicyError::NoFiles { client: self.name.clone() });
        }
        Ok(())
    }

    /// Whether it may name an object's path. Where its ticket names it, that is not the client's choice.
    pub fn may_name_paths(&self) -> Result<(), PolicyError> {
        match self.client_paths || self.path.is_some() {
            true => Ok(()),
            false => Err(PolicyError::Paths { client: self.name.clone() }),
        }
    }

    /// The key for a path that the client names for an upload.
    pub fn own_key(&self, path: &str) -> Result<Key, PolicyError> {
        self.may_name_paths()?;
        let key = Key::parse(path)?;
        self.reach(key.as_str())?;
        Ok(key)
    }

    /// Whether it may touch the stored file `path`, which need not be a key of ours.
    pub fn reach(&self, path: &str) -> Result<(), PolicyError> {
        match (&self.path, &self.prefix) {
            (Some(only), _) if path != only.as_str() => {
                Err(PolicyError::OtherPath { client: self.name.clone(), path: only.clone() })
            }
            (_, Some(prefix)) if !path.starts_with(prefix) || path.split('/').any(is_odd) => {
                Err(PolicyError::Outside { client: self.name.clone(), prefix: prefix.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// A segment that may lead elsewhere, wherever a path is tidied up.
fn is_odd(segment: &str) -> bool {
    matches!(segment, "" | "." | "..") || segment.contains('\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(prefix: Option<&str>) -> Client {
        Client {
            name: "u".to_owned(),
            id: "ticket:u".to_owned(),
            can: [Action::Upload, Action::Download].into(),
            prefix: prefix.map(ToOwned::to_owned),
            path: None,
            client_paths: true,
            max_file_size: 100,
            max_files: 5,
            types: Types::default(),
            rate: None,
            bounded: false,
            claims: None,
        }
    }

    #[test]
    fn claims_take_away_and_never_add() {
        let claims = ClaimLimits {
            can: Some([Action::Upload, Action::Delete].into()),
            max_file_size: Some(1000),
            max_files: Some(2),
            ..ClaimLimits::default()
        };
        let narrowed = client(None).narrowed(claims).unwrap();
        assert_eq!(narrowed.can, [Action::Upload].into());
        assert_eq!((narrowed.max_file_size, narrowed.max_files), (100, 2));
    }

    #[test]
    fn of_two_folders_the_inner_one_counts() {
        for (own, claimed, left) in [
            (None, "a/", Some("a/")),
            (Some("a/"), "a/b/", Some("a/b/")),
            (Some("a/b/"), "a/", Some("a/b/")),
            (Some("a/"), "ab/", None),
            (Some("a/"), "b/", None),
        ] {
            let claims = ClaimLimits { prefix: Some(claimed.to_owned()), ..ClaimLimits::default() };
            let prefix = client(own).narrowed(claims).ok().map(|client| client.prefix.unwrap());
            assert_eq!(prefix.as_deref(), left, "{own:?} {claimed}");
        }
    }

    #[test]
    fn a_path_that_is_claimed_must_lie_in_the_folder_and_is_the_only_one() {
        let claims = |path: &str| ClaimLimits {
            path: Some(Key::parse(path).unwrap()),
            ..ClaimLimits::default()
        };
        assert!(client(Some("a/")).narrowed(claims("b/x")).is_err());
        let narrowed = client(Some("a/")).narrowed(claims("a/x")).unwrap();
        assert!(narrowed.own_key("a/x").is_ok());
        assert!(narrowed.own_key("a/y").is_err());
        let by_ticket = Client { client_paths: false, ..narrowed };
        assert!(by_ticket.own_key("a/x").is_ok(), "its ticket names it, not the client");
    }
}
