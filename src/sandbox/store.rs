//! The objects, in a folder: for each one a file with its bytes and a JSON file with its metadata. An object is stored
//! whole or not at all. Knows nothing of permissions.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::crc64::{self, Crc64};

/// The metadata file. Renaming it to its final name is what makes the object exist.
#[derive(Serialize, Deserialize)]
pub struct Sidecar {
    pub key: String,
    #[serde(flatten)]
    pub object: Object,
    pub file_name: Option<String>,
    /// The form's fields in their order, or the headers that COS stores of a request to its API.
    pub fields: Vec<(String, String)>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Object {
    pub size: u64,
    /// As a decimal text, because JSON numbers are exact only up to 2^53.
    pub crc64: String,
    pub content_type: Option<String>,
    /// Whether the form had the right `x-cos-meta-fileid`; otherwise the object can only be deleted (the user's
    /// documents).
    pub fileid_ok: bool,
    /// Quoted; absent for an object that was stored by a form.
    #[serde(default, rename = "etag", skip_serializing_if = "Option::is_none")]
    api_etag: Option<Box<str>>,
    /// The name of its two files. The key cannot be the name: it may contain any character, and be too long.
    #[serde(skip)]
    stem: String,
}

impl Object {
    /// For forms not an MD5: the ETag of COS is not always one, either.
    pub fn etag(&self) -> String {
        if let Some(etag) = &self.api_etag {
            return etag.to_string();
        }
        let crc: u64 = self.crc64.parse().unwrap_or_default();
        format!("\"{crc:016x}{:016x}\"", self.size)
    }

    /// In seconds since the Unix epoch.
    pub fn modified(&self) -> u64 {
        let uuid = uuid::Uuid::try_parse(&self.stem).unwrap_or_default();
        uuid.get_timestamp().map_or(0, |time| time.to_unix().0)
    }
}

pub struct Store {
    folder: PathBuf,
    /// Only lengths and checksums are stored; what is read are zeros.
    discard: bool,
    /// By key, without the forms' fields, because a load test stores a hundred thousand objects.
    objects: BTreeMap<String, Object>,
}

/// An object that is being written. Its file is removed if it is dropped before [`Store::commit`].
pub struct Draft {
    path: PathBuf,
    stem: String,
    file: File,
    discard: bool,
    size: u64,
    crc: Crc64,
    md5: Option<Md5>,
    /// Of the parts that this was joined from, instead of `crc`.
    joined_crc: Option<u64>,
    /// The object's quoted ETag.
    pub etag: Option<String>,
    committed: bool,
}

impl Store {
    pub fn open(folder: &Path, discard: bool) -> io::Result<Store> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;

        let mut store = Store { folder: folder.to_owned(), discard, objects: BTreeMap::new() };
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => match read_sidecar(&path) {
                    Ok(sidecar) if path.with_extension("bin").is_file() => store.insert(sidecar),
                    _ => {
                        tracing::warn!(path = %path.display(), "the sandbox ignores an object that it cannot read");
                    }
                },
                Some("bin") if !path.with_extension("json").is_file() => remove_if_old(&path),
                _ => {}
            }
        }
        Ok(store)
    }

    pub fn draft(&self) -> io::Result<Draft> {
        Draft::create(&self.folder, self.discard)
    }

    pub fn discards(&self) -> bool {
        self.discard
    }

    pub fn commit(
        &mut self,
        mut draft: Draft,
        key: &str,
        content_type: Option<String>,
        fileid_ok: bool,
        file_name: Option<String>,
        fields: Vec<(String, String)>,
    ) -> io::Result<Object> {
        let object = Object {
            size: draft.size,
            crc64: draft.crc64().to_string(),
            content_type,
            fileid_ok,
            api_etag: draft.etag.take().map(String::into_boxed_str),
            stem: draft.stem.clone(),
        };
        let sidecar = Sidecar { key: key.to_owned(), object: object.clone(), file_name, fields };
        draft.fill()?;
        let written = draft.path.with_extension("part");
        fs::write(&written, serde_json::to_vec(&sidecar)?)?;
        // The rename never replaces an existing file: ext4 would flush it to the disk, which costs more than all the
        // rest.
        fs::rename(&written, draft.path.with_extension("json"))?;
        draft.committed = true;
        self.insert(sidecar);
        Ok(object)
    }

    /// Of two objects with the same key the newer one stays; the names of their files begin with the time.
    fn insert(&mut self, sidecar: Sidecar) {
        let Sidecar { key, object, .. } = sidecar;
        let superseded = match self.objects.get(&key) {
            Some(known) if known.stem > object.stem => Some(object),
            _ => self.objects.insert(key, object),
        };
        if let Some(superseded) = superseded
            && let Err(error) = self.remove_files(&superseded)
        {
            tracing::warn!(%error, "the sandbox could not remove a replaced object");
        }
    }

    pub fn get(&self, key: &str) -> Option<&Object> {
        self.objects.get(key)
    }

    pub fn keys<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = self.objects.range(prefix.to_owned()..);
        from.map(|(key, _)| key.as_str()).take_while(move |key| key.starts_with(prefix))
    }

    pub fn sidecar(&self, key: &str) -> Option<Sidecar> {
        let object = self.objects.get(key)?;
        read_sidecar(&self.folder.join(format!("{}.json", object.stem))).ok()
    }

    pub fn content(&self, object: &Object) -> io::Result<File> {
        File::open(self.folder.join(format!("{}.bin", object.stem)))
    }

    /// Returns whether there was such an object.
    pub fn remove(&mut self, key: &str) -> io::Result<bool> {
        match self.objects.remove(key) {
            Some(object) => self.remove_files(&object).map(|()| true),
            None => Ok(false),
        }
    }

    pub fn clear(&mut self) -> io::Result<()> {
        while let Some((_, object)) = self.objects.pop_first() {
            self.remove_files(&object)?;
        }
        Ok(())
    }

    fn remove_files(&self, object: &Object) -> io::Result<()> {
        // The sidecar is removed first: without it the object does not exist.
        fs::remove_file(self.folder.join(format!("{}.json", object.stem)))?;
        fs::remove_file(self.folder.join(format!("{}.bin", object.stem)))
    }
}

