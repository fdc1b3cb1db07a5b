//! A form is read the same however it is split into chunks, and a truncated form stores nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use proptest::prelude::*;
use tcb_upload_gateway::file_stream::{FileEnd, FileEvent};
use tcb_upload_gateway::inbound::body::Body;
use tcb_upload_gateway::inbound::error::InboundError;
use tcb_upload_gateway::inbound::form::{Form as Inbound, PathFields};

use crate::harness::{Client, Form, Setup, authorization, crc64};

/// A file that looks like delimiters, so that the position of a split matters.
const TRICKY: &[u8] = b"\r\n--b\r--bo\r\n\r\n--\r";

/// Runs the inbound stage on chunks that are all available at once.
fn read(
    chunks: &[&[u8]],
    length: usize,
) -> Result<(PathFields, Vec<u8>, u64, FileEnd), InboundError> {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("multipart/form-data; boundary=bo");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let chunks: Vec<_> =
        chunks.iter().map(|chunk| Ok::<_, PayloadError>(Bytes::copy_from_slice(chunk))).collect();
    let payload: Payload = Payload::Stream { payload: stream::iter(chunks).boxed_local() };
    let form = Inbound::new(&headers, Body::new(payload, Duration::from_secs(1)))?;
    let form = Rc::new(RefCell::new(form));
    let reading = async {
        let part = Inbound::next_file(&form).await?.ok_or(InboundError::NoFile)?;
        let mut source = Inbound::content(&form);
        let mut content = Vec::new();
        loop {
            match source.next().await.expect("an end before the end of the stream") {
                Ok(FileEvent::Content(bytes)) => content.extend_from_slice(&bytes),
                Ok(FileEvent::End(end)) => {
                    let fields = form.borrow().fields().clone();
                    let framed = part.length_if_last.expect("a length was announced");
                    return Ok((fields, content, framed, end));
                }
                Err(error) => return Err(*error.downcast::<InboundError>().expect("its kind")),
            }
        }
    };
    reading.now_or_never().expect("nothing to wait for")
}

fn small_form(epilogue: &str) -> Vec<u8> {
    let mut bytes =
        b"--bo\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\na/b\r\n\
          --bo\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n\r\r\n\
          --bo\r\nContent-Disposition: form-data; name=\"f\"; filename=\"\xe4\xb8\xad\xff\"\r\n\r\n"
            .to_vec();
    bytes.extend_from_slice(TRICKY);
    bytes.extend_from_slice(b"\r\n--bo--");
    bytes.extend_from_slice(epilogue.as_bytes());
    bytes
}

fn assert_read(chunks: &[&[u8]], whole: &[u8], epilogue: &'static str) {
    let (fields, content, framed, end) = read(chunks, whole.len()).expect("a whole form");
    assert_eq!(fields.path.as_deref(), Some("a/b"));
    assert_eq!(content, TRICKY);
    assert_eq!(framed, (TRICKY.len() + epilogue.len()) as u64);
    assert_eq!(end, FileEnd { last: true, epilogue: Bytes::from_static(epilogue.as_bytes()) });
}

#[test]
fn every_split_in_two_three_and_four() {
    for epilogue in ["", "\r\n"] {
        let whole = small_form(epilogue);
        for a in 0..=whole.len() {
            for b in a..=whole.len() {
                assert_read(&[&whole[..a], &whole[a..b], &whole[b..]], &whole, epilogue);
            }
        }
    }
    let whole = small_form("\r\n");
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let whole = &whole;
            scope.spawn(move || {
                for a in (thread..=whole.len()).step_by(2) {
                    for b in a..=whole.len() {
                        for c in b..=whole.len() {
                            let chunks = [&whole[..a], &whole[a..b], &whole[b..c], &whole[c..]];
                            assert_read(&chunks, whole, "\r\n");
                        }
                    }
                }
            });
        }
    });
}

/// White space around the form and its delimiters, folded lines, encoded fields.
#[test]
fn every_split_of_unusual_forms() {
    let leads = ["\u{feff}", "\n", " \r\n\t\u{feff}\r", "a text\r\n"];
    for (lead, epilogue) in leads.into_iter().zip(["\r\n\r\n", "\n", " \t\r", "  \r\n"]) {
        let mut whole = lead.as_bytes().to_vec();
        whole.extend_from_slice(
            b"--bo \t\r\nContent-Disposition: form-data;\r\n name=path\r\n\
              Content-Transfer-Encoding: base64\r\n\r\nYS9\r\ni\r\n\
              --bo\r\nContent-Disposition: form-data; name=f; filename*=x\r\n\r\n",
        );
        whole.extend_from_slice(TRICKY);
        whole.extend_from_slice(b"\r\n--bo--");
        whole.extend_from_slice(epilogue.as_bytes());
        for a in 0..=whole.len() {
            for b in a..=whole.len() {
                assert_read(&[&whole[..a], &whole[a..b], &whole[b..]], &whole, epilogue);
            }
        }
        for end in 0..whole.len() {
            let cut = read(&[&whole[..end]], whole.len());
            assert_eq!(cut.map(drop), Err(InboundError::Truncated), "{end} bytes");
        }
    }
}

