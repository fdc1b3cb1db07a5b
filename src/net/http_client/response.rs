//! Parses a response from the bytes received: its head, its body (RFC 9112, 6.3), and whether the connection can be
//! used again.

#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

use bytes::Bytes;
use httparse::{ParserConfig, Status};

use super::chunked::{ChunkedContent, TOO_LONG};

/// Bytes of a head.
const HEAD_LIMIT: usize = 16 * 1024;
/// Header fields of a head.
const HEADERS: usize = 100;
/// Interim responses (1xx) before a response.
const INTERIM_LIMIT: usize = 16;
/// Bytes of all of these.
const INTERIM_BYTES: usize = HEAD_LIMIT;
/// Capacity that the buffer has for a response, and retains for the next one.
const CAPACITY: usize = 4 * 1024;

/// A response, read to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Bytes,
}

impl Response {
    /// Whether its status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why there is no response.
#[derive(Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// No head was received, or none that can be parsed.
    NoResponse(String),
    /// The body is incomplete, malformed or too long.
    BadBody { status: u16, cause: String },
}

/// Is given each header of a response.
pub trait HeaderVisitor {
    /// `name` is in the case in which it was sent.
    fn visit(&mut self, name: &str, value: &[u8]);
}

/// For responses whose headers are not needed.
impl HeaderVisitor for () {
    fn visit(&mut self, _: &str, _: &[u8]) {}
}

/// Parses the responses that a connection receives.
#[derive(Debug)]
pub struct ResponseParser {
    received: Vec<u8>,
    /// Bytes of it that are parsed.
    parsed: usize,
    step: Step,
    status: u16,
    /// As far as parsed, the response lets another one follow on the connection.
    reusable: bool,
    /// The response has no body, whatever its headers announce.
    bodiless: bool,
    /// Interim responses before it, and their bytes.
    interim: usize,
    interim_bytes: usize,
    /// Bytes of a body.
    limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Head,
    /// A body of this length.
    Sized(usize),
    /// A body up to the end of the connection.
    ToEnd,
    Chunked(ChunkedContent),
}

