//! Refuses boundaries that are not delimiters because of their position: after other text, after a bare LF, within a
//! part. They count as content (RFC 2046 5.1.1), so the client would get a success although the part after them is
//! lost.

use memchr::memchr_iter;

use super::error::InboundError;

const TEXT_BEFORE: InboundError = InboundError::Malformed(
    "a boundary stands after other text in its line, and must begin a line that follows CRLF",
);

/// White space outside the parts of a form.
pub fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Checks what precedes the first delimiter: nothing, white space and byte order marks, or text that ends in CRLF is
/// allowed.
pub fn check_preamble(preamble: &[u8]) -> Result<(), InboundError> {
    if without_blanks(preamble).is_empty() {
        return Ok(());
    }
    if has_disposition(preamble) {
        return Err(InboundError::Malformed(
            "a part stands before the first boundary that the Content-Type names",
        ));
    }
    match preamble {
        [.., b'\r', b'\n'] => Ok(()),
        [.., b'\n'] => Err(InboundError::LineFeeds),
        _ => Err(TEXT_BEFORE),
    }
}

/// Checks a head without its last LF: an empty line in it is one that ends in a bare LF.
pub fn check_head(head: &[u8]) -> Result<(), InboundError> {
    let mut line_ends = memchr::memchr_iter(b'\n', head);
    let has_empty_line = line_ends
        .any(|at| head[at + 1..].starts_with(b"\n") || head[at + 1..].starts_with(b"\r\n"));
    match has_empty_line {
        true => Err(InboundError::LineFeeds),
        false => Ok(()),
    }
}

/// Checks a field's value: no line of it may be a delimiter or end in one.
pub fn check_field(value: &[u8], opening: &[u8]) -> Result<(), InboundError> {
    refuse(value, opening, |before, after| {
        let begins_line = matches!(before, Some(b'\n' | b'\r'));
        ends_line(after) || (begins_line && after.starts_with(b"--"))
    })
}

fn ends_line(after: &[u8]) -> bool {
    let end = after.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    matches!(end, Some(b'\r' | b'\n'))
}

/// Refuses content that has `opening` (`--boundary`) in a position that `is_delimiter` accepts, given the byte before
/// it and the bytes after it.
fn refuse(
    content: &[u8],
    opening: &[u8],
    is_delimiter: impl Fn(Option<u8>, &[u8]) -> bool,
) -> Result<(), InboundError> {
    // The content is short: building a substring searcher would take longer than the search.
    let openings = memchr_iter(b'-', content).filter(|at| content[*at..].starts_with(opening));
    for at in openings {
        let before = at.checked_sub(1).map(|before| content[before]);
        if is_delimiter(before, &content[at + opening.len()..]) {
            let line_feed = before == Some(b'\n');
            return Err(if line_feed { InboundError::LineFeeds } else { TEXT_BEFORE });
        }
    }
    Ok(())
}

/// The boundary that a body's first line appears to have; `None` if that line is not a delimiter.
pub fn boundary_of_first_line(body: &[u8]) -> Option<&[u8]> {
    let line = without_blanks(body).split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let boundary = line.strip_prefix(b"--")?.trim_ascii();
    let is_boundary =
        !boundary.is_empty() && boundary.iter().all(|byte| (b' '..=b'~').contains(byte));
    is_boundary.then_some(boundary)
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

/// Whether a preamble consists of several hyphens after white space. A single one is taken for a typing error.
pub fn is_hyphens(preamble: &[u8]) -> bool {
    let hyphens = without_blanks(preamble);
    hyphens.len() > 1 && hyphens.iter().all(|byte| *byte == b'-')
}

fn has_disposition(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"content-disposition";
    bytes.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME))
}

/// Checks a file's content while it is streamed: whether a boundary in it was meant as a delimiter. A file may contain
/// anything that resembles one, but not a line with the form's boundary followed by a part's header.
pub struct FileContentCheck {
    /// The last bytes of the content so far.
    tail: [u8; FileContentCheck::TAIL],
    tail_length: usize,
    /// How many of the scanner's look-alikes were checked.
    checked: u8,
}

impl Default for FileContentCheck {
    fn default() -> Self {
        Self { tail: [0; Self::TAIL], tail_length: 0, checked: 0 }
    }
}

