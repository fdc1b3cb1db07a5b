//! The API of COS: which operation a request is, and its way from the signature to the response, with the faults on it.
//! Path style (`/{bucket}/{key}`) and host style (`/{key}`); any host stands for the bucket, as custom domains do.
//!
//! - `request`: a request with its key and its fault; `auth`: the signature (doc 7778); `body`: files and parts as they are read
//! - `put_object`, `multipart`, `complete`, `list`, `object`: the operations

mod auth;
mod body;
mod complete;
mod list;
mod multipart;
mod object;
mod put_object;
mod request;

use std::rc::Rc;

use super::conn::{AfterRequest, Conn};
use super::cos_response::{Refusal, apply_fault};
use super::fault::{self, FaultKind, Stage};
use super::http::{ConnError, Head, Response};
use super::state::SandboxState;
use body::Stop;
use request::Request;

#[derive(Clone, Copy, PartialEq)]
pub enum Operation {
    Put,
    Initiate,
    Part,
    Complete,
    Abort,
    ListParts,
    ListUploads,
    ListObjects,
    Get,
    Head,
    Delete,
}

impl Operation {
    /// `None`: the request is a form, a download by a signed URL, or nothing that COS knows.
    pub fn of(head: &Head) -> Option<Operation> {
        let has = |name: &str| head.parameter(name).is_some();
        let operation = match head.method.as_str() {
            "PUT" if has("partNumber") || has("uploadId") => Operation::Part,
            "PUT" => Operation::Put,
            "POST" if has("uploads") => Operation::Initiate,
            "POST" if has("uploadId") => Operation::Complete,
            "DELETE" if has("uploadId") => Operation::Abort,
            "DELETE" => Operation::Delete,
            "GET" if has("uploads") => Operation::ListUploads,
            "GET" if has("uploadId") => Operation::ListParts,
            "GET" if auth::is_signed(head) => Operation::Get,
            "HEAD" if auth::is_signed(head) => Operation::Head,
            _ => return None,
        };
        Some(operation)
    }

    /// Its name in the record's counts.
    fn name(self) -> &'static str {
        match self {
            Operation::Put => "put_object",
            Operation::Initiate => "initiate",
            Operation::Part => "upload_part",
            Operation::Complete => "complete",
            Operation::Abort => "abort",
            Operation::ListParts => "list_parts",
            Operation::ListUploads => "list_uploads",
            Operation::ListObjects => "list_objects",
            Operation::Get => "get_object",
            Operation::Head => "head_object",
            Operation::Delete => "delete_object",
        }
    }

    fn stage(self) -> Stage {
        match self {
            Operation::Put => Stage::Put,
            Operation::Initiate => Stage::Initiate,
            Operation::Part => Stage::Part,
            Operation::Complete => Stage::Complete,
            Operation::Abort => Stage::Abort,
            Operation::ListParts => Stage::ListParts,
            Operation::ListUploads => Stage::ListUploads,
            Operation::ListObjects => Stage::ListObjects,
            Operation::Get => Stage::Object,
            Operation::Head => Stage::Head,
            Operation::Delete => Stage::DeleteObject,
        }
    }

    fn takes_content(self) -> bool {
        matches!(self, Operation::Put | Operation::Part)
    }
}

pub async fn handle(
    sandbox: &Rc<SandboxState>,
    conn: &mut Conn,
    head: &Head,
    operation: Operation,
) -> Result<AfterRequest, ConnError> {
    let key = key_of(sandbox, head);
    let operation = match operation {
        // Of the bucket itself.
        Operation::Get if key.is_empty() => Operation::ListObjects,
        operation => operation,
    };
    sandbox.record.count(operation.name());
    let part = head.parameter("partNumber").and_then(|number| number.parse().ok());
    let keys = format!("{key}{}", head.parameter("prefix").unwrap_or_default());
    let rule = sandbox.faults.borrow_mut().hit_part(operation.stage(), &keys, part);
    let rule = rule.as_ref();
    if rule.is_some_and(|rule| rule.is(FaultKind::ResetBefore)) {
        return Ok(AfterRequest::Reset);
    }
    let request = Request { sandbox, head, key, rule };
    let mut response = match execute(&request, conn, operation).await {
        Ok(response) => response,
        Err(Stop::Refused(refusal)) => {
            refusal.record(sandbox, Some(key));
            let response = refusal.response(&head.path);
            if !conn.body_done() {
                let next = conn.send(response).await?;
                conn.discard_body().await;
                return Ok(next);
            }
            response
        }
        Err(Stop::Connection(error)) => {
            let message = "You did not provide the number of bytes specified by the Content-Length HTTP header.";
            let refusal = Refusal::new(400, "IncompleteBody", message);
            refusal.record(sandbox, Some(key));
            if matches!(error, ConnError::Closed) {
                // The client may have closed only its sending side, and can still read a response.
                conn.send(refusal.response(&head.path)).await?;
            }
            return Err(error);
        }
        Err(Stop::FaultHit(rule)) => return body::apply_fault(&request, conn, &rule).await,
    };
    apply_fault(&mut response, rule, &head.path);
    match rule.map(|rule| rule.fault) {
        // These were applied while the body was read, or would have been if it had been longer.
        Some(FaultKind::Slow | FaultKind::Early | FaultKind::Early2xx)
            if operation.takes_content() =>
        {
            conn.send(response).await
        }
        Some(FaultKind::ResetWithin) if operation.takes_content() => Ok(AfterRequest::Reset),
        _ => fault::send_with_fault(conn, rule, response, &sandbox.faults_cleared).await,
    }
}

async fn execute(
    request: &Request<'_>,
    conn: &mut Conn,
    operation: Operation,
) -> Result<Response, Stop> {
    request.check_host()?;
    auth::verify(request)?;
    match operation {
        Operation::Put => return put_object::handle(request, conn).await,
        Operation::Part => return multipart::upload_part(request, conn).await,
        Operation::Complete => return complete::handle(request, conn).await,
        _ => {}
    }
    while conn.next_bytes().await.map_err(Stop::Connection)?.is_some() {}
    if !request.executes() {
        return Ok(Response::text(500, ""));
    }
    let response = match operation {
        Operation::Initiate => multipart::initiate(request),
        Operation::Abort => multipart::abort(request),
        Operation::ListParts => list::parts(request),
        Operation::ListUploads => list::uploads(request),
        Operation::ListObjects => list::objects(request),
        Operation::Delete => object::delete(request),
        _ => object::read(request),
    };
    response.map_err(Stop::Refused)
}

fn key_of<'a>(sandbox: &SandboxState, head: &'a Head) -> &'a str {
    let path = &head.path[1..];
    match path.split_once('/') {
        Some((bucket, key)) if bucket == sandbox.bucket => key,
        None if path == sandbox.bucket => "",
        _ => path,
    }
}
