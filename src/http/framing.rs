//! Where a request's head ends, and how long its body is, as far as there can be no doubt.
//!
//! actix-http is the one that knows what a request is. Whoever reads beside it must come to the same end, so only heads
//! are understood here that leave nothing to interpret: whole lines, one plain Content-Length or none, and nothing else
//! that has a say in where a body ends. All others are left to it.

use std::ops::Range;

/// What is known of the head that some bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// It goes on behind them.
    Partial,
    /// It is so long, and so is its body, as the Content-Length's `digits` say.
    Whole { head: usize, body: u64, digits: Range<usize> },
    /// It has to be interpreted.
    Doubtful,
}

impl Framing {
    /// Of the bytes at the beginning of a request.
    pub fn of(bytes: &[u8]) -> Self {
        let mut length = None;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let Some(line) = bytes[start..end].strip_suffix(b"\r") else {
                return Self::Doubtful;
            };
            match (line, start) {
                ([], 0) => return Self::Doubtful,
                ([], _) => {
                    let (body, digits) = length.unwrap_or_default();
                    return Self::Whole { head: end + 1, body, digits };
                }
                // What follows is no body of any length.
                (_, 0) if line.starts_with(b"CONNECT") => return Self::Doubtful,
                (_, 0) => {}
                _ => match field(line) {
                    Field::Length(body, digits) if length.is_none() => {
                        length = Some((body, start + digits.start..start + digits.end));
                    }
                    Field::Length(..) | Field::Doubtful => return Self::Doubtful,
                    Field::Other => {}
                },
            }
            start = end + 1;
        }
        Self::Partial
    }
}

enum Field {
    Length(u64, Range<usize>),
    Doubtful,
    Other,
}

fn field(line: &[u8]) -> Field {
    let Some(colon) = memchr::memchr(b':', line) else {
        return Field::Doubtful;
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name != name.trim_ascii() {
        return Field::Doubtful;
    }
    // Compared only where it may be one of them.
    match name.len() {
        14 if name.eq_ignore_ascii_case(b"content-length") => {
            let digits = value.trim_ascii();
            let plain = digits.iter().all(u8::is_ascii_digit);
            let parsed = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            match parsed.filter(|_| plain) {
                Some(length) => {
                    let padding = value.len() - value.trim_ascii_start().len();
                    let start = colon + 1 + padding;
                    Field::Length(length, start..start + digits.len())
                }
                None => Field::Doubtful,
            }
        }
        17 if name.eq_ignore_ascii_case(b"transfer-encoding") => Field::Doubtful,
        7 if name.eq_ignore_ascii_case(b"upgrade") => Field::Doubtful,
        _ => Field::Other,
    }
}

#[cfg(test)]
mod tests {
    use actix_http::h1::{Codec, Message, MessageType};
    use actix_web::http::header::CONTENT_LENGTH;
    use actix_web::rt;
    use bytes::BytesMut;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use tokio_util::codec::Decoder;

    use super::*;

    #[test]
    fn heads_as_clients_send_them() {
        let head = "POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n";
        let digits = head.find("12").unwrap();
        let whole = Framing::Whole { head: head.len(), body: 12, digits: digits..digits + 2 };
        assert_eq!(Framing::of(format!("{head}content-length: 7\r\n\r\n").as_bytes()), whole);
        for length in 0..head.len() {
            assert_eq!(Framing::of(&head.as_bytes()[..length]), Framing::Partial);
        }
        let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(Framing::of(plain), Framing::Whole { head: plain.len(), body: 0, digits: 0..0 });
    }

    #[test]
    fn what_has_to_be_interpreted_is_left_alone() {
        for fields in [
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding: identity\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Content-Length : 1\r\n",
            " Content-Length: 1\r\n",
            "X: y\r\n Content-Length: 1\r\n",
            "X: y\nContent-Length: 1\r\n",
            "Upgrade: websocket\r\nContent-Length: 1\r\n",
            "X\r\n",
        ] {
            let head = format!("PUT / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(Framing::of(head.as_bytes()), Framing::Doubtful, "{fields}");
        }
        assert_eq!(Framing::of(b"\r\nGET / HTTP/1.1\r\n\r\n"), Framing::Doubtful);
        assert_eq!(Framing::of(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), Framing::Doubtful);
    }

    /// What actix-http reads: how much of `bytes` the head was, whether a body follows, and the rest of it in words.
    fn decoded(bytes: &[u8]) -> Result<Option<(usize, bool, String)>, ()> {
        let (mut codec, mut rest) = (Codec::default(), BytesMut::from(bytes));
        match codec.decode(&mut rest) {
            Ok(None) => Ok(None),
            Ok(Some(Message::Item(request))) => {
                let has_body = !matches!(codec.message_type(), MessageType::None);
                let mut head = request.head().headers.clone();
                head.remove(CONTENT_LENGTH);
                let said = format!("{} {} {head:?}", request.method(), request.uri());
                Ok(Some((bytes.len() - rest.len(), has_body, said)))
            }
            Ok(Some(Message::Chunk(_))) | Err(_) => Err(()),
        }
    }

    /// Whatever a stranger sends: where we have no doubt, actix-http takes it for the same, or refuses it; and with a
    /// length of zeros it takes it for the same request without a body.
    #[test]
    fn there_is_no_other_opinion() {
        let tokens: [&[u8]; 26] = [
            b"Content-Length",
            b"content-length: 5\r\n",
            b"Content-Length: 0\r\n",
            b"transfer-encoding",
            b"chunked",
            b"Transfer-Encoding: chunked\r\n",
            b": ",
            b":",
            b"5",
            b"00",
            b"+",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b"X: y\r\n",
            b"X-\xe6: \xe6\r\n",
            b"Upgrade: websocket\r\n",
            b"Connection: close\r\n",
            b"GET / HTTP/1.1\r\n",
            b"POST /a HTTP/1.0\r\n",
            b"Host: a\r\n",
            b"\0",
            b",",
        ];
        let heads = (proptest::collection::vec(0..tokens.len(), 1..24), any::<bool>());
        let the_same = |(pieces, begins): (Vec<usize>, bool)| {
            let begin: &[u8] =
                if begins { b"PUT /v1/files/a HTTP/1.1\r\nHost: a\r\n" } else { b"" };
            let mut bytes = begin.to_vec();
            pieces.iter().for_each(|piece| bytes.extend_from_slice(tokens[*piece]));
            bytes.extend_from_slice(if begins { b"\r\n\r\n" } else { b"" });
            match Framing::of(&bytes) {
                Framing::Doubtful => {}
                Framing::Partial => prop_assert!(!matches!(decoded(&bytes), Ok(Some(_)))),
                Framing::Whole { head, body, digits } => {
                    let as_it_is = decoded(&bytes);
                    bytes[digits].fill(b'0');
                    let curtailed = decoded(&bytes);
                    if let Ok(found) = as_it_is {
                        let (length, has_body, said) = found.expect("all of it is there");
                        prop_assert_eq!((length, has_body), (head, body > 0));
                        prop_assert_eq!(curtailed, Ok(Some((head, false, said))));
                    } else {
                        prop_assert_eq!(curtailed, Err(()));
                    }
                }
            }
            Ok(())
        };
        rt::System::new().block_on(async {
            let mut runner = TestRunner::new(Config::with_cases(8192));
            runner.run(&heads, the_same).unwrap();
        });
    }
}
