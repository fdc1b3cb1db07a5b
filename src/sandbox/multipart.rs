//! The unfinished multipart uploads of COS. Each has a folder, which also outlives the sandbox: a file that says what the
//! object will be, and one file for each part. Knows neither requests nor objects.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::keys::now;
use super::store::Draft;

const FOLDER: &str = "multipart";
const ABOUT: &str = "upload.json";

#[derive(Clone, Serialize, Deserialize)]
pub struct MultipartUpload {
    pub key: String,
    /// In seconds since the Unix epoch.
    pub initiated: u64,
    pub content_type: Option<String>,
    pub fileid_ok: bool,
    pub forbids_overwrite: bool,
    pub headers: Vec<(String, String)>,
    #[serde(skip)]
    pub parts: BTreeMap<u32, Part>,
    #[serde(skip)]
    folder: PathBuf,
}

#[derive(Clone)]
pub struct Part {
    pub size: u64,
    pub crc64: u64,
    /// The MD5 in hexadecimal, or another unique value where bytes are discarded.
    pub etag: String,
    /// In seconds since the Unix epoch.
    pub modified: u64,
    pub path: PathBuf,
}

pub struct MultipartStore {
    folder: PathBuf,
    discard: bool,
    /// By key and UploadId, which is the order of List Multipart Uploads.
    uploads: BTreeMap<(String, String), MultipartUpload>,
}

impl MultipartStore {
    pub fn open(data: &Path, discard: bool) -> io::Result<MultipartStore> {
        let folder = data.join(FOLDER);
        let mut uploads = BTreeMap::new();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries.collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match read_upload(&path) {
                Ok(upload) => drop(uploads.insert((upload.key.clone(), id), upload)),
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "the sandbox ignores a multipart upload");
                }
            }
        }
        Ok(MultipartStore { folder, discard, uploads })
    }

    /// Returns the UploadId. The ids of later uploads are greater.
    pub fn initiate(
        &mut self,
        key: &str,
        content_type: Option<String>,
        fileid_ok: bool,
        forbids_overwrite: bool,
        headers: Vec<(String, String)>,
    ) -> io::Result<String> {
        let initiated = now();
        let id =
            format!("{initiated}{}{:030x}", uuid::Uuid::now_v7().simple(), fastrand::u128(..) >> 8);
        let folder = self.folder.join(&id);
        let upload = MultipartUpload {
            key: key.to_owned(),
            initiated,
            content_type,
            fileid_ok,
            forbids_overwrite,
            headers,
            parts: BTreeMap::new(),
            folder,
        };
        fs::create_dir_all(&upload.folder)?;
        fs::write(upload.folder.join(ABOUT), serde_json::to_vec(&upload)?)?;
        self.uploads.insert((key.to_owned(), id.clone()), upload);
        Ok(id)
    }

    pub fn get(&self, key: &str, id: &str) -> Option<&MultipartUpload> {
        self.uploads.get(&(key.to_owned(), id.to_owned()))
    }

    /// In the order of key and UploadId.
    pub fn all(&self) -> impl Iterator<Item = (&str, &MultipartUpload)> {
        self.uploads.iter().map(|((_, id), upload)| (id.as_str(), upload))
    }

    pub fn draft(&self, upload: &MultipartUpload) -> io::Result<Draft> {
        Draft::create(&upload.folder, self.discard)
    }

    /// Stores a part, instead of any other with its number. `None` if the upload has ended in the meantime.
    pub fn commit(
        &mut self,
        key: &str,
        id: &str,
        number: u32,
        draft: Draft,
        etag: String,
    ) -> io::Result<Option<Part>> {
        let Some(upload) = self.uploads.get_mut(&(key.to_owned(), id.to_owned())) else {
            return Ok(None);
        };
        let (size, crc64) = (draft.size(), draft.crc64());
        // A part that is sent again may be the same; the name must still be another than that of the replaced one.
        let name = format!("{number}-{size}-{crc64}-{etag}-{:08x}.part", fastrand::u32(..));
        let path = upload.folder.join(name);
        draft.rename(&path)?;
        let part = Part { size, crc64, etag, modified: now(), path };
        if let Some(replaced) = upload.parts.insert(number, part.clone()) {
            fs::remove_file(replaced.path)?;
        }
        Ok(Some(part))
    }

    /// Ends an upload; its files exist until [`Self::remove_files`].
    pub fn take(&mut self, key: &str, id: &str) -> Option<MultipartUpload> {
        self.uploads.remove(&(key.to_owned(), id.to_owned()))
    }

    pub fn remove_files(&self, upload: &MultipartUpload) -> io::Result<()> {
        fs::remove_dir_all(&upload.folder)?;
        // Fails while there are other uploads.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    pub fn clear(&mut self) -> io::Result<()> {
        while let Some((_, upload)) = self.uploads.pop_first() {
            self.remove_files(&upload)?;
        }
        Ok(())
    }
}

fn read_upload(folder: &Path) -> io::Result<MultipartUpload> {
    let mut upload: MultipartUpload = serde_json::from_slice(&fs::read(folder.join(ABOUT))?)?;
    upload.folder = folder.to_owned();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if let Some((number, part)) = read_part(&path) {
            upload.parts.insert(number, part);
        }
    }
    Ok(upload)
}

/// A part, from the name of its file.
fn read_part(path: &Path) -> Option<(u32, Part)> {
    let mut words = path.file_name()?.to_str()?.strip_suffix(".part")?.split('-');
    let mut word = || words.next();
    let number = word()?.parse().ok()?;
    let (size, crc64) = (word()?.parse().ok()?, word()?.parse().ok()?);
    let etag = word()?.to_owned();
    let modified = fs::metadata(path).ok()?.modified().ok()?;
    let modified = modified.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    Some((number, Part { size, crc64, etag, modified, path: path.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_outlives_the_store_and_leaves_nothing_when_it_ends() {
        let data = tempfile::tempdir().unwrap();
        let mut store = MultipartStore::open(data.path(), false).unwrap();
        let id = store.initiate("目录/k", None, true, false, vec![]).unwrap();
        for content in [&b"first"[..], b"second"] {
            let mut draft = store.draft(store.get("目录/k", &id).unwrap()).unwrap();
            draft.write(content).unwrap();
            let etag = "0".repeat(32);
            assert!(store.commit("目录/k", &id, 3, draft, etag).unwrap().is_some());
        }
        drop(store);

        let mut store = MultipartStore::open(data.path(), false).unwrap();
        let upload = store.take("目录/k", &id).unwrap();
        assert_eq!(upload.parts.keys().collect::<Vec<_>>(), [&3]);
        assert_eq!(fs::read(&upload.parts[&3].path).unwrap(), b"second");
        store.remove_files(&upload).unwrap();
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    }
}
