//! Finds where a request's head ends, and what the first bytes of a connection can be.

use memchr::memchr_iter;

/// The length of the head that `bytes` begin with, including its blank line. `from` is where the search resumes: what
/// [`resume_from`] returned for the same head with fewer bytes, or 0.
pub fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr_iter(b'\n', &bytes[from..]).find_map(|at| {
        let next = from + at + 1;
        match bytes[next..] {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        }
    })
}

/// Where [`find_end`] resumes once more bytes have been received, after it has not found an end in `bytes`.
pub fn resume_from(bytes: &[u8]) -> usize {
    bytes.len().saturating_sub(2)
}

/// The length of the line breaks in front of a request, which some clients send after the body before (RFC 9112, 2.2).
pub fn leading_line_breaks(bytes: &[u8]) -> usize {
    let mut length = 0;
    loop {
        match bytes[length..] {
            [b'\n', ..] => length += 1,
            [b'\r', b'\n', ..] => length += 2,
            _ => return length,
        }
    }
}

/// Whether the bytes begin TLS or HTTP/2 in plain text, whose clients cannot read an HTTP/1 response.
pub fn is_other_protocol(bytes: &[u8]) -> bool {
    const TLS_HANDSHAKE: u8 = 0x16;
    bytes.first() == Some(&TLS_HANDSHAKE) || bytes.starts_with(b"PRI * HTTP/2.0")
}

/// Whether the bytes can become a request line, which begins with a method and a space, or are the first half of a line
/// break in front of a request.
pub fn may_be_http(bytes: &[u8]) -> bool {
    const LONGEST_METHOD: usize = 64;
    if bytes == b"\r" {
        return true;
    }
    let method = bytes.iter().take_while(|byte| is_token_char(**byte)).count();
    (1..=LONGEST_METHOD).contains(&method) && matches!(bytes.get(method), None | Some(b' '))
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_head_is_cut() {
        let heads: [&[u8]; 2] =
            [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\nHost: a\n\n"];
        for head in heads {
            let all = [head, b"POST / HTTP/1.1\r\n\r\n"].concat();
            for cut in 0..all.len() {
                let end = find_end(&all[..cut], 0);
                assert_eq!(end, (cut >= head.len()).then_some(head.len()), "{cut}");
                if end.is_none() {
                    assert_eq!(find_end(&all, resume_from(&all[..cut])), Some(head.len()), "{cut}");
                }
            }
        }
        assert_eq!(leading_line_breaks(b"\r\n\n\r\nGET"), 5);
        assert_eq!(leading_line_breaks(b"\rGET"), 0);
    }

    #[test]
    fn other_protocols_are_recognized() {
        assert!(is_other_protocol(b"\x16\x03\x01\x02\x00"));
        assert!(is_other_protocol(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(!is_other_protocol(b"PRIVATE / HTTP/1.1\r\n"));
        let long = [b'a'; 65];
        let cases: [(&[u8], bool); 5] =
            [(b"G", true), (b"GET ", true), (b"\0", false), (b"GET\t/", false), (&long, false)];
        for (bytes, may) in cases {
            assert_eq!(may_be_http(bytes), may, "{bytes:?}");
        }
    }
}
