//! A strict, streaming multipart/form-data parser: it allows no preamble, no padding, and only white space after the
//! closing delimiter (RFC 2046 5.1.1 allows any epilogue). Knows the syntax only; `fields.rs` knows which fields a COS
//! form needs, and in which order.

use bytes::{Buf, Bytes, BytesMut};

/// In bytes, of everything before the file's content, including the parts' heads; about the limit of COS for its
/// fields.
const FIELDS_MAX: usize = 20 * 1024;

#[derive(Debug, PartialEq)]
pub enum Event {
    Field { name: String, value: String },
    File { file_name: Option<String> },
    Data(Bytes),
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum FormError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the fields before the file are too large")]
    FieldsTooLarge,
}

use FormError::Malformed;

enum State {
    /// Before the first delimiter, which has no CRLF before it.
    Start,
    Head,
    Field(String),
    File,
    /// After a delimiter: CRLF and a part follow, or `--` and the end of the form.
    AfterDelimiter,
    Epilogue,
}

pub struct Form {
    delimiter: Delimiter,
    state: State,
    buffer: Bytes,
    before_file: usize,
    file_seen: bool,
}

/// The boundary of a `Content-Type`. A quoted one is not accepted, because the vendor's own clients send it unquoted.
pub fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameter) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameter.trim().strip_prefix("boundary=")?;
    let fits = (1..=70).contains(&boundary.len())
        && boundary.bytes().all(|b| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&b));
    fits.then_some(boundary)
}

impl Form {
    pub fn new(boundary: &str) -> Form {
        Form {
            delimiter: Delimiter::new(boundary),
            state: State::Start,
            buffer: Bytes::new(),
            before_file: 0,
            file_seen: false,
        }
    }

    pub fn push(&mut self, chunk: Bytes) {
        if self.buffer.is_empty() {
            self.buffer = chunk;
        } else {
            let mut joined = BytesMut::with_capacity(self.buffer.len() + chunk.len());
            joined.extend_from_slice(&self.buffer);
            joined.extend_from_slice(&chunk);
            self.buffer = joined.freeze();
        }
    }

    /// The next event in the bytes pushed so far; `None` if it needs more bytes.
    pub fn next(&mut self) -> Result<Option<Event>, FormError> {
        loop {
            match &mut self.state {
                State::Start => {
                    let first = &self.delimiter.text[2..];
                    let known = self.buffer.len().min(first.len());
                    if self.buffer[..known] != first[..known] {
                        return Err(Malformed("the body does not start with the boundary"));
                    }
                    if known < first.len() {
                        return Ok(None);
                    }
                    self.consume(known);
                    self.state = State::AfterDelimiter;
                }
                State::AfterDelimiter => {
                    let Some(next) = self.buffer.get(..2) else {
                        return Ok(None);
                    };
                    self.state = match next {
                        b"--" => State::Epilogue,
                        b"\r\n" if self.file_seen => {
                            return Err(Malformed("a part follows the file"));
                        }
                        b"\r\n" => State::Head,
                        _ => return Err(Malformed("unexpected bytes after a boundary")),
                    };
                    self.consume(2);
                }
                State::Head => {
                    let Some(end) = find(&self.buffer, b"\r\n\r\n") else {
                        return self.need_more();
                    };
                    let head = self.buffer.slice(..end);
                    self.consume(end + 4);
                    let part = part_head(&head)?;
                    if part.name == "file" {
                        self.file_seen = true;
                        self.state = State::File;
                        return Ok(Some(Event::File { file_name: part.file_name }));
                    }
                    if part.file_name.is_some() {
                        return Err(Malformed("a file part whose name is not file"));
                    }
                    self.state = State::Field(part.name);
                }
                State::Field(name) => {
                    let Some(end) = self.delimiter.find(&self.buffer) else {
                        return self.need_more();
                    };
                    let value = String::from_utf8(self.buffer[..end].to_vec())
                        .map_err(|_| Malformed("a field that is not UTF-8"))?;
                    let name = std::mem::take(name);
                    self.consume(end + self.delimiter.text.len());
                    self.state = State::AfterDelimiter;
                    return Ok(Some(Event::Field { name, value }));
                }
                State::File => {
                    let length = match self.delimiter.find(&self.buffer) {
                        Some(0) => {
                            self.buffer.advance(self.delimiter.text.len());
                            self.state = State::AfterDelimiter;
                            continue;
                        }
                        Some(end) => end,
                        None => {
                            self.buffer.len() - self.delimiter.partial_match_at_end(&self.buffer)
                        }
                    };
                    if length == 0 {
                        return Ok(None);
                    }
                    return Ok(Some(Event::Data(self.buffer.split_to(length))));
                }
                State::Epilogue => {
                    if !self.buffer.iter().all(|byte| b" \t\r\n".contains(byte)) {
                        return Err(Malformed("unexpected bytes after the closing delimiter"));
                    }
                    self.buffer.clear();
                    return Ok(None);
                }
            }
            if !self.file_seen && self.before_file > FIELDS_MAX {
                return Err(FormError::FieldsTooLarge);
            }
        }
    }

