//! An upload, where it is, and what its operations need.

use crate::cos::api::client::Client;
use crate::cos::api::sent_part::UploadEvent;
use crate::cos::error::CosError;
use crate::cos::upstream::Upstream;
use crate::cos::verdict::{Verification, VerifiedBy};
use crate::key::OWN_PREFIX;
use std::rc::Rc;

/// What the keys of all helper objects begin with; the id of the upload in hexadecimal and a `/` follow.
pub const HELPER_PREFIX: &str = OWN_PREFIX;
/// The object's metadata by which a completed upload is recognized: its id in hexadecimal.
pub(super) const UPLOAD: &str = "x-cos-meta-upload";

/// What identifies an upload, as its sealed URL has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumableUpload {
    pub key: String,
    /// COS's; empty for an empty file, which is stored at its creation.
    pub upload_id: String,
    /// Unique.
    pub id: [u8; 16],
    /// Bytes of every part but the last.
    pub part_size: u64,
    /// Bytes of the file; `None` if that was not known at its creation.
    pub length: Option<u64>,
}

/// A file that COS has stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Bytes.
    pub size: u64,
    /// CRC-64/XZ of the object, `None` if it is known neither from the bytes that were sent nor from COS.
    pub crc64: Option<u64>,
    /// `None` also where an upload was completed by another session.
    pub verified_by: Option<VerifiedBy>,
}

/// The file of an upload that was completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    pub file: StoredFile,
    /// [`Resumable::close`] was called since.
    pub is_closed: bool,
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// `offset` bytes of the file need not be sent again. It is less than `length` always; the length is `None` until it
    /// is declared.
    Open {
        offset: u64,
        length: Option<u64>,
    },
    Stored(Completed),
    /// COS knows neither the upload nor an object that it was completed to.
    Gone,
}

/// How a session has ended.
#[derive(Debug)]
pub struct Appended {
    /// Bytes of the file that need not be sent again; the file's length only if it is stored.
    pub offset: u64,
    /// The file, if it is complete.
    pub stored: Option<StoredFile>,
    /// Why not all bytes of the source were taken, or why the file could not be completed. [`CosError::Source`] has the
    /// source's own error.
    pub error: Option<AppendError>,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Cos(#[from] CosError),
    /// Another session has begun, or the upload was terminated; nothing was written since that was noticed.
    #[error("another session of the upload has begun")]
    Superseded,
}

/// Where uploads are: what every operation needs.
pub struct Resumable<'a> {
    pub client: Rc<Client>,
    pub upstream: &'a Upstream,
    pub verify: Verification,
    pub observe: &'a dyn Fn(UploadEvent),
}
