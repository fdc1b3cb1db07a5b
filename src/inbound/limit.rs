//! The bound on a file's length.

use futures::StreamExt;

use super::error::InboundError;
use crate::file_stream::{FileEvent, Source};

/// `source` with a bound on its content: [`InboundError::FileTooLarge`] as soon as it is passed.
pub fn limited(source: Source, max: u64) -> Source {
    let mut seen = 0;
    Box::pin(source.map(move |piece| {
        if let Ok(FileEvent::Content(bytes)) = &piece {
            seen += bytes.len() as u64;
            if seen > max {
                return Err(InboundError::FileTooLarge(max).into());
            }
        }
        piece
    }))
}
