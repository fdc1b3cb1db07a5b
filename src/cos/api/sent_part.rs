//! What is known of an upload that runs: the parts that COS has, and what happened.

use crate::cos::error::CosError;

/// A part that COS has, with the CRC-64 of the bytes that were sent.
pub(super) struct SentPart {
    pub number: u32,
    pub size: u64,
    pub crc64: u64,
    /// COS's CRC-64 was the same.
    pub is_verified: bool,
    pub etag: String,
}

/// What happens during an upload, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadEvent {
    /// COS has responded, or has not: the class of its status.
    Response(&'static str),
    /// Something is sent again because of this.
    Replay(&'static str),
}

/// Why a file was not stored.
pub struct StoreError {
    pub cause: CosError,
    pub object: ObjectState,
}

/// What a failed upload has left of the object at its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectState {
    /// It is as it was before; parts are no object.
    Untouched,
    /// The file may be stored all the same.
    Unknown,
    /// Other bytes than the file's are stored.
    Damaged,
}

impl From<CosError> for StoreError {
    /// Before COS was asked to store an object.
    fn from(cause: CosError) -> Self {
        Self { cause, object: ObjectState::Untouched }
    }
}

impl StoreError {
    /// After COS was asked to store the object; `is_unknown`: it may have been stored.
    pub(super) fn after_request(cause: CosError, is_unknown: bool) -> Self {
        let object = match cause {
            CosError::Integrity { .. } => ObjectState::Damaged,
            _ if is_unknown => ObjectState::Unknown,
            _ => ObjectState::Untouched,
        };
        Self { cause, object }
    }
}
