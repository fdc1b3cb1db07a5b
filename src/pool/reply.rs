//! A reply as its bytes come: where its head ends, what follows it, and whether another may follow that (RFC 9112, 6.3).

use std::mem::MaybeUninit;

use bytes::Bytes;
use httparse::{ParserConfig, Response, Status};

/// A head may be this long, and this many lines.
const HEAD_LIMIT: usize = 16 * 1024;
const HEADERS: usize = 100;
/// What may stand before a chunk or behind the last one.
const CHUNK_OVERHEAD: usize = 1024;
/// Room that is kept for the next reply.
const ROOM: usize = 4 * 1024;

/// A reply, read to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: Bytes,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// No head came, or none that can be read.
    Unanswered(String),
    /// What followed the head did not come to its end, or to one that is near enough.
    CutShort { status: u16, cause: String },
}

/// Whoever wants to know of a reply's headers: is shown each name, as it was sent, with its value.
pub trait Headers {
    fn see(&mut self, name: &str, value: &[u8]);
}

/// For whom a reply is its body.
impl Headers for () {
    fn see(&mut self, _: &str, _: &[u8]) {}
}

/// Reads replies from what a connection received.
#[derive(Debug)]
pub struct Receiver {
    received: Vec<u8>,
    /// So much of it is read.
    at: usize,
    step: Step,
    status: u16,
    /// Nothing so far says that the connection ends with this reply.
    keeps: bool,
    limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Head,
    /// As many bytes.
    Sized(usize),
    /// All that comes.
    ToEnd,
    Chunked(Chunk, Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
}

impl Receiver {
    /// For replies with at most `limit` bytes behind their heads.
    pub fn new(limit: usize) -> Self {
        let received = Vec::with_capacity(ROOM);
        Self { received, at: 0, step: Step::Head, status: 0, keeps: true, limit }
    }

    /// What is received goes behind this; always with room.
    pub fn room(&mut self) -> &mut Vec<u8> {
        if self.received.len() == self.received.capacity() {
            self.received.reserve(ROOM);
        }
        &mut self.received
    }

    /// Whether a reply has begun.
    pub fn has_head(&self) -> bool {
        self.step != Step::Head
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
    }

    /// Reads as far as it can: `None` while more is to come.
    pub fn advance(&mut self, headers: &mut impl Headers) -> Result<Option<Reply>, Failure> {
        while self.step == Step::Head {
            if !self.take_head(headers)? {
                return Ok(None);
            }
        }
        let status = self.status;
        let cut_short = |cause: &str| Failure::CutShort { status, cause: cause.into() };
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
            Step::Chunked(chunk, body) => {
                let mut rest = there;
                let ended = read_chunks(chunk, body, &mut rest, self.limit).map_err(cut_short)?;
                self.at = self.received.len() - rest.len();
                if !ended {
                    // What is read is not kept along with what it was read from.
                    self.received.drain(..self.at);
                    self.at = 0;
                    return Ok(None);
                }
                Bytes::from(std::mem::take(body))
            }
        };
        Ok(Some(Reply { status, body }))
    }

    /// The connection gives no more, for which `cause` says why if it is no plain end.
    pub fn end(&mut self, cause: Option<String>) -> Result<Reply, Failure> {
        self.keeps = false;
        let status = self.status;
        match (&self.step, cause) {
            (Step::Head, cause) => {
                let closed = || "the connection was closed before a reply came".to_owned();
                Err(Failure::Unanswered(cause.unwrap_or_else(closed)))
            }
            (Step::ToEnd, None) => {
                let body = Bytes::copy_from_slice(&self.received[self.at..]);
                Ok(Reply { status, body })
            }
            (_, cause) => {
                let closed = || "the connection was closed within it".to_owned();
                Err(Failure::CutShort { status, cause: cause.unwrap_or_else(closed) })
            }
        }
    }

