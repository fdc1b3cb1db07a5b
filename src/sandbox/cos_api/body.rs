//! The bytes of a file or of a part: read into a draft, with the faults that apply in the middle of them.

use super::super::conn::{AfterRequest, Conn};
use super::super::cos_response::{self, Refusal, request_id};
use super::super::fault::{self, FaultKind, Rule};
use super::super::http::{ConnError, Content, Response};
use super::super::record::InFlight;
use super::super::store::Draft;
use super::super::upload_clock::UploadClock;
use super::request::Request;

/// In bytes; of an object by PUT, and of a part.
const SIZE_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// Why there is no response of the operation's own.
pub enum Stop {
    Refused(Refusal),
    Connection(ConnError),
    /// The fault applies at this point of the body.
    FaultHit(Rule),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

/// Checks the length before a byte is read. A chunked body has none.
pub fn check_length(request: &Request) -> Result<(), Refusal> {
    match request.head.length {
        None if !request.head.chunked => {
            let message = "You must provide the Content-Length HTTP header.";
            Err(Refusal::new(411, "MissingContentLength", message))
        }
        Some(length) => check_size(length),
        None => Ok(()),
    }
}

fn check_size(size: u64) -> Result<(), Refusal> {
    if size <= SIZE_MAX {
        return Ok(());
    }
    let message = "Your proposed upload exceeds the maximum allowed object size.";
    Err(Refusal::new(400, "EntityTooLarge", message))
}

/// Reads the body to its end. The result is the MD5 in hexadecimal, or another unique value where bytes are discarded.
pub async fn receive(
    request: &Request<'_>,
    conn: &mut Conn,
    draft: Draft,
    upload: &InFlight,
) -> Result<(Draft, String), Stop> {
    let expected_md5 = request.head.header("content-md5");
    // An MD5 costs more than everything else of a request.
    let computes = expected_md5.is_some() || !request.sandbox.store.borrow().discards();
    let mut draft = if computes { draft.with_md5() } else { draft };
    conn.bytes_per_second =
        request.rule.filter(|rule| rule.is(FaultKind::Slow)).and_then(|rule| rule.bytes_per_second);
    let clock = UploadClock::start(request.sandbox);
    let read = read(request, conn, &mut draft, upload).await;
    conn.bytes_per_second = None;
    read?;
    clock.check(request.rule)?;
    let md5 = draft.md5();
    if let (Some(expected), Some(md5)) = (expected_md5, md5) {
        check_md5(expected, md5)?;
    }
    let etag = md5.map_or_else(|| format!("{:032x}", fastrand::u128(..)), hex::encode);
    Ok((draft, etag))
}

async fn read(
    request: &Request<'_>,
    conn: &mut Conn,
    draft: &mut Draft,
    upload: &InFlight,
) -> Result<(), Stop> {
    let fault = request.rule.and_then(|rule| Some((rule, rule.content_offset()?)));
    loop {
        if let Some((rule, after)) = fault
            && draft.size() >= after
        {
            if rule.is(FaultKind::Stall) {
                upload.stalled();
            }
            return Err(Stop::FaultHit(rule.clone()));
        }
        let Some(mut bytes) = conn.next_bytes().await.map_err(Stop::Connection)? else {
            return Ok(());
        };
        if let Some((_, after)) = fault {
            bytes.truncate(usize::try_from(after - draft.size()).unwrap_or(usize::MAX));
        }
        draft.write(&bytes).map_err(|error| Refusal::internal(&error))?;
        upload.received(bytes.len() as u64);
        check_size(draft.size())?;
        // The file is written with blocking calls: other connections must run in between.
        tokio::task::yield_now().await;
    }
}

/// `Content-MD5` is base64 of 16 bytes.
pub fn check_md5(expected: &str, md5: [u8; 16]) -> Result<(), Refusal> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    match STANDARD.decode(expected) {
        Ok(bytes) if bytes == md5 => Ok(()),
        Ok(bytes) if bytes.len() == md5.len() => {
            let message = "The Content-MD5 you specified did not match what we received.";
            Err(Refusal::new(400, "BadDigest", message))
        }
        _ => {
            let message = "The Content-MD5 you specified is not valid.";
            Err(Refusal::new(400, "InvalidDigest", message))
        }
    }
}

pub async fn apply_fault(
    request: &Request<'_>,
    conn: &mut Conn,
    rule: &Rule,
) -> Result<AfterRequest, ConnError> {
    let response = match rule.fault {
        FaultKind::ResetWithin => return Ok(AfterRequest::Reset),
        FaultKind::Stall => {
            fault::stall(conn, rule, &request.sandbox.faults_cleared).await;
            return Ok(AfterRequest::Reset);
        }
        FaultKind::Early2xx => {
            let headers = vec![
                ("ETag", format!("\"{:032x}\"", fastrand::u128(..))),
                ("x-cos-request-id", request_id()),
            ];
            Response::with_headers(200, headers, Content::Bytes(Default::default()))
        }
        _ => cos_response::fault_response(rule, rule.status.unwrap_or(500), &request.head.path),
    };
    fault::send_early(conn, rule, response).await
}
