//! The header `Retry-After` of a response.

use std::time::Duration;

use super::response::HeaderVisitor;

/// A response's `Retry-After` in seconds; dates are ignored.
#[derive(Default)]
pub struct RetryAfter(pub Option<Duration>);

impl HeaderVisitor for RetryAfter {
    fn visit(&mut self, name: &str, value: &[u8]) {
        if name.eq_ignore_ascii_case("retry-after") {
            let seconds = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
            self.0 = seconds.map(Duration::from_secs);
        }
    }
}
