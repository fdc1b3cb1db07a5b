//! A strict, streaming multipart/form-data parser: it allows no preamble, no padding, and only white space after the
//! closing delimiter (RFC 2046 5.1.1 allows any epilogue). Knows the syntax only; `fields.rs` knows which fields a COS
//! form needs. Any part may have a file name: some clients give one to every part.

use bytes::{Buf, Bytes, BytesMut};

use super::part_head::part_head;

/// In bytes, of everything but the file's content, including the parts' heads; about the limit of COS for its fields.
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
    fields_after_file: bool,
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
            fields_after_file: false,
        }
    }

    /// Accepts fields after the file as well.
    pub fn allow_fields_after_file(&mut self) {
        self.fields_after_file = true;
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
                        b"\r\n" if self.file_seen && !self.fields_after_file => {
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
                    let part = part_head(&head).map_err(Malformed)?;
                    if part.name == "file" {
                        if self.file_seen {
                            return Err(Malformed("two files"));
                        }
                        self.file_seen = true;
                        self.state = State::File;
                        return Ok(Some(Event::File { file_name: part.file_name }));
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
            if (!self.file_seen || self.fields_after_file) && self.before_file > FIELDS_MAX {
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
    fn any_part_may_have_a_file_name() {
        let form = String::from_utf8_lossy(&sample()).into_owned();
        let named = form.replace("name=\"key\"", "name=\"key\"; filename=\"key\"");
        assert_eq!(named.len(), form.len() + "; filename=\"key\"".len());
        let mut content = named.into_bytes();
        // `from_utf8_lossy` has replaced the content's last byte.
        let at = content.windows(3).position(|window| window == "\u{fffd}".as_bytes()).unwrap();
        content.splice(at..at + 3, [0xff]);
        assert_eq!(read(&[&content]), Ok(expected()));
    }

    #[test]
    fn fields_after_the_file_are_read_only_where_they_are_allowed() {
        let part = |name: &str, value: &str| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let read = |body: String, allowed: bool| {
            let mut form = Form::new("b");
            if allowed {
                form.allow_fields_after_file();
            }
            form.push(body.into());
            let mut names = Vec::new();
            while let Some(event) = form.next()? {
                match event {
                    Event::Field { name, .. } => names.push(name),
                    Event::File { .. } => names.push("file".to_owned()),
                    Event::Data(_) => {}
                }
            }
            form.finish().map(|()| names.join(" "))
        };
        let first = part("file", "1") + &part("key", "k") + "--b--";
        assert_eq!(read(first.clone(), true).as_deref(), Ok("file key"));
        assert_eq!(read(first, false), Err(Malformed("a part follows the file")));
        let twice = part("file", "1") + &part("file", "2") + "--b--";
        assert_eq!(read(twice, true), Err(Malformed("two files")));
        let many = part("file", "1") + &part("k", &"v".repeat(1000)).repeat(30) + "--b--";
        assert_eq!(read(many, true), Err(FormError::FieldsTooLarge));
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
