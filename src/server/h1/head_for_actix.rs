//! The heads that actix-http is given instead of those that clients sent.
//!
//! In a good head the framing of the body is masked, since bodies are read past actix-http, and so are `Expect` and
//! `Upgrade`. A refused head is replaced by a stand-in that actix-http accepts; the request is then refused by the
//! application like any other.

use std::ops::Range;

use actix_web::http::Method;
use memchr::memchr;

use super::head_error::MAX_TARGET;
use super::request_target::{escape, find_target, readable_path};

/// Bytes of a head that are overwritten before actix-http reads them. The head's length stays the same.
pub(super) struct Mask {
    pub(super) at: Range<usize>,
    pub(super) with: Filler,
}

pub(super) enum Filler {
    /// For a value: `0` makes a length of zero, a space makes no value.
    Byte(u8),
    /// Another name of the same length.
    Name(&'static [u8]),
}

/// Replaces `Transfer-Encoding` in the head that actix-http is given. A header of this name from a client means
/// nothing.
pub const MASKED_TRANSFER_ENCODING: &str = "x-gateway-chunked";

impl Mask {
    pub(super) fn apply(&self, head: &mut [u8]) {
        let bytes = &mut head[self.at.clone()];
        match self.with {
            Filler::Byte(byte) => bytes.fill(byte),
            Filler::Name(name) => bytes.copy_from_slice(name),
        }
    }
}

/// A good head that replaces a refused one. It has the refused one's method and path, as far as they can be read, and
/// the fields that a response needs: to be readable by a page on another origin, and to be found in the log.
pub fn stand_in(head: &[u8]) -> Vec<u8> {
    const COPIED: [&[u8]; 4] = [b"origin", b"x-request-id", b"accept-language", b"traceparent"];
    let mut lines =
        head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let method = first.split(|byte| *byte == b' ').next().unwrap_or_default();
    let method = Some(method).filter(|method| Method::from_bytes(method).is_ok());
    // The method stays `OPTIONS` for a preflight, which is thereby refused, too. A response to CONNECT has no body.
    let method = method.filter(|method| *method != b"CONNECT").unwrap_or(b"POST");
    let whole = find_target(head).ok().and_then(|target| escape(&head[target]).ok());
    let path = whole.filter(|path| path.len() <= MAX_TARGET).or_else(|| readable_path(first));
    let path = path.filter(|path| path.starts_with('/'));
    let mut stand_in = method.to_vec();
    stand_in.extend_from_slice(b" ");
    stand_in.extend_from_slice(path.as_deref().unwrap_or("/").as_bytes());
    stand_in.extend_from_slice(b" HTTP/1.1\r\nhost: -\r\nconnection: close\r\n");
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some(colon) = memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_copied = COPIED.iter().any(|copied| name.eq_ignore_ascii_case(copied));
        if is_copied && value.len() <= 1024 && value.iter().all(|byte| matches!(byte, b' '..=0x7e))
        {
            stand_in.extend_from_slice(name);
            stand_in.extend_from_slice(b": ");
            stand_in.extend_from_slice(value);
            stand_in.extend_from_slice(b"\r\n");
        }
    }
    stand_in.extend_from_slice(b"\r\n");
    stand_in
}

#[cfg(test)]
mod tests {
    use actix_http::h1::{Codec, Message, MessageType};
    use actix_web::rt;
    use bytes::BytesMut;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::server::h1::head_parse::{BodyFraming, parse};
    use crate::server::h1::head_scan::{find_end, leading_line_breaks};

    /// What actix-http reads: the head's length in `bytes`, and whether a body follows.
    fn decoded(bytes: &[u8]) -> Result<Option<(usize, bool)>, ()> {
        let (mut codec, mut rest) = (Codec::default(), BytesMut::from(bytes));
        match codec.decode(&mut rest) {
            Ok(None) => Ok(None),
            Ok(Some(Message::Item(_))) => {
                let has_body = !matches!(codec.message_type(), MessageType::None);
                Ok(Some((bytes.len() - rest.len(), has_body)))
            }
            Ok(Some(Message::Chunk(_))) | Err(_) => Err(()),
        }
    }

    /// actix-http accepts every head that it is given, whole and as one without a body, stand-ins included. Where it
    /// would have accepted the head that was received, it would have found the same end, and a body where there is one.
    #[test]
    fn actix_accepts_every_head_it_is_given() {
        let tokens: [&[u8]; 34] = [
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
            b"Upgrade: h2c\r\n",
            b"Connection: close, upgrade\r\n",
            b"GET / HTTP/1.1\r\n",
            b"POST /a HTTP/1.0\r\n",
            b"Host: a\r\n",
            b"\0",
            b",",
            b"Expect: 100-continue\r\n",
            "é".as_bytes(),
            b"#",
            b"CONNECT a HTTP/1.1\r\n",
            b"http://a/b",
            b"Origin: http://a\r\n",
            b"HTTP/1.1",
            b"/v1/files?a=b",
        ];
        let heads = (proptest::collection::vec(0..tokens.len(), 1..24), any::<bool>());
        let check = |(picks, begins): (Vec<usize>, bool)| {
            let begin: &[u8] =
                if begins { b"PUT /v1/files/a HTTP/1.1\r\nHost: a\r\n" } else { b"" };
            let mut bytes = begin.to_vec();
            picks.iter().for_each(|pick| bytes.extend_from_slice(tokens[*pick]));
            bytes.extend_from_slice(b"\r\n\r\n");
            let bytes = &bytes[leading_line_breaks(&bytes)..];
            let Some(end) = find_end(bytes, 0) else { return Ok(()) };
            let sent = &bytes[..end];
            match parse(sent) {
                Ok(parsed) => {
                    let given = parsed.for_actix.as_deref().unwrap_or(sent);
                    prop_assert_eq!(decoded(given), Ok(Some((given.len(), false))));
                    if let Ok(Some((length, has_body))) = decoded(sent) {
                        let is_none =
                            matches!(parsed.body, BodyFraming::None | BodyFraming::Length(0));
                        prop_assert_eq!((length, has_body), (end, !is_none));
                    }
                }
                Err(_) => {
                    let given = stand_in(sent);
                    prop_assert_eq!(decoded(&given), Ok(Some((given.len(), false))));
                }
            }
            Ok(())
        };
        rt::System::new().block_on(async {
            let mut runner = TestRunner::new(Config::with_cases(16384));
            runner.run(&heads, check).unwrap();
        });
    }
}
