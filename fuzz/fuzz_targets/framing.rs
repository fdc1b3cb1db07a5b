//! Where a request's head ends and how long its body is, on any bytes, against actix-http's own decoder: where we have no
//! doubt actix-http takes it for the same or refuses it, and with a length of zeros for the same request without a body.
//! However the bytes are cut, nothing else is found in a part of them.
#![no_main]

use actix_http::h1::{Codec, Message, MessageType};
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::rt::task::yield_now;
use actix_web::rt::{System, SystemRunner};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tcb_upload_gateway::http::framing::Framing;
use tokio_util::codec::Decoder;

thread_local! {
    /// The codec's clock needs one.
    static SYSTEM: SystemRunner = System::new();
}

/// What actix-http reads: how much of `bytes` the head was, whether a body follows, and the rest of it in words.
fn decoded(bytes: &[u8]) -> Result<Option<(usize, bool, String)>, ()> {
    let (mut codec, mut rest) = (Codec::default(), BytesMut::from(bytes));
    match codec.decode(&mut rest) {
        Ok(None) => Ok(None),
        Ok(Some(Message::Item(request))) => {
            let has_body = !matches!(codec.message_type(), MessageType::None);
            let headers = request.head().headers.iter().filter(|(name, _)| *name != CONTENT_LENGTH);
            let mut headers: Vec<_> = headers.collect();
            // Stable, so that equal names keep their order; that of different ones is the map's.
            headers.sort_by_key(|(name, _)| name.as_str());
            let said = format!("{} {} {headers:?}", request.method(), request.uri());
            Ok(Some((bytes.len() - rest.len(), has_body, said)))
        }
        Ok(Some(Message::Chunk(_))) | Err(_) => Err(()),
    }
}

fn check(bytes: &[u8]) {
    let found = Framing::of(bytes);
    if let Framing::Whole { head, .. } = found {
        assert!(head <= bytes.len());
        assert_eq!(Framing::of(&bytes[..head]), found);
        for length in 0..head {
            assert_eq!(Framing::of(&bytes[..length]), Framing::Partial);
        }
    }
    match found {
        Framing::Doubtful => {}
        Framing::Partial => assert!(!matches!(decoded(bytes), Ok(Some(_)))),
        Framing::Whole { head, body, digits } => {
            let as_it_is = decoded(bytes);
            let mut zeroed = bytes.to_vec();
            zeroed[digits].fill(b'0');
            let curtailed = decoded(&zeroed);
            match as_it_is {
                Ok(found) => {
                    let (length, has_body, said) = found.expect("all of it is there");
                    assert_eq!((length, has_body), (head, body > 0));
                    assert_eq!(curtailed, Ok(Some((head, false, said))));
                }
                Err(()) => assert_eq!(curtailed, Err(())),
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    SYSTEM.with(|system| {
        system.block_on(async {
            check(input);
            // The tasks of the codecs' clocks are done with, and are freed.
            yield_now().await;
        });
    });
});
