//! A token that the platform writes into a file and renews there; the file is read again when it has changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};

use crate::wechat::error::WechatError;

/// In bytes. No token is nearly as long; a longer file is not a token file.
const MAX_LENGTH: u64 = 64 * 1024;

/// The file and the token last read from it; shared by all workers.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    cached: Mutex<Option<(FileVersion, Arc<SecretString>)>>,
}

/// Changes whenever the file is written anew, in place or by renaming another file over it.
#[derive(Debug, PartialEq, Eq)]
struct FileVersion {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    inode: u64,
}

impl TokenFile {
    /// Does not read the file yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), cached: Mutex::new(None) }
    }

    /// The file's token. While the file is unchanged this costs one `stat`.
    pub fn token(&self) -> Result<Arc<SecretString>, WechatError> {
        let version = self.version().map_err(|error| self.unusable(&error))?;
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, token)) = &*cached
            && *known == version
        {
            return Ok(token.clone());
        }
        let token = Arc::new(self.read(&version).map_err(|error| self.unusable(&error))?);
        *cached = Some((version, token.clone()));
        Ok(token)
    }

    /// Drops the cached token because WeChat refused it: the file is read again even if it is unchanged.
    pub fn invalidate(&self) {
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn version(&self) -> io::Result<FileVersion> {
        let metadata = fs::metadata(&self.path)?;
        Ok(FileVersion {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        })
    }

    fn read(&self, version: &FileVersion) -> io::Result<SecretString> {
        if version.length > MAX_LENGTH {
            return Err(io::Error::other("it is too long for a token"));
        }
        let text: SecretString = fs::read_to_string(&self.path)?.into();
        let token = text.expose_secret().trim();
        if token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(io::Error::other("it does not contain a token"));
        }
        Ok(token.to_owned().into())
    }

    fn unusable(&self, error: &io::Error) -> WechatError {
        WechatError::NoCredential(format!(
            "the token file {} cannot be used: {error}; it exists only inside a WeChat cloud hosting container with \
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
        // The platform may replace the file by renaming a new one over it.
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
