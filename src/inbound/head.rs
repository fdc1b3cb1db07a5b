//! One part's head: actix-multipart parses it, the file's name is decoded here from the raw bytes.
//!
//! The parser is shown a stand-in in which nothing can trip it: it refuses a whole part when the file's name is not UTF-8
//! or its `filename*` is odd, and it drops the backslashes of Windows paths. It sees one head at a time and no content, so
//! it cannot disagree with our scanner about where a part ends (its `Field` ends at a bare `\r--boundary` and trusts a
//! part's own Content-Length).
//!
//! Without the file's name and length the heads of one form are those of the next, so what the parser said of them is
//! remembered: it was a tenth of a small upload's instructions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

use actix_multipart::Multipart;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
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

/// So many heads are remembered by a worker,
const REMEMBERED: usize = 64;
/// and none that is longer.
const MEMORABLE: usize = 512;

thread_local! {
    static KNOWN: RefCell<HashMap<Vec<u8>, Parsed>> = RefCell::default();
}

/// Parses the bytes between a part's delimiter line and its content (both line breaks included).
pub fn parse(raw: &[u8]) -> Result<PartHead, InboundError> {
    let StandIn { head, file_name, length } = StandIn::of(raw);
    let Parsed { field, content_type } = match KNOWN.with_borrow(|known| known.get(&head).cloned())
    {
        Some(parsed) => parsed,
        None => remembered(head)?,
    };
    let length = length.map(|digits| {
        let digits = std::str::from_utf8(digits).ok();
        digits
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .ok_or(InboundError::Malformed("a part's Content-Length is not a number"))
    });
    Ok(PartHead { field, file_name, content_type, length: length.transpose()? })
}

/// What the parser finds in a head.
#[derive(Clone)]
struct Parsed {
    field: String,
    content_type: Option<String>,
}

/// Parses a head, and keeps it in mind.
fn remembered(head: Vec<u8>) -> Result<Parsed, InboundError> {
    let parsed = parsed(&head)?;
    if head.len() <= MEMORABLE {
        KNOWN.with_borrow_mut(|known| {
            // Made up by somebody, or the forms have changed.
            if known.len() == REMEMBERED {
                known.clear();
            }
            known.insert(head, parsed.clone());
        });
    }
    Ok(parsed)
}

fn parsed(head: &[u8]) -> Result<Parsed, InboundError> {
    let framed = Bytes::from([BOUNDARY, head].concat());
    let once = stream::iter([Ok::<Bytes, actix_web::error::PayloadError>(framed)]);
    let field = Multipart::new(&REQUEST, once.chain(stream::pending()))
        .next()
        .now_or_never()
        .flatten()
        .and_then(Result::ok)
        .ok_or(InboundError::Malformed(
            "a part's headers cannot be read: each needs `Content-Disposition: form-data; name=\"…\"`",
        ))?;
    Ok(Parsed {
        field: field.name().unwrap_or_default().to_owned(),
        content_type: field.content_type().map(ToString::to_string),
    })
}

/// A head with the file's name and length taken out.
struct StandIn<'a> {
    head: Vec<u8>,
    file_name: Option<String>,
    length: Option<&'a [u8]>,
}

impl<'a> StandIn<'a> {
    fn of(raw: &'a [u8]) -> Self {
        let mut head = Vec::with_capacity(raw.len());
        let (mut plain, mut extended, mut length) = (None, None, None);
        let mut copied = 0;
        for (range, taken) in values(raw) {
            let value = &raw[range.clone()];
            head.extend_from_slice(&raw[copied..range.start]);
            copied = range.end;
            match taken {
                Taken::Name => {
                    plain.get_or_insert_with(|| decode_plain(value));
                    head.push(b'x');
                }
                Taken::ExtendedName => {
                    extended = extended.or_else(|| decode_extended(value));
                    // Without the star: `filename*=x` would be parsed as an extended value again.
                    head.truncate(head.len() - b"*=".len());
                    head.extend_from_slice(b"=x");
                }
                Taken::Length => {
                    length = length.or(Some(value));
                    head.push(b'0');
                }
            }
        }
        head.extend_from_slice(&raw[copied..]);
        if std::str::from_utf8(&head).is_err() {
            head.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'x');
        }
        Self { head, file_name: extended.or(plain), length }
    }
}

