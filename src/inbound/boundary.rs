//! Reads a form's boundary from the request's Content-Type: by RFC 9110 5.6.6, and in the forms that clients really
//! send.
//!
//! The media type must be multipart/form-data. Other mistakes in the header are tolerated without risk: a boundary that
//! was read wrongly does not occur in the body, and the form is refused.

use actix_web::http::header::{CONTENT_TYPE, HeaderMap};

use super::error::{BoundaryFault, InboundError, MAX_BOUNDARY};
use super::text::printable;

/// The boundary from a request's headers.
pub fn from_headers(request: &HeaderMap) -> Result<Vec<u8>, InboundError> {
    let mut is_form = false;
    let mut other = None;
    let mut found: Option<Vec<u8>> = None;
    for value in request.get_all(CONTENT_TYPE) {
        let (media_type, parameters) = split_type(value.as_bytes());
        if !media_type.eq_ignore_ascii_case(b"multipart/form-data") {
            other = other.or(Some(media_type));
            continue;
        }
        is_form = true;
        for boundary in Boundaries(parameters) {
            match &found {
                Some(known) if *known != boundary => return Err(BoundaryFault::Several.into()),
                _ => found = Some(boundary),
            }
        }
    }
    if !is_form {
        return Err(InboundError::NotMultipart(other.map(printable)));
    }
    let fault = match found {
        None => BoundaryFault::Missing,
        Some(boundary) if boundary.is_empty() => BoundaryFault::Empty,
        Some(boundary) if boundary.len() > MAX_BOUNDARY => BoundaryFault::TooLong(boundary.len()),
        Some(boundary) => return Ok(boundary),
    };
    Err(fault.into())
}

/// The media type and the parameters that follow it.
fn split_type(value: &[u8]) -> (&[u8], &[u8]) {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| matches!(byte, b';' | b',' | b' ' | b'\t'));
    value.split_at(end.unwrap_or(value.len()))
}

/// The values of every `boundary` among a header's parameters.
struct Boundaries<'a>(&'a [u8]);

impl Iterator for Boundaries<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let start =
                self.0.iter().position(|byte| !matches!(byte, b';' | b',' | b' ' | b'\t'))?;
            let rest = &self.0[start..];
            let end =
                rest.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            let Some(rest) = rest.strip_prefix(b"=") else {
                self.0 = rest;
                continue;
            };
            let rest = rest.trim_ascii_start();
            let (value, remaining) = match rest.strip_prefix(b"\"") {
                Some(quoted) => unquote(quoted),
                // Ends at `;` only. RFC 9110 requires quotes around `=`, `:` and `/`, but many clients send boundaries
                // with these bytes unquoted.
                None => {
                    let end = rest.iter().position(|byte| *byte == b';').unwrap_or(rest.len());
                    (rest[..end].trim_ascii().to_vec(), &rest[end..])
                }
            };
            self.0 = remaining;
            if name.trim_ascii().eq_ignore_ascii_case(b"boundary") {
                return Some(value);
            }
        }
    }
}