impl Draft {
    pub fn create(folder: &Path, discard: bool) -> io::Result<Draft> {
        let stem = uuid::Uuid::now_v7().simple().to_string();
        let path = folder.join(format!("{stem}.bin"));
        let file = File::create_new(&path)?;
        Ok(Draft {
            path,
            stem,
            file,
            discard,
            size: 0,
            crc: crc64::digest(),
            md5: None,
            joined_crc: None,
            etag: None,
            committed: false,
        })
    }

    /// Computes the MD5 of what is written from now on.
    pub fn with_md5(mut self) -> Draft {
        self.md5 = Some(Md5::new());
        self
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.discard {
            self.file.write_all(bytes)?;
        }
        self.crc.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Appends a part, whose checksum is known.
    pub fn append(&mut self, part: &Path, size: u64, crc64: u64) -> io::Result<()> {
        if !self.discard {
            io::copy(&mut File::open(part)?, &mut self.file)?;
        }
        self.joined_crc = Some(crc64::joined(self.crc64(), crc64, size));
        self.size += size;
        Ok(())
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn crc64(&self) -> u64 {
        self.joined_crc.unwrap_or_else(|| self.crc.clone().finalize())
    }

    pub fn md5(&self) -> Option<[u8; 16]> {
        self.md5.clone().map(|md5| md5.finalize().into())
    }

    /// Moves the file to another name in the same folder, where it stays.
    pub fn rename(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.committed = true;
        Ok(())
    }

    /// Gives a file whose bytes were discarded its length. It takes no space.
    fn fill(&self) -> io::Result<()> {
        if self.discard { self.file.set_len(self.size) } else { Ok(()) }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(self.path.with_extension("part"));
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn read_sidecar(path: &Path) -> io::Result<Sidecar> {
    let mut sidecar: Sidecar = serde_json::from_slice(&fs::read(path)?)?;
    sidecar.object.stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(sidecar)
}

/// Removes the draft of a sandbox that was killed. A draft of the last hour may belong to another sandbox with the same
/// folder.
fn remove_if_old(path: &Path) {
    let modified = fs::metadata(path).and_then(|about| about.modified());
    let age = modified.map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
    if age.is_ok_and(|age| age > Duration::from_secs(3600)) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarded_bytes_are_read_as_zeros_of_the_right_length() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), true).unwrap();
        let mut draft = store.draft().unwrap().with_md5();
        draft.write(b"123456789").unwrap();
        assert_eq!(hex::encode(draft.md5().unwrap()), "25f9e794323b453885f5181f1b624d0b");
        let object = store.commit(draft, "k", None, true, None, vec![]).unwrap();
        assert_eq!(object.crc64, 0x995d_c9bb_df19_39fa_u64.to_string());
        assert_eq!(io::read_to_string(store.content(&object).unwrap()).unwrap(), "\0".repeat(9));
    }

    #[test]
    fn an_object_outlives_the_store_and_a_dropped_draft_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let key = "目录/a b".repeat(80);
        let mut store = Store::open(folder.path(), false).unwrap();
        let mut dropped = store.draft().unwrap();
        dropped.write(b"half").unwrap();
        drop(dropped);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        for content in [&b"12345678"[..], b"123456789"] {
            let mut draft = store.draft().unwrap();
            draft.write(content).unwrap();
            store.commit(draft, &key, None, true, None, vec![]).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        drop(store);

        let mut store = Store::open(folder.path(), false).unwrap();
        let object = store.get(&key).unwrap();
        // The check value of CRC-64/XZ.
        assert_eq!(object.crc64, 0x995d_c9bb_df19_39fa_u64.to_string());
        assert_eq!(io::read_to_string(store.content(object).unwrap()).unwrap(), "123456789");
        assert_eq!(store.keys("目录").count(), 1);
        assert!(store.remove(&key).unwrap());
        assert!(!store.remove(&key).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
