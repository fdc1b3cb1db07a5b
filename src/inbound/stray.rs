//! Delimiters that a sender wrote where none counts: behind other text, behind a bare LF, within a part. Multipart takes
//! them for content (RFC 2046 5.1.1), and the part behind them would be lost under a success.

use memchr::memchr_iter;

use super::error::InboundError;

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
    // The content is short: a searcher of substrings takes longer to make than to use.
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

/// The first line of a body that is delimited by something else, without its hyphens.
pub fn first_delimiter(body: &[u8]) -> Option<&[u8]> {
    let line = without_blanks(body).split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let boundary = line.strip_prefix(b"--")?.trim_ascii();
    let is_one = !boundary.is_empty() && boundary.iter().all(|byte| (b' '..=b'~').contains(byte));
    is_one.then_some(boundary)
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

/// Whether nothing but hyphens stands there, behind blanks, and more than one: that is no slip.
pub fn is_hyphens(before: &[u8]) -> bool {
    let hyphens = without_blanks(before);
    hyphens.len() > 1 && hyphens.iter().all(|byte| *byte == b'-')
}

fn holds_disposition(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"content-disposition";
    bytes.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME))
}

/// A file's content as it passes: whether a delimiter in it was meant to end it. A file may hold anything that looks like
/// one, but no line with the form's boundary and a part's header behind it.
pub struct Passed {
    /// The last bytes.
    tail: [u8; Passed::TAIL],
    length: usize,
    /// Boundaries that the scanner has told of and that were looked at.
    seen: u8,
}

impl Default for Passed {
    fn default() -> Self {
        Self { tail: [0; Self::TAIL], length: 0, seen: 0 }
    }
}

impl Passed {
    /// A delimiter with some white space, a line break and the beginning of a header: `MARK`.
    const TAIL: usize = 128;

    pub fn clear(&mut self) {
        (self.length, self.seen) = (0, 0);
    }

    /// Refuses content behind what has passed if a part begins in it. `look_alikes` is what the scanner says, behind it.
    pub fn push(
        &mut self,
        content: &[u8],
        opening: &[u8],
        look_alikes: Option<u8>,
    ) -> Result<(), InboundError> {
        if let Some(look_alikes) = look_alikes {
            let mut seam = [0; 2 * Self::TAIL];
            let start = &content[..content.len().min(Self::TAIL)];
            let end = self.length + start.len();
            seam[..self.length].copy_from_slice(&self.tail[..self.length]);
            seam[self.length..end].copy_from_slice(start);
            refuse(&seam[..end], opening, begins_part)?;
            if look_alikes != self.seen {
                self.seen = look_alikes;
                refuse(content, opening, begins_part)?;
            }
        }
        self.keep(content);
        Ok(())
    }

    fn keep(&mut self, content: &[u8]) {
        let content = &content[content.len().saturating_sub(Self::TAIL)..];
        let stays = self.length.min(Self::TAIL - content.len());
        self.tail.copy_within(self.length - stays..self.length, 0);
        self.tail[stays..stays + content.len()].copy_from_slice(content);
        self.length = stays + content.len();
    }

    /// At the body's end: refuses a delimiter that was meant to be the last one.
    pub fn refuse_closing(&self, opening: &[u8]) -> Result<(), InboundError> {
        let closes = |_, behind: &[u8]| behind.starts_with(b"--") || ends_line(behind);
        refuse(&self.tail[..self.length], opening, closes)
    }
}

fn begins_part(_: Option<u8>, behind: &[u8]) -> bool {
    const MARK: &[u8] = b"content-";
    let line_end = behind.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
    let behind = &behind[line_end.unwrap_or(behind.len())..];
    let next = behind.strip_prefix(b"\r\n").or_else(|| behind.strip_prefix(b"\n"));
    let next = next.and_then(|next| next.get(..MARK.len()));
    next.is_some_and(|next| next.eq_ignore_ascii_case(MARK))
}

#[cfg(test)]
mod tests {
    use memchr::memmem;

    use super::*;

    /// What is made of a file's content in pieces of `size`.
    fn pass(content: &[u8], size: usize) -> Result<(), InboundError> {
        let mut passed = Passed::default();
        let mut told = 0;
        for piece in content.chunks(size) {
            told += memmem::find_iter(piece, b"--bound").count() as u8;
            passed.push(piece, b"--bound", Some(told))?;
        }
        passed.refuse_closing(b"--bound")
    }

    #[test]
    fn a_part_within_a_file_is_found_however_it_is_cut() {
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
                        pass(content.as_bytes(), size),
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
                    assert_eq!(pass(content.as_bytes(), size), Ok(()), "{size}: {content}");
                }
            }
        }
    }
}
