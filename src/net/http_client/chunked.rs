//! A response's chunked body (RFC 9112, 7.1): its content is collected, extensions and trailers are skipped, all within
//! bounds.

use bytes::Bytes;
use httparse::Status;

pub(super) const TOO_LONG: &str = "it is too long";

/// Bytes of a chunk's line with its extensions, and of all trailers.
const LINE_LIMIT: usize = 1024;
/// Lines of all trailers.
const TRAILERS: usize = 16;
/// Bytes of a chunk's line without extensions: 16 digits and the line break.
const PLAIN_LINE: usize = 18;
/// Bytes beyond [`PLAIN_LINE`] in all the chunks' lines of a body. Without this limit a body of one-byte chunks could
/// be a thousand times as long as its content.
const EXTENSIONS_LIMIT: usize = 16 * 1024;

const MALFORMED: &str = "its chunks are malformed";

/// The content so far, and how far the chunks are decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ChunkedContent {
    next: Next,
    content: Vec<u8>,
    /// Bytes of extensions.
    extensions: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Size,
    /// Bytes of content.
    Data(usize),
    DataEnd,
    Trailers,
}

impl ChunkedContent {
    /// Decodes on, and removes what it has read from the front of `rest`. Gives the content, of at most `limit` bytes,
    /// once the last chunk and the trailers have been received.
    pub fn read(&mut self, rest: &mut &[u8], limit: usize) -> Result<Option<Bytes>, &'static str> {
        loop {
            match self.next {
                Next::Size => {
                    // httparse takes a line without a digit for the last chunk.
                    if rest.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
                        return Err(MALFORMED);
                    }
                    let parsed = httparse::parse_chunk_size(rest).map_err(|_| MALFORMED)?;
                    let Some((length, size)) = complete(parsed, |(length, _)| *length, rest)?
                    else {
                        return Ok(None);
                    };
                    self.extensions += length.saturating_sub(PLAIN_LINE);
                    if self.extensions > EXTENSIONS_LIMIT {
                        return Err(MALFORMED);
                    }
                    let size = usize::try_from(size).unwrap_or(usize::MAX);
                    if size > limit - self.content.len() {
                        return Err(TOO_LONG);
                    }
                    *rest = &rest[length..];
                    self.next = if size == 0 { Next::Trailers } else { Next::Data(size) };
                }
                Next::Data(left) => {
                    let (data, after) = rest.split_at(left.min(rest.len()));
                    self.content.extend_from_slice(data);
                    *rest = after;
                    if data.len() < left {
                        self.next = Next::Data(left - data.len());
                        return Ok(None);
                    }
                    self.next = Next::DataEnd;
                }
                Next::DataEnd => {
                    let Some(end) = rest.first_chunk::<2>() else {
                        return if b"\r\n".starts_with(rest) { Ok(None) } else { Err(MALFORMED) };
                    };
                    if end != b"\r\n" {
                        return Err(MALFORMED);
                    }
                    *rest = &rest[2..];
                    self.next = Next::Size;
                }
                Next::Trailers => {
                    let mut lines = [httparse::EMPTY_HEADER; TRAILERS];
                    let parsed =
                        httparse::parse_headers(rest, &mut lines).map_err(|_| MALFORMED)?;
                    let Some((length, _)) = complete(parsed, |(length, _)| *length, rest)? else {
                        return Ok(None);
                    };
                    *rest = &rest[length..];
                    return Ok(Some(Bytes::from(std::mem::take(&mut self.content))));
                }
            }
        }
    }
}

/// What was parsed of `rest`, once it is complete, if it is within [`LINE_LIMIT`]; the same however the bytes are cut.
fn complete<T>(
    parsed: Status<T>,
    length: impl Fn(&T) -> usize,
    rest: &[u8],
) -> Result<Option<T>, &'static str> {
    match parsed {
        Status::Complete(parsed) if length(&parsed) <= LINE_LIMIT => Ok(Some(parsed)),
        Status::Partial if rest.len() <= LINE_LIMIT => Ok(None),
        _ => Err(MALFORMED),
    }
}