impl ResponseParser {
    /// For responses with bodies of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            received: Vec::with_capacity(CAPACITY),
            parsed: 0,
            step: Step::Head,
            status: 0,
            reusable: true,
            bodiless: false,
            interim: 0,
            interim_bytes: 0,
            limit,
        }
    }

    /// The bytes received: more are to be appended here. Has free capacity.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.received.len() == self.received.capacity() {
            self.received.reserve(CAPACITY);
        }
        &mut self.received
    }

    /// Whether a response's head was received.
    pub fn has_head(&self) -> bool {
        self.step != Step::Head
    }

    /// Whether a part of a response was received, be it of an interim one. Complete interim responses do not count.
    pub fn has_begun(&self) -> bool {
        self.has_head() || !self.received.is_empty()
    }

    /// The response's status, once its head was received.
    pub fn status(&self) -> Option<u16> {
        self.has_head().then_some(self.status)
    }

    /// Whether another response can follow on the connection, once this one was read to its end.
    pub fn is_reusable(&self) -> bool {
        self.reusable && self.parsed == self.received.len()
    }

    /// The next response is one to HEAD: its Content-Length is that of the resource (RFC 9110, 9.3.2), and its head is
    /// all of it.
    pub fn expect_no_body(&mut self) {
        self.bodiless = true;
    }

    /// Prepares for the next response.
    pub fn clear(&mut self) {
        self.received.clear();
        self.received.shrink_to(CAPACITY);
        (self.parsed, self.step, self.reusable, self.bodiless) = (0, Step::Head, true, false);
        (self.interim, self.interim_bytes) = (0, 0);
    }

    /// Parses what was received; `None` while the response is incomplete.
    pub fn advance(
        &mut self,
        visitor: &mut impl HeaderVisitor,
    ) -> Result<Option<Response>, ResponseError> {
        while self.step == Step::Head {
            if !self.parse_head(visitor)? {
                return Ok(None);
            }
        }
        let status = self.status;
        let bad_body = |cause: &str| ResponseError::BadBody { status, cause: cause.into() };
        let rest = &self.received[self.parsed..];
        let body = match &mut self.step {
            Step::Sized(length) if *length > self.limit => return Err(bad_body(TOO_LONG)),
            Step::Sized(length) if *length > rest.len() => return Ok(None),
            Step::Sized(length) => {
                self.parsed += *length;
                Bytes::copy_from_slice(&rest[..*length])
            }
            Step::ToEnd if rest.len() > self.limit => return Err(bad_body(TOO_LONG)),
            Step::Head | Step::ToEnd => return Ok(None),
            Step::Chunked(content) => {
                let mut rest = rest;
                let body = content.read(&mut rest, self.limit).map_err(bad_body)?;
                self.parsed = self.received.len() - rest.len();
                let Some(body) = body else {
                    // The content is copied: the bytes it was parsed from are not buffered, too.
                    self.received.drain(..self.parsed);
                    self.parsed = 0;
                    return Ok(None);
                };
                body
            }
        };
        Ok(Some(Response { status, body }))
    }

    /// The connection has ended: by an error if there is a `cause`.
    pub fn end(&mut self, cause: Option<String>) -> Result<Response, ResponseError> {
        self.reusable = false;
        let status = self.status;
        match (&self.step, cause) {
            (Step::Head, cause) => {
                let closed = || "the connection was closed before a response arrived".to_owned();
                Err(ResponseError::NoResponse(cause.unwrap_or_else(closed)))
            }
            (Step::ToEnd, None) => {
                let body = Bytes::copy_from_slice(&self.received[self.parsed..]);
                Ok(Response { status, body })
            }
            (_, cause) => {
                let closed = || "the connection was closed before the response's end".to_owned();
                Err(ResponseError::BadBody { status, cause: cause.unwrap_or_else(closed) })
            }
        }
    }

    /// Parses a head; `false` while it is incomplete.
    fn parse_head(&mut self, visitor: &mut impl HeaderVisitor) -> Result<bool, ResponseError> {
        let no_response =
            |cause: &str| ResponseError::NoResponse(format!("the response is not HTTP: {cause}"));
        let rest = &self.received[self.parsed..];
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, rest, &mut headers)
            .map_err(|error| no_response(&error.to_string()))?;
        let length = match parsed {
            Status::Complete(length) if length <= HEAD_LIMIT => length,
            Status::Partial if rest.len() <= HEAD_LIMIT => return Ok(false),
            _ => return Err(no_response("its head is too long")),
        };
        let status = response.code.unwrap_or_default();
        match status {
            ..100 => return Err(no_response("its status is below 100")),
            // No request has an Upgrade field.
            101 => return Err(no_response("it changes the protocol")),
            100..200 => {
                self.interim += 1;
                self.interim_bytes += length;
                if self.interim > INTERIM_LIMIT || self.interim_bytes > INTERIM_BYTES {
                    let cause = format!(
                        "more than {INTERIM_LIMIT} interim responses, or {INTERIM_BYTES} bytes of them, arrived \
                         before the response"
                    );
                    return Err(ResponseError::NoResponse(cause));
                }
                self.received.drain(..length);
                return Ok(!self.received.is_empty());
            }
            _ => {}
        }
        let mut coding = None;
        let mut sized = None;
        let (mut persists, mut closes) = (response.version == Some(1), false);
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = length_of(header.value)
                    .ok_or_else(|| no_response("its Content-Length is not a number"))?;
                if sized.replace(length).is_some_and(|before| before != length) {
                    return Err(no_response("it has two different Content-Lengths"));
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                coding = Some(last_member(header.value).eq_ignore_ascii_case(b"chunked"));
            } else if header.name.eq_ignore_ascii_case("connection") {
                for option in header.value.split(|byte| *byte == b',') {
                    let option = option.trim_ascii();
                    closes |= option.eq_ignore_ascii_case(b"close");
                    persists |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            visitor.visit(header.name, header.value);
        }
        self.step = match (status, coding, sized) {
            _ if self.bodiless => Step::Sized(0),
            (204 | 304, ..) => Step::Sized(0),
            (_, Some(true), _) => Step::Chunked(ChunkedContent::default()),
            (_, Some(false), _) | (_, None, None) => Step::ToEnd,
            (_, None, Some(length)) => Step::Sized(length),
        };
        let is_plain = match self.step {
            // A body that is announced where none is allowed may arrive later, in front of the next response.
            Step::Sized(0) => self.bodiless || coding.is_none() && sized.unwrap_or_default() == 0,
            // With both a Content-Length and a Transfer-Encoding it is uncertain where the response ends.
            Step::Sized(_) | Step::Chunked(_) => coding.is_none() || sized.is_none(),
            Step::Head | Step::ToEnd => false,
        };
        self.reusable = persists && !closes && is_plain;
        self.status = status;
        self.parsed += length;
        Ok(true)
    }
}

/// A Content-Length's value in bytes: digits and nothing else.
fn length_of(value: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(value).ok()?;
    // `parse` would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn last_member(value: &[u8]) -> &[u8] {
    value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii()
}
