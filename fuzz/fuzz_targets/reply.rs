//! COS's or WeChat's response as a connection brings it, on any bytes: however they are cut the outcome is the same,
//! and no more of them is held than the bounds allow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcb_upload_gateway::net::http_client::response::{ResponseError, HeaderVisitor, ResponseParser, Response};

/// Bytes that may follow a head.
const LIMIT: usize = 1024;
/// A head, the largest thing that is held whole.
const HEAD_LIMIT: usize = 16 * 1024;

/// The headers that were shown.
#[derive(Debug, Default, PartialEq)]
struct Seen(Vec<(String, Vec<u8>)>);

impl HeaderVisitor for Seen {
    fn see(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.to_owned()));
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Response(Response, Seen, bool),
    Unanswered,
    CutShort(u16, Seen),
}

/// What a receiver makes of `bytes` that come in `pieces` and then end.
fn received<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let (mut receiver, mut seen) = (ResponseParser::new(LIMIT), Seen::default());
    let mut result = None;
    for piece in pieces {
        if result.is_none() {
            // What is there is less than a head or than a body of the limit; the piece comes behind it.
            let held = receiver.room().len();
            assert!(held <= HEAD_LIMIT, "{held} bytes are held");
        }
        receiver.room().extend_from_slice(piece);
        if result.is_none() {
            result = receiver.advance(&mut seen).transpose();
        }
    }
    match result.unwrap_or_else(|| receiver.end(None)) {
        Ok(reply) => {
            assert!(reply.body.len() <= LIMIT);
            assert!(reply.status >= 200);
            Outcome::Response(reply, seen, receiver.keeps())
        }
        Err(ResponseError::Unanswered(_)) => Outcome::Unanswered,
        Err(ResponseError::CutShort { status, .. }) => Outcome::CutShort(status, seen),
    }
}

// The first byte says how many cuts follow, two bytes each; the rest is received.
fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let (cuts, bytes) = rest.split_at(rest.len().min(2 * usize::from(count % 8)));
    let cuts = cuts.chunks_exact(2).map(|cut| usize::from(u16::from_le_bytes([cut[0], cut[1]])));
    let mut cuts: Vec<_> = cuts.map(|cut| cut.min(bytes.len())).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());

    let whole = received(std::iter::once(bytes));
    let mut from = 0;
    let pieces = cuts.into_iter().map(|cut| &bytes[std::mem::replace(&mut from, cut)..cut]);
    assert_eq!(received(pieces), whole);
    // Byte by byte, where it is not too long for that.
    if bytes.len() <= 512 {
        assert_eq!(received(bytes.chunks(1)), whole);
    }
});
