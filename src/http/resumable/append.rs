//! `PATCH /v1/uploads/{id}`: takes the next bytes of an upload.
//!
//! The bytes are taken by a task of its own: where the client goes, what it has sent is stored all the same.

use std::rc::Rc;

use actix_web::http::header::CONTENT_LOCATION;
use actix_web::{HttpRequest, HttpResponse, rt, web};
use tracing::Instrument;

use super::body::IncomingBytes;
use super::by_road;
use super::checksum::Checksum;
use super::protocol::{self, UPLOAD_EXPIRES, UPLOAD_LENGTH, UPLOAD_OFFSET, http_date, invalid};
use super::sealed_url::Place;
use super::upload::{Appended, OpenUpload, Progress};
use super::uploaded_file::UploadedFile;
use crate::guard::limits::Slot;
use crate::http::extract::file_url;
use crate::http::notify;
use crate::http::problem::{Code, Problem};
use crate::http::quota;
use crate::http::state::Worker;
use crate::inbound::body::{Body, announced_length, refuse_encoding};
use crate::inbound::error::InboundError;
use crate::inbound::raw;

/// `PATCH /v1/uploads/{id}`: appends bytes.
pub async fn patch(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    protocol::check_version(request.headers())?;
    let upload = Rc::new(OpenUpload::of(&request, &worker).await?);
    protocol::check_content_type(request.headers())?;
    refuse_encoding(request.headers())?;
    let offset = protocol::number(request.headers(), &UPLOAD_OFFSET)?
        .ok_or_else(|| invalid("the request has no `Upload-Offset`"))?;
    let slot = worker.shared.limits.take_slot(&upload.client)?;
    let progress = append(&request, payload, &worker, &upload, offset, slot).await;
    let progress = progress.map_err(retryable)?;
    let mut response = HttpResponse::NoContent();
    response.insert_header((UPLOAD_EXPIRES, http_date(by_road::expires(&worker, &upload))));
    let offset = match progress {
        Progress::Open { offset, .. } => offset,
        Progress::Stored(file) => {
            file.add_id_to(&mut response);
            let base = file_url::base(&request, &worker.shared);
            response.insert_header((CONTENT_LOCATION, file_url::of_file(&base, &upload.key)));
            file.size
        }
    };
    Ok(response.insert_header((UPLOAD_OFFSET, offset.to_string())).finish())
}

/// Appends the request's body at `offset`.
pub async fn append(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &web::Data<Worker>,
    upload: &Rc<OpenUpload>,
    offset: u64,
    slot: Slot,
) -> Result<Progress, Problem> {
    let shared = &worker.shared;
    if shared.requests.is_closed() {
        return Err(Problem::draining());
    }
    let headers = request.headers();
    let checksum = Checksum::of(headers)?;
    let announced = announced_length(headers);
    let most = match upload.sealed.place {
        Place::Cos { part_size, .. } => part_size,
        Place::Gateway { .. } => shared.settings.upload.max_buffered_file as u64,
    };
    if checksum.is_some() && announced.is_none_or(|length| length > most) {
        return Err(invalid(format!(
            "`Upload-Checksum` needs a body of known length, of at most {most} bytes"
        )));
    }
    let length = match (upload.sealed.length, protocol::number(headers, &UPLOAD_LENGTH)?) {
        (Some(length), Some(other)) if length != other => {
            return Err(invalid("`Upload-Length` is not that of the upload"));
        }
        (known, declared) => known.or(declared),
    };
    if length.is_some_and(|length| length > upload.sealed.max_length) {
        return Err(InboundError::FileTooLarge(upload.sealed.max_length).into());
    }
    let body = Body::new(payload.into_inner(), shared.settings.upload.idle_timeout);
    let bytes = IncomingBytes { source: raw::content(body), announced, offset, length, checksum };
    let base_url = file_url::base(request, shared);
    let task = Task { worker: worker.clone(), upload: upload.clone(), slot, base_url };
    // Tracked, so that a shutdown waits for it.
    let running = shared.requests.track_future(task.run(bytes));
    match rt::spawn(running.in_current_span()).await {
        Ok(result) => result,
        Err(_) => Err(Problem::new(Code::Internal, "the upload's task has failed")),
    }
}

struct Task {
    worker: web::Data<Worker>,
    upload: Rc<OpenUpload>,
    slot: Slot,
    /// Of the stable URL, as this request names the gateway.
    base_url: String,
}

impl Task {
    async fn run(self, bytes: IncomingBytes) -> Result<Progress, Problem> {
        let Self { worker, upload, slot, base_url } = self;
        let guard = worker.shared.upload_sessions.begin(upload.sealed.id).await;
        let (superseded, share) = (guard.superseded(), slot.memory());
        match by_road::append(&worker, &upload, bytes, share, superseded).await? {
            Appended::Open { offset, length } => Ok(Progress::Open { offset, length }),
            Appended::Stored(file) => {
                report(&worker, &upload, &base_url, &file).await?;
                Ok(Progress::Stored(file))
            }
            Appended::StoredBefore(file) => Ok(Progress::Stored(file)),
        }
    }
}

/// Counts and logs a stored upload, and tells the back end of it, once. It then counts for the quota. `Err`: the back end
/// refused it, and it is deleted.
pub async fn report(
    worker: &Worker,
    upload: &OpenUpload,
    base_url: &str,
    file: &UploadedFile,
) -> Result<(), Problem> {
    let metrics = &worker.shared.metrics;
    metrics.resumable("stored");
    metrics.stored(file.size);
    tracing::info!(key = %upload.key, bytes = file.size, "a resumable upload is stored");
    // How it was verified cannot be found out later.
    worker.shared.uploads.set_stored(upload.sealed.id, file.clone());
    let told = tell(worker, upload, base_url, file).await;
    let counted = told.is_ok().then_some(file.size);
    quota::conclude_resumable(worker, &upload.client, &upload.sealed.id, counted).await;
    told
}

async fn tell(
    worker: &Worker,
    upload: &OpenUpload,
    base_url: &str,
    file: &UploadedFile,
) -> Result<(), Problem> {
    if worker.hooks.is_none() {
        return Ok(());
    }
    let stored = upload.stored_below(base_url, worker, file.clone());
    let id = hex::encode(upload.sealed.id);
    let told = notify::stored(worker, &upload.client, id, &stored).await;
    if told.is_err() {
        worker.shared.uploads.end(&upload.sealed.id);
    }
    told.map(drop)
}

/// `problem`, with a status after which clients of tus try again where a connection has failed. They take 400 and 408 for
/// final, and a proxy that ends a request early passes such a response on to its client, as does a network that was
/// interrupted for longer than `upload.idle_timeout`.
pub fn retryable(problem: Problem) -> Problem {
    let cause = match problem.code {
        Code::TruncatedBody => "the body ended before it was complete",
        Code::ClientStalled => "the client stopped sending",
        _ => return problem,
    };
    let detail = format!("{cause}; a HEAD tells how much of it is stored");
    Problem::upload_interrupted(detail)
}
