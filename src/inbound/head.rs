//! One part's head: its lines are read here, leniently; actix-multipart judges what is left of them.
//!
//! The parser is shown a stand-in of two lines, in which nothing can trip it: it refuses a whole part when the file's name
//! is not UTF-8, its `filename*` is odd, a line is folded or its type is multipart. It sees one head at a time and no
//! content, so it cannot disagree with our scanner about where a part ends (its `Field` ends at a bare `\r--boundary`
//! and trusts a part's own Content-Length).
//!
//! Without the file's name and length the heads of one form are those of the next, so what the parser said of them is
//! remembered: it was a tenth of a small upload's instructions.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::LazyLock;

use actix_multipart::Multipart;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};

use super::disposition::Disposition;
use super::encoding::TransferEncoding;
use super::text::printable;

/// What a part says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartHead {
    /// The form field's name.
    pub field: String,
    /// The file's name without any folder; `Some("")` when it was given and empty, `None` when it was not given.
    pub file_name: Option<String>,
    /// The declared media type; `None` where none is declared or where it says nothing of the content: multipart.
    pub content_type: Option<String>,
    /// Whether there is a Content-Type at all.
    pub is_typed: bool,
    /// The part's own Content-Length, which OkHttp sends.
    pub length: Option<u64>,
    /// The part's Content-Transfer-Encoding.
    pub transfer_encoding: TransferEncoding,
    /// The part's Content-Encoding, where it is one that changes the bytes.
    pub compression: Option<String>,
}

impl PartHead {
    /// A part is a file when it has a file name, or is called `file` and has a Content-Type. Text that a page appended
    /// under that name has none.
    pub fn is_file(&self) -> bool {
        self.file_name.is_some() || (self.field == "file" && self.is_typed)
    }

    /// Whether its type is one that no text has.
    pub fn is_binary(&self) -> bool {
        self.content_type.as_deref().is_some_and(|kind| !kind.starts_with("text/"))
    }

    /// Whether its type is one of pictures, sounds or videos, which no text field has.
    pub fn is_media(&self) -> bool {
        let kind = self.content_type.as_deref().and_then(|kind| kind.split('/').next());
        matches!(kind, Some("image" | "audio" | "video"))
    }
}

/// Why a part's head cannot be read. Lines are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    #[error(
        "line {0} of its headers is no `Name: value`; an empty line must stand between the headers and the content"
    )]
    Line(usize),
    #[error("a boundary stands within its headers, which must end in an empty line")]
    Unended,
    #[error("it has no Content-Disposition header, which must be `form-data; name=\"…\"`")]
    NoDisposition,
    #[error("its Content-Disposition has no `name`: `form-data; name=\"…\"` is needed")]
    NoName,
    #[error("its Content-Length is not a number")]
    Length,
    #[error("it is a {0} of parts of its own: send each file as a part of the form instead")]
    Nested(String),
    #[error("its Content-Disposition cannot be read: `form-data; name=\"…\"` is needed")]
    Unreadable,
}

/// The headers of the form that the parser is shown: one part, whose boundary is as good as any.
static REQUEST: LazyLock<HeaderMap> = LazyLock::new(|| {
    let content_type = HeaderValue::from_static("multipart/form-data; boundary=x");
    HeaderMap::from_iter([(CONTENT_TYPE, content_type)])
});
/// With its delimiter line.
const STAND_IN: &[u8] = b"--x\r\nContent-Disposition: form-data; name=\"";

/// So many heads are remembered by a worker,
const REMEMBERED: usize = 64;
/// and none that is longer.
const MEMORABLE: usize = 512;

thread_local! {
    static KNOWN: RefCell<HashMap<Vec<u8>, Parsed>> = RefCell::default();
}

/// Parses the bytes between a part's delimiter line and its content (both line breaks included).
pub fn parse(raw: &[u8]) -> Result<PartHead, HeadFault> {
    let raw = unfold(raw);
    let lines = Lines::of(&raw)?;
    let Disposition { name, file_name } =
        Disposition::of(lines.disposition.ok_or(HeadFault::NoDisposition)?);
    let name = name.filter(|name| !name.is_empty()).ok_or(HeadFault::NoName)?;
    let declared = lines.content_type.filter(|value| !value.is_empty());
    let multipart = declared.and_then(multipart_subtype);
    if let (Some(subtype), None) = (multipart, &file_name)
        && !subtype.eq_ignore_ascii_case(b"form-data")
    {
        return Err(HeadFault::Nested(format!("multipart/{}", printable(subtype))));
    }
    let stand_in = stand_in(&name, declared.filter(|_| multipart.is_none()));
    let Parsed { field, content_type } =
        match KNOWN.with_borrow(|known| known.get(&stand_in).cloned()) {
            Some(parsed) => parsed,
            None => remembered(stand_in)?,
        };
    Ok(PartHead {
        field,
        file_name,
        content_type,
        is_typed: declared.is_some(),
        length: lines.length.map(number).transpose()?,
        transfer_encoding: lines.transfer_encoding,
        compression: lines.compression,
    })
}

