//! What one client may do.

use std::collections::BTreeSet;

use crate::key::{Key, KeyError};
use crate::settings::Action;

/// A caller and what it is allowed.
#[derive(Debug, Clone)]
pub struct Client {
    pub name: String,
    pub can: BTreeSet<Action>,
    /// A folder ending with `/`: generated paths are put under it, a path of the client's own must lie under it.
    pub prefix: Option<String>,
    /// Whether it may name an object's path.
    pub client_paths: bool,
}

/// Why a client may not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("`{client}` may not {action}")]
    Action { client: String, action: &'static str },
    #[error("`{client}` may not name paths")]
    Paths { client: String },
    #[error("`{client}` may only use paths under `{prefix}`")]
    Outside { client: String, prefix: String },
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Client {
    /// Whether it may do `action`.
    pub fn may(&self, action: Action) -> Result<(), PolicyError> {
        if self.can.contains(&action) {
            return Ok(());
        }
        Err(PolicyError::Action { client: self.name.clone(), action: action.name() })
    }

    /// Whether it may name an object's path.
    pub fn may_name_paths(&self) -> Result<(), PolicyError> {
        match self.client_paths {
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
        match &self.prefix {
            Some(prefix) if !path.starts_with(prefix) || path.split('/').any(is_odd) => {
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
