//! Reads the rest of a delimiter's line in a form: what follows `--boundary`.

use super::error::InboundError;

/// The most white space between a boundary and its line break, in bytes. RFC 2046 5.1.1 allows any.
const MAX_PADDING: usize = 256;

const BARE_CR: InboundError = InboundError::Malformed(
    "a boundary's line ends in a CR without an LF, and must end in both (RFC 2046): write `\\r\\n`",
);
const ESCAPED_LINE_BREAK: InboundError = InboundError::Malformed(
    "a boundary is followed by a backslash: the line breaks of the form were sent as the letters `\\r\\n` and not as \
     the two bytes CR and LF (in PHP and in shells, single quotes do that)",
);

/// What a delimiter begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    Part,
    /// The delimiter was the closing one.
    Epilogue,
}

/// A delimiter's line, read up to its line break or to the `--` of the closing delimiter.
#[derive(Debug, Default)]
pub struct DelimiterLine {
    /// White space so far.
    padding: usize,
    /// The first byte of CRLF or `--`, once it was read.
    first: Option<u8>,
}

impl DelimiterLine {
    /// Reads the next byte; `None` while the line goes on.
    pub fn push(&mut self, byte: u8) -> Result<Option<Follows>, InboundError> {
        match (self.first, byte) {
            (None, b' ' | b'\t') if self.padding < MAX_PADDING => self.padding += 1,
            (None, b'\r') => self.first = Some(b'\r'),
            (None, b'-') if self.padding == 0 => self.first = Some(b'-'),
            (None, b'\n') => return Err(InboundError::LineFeeds),
            (Some(b'\r'), b'\n') => return Ok(Some(Follows::Part)),
            (Some(b'\r'), _) => return Err(BARE_CR),
            (None, b'\\') => return Err(ESCAPED_LINE_BREAK),
            (Some(b'-'), b'-') => return Ok(Some(Follows::Epilogue)),
            _ => {
                return Err(InboundError::Malformed(
                    "a boundary is followed by something other than a line break or `--`; the boundary in the \
                     Content-Type may be incomplete",
                ));
            }
        }
        Ok(None)
    }
}
