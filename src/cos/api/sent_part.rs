//! What is known of an upload that runs: the parts that COS has, and what happened.

use crc_fast::{CrcAlgorithm, checksum_combine};

use crate::cos::error::CosError;

/// A part that COS has.
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
    /// The object may be there all the same, or a damaged one is.
    pub may_be_stored: bool,
}

impl From<CosError> for StoreError {
    fn from(cause: CosError) -> Self {
        let may_be_stored = matches!(cause, CosError::Integrity { .. });
        Self { cause, may_be_stored }
    }
}

/// The CRC-64 of a file from those of its parts.
pub(super) fn combined(parts: &[SentPart]) -> u64 {
    parts
        .iter()
        .fold(0, |crc, part| checksum_combine(CrcAlgorithm::Crc64Xz, crc, part.crc64, part.size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_of_a_file_follows_from_its_parts() {
        let content: Vec<u8> = (0..5000u32).map(|n| (n * 7) as u8).collect();
        let crc = |bytes: &[u8]| crc_fast::checksum(CrcAlgorithm::Crc64Xz, bytes);
        let parts: Vec<_> = content
            .chunks(999)
            .map(|bytes| SentPart {
                number: 1,
                size: bytes.len() as u64,
                crc64: crc(bytes),
                is_verified: true,
                etag: String::new(),
            })
            .collect();
        assert_eq!(combined(&parts), crc(&content));
        assert_eq!(combined(&parts[..1]), crc(&content[..999]));
    }
}
