//! POST Object (doc 14690): reads a form from the socket, verifies it while it is read, and stores the file if the
//! whole form is valid.

use std::rc::Rc;

use bytes::Bytes;

use super::conn::{AfterRequest, Conn};
use super::cos_response::{self, Refusal};
use super::fault::{self, FaultKind, Rule, Stage};
use super::fields::{Fields, VerifiedFields};
use super::form::{self, Event, Form};
use super::http::{ConnError, Content, Head, Response};
use super::record::InFlight;
use super::state::SandboxState;
use super::store::{Draft, Object};
use super::upload_clock::UploadClock;

/// In bytes: at most 5 GiB for an object, and 64 KiB for the form around it.
const BODY_MAX: u64 = 5 * 1024 * 1024 * 1024 + 64 * 1024;

/// In bytes: a form whose file stands first is refused for a larger file even under the fault `truncate`. COS has refused
/// such a form with 12.3 MB, and stored smaller ones, whole or not (public reports).
const FIRST_FILE_MAX: u64 = 1024 * 1024;

/// Why a form was not received to its end.
enum Stop {
    Refused(Refusal),
    Connection(ConnError),
    /// A fault applies at this point of the file.
    FaultHit,
}

impl<E: Into<Refusal>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Refused(error.into())
    }
}

/// A file whose whole form is valid.
struct Received {
    draft: Draft,
    verified: VerifiedFields,
    file_name: Option<String>,
    fields: Fields,
}

pub async fn handle(
    sandbox: &Rc<SandboxState>,
    conn: &mut Conn,
    head: &Head,
) -> Result<AfterRequest, ConnError> {
    sandbox.record.count("post_object");
    let url_key = cos_response::bucket_and_key(head).1.unwrap_or_default();
    let clock = UploadClock::start(sandbox);
    let upload = sandbox.record.begin(url_key, head.length);
    let rule = sandbox.faults.borrow_mut().hit(Stage::Cos, url_key);
    let rule = rule.as_ref();
    match rule {
        Some(rule) if rule.is(FaultKind::ResetBefore) => return Ok(AfterRequest::Reset),
        Some(rule) if rule.is(FaultKind::Slow) => conn.bytes_per_second = rule.bytes_per_second,
        _ => {}
    }
    let received = receive(sandbox, conn, head, rule, &upload).await;
    conn.bytes_per_second = None;
    let received = received.and_then(|received| {
        clock.check(rule)?;
        Ok(received)
    });
    match received {
        Ok(received) => store_and_respond(sandbox, conn, head, rule, &upload, received).await,
        Err(Stop::Refused(refusal)) => {
            refusal.record(sandbox, Some(url_key));
            let next = conn.send(refusal.response(&head.path)).await?;
            conn.discard_body().await;
            Ok(next)
        }
        Err(Stop::Connection(error)) => {
            let refusal = Refusal::new(
                400,
                "IncompleteBody",
                "You did not provide the number of bytes specified by the Content-Length HTTP header.",
            );
            refusal.record(sandbox, Some(url_key));
            if matches!(error, ConnError::Closed) {
                // The client may have closed only its sending side, and can still read a response.
                conn.send(refusal.response(&head.path)).await?;
            }
            Err(error)
        }
        Err(Stop::FaultHit) => match rule {
            Some(rule) => apply_fault(sandbox, conn, head, rule, &upload).await,
            None => Ok(AfterRequest::Close),
        },
    }
}