impl FileContentCheck {
    /// Long enough for a delimiter, some white space, a line break and the `content-` of a header.
    const TAIL: usize = 128;

    /// Prepares for the next file.
    pub fn reset(&mut self) {
        (self.tail_length, self.checked) = (0, 0);
    }

    /// Checks the next content; refuses it if a part begins in it. `look_alikes` is the scanner's count, this content
    /// included; with `None` the content is not checked.
    pub fn push(
        &mut self,
        content: &[u8],
        opening: &[u8],
        look_alikes: Option<u8>,
    ) -> Result<(), InboundError> {
        if let Some(look_alikes) = look_alikes {
            // A boundary may be split between the content before and this one.
            let mut seam = [0; 2 * Self::TAIL];
            let start = &content[..content.len().min(Self::TAIL)];
            let end = self.tail_length + start.len();
            seam[..self.tail_length].copy_from_slice(&self.tail[..self.tail_length]);
            seam[self.tail_length..end].copy_from_slice(start);
            refuse(&seam[..end], opening, begins_part)?;
            if look_alikes != self.checked {
                self.checked = look_alikes;
                refuse(content, opening, begins_part)?;
            }
        }
        self.update_tail(content);
        Ok(())
    }

    fn update_tail(&mut self, content: &[u8]) {
        let content = &content[content.len().saturating_sub(Self::TAIL)..];
        let retained = self.tail_length.min(Self::TAIL - content.len());
        self.tail.copy_within(self.tail_length - retained..self.tail_length, 0);
        self.tail[retained..retained + content.len()].copy_from_slice(content);
        self.tail_length = retained + content.len();
    }

    /// At the body's end: refuses a boundary that was meant as the closing delimiter.
    pub fn check_end(&self, opening: &[u8]) -> Result<(), InboundError> {
        let closes = |_, after: &[u8]| after.starts_with(b"--") || ends_line(after);
        refuse(&self.tail[..self.tail_length], opening, closes)
    }
}

fn begins_part(_: Option<u8>, after: &[u8]) -> bool {
    const HEADER_START: &[u8] = b"content-";
    let line_end = after.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
    let after = &after[line_end.unwrap_or(after.len())..];
    let next = after.strip_prefix(b"\r\n").or_else(|| after.strip_prefix(b"\n"));
    let next = next.and_then(|next| next.get(..HEADER_START.len()));
    next.is_some_and(|next| next.eq_ignore_ascii_case(HEADER_START))
}

#[cfg(test)]
mod tests {
    use memchr::memmem;

    use super::*;

    /// Checks a file's content in chunks of `size`.
    fn check(content: &[u8], size: usize) -> Result<(), InboundError> {
        let mut content_check = FileContentCheck::default();
        let mut look_alikes = 0;
        for chunk in content.chunks(size) {
            look_alikes += memmem::find_iter(chunk, b"--bound").count() as u8;
            content_check.push(chunk, b"--bound", Some(look_alikes))?;
        }
        content_check.check_end(b"--bound")
    }

    #[test]
    fn a_part_within_a_file_is_found_wherever_chunks_end() {
        let filler = |length: usize| "x".repeat(length);
        for before in [0, 1, 100, 126, 127, 128, 129, 1000] {
            for (delimiter, fault) in [
                ("\n--bound\r\nContent-Type: x", InboundError::LineFeeds),
                ("--bound \t\ncontent-disposition: x", TEXT_BEFORE),
                ("\n--bound--\n", InboundError::LineFeeds),
            ] {
                let ends = delimiter.contains("--bound--");
                let after = if ends { String::new() } else { filler(before) };
                let content = format!("{}{delimiter}{after}", filler(before));
                for size in 1..content.len() + 1 {
                    assert_eq!(
                        check(content.as_bytes(), size),
                        Err(fault.clone()),
                        "{size}: {content}"
                    );
                }
            }
            for innocent in
                ["\n--bound--\r\n", "--bound", "\r--bound\r\nX: y", "\n--boun\r\nContent-"]
            {
                let content = format!("{}{innocent}{}", filler(before), filler(200));
                for size in 1..content.len() + 1 {
                    assert_eq!(check(content.as_bytes(), size), Ok(()), "{size}: {content}");
                }
            }
        }
    }
}
