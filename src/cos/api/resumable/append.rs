//! Sends what a session receives: full parts as they are complete, and the rest as the tail.

use std::sync::Arc;

use super::{Appended, Resumable, ResumableUpload, Session};
use crate::file_stream::Source;
use crate::memory::budget::Share;

impl Resumable<'_> {
    /// Appends the bytes of `source` at the session's offset; the source begins with the byte after the tail, which
    /// is not to be put before it. `body`: how many bytes the source has, if that is known.
    ///
    /// Full parts are sent while the next one is read. Where the source ends, or fails, the rest becomes the tail. The
    /// object is completed when all bytes of the file are there. Bytes beyond the file's length are an error before any
    /// of them is sent. Nothing is written any more once another session has begun. The future may be dropped at any
    /// time; what was not written by then is lost.
    pub async fn append(
        &self,
        _upload: &ResumableUpload,
        _session: Session,
        _source: Source,
        _body: Option<u64>,
        _share: Arc<Share>,
    ) -> Appended {
        todo!()
    }
}
