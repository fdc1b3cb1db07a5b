//! Files that the gateway keeps until they can be sent: COS ends a form that takes too long, and a form needs its length
//! before its first byte, so what comes slowly, or in several requests, is received first.
//!
//! - `folder`: the folder of `resumable.spool`, and its quota; `file`: a file in it
//! - `memory`: a file in memory
//! - `content`: what was received of a file, in memory or in the folder
//! - `uploads`: the resumable uploads of which something is kept

pub mod content;
mod file;
pub mod folder;
mod memory;
pub mod uploads;

/// Why bytes could not be kept, or could not be read again.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The quota, the disk or the memory is used up. There may be room later.
    #[error("there is no room for the file until it can be sent")]
    Full,
    #[error("the spool: {0}")]
    Io(std::io::Error),
}

impl From<std::io::Error> for SpoolError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded => Self::Full,
            _ => Self::Io(error),
        }
    }
}

impl From<crate::memory::budget::BudgetExceeded> for SpoolError {
    fn from(_: crate::memory::budget::BudgetExceeded) -> Self {
        Self::Full
    }
}
