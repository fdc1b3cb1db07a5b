//! `PATCH /v1/uploads/{id}`: takes the next bytes of an upload.
//!
//! The bytes are taken by a task of its own: where the client goes, what it has sent is stored all the same.

use std::rc::{Rc, Weak};

use actix_web::http::header::CONTENT_LOCATION;
use actix_web::{HttpRequest, HttpResponse, rt, web};
use tracing::Instrument;

use super::body::IncomingBytes;
use super::by_road;
use super::checksum::Checksum;
use super::protocol::{self, UPLOAD_EXPIRES, UPLOAD_LENGTH, UPLOAD_OFFSET, http_date, invalid};
use super::report::{Counted, Reporter};
use super::sealed_url::Place;
use super::upload::{Appended, OpenUpload, Progress};
use crate::guard::limits::Slot;
use crate::http::extract::file_url;
use crate::http::middleware::access_log;
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::{Code, Problem};
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
        Progress::Stored(file) | Progress::Unreported(file) => {
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
    // Browsers repeat a request by themselves when its connection breaks, and send all of it before they read a response.
    // If the first one were waited for, they would meanwhile send again what it has brought.
    if let Some(reached) = shared.upload_sessions.end_beyond(upload.sealed.id, offset) {
        let detail = format!(
            "`Upload-Offset` is {offset}, and another request has come to {reached}; a HEAD tells how much of it is stored"
        );
        return Err(Problem::new(Code::OffsetMismatch, detail));
    }
    let body = Body::new(payload.into_inner(), shared.settings.upload.idle_timeout)
        .with_min_rate(shared.settings.upload.min_rate);
    let bytes = IncomingBytes { source: raw::content(body), announced, offset, length, checksum };
    let reporter = Reporter::new(request, worker, upload);
    reporter.context.is_upload(request);
    let handler = Rc::new(());
    let task = Task { reporter, slot, handler: Rc::downgrade(&handler) };
    // Tracked, so that a shutdown waits for it.
    let running = shared.requests.track_future(task.run(bytes));
    match rt::spawn(running.in_current_span()).await {
        Ok(result) => result,
        Err(_) => Err(Problem::new(Code::Internal, "the upload's task has failed")),
    }
}

struct Task {
    reporter: Reporter,
    slot: Slot,
    /// Dropped with the request's handler: when it has responded, or when its connection has broken.
    handler: Weak<()>,
}

impl Task {
    async fn run(self, bytes: IncomingBytes) -> Result<Progress, Problem> {
        let Reporter { worker, context, upload, .. } = &self.reporter;
        let times = context.stage_times(&worker.shared.metrics);
        let progress = self.append(bytes, &times).await;
        context.upload.add_times(&times);
        if progress.is_ok() && self.handler.strong_count() == 0 {
            access_log::write_without_response(context, &upload.client);
        }
        progress
    }

    async fn append(
        &self,
        bytes: IncomingBytes,
        times: &StageTimes<'_>,
    ) -> Result<Progress, Problem> {
        let Self { reporter, slot, .. } = self;
        let Reporter { worker, upload, .. } = reporter;
        // Until the file is reported: the next request then finds it stored.
        let running = Rc::new(worker.shared.upload_sessions.begin(upload.sealed.id).await);
        let share = slot.memory();
        match by_road::append(worker, upload, bytes, share, running.clone(), times).await? {
            Appended::Open { offset, length } => Ok(Progress::Open { offset, length }),
            Appended::Stored(file) => {
                reporter.report(&file, Counted::New, times).await?;
                Ok(Progress::Stored(file))
            }
            Appended::Unreported(file) => {
                reporter.report(&file, Counted::MaybeBefore, times).await?;
                Ok(Progress::Stored(file))
            }
            Appended::StoredBefore(file) => Ok(Progress::Stored(file)),
        }
    }
}

/// `problem`, with a status after which clients of tus try again where a connection has failed. They take 400 and 408 for
/// final, and a proxy that ends a request early passes such a response on to its client, as does a network that was
/// interrupted for longer than `upload.idle_timeout`.
pub fn retryable(problem: Problem) -> Problem {
    let cause = match problem.code {
        Code::TruncatedBody => "the body ended before it was complete",
        Code::ClientStalled => "the client stopped sending",
        Code::ClientTooSlow => "the client sent too slowly",
        _ => return problem,
    };
    let detail = format!("{cause}; a HEAD tells how much of it is stored");
    Problem::upload_interrupted(detail)
}