    /// Must be called at the end of the body: checks that the form is complete.
    pub fn finish(&self) -> Result<(), FormError> {
        match self.state {
            State::Epilogue if !self.file_seen => Err(Malformed("a form without a file")),
            State::Epilogue if self.buffer.is_empty() => Ok(()),
            _ => Err(Malformed("the form ends before its closing delimiter")),
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.before_file += bytes;
    }

    fn need_more(&self) -> Result<Option<Event>, FormError> {
        if self.before_file + self.buffer.len() > FIELDS_MAX {
            return Err(FormError::FieldsTooLarge);
        }
        Ok(None)
    }
}

struct PartHead {
    name: String,
    file_name: Option<String>,
}

fn part_head(head: &[u8]) -> Result<PartHead, FormError> {
    let head = std::str::from_utf8(head).map_err(|_| Malformed("a part head that is not UTF-8"))?;
    let mut seen: Vec<String> = Vec::new();
    let mut part = None;
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(':').ok_or(Malformed("a part head without a colon"))?;
        let name = name.to_ascii_lowercase();
        if name.is_empty() || name.bytes().any(|b| !b.is_ascii_alphanumeric() && b != b'-') {
            return Err(Malformed("a part head with an invalid header name"));
        }
        if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            return Err(Malformed("a part head with a control character"));
        }
        if seen.contains(&name) {
            return Err(Malformed("a part head with a repeated header"));
        }
        match name.as_str() {
            "content-disposition" => part = Some(disposition(value.trim())?),
            "content-transfer-encoding" => {
                return Err(Malformed("Content-Transfer-Encoding is not supported"));
            }
            _ => {}
        }
        seen.push(name);
    }
    part.ok_or(Malformed("a part without Content-Disposition"))
}

fn disposition(value: &str) -> Result<PartHead, FormError> {
    let wrong = Malformed("an invalid Content-Disposition");
    let Some(mut rest) = value.strip_prefix("form-data") else {
        return Err(wrong);
    };
    let (mut name, mut file_name) = (None, None);
    while !rest.is_empty() {
        let Some((parameter, quoted)) =
            rest.strip_prefix(';').and_then(|text| text.trim_start().split_once("=\""))
        else {
            return Err(wrong);
        };
        let Some((text, remainder)) = quoted.split_once('"') else {
            return Err(wrong);
        };
        let slot = match parameter {
            "name" => &mut name,
            "filename" => &mut file_name,
            _ => return Err(Malformed("an unknown Content-Disposition parameter")),
        };
        if slot.replace(text.to_owned()).is_some() {
            return Err(wrong);
        }
        rest = remainder;
    }
    match name {
        Some(name) if !name.is_empty() => Ok(PartHead { name, file_name }),
        _ => Err(Malformed("a part without a name")),
    }
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|window| window == pattern)
}

/// CRLF, two hyphens and the boundary; found with Horspool's algorithm.
struct Delimiter {
    text: Vec<u8>,
    skip: [u8; 256],
}

impl Delimiter {
    fn new(boundary: &str) -> Delimiter {
        let text = [b"\r\n--", boundary.as_bytes()].concat();
        // At most 74 bytes long: `boundary` checks it.
        let mut skip = [text.len() as u8; 256];
        for (at, byte) in text[..text.len() - 1].iter().enumerate() {
            skip[usize::from(*byte)] = (text.len() - 1 - at) as u8;
        }
        Delimiter { text, skip }
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        let length = self.text.len();
        let mut at = 0;
        while let Some(window) = bytes.get(at..at + length) {
            if window == self.text {
                return Some(at);
            }
            at += usize::from(self.skip[usize::from(window[length - 1])]);
        }
        None
    }

