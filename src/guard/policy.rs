//! What one client may do: its actions, its paths, and the limits of its files.

use std::collections::BTreeSet;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::types::Types;
use crate::key::{Key, KeyError};
use crate::settings::{Action, Policy, Quota, QuotaPer, Rate, Settings};

/// The `id` of clients without a credential.
const ANONYMOUS: &str = "anonymous:anonymous";

/// A client, and what it may do.
#[derive(Debug, Clone)]
pub struct Client {
    /// For logs and messages.
    pub name: String,
    /// Identifies the client in limits and idempotency. Unlike `name` it is unique: it begins with the kind of credential.
    pub id: String,
    pub can: BTreeSet<Action>,
    /// A folder ending with `/`. Generated paths are put into it, and a path that the client names must be in it.
    pub prefix: Option<String>,
    /// The only path that it may use: its ticket's `path` claim.
    pub path: Option<Key>,
    /// Whether it may choose an object's path.
    pub client_paths: bool,
    /// In bytes.
    pub max_file_size: u64,
    pub max_files: usize,
    pub types: Types,
    pub rate: Option<Rate>,
    pub quota: Option<Arc<Quota>>,
    /// Whether its files have limits of their own (size, type, or a quota). An upload link would bypass these, since its client
    /// posts to COS directly.
    pub has_file_limits: bool,
    /// A hash of the claims of its ticket: tickets with the same `id` may allow different things.
    pub claims: Option<[u8; 32]>,
}

/// Why a client may not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("`{client}` may not {action}")]
    Action { client: String, action: &'static str },
    #[error(
        "`{client}` may not have upload links: its files are limited in size or type or by a quota, and COS would store any file \
         that is posted with a link; upload through the gateway, with `POST /v1/files`, or with `/v1/uploads` for \
         files that are to be resumed after an interruption"
    )]
    LinkBypassesLimits { client: String },
    #[error(
        "`{client}` may not choose paths: leave the path out and the gateway generates one, or allow it with \
         `upload.client_paths = true` for all clients, or with `client_paths = true` of the client's own key \
         (`auth.keys.NAME.client_paths`) or of tickets (`auth.jwt.client_paths`)"
    )]
    Paths { client: String },
    #[error("`{client}` may only use paths under `{prefix}`")]
    Outside { client: String, prefix: String },
    #[error("`{client}` may only use the path `{path}`")]
    OtherPath { client: String, path: Key },
    #[error("`{client}` may not store any file: `max_files` of its ticket is 0")]
    NoFiles { client: String },
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A ticket's claims, as limits of what `auth.jwt` allows.
#[derive(Debug, Default, Clone)]
pub struct ClaimLimits {
    pub can: Option<BTreeSet<Action>>,
    /// A folder ending with `/`.
    pub prefix: Option<String>,
    pub path: Option<Key>,
    /// `true` allows nothing more.
    pub client_paths: Option<bool>,
    pub max_file_size: Option<u64>,
    pub max_files: Option<usize>,
    pub types: Option<Vec<String>>,
}

impl ClaimLimits {
    /// Equal for claims that allow the same. Each part is hashed with its length, so that different claims cannot give
    /// the same bytes.
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
        part("client_paths", self.client_paths.filter(|may| !may).map(|_| vec!["false"]));
        part("max_file_size", size.as_deref().map(|size| vec![size]));
        part("max_files", files.as_deref().map(|files| vec![files]));
        part("types", self.types.as_ref().map(|types| types.iter().map(String::as_str).collect()));
        hash.finalize().into()
    }
}

impl Client {
    /// A client with the limits of `policy` and `settings`. `kind` tells clients apart that have the same name: `key`,
    /// `ticket`, `wx`, `anonymous`.
    pub fn new(kind: &str, name: &str, policy: &Policy, settings: &Settings) -> Self {
        let upload = &settings.upload;
        let max_file_size = policy.max_file_size.unwrap_or(upload.max_file_size);
        Self {
            name: name.to_owned(),
            id: format!("{kind}:{name}"),
            can: policy.can.clone(),
            prefix: policy.prefix.clone(),
            path: None,
            client_paths: policy.client_paths.unwrap_or(upload.client_paths),
            max_file_size: max_file_size.min(upload.max_file_size),
            max_files: policy.max_files.unwrap_or(upload.max_files).min(upload.max_files),
            types: Types::new([&upload.allowed_types, &policy.types]),
            rate: policy.rate.or(settings.auth.rate),
            quota: policy.quota.as_ref().and_then(|name| settings.quotas.get(name)).cloned(),
            has_file_limits: policy.max_file_size.is_some()
                || !policy.types.is_empty()
                || policy.quota.is_some(),
            claims: None,
        }
    }

    /// The same permissions for the client `id`.
    pub fn with_identity(&self, name: &str, id: String) -> Self {
        Self { name: name.to_owned(), id, ..self.clone() }
    }

    /// What has a count of its own in `quota`: the quota's name, and a client or a user.
    pub fn quota_subject(&self, quota: &Quota) -> String {
        let (kind, user) = self.id.split_once(':').unwrap_or_default();
        let counted = match (quota.per, kind) {
            (QuotaPer::Client, "user" | "ticket") => "ticket",
            (QuotaPer::Client, "wx") => "wx",
            (QuotaPer::Client, "forward" | "session") => "forward",
            // A new ticket must not begin a new count.
            (QuotaPer::Sub, "ticket") => "ticket",
            // Likewise a new session whose user the auth server does not name.
            (QuotaPer::Sub, "session") => "forward",
            // The same user as that of a ticket: the owner's back end names both.
            (QuotaPer::Sub, "forward") => return format!("{}:user:{user}", quota.name),
            _ => &self.id,
        };
        format!("{}:{counted}", quota.name)
    }

