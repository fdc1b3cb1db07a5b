//! What tells whether files have changed since they were read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells a file from what it was: `None` where it cannot be read. Links are followed, so that the swap of a link to
/// a folder (a mounted secret of Kubernetes) is seen.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The stamps of several files. Taken before the files are read, so that a change after that is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamps(BTreeMap<PathBuf, Stamp>);

impl FileStamps {
    pub fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(files.into_iter().map(|file| (file.clone(), stamp(&file))).collect())
    }

    /// Those of the same files, as they are now.
    pub fn now(&self) -> Self {
        Self::of(self.0.keys().cloned())
    }

    /// Has these files from now on. Those that it has had before keep their stamps.
    pub fn set_files(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        let stamps = files.into_iter().map(|file| {
            let known = self.0.get(&file).copied();
            let stamp = known.unwrap_or_else(|| stamp(&file));
            (file, stamp)
        });
        let stamps = stamps.collect();
        self.0 = stamps;
    }
}

fn stamp(file: &Path) -> Stamp {
    let data = fs::metadata(file).ok()?;
    Some((data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}
