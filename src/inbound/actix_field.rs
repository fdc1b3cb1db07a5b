//! Parses a part's field name and Content-Type with actix-multipart.
//!
//! The crate is given a form of one part with a head of two lines, written here from values that are known to be valid.
//! The client's own head is not passed on, since actix-multipart refuses a whole part when the file's name is not
//! UTF-8, its `filename*` is malformed, a line is folded or its type is multipart. The crate sees one head at a time
//! and no content, so it cannot disagree with [`super::scan`] about where a part ends (its `Field` ends at a bare
//! `\r--boundary` and trusts a part's own Content-Length).
//!
//! Without the file's name and length, the heads of most forms are the same, so the results are cached: parsing them
//! took a tenth of a small upload's instructions.

use std::cell::RefCell;
use std::collections::HashMap;
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

/// The number of heads in a worker's cache.
const MAX_CACHED: usize = 64;
/// The longest head that is cached, in bytes.
const MAX_CACHED_LENGTH: usize = 512;

thread_local! {
    static CACHE: RefCell<HashMap<Vec<u8>, FieldHead>> = RefCell::default();
}

/// A part's field name and media type, as actix-multipart reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldHead {
    pub name: String,
    pub content_type: Option<String>,
}

/// Parses the field name `name` and the value of a Content-Type; `None` if actix-multipart refuses the part.
pub fn parse(name: &str, content_type: Option<&[u8]>) -> Option<FieldHead> {
    let form = form(name, content_type);
    match CACHE.with_borrow(|cache| cache.get(&form).cloned()) {
        Some(head) => Some(head),
        None => parse_and_cache(form),
    }
}

/// A form up to the content of its one part.
fn form(name: &str, content_type: Option<&[u8]>) -> Vec<u8> {
    const TYPE: &[u8] = b"\"\r\nContent-Type: ";
    let length =
        FORM_START.len() + name.len() + TYPE.len() + content_type.map_or(0, <[u8]>::len) + 4;
    let mut form = Vec::with_capacity(length);
    form.extend_from_slice(FORM_START);
    for byte in name.bytes() {
        match byte {
            b'"' | b'\\' => form.extend_from_slice(&[b'\\', byte]),
            0..=31 | 127 => form.push(b' '),
            _ => form.push(byte),
        }
    }
    match content_type.filter(|value| value.iter().all(|byte| (b' '..=b'~').contains(byte))) {
        Some(value) => {
            form.extend_from_slice(TYPE);
            form.extend_from_slice(value);
        }
        None => form.push(b'"'),
    }
    form.extend_from_slice(b"\r\n\r\n");
    form
}

fn parse_and_cache(form: Vec<u8>) -> Option<FieldHead> {
    let head = parse_form(&form)?;
    if form.len() <= MAX_CACHED_LENGTH {
        CACHE.with_borrow_mut(|cache| {
            // The names are random, or the pages have changed their forms.
            if cache.len() == MAX_CACHED {
                cache.clear();
            }
            cache.insert(form, head.clone());
        });
    }
    Some(head)
}

fn parse_form(form: &[u8]) -> Option<FieldHead> {
    let chunk = Bytes::copy_from_slice(form);
    let body = stream::iter([Ok::<Bytes, PayloadError>(chunk)]);
    let field = Multipart::new(&REQUEST, body.chain(stream::pending()))
        .next()
        .now_or_never()
        .flatten()
        .and_then(Result::ok)?;
    Some(FieldHead {
        name: field.name().unwrap_or_default().to_owned(),
        content_type: field.content_type().map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_heads_are_cached_once_and_the_cache_is_bounded() {
        let cached = || CACHE.with_borrow(HashMap::len);
        let before = cached();
        for _ in 0..4 {
            let head = parse("file", Some(b"Text/Plain; charset=UTF-8")).unwrap();
            assert_eq!(head.name, "file");
            assert_eq!(head.content_type.as_deref(), Some("text/plain; charset=utf-8"));
        }
        assert_eq!(cached(), before + 1);

        for number in 0..2 * MAX_CACHED {
            parse(&format!("f{number}"), Some(b"image/png")).unwrap();
            parse(&format!("{number:MAX_CACHED_LENGTH$}"), Some(b"image/png")).unwrap();
        }
        assert!((1..=MAX_CACHED).contains(&cached()));
        CACHE.with_borrow(|cache| {
            assert!(cache.keys().all(|form| form.len() <= MAX_CACHED_LENGTH));
        });
    }
}
