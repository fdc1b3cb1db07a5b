//! An upstream's response, on any bytes: the outcome does not depend on where chunks end, and no more bytes are
//! buffered than the limits allow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcb_upload_gateway::net::http_client::response::{
    HeaderVisitor, Response, ResponseError, ResponseParser,
};

/// The longest body, in bytes.
const LIMIT: usize = 1024;
/// The longest head in bytes. Nothing longer is buffered.
const HEAD_LIMIT: usize = 16 * 1024;

/// The headers that the visitor got.
#[derive(Debug, Default, PartialEq)]
struct Seen(Vec<(String, Vec<u8>)>);

impl HeaderVisitor for Seen {
    fn visit(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.to_owned()));
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Response(Response, Seen, bool),
    NoResponse,
    BadBody(u16, Seen),
}

/// What the parser makes of a response that comes in `chunks` and then ends.
fn parse<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let (mut parser, mut seen) = (ResponseParser::new(LIMIT), Seen::default());
    let mut result = None;
    for chunk in chunks {
        if result.is_none() {
            // Before the next chunk, the buffer has less than a head or than the longest body.
            let buffered = parser.buffer().len();
            assert!(buffered <= HEAD_LIMIT, "{buffered} bytes are buffered");
        }
        parser.buffer().extend_from_slice(chunk);
        if result.is_none() {
            result = parser.advance(&mut seen).transpose();
        }
    }
    match result.unwrap_or_else(|| parser.end(None)) {
        Ok(response) => {
            assert!(response.body.len() <= LIMIT);
            assert!(response.status >= 200);
            Outcome::Response(response, seen, parser.is_reusable())
        }
        Err(ResponseError::NoResponse(_)) => Outcome::NoResponse,
        Err(ResponseError::BadBody { status, .. }) => Outcome::BadBody(status, seen),
    }
}

// The first byte is the number of cuts that follow, two bytes each; the rest is the response.
fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let (cuts, bytes) = rest.split_at(rest.len().min(2 * usize::from(count % 8)));
    let cuts = cuts.chunks_exact(2).map(|cut| usize::from(u16::from_le_bytes([cut[0], cut[1]])));
    let mut cuts: Vec<_> = cuts.map(|cut| cut.min(bytes.len())).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());

    let whole = parse(std::iter::once(bytes));
    let mut from = 0;
    let chunks = cuts.into_iter().map(|cut| &bytes[std::mem::replace(&mut from, cut)..cut]);
    assert_eq!(parse(chunks), whole);
    // Byte by byte as well, unless that takes too long.
    if bytes.len() <= 512 {
        assert_eq!(parse(bytes.chunks(1)), whole);
    }
});
