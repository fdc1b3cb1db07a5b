//! The outcome of uploading one file.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cos::verdict::VerifiedBy;
use crate::http::problem::Problem;
use crate::key::Key;

/// One file: stored, or not.
pub enum Outcome {
    Stored(Box<Stored>),
    Failed { name: String, path: Option<Key>, problem: Box<Problem> },
}

impl Outcome {
    /// Why the file is not stored.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Failed { problem, .. } => Some(problem),
            Self::Stored(_) => None,
        }
    }

    /// The file, if it is stored.
    pub fn stored(&self) -> Option<&Stored> {
        match self {
            Self::Stored(stored) => Some(stored),
            Self::Failed { .. } => None,
        }
    }
}

/// A file that is stored.
pub struct Stored {
    pub file_id: String,
    pub key: Key,
    pub name: String,
    pub content_type: String,
    /// Bytes.
    pub size: u64,
    /// CRC-64/XZ of its bytes. `None`: a resumable upload that another gateway completed, at a COS that told none.
    pub crc64: Option<u64>,
    /// `None`: COS told no CRC-64 to compare.
    pub verified_by: Option<VerifiedBy>,
    /// The stable URL.
    pub url: String,
    /// What the client told of the file besides.
    pub metadata: BTreeMap<String, String>,
    /// The signed receipt, where `receipts.key` is set.
    pub signed_receipt: Option<String>,
    /// The back end's response to `file.stored`, if the gateway waits for it; null if there is none, or not yet.
    pub hook: Option<Value>,
}
