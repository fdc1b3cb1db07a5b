//! A request's head and a chunked body, on any bytes, compared with the decoder of actix-http. An accepted head, and
//! the substitute for a refused one, is a complete request without a body to actix-http. Where actix-http accepts the
//! original head, it finds the same end, and a body where this gateway finds one. Chunked bodies have the same data to
//! both. The outcome does not depend on where chunks end.
#![no_main]

use actix_http::h1::{Codec, Message, MessageType};
use actix_web::rt::task::yield_now;
use actix_web::rt::{System, SystemRunner};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tcb_upload_gateway::server::h1::chunked::{Chunked, Step};
use tcb_upload_gateway::server::h1::head_error::MAX_HEAD;
use tcb_upload_gateway::server::h1::head_for_actix::stand_in;
use tcb_upload_gateway::server::h1::head_parse::{self, BodyFraming};
use tcb_upload_gateway::server::h1::head_scan;
use tokio_util::codec::Decoder;

thread_local! {
    /// The codec's clock needs a running system.
    static SYSTEM: SystemRunner = System::new();
}

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

fn check_head(bytes: &[u8]) {
    let bytes = &bytes[head_scan::leading_line_breaks(bytes)..];
    let Some(end) = head_scan::find_end(bytes, 0).filter(|end| *end <= MAX_HEAD) else {
        return;
    };
    for length in 0..end {
        let begun = &bytes[..length];
        assert_eq!(head_scan::find_end(begun, 0), None);
        assert_eq!(head_scan::find_end(bytes, head_scan::resume_from(begun)), Some(end));
    }
    let sent = &bytes[..end];
    match head_parse::parse(sent) {
        Ok(parsed) => {
            let given = parsed.for_actix.as_deref().unwrap_or(sent);
            assert_eq!(decoded(given), Ok(Some((given.len(), false))));
            if let Ok(Some((length, has_body))) = decoded(sent) {
                let is_none = matches!(parsed.body, BodyFraming::None | BodyFraming::Length(0));
                // A WebSocket's request has a body to actix-http; here the upgrade is ignored, as RFC 9110 7.8 allows.
                let upgrades = memchr::memmem::find(&sent.to_ascii_lowercase(), b"websocket").is_some();
                assert_eq!(length, end);
                assert!(has_body != is_none || upgrades);
            }
        }
        Err(_) => {
            let given = stand_in(sent);
            assert_eq!(decoded(&given), Ok(Some((given.len(), false))));
        }
    }
}

/// The data, and the number of bytes after the body's end if it has ended.
type Body = (Vec<u8>, Option<usize>);

fn read(chunks: &[&[u8]]) -> Result<Body, ()> {
    let (mut chunked, mut data) = (Chunked::new(), Vec::new());
    let mut unread: usize = chunks.iter().map(|chunk| chunk.len()).sum();
    for chunk in chunks {
        let mut bytes = Bytes::copy_from_slice(chunk);
        unread -= chunk.len();
        loop {
            match chunked.step(&mut bytes).map_err(drop)? {
                Step::Data(some) => data.extend_from_slice(&some),
                Step::More => break,
                Step::End => return Ok((data, Some(bytes.len() + unread))),
            }
        }
    }
    Ok((data, None))
}

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

fn check_chunks(bytes: &[u8]) {
    let whole = read(&[bytes]);
    let cut = bytes.first().map_or(0, |first| usize::from(*first) % bytes.len());
    assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), whole);
    if let (Ok((data, rest)), Ok((theirs, ended))) = (whole, by_actix(bytes)) {
        assert_eq!((data, rest.is_some()), (theirs, ended));
    }
}

fuzz_target!(|input: &[u8]| {
    SYSTEM.with(|system| {
        system.block_on(async {
            check_head(input);
            check_chunks(input);
            // Lets the finished tasks of the codecs' clocks be freed.
            yield_now().await;
        });
    });
});
