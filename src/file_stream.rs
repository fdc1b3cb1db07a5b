//! A file on its way from the client to COS: its content in chunks, then how it ended. It is what `inbound` gives and
//! `cos` takes, so that neither imports the other.

use bytes::Bytes;
use futures::stream::LocalBoxStream;

/// An error of the source.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A file's content in order, then how it ended. The stream is not polled after [`FileEvent::End`].
pub type Source = LocalBoxStream<'static, Result<FileEvent, BoxError>>;

/// An item of a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// Content; never empty.
    Content(Bytes),
    /// The content is complete, and the rest of the request that was read is valid.
    End(FileEnd),
}

/// How a file's content ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEnd {
    /// No other file follows.
    pub last: bool,
    /// What followed the client's closing delimiter: white space (CR, LF, SP, HT), mostly nothing or one CRLF. The
    /// source limits its length.
    pub epilogue: Bytes,
}

/// How many of the client's bytes the form to COS contains: the file's, and with `Assumed` the epilogue's, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLength {
    /// The file has this many bytes.
    Known(u64),
    /// If the file is the request's last part, it and the client's epilogue have this many bytes together. The epilogue
    /// is repeated after the form's closing delimiter, so that the sum is exact whatever its length is.
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
