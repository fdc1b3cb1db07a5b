//! Sessions of an upload: one at a time may write, the one that the lease names.

use bytes::Bytes;

use super::{Opened, Progress, Resumable, ResumableUpload};
use crate::cos::error::CosError;
use crate::memory::budget::Share;

/// The right to append to an upload, until another session begins.
pub struct Session {
    offset: u64,
    length: Option<u64>,
    tail: Vec<Bytes>,
}

impl Session {
    /// Bytes of the file that need not be sent again; less than [`Self::length`].
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The file's length: the one declared first.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The file's bytes just before [`Self::offset`], fewer than a part has; all of them if the offset is less than a
    /// part.
    pub fn tail(&self) -> &[Bytes] {
        &self.tail
    }
}

impl Resumable<'_> {
    /// How far an upload is. Ends a session that is still active, so what is returned is not less than what a later
    /// [`Self::open`] finds.
    pub async fn progress(&self, _upload: &ResumableUpload) -> Result<Progress, CosError> {
        todo!()
    }

    /// Begins a session, and ends any other. `length`: the file's, if it is declared only now; where one was declared
    /// before, that one counts. The tail is charged to `share`; without memory for it, the error is
    /// [`CosError::OutOfMemory`].
    pub async fn open(
        &self,
        _upload: &ResumableUpload,
        _length: Option<u64>,
        _share: &std::sync::Arc<Share>,
    ) -> Result<Opened, CosError> {
        todo!()
    }
}
