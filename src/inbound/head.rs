//! One part's head: actix-multipart parses it, the file's name is decoded here from the raw bytes.
//!
//! The parser is shown a stand-in of the same length in which nothing can trip it: it refuses a whole part when the
//! file's name is not UTF-8 or its `filename*` is odd, and it drops the backslashes of Windows paths. It sees one head
//! at a time and no content, so it cannot disagree with our scanner about where a part ends (its `Field` ends at a
//! bare `\r--boundary` and trusts a part's own Content-Length).

use std::ops::Range;
use std::sync::LazyLock;

use actix_multipart::Multipart;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::Bytes;
use encoding_rs::{Encoding, GB18030};
use futures::{FutureExt, StreamExt, stream};
use percent_encoding::percent_decode;

use super::InboundError;

/// What a part says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHead {
    /// The form field's name.
    pub field: String,
    /// The file's name without any folder; `Some("")` when it was given and empty, `None` when it was not given.
    pub file_name: Option<String>,
    /// The declared media type.
    pub content_type: Option<String>,
    /// The part's own Content-Length, which OkHttp sends.
    pub length: Option<u64>,
}

impl PartHead {
    /// A part is a file when it has a file name or is called `file`.
    pub fn is_file(&self) -> bool {
        self.file_name.is_some() || self.field == "file"
    }
}

/// The headers of the form that the parser is shown: one part, whose boundary is as good as any.
static REQUEST: LazyLock<HeaderMap> = LazyLock::new(|| {
    let content_type = HeaderValue::from_static("multipart/form-data; boundary=x");
    HeaderMap::from_iter([(CONTENT_TYPE, content_type)])
});
const BOUNDARY: &[u8] = b"--x\r\n";

/// Parses the bytes between a part's delimiter line and its content (both line breaks included).
pub fn parse(raw: &[u8]) -> Result<PartHead, InboundError> {
    let shown = StandIn::of(raw);
    let framed = Bytes::from([BOUNDARY, &shown.head].concat());
    let once = stream::iter([Ok::<Bytes, actix_web::error::PayloadError>(framed)]);
    let field = Multipart::new(&REQUEST, once.chain(stream::pending()))
        .next()
        .now_or_never()
        .flatten()
        .and_then(Result::ok)
        .ok_or(InboundError::Malformed(
            "a part's headers cannot be read: each needs `Content-Disposition: form-data; name=\"…\"`",
        ))?;

    let length = match field.headers().get(CONTENT_LENGTH) {
        None => None,
        Some(value) => Some(
            value
                .to_str()
                .ok()
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok())
                .ok_or(InboundError::Malformed("a part's Content-Length is not a number"))?,
        ),
    };
    Ok(PartHead {
        field: field.name().unwrap_or_default().to_owned(),
        file_name: shown.file_name,
        content_type: field.content_type().map(ToString::to_string),
        length,
    })
}

/// A head with the file's name taken out.
struct StandIn {
    head: Vec<u8>,
    file_name: Option<String>,
}

impl StandIn {
    fn of(raw: &[u8]) -> Self {
        let mut head = raw.to_vec();
        let (mut plain, mut extended) = (None, None);
        for (range, starred) in file_name_values(raw) {
            let value = &raw[range.clone()];
            if starred {
                extended = extended.or_else(|| decode_extended(value));
                // The star goes too: `filename*=xxx` would be parsed as an extended value again.
                head[range.start - 2] = b'x';
            } else {
                plain.get_or_insert_with(|| decode_plain(value));
            }
            head[range].fill(b'x');
        }
        if std::str::from_utf8(&head).is_err() {
            head.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'x');
        }
        Self { head, file_name: extended.or(plain) }
    }
}

/// Where the values of `filename` and `filename*` (true) stand in a head's Content-Disposition, without quotes.
fn file_name_values(raw: &[u8]) -> Vec<(Range<usize>, bool)> {
    const NAME: &[u8] = b"content-disposition:";
    let mut found = Vec::new();
    let mut start = 0;
    for line in raw.split_inclusive(|byte| *byte == b'\n') {
        let end = start + line.trim_ascii_end().len();
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            let mut at = start + NAME.len();
            while let Some(parameter) = next_parameter(raw, &mut at, end) {
                let name = raw[parameter.name].trim_ascii();
                if name.eq_ignore_ascii_case(b"filename") {
                    found.push((parameter.value, false));
                } else if name.eq_ignore_ascii_case(b"filename*")
                    && raw[..parameter.value.start].ends_with(b"*=")
                {
                    found.push((parameter.value, true));
                }
            }
            break;
        }
        start += line.len();
    }
    found
}

struct Parameter {
    name: Range<usize>,
    value: Range<usize>,
}

/// The next `name=value` behind a semicolon, looking from `at`; moves `at` behind it.
fn next_parameter(raw: &[u8], at: &mut usize, end: usize) -> Option<Parameter> {
    let semicolon = *at + raw[*at..end].iter().position(|byte| *byte == b';')?;
    let equals = semicolon + raw[semicolon..end].iter().position(|byte| *byte == b'=')?;
    let name = semicolon + 1..equals;
    let value = if raw.get(equals + 1) == Some(&b'"') && equals + 2 <= end {
        let open = equals + 2;
        let close = closing_quote(&raw[open..end]).map_or(end, |length| open + length);
        *at = (close + 1).min(end);
        open..close
    } else {
        let length = raw[equals + 1..end].iter().position(|byte| *byte == b';');
        let close = length.map_or(end, |length| equals + 1 + length);
        *at = close;
        equals + 1..close
    };
    Some(Parameter { name, value })
}

