//! A reply as its bytes come: where its head ends, what follows it, and whether another may follow that (RFC 9112, 6.3).

#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

use bytes::Bytes;
use httparse::{ParserConfig, Status};

use super::chunked::{Chunks, TOO_LONG};

/// A head may be this long, and this many lines.
const HEAD_LIMIT: usize = 16 * 1024;
const HEADERS: usize = 100;
/// Interim responses (1xx) before one response: this many, and this many bytes of them in all.
const INTERIM_LIMIT: usize = 16;
const INTERIM_BYTES: usize = HEAD_LIMIT;
/// Room that is kept for the next reply.
const ROOM: usize = 4 * 1024;

/// A reply, read to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Bytes,
}

impl Response {
    /// Whether its status says that it went well.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// No head came, or none that can be read.
    Unanswered(String),
    /// What followed the head did not come to its end, or to one that is near enough.
    CutShort { status: u16, cause: String },
}

/// Whoever wants to know of a reply's headers: is shown each name, as it was sent, with its value.
pub trait HeaderVisitor {
    fn see(&mut self, name: &str, value: &[u8]);
}

/// For whom a reply is its body.
impl HeaderVisitor for () {
    fn see(&mut self, _: &str, _: &[u8]) {}
}

/// Reads replies from what a connection received.
#[derive(Debug)]
pub struct ResponseParser {
    received: Vec<u8>,
    /// So much of it is read.
    at: usize,
    step: Step,
    status: u16,
    /// Nothing so far says that the connection ends with this reply.
    keeps: bool,
    /// Interim responses that came before it, and their bytes.
    interim: usize,
    interim_bytes: usize,
    limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Head,
    /// As many bytes.
    Sized(usize),
    /// All that comes.
    ToEnd,
    Chunked(Chunks),
}

impl ResponseParser {
    /// For replies with at most `limit` bytes behind their heads.
    pub fn new(limit: usize) -> Self {
        Self {
            received: Vec::with_capacity(ROOM),
            at: 0,
            step: Step::Head,
            status: 0,
            keeps: true,
            interim: 0,
            interim_bytes: 0,
            limit,
        }
    }

    /// What is received goes behind this; always with room.
    pub fn room(&mut self) -> &mut Vec<u8> {
        if self.received.len() == self.received.capacity() {
            self.received.reserve(ROOM);
        }
        &mut self.received
    }

    /// Whether a reply's head has come.
    pub fn has_head(&self) -> bool {
        self.step != Step::Head
    }

    /// Whether a part of a reply has come, be it of an interim one. Whole interim responses are no part of anything.
    pub fn has_begun(&self) -> bool {
        self.has_head() || !self.received.is_empty()
    }

    /// The reply's status, once its head has come.
    pub fn status(&self) -> Option<u16> {
        self.has_head().then_some(self.status)
    }

    /// Whether another reply can follow on the connection, when one was read to its end.
    pub fn keeps(&self) -> bool {
        self.keeps && self.at == self.received.len()
    }

    /// Makes ready for the next reply.
    pub fn clear(&mut self) {
        self.received.clear();
        self.received.shrink_to(ROOM);
        (self.at, self.step, self.keeps) = (0, Step::Head, true);
        (self.interim, self.interim_bytes) = (0, 0);
    }

    /// Reads as far as it can: `None` while more is to come.
    pub fn advance(
        &mut self,
        headers: &mut impl HeaderVisitor,
    ) -> Result<Option<Response>, ResponseError> {
        while self.step == Step::Head {
            if !self.take_head(headers)? {
                return Ok(None);
            }
        }
        let status = self.status;
        let cut_short = |cause: &str| ResponseError::CutShort { status, cause: cause.into() };
        let there = &self.received[self.at..];
        let body = match &mut self.step {
            Step::Sized(length) if *length > self.limit => return Err(cut_short(TOO_LONG)),
            Step::Sized(length) if *length > there.len() => return Ok(None),
            Step::Sized(length) => {
                self.at += *length;
                Bytes::copy_from_slice(&there[..*length])
            }
            Step::ToEnd if there.len() > self.limit => return Err(cut_short(TOO_LONG)),
            Step::Head | Step::ToEnd => return Ok(None),
            Step::Chunked(chunks) => {
                let mut rest = there;
                let body = chunks.read(&mut rest, self.limit).map_err(cut_short)?;
                self.at = self.received.len() - rest.len();
                let Some(body) = body else {
                    // What is read is not kept along with what it was read from.
                    self.received.drain(..self.at);
                    self.at = 0;
                    return Ok(None);
                };
                body
            }
        };
        Ok(Some(Response { status, body }))
    }