    /// Whether it has no credential.
    pub fn is_anonymous(&self) -> bool {
        self.id == ANONYMOUS
    }

    /// The user: a ticket's `sub`, or a mini program user's openid. Keys have none.
    pub fn user(&self) -> Option<&str> {
        ["user:", "wx:", "forward:"].iter().find_map(|kind| self.id.strip_prefix(kind))
    }

    /// Whether it may use only a part of the storage.
    pub fn is_scoped(&self) -> bool {
        self.prefix.is_some() || self.path.is_some()
    }

    /// Removes what `claims` do not allow, and adds nothing. Fails if the claimed folder or path is outside the
    /// client's own.
    pub fn limited_by(mut self, claims: ClaimLimits) -> Result<Self, PolicyError> {
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
            self.may_reach(path.as_str())?;
            self.path = Some(path);
        }
        self.client_paths &= claims.client_paths != Some(false);
        if let Some(size) = claims.max_file_size {
            self.max_file_size = self.max_file_size.min(size);
            self.has_file_limits = true;
        }
        if let Some(files) = claims.max_files {
            self.max_files = self.max_files.min(files);
        }
        if let Some(types) = claims.types {
            self.types.restrict(&types);
            self.has_file_limits = true;
        }
        Ok(self)
    }

    /// Whether it may do `action`.
    pub fn may(&self, action: Action) -> Result<(), PolicyError> {
        if !self.can.contains(&action) {
            return Err(PolicyError::Action { client: self.name.clone(), action: action.name() });
        }
        if action == Action::Link && self.has_file_limits {
            return Err(PolicyError::LinkBypassesLimits { client: self.name.clone() });
        }
        if matches!(action, Action::Upload | Action::Link) && self.max_files == 0 {
            return Err(PolicyError::NoFiles { client: self.name.clone() });
        }
        Ok(())
    }

    /// Whether it may name an object's path. The path that its ticket claims may always be named.
    pub fn may_choose_paths(&self) -> Result<(), PolicyError> {
        match self.client_paths || self.path.is_some() {
            true => Ok(()),
            false => Err(PolicyError::Paths { client: self.name.clone() }),
        }
    }

    /// The key of an upload to a path that the client names.
    pub fn upload_key(&self, path: &str) -> Result<Key, PolicyError> {
        self.may_choose_paths()?;
        let key = Key::parse(path)?;
        self.may_reach(key.as_str())?;
        Ok(key)
    }

    /// Whether it may use the stored file `path`, which need not be a valid [`Key`]: other programs store files, too.
    pub fn may_reach(&self, path: &str) -> Result<(), PolicyError> {
        match (&self.path, &self.prefix) {
            (Some(only), _) if path != only.as_str() => {
                Err(PolicyError::OtherPath { client: self.name.clone(), path: only.clone() })
            }
            (_, Some(prefix)) if !path.starts_with(prefix) || path.split('/').any(is_ambiguous) => {
                Err(PolicyError::Outside { client: self.name.clone(), prefix: prefix.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Whether normalization would change this segment, and so the path.
fn is_ambiguous(segment: &str) -> bool {
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
            quota: None,
            has_file_limits: false,
            claims: None,
        }
    }

    #[test]
    fn claims_only_remove_permissions() {
        let claims = ClaimLimits {
            can: Some([Action::Upload, Action::Delete].into()),
            max_file_size: Some(1000),
            max_files: Some(2),
            ..ClaimLimits::default()
        };
        let limited = client(None).limited_by(claims).unwrap();
        assert_eq!(limited.can, [Action::Upload].into());
        assert_eq!((limited.max_file_size, limited.max_files), (100, 2));
    }

    #[test]
    fn the_inner_one_of_two_folders_counts() {
        for (own, claimed, expected) in [
            (None, "a/", Some("a/")),
            (Some("a/"), "a/b/", Some("a/b/")),
            (Some("a/b/"), "a/", Some("a/b/")),
            (Some("a/"), "ab/", None),
            (Some("a/"), "b/", None),
        ] {
            let claims = ClaimLimits { prefix: Some(claimed.to_owned()), ..ClaimLimits::default() };
            let prefix = client(own).limited_by(claims).ok().map(|client| client.prefix.unwrap());
            assert_eq!(prefix.as_deref(), expected, "{own:?} {claimed}");
        }
    }

    #[test]
    fn a_claimed_path_must_be_in_the_folder_and_is_the_only_one_allowed() {
        let claims = |path: &str| ClaimLimits {
            path: Some(Key::parse(path).unwrap()),
            ..ClaimLimits::default()
        };
        assert!(client(Some("a/")).limited_by(claims("b/x")).is_err());
        let limited = client(Some("a/")).limited_by(claims("a/x")).unwrap();
        assert!(limited.upload_key("a/x").is_ok());
        assert!(limited.upload_key("a/y").is_err());
        let by_ticket = Client { client_paths: false, ..limited };
        assert!(by_ticket.upload_key("a/x").is_ok(), "its ticket chooses the path, not the client");
    }
}
