//! Delimiters that a sender wrote where none counts: behind other text, behind a bare LF, within a part. Multipart takes
//! them for content (RFC 2046 5.1.1), and the part behind them would be lost under a success.

use memchr::memmem;

use super::InboundError;

const TEXT_BEFORE: InboundError = InboundError::Malformed(
    "a boundary stands behind other text in its line, and must begin a line that follows CRLF",
);

/// White space between and around the parts of a form.
pub fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// What stands before the first delimiter: nothing, blanks and byte order marks, or a text that ends in CRLF.
pub fn in_preamble(before: &[u8]) -> Result<(), InboundError> {
    if without_blanks(before).is_empty() {
        return Ok(());
    }
    if holds_disposition(before) {
        return Err(InboundError::Malformed(
            "a part stands before the first boundary that the Content-Type names",
        ));
    }
    match before {
        [.., b'\r', b'\n'] => Ok(()),
        [.., b'\n'] => Err(InboundError::LineFeeds),
        _ => Err(TEXT_BEFORE),
    }
}

/// A head, up to the LF that ends it: an empty line within it ends in a bare LF.
pub fn in_head(head: &[u8]) -> Result<(), InboundError> {
    let mut ends = memchr::memchr_iter(b'\n', head);
    match ends.any(|at| head[at + 1..].starts_with(b"\n") || head[at + 1..].starts_with(b"\r\n")) {
        true => Err(InboundError::LineFeeds),
        false => Ok(()),
    }
}

/// A field's value: no line of it is a delimiter, or ends in one.
pub fn in_field(value: &[u8], opening: &[u8]) -> Result<(), InboundError> {
    refuse(value, opening, |before, behind| {
        let begins_line = matches!(before, Some(b'\n' | b'\r'));
        ends_line(behind) || (begins_line && behind.starts_with(b"--"))
    })
}

fn ends_line(behind: &[u8]) -> bool {
    let end = behind.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    matches!(end, Some(b'\r' | b'\n'))
}

/// Refuses content that holds `opening` (`--boundary`) where `is_delimiter` says so of the byte before it and of what
/// is behind it.
fn refuse(
    content: &[u8],
    opening: &[u8],
    is_delimiter: impl Fn(Option<u8>, &[u8]) -> bool,
) -> Result<(), InboundError> {
    for at in memmem::find_iter(content, opening) {
        let before = at.checked_sub(1).map(|before| content[before]);
        if is_delimiter(before, &content[at + opening.len()..]) {
            let line_feed = before == Some(b'\n');
            return Err(if line_feed { InboundError::LineFeeds } else { TEXT_BEFORE });
        }
    }
    Ok(())
}

/// The first line of a body that is delimited by something else, without its hyphens.
pub fn first_delimiter(body: &[u8]) -> Option<&[u8]> {
    let line = without_blanks(body).split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let boundary = line.strip_prefix(b"--")?.trim_ascii();
    let is_one = !boundary.is_empty() && boundary.iter().all(|byte| (b' '..=b'~').contains(byte));
    is_one.then_some(boundary)
}

/// What the text of a field looks like that was meant to be a file. Says nothing of any other text.
pub fn looks_like(value: &[u8]) -> &'static str {
    let is = |known: &[u8]| value.eq_ignore_ascii_case(known);
    let begins = |known: &[u8]| {
        value.get(..known.len()).is_some_and(|start| start.eq_ignore_ascii_case(known))
    };
    if is(b"undefined") {
        " (`undefined`)"
    } else if is(b"null") {
        " (`null`)"
    } else if begins(b"[object ") {
        " (`[object …]`)"
    } else if begins(b"data:") {
        " (a data URL)"
    } else if begins(b"blob:") {
        " (a blob URL)"
    } else if begins(b"c:\\fakepath\\") {
        " (the value of a file input)"
    } else if value.is_empty() {
        " (none)"
    } else {
        ""
    }
}

fn without_blanks(mut bytes: &[u8]) -> &[u8] {
    loop {
        bytes = match bytes {
            [0xef, 0xbb, 0xbf, rest @ ..] => rest,
            [byte, rest @ ..] if is_blank(*byte) => rest,
            _ => return bytes,
        };
    }
}

fn holds_disposition(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"content-disposition";
    bytes.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME))
}

/// The last bytes of a file's content, to see whether a delimiter in them was meant to end it. The copy costs some 10 ns
/// for a chunk, where a search through all content would cost a fifth of the relay's CPU.
pub struct Tail {
    bytes: [u8; Tail::LENGTH],
    length: usize,
}

impl Default for Tail {
    fn default() -> Self {
        Self { bytes: [0; Self::LENGTH], length: 0 }
    }
}

impl Tail {
    /// A delimiter, a head as browsers send it and a short value.
    const LENGTH: usize = 512;

    pub fn clear(&mut self) {
        self.length = 0;
    }

    pub fn push(&mut self, content: &[u8]) {
        let content = &content[content.len().saturating_sub(Self::LENGTH)..];
        let stays = self.length.min(Self::LENGTH - content.len());
        if stays > 0 {
            self.bytes.copy_within(self.length - stays..self.length, 0);
        }
        self.bytes[stays..stays + content.len()].copy_from_slice(content);
        self.length = stays + content.len();
    }

    /// At the body's end: a delimiter that was meant to be the last one.
    pub fn refuse_delimiter(&self, opening: &[u8]) -> Result<(), InboundError> {
        let closes = |_, behind: &[u8]| behind.starts_with(b"--") || ends_line(behind);
        refuse(&self.bytes[..self.length], opening, closes)
    }

    /// At the file's end: a part that was meant to follow it. A file may hold anything else that looks like a delimiter.
    pub fn refuse_part(&self, opening: &[u8]) -> Result<(), InboundError> {
        let begins_part = |_, behind: &[u8]| ends_line(behind) && holds_disposition(behind);
        refuse(&self.bytes[..self.length], opening, begins_part)
    }
}