    /// The connection gives no more, for which `cause` says why if it is no plain end.
    pub fn end(&mut self, cause: Option<String>) -> Result<Response, ResponseError> {
        self.keeps = false;
        let status = self.status;
        match (&self.step, cause) {
            (Step::Head, cause) => {
                let closed = || "the connection was closed before a reply came".to_owned();
                Err(ResponseError::Unanswered(cause.unwrap_or_else(closed)))
            }
            (Step::ToEnd, None) => {
                let body = Bytes::copy_from_slice(&self.received[self.at..]);
                Ok(Response { status, body })
            }
            (_, cause) => {
                let closed = || "the connection was closed within it".to_owned();
                Err(ResponseError::CutShort { status, cause: cause.unwrap_or_else(closed) })
            }
        }
    }

    /// Whether there was a whole one.
    fn take_head(&mut self, seen: &mut impl HeaderVisitor) -> Result<bool, ResponseError> {
        let unanswered =
            |cause: &str| ResponseError::Unanswered(format!("the reply is no HTTP: {cause}"));
        let there = &self.received[self.at..];
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, there, &mut headers)
            .map_err(|error| unanswered(&error.to_string()))?;
        let length = match parsed {
            Status::Complete(length) if length <= HEAD_LIMIT => length,
            Status::Partial if there.len() <= HEAD_LIMIT => return Ok(false),
            _ => return Err(unanswered("its head is too long")),
        };
        let status = response.code.unwrap_or_default();
        match status {
            ..100 => return Err(unanswered("its status is none")),
            // Another protocol was not asked for.
            101 => return Err(unanswered("it changes the protocol")),
            100..200 => {
                self.interim += 1;
                self.interim_bytes += length;
                if self.interim > INTERIM_LIMIT || self.interim_bytes > INTERIM_BYTES {
                    let cause = format!(
                        "more than {INTERIM_LIMIT} interim responses, or {INTERIM_BYTES} bytes of them, came before the \
                         response"
                    );
                    return Err(ResponseError::Unanswered(cause));
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
                let length =
                    length_of(header.value).ok_or_else(|| unanswered("its length is no number"))?;
                if sized.replace(length).is_some_and(|before| before != length) {
                    return Err(unanswered("it has two lengths"));
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                coding = Some(last_word(header.value).eq_ignore_ascii_case(b"chunked"));
            } else if header.name.eq_ignore_ascii_case("connection") {
                for word in header.value.split(|byte| *byte == b',') {
                    let word = word.trim_ascii();
                    closes |= word.eq_ignore_ascii_case(b"close");
                    persists |= word.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            seen.see(header.name, header.value);
        }
        self.step = match (status, coding, sized) {
            (204 | 304, ..) => Step::Sized(0),
            (_, Some(true), _) => Step::Chunked(Chunks::default()),
            (_, Some(false), _) | (_, None, None) => Step::ToEnd,
            (_, None, Some(length)) => Step::Sized(length),
        };
        let is_plain = match self.step {
            // A body that is announced where none is allowed may come later, in front of the next reply.
            Step::Sized(0) => coding.is_none() && sized.unwrap_or_default() == 0,
            // A sender of both lengths is not to be trusted with what comes behind.
            Step::Sized(_) | Step::Chunked(_) => coding.is_none() || sized.is_none(),
            Step::Head | Step::ToEnd => false,
        };
        self.keeps = persists && !closes && is_plain;
        self.status = status;
        self.at += length;
        Ok(true)
    }
}

/// A Content-Length's value in bytes: digits and nothing else.
fn length_of(value: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(value).ok()?;
    // `parse` would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn last_word(value: &[u8]) -> &[u8] {
    value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii()
}
