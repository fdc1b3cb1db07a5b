//! The beginning and the end of an upload: it is created, completed and verified, or terminated.

use futures::future::join;
use hex::FromHex;

use super::upload::{HELPER_PREFIX, Resumable, ResumableUpload, StoredFile, UPLOAD};
use super::{lease, tail};
use crate::cos::api::client::{Client, ObjectFields, ObjectInfo};
use crate::cos::api::pending::{CompleteError, complete};
use crate::cos::api::response::Stored;
use crate::cos::api::retry::retried;
use crate::cos::api::sent_part::SentPart;
use crate::cos::api::upload::check_by_head;
use crate::cos::crc64::combine;
use crate::cos::error::CosError;
use crate::cos::verdict::{Verification, VerifiedBy, compare};

impl Resumable<'_> {
    /// Begins an upload; returns COS's UploadId. `fields` are the object's. An empty file (`length` is zero) is stored at
    /// once, and the UploadId is empty.
    pub async fn create(
        &self,
        key: &str,
        id: &[u8; 16],
        fields: ObjectFields<'_>,
        length: Option<u64>,
    ) -> Result<String, CosError> {
        let id = hex::encode(id);
        let metadata = [fields.metadata, &[(UPLOAD, id.as_str())]].concat();
        let fields = ObjectFields { metadata: &metadata, ..fields };
        if length != Some(0) {
            return retried(key, self.observe, || self.client.initiate(key, fields)).await;
        }
        let stored = retried(key, self.observe, || self.client.put(key, fields, b"")).await?;
        compare(0, stored.crc64.as_deref(), self.verify != Verification::Off)?;
        Ok(String::new())
    }

    /// Aborts an upload and deletes its helper objects; `true` also if it is gone. `false`: it was completed, and nothing is
    /// deleted, so that one that was not reported still is.
    pub async fn terminate(&self, upload: &ResumableUpload) -> Result<bool, CosError> {
        let ResumableUpload { key, upload_id, .. } = upload;
        let was_open = !upload_id.is_empty()
            && retried(key, self.observe, || self.client.abort(key, upload_id)).await?;
        if !was_open && self.object(upload).await?.is_some() {
            return Ok(false);
        }
        retried(key, self.observe, || delete_helpers(&self.client, &upload.id)).await?;
        Ok(true)
    }

    /// The object that an upload was completed to.
    pub(super) async fn object(
        &self,
        upload: &ResumableUpload,
    ) -> Result<Option<ObjectInfo>, CosError> {
        let object = retried(&upload.key, self.observe, || self.client.head(&upload.key)).await?;
        let id = hex::encode(upload.id);
        Ok(object.filter(|object| object.metadata(UPLOAD) == Some(&id)))
    }

    /// Puts the parts together, which are all parts of the file. The helper objects stay until [`Self::close`]. `crc64`: of the whole file, where it is known.
    pub(super) async fn complete(
        &self,
        upload: &ResumableUpload,
        parts: &[SentPart],
        crc64: Option<u64>,
    ) -> Result<StoredFile, CosError> {
        let ResumableUpload { key, upload_id, .. } = upload;
        // A part that COS knows by another ETag may be one of an earlier session, with other bytes.
        let completed = complete(&self.client, key, upload_id, parts, false, self.observe).await;
        let stored = match completed {
            Ok(stored) => stored,
            Err(CompleteError { cause, .. }) if cause.is_refused_as("NoSuchUpload") => {
                let object = self.object(upload).await?.ok_or(cause)?;
                Stored { etag: object.etag.unwrap_or_default(), crc64: object.crc64 }
            }
            Err(CompleteError { cause, .. }) => return Err(cause),
        };
        let result = self.verified(key, parts, crc64, stored).await;
        if let Err(CosError::Integrity { .. }) = &result
            && let Err(error) = self.client.delete(key).await
        {
            tracing::error!(key, %error, "a file with wrong bytes could not be deleted");
        }
        result
    }

    async fn verified(
        &self,
        key: &str,
        parts: &[SentPart],
        crc64: Option<u64>,
        stored: Stored,
    ) -> Result<StoredFile, CosError> {
        let size = parts.iter().map(|part| part.size).sum();
        let mut verified_by =
            parts.iter().all(|part| part.is_verified).then_some(VerifiedBy::Parts);
        if let Some(crc64) = crc64 {
            if compare(crc64, stored.crc64.as_deref(), self.verify != Verification::Off)? {
                verified_by = Some(VerifiedBy::Reply);
            } else if self.verify == Verification::Head && verified_by.is_none() {
                verified_by = check_by_head(&self.client, key, size, crc64).await?;
            }
        }
        let crc64 = crc64.or_else(|| stored.crc64?.parse().ok());
        Ok(StoredFile { size, crc64, verified_by })
    }

    /// Everything that follows a completed upload is done: its helper objects are deleted. If that fails, the upload is
    /// found open once more, or the sweep deletes them.
    pub async fn close(&self, id: &[u8; 16]) {
        if let Err(error) = delete_helpers(&self.client, id).await {
            tracing::warn!(%error, "the helper objects of an upload could not be deleted");
        }
    }
}

/// Deletes the helper objects of an upload, whether there are any or not.
pub async fn delete_helpers(client: &Client, id: &[u8; 16]) -> Result<(), CosError> {
    let (lease, tail) = (lease::key(id), tail::key(id));
    let (lease, tail) = join(client.delete(&lease), client.delete(&tail)).await;
    lease.and(tail)
}

/// Whether `key` is that of a helper object of any upload.
pub fn is_helper(key: &str) -> bool {
    let id = key.strip_prefix(HELPER_PREFIX).and_then(|rest| rest.split_once('/'));
    let Some(Ok(id)) = id.map(|(id, _)| <[u8; 16]>::from_hex(id)) else {
        return false;
    };
    key == lease::key(&id) || key == tail::key(&id)
}

/// The CRC-64 of parts, of which `crc64` is that of all before.
pub(super) fn joined(crc64: Option<u64>, parts: &[SentPart]) -> Option<u64> {
    let add = |crc64, part: &SentPart| combine(crc64, part.crc64, part.size);
    crc64.map(|crc64| parts.iter().fold(crc64, add))
}
