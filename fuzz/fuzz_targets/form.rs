//! A whole form, on any bytes: however it is cut the outcome is the same, and a file that is said to have ended is
//! exactly what stands between its head and the next delimiter.
#![no_main]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use libfuzzer_sys::fuzz_target;
use tcb_upload_gateway::file_stream::FileEvent;
use tcb_upload_gateway::inbound::body::Body;
use tcb_upload_gateway::inbound::error::InboundError;
use tcb_upload_gateway::inbound::form::{Fields, Form};

#[derive(Debug, PartialEq)]
struct Outcome {
    fields: Fields,
    /// Content, what was said of its length, whether it ended well.
    files: Vec<(Vec<u8>, Option<u64>, bool)>,
    error: Option<InboundError>,
}

fn read(chunks: Vec<Bytes>, length: usize) -> Outcome {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=ab"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let stream = futures::stream::iter(chunks.into_iter().map(Ok::<_, PayloadError>));
    let body = Body::new(Payload::Stream { payload: Box::pin(stream) }, Duration::from_secs(1));
    let form = Rc::new(RefCell::new(Form::new(&headers, body).expect("the headers are fine")));
    let mut outcome = Outcome { fields: Fields::default(), files: Vec::new(), error: None };
    loop {
        // Every chunk is there, so nothing is ever pending.
        match Form::next_file(&form).now_or_never().expect("never pending") {
            Ok(Some(part)) => {
                outcome.files.push((Vec::new(), part.framed, false));
                let file = outcome.files.last_mut().expect("just pushed");
                let mut source = Form::content(&form);
                loop {
                    match source.next().now_or_never().expect("never pending").expect("a piece") {
                        Ok(FileEvent::Content(bytes)) => file.0.extend_from_slice(&bytes),
                        Ok(FileEvent::End(_)) => {
                            file.2 = true;
                            break;
                        }
                        Err(error) => {
                            outcome.error = error.downcast().ok().map(|error| *error);
                            return outcome;
                        }
                    }
                }
            }
            Ok(None) => break,
            Err(error) => {
                outcome.error = Some(error);
                return outcome;
            }
        }
    }
    outcome.fields = form.borrow().fields().clone();
    outcome
}

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let (cuts, body) = rest.split_at(rest.len().min(usize::from(count % 8)));
    let mut cuts: Vec<_> = cuts.iter().map(|cut| usize::from(*cut).min(body.len())).collect();
    cuts.sort_unstable();
    cuts.push(body.len());
    let mut from = 0;
    let mut chunks = Vec::new();
    for cut in cuts {
        chunks.push(Bytes::copy_from_slice(&body[from..cut]));
        from = cut;
    }
    let cut = read(chunks, body.len());
    let whole = read(vec![Bytes::copy_from_slice(body)], body.len());
    assert_eq!(cut.error, whole.error);
    assert_eq!(cut.fields, whole.fields);
    // A file that did not end may have been handed out to a different point.
    let ended = |outcome: &Outcome| outcome.files.iter().filter(|file| file.2).cloned().collect::<Vec<_>>();
    assert_eq!(ended(&cut), ended(&whole));

    if whole.error.is_none() {
        assert!(body.trim_ascii_end().ends_with(b"--ab--"));
        for (content, framed, ended) in &whole.files {
            assert!(ended);
            assert!(memchr::memmem::find(content, b"\r\n--ab").is_none());
            assert!(framed.is_some());
        }
    }
});
