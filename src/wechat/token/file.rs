//! A token that the platform writes into a file and renews there: read again when the file has changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};

use crate::wechat::error::WechatError;

/// Far above any token; what is longer is some other file.
const LONGEST: u64 = 64 * 1024;

/// The file and what was last read of it; shared by all workers.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Arc<SecretString>)>>,
}

/// What changes when a file is written anew, in place or by renaming another one over it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    inode: u64,
}

impl TokenFile {
    /// Reads nothing yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: Mutex::new(None) }
    }

    /// The file's token. Costs a `stat` while the file is the same.
    pub fn token(&self) -> Result<Arc<SecretString>, WechatError> {
        let stamp = self.stamp().map_err(|error| self.failed(&error))?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, token)) = &*read
            && *known == stamp
        {
            return Ok(token.clone());
        }
        let token = Arc::new(self.content(&stamp).map_err(|error| self.failed(&error))?);
        *read = Some((stamp, token.clone()));
        Ok(token)
    }

    /// WeChat refused what was read: it is read again even if the file looks the same.
    pub fn forget(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let about = fs::metadata(&self.path)?;
        Ok(Stamp {
            modified: about.modified().ok(),
            length: about.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&about),
        })
    }

    fn content(&self, stamp: &Stamp) -> io::Result<SecretString> {
        if stamp.length > LONGEST {
            return Err(io::Error::other("it is too long for a token"));
        }
        let text: SecretString = fs::read_to_string(&self.path)?.into();
        let token = text.expose_secret().trim();
        if token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(io::Error::other("it holds no token"));
        }
        Ok(token.to_owned().into())
    }

    fn failed(&self, error: &io::Error) -> WechatError {
        WechatError::Credential(format!(
            "the token file {} cannot be used: {error}; it is there only inside a WeChat cloud hosting container with \
             云调用 switched on, or where the platform that owns the token writes it",
            self.path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_again_when_its_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = TokenFile::new(&path);
        assert!(file.token().unwrap_err().to_string().contains("token"));
        let token = || file.token().unwrap().expose_secret().to_owned();
        fs::write(&path, "one\n").unwrap();
        assert_eq!(token(), "one");
        fs::write(&path, "three").unwrap();
        assert_eq!(token(), "three");
        // As the platform may do it.
        let next = folder.path().join("next");
        fs::write(&next, "fours").unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(token(), "fours");
        for wrong in ["", " \n", "a b"] {
            fs::write(&path, wrong).unwrap();
            assert!(file.token().is_err(), "{wrong:?}");
        }
    }
}
