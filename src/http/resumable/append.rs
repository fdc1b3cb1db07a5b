//! `PATCH /v1/uploads/{id}`: takes the next bytes of an upload.
//!
//! The bytes are taken by a task of its own: where the client goes, what it has sent is stored all the same.

use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use actix_web::http::header::{CONTENT_LOCATION, HeaderName};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, rt, web};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::checksum::Checksum;
use super::protocol::{self, UPLOAD_EXPIRES, UPLOAD_LENGTH, UPLOAD_OFFSET, http_date, invalid};
use super::upload::{OpenUpload, with_resumable};
use crate::cos::api::resumable::{AppendError, Opened, Resumable, StoredFile};
use crate::cos::error::CosError;
use crate::file_stream::{FileEvent, Source};
use crate::guard::limits::Slot;
use crate::http::extract::file_url;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::http::upload::request::sniffed;
use crate::inbound::body::{Body, announced_length, refuse_encoding};
use crate::inbound::error::InboundError;
use crate::inbound::limit::limited;
use crate::inbound::raw;

const FILE_ID: HeaderName = HeaderName::from_static("x-file-id");
/// How long a request that is to end may give what has arrived, and how long it may pause.
const REST_LIMIT: Duration = Duration::from_secs(2);
const REST_IDLE: Duration = Duration::from_millis(100);
/// A file's type is checked once so many of its bytes are there, or all.
const MAGIC: u64 = 4096;

/// `PATCH /v1/uploads/{id}`: appends bytes.
pub async fn patch(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    protocol::check_version(request.headers())?;
    let upload = OpenUpload::of(&request, &worker)?;
    protocol::check_content_type(request.headers())?;
    refuse_encoding(request.headers())?;
    let offset = protocol::number(request.headers(), &UPLOAD_OFFSET)?
        .ok_or_else(|| invalid("the request has no `Upload-Offset`"))?;
    let appended = append(&request, payload, &worker, upload, offset).await?;
    let mut response = HttpResponse::NoContent();
    response
        .insert_header((UPLOAD_OFFSET, appended.offset.to_string()))
        .insert_header((UPLOAD_EXPIRES, http_date(appended.upload.sealed.expires)));
    if appended.is_stored {
        let stored = appended.stored_url(&request, &worker);
        add_stored(&mut response, &appended.upload);
        response.insert_header((CONTENT_LOCATION, stored));
    }
    Ok(response.finish())
}

/// What became of a request's bytes.
pub struct AppendedBytes {
    pub upload: OpenUpload,
    pub offset: u64,
    pub is_stored: bool,
}

impl AppendedBytes {
    fn stored_url(&self, request: &HttpRequest, worker: &Worker) -> String {
        let base = file_url::base(request, &worker.shared);
        file_url::of_file(&base, &self.upload.key)
    }
}

/// Adds what is told of a stored file.
pub fn add_stored(response: &mut HttpResponseBuilder, upload: &OpenUpload) {
    response.insert_header((FILE_ID, upload.sealed.file_id.as_str()));
}

