//! The end of an upload: it is completed and verified, or terminated.

use super::{Resumable, ResumableUpload};
use crate::cos::api::client::{Client, ObjectFields};
use crate::cos::error::CosError;

impl Resumable<'_> {
    /// Begins an upload; returns COS's UploadId. `fields` as of any object. An empty file (`length` is zero) is stored at
    /// once, and the UploadId is empty.
    pub async fn create(
        &self,
        _key: &str,
        _id: &[u8; 16],
        _fields: ObjectFields<'_>,
        _length: Option<u64>,
    ) -> Result<String, CosError> {
        todo!()
    }

    /// Aborts an upload and deletes its helper objects; a success also if it is gone. An object that it was completed to
    /// stays.
    pub async fn terminate(&self, _upload: &ResumableUpload) -> Result<(), CosError> {
        todo!()
    }
}

/// Deletes the helper objects of an upload, whether there are any or not.
pub async fn delete_helpers(_client: &Client, _id: &[u8; 16]) -> Result<(), CosError> {
    todo!()
}