/// A quoted value without its escapes, and the text after it. A quote that is never closed ends with the header.
fn unquote(quoted: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let mut at = 0;
    while let Some(&byte) = quoted.get(at) {
        match (byte, quoted.get(at + 1)) {
            (b'"', _) => return (value, &quoted[at + 1..]),
            (b'\\', Some(&escaped)) => {
                value.push(escaped);
                at += 1;
            }
            _ => value.push(byte),
        }
        at += 1;
    }
    (value, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn read(values: &[&[u8]]) -> Result<String, InboundError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_TYPE, HeaderValue::from_bytes(value).unwrap());
        }
        from_headers(&headers).map(|boundary| String::from_utf8(boundary).unwrap())
    }

    #[test]
    fn boundaries_are_read_as_clients_send_them() {
        for (value, boundary) in [
            ("multipart/form-data; boundary=x", "x"),
            ("multipart/form-data;boundary=x", "x"),
            ("multipart/form-data ; boundary=x", "x"),
            ("multipart/form-data\t;\tboundary=x\t", "x"),
            ("multipart/form-data; ; boundary=x;", "x"),
            ("multipart/form-data;;;boundary=x; ;", "x"),
            ("Multipart/Form-Data; Boundary=x", "x"),
            ("multipart/form-data; boundary=----=_Part_0_81", "----=_Part_0_81"),
            ("multipart/form-data; boundary=a:b/c,d?e(f)g'h+i.j", "a:b/c,d?e(f)g'h+i.j"),
            ("multipart/form-data; boundary==", "="),
            ("multipart/form-data; boundary = x", "x"),
            ("multipart/form-data; charset=utf-8; charset=gbk; boundary=x", "x"),
            ("multipart/form-data; charset; boundary=x", "x"),
            ("multipart/form-data; charset=\"a;boundary=y\"; boundary=x", "x"),
            ("multipart/form-data; boundary=x; charset=\"utf-8\"", "x"),
            ("multipart/form-data; boundary=\"a b;c\"", "a b;c"),
            ("multipart/form-data; boundary=\"a\\\"b\\\\c\"; x=y", "a\"b\\c"),
            ("multipart/form-data; boundary=\"x", "x"),
            ("multipart/form-data, boundary=x", "x"),
            ("multipart/form-data boundary=x", "x"),
            ("multipart/form-data; boundary='x'", "'x'"),
            ("multipart/form-data; boundary=x; boundary=x", "x"),
            ("multipart/form-data, multipart/form-data; boundary=x", "x"),
        ] {
            assert_eq!(read(&[value.as_bytes()]).as_deref(), Ok(boundary), "{value}");
        }
        assert_eq!(read(&[b"multipart/form-data; x=\xd6\xd0; boundary=x"]).as_deref(), Ok("x"));
        let (without, with): (&[u8], &[u8]) =
            (b"multipart/form-data", b"multipart/form-data; boundary=x");
        for several in [[with, with], [without, with], [with, without], [b"text/plain", with]] {
            assert_eq!(read(&several).as_deref(), Ok("x"));
        }
        let longest = format!("multipart/form-data; boundary={}", "x".repeat(MAX_BOUNDARY));
        assert_eq!(read(&[longest.as_bytes()]).unwrap().len(), MAX_BOUNDARY);
    }

    #[test]
    fn headers_without_a_usable_boundary_are_refused() {
        let fault = |value: &str| match read(&[value.as_bytes()]) {
            Err(InboundError::Boundary(fault)) => fault,
            other => panic!("{value}: {other:?}"),
        };
        assert_eq!(fault("multipart/form-data"), BoundaryFault::Missing);
        assert_eq!(fault("multipart/form-data;"), BoundaryFault::Missing);
        assert_eq!(fault("multipart/form-data; boundary"), BoundaryFault::Missing);
        assert_eq!(fault("multipart/form-data; charset=utf-8"), BoundaryFault::Missing);
        assert_eq!(fault("multipart/form-data; boundary="), BoundaryFault::Empty);
        assert_eq!(fault("multipart/form-data; boundary=\"\""), BoundaryFault::Empty);
        assert_eq!(fault("multipart/form-data; boundary=; charset=x"), BoundaryFault::Empty);
        let long = format!("multipart/form-data; boundary={}", "x".repeat(MAX_BOUNDARY + 1));
        assert_eq!(fault(&long), BoundaryFault::TooLong(MAX_BOUNDARY + 1));
        assert_eq!(fault("multipart/form-data; boundary=a; boundary=b"), BoundaryFault::Several);
        assert_eq!(read(&[]), Err(InboundError::NotMultipart(None)));
        for other in ["application/json", "multipart/mixed", "multipart/form-data-x", "form-data"] {
            let header = format!("{other}; boundary=x");
            assert_eq!(
                read(&[header.as_bytes()]),
                Err(InboundError::NotMultipart(Some(other.to_owned())))
            );
        }
    }
}
