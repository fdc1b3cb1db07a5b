//! The chunked transfer coding (RFC 9112, 7.1) of a request's body.
//!
//! Lines end with CRLF only: if a proxy and the gateway disagreed about a line's end, a request could be smuggled
//! inside another one. Extensions and trailers are skipped, up to a limit.

use bytes::{Buf, Bytes};

/// Bytes of one chunk's extensions, and of all trailers.
const MAX_IGNORED: u16 = 16 * 1024;
/// Hexadecimal digits of a chunk's size.
const MAX_DIGITS: u8 = 16;

/// How far a body is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    /// Bytes of extensions or trailers so far.
    ignored: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// The result of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A part of the body, never empty.
    Data(Bytes),
    /// All bytes are used up.
    More,
    /// The body has ended; the bytes left belong to the next request.
    End,
}

/// The body violates the chunked coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of the request's body are malformed")]
pub struct MalformedChunks;

impl Chunked {
    /// At the size of the first chunk.
    pub fn new() -> Self {
        Self { state: NEXT_SIZE, ignored: 0 }
    }

    /// Decodes on, and removes what it has read from the front of `bytes`.
    pub fn step(&mut self, bytes: &mut Bytes) -> Result<Step, MalformedChunks> {
        loop {
            if self.state == State::End {
                return Ok(Step::End);
            }
            if bytes.is_empty() {
                return Ok(Step::More);
            }
            if let State::Data { left } = self.state {
                let length = left.min(bytes.len() as u64);
                let left = left - length;
                self.state = if left > 0 { State::Data { left } } else { State::DataCr };
                // At most `bytes.len()`.
                return Ok(Step::Data(bytes.split_to(length as usize)));
            }
            self.state = self.next_state(bytes.get_u8())?;
        }
    }

    fn next_state(&mut self, byte: u8) -> Result<State, MalformedChunks> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == MAX_DIGITS {
                    return Err(MalformedChunks);
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                State::Size { size: size << 4 | digit, digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(MalformedChunks),
            (State::Size { size, .. } | State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Size { size, .. }, b';' | b' ' | b'\t') => {
                self.ignored = 0;
                State::Extension { size }
            }
            (State::Extension { size }, b'\t' | b' '..=0x7e | 0x80..) => {
                self.count_ignored()?;
                State::Extension { size }
            }
            (State::SizeLf { size: 0 }, b'\n') => {
                self.ignored = 0;
                State::TrailerStart
            }
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => NEXT_SIZE,
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerStart | State::Trailer, b'\t' | b' '..=0x7e | 0x80..) => {
                self.count_ignored()?;
                State::Trailer
            }
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::End,
            _ => return Err(MalformedChunks),
        })
    }

    fn count_ignored(&mut self) -> Result<(), MalformedChunks> {
        self.ignored += 1;
        if self.ignored > MAX_IGNORED { Err(MalformedChunks) } else { Ok(()) }
    }
}

impl Default for Chunked {
    fn default() -> Self {
        Self::new()
    }
}

const NEXT_SIZE: State = State::Size { size: 0, digits: 0 };

#[cfg(test)]
mod tests {
    use actix_http::h1::{Codec, Message};
    use actix_web::rt;
    use bytes::BytesMut;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use tokio_util::codec::Decoder;

    use super::*;

    /// The data, and the bytes left after the body's end; `None` for these while the body has not ended.
    fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, Option<Vec<u8>>), MalformedChunks> {
        let (mut chunked, mut data) = (Chunked::new(), Vec::new());
        for (index, part) in parts.iter().enumerate() {
            let mut bytes = Bytes::copy_from_slice(part);
            loop {
                match chunked.step(&mut bytes)? {
                    Step::Data(part) => data.extend_from_slice(&part),
                    Step::More => break,
                    Step::End => {
                        let rest = [&bytes[..], &parts[index + 1..].concat()].concat();
                        return Ok((data, Some(rest)));
                    }
                }
            }
        }
        Ok((data, None))
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let body = b"5\r\nhello\r\n00a;x=\"y\"\r\n, world!\r\n\r\n0 \r\nDigest: x\r\n\r\nGET /";
        let whole = Ok((b"hello, world!\r\n".to_vec(), Some(b"GET /".to_vec())));
        for cut in 0..body.len() {
            for second in cut..body.len() {
                let parts = [&body[..cut], &body[cut..second], &body[second..]];
                assert_eq!(decode(&parts), whole, "{cut} {second}");
            }
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for body in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 5\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n",
            b"10000000000000000\r\n",
            b"0\r\nx\ny\r\n\r\n",
            b"0\r\n\n",
            b"0\r\n\rx",
        ] {
            assert_eq!(decode(&[body]), Err(MalformedChunks), "{}", String::from_utf8_lossy(body));
        }
        let long = "x".repeat(usize::from(MAX_IGNORED));
        for (body, error) in [
            (format!("5;{long}"), false),
            (format!("5;{long}x"), true),
            (format!("0\r\n{long}"), false),
            (format!("0\r\n{}\r\nxx", &long[1..]), true),
        ] {
            assert_eq!(decode(&[body.as_bytes()]).is_err(), error, "{}", body.len());
        }
    }

    /// The data that actix-http reads after a chunked head, and whether the body has ended.
    fn by_actix(body: &[u8]) -> Result<(Vec<u8>, bool), ()> {
        let head = b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let (mut codec, mut data) = (Codec::default(), Vec::new());
        let mut bytes = BytesMut::from(&[&head[..], body].concat()[..]);
        loop {
            match codec.decode(&mut bytes).map_err(drop)? {
                Some(Message::Item(_)) => {}
                Some(Message::Chunk(Some(some))) => data.extend_from_slice(&some),
                Some(Message::Chunk(None)) => return Ok((data, true)),
                None => return Ok((data, false)),
            }
        }
    }

    /// A body that is accepted here has the same data for actix-http, an independent decoder of the same coding.
    #[test]
    fn actix_decodes_the_same_body() {
        let tokens: [&[u8]; 16] = [
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"1",
            b"a",
            b"0",
            b"\r\n",
            b"\r",
            b"\n",
            b";x=y",
            b" ",
            b"hello",
            b"x: y\r\n",
            b"ffffffffffffffff",
            b"F\r\n0123456789abcde\r\n",
            b"-",
            b"\0",
        ];
        let bodies = proptest::collection::vec(0..tokens.len(), 1..12);
        rt::System::new().block_on(async {
            let mut runner = TestRunner::new(Config::with_cases(8192));
            let check = |picks: Vec<usize>| {
                let body: Vec<u8> = picks.iter().flat_map(|pick| tokens[*pick]).copied().collect();
                // Only accepted bodies: actix-http is stricter about trailers.
                if let (Ok((data, rest)), Ok((theirs, ended))) = (decode(&[&body]), by_actix(&body))
                {
                    prop_assert_eq!(&data, &theirs);
                    prop_assert_eq!(rest.is_some(), ended);
                }
                Ok(())
            };
            runner.run(&bodies, check).unwrap();
        });
    }
}
