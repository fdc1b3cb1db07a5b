//! The folder of `resumable.spool`: one gateway uses it at a time, within its quota. A file of a resumable upload has a
//! name, so that it outlives the gateway; that of an ordinary upload has none where the file system allows it.

use std::cmp::Reverse;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SpoolError;
use super::file::SpoolFile;
use crate::memory::budget::{Budget, Charge, Share};

/// Held by the gateway that uses the folder.
const LOCK: &str = "lock";
/// Other users of the machine read no files of clients.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

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
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path).map_err(failed)?;
        let mut options = OpenOptions::new();
        let lock =
            options.mode(FILE_MODE).create(true).truncate(false).write(true).open(path.join(LOCK));
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

    /// Bytes of all files together.
    pub(super) fn quota(&self) -> &Arc<Budget> {
        &self.quota
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
        options.create_new(true).read(true).write(true).mode(FILE_MODE);
        let file = options.open(&path)?;
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

    /// The files of resumable uploads that an earlier process has left. Those for which `keeps` is false, and those that
    /// exceed a quota that has become smaller, are deleted; what else is in the folder is not touched.
    pub(super) fn restore(
        &self,
        keeps: impl Fn(&FileName) -> bool,
    ) -> io::Result<Vec<(FileName, SpoolFile)>> {
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name().to_str().and_then(FileName::parse);
            // A link, or a folder, is none of them.
            if let Some(name) = name.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file()))
            {
                left.push((name, entry.path()));
            }
        }
        // Whose they are is not known. By length, and each with a share of its own, they fit if they fitted before,
        // whichever clients they belong to.
        left.sort_by_key(|(name, _)| Reverse(name.length));
        let mut files = Vec::new();
        for (name, path) in left {
            if !keeps(&name) {
                fs::remove_file(&path)?;
            } else if let Ok(charge) = charged(self.share(), name.length) {
                let file = OpenOptions::new().read(true).write(true).open(&path)?;
                files.push((name, SpoolFile::new(file, Some(path), charge, name.length)?));
            } else {
                let shown = path.display();
                tracing::warn!(path = %shown, "an upload exceeds resumable.spool_limit, and is deleted");
                fs::remove_file(&path)?;
            }
        }
        Ok(files)
    }
}

pub(super) fn charged(share: Arc<Share>, bytes: u64) -> Result<Charge, SpoolError> {
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
        fs::write(folder.path().join("notes.txt"), "notes").unwrap();
        drop((first, second, spool));

        let spool = SpoolFolder::open(folder.path(), 1000).unwrap();
        let kept = spool.restore(|name| name.id == [1; 16]).unwrap();
        assert_eq!(kept.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [name(1)]);
        assert_eq!(spool.used(), 400);
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [name(1).text().as_str(), LOCK, "notes.txt"]);
    }
    /// All that the clients had before is there again, whichever clients that were; an upload that has no room any more
    /// is deleted.
    #[test]
    fn what_had_room_has_room_again() {
        let folder = tempfile::tempdir().unwrap();
        let name = |id, length| FileName { id: [id; 16], length, expires: 1 };
        let names = [name(1, 700), name(2, 200), name(3, 70)];
        let spool = SpoolFolder::open(folder.path(), 1000).unwrap();
        let created: Vec<_> =
            names.iter().map(|name| spool.create(name, spool.share()).unwrap()).collect();
        drop((created, spool));
        let restored = |limit| {
            let spool = SpoolFolder::open(folder.path(), limit).unwrap();
            let files = spool.restore(|_| true).unwrap();
            let names: Vec<_> = files.iter().map(|(name, _)| *name).collect();
            (names, spool.used())
        };
        assert_eq!(restored(1000), (names.to_vec(), 970));
        assert_eq!(restored(900), ([name(2, 200), name(3, 70)].to_vec(), 270));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    /// Files that others have put there with such names; those of clients are readable by the gateway alone.
    #[test]
    fn only_its_own_files_are_touched_and_read() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("with spaces/spool");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let name = |id| FileName { id: [id; 16], length: 10, expires: 1 };
        let spool = SpoolFolder::open(&path, 1000).unwrap();
        let file = spool.create(&name(1), spool.share()).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(name(1).text())), 0o600);
        drop((file, spool));
        let other = parent.path().join("other");
        fs::write(&other, "more than ten bytes").unwrap();
        symlink(&other, path.join(name(2).text())).unwrap();
        fs::create_dir(path.join(name(3).text())).unwrap();
        let spool = SpoolFolder::open(&path, 1000).unwrap();
        assert!(spool.restore(|_| false).unwrap().is_empty());
        assert!(spool.restore(|_| true).unwrap().is_empty());
        assert_eq!(fs::read_to_string(&other).unwrap(), "more than ten bytes");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 3);
    }
}
