//! Parses a part's field name and Content-Type with actix-multipart. A part without a Content-Type, or with a plain one
//! such as `image/png`, has nothing to parse: both are what actix-multipart would return, but for 22 allocations.
//!
//! The crate is given a form of one part with a head of two lines, written here from values that are known to be valid.
//! The client's own head is not passed on, since actix-multipart refuses a whole part when the file's name is not
//! UTF-8, its `filename*` is malformed, a line is folded or its type is multipart. The crate sees one head at a time
//! and no content, so it cannot disagree with [`super::scan`] about where a part ends (its `Field` ends at a bare
//! `\r--boundary` and trusts a part's own Content-Length).

use std::sync::LazyLock;

use actix_multipart::Multipart;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};

/// The headers of the form that actix-multipart reads. The boundary is arbitrary: the form has no content.
static REQUEST: LazyLock<HeaderMap> = LazyLock::new(|| {
    let content_type = HeaderValue::from_static("multipart/form-data; boundary=x");
    HeaderMap::from_iter([(CONTENT_TYPE, content_type)])
});
/// The start of that form: its delimiter, and its part's head up to the field name.
const FORM_START: &[u8] = b"--x\r\nContent-Disposition: form-data; name=\"";

/// A part's field name and media type, as actix-multipart reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldHead {
    pub name: String,
    pub content_type: Option<String>,
}

/// Parses the field name `name` and the value of a Content-Type; `None` if actix-multipart refuses the part.
pub fn parse(name: String, content_type: Option<&[u8]>) -> Option<FieldHead> {
    let content_type = content_type.and_then(|value| std::str::from_utf8(value).ok());
    let is_printable = |value: &&str| value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let content_type = content_type.filter(is_printable);
    if let Some(parsed) = content_type.filter(|content_type| !is_plain(content_type)) {
        return parse_typed(&name, parsed);
    }
    let content_type = content_type.map(ToOwned::to_owned);
    Some(FieldHead { name: without_control_characters(name), content_type })
}

/// Whether a media type has no parameters and is written as [`mime_guess::Mime`] writes it.
fn is_plain(content_type: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_plain);
    content_type.split_once('/').is_some_and(|(kind, subtype)| is_name(kind) && is_name(subtype))
}

fn parse_typed(name: &str, content_type: &str) -> Option<FieldHead> {
    let form = Ok::<Bytes, PayloadError>(form(name, content_type).into());
    let field = Multipart::new(&REQUEST, stream::iter([form]).chain(stream::pending()))
        .next()
        .now_or_never()
        .flatten()
        .and_then(Result::ok)?;
    Some(FieldHead {
        name: field.name().unwrap_or_default().to_owned(),
        content_type: field.content_type().map(ToString::to_string),
    })
}

/// Each control character of ASCII is a space: a line break would end the header.
fn without_control_characters(name: String) -> String {
    let is_control = |character: char| character.is_ascii_control();
    if name.contains(is_control) { name.replace(is_control, " ") } else { name }
}

/// A form up to the content of its one part.
fn form(name: &str, content_type: &str) -> Vec<u8> {
    const TYPE: &[u8] = b"\"\r\nContent-Type: ";
    let length = FORM_START.len() + name.len() + TYPE.len() + content_type.len() + 4;
    let mut form = Vec::with_capacity(length);
    form.extend_from_slice(FORM_START);
    for byte in name.bytes() {
        match byte {
            b'"' | b'\\' => form.extend_from_slice(&[b'\\', byte]),
            byte if byte.is_ascii_control() => form.push(b' '),
            byte => form.push(byte),
        }
    }
    form.extend_from_slice(TYPE);
    form.extend_from_slice(content_type.as_bytes());
    form.extend_from_slice(b"\r\n\r\n");
    form
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(name: &str, content_type: Option<&str>) -> Option<FieldHead> {
        parse(name.to_owned(), content_type.map(str::as_bytes))
    }

    #[test]
    fn names_and_types_are_read_as_actix_multipart_reads_them() {
        let head = read("file", Some("Text/Plain; charset=UTF-8")).unwrap();
        assert_eq!(head.name, "file");
        assert_eq!(head.content_type.as_deref(), Some("text/plain; charset=utf-8"));
        let head = read("a \"b\" \\ \n中", None).unwrap();
        assert_eq!(head, FieldHead { name: "a \"b\" \\  中".to_owned(), content_type: None });
        let typed = read("a \"b\" \\ \n中", Some("text/plain")).unwrap();
        assert_eq!(typed.name, head.name, "with and without a type");
        assert_eq!(read("file", Some("image/中")).unwrap().content_type, None);
    }

    #[test]
    fn types_are_plain_where_nothing_is_to_be_changed() {
        for plain in ["image/png", "application/vnd.ms-excel", "audio/x-m4a", "video/3gpp"] {
            assert!(is_plain(plain), "{plain}");
            assert_eq!(read("f", Some(plain)).unwrap().content_type.as_deref(), Some(plain));
        }
        for parsed in ["", "image", "image/", "/png", "Image/png", "a/b/c", "a/b;c=d", "a/b c"] {
            assert!(!is_plain(parsed), "{parsed}");
        }
    }

    proptest! {
        /// Whatever is not parsed is what the library would have made of it.
        #[test]
        fn a_plain_type_is_what_actix_multipart_returns(
            name in "[ -~\n\u{e9}]{0,12}",
            content_type in "[a-z0-9.-]{1,10}/[a-z0-9.-]{1,10}",
        ) {
            prop_assert!(is_plain(&content_type));
            prop_assert_eq!(read(&name, Some(&content_type)), parse_typed(&name, &content_type));
        }
    }
}
