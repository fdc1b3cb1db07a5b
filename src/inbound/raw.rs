//! A raw body as one file: the body of a `PUT` is the file's bytes and nothing else.

use bytes::Bytes;
use futures::stream;

use super::body::Body;
use super::error::InboundError;
use crate::file_stream::{FileEnd, FileEvent, Source};

/// The body as a file's content. The file ends where the body ends; `cos::replayable_file` checks its length
/// against the announced one.
pub fn content(mut body: Body) -> Source {
    Box::pin(stream::poll_fn(move |cx| {
        body.poll_chunk(cx).map(|chunk| {
            Some(match chunk {
                Ok(Some(bytes)) => Ok(FileEvent::Content(bytes)),
                Ok(None) => Ok(FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() })),
                Err(error) => Err(InboundError::into(error)),
            })
        })
    }))
}