    /// The number of bytes at the end that may be the start of a delimiter. Only the last CR can start one, because a
    /// boundary contains no CR.
    fn partial_match_at_end(&self, bytes: &[u8]) -> usize {
        let tail = &bytes[bytes.len().saturating_sub(self.text.len() - 1)..];
        match tail.iter().rposition(|b| *b == b'\r') {
            Some(at) if self.text.starts_with(&tail[at..]) => tail.len() - at,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"a\r\n--bOUN\r\r\n--bOUND\r\n-- \0\xff";

    fn sample() -> Vec<u8> {
        let mut form = Vec::new();
        form.extend_from_slice(
            b"--bOUNDa\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\na/b.txt",
        );
        form.extend_from_slice(
            b"\r\n--bOUNDa\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\nContent-Type: text/plain\r\n\r\n",
        );
        form.extend_from_slice(CONTENT);
        form.extend_from_slice(b"\r\n--bOUNDa--\r\n");
        form
    }

    fn read(parts: &[&[u8]]) -> Result<Vec<Event>, FormError> {
        let mut form = Form::new("bOUNDa");
        let mut events: Vec<Event> = Vec::new();
        for part in parts {
            form.push(Bytes::copy_from_slice(part));
            while let Some(event) = form.next()? {
                match (events.last_mut(), event) {
                    (Some(Event::Data(before)), Event::Data(more)) => {
                        *before = [&before[..], &more].concat().into();
                    }
                    (_, event) => events.push(event),
                }
            }
        }
        form.finish().map(|()| events)
    }

    fn expected() -> Vec<Event> {
        vec![
            Event::Field { name: "key".into(), value: "a/b.txt".into() },
            Event::File { file_name: Some("x".into()) },
            Event::Data(Bytes::from_static(CONTENT)),
        ]
    }

    #[test]
    fn every_two_cut_split_reads_the_same() {
        let form = sample();
        for first in 0..=form.len() {
            for second in first..=form.len() {
                let parts = [&form[..first], &form[first..second], &form[second..]];
                assert_eq!(read(&parts), Ok(expected()), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn every_truncated_prefix_is_refused() {
        let form = sample();
        // White space after the closing delimiter is optional.
        let closed = form.len() - 2;
        for end in 0..closed {
            assert!(read(&[&form[..end]]).is_err(), "{end} bytes");
        }
        for epilogue in ["", "\r", "\n", "\r\n", "\r\n\r\n", " \t\n"] {
            let whole = [&form[..closed], epilogue.as_bytes()].concat();
            assert_eq!(read(&[&whole]), Ok(expected()), "{epilogue:?}");
            assert_eq!(read(&[&whole[..closed], &whole[closed..]]), Ok(expected()));
        }
    }

    #[test]
    fn wrong_forms_are_refused() {
        let form = String::from_utf8_lossy(&sample()).into_owned();
        let part =
            "--bOUNDa\r\nContent-Disposition: form-data; name=\"late\"\r\n\r\n1\r\n--bOUNDa--\r\n";
        for wrong in [
            format!("{form}x"),
            format!("{form}\r\nx"),
            format!("{form}\0"),
            format!("{form}--bOUNDa--"),
            format!("\r\n{form}"),
            format!("preamble\r\n{form}"),
            form.replace("a--\r\n", "a--x"),
            form.replace("--bOUNDa--\r\n", part),
            form.replace("--bOUNDa\r\n", "--bOUNDa \r\n"),
            form.replace("\r\n\r\n", "\n\n"),
            form.replace("name=\"key\"", "name=key"),
            form.replace("name=\"key\"", "name=\"\""),
            form.replace("name=\"key\"", "name=\"key\"; filename=\"y\""),
            form.replace("Content-Type:", "Content-Disposition: form-data; name=\"x\"\r\nX:"),
            form.replace("Content-Type: text/plain", "Content-Transfer-Encoding: base64"),
            "--bOUNDa--\r\n".to_owned(),
        ] {
            assert!(read(&[wrong.as_bytes()]).is_err(), "{wrong}");
        }
        let large = form.replace("a/b.txt", &"k".repeat(30 * 1024));
        assert_eq!(read(&[large.as_bytes()]), Err(FormError::FieldsTooLarge));
    }

    #[test]
    fn content_is_passed_on_up_to_a_possible_delimiter() {
        let mut form = Form::new("b");
        form.push(Bytes::from_static(
            b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc\r\n-",
        ));
        assert!(matches!(form.next(), Ok(Some(Event::File { file_name: None }))));
        assert_eq!(form.next(), Ok(Some(Event::Data(Bytes::from_static(b"abc")))));
        assert_eq!(form.next(), Ok(None));
        form.push(Bytes::from_static(b"x"));
        assert_eq!(form.next(), Ok(Some(Event::Data(Bytes::from_static(b"\r\n-x")))));
    }

    #[test]
    fn boundaries() {
        assert_eq!(boundary("multipart/form-data; boundary=----x1"), Some("----x1"));
        for wrong in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"x\"",
            "multipart/mixed; boundary=x",
            "multipart/form-data; boundary=x; charset=utf-8",
        ] {
            assert_eq!(boundary(wrong), None, "{wrong}");
        }
    }
}
