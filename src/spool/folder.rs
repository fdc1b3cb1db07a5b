//! The folder of `resumable.spool`: one gateway uses it at a time, within its quota. A file of a resumable upload has a
//! name, so that it outlives the gateway; that of an ordinary upload has none where the file system allows it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SpoolError;
use super::file::SpoolFile;
use crate::memory::budget::{Budget, Charge, Share};

/// Held by the gateway that uses the folder.
const LOCK: &str = "lock";

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("another gateway uses {0}")]
    InUse(PathBuf),
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
}

/// The name of a resumable upload's file: all that must be known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileName {
    pub id: [u8; 16],
    /// Bytes that the whole file will have.
    pub length: u64,
    /// Unix time in seconds.
    pub expires: i64,
}

/// The folder. The lock is released when this is dropped, also if the process is killed.
#[derive(Debug)]
pub struct SpoolFolder {
    path: PathBuf,
    quota: Arc<Budget>,
    _lock: File,
}

impl FileName {
    fn text(&self) -> String {
        format!("{}-{}-{}", hex::encode(self.id), self.length, self.expires)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let mut id = [0; 16];
        hex::decode_to_slice(parts.next()?, &mut id).ok()?;
        let (length, expires) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Self { id, length, expires })
    }
}

impl SpoolFolder {
    /// Makes the folder if it does not exist, and takes it. `limit`: bytes of all files together.
    pub fn open(path: &Path, limit: u64) -> Result<Self, FolderError> {
        let failed = |cause| FolderError::Io { path: path.to_owned(), cause };
        fs::create_dir_all(path).map_err(failed)?;
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => FolderError::InUse(path.to_owned()),
            fs::TryLockError::Error(cause) => failed(cause),
        })?;
        // The gateway can write there.
        tempfile::tempfile_in(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), quota: Budget::new(limit), _lock: lock })
    }

    /// Bytes of all files, with those that are reserved.
    pub fn used(&self) -> u64 {
        self.quota.used()
    }

    /// Bytes that one client can use, if no other does.
    pub(super) fn most_of_one_client(&self) -> u64 {
        self.quota.most_of_one_client()
    }

    /// A client's part of the quota.
    pub fn share(&self) -> Arc<Share> {
        Share::new(self.quota.clone())
    }

    /// A file for a resumable upload, with its whole length reserved.
    pub(super) fn create(
        &self,
        name: &FileName,
        share: Arc<Share>,
    ) -> Result<SpoolFile, SpoolError> {
        let charge = charged(share, name.length)?;
        let path = self.path.join(name.text());
        let mut options = OpenOptions::new();
        let file = options.create_new(true).read(true).write(true).open(&path)?;
        Ok(SpoolFile::new(file, Some(path), charge, name.length)?)
    }

    /// A file that is gone once it is closed.
    pub(super) fn unnamed(
        &self,
        share: Arc<Share>,
        expected: u64,
    ) -> Result<SpoolFile, SpoolError> {
        let charge = charged(share, expected)?;
        let file = tempfile::tempfile_in(&self.path)?;
        Ok(SpoolFile::new(file, None, charge, expected)?)
    }

    /// The files of resumable uploads that an earlier process has left. Those for which `keeps` is false are deleted;
    /// other files in the folder are not touched.
    pub(super) fn restore(
        &self,
        share: &Arc<Share>,
        keeps: impl Fn(&FileName) -> bool,
    ) -> io::Result<Vec<(FileName, SpoolFile)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(FileName::parse);
            let Some(name) = name else {
                continue;
            };
            let charge = charged(share.clone(), name.length);
            match charge {
                Ok(charge) if keeps(&name) => {
                    let file = OpenOptions::new().read(true).write(true).open(&path)?;
                    let file = SpoolFile::new(file, Some(path), charge, name.length)?;
                    files.push((name, file));
                }
                _ => fs::remove_file(&path)?,
            }
        }
        Ok(files)
    }
}

fn charged(share: Arc<Share>, bytes: u64) -> Result<Charge, SpoolError> {
    let mut charge = Charge::new(share);
    charge.grow(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    Ok(charge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_file_is() {
        let name = FileName { id: [0xab; 16], length: 5, expires: 1_800_000_000 };
        assert_eq!(FileName::parse(&name.text()), Some(name));
        for other in ["lock", "", "abab-5-1", &format!("{}-1", name.text()), "photo-2024-01-01.png"]
        {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn one_process_uses_a_folder_within_its_quota() {
        let folder = tempfile::tempdir().unwrap();
        let spool = SpoolFolder::open(folder.path(), 1000).unwrap();
        assert!(matches!(SpoolFolder::open(folder.path(), 1000), Err(FolderError::InUse(_))));
        let name = |id| FileName { id: [id; 16], length: 400, expires: 1 };
        // A client may use three times what it leaves free.
        let share = spool.share();
        let first = spool.create(&name(1), share.clone()).unwrap();
        assert!(matches!(spool.create(&name(2), share), Err(SpoolError::Full)));
        let second = spool.create(&name(2), spool.share()).unwrap();
        assert!(matches!(spool.create(&name(3), spool.share()), Err(SpoolError::Full)));
        assert_eq!(spool.used(), 800);
        fs::write(folder.path().join("notes.txt"), "of somebody else").unwrap();
        drop((first, second, spool));

        let spool = SpoolFolder::open(folder.path(), 1000).unwrap();
        let share = spool.share();
        let kept = spool.restore(&share, |name| name.id == [1; 16]).unwrap();
        assert_eq!(kept.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [name(1)]);
        assert_eq!(spool.used(), 400);
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [name(1).text().as_str(), LOCK, "notes.txt"]);
    }
}