    /// Whether there was a whole one.
    fn take_head(&mut self, seen: &mut impl Headers) -> Result<bool, Failure> {
        let unanswered =
            |cause: &str| Failure::Unanswered(format!("the reply is no HTTP: {cause}"));
        let there = &self.received[self.at..];
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
        let mut response = Response::new(&mut []);
        let parsed = ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, there, &mut headers)
            .map_err(|error| unanswered(&error.to_string()))?;
        let length = match parsed {
            Status::Complete(length) => length,
            Status::Partial if there.len() > HEAD_LIMIT => {
                return Err(unanswered("its head is too long"));
            }
            Status::Partial => return Ok(false),
        };
        let status = response.code.unwrap_or_default();
        match status {
            // Another protocol was not asked for.
            101 => return Err(unanswered("it changes the protocol")),
            100..200 => {
                self.at += length;
                return Ok(!self.received[self.at..].is_empty());
            }
            _ => {}
        }
        let mut coding = None;
        let mut sized = None;
        let mut keeps = response.version == Some(1);
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let length =
                    std::str::from_utf8(header.value).ok().and_then(|digits| digits.parse().ok());
                let length: usize = length.ok_or_else(|| unanswered("its length is no number"))?;
                if sized.replace(length).is_some_and(|before| before != length) {
                    return Err(unanswered("it has two lengths"));
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                coding = Some(last_word(header.value).eq_ignore_ascii_case(b"chunked"));
            } else if header.name.eq_ignore_ascii_case("connection") {
                for word in header.value.split(|byte| *byte == b',') {
                    let word = word.trim_ascii();
                    keeps = !word.eq_ignore_ascii_case(b"close")
                        && (keeps || word.eq_ignore_ascii_case(b"keep-alive"));
                }
            }
            seen.see(header.name, header.value);
        }
        self.step = match (status, coding, sized) {
            (204 | 304, ..) => Step::Sized(0),
            (_, Some(true), _) => Step::Chunked(Chunk::Size, Vec::new()),
            (_, Some(false), _) | (_, None, None) => Step::ToEnd,
            (_, None, Some(length)) => Step::Sized(length),
        };
        // Who sends both lengths is not to be trusted with what comes behind.
        self.keeps = keeps && self.step != Step::ToEnd && (coding.is_none() || sized.is_none());
        self.status = status;
        self.at += length;
        Ok(true)
    }
}

const TOO_LONG: &str = "it is too long";

fn last_word(value: &[u8]) -> &[u8] {
    value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii()
}

