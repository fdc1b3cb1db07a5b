//! A file on its way to COS, as whoever reads it from the client gives it: pieces in order, and how it ended.

use bytes::Bytes;
use futures::stream::LocalBoxStream;

/// An error of the source's own kind.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A file's content in order, then how it ended. Whatever follows [`FileEvent::End`] is never asked for.
pub type Source = LocalBoxStream<'static, Result<FileEvent, BoxError>>;

/// A piece of a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// Content; never empty.
    Content(Bytes),
    /// The content is complete, and what was read behind it is valid.
    End(FileEnd),
}

/// How a file's content ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEnd {
    /// No other file follows.
    pub last: bool,
    /// What stood behind the client's closing delimiter: white space (CR, LF, SP, HT), mostly nothing or one CRLF.
    /// The source sees to it that it is short.
    pub epilogue: Bytes,
}

/// How long the part of our form is that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLength {
    /// The file has this many bytes.
    Known(u64),
    /// If the file is the request's last part, it and the client's epilogue have this many bytes together. The
    /// epilogue is mirrored behind our closing delimiter, so the sum is exact whichever it is.
    Assumed(u64),
}

impl FileLength {
    /// In bytes.
    pub fn length(self) -> u64 {
        match self {
            Self::Known(length) | Self::Assumed(length) => length,
        }
    }
}
