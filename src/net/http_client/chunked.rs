//! A body in chunks (RFC 9112, 7.1) as its bytes come: its content is gathered, all else is read past, within bounds.

use bytes::Bytes;
use httparse::Status;

pub(super) const TOO_LONG: &str = "it is too long";

/// A chunk's line with its extensions, or all trailers, may be this long.
const LINE_LIMIT: usize = 1024;
/// Trailers may be this many lines.
const TRAILERS: usize = 16;
/// A chunk's line without extensions: 16 digits and the line break.
const PLAIN_LINE: usize = 18;
/// What the lines of all chunks of a body may have beyond that: without a bound a body of one-byte chunks could bring
/// a thousand times its length.
const EXTENSIONS_LIMIT: usize = 16 * 1024;

const ODD: &str = "its chunks cannot be read";

/// The content so far, and where in the chunks it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    content: Vec<u8>,
    extensions: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// So many bytes of content.
    Data(usize),
    DataEnd,
    Trailers,
}

impl Chunks {
    /// Reads on in `rest`, which is left with what was not read: gives the content, of at most `limit` bytes, once the
    /// last chunk and the trailers have come.
    pub fn read(&mut self, rest: &mut &[u8], limit: usize) -> Result<Option<Bytes>, &'static str> {
        loop {
            match self.at {
                At::Size => {
                    // A line without a digit would pass for the last chunk.
                    if rest.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
                        return Err(ODD);
                    }
                    let parsed = httparse::parse_chunk_size(rest).map_err(|_| ODD)?;
                    let Some((length, size)) = whole(parsed, |(length, _)| *length, rest)? else {
                        return Ok(None);
                    };
                    self.extensions += length.saturating_sub(PLAIN_LINE);
                    if self.extensions > EXTENSIONS_LIMIT {
                        return Err(ODD);
                    }
                    let size = usize::try_from(size).unwrap_or(usize::MAX);
                    if size > limit - self.content.len() {
                        return Err(TOO_LONG);
                    }
                    *rest = &rest[length..];
                    self.at = if size == 0 { At::Trailers } else { At::Data(size) };
                }
                At::Data(left) => {
                    let (data, behind) = rest.split_at(left.min(rest.len()));
                    self.content.extend_from_slice(data);
                    *rest = behind;
                    if data.len() < left {
                        self.at = At::Data(left - data.len());
                        return Ok(None);
                    }
                    self.at = At::DataEnd;
                }
                At::DataEnd => {
                    let Some(end) = rest.first_chunk::<2>() else {
                        return if b"\r\n".starts_with(rest) { Ok(None) } else { Err(ODD) };
                    };
                    if end != b"\r\n" {
                        return Err(ODD);
                    }
                    *rest = &rest[2..];
                    self.at = At::Size;
                }
                At::Trailers => {
                    let mut lines = [httparse::EMPTY_HEADER; TRAILERS];
                    let parsed = httparse::parse_headers(rest, &mut lines).map_err(|_| ODD)?;
                    let Some((length, _)) = whole(parsed, |(length, _)| *length, rest)? else {
                        return Ok(None);
                    };
                    *rest = &rest[length..];
                    return Ok(Some(Bytes::from(std::mem::take(&mut self.content))));
                }
            }
        }
    }
}

/// What was parsed of `rest`, once it is whole, and within its bound: the same however the bytes are cut.
fn whole<T>(
    parsed: Status<T>,
    length: impl Fn(&T) -> usize,
    rest: &[u8],
) -> Result<Option<T>, &'static str> {
    match parsed {
        Status::Complete(parsed) if length(&parsed) <= LINE_LIMIT => Ok(Some(parsed)),
        Status::Partial if rest.len() <= LINE_LIMIT => Ok(None),
        _ => Err(ODD),
    }
}
