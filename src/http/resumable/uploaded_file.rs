//! A resumable upload that is stored.

use crate::cos::verdict::VerifiedBy;

/// A file that COS has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedFile {
    /// `cloud://…`
    pub file_id: String,
    /// Bytes.
    pub size: u64,
    /// CRC-64/XZ, where it is known.
    pub crc64: Option<u64>,
    pub verified_by: Option<VerifiedBy>,
}

