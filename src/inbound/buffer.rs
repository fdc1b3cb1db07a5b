//! Buffers a whole file whose length is not known in advance.

use bytes::Bytes;
use futures::StreamExt;

use super::error::InboundError;
use crate::file_stream::{BoxError, FileEnd, FileEvent, Source};
use crate::memory::replay_buffer::ReplayBuffer;

/// How buffering a file ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Buffered {
    /// The whole file is in the buffer, so its length is known.
    Complete(FileEnd),
    /// The limit was reached; the rest of the file is still to be read.
    LimitReached,
    /// The memory budget was used up; the rest of the file is still to be read.
    OutOfMemory,
}

/// Reads `source` into `buffer` until it ends or `limit` bytes would be exceeded. No byte is lost in any case: what was
/// read and does not fit is put back at the front of the returned source.
pub async fn buffer_file(
    source: Source,
    buffer: &mut ReplayBuffer,
    limit: usize,
) -> Result<(Source, Buffered), BoxError> {
    let mut source = source;
    loop {
        let bytes = match source.next().await {
            Some(Ok(FileEvent::Content(bytes))) => bytes,
            Some(Ok(FileEvent::End(end))) => return Ok((source, Buffered::Complete(end))),
            Some(Err(error)) => return Err(error),
            None => return Err(InboundError::Truncated.into()),
        };
        let length = buffer.len();
        if length + bytes.len() > limit {
            return Ok((put_back(bytes, source), Buffered::LimitReached));
        }
        if buffer.push(&bytes).is_err() {
            let rest = bytes.slice(buffer.len() - length..);
            return Ok((put_back(rest, source), Buffered::OutOfMemory));
        }
    }
}

/// Whether a file has no content. No byte is lost: what was read is put back.
pub async fn is_empty(mut source: Source) -> Result<(Source, bool), BoxError> {
    let first = match source.next().await {
        Some(event) => event?,
        None => return Err(InboundError::Truncated.into()),
    };
    let is_empty = matches!(first, FileEvent::End(_));
    Ok((Box::pin(futures::stream::iter([Ok(first)]).chain(source)), is_empty))
}

fn put_back(bytes: Bytes, source: Source) -> Source {
    Box::pin(futures::stream::iter([Ok(FileEvent::Content(bytes))]).chain(source))
}
