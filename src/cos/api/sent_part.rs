//! What is known of an upload that runs: the parts that COS has, and what happened.

use crate::cos::error::CosError;

/// A part that COS has.
pub(super) struct SentPart {
    pub number: u32,
    pub size: u64,
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
    /// The object may be there all the same, or a damaged one is.
    pub may_be_stored: bool,
}

impl From<CosError> for StoreError {
    fn from(cause: CosError) -> Self {
        let may_be_stored = matches!(cause, CosError::Integrity { .. });
        Self { cause, may_be_stored }
    }
}