/// Only `\"` is an escape: Windows paths come with bare backslashes. Where that leaves no closing quote, the path
/// itself ended in a backslash.
fn closing_quote(value: &[u8]) -> Option<usize> {
    let unescaped = (0..value.len())
        .find(|&index| value[index] == b'"' && (index == 0 || value[index - 1] != b'\\'));
    unescaped.or_else(|| value.iter().rposition(|byte| *byte == b'"'))
}

fn decode_plain(value: &[u8]) -> String {
    let text = match std::str::from_utf8(value) {
        Ok(text) => text.replace("\\\"", "\""),
        // What is not UTF-8 comes from old Chinese Windows clients.
        Err(_) => GB18030.decode_without_bom_handling(value).0.replace("\\\"", "\""),
    };
    base_name(&unescape_percent(&text))
}

/// Browsers encode only quotes and line breaks, aiohttp every byte that is not unreserved. A name with a character
/// that the latter would have encoded was not encoded throughout.
fn unescape_percent(text: &str) -> String {
    let throughout =
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%-_.~/".contains(&byte));
    match percent_decode(text.as_bytes()).decode_utf8() {
        Ok(decoded) if throughout => decoded.into_owned(),
        _ => text.replace("%22", "\"").replace("%0D", "").replace("%0A", ""),
    }
}

/// RFC 5987: `charset'language'percent-encoded`.
fn decode_extended(value: &[u8]) -> Option<String> {
    let mut pieces = value.trim_ascii().splitn(3, |byte| *byte == b'\'');
    let charset = Encoding::for_label(pieces.next()?)?;
    let encoded = pieces.nth(1)?;
    let bytes: Vec<u8> = percent_decode(encoded).collect();
    Some(base_name(&charset.decode_without_bom_handling(&bytes).0))
}

fn base_name(path: &str) -> String {
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    name.chars().filter(|character| !character.is_control()).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(disposition: &[u8]) -> Result<PartHead, InboundError> {
        let mut raw = b"Content-Disposition: form-data; ".to_vec();
        raw.extend_from_slice(disposition);
        raw.extend_from_slice(b"\r\nContent-Type: image/png\r\n\r\n");
        parse(&raw)
    }

    fn name(disposition: &[u8]) -> String {
        parsed(disposition).unwrap().file_name.unwrap()
    }

    #[test]
    fn file_names_as_clients_send_them() {
        assert_eq!(
            name("name=\"file\"; filename=\"报告 最终版.pdf\"".as_bytes()),
            "报告 最终版.pdf"
        );
        assert_eq!(name(b"name=\"file\"; filename=\"C:\\Users\\me\\x.png\""), "x.png");
        assert_eq!(name(b"name=\"file\"; filename=\"C:\\dir\\\""), "");
        assert_eq!(name(b"name=\"file\"; filename=\"a%22b.png\""), "a\"b.png");
        assert_eq!(name(b"name=\"file\"; filename=\"a\\\"b.png\""), "a\"b.png");
        assert_eq!(name(b"name=\"file\"; filename=\"100% sure.png\""), "100% sure.png");
        assert_eq!(name(b"name=\"file\"; filename=\"%E6%8A%A5%20x.pdf\""), "报 x.pdf");
        assert_eq!(name(b"name=\"file\"; filename=\"..%2F..%2Fetc%2Fpasswd\""), "passwd");
        assert_eq!(
            name(b"name=\"file\"; filename=\"x.pdf\"; filename*=UTF-8''%E6%8A%A5.pdf"),
            "报.pdf"
        );
        assert_eq!(name(b"name=\"file\"; filename*=bad; filename=x.pdf"), "x.pdf");
        assert_eq!(name(b"filename=\"\"; name=\"file\""), "");
        assert_eq!(name(b"name=\"file\"; filename=\"\xb1\xa8\xb8\xe6.doc\""), "报告.doc");
        assert_eq!(
            name(b"name=\"file\"; filename=\"\xff\xfe.doc\"").rsplit('.').next(),
            Some("doc")
        );
    }

    #[test]
    fn a_part_is_a_file_by_its_name_or_its_field() {
        assert!(parsed(b"name=\"anything\"; filename=\"x\"").unwrap().is_file());
        assert!(parsed(b"name=\"file\"").unwrap().is_file());
        assert!(!parsed(b"name=\"path\"").unwrap().is_file());
        assert_eq!(parsed(b"name=\"f; filename=x\"").unwrap().field, "f; filename=x");
    }

    #[test]
    fn a_head_without_a_field_name_is_refused() {
        assert!(matches!(parsed(b"filename=\"x\""), Err(InboundError::Malformed(_))));
    }

    proptest! {
        /// Whatever a strangers' header holds, a name is one segment of a path in one line.
        #[test]
        fn names_stay_names(
            pieces in proptest::collection::vec(0usize..16, 0..24),
            raw in proptest::collection::vec(any::<u8>(), 0..16),
        ) {
            let tokens: [&[u8]; 16] = [
                b"filename=", b"filename*=", b"name=", b"\"", b"\\", b"/", b";", b"=", b"%2F", b"%22",
                b"UTF-8''", b"GBK''", b"\xb1\xa8", b"..", b" ", &raw,
            ];
            let disposition: Vec<u8> =
                pieces.iter().flat_map(|piece| tokens[*piece].iter().copied()).collect();
            for start in [b"name=\"file\"; ".as_slice(), b""] {
                if let Ok(PartHead { file_name: Some(name), .. }) = parsed(&[start, &disposition].concat()) {
                    prop_assert!(!name.contains(['/', '\\']) && !name.contains(char::is_control));
                }
            }
        }
    }
}
