//! Makes bytes from a client safe to show in an error text.

/// `bytes` as text of at most 80 bytes in one line, control characters replaced.
pub(super) fn printable(bytes: &[u8]) -> String {
    const LONGEST: usize = 80;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