/// Appends the request's body at `offset`.
pub async fn append(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &web::Data<Worker>,
    upload: OpenUpload,
    offset: u64,
) -> Result<AppendedBytes, Problem> {
    let shared = &worker.shared;
    if shared.requests.is_closed() {
        return Err(Problem::draining());
    }
    let headers = request.headers();
    let checksum = Checksum::of(headers)?;
    let announced = announced_length(headers);
    let part_size = upload.sealed.part_size;
    if checksum.is_some() && announced.is_none_or(|length| length > part_size) {
        return Err(invalid(format!(
            "`Upload-Checksum` needs a body of known length, of at most {part_size} bytes"
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
    let slot = shared.limits.take_slot(&upload.client)?;
    let body = Body::new(payload.into_inner(), shared.settings.upload.idle_timeout);
    let bytes = IncomingBytes { source: raw::content(body), announced, offset, length, checksum };
    let task = Task { worker: worker.clone(), upload, slot };
    // Tracked, so that a shutdown waits for it.
    let running = shared.requests.track_future(task.run(bytes));
    match rt::spawn(running.in_current_span()).await {
        Ok(result) => result,
        Err(_) => Err(Problem::new(Code::Internal, "the upload's task has failed")),
    }
}

/// A request's body.
struct IncomingBytes {
    source: Source,
    announced: Option<u64>,
    offset: u64,
    /// The file's, if it is known.
    length: Option<u64>,
    checksum: Option<Checksum>,
}

struct Task {
    worker: web::Data<Worker>,
    upload: OpenUpload,
    slot: Slot,
}

impl Task {
    async fn run(self, bytes: IncomingBytes) -> Result<AppendedBytes, Problem> {
        let worker = self.worker.clone();
        let shared = &worker.shared;
        let guard = shared.upload_sessions.begin(self.upload.sealed.id).await;
        let superseded = guard.superseded();
        let api = self.upload.api.clone();
        let appended =
            with_resumable(&worker, &api, async |at| self.append(at, bytes, superseded).await);
        let (offset, is_stored) = appended.await??;
        Ok(AppendedBytes { upload: self.upload, offset, is_stored })
    }

    /// The new offset, and whether the file is stored.
    async fn append(
        &self,
        at: &Resumable<'_>,
        bytes: IncomingBytes,
        superseded: CancellationToken,
    ) -> Result<(u64, bool), Problem> {
        let IncomingBytes { source, announced, offset, length, checksum } = bytes;
        let (share, sealed) = (self.slot.memory(), &self.upload.sealed);
        let upload = self.upload.at_cos();
        let session = match at.open(&upload, length, &share).await? {
            Opened::Gone => return Err(OpenUpload::unknown()),
            // The response to the last bytes was lost.
            Opened::Stored(file) if file.size == offset => return Ok((offset, true)),
            Opened::Stored(file) => return Err(mismatch(offset, file.size)),
            Opened::Session(session) if session.offset() != offset => {
                return Err(mismatch(offset, session.offset()));
            }
            Opened::Session(session) => session,
        };
        if length.is_some() && session.length() != length {
            return Err(invalid("`Upload-Length` is not that of the upload"));
        }
        let length = session.length();
        let most = length.unwrap_or(sealed.max_length);
        if announced.is_some_and(|announced| offset.saturating_add(announced) > most) {
            return Err(match length {
                Some(declared) => CosError::LengthMismatch {
                    declared,
                    got: offset.saturating_add(announced.unwrap_or_default()),
                }
                .into(),
                None => InboundError::FileTooLarge(sealed.max_length).into(),
            });
        }
        let source = interrupted(source, superseded, self.worker.shared.shutdown.clone());
        let source = match checksum {
            Some(checksum) => checksum.verified(source, &share).await?,
            None => source,
        };
        let source = limited(source, most - offset);
        let end = announced.map(|announced| offset + announced);
        let is_decidable = end.is_none_or(|end| end >= MAGIC || Some(end) == length);
        let source = match offset < MAGIC && is_decidable {
            true => self.check_type(source, session.tail()).await?,
            false => source,
        };
        self.worker.shared.metrics.resumable(if offset == 0 { "begun" } else { "continued" });
        let appended = at.append(&upload, session, source, announced, share).await;
        match appended.error {
            Some(AppendError::Superseded) => Err(InboundError::Superseded.into()),
            Some(AppendError::Cos(error)) => Err(error.into()),
            None => {
                appended.stored.iter().for_each(|file| self.report(file));
                Ok((appended.offset, appended.stored.is_some()))
            }
        }
    }

    fn report(&self, file: &StoredFile) {
        let metrics = &self.worker.shared.metrics;
        metrics.resumable("stored");
        metrics.stored(file.size);
        tracing::info!(
            key = %self.upload.key, bytes = file.size, "a resumable upload is stored"
        );
    }

    /// Checks the file's first bytes: those of the tail, and the next ones.
    async fn check_type(&self, source: Source, tail: &[Bytes]) -> Result<Source, Problem> {
        let (sealed, types) = (&self.upload.sealed, &self.upload.client.types);
        let names = [sealed.name.as_str(), sealed.key.as_str()];
        let declared = types.admit(sealed.declared_type.as_deref(), names)?;
        let tail_length: usize = tail.iter().map(Bytes::len).sum();
        let tail: Vec<_> = tail.iter().map(|bytes| Ok(FileEvent::Content(bytes.clone()))).collect();
        let whole: Source = Box::pin(stream::iter(tail).chain(source));
        let (whole, magic) = sniffed(whole, types.look(&declared)).await?;
        let found = types.confirm(&declared, magic)?;
        // Its type was sent to COS before the first byte was known.
        if found != sealed.content_type {
            let detail = format!(
                "the file is declared as {}, but its first bytes are those of a type that browsers execute",
                sealed.content_type
            );
            return Err(Problem::new(Code::TypeNotAllowed, detail));
        }
        Ok(skipped(whole, tail_length))
    }
}

fn mismatch(asked: u64, stored: u64) -> Problem {
    let detail = format!("`Upload-Offset` is {asked}, and {stored} bytes are stored");
    Problem::new(Code::OffsetMismatch, detail)
}

/// `source` without its first bytes.
fn skipped(source: Source, mut bytes: usize) -> Source {
    Box::pin(source.filter_map(move |event| {
        let rest = match event {
            Ok(FileEvent::Content(mut content)) => {
                let skip = bytes.min(content.len());
                bytes -= skip;
                let rest = content.split_off(skip);
                (!rest.is_empty()).then_some(Ok(FileEvent::Content(rest)))
            }
            other => Some(other),
        };
        std::future::ready(rest)
    }))
}

/// `source`, which ends with an error when another request continues the upload, or the gateway shuts down. What has
/// arrived by then is given still: it need not be sent again.
fn interrupted(
    mut source: Source,
    superseded: CancellationToken,
    shutdown: CancellationToken,
) -> Source {
    let mut cause = Box::pin(async move {
        tokio::select! {
            () = superseded.cancelled() => InboundError::Superseded,
            () = shutdown.cancelled() => InboundError::Draining,
        }
    });
    // With the error, until when the rest may arrive, and until when its next bytes must.
    let mut interrupted: Option<(InboundError, Instant, Pin<Box<Sleep>>)> = None;
    Box::pin(stream::poll_fn(move |cx| {
        if interrupted.is_none()
            && let Poll::Ready(error) = cause.as_mut().poll(cx)
        {
            interrupted = Some((error, Instant::now() + REST_LIMIT, Box::pin(sleep(REST_IDLE))));
        }
        let Some((error, until, idle)) = &mut interrupted else {
            return source.as_mut().poll_next(cx);
        };
        let failed = || Poll::Ready(Some(Err(error.clone().into())));
        let now = Instant::now();
        if now >= *until {
            return failed();
        }
        if let Poll::Ready(next) = source.as_mut().poll_next(cx) {
            idle.as_mut().reset(now + REST_IDLE);
            return Poll::Ready(next);
        }
        ready!(idle.as_mut().poll(cx));
        failed()
    }))
}
