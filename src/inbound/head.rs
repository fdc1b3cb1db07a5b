//! Parses a part's headers leniently; the field name and the Content-Type are then read by actix-multipart.

use std::borrow::Cow;

use actix_web::http::header::HeaderName;

use super::actix_field::{self, FieldHead};
use super::disposition::Disposition;
use super::encoding::TransferEncoding;
use super::text::printable;

/// A part's headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartHead {
    /// The form field's name.
    pub field: String,
    /// The file's name without any folder; `Some("")` when it was given and is empty, `None` when it was not given.
    pub file_name: Option<String>,
    /// The declared media type; `None` where none is declared, or where it is multipart, which does not describe the
    /// file.
    pub content_type: Option<String>,
    /// Whether the part has a Content-Type with a value.
    pub is_typed: bool,
    /// The part's own Content-Length, which OkHttp sends.
    pub length: Option<u64>,
    /// The part's Content-Transfer-Encoding.
    pub transfer_encoding: TransferEncoding,
    /// The part's Content-Encoding, if it changes the bytes.
    pub compression: Option<String>,
}

impl PartHead {
    /// A part is a file when it has a file name, or is called `file` and has a Content-Type. Text that a page appends
    /// under that name has no Content-Type.
    pub fn is_file(&self) -> bool {
        self.file_name.is_some() || (self.field == "file" && self.is_typed)
    }

    /// Whether the part has a media type other than text.
    pub fn is_binary(&self) -> bool {
        self.content_type.as_deref().is_some_and(|kind| !kind.starts_with("text/"))
    }

    /// Whether the part is an image, audio or video, which no text field is.
    pub fn is_media(&self) -> bool {
        let kind = self.content_type.as_deref().and_then(|kind| kind.split('/').next());
        matches!(kind, Some("image" | "audio" | "video"))
    }
}

/// Why a part's head cannot be read. Lines are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    #[error(
        "line {0} of its headers is not `Name: value`; an empty line must separate the headers from the content"
    )]
    Line(usize),
    #[error("a boundary stands within its headers, which must end in an empty line")]
    Unterminated,
    #[error("it has no Content-Disposition header, which must be `form-data; name=\"…\"`")]
    NoDisposition,
    #[error("its Content-Disposition has no `name`: `form-data; name=\"…\"` is needed")]
    NoName,
    #[error("its Content-Length is not a number")]
    Length,
    #[error("it is a {0} with parts of its own: send each file as a part of the form instead")]
    Nested(String),
    #[error("its Content-Disposition cannot be read: `form-data; name=\"…\"` is needed")]
    Unreadable,
}

/// Parses the bytes between a part's delimiter line and its content (both line breaks included).
pub fn parse(raw: &[u8]) -> Result<PartHead, HeadFault> {
    let raw = unfold(raw);
    let lines = Lines::parse(&raw)?;
    let Disposition { name, file_name } =
        Disposition::parse(lines.disposition.ok_or(HeadFault::NoDisposition)?);
    let name = name.filter(|name| !name.is_empty()).ok_or(HeadFault::NoName)?;
    let declared = lines.content_type.filter(|value| !value.is_empty());
    let multipart = declared.and_then(multipart_subtype);
    if let (Some(subtype), None) = (multipart, &file_name)
        && !subtype.eq_ignore_ascii_case(b"form-data")
    {
        return Err(HeadFault::Nested(format!("multipart/{}", printable(subtype))));
    }
    let content_type = declared.filter(|_| multipart.is_none());
    let FieldHead { name: field, content_type } =
        actix_field::parse(name, content_type).ok_or(HeadFault::Unreadable)?;
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

/// `raw` with each folded line (RFC 5322 2.2.3) joined to one.
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
            // The line was only white space, so trimming also removed its line break.
            if !unfolded.ends_with(b"\n") {
                unfolded.extend_from_slice(b"\r\n");
            }
        } else {
            unfolded.extend_from_slice(line);
        }
    }
    Cow::Owned(unfolded)
}

/// The headers that matter here. Of a repeated one, the first counts.
#[derive(Default)]
struct Lines<'a> {
    disposition: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    transfer_encoding: TransferEncoding,
    compression: Option<String>,
}

impl<'a> Lines<'a> {
    fn parse(raw: &'a [u8]) -> Result<Self, HeadFault> {
        let mut found = Self::default();
        for (index, line) in raw.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let fault = || match line.starts_with(b"--") {
                true => HeadFault::Unterminated,
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
                    found.transfer_encoding = TransferEncoding::parse(value);
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

/// A Content-Encoding that changes the bytes. Some clients put a charset there, which does not.
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
    fn a_file_s_name_type_and_length_are_read() {
        let head = |name: &str, length: &str| {
            let raw = format!(
                "Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
                 Content-Type: Text/Plain; charset=UTF-8\r\ncontent-length: {length} \r\n\r\n"
            );
            parse(raw.as_bytes())
        };
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
        for length in ["", "-1", "1 2", "0x1", "18446744073709551616"] {
            assert_eq!(head("a", length), Err(HeadFault::Length), "{length}");
        }
    }

    #[test]
    fn a_head_without_a_field_name_is_refused() {
        assert_eq!(part(b"filename=\"x\""), Err(HeadFault::NoName));
        assert_eq!(part(b"name=\"\"; filename=\"x\""), Err(HeadFault::NoName));
    }

    #[test]
    fn headers_are_read_as_clients_send_them() {
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
    fn an_error_names_what_cannot_be_read() {
        let disposition = "Content-Disposition: form-data; name=\"f\"";
        let nested = format!("{disposition}\r\nContent-Type: multipart/mixed; boundary=y");
        for (head, fault) in [
            (String::new(), HeadFault::NoDisposition),
            ("Content-Type: image/png".into(), HeadFault::NoDisposition),
            ("Content-Disposition: form-data".into(), HeadFault::NoName),
            (format!("{disposition}\r\nnonsense"), HeadFault::Line(2)),
            (format!("{disposition}\r\nA b: c"), HeadFault::Line(2)),
            (format!("{disposition}\r\n: c"), HeadFault::Line(2)),
            (format!("{disposition}\r\n--bo"), HeadFault::Unterminated),
            (nested, HeadFault::Nested("multipart/mixed".into())),
        ] {
            assert_eq!(parse(format!("{head}\r\n\r\n").as_bytes()), Err(fault), "{head}");
        }
    }

    #[test]
    fn encodings_of_a_part_are_read() {
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
        /// Whatever a header contains, a file name is one segment of a path in one line.
        #[test]
        fn a_file_name_is_one_path_segment(
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