/// `raw` with each line that was folded (RFC 5322 2.2.3) in one piece.
fn unfold(raw: &[u8]) -> Cow<'_, [u8]> {
    let folds = |at: usize| matches!(raw.get(at + 1), Some(b' ' | b'\t'));
    if !memchr::memchr_iter(b'\n', raw).any(folds) {
        return Cow::Borrowed(raw);
    }
    let mut unfolded = Vec::with_capacity(raw.len());
    for line in raw.split_inclusive(|byte| *byte == b'\n') {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            let end = unfolded.trim_ascii_end().len();
            unfolded.truncate(end);
            if end > 0 {
                unfolded.push(b' ');
            }
            unfolded.extend_from_slice(line.trim_ascii_start());
            // The line was blank, but for what folds it.
            if !unfolded.ends_with(b"\n") {
                unfolded.extend_from_slice(b"\r\n");
            }
        } else {
            unfolded.extend_from_slice(line);
        }
    }
    Cow::Owned(unfolded)
}

/// The lines of a head that matter here; of several the first.
#[derive(Default)]
struct Lines<'a> {
    disposition: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    transfer_encoding: TransferEncoding,
    compression: Option<String>,
}

impl<'a> Lines<'a> {
    fn of(raw: &'a [u8]) -> Result<Self, HeadFault> {
        let mut found = Self::default();
        for (index, line) in raw.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let fault = || match line.starts_with(b"--") {
                true => HeadFault::Unended,
                false => HeadFault::Line(index + 1),
            };
            let colon = memchr::memchr(b':', line).ok_or_else(fault)?;
            let (name, value) = (line[..colon].trim_ascii_end(), line[colon + 1..].trim_ascii());
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            if is(b"content-disposition") {
                found.disposition.get_or_insert(value);
            } else if is(b"content-type") {
                found.content_type.get_or_insert(value);
            } else if is(b"content-length") {
                found.length.get_or_insert(value);
            } else if is(b"content-transfer-encoding") {
                if found.transfer_encoding == TransferEncoding::Identity {
                    found.transfer_encoding = TransferEncoding::of(value);
                }
            } else if is(b"content-encoding") {
                found.compression = found.compression.or_else(|| compression(value));
            } else if HeaderName::from_bytes(name).is_err() {
                return Err(fault());
            }
        }
        Ok(found)
    }
}

/// A Content-Encoding that changes the bytes. Senders also put a charset there, which does not.
fn compression(value: &[u8]) -> Option<String> {
    const CODINGS: [&str; 8] =
        ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "aws-chunked"];
    let name = printable(value);
    let mut codings = name.split(',').map(str::trim);
    codings
        .any(|coding| CODINGS.iter().any(|known| coding.eq_ignore_ascii_case(known)))
        .then_some(name)
}

fn number(digits: &[u8]) -> Result<u64, HeadFault> {
    let digits = std::str::from_utf8(digits).ok();
    digits
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or(HeadFault::Length)
}

/// The subtype of a multipart media type.
fn multipart_subtype(content_type: &[u8]) -> Option<&[u8]> {
    let (kind, subtype) = content_type.split_at_checked(b"multipart/".len())?;
    let end = subtype.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t'));
    kind.eq_ignore_ascii_case(b"multipart/").then(|| &subtype[..end.unwrap_or(subtype.len())])
}

/// A head of the same field and type.
fn stand_in(name: &str, content_type: Option<&[u8]>) -> Vec<u8> {
    const TYPE: &[u8] = b"\"\r\nContent-Type: ";
    let length = STAND_IN.len() + name.len() + TYPE.len() + content_type.map_or(0, <[u8]>::len) + 4;
    let mut head = Vec::with_capacity(length);
    head.extend_from_slice(STAND_IN);
    for byte in name.bytes() {
        match byte {
            b'"' | b'\\' => head.extend_from_slice(&[b'\\', byte]),
            0..=31 | 127 => head.push(b' '),
            _ => head.push(byte),
        }
    }
    match content_type.filter(|value| value.iter().all(|byte| (b' '..=b'~').contains(byte))) {
        Some(value) => {
            head.extend_from_slice(TYPE);
            head.extend_from_slice(value);
        }
        None => head.push(b'"'),
    }
    head.extend_from_slice(b"\r\n\r\n");
    head
}

/// What the parser finds in a head.
#[derive(Clone)]
struct Parsed {
    field: String,
    content_type: Option<String>,
}

/// Parses a head, and remembers what was found.
fn remembered(head: Vec<u8>) -> Result<Parsed, HeadFault> {
    let parsed = parsed(&head)?;
    if head.len() <= MEMORABLE {
        KNOWN.with_borrow_mut(|known| {
            // The names were made up, or the forms have changed.
            if known.len() == REMEMBERED {
                known.clear();
            }
            known.insert(head, parsed.clone());
        });
    }
    Ok(parsed)
}