async fn receive(
    sandbox: &SandboxState,
    conn: &mut Conn,
    head: &Head,
    rule: Option<&Rule>,
    upload: &InFlight,
) -> Result<Received, Stop> {
    let url_key = check_head(sandbox, head)?;
    let content_type = head.header("content-type").unwrap_or_default();
    let boundary = form::boundary(content_type).ok_or_else(|| {
        Refusal::malformed("the Content-Type is not multipart/form-data with a plain boundary")
    })?;

    let mut form = Form::new(boundary);
    let truncates = rule.is_some_and(|rule| rule.is(FaultKind::Truncate));
    if truncates {
        form.allow_fields_after_file();
    }
    let mut fields = Fields::default();
    let mut file: Option<(Draft, Option<String>)> = None;
    // `None` also while a file that stands first is received.
    let mut verified = None;
    let fault_offset = rule.and_then(Rule::content_offset);
    let mut content = 0;
    while let Some(bytes) = conn.next_bytes().await.map_err(Stop::Connection)? {
        form.push(bytes);
        while let Some(event) = form.next()? {
            match event {
                Event::Field { name, value } => fields.add(name, value)?,
                Event::File { file_name } => {
                    if !(truncates && fields.is_incomplete()) {
                        let name = file_name.as_deref();
                        verified = Some(fields.verify(&sandbox.links, url_key, name)?);
                    }
                    let draft = sandbox
                        .store
                        .borrow()
                        .draft()
                        .map_err(|error| Refusal::internal(&error))?;
                    file = Some((draft, file_name));
                }
                Event::Data(mut bytes) => {
                    if let Some(after) = fault_offset {
                        bytes.truncate(usize::try_from(after - content).unwrap_or(usize::MAX));
                    }
                    let length = bytes.len() as u64;
                    if let Some(after) = rule.filter(|_| truncates).and_then(|rule| rule.after) {
                        let left = after.saturating_sub(content);
                        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    }
                    if let Some((draft, _)) = &mut file {
                        draft.write(&bytes).map_err(|error| Refusal::internal(&error))?;
                    }
                    content += length;
                    upload.received(length);
                    if verified.is_none() && content > FIRST_FILE_MAX {
                        return Err(Refusal::malformed("a large file comes first").into());
                    }
                }
            }
            if file.is_some() && fault_offset.is_some_and(|after| content >= after) {
                return Err(Stop::FaultHit);
            }
        }
        // The file is written with blocking calls: other connections must run in between.
        tokio::task::yield_now().await;
    }
    form.finish()?;
    let (draft, file_name) = file.ok_or_else(|| Refusal::malformed("a form without a file"))?;
    let verified = match verified {
        Some(verified) => verified,
        None => fields.verify(&sandbox.links, url_key, file_name.as_deref())?,
    };
    Ok(Received { draft, verified, file_name, fields })
}

fn check_head<'a>(sandbox: &SandboxState, head: &'a Head) -> Result<Option<&'a str>, Refusal> {
    let key = cos_response::key_of(sandbox, head)?;
    match head.length {
        None => Err(Refusal::new(
            411,
            "MissingContentLength",
            "You must provide the Content-Length HTTP header.",
        )),
        Some(length) if length > BODY_MAX => Err(Refusal::new(
            400,
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed object size.",
        )),
        Some(_) => Ok(key),
    }
}

async fn apply_fault(
    sandbox: &SandboxState,
    conn: &mut Conn,
    head: &Head,
    rule: &Rule,
    upload: &InFlight,
) -> Result<AfterRequest, ConnError> {
    let response = match rule.fault {
        FaultKind::ResetWithin => return Ok(AfterRequest::Reset),
        FaultKind::Stall => {
            upload.stalled();
            fault::stall(conn, rule, &sandbox.faults_cleared).await;
            return Ok(AfterRequest::Reset);
        }
        FaultKind::Early2xx => stored_response(204, "\"0\"", None, String::new()),
        _ => cos_response::fault_response(rule, rule.status.unwrap_or(500), &head.path),
    };
    fault::send_early(conn, rule, response).await
}