/// A refusal is the same however the form is split.
#[test]
fn every_split_of_refused_forms() {
    let file = "--bo\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\ncontent";
    let field = "Content-Disposition: form-data; name=x\r\n\r\nvalue";
    for whole in [
        format!("text\n{file}\r\n--bo--"),
        format!("text{file}\r\n--bo--"),
        format!("--bo\n{field}\r\n{file}\r\n--bo--"),
        format!("--bo\r\n{field}\n{file}\r\n--bo--"),
        format!("--bo\r\n{field}{file}\r\n--bo--"),
        format!("{file}\n--bo--\n"),
        format!("{file}--bo--\r\n"),
        format!("{file}\n--bo\r\n{field}\r\n--bo--"),
        format!("{file}\r\n--bo"),
        format!("{file}\r\n--bo--\r\nx"),
        format!("--bx{}\r\n--bx--", &file[4..]),
    ] {
        let whole = whole.as_bytes();
        let uncut = read(&[whole], whole.len()).expect_err("a refusal");
        assert_ne!(uncut, InboundError::Truncated);
        for a in 0..=whole.len() {
            for b in a..=whole.len() {
                let cut = read(&[&whole[..a], &whole[a..b], &whole[b..]], whole.len());
                assert_eq!(
                    cut.as_ref(),
                    Err(&uncut),
                    "{a} {b}: {}",
                    String::from_utf8_lossy(whole)
                );
            }
        }
    }
}

#[test]
fn every_prefix_is_a_truncated_form() {
    let whole = small_form("\r\n");
    for end in 0..whole.len() {
        match read(&[&whole[..end]], whole.len()) {
            Err(InboundError::Truncated) => {}
            other => panic!("{end} of {}: {other:?}", whole.len()),
        }
    }
}

proptest! {
    /// Files made of a delimiter's characters, split anywhere, in forms of one and of two parts.
    #[test]
    fn any_file_in_any_pieces(
        picks in proptest::collection::vec(0usize..8, 0..60),
        cuts in proptest::collection::vec(0usize..500, 0..12),
        closed in any::<bool>(),
    ) {
        let alphabet: [&[u8]; 8] = [b"\r", b"\n", b"-", b"\r\n--", b"\r\n--b", b"--bo", b"\r\n\r\n", b"x"];
        let content: Vec<u8> = picks.iter().flat_map(|pick| alphabet[*pick].iter().copied()).collect();
        // A real delimiter ends the file, and a file that begins with one is empty.
        prop_assume!(memchr::memmem::find(&content, b"\r\n--bo").is_none());
        prop_assume!(!content.starts_with(b"--bo"));
        let mut whole = b"--bo\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n".to_vec();
        whole.extend_from_slice(&content);
        let follows: &[u8] = if closed {
            b"\r\n--bo--\r\n"
        } else {
            b"\r\n--bo\r\nContent-Disposition: form-data; name=\"f\"; filename=\"y\"\r\n\r\nsecond\r\n--bo--"
        };
        whole.extend_from_slice(follows);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
        cuts.sort_unstable();
        let mut chunks = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([whole.len()]) {
            chunks.push(&whole[from..cut]);
            from = cut;
        }
        let (_, got, framed, end) = read(&chunks, whole.len()).expect("a form");
        prop_assert_eq!(&got, &content);
        prop_assert_eq!(end.last, closed);
        prop_assert_eq!(framed == (content.len() + end.epilogue.len()) as u64, closed);
    }
}

fn form() -> Form {
    Form::new().field("path", "cut").field("x", "\r").file("f", "x", "text/plain", TRICKY)
}

/// Chunked, so that the scanner gets each piece as it was split, however TCP segments it.
#[test]
fn every_split_in_three_through_the_whole_gateway() {
    let world = Setup::new().start();
    let whole = form().bytes();
    let crc = crc64(TRICKY);
    let threads = 8;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (world, whole, crc) = (&world, &whole, &crc);
            scope.spawn(move || {
                let mut client = world.client();
                // Splits in the first field's head are like those in the second's.
                for a in (whole.len() - 130 + thread..=whole.len()).step_by(threads) {
                    for b in a..=whole.len() {
                        send_cut(&mut client, whole, a, b);
                        let file = client.response().stored();
                        assert_eq!(file["crc64"], **crc, "cut at {a} and {b}");
                        assert_eq!(file["path"], "cut");
                    }
                }
            });
        }
    });
    assert_eq!(world.objects().len(), 1);
}

fn send_cut(client: &mut Client, whole: &[u8], a: usize, b: usize) {
    let kind = form().content_type();
    let headers = [authorization(), ("content-type", &kind), ("transfer-encoding", "chunked")];
    client.send_head("POST", "/v1/files", &headers);
    for piece in [&whole[..a], &whole[a..b], &whole[b..]] {
        if !piece.is_empty() {
            client.send_chunk(piece);
        }
    }
    client.send(b"0\r\n\r\n");
}

#[test]
fn every_prefix_of_a_form_stores_nothing() {
    let world = Setup::new().start();
    let whole = form().bytes();
    let kind = form().content_type();
    let length = whole.len().to_string();
    for end in 0..whole.len() {
        for reset in [false, true] {
            let mut client = world.client();
            let headers = [authorization(), ("content-type", &kind), ("content-length", &length)];
            client.send_head("POST", "/v1/files", &headers);
            client.send(&whole[..end]);
            if reset {
                client.reset();
            } else {
                client.finish();
                // A client that still reads gets a response.
                if let Ok(response) = client.try_response() {
                    response.problem(400, "truncated_body");
                }
            }
        }
    }
    world.assert_nothing_stored();
    let mut client = world.client();
    let headers = [authorization(), ("content-type", kind.as_str())];
    client.send_request("POST", "/v1/files", &headers, &whole);
    client.response().stored();
}