/// Reads chunks of `rest` into `body`, and says whether the last one has come.
fn read_chunks(
    chunk: &mut Chunk,
    body: &mut Vec<u8>,
    rest: &mut &[u8],
    limit: usize,
) -> Result<bool, &'static str> {
    const ODD: &str = "its chunks cannot be read";
    let more = |rest: &[u8]| if rest.len() > CHUNK_OVERHEAD { Err(ODD) } else { Ok(false) };
    loop {
        match *chunk {
            Chunk::Size => match httparse::parse_chunk_size(rest).map_err(|_| ODD)? {
                Status::Partial => return more(rest),
                Status::Complete((length, 0)) => {
                    *rest = &rest[length..];
                    *chunk = Chunk::Trailer;
                }
                Status::Complete((length, size)) => {
                    let size = usize::try_from(size).unwrap_or(usize::MAX);
                    if size > limit - body.len() {
                        return Err(TOO_LONG);
                    }
                    *rest = &rest[length..];
                    *chunk = Chunk::Data(size);
                }
            },
            Chunk::Data(left) => {
                let (data, behind) = rest.split_at(left.min(rest.len()));
                body.extend_from_slice(data);
                *rest = behind;
                if data.len() < left {
                    *chunk = Chunk::Data(left - data.len());
                    return Ok(false);
                }
                *chunk = Chunk::DataEnd;
            }
            Chunk::DataEnd => {
                let Some(end) = rest.first_chunk::<2>() else {
                    return Ok(false);
                };
                if end != b"\r\n" {
                    return Err(ODD);
                }
                *rest = &rest[2..];
                *chunk = Chunk::Size;
            }
            Chunk::Trailer => {
                let mut lines = [httparse::EMPTY_HEADER; 16];
                match httparse::parse_headers(rest, &mut lines).map_err(|_| ODD)? {
                    Status::Partial => return more(rest),
                    Status::Complete((length, _)) => {
                        *rest = &rest[length..];
                        return Ok(true);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Seen(Vec<(String, Vec<u8>)>);

    impl Headers for Seen {
        fn see(&mut self, name: &str, value: &[u8]) {
            self.0.push((name.to_owned(), value.to_owned()));
        }
    }

    /// What a receiver makes of `bytes` that come in pieces of `step`, and whether the connection is kept.
    fn received(bytes: &[u8], step: usize) -> (Result<Reply, Failure>, bool) {
        let mut receiver = Receiver::new(64);
        let mut result = None;
        for piece in bytes.chunks(step) {
            receiver.room().extend_from_slice(piece);
            if let Some(ended) = result.is_none().then(|| receiver.advance(&mut ())) {
                result = ended.transpose();
            }
        }
        let result = result.unwrap_or_else(|| receiver.end(None));
        (result, receiver.keeps())
    }

    /// The same however it comes.
    fn reply(text: &str) -> (Result<Reply, Failure>, bool) {
        let whole = received(text.as_bytes(), usize::MAX);
        for step in 1..text.len() {
            assert_eq!(received(text.as_bytes(), step), whole, "{text:?} by {step}");
        }
        whole
    }

    #[test]
    fn a_reply_ends_where_it_says() {
        for (text, status, body, keeps) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, "", true),
            ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, "", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, "abc", true),
            ("HTTP/1.1 200\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc", 200, "abc", true),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
                200,
                "abc",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n",
                200,
                "",
                false,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", 200, "abc", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, "abc", false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc",
                200,
                "abc",
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\nabc", 200, "abc", false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", 200, "abc", false),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\na: b\r\n\r\nHTTP/1.1 403 x\r\nContent-Length: 1\r\n\r\ny",
                403,
                "y",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\n\r\n",
                200,
                "abc0123456789",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: x, Chunked\r\n\r\n0\r\nA: b\r\n\r\n",
                200,
                "",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                200,
                "a",
                false,
            ),
        ] {
            let expected = Reply { status, body: Bytes::from_static(body.as_bytes()) };
            assert_eq!(reply(text), (Ok(expected), keeps), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_none() {
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(2 * HEAD_LIMIT));
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ] {
            assert!(matches!(reply(text).0, Err(Failure::Unanswered(_))), "{text:?}");
        }
        assert!(matches!(received(long.as_bytes(), 999).0, Err(Failure::Unanswered(_))));
        let long = "b".repeat(65);
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\n\r\n{long}"),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n41\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        ] {
            let cut_short = matches!(reply(text).0, Err(Failure::CutShort { status: 200, .. }));
            assert!(cut_short, "{text:?}");
        }
    }

    #[test]
    fn one_reply_follows_another_on_what_is_kept() {
        let mut receiver = Receiver::new(64);
        for (name, value) in [("a", "1"), ("b", "2")] {
            let mut seen = Seen::default();
            let text =
                format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n{name}: {value}\r\n\r\n{value}");
            receiver.room().extend_from_slice(text.as_bytes());
            let reply = receiver.advance(&mut seen).unwrap().unwrap();
            assert_eq!(&reply.body, value);
            assert_eq!(seen.0.last(), Some(&(name.to_owned(), value.into())));
            assert!(receiver.keeps());
            receiver.clear();
        }
    }

    proptest! {
        /// Nothing that comes makes it panic, hold more than a bounded part of it, or depends on how it comes.
        #[test]
        fn whatever_comes_is_read_alike(
            picks in proptest::collection::vec(0usize..16, 0..24),
            raw in proptest::collection::vec(any::<u8>(), 0..8),
            step in 1usize..9,
        ) {
            let tokens: [&[u8]; 16] = [
                b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 x\r\n", b"HTTP/1.0 204 x\r\n", b"\r\n", b"\n",
                b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
                b"3\r\n", b"0\r\n", b"abc", b"ffffffffffffffff\r\n", b"Content-Length: ", b"x: y\r\n", b"a", &raw,
            ];
            let mut bytes = tokens[0].to_vec();
            bytes.extend(picks.iter().flat_map(|pick| tokens[*pick].iter().copied()));
            let (whole, _) = received(&bytes, usize::MAX);
            let (split, _) = received(&bytes, step);
            match (&whole, &split) {
                (Ok(_), _) | (_, Ok(_)) => prop_assert_eq!(&whole, &split),
                (Err(Failure::CutShort { status, .. }), Err(Failure::CutShort { status: other, .. })) => {
                    prop_assert_eq!(status, other);
                }
                (Err(whole), Err(split)) => prop_assert_eq!(
                    std::mem::discriminant(whole), std::mem::discriminant(split)
                ),
            }
        }
    }
}