/// A value that is taken out of a head.
enum Taken {
    Name,
    ExtendedName,
    Length,
}

/// Where the values of `filename` and `filename*`, without quotes, and of Content-Length stand in a head.
fn values(raw: &[u8]) -> Vec<(Range<usize>, Taken)> {
    let mut found = Vec::new();
    let mut disposed = false;
    let mut start = 0;
    for line in raw.split_inclusive(|byte| *byte == b'\n') {
        let end = start + line.trim_ascii_end().len();
        if let Some(behind) = behind_name(line, b"content-length:") {
            let value = start + behind..end.max(start + behind);
            let padding = value.len() - raw[value.clone()].trim_ascii_start().len();
            found.push((value.start + padding..value.end, Taken::Length));
        } else if let Some(behind) =
            behind_name(line, b"content-disposition:").filter(|_| !disposed)
        {
            disposed = true;
            let mut at = start + behind;
            while let Some(parameter) = next_parameter(raw, &mut at, end) {
                let name = raw[parameter.name].trim_ascii();
                if name.eq_ignore_ascii_case(b"filename") {
                    found.push((parameter.value, Taken::Name));
                } else if name.eq_ignore_ascii_case(b"filename*")
                    && raw[..parameter.value.start].ends_with(b"*=")
                {
                    found.push((parameter.value, Taken::ExtendedName));
                }
            }
        }
        start += line.len();
    }
    found
}

/// Where a header's value begins in its line, if it is the one of this name.
fn behind_name(line: &[u8], name: &[u8]) -> Option<usize> {
    let has_it = line.get(..name.len())?.eq_ignore_ascii_case(name);
    has_it.then_some(name.len())
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

    fn part(disposition: &[u8]) -> Result<PartHead, InboundError> {
        let mut raw = b"Content-Disposition: form-data; ".to_vec();
        raw.extend_from_slice(disposition);
        raw.extend_from_slice(b"\r\nContent-Type: image/png\r\n\r\n");
        parse(&raw)
    }

    fn name(disposition: &[u8]) -> String {
        part(disposition).unwrap().file_name.unwrap()
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
        assert!(part(b"name=\"anything\"; filename=\"x\"").unwrap().is_file());
        assert!(part(b"name=\"file\"").unwrap().is_file());
        assert!(!part(b"name=\"path\"").unwrap().is_file());
        assert_eq!(part(b"name=\"f; filename=x\"").unwrap().field, "f; filename=x");
    }

    #[test]
    fn the_parser_is_asked_once_for_heads_that_differ_by_name_and_length() {
        let known = || KNOWN.with_borrow(HashMap::len);
        let head = |name: &str, length: &str| {
            let raw = format!(
                "Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
                 Content-Type: Text/Plain; charset=UTF-8\r\ncontent-length: {length} \r\n\r\n"
            );
            parse(raw.as_bytes())
        };
        let before = known();
        for (name, length) in [("a.txt", 1), ("报告.txt", u64::MAX), ("", 0), ("a.txt", 1)] {
            let (field, content_type) = ("file".into(), Some("text/plain; charset=utf-8".into()));
            let expected = PartHead {
                field,
                file_name: Some(name.into()),
                content_type,
                length: Some(length),
            };
            assert_eq!(head(name, &length.to_string()).unwrap(), expected);
        }
        assert_eq!(known(), before + 1);
        for length in ["", "-1", "1 2", "0x1", "18446744073709551616"] {
            assert!(matches!(head("a", length), Err(InboundError::Malformed(_))), "{length}");
        }

        for number in 0..2 * REMEMBERED {
            part(format!("name=\"f{number}\"").as_bytes()).unwrap();
            part(format!("name=\"{number:MEMORABLE$}\"").as_bytes()).unwrap();
        }
        assert!((1..=REMEMBERED).contains(&known()));
        KNOWN.with_borrow(|known| assert!(known.keys().all(|head| head.len() <= MEMORABLE)));
    }

    #[test]
    fn a_head_without_a_field_name_is_refused() {
        assert!(matches!(part(b"filename=\"x\""), Err(InboundError::Malformed(_))));
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
                if let Ok(PartHead { file_name: Some(name), .. }) = part(&[start, &disposition].concat()) {
                    prop_assert!(!name.contains(['/', '\\']) && !name.contains(char::is_control));
                }
            }
        }
    }
}
