//! The errors of reading a file from a client's request.

use std::time::Duration;

use bytesize::ByteSize;

use super::head::HeadFault;

/// The longest boundary in bytes (RFC 2046 5.1.1).
pub const MAX_BOUNDARY: usize = 70;

/// Why no file can be read from a client's request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    #[error("{}", not_multipart(.0.as_deref()))]
    NotMultipart(Option<String>),
    #[error("{0}")]
    Boundary(#[from] BoundaryFault),
    #[error(
        "the boundary `{declared}` of the Content-Type does not occur in the body{}",
        begins_with(.found.as_deref())
    )]
    BoundaryNotFound {
        declared: String,
        /// The boundary that the body's first line appears to have.
        found: Option<String>,
    },
    #[error("the body is empty")]
    EmptyBody,
    #[error("the request's body is encoded (Content-Encoding: {0})")]
    Encoding(String),
    #[error("the file in part {part} of the form is encoded ({header}: {encoding})")]
    PartEncoding { part: usize, header: &'static str, encoding: String },
    #[error(
        "the field `{field}` cannot be decoded as {encoding}, which its Content-Transfer-Encoding names; base64 and \
         quoted-printable are decoded, and `binary` needs no decoding"
    )]
    FieldEncoding { field: String, encoding: String },
    #[error("{0}")]
    Malformed(&'static str),
    #[error("part {part} of the form: {fault}")]
    Head { part: usize, fault: HeadFault },
    #[error(
        "the form's lines must end in CRLF, but a boundary or an empty line is next to a bare LF"
    )]
    LineFeeds,
    #[error("the form has no file")]
    NoFile,
    #[error("the form has no file: its part `{field}` has no filename and contains text{what}")]
    TextForFile { field: String, what: &'static str },
    #[error("the part `{field}` is of type {content_type}, and its filename is missing")]
    MediaWithoutName { field: String, content_type: String },
    #[error("the field `{field}` says that this is a piece of a file, as {widget} sends it")]
    FilePiece { field: String, widget: &'static str, remedy: &'static str },
    #[error("the field `{0}` comes after the file")]
    FieldAfterFile(String),
    #[error("the body ended before it was complete")]
    Truncated,
    /// A later request continues the same upload.
    #[error("another request continues this upload")]
    Superseded,
    #[error("this gateway is shutting down; try again: another one will respond")]
    Draining,
    #[error("the body ended without the boundary that closes the form, `--{0}--`")]
    Unclosed(String),
    #[error("{declared} bytes were declared, but {got} were received")]
    LengthMismatch { declared: u64, got: u64 },
    #[error("the file's length cannot be known")]
    LengthRequired,
    #[error(
        "the form has more than {fields} fields, or they are longer than {bytes} bytes together"
    )]
    FieldsTooLarge { fields: usize, bytes: usize },
    #[error(
        "the part `{field}` is longer than a field may be ({bytes} bytes), and its filename is missing"
    )]
    FieldTooLarge { field: String, bytes: usize },
    #[error(
        "a part's headers are longer than {0} bytes; an empty line must separate them from the content"
    )]
    HeadTooLarge(usize),
    #[error("more than {0} files")]
    TooManyFiles(usize),
    #[error("the file is larger than {}", ByteSize(*.0))]
    FileTooLarge(u64),
    #[error("{0}")]
    Digest(String),
    #[error(
        "the {algorithm} digest of the received bytes is `{got}`, but {header} gives another one"
    )]
    DigestMismatch { header: String, algorithm: &'static str, got: String },
    #[error("the client sent nothing for {0:?}")]
    Stalled(Duration),
    /// In bytes per second.
    #[error("the client sent less than {} per second over the last seconds", ByteSize(*.0))]
    TooSlow(u64),
    #[error("not enough memory to buffer a file of unknown length")]
    OutOfMemory,
}

fn not_multipart(found: Option<&str>) -> String {
    match found {
        None => "the request is not multipart/form-data: it has no Content-Type".to_owned(),
        Some(found) => format!("the request is not multipart/form-data but `{found}`"),
    }
}

fn begins_with(found: Option<&str>) -> String {
    found.map_or_else(String::new, |found| format!(", which begins with `{found}`"))
}

/// Why a multipart/form-data header has no usable boundary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoundaryFault {
    #[error("the Content-Type has no boundary")]
    Missing,
    #[error("the boundary in the Content-Type is empty")]
    Empty,
    #[error(
        "the boundary in the Content-Type is {0} bytes long, and at most {MAX_BOUNDARY} are allowed"
    )]
    TooLong(usize),
    #[error("the Content-Type names two boundaries, which differ")]
    Several,
}