fn parsed(head: &[u8]) -> Result<Parsed, HeadFault> {
    let framed = Bytes::copy_from_slice(head);
    let once = stream::iter([Ok::<Bytes, actix_web::error::PayloadError>(framed)]);
    let field = Multipart::new(&REQUEST, once.chain(stream::pending()))
        .next()
        .now_or_never()
        .flatten()
        .and_then(Result::ok)
        .ok_or(HeadFault::Unreadable)?;
    Ok(Parsed {
        field: field.name().unwrap_or_default().to_owned(),
        content_type: field.content_type().map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part(disposition: &[u8]) -> Result<PartHead, HeadFault> {
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
        assert!(part(b"name=\"photo\"; filename*=").unwrap().is_file());
        let untyped = parse(b"Content-Disposition: form-data; name=\"file\"\r\n\r\n").unwrap();
        assert!(!untyped.is_file());
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
                is_typed: true,
                length: Some(length),
                ..PartHead::default()
            };
            assert_eq!(head(name, &length.to_string()).unwrap(), expected);
        }
        assert_eq!(known(), before + 1);
        for length in ["", "-1", "1 2", "0x1", "18446744073709551616"] {
            assert_eq!(head("a", length), Err(HeadFault::Length), "{length}");
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
        assert_eq!(part(b"filename=\"x\""), Err(HeadFault::NoName));
        assert_eq!(part(b"name=\"\"; filename=\"x\""), Err(HeadFault::NoName));
    }

    #[test]
    fn lines_as_senders_write_them() {
        let file = |head: &str| {
            let head = parse(format!("{head}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(head.field, "f");
            (head.file_name, head.content_type)
        };
        let expected = (Some("a b.png".to_owned()), Some("image/png".to_owned()));
        for head in [
            "Content-Disposition: form-data; name=\"f\"; filename=\"a b.png\"\r\nContent-Type: image/png",
            "Content-Disposition: form-data;\r\n name=\"f\";\r\n\tfilename=\"a b.png\"\r\nContent-Type:\r\n image/png",
            "content-type:image/png\r\nCONTENT-DISPOSITION:form-data;name=f;filename=\"a\r\n  b.png\"",
            "Content-Disposition : attachment; name=\"f\"; filename=\"a b.png\"\r\nContent-Type: image/png",
            "X-Mine: 1:2\nContent-Disposition: name=\"f\"; filename=\"a b.png\"\nContent-Type: image/png",
        ] {
            assert_eq!(file(head), expected, "{head}");
        }
        for kind in [
            "multipart/form-data",
            "Multipart/Form-Data; charset=utf-8",
            "multipart/mixed; boundary=x",
        ] {
            let disposition = "Content-Disposition: form-data; name=\"f\"; filename=\"x.png\"";
            let head = format!("{disposition}\r\nContent-Type: {kind}");
            assert_eq!(file(&head), (Some("x.png".to_owned()), None), "{kind}");
        }
        for kind in ["", "png", "/", "image/png\u{1}", "图片/png"] {
            let head =
                format!("Content-Disposition: form-data; name=\"f\"\r\nContent-Type: {kind}");
            assert_eq!(file(&head), (None, None), "{kind}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let disposition = "Content-Disposition: form-data; name=\"f\"";
        let nested = format!("{disposition}\r\nContent-Type: multipart/mixed; boundary=y");
        for (head, fault) in [
            (String::new(), HeadFault::NoDisposition),
            ("Content-Type: image/png".into(), HeadFault::NoDisposition),
            ("Content-Disposition: form-data".into(), HeadFault::NoName),
            (format!("{disposition}\r\nnonsense"), HeadFault::Line(2)),
            (format!("{disposition}\r\nA b: c"), HeadFault::Line(2)),
            (format!("{disposition}\r\n: c"), HeadFault::Line(2)),
            (format!("{disposition}\r\n--bo"), HeadFault::Unended),
            (nested, HeadFault::Nested("multipart/mixed".into())),
        ] {
            assert_eq!(parse(format!("{head}\r\n\r\n").as_bytes()), Err(fault), "{head}");
        }
    }

    #[test]
    fn encodings_of_a_part() {
        let head = |line: &str| {
            parse(
                format!("Content-Disposition: form-data; name=\"f\"\r\n{line}\r\n\r\n").as_bytes(),
            )
            .unwrap()
        };
        let encoding =
            |value: &str| head(&format!("Content-Transfer-Encoding: {value}")).transfer_encoding;
        assert_eq!(encoding("Base64 "), TransferEncoding::Base64);
        assert_eq!(encoding("BINARY"), TransferEncoding::Identity);
        assert_eq!(encoding("8bit\r\ncontent-transfer-encoding: base64"), TransferEncoding::Base64);
        assert_eq!(encoding("x-gzip64"), TransferEncoding::Other("x-gzip64".into()));
        assert_eq!(head("Content-Encoding: GZIP").compression.as_deref(), Some("GZIP"));
        assert_eq!(head("Content-Encoding: utf-8").compression, None);
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
