//! A file held in memory to its end, because nothing but its end tells its length.

use futures::StreamExt;

use super::error::InboundError;
use crate::file_stream::{BoxError, FileEnd, FileEvent, Source};
use crate::memory::replay_buffer::ReplayBuffer;

/// How far holding a file got.
#[derive(Debug, PartialEq, Eq)]
pub enum Held {
    /// To its end: its length is known.
    Whole(FileEnd),
    /// Up to the limit; the rest is still to come.
    Full,
    /// Up to where the memory budget had no more room.
    NoRoom,
}

/// Reads `source` into `blocks` until it ends or more than `limit` bytes are kept. A piece that was read is always
/// kept or handed back behind the blocks: no byte is lost whichever way it ends.
pub async fn hold(
    source: Source,
    blocks: &mut ReplayBuffer,
    limit: usize,
) -> Result<(Source, Held), BoxError> {
    let mut source = source;
    loop {
        let bytes = match source.next().await {
            Some(Ok(FileEvent::Content(bytes))) => bytes,
            Some(Ok(FileEvent::End(end))) => return Ok((source, Held::Whole(end))),
            Some(Err(error)) => return Err(error),
            None => return Err(InboundError::Truncated.into()),
        };
        let kept = blocks.len();
        if kept + bytes.len() > limit {
            return Ok((put_back(bytes, source), Held::Full));
        }
        if blocks.push(&bytes).is_err() {
            let rest = bytes.slice(blocks.len() - kept..);
            return Ok((put_back(rest, source), Held::NoRoom));
        }
    }
}

fn put_back(bytes: bytes::Bytes, source: Source) -> Source {
    Box::pin(futures::stream::iter([Ok(FileEvent::Content(bytes))]).chain(source))
}