/// For a valid form: stores the file, unless a fault prevents that, and sends the response.
async fn store_and_respond(
    sandbox: &SandboxState,
    conn: &mut Conn,
    head: &Head,
    rule: Option<&Rule>,
    upload: &InFlight,
    received: Received,
) -> Result<AfterRequest, ConnError> {
    let stores = rule.is_none_or(|rule| match rule.fault {
        FaultKind::Status
        | FaultKind::Early
        | FaultKind::Huge
        | FaultKind::Stall
        | FaultKind::Close
        | FaultKind::Garbage
        | FaultKind::ResetWithin => rule.store.unwrap_or(false),
        _ => true,
    });
    if !stores {
        let mut response = Response::text(500, "");
        cos_response::apply_fault(&mut response, rule, &head.path);
        // The file was shorter than the rule's `after`, so `receive` did not apply the rule.
        let rule = rule.filter(|rule| !rule.is(FaultKind::ResetWithin));
        return match rule {
            None => Ok(AfterRequest::Reset),
            rule => fault::send_with_fault(conn, rule, response, &sandbox.faults_cleared).await,
        };
    }
    let key = received.verified.key.clone();
    let status = received.verified.success_status;
    let stored = store(sandbox, received);
    let mut response = match stored {
        Ok(object) => {
            upload.stored();
            let crc64 = match rule {
                Some(rule) if rule.is(FaultKind::NoCrc) => None,
                Some(rule) if rule.is(FaultKind::Truncate) && rule.crc != Some(true) => None,
                Some(rule) if rule.is(FaultKind::WrongCrc) => Some(wrong_crc64(&object.crc64)),
                _ => sandbox.post_crc.then(|| object.crc64.clone()),
            };
            let mut response =
                stored_response(status, &object.etag(), crc64, sandbox.links.url(&key));
            if status == 201 {
                add_post_response(&mut response, &sandbox.bucket, &key);
            }
            response
        }
        Err(refusal) => {
            refusal.record(sandbox, Some(&key));
            refusal.response(&head.path)
        }
    };
    cos_response::apply_fault(&mut response, rule, &head.path);
    match rule {
        // These were applied while the form was read.
        Some(rule)
            if matches!(rule.fault, FaultKind::Slow | FaultKind::Early | FaultKind::Early2xx) =>
        {
            conn.send(response).await
        }
        Some(rule) if rule.is(FaultKind::ResetWithin) => Ok(AfterRequest::Reset),
        rule => fault::send_with_fault(conn, rule, response, &sandbox.faults_cleared).await,
    }
}

fn store(sandbox: &SandboxState, received: Received) -> Result<Object, Refusal> {
    let verified = received.verified;
    sandbox
        .store
        .borrow_mut()
        .commit(
            received.draft,
            &verified.key,
            verified.content_type,
            verified.fileid_ok,
            received.file_name,
            received.fields.all,
        )
        .map_err(|error| Refusal::internal(&error))
}

/// The response to a stored form; its body is empty, whatever the status.
fn stored_response(status: u16, etag: &str, crc64: Option<String>, location: String) -> Response {
    let mut headers = vec![
        ("ETag", etag.to_owned()),
        ("x-cos-request-id", cos_response::request_id()),
        ("Server", "tencent-cos".to_owned()),
    ];
    if let Some(crc64) = crc64 {
        headers.push(("x-cos-hash-crc64ecma", crc64));
    }
    if !location.is_empty() {
        headers.push(("Location", location));
    }
    Response::with_headers(status, headers, Content::Bytes(Bytes::new()))
}

/// Adds the body that the status 201 has (doc 14690).
fn add_post_response(response: &mut Response, bucket: &str, key: &str) {
    let header = |wanted: &str| {
        let found = response.headers.iter().find(|(name, _)| *name == wanted);
        cos_response::escaped(found.map_or("", |(_, value)| value))
    };
    let (location, etag) = (header("Location"), header("ETag"));
    let (bucket, key) = (cos_response::escaped(bucket), cos_response::escaped(key));
    let xml = format!(
        "<?xml version='1.0' encoding='utf-8' ?>\n<PostResponse>\n\t<Location>{location}</Location>\n\
         \t<Bucket>{bucket}</Bucket>\n\t<Key>{key}</Key>\n\t<ETag>{etag}</ETag>\n</PostResponse>\n"
    );
    response.headers.push(("Content-Type", "application/xml".to_owned()));
    response.content = Content::Bytes(xml.into());
}

fn wrong_crc64(crc64: &str) -> String {
    let crc: u64 = crc64.parse().unwrap_or_default();
    (crc ^ 1).to_string()
}
