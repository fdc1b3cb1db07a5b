//! A whole form, on any bytes: the outcome does not depend on where chunks end, and a file that ended validly contains
//! no delimiter.
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
use tcb_upload_gateway::inbound::form::{Form, PathFields};

#[derive(Debug, PartialEq)]
struct Outcome {
    fields: PathFields,
    /// Content, the length if the file is the last part, whether the file ended validly.
    files: Vec<(Vec<u8>, Option<u64>, bool)>,
    error: Option<InboundError>,
}

fn read(chunks: Vec<Bytes>, length: usize) -> Outcome {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=ab"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    let stream = futures::stream::iter(chunks.into_iter().map(Ok::<_, PayloadError>));
    let body = Body::new(Payload::Stream { payload: Box::pin(stream) }, Duration::from_secs(1));
    let form = Rc::new(RefCell::new(Form::new(&headers, body).expect("valid headers")));
    let mut outcome = Outcome { fields: PathFields::default(), files: Vec::new(), error: None };
    loop {
        // All chunks are in memory, so no future is ever pending.
        match Form::next_file(&form).now_or_never().expect("never pending") {
            Ok(Some(part)) => {
                outcome.files.push((Vec::new(), part.length_if_last, false));
                let file = outcome.files.last_mut().expect("just pushed");
                let mut source = Form::content(&form);
                loop {
                    match source.next().now_or_never().expect("never pending").expect("an event") {
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
    let split = read(chunks, body.len());
    let whole = read(vec![Bytes::copy_from_slice(body)], body.len());
    assert_eq!(split.error, whole.error);
    assert_eq!(split.fields, whole.fields);
    // A file that did not end may have been read to a different position.
    let ended =
        |outcome: &Outcome| outcome.files.iter().filter(|file| file.2).cloned().collect::<Vec<_>>();
    assert_eq!(ended(&split), ended(&whole));

    if whole.error.is_none() {
        assert!(body.trim_ascii_end().ends_with(b"--ab--"));
        for (content, length_if_last, ended) in &whole.files {
            assert!(ended);
            assert!(memchr::memmem::find(content, b"\r\n--ab").is_none());
            assert!(length_if_last.is_some());
        }
    }
});
