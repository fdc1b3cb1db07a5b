//! What a client sends: a form or a raw body, read without keeping the file.
//!
//! Knows the pieces the relay takes ([`crate::cos::source::Piece`]), nothing of links, tokens or HTTP statuses.

pub mod body;
pub mod digest;
pub mod form;
pub mod head;
pub mod hold;
pub mod raw;
pub mod scan;
pub mod sniff;

use std::time::Duration;

use bytesize::ByteSize;
use futures::StreamExt;

use crate::cos::source::{Piece, Source};

/// Why a client's request cannot be taken as a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    #[error("the request is not multipart/form-data")]
    NotMultipart,
    #[error("the request's body is compressed ({0})")]
    Encoding(String),
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the form has no file")]
    NoFile,
    #[error("the field `{0}` stands after the file")]
    FieldAfterFile(String),
    #[error("the body ended before it was complete")]
    Truncated,
    #[error("{got} bytes came where {declared} were declared")]
    LengthMismatch { declared: u64, got: u64 },
    #[error("the file's length cannot be known")]
    LengthRequired,
    #[error("the form's fields are more than {fields} or longer than {bytes} bytes")]
    FieldsTooLarge { fields: usize, bytes: usize },
    #[error("a part's headers are longer than {0} bytes")]
    HeadTooLarge(usize),
    #[error("more than {0} files")]
    TooManyFiles(usize),
    #[error("the file is larger than {}", ByteSize(*.0))]
    FileTooLarge(u64),
    #[error("{0}")]
    Digest(String),
    #[error("the {algorithm} digest of what came is `{got}`, and {header} names another")]
    DigestMismatch { header: String, algorithm: &'static str, got: String },
    #[error("nothing was sent for {0:?}")]
    Stalled(Duration),
    #[error("no memory to hold a file of unknown length")]
    NoRoom,
}

/// `source` with a bound on its content: [`InboundError::FileTooLarge`] as soon as it is passed.
pub fn limited(source: Source, max: u64) -> Source {
    let mut seen = 0;
    Box::pin(source.map(move |piece| {
        if let Ok(Piece::Content(bytes)) = &piece {
            seen += bytes.len() as u64;
            if seen > max {
                return Err(InboundError::FileTooLarge(max).into());
            }
        }
        piece
    }))
}
