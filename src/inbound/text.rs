//! A client's own bytes as text for people.

/// A client's own bytes as they may stand in an error: short, in one line.
pub(super) fn printable(bytes: &[u8]) -> String {
    const LONGEST: usize = 80;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
