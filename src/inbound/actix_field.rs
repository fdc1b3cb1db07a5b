//! Parses a part's field name and Content-Type with actix-multipart. A part without a Content-Type has nothing to parse:
//! its name is what actix-multipart would return, but for 22 allocations.
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
pub fn parse(name: &str, content_type: Option<&[u8]>) -> Option<FieldHead> {
    let is_printable = |value: &&[u8]| value.iter().all(|byte| (b' '..=b'~').contains(byte));
    match content_type.filter(is_printable) {
        Some(content_type) => parse_typed(name, content_type),
        None => Some(FieldHead { name: without_control_characters(name), content_type: None }),
    }
}

fn parse_typed(name: &str, content_type: &[u8]) -> Option<FieldHead> {
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
fn without_control_characters(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_control() { ' ' } else { c }).collect()
}

/// A form up to the content of its one part.
fn form(name: &str, content_type: &[u8]) -> Vec<u8> {
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
    form.extend_from_slice(content_type);
    form.extend_from_slice(b"\r\n\r\n");
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_are_read_as_actix_multipart_reads_them() {
        let head = parse("file", Some(b"Text/Plain; charset=UTF-8")).unwrap();
        assert_eq!(head.name, "file");
        assert_eq!(head.content_type.as_deref(), Some("text/plain; charset=utf-8"));
        let head = parse("a \"b\" \\ \n中", None).unwrap();
        assert_eq!(head, FieldHead { name: "a \"b\" \\  中".to_owned(), content_type: None });
        let typed = parse("a \"b\" \\ \n中", Some(b"text/plain")).unwrap();
        assert_eq!(typed.name, head.name, "with and without a type");
        assert_eq!(parse("file", Some("image/中".as_bytes())).unwrap().content_type, None);
    }
}
