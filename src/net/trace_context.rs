//! W3C Trace Context: the `traceparent` that a client's request has, and that requests to the owner's servers get.

use std::fmt;

/// The header's name.
pub const TRACEPARENT: &str = "traceparent";

/// Characters of a `traceparent` of version 00: four fields of hex digits, and three dashes.
const LENGTH: usize = 55;

/// A valid `traceparent`. The gateway passes it on as it is: only a sender that records spans of its own may replace the
/// parent's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Not zero.
    pub trace_id: u128,
    /// Not zero.
    pub parent_id: u64,
    pub flags: u8,
}

impl TraceContext {
    /// `None`: not valid, so that the receiver must not use it (W3C Trace Context, 3.2.2.3).
    pub fn parse(value: &[u8]) -> Option<Self> {
        let known = value.get(..LENGTH)?;
        let [version, trace_id, parent_id, flags] =
            [&known[..2], &known[3..35], &known[36..52], &known[53..]].map(hex);
        let (version, trace_id, parent_id) = (version?, trace_id?, parent_id?);
        // A later version may have more fields.
        let rest = &value[LENGTH..];
        let is_complete = rest.is_empty() || (version > 0 && rest[0] == b'-');
        let has_dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        if !is_complete || !has_dashes || version == 0xff || trace_id == 0 || parent_id == 0 {
            return None;
        }
        Some(Self {
            trace_id,
            parent_id: u64::try_from(parent_id).ok()?,
            flags: u8::try_from(flags?).ok()?,
        })
    }

    /// The id as logs have it.
    pub fn trace_id_text(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

/// The header's value, in version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, parent_id, flags } = self;
        write!(f, "00-{trace_id:032x}-{parent_id:016x}-{flags:02x}")
    }
}

/// Lower-case hex digits only: the standard allows no others.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_header_is_passed_on_unchanged() {
        let context = TraceContext::parse(VALID.as_bytes()).unwrap();
        assert_eq!(context.to_string(), VALID);
        assert_eq!(context.trace_id_text(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let later = format!("01{}-more", &VALID[2..]);
        assert_eq!(TraceContext::parse(later.as_bytes()), Some(context));
    }

    #[test]
    fn other_headers_are_ignored() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_parent = format!("{}-{}-01", &VALID[..35], "0".repeat(16));
        for value in [
            "",
            &VALID[..54],
            &VALID.to_uppercase(),
            &format!("{VALID}-more"),
            &format!("{VALID} "),
            &format!("ff{}", &VALID[2..]),
            &format!("01{}more", &VALID[2..]),
            &VALID.replace('-', "_"),
            &VALID.replace('b', "g"),
            &zero_trace,
            &zero_parent,
        ] {
            assert_eq!(TraceContext::parse(value.as_bytes()), None, "{value}");
        }
    }
}
