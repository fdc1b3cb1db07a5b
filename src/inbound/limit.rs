//! Limits a file's length.

use futures::StreamExt;

use super::error::InboundError;
use crate::file_stream::{FileEvent, Source};

/// `source`, which fails with [`InboundError::FileTooLarge`] as soon as it has sent more than `max` bytes.
pub fn limited(source: Source, max: u64) -> Source {
    limited_by(source, max, move |_| InboundError::FileTooLarge(max))
}

/// As [`limited`], with another error, which is told how many bytes there were.
pub fn limited_by(
    source: Source,
    max: u64,
    error: impl Fn(u64) -> InboundError + 'static,
) -> Source {
    let mut length = 0;
    Box::pin(source.map(move |event| {
        if let Ok(FileEvent::Content(bytes)) = &event {
            length += bytes.len() as u64;
            if length > max {
                return Err(error(length).into());
            }
        }
        event
    }))
}
