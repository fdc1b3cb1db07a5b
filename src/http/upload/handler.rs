//! Upload handlers: the stages in order, for each file of a form or for one raw body.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::http::Version;
use actix_web::http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use actix_web::{HttpRequest, HttpResponse, web};
use utoipa::ToSchema;

use super::metadata::{FileAbout, Metadata};
use super::outgoing::TargetPath;
use super::partial;
use super::request::{FileFailure, UploadQuery, UploadRequest, sniffed};
use crate::guard::idempotency::IdempotencyGuard;
use crate::guard::policy::Client;
use crate::http::extract::client;
use crate::http::extract::file_url::{self, PathParameter};
use crate::http::extract::preconditions;
use crate::http::extract::schemas::Folder;
use crate::http::middleware::access_log;
use crate::http::middleware::idempotency::{self, KeyCheck};
use crate::http::middleware::request_context::RequestContext;
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::{Code, Problem};
use crate::http::quota;
use crate::http::response::json;
use crate::http::response::outcome::Outcome;
use crate::http::state::Worker;
use crate::inbound::body::{Body, announced_length, refuse_encoding};
use crate::inbound::digest::{Digests, verified};
use crate::inbound::error::InboundError;
use crate::inbound::form::Form;
use crate::inbound::limit::limited;
use crate::inbound::raw;
use crate::key::Key;
use crate::metrics::{InFlight, Metrics};
use crate::settings::{Action, ReplyProfile};

/// Bytes that a form may have besides its files: part heads, fields and delimiters.
const FORM_OVERHEAD: u64 = 1024 * 1024;

/// The form of an upload. Fields come before the file.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; `inbound::form` reads the form")]
struct UploadForm {
    /// As in the query.
    #[schema(required = false)]
    dir: Folder,
    /// As in the query.
    #[schema(required = false)]
    path: Key,
    /// The file: any part that has a file name, or that has this name and a Content-Type. Name several files `files[]`.
    #[schema(format = Binary)]
    file: String,
}

/// `POST /v1/files`: a form with one or several files.
#[utoipa::path(
    post, path = "/v1/files", operation_id = "upload", tag = "upload",
    summary = "Upload the files of a form",
    description = "Files are streamed to COS while they arrive. If a form has several files, each is tried: the status \
                   is that of the first failure, and the response lists every file.",
    params(
        UploadQuery,
        ("idempotency-key" = Option<String>, Header, max_length = 255, pattern = "^[!-~]+$",
         description = "An upload that is repeated under the same key gets the response of the first one"),
    ),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, description = "Stored", content(
            (json::UploadResponse = "application/json"),
            (String = "text/plain"),
        ), headers(
            ("location", description = "The file's stable URL, if the form had one file"),
        ), links(
            ("the file" = (operation_id = "file", parameters(("path" = "$response.body#/files/0/path")))),
            ("delete the file" = (operation_id = "delete_file", parameters(("path" = "$response.body#/files/0/path")))),
        )),
        (status = 200, description = "The format of an editor, chosen by `?reply=`",
         content((serde_json::Value = "application/json"), (String = "text/plain"))),
    )
)]
pub async fn form(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let query = UploadQuery::of(&request)?;
    let profile = query.profile(&worker)?;
    let guard = UploadMetricsGuard::new(&request, &worker);
    let files = form_files(&request, payload, &worker, &query, profile, &guard.times).await;
    guard.finish(profile, files)
}

/// `PUT /v1/files/{path}`: the body is the file.
#[utoipa::path(
    put, path = "/v1/files/{path}", operation_id = "upload_raw", tag = "upload",
    summary = "Upload one file to a path",
    description = "The body is the whole file. Its type is the request's Content-Type, or else follows from the path's \
                   extension. If the request has a digest (`Content-MD5`; `Content-Digest` or `Repr-Digest` with \
                   `sha-256`, `sha-512` or `md5`), it is checked: a file with another digest is not stored.",
    params(
        PathParameter,
        ("reply" = Option<ReplyProfile>, Query, description = "The format of the response; default: `upload.reply`"),
        ("idempotency-key" = Option<String>, Header, max_length = 255, pattern = "^[!-~]+$",
         description = "An upload that is repeated under the same key gets the response of the first one"),
    ),
    request_body(content = Option<Vec<u8>>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored", content(
            (json::UploadResponse = "application/json"),
            (String = "text/plain"),
        ), headers(
            ("location", description = "The file's stable URL"),
        ), links(
            ("the file" = (operation_id = "file", parameters(("path" = "$response.body#/files/0/path")))),
            ("delete the file" = (operation_id = "delete_file", parameters(("path" = "$response.body#/files/0/path")))),
        )),
        (status = 200, description = "The format of an editor, chosen by `?reply=`",
         content((serde_json::Value = "application/json"), (String = "text/plain"))),
    )
)]
pub async fn raw(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let query = UploadQuery::of(&request)?;
    let profile = query.profile(&worker)?;
    let guard = UploadMetricsGuard::new(&request, &worker);
    let file = raw_file(&request, payload, &worker, &query, profile, &guard.times).await;
    guard.finish(profile, file)
}

/// The result of an upload request that was not refused as a whole.
enum UploadResult {
    Files(Vec<Outcome>, Option<IdempotencyGuard>),
    /// An earlier request under the same `Idempotency-Key` got this response.
    Replayed(HttpResponse),
}

/// Counts an upload request from its first stage to its response.
struct UploadMetricsGuard<'a> {
    context: Rc<RequestContext>,
    metrics: &'a Metrics,
    times: StageTimes<'a>,
    finished: bool,
    _in_flight: InFlight,
}

impl<'a> UploadMetricsGuard<'a> {
    fn new(request: &HttpRequest, worker: &'a Worker) -> Self {
        let metrics = &*worker.shared.metrics;
        let context = RequestContext::of(request);
        context.is_upload(request);
        let (times, in_flight) = (context.stage_times(metrics), metrics.in_flight());
        context.upload.set_road(if worker.api.is_some() { "api" } else { "form" });
        Self { context, metrics, times, finished: false, _in_flight: in_flight }
    }

    /// Makes the response in the profile's format. Stored files are counted already.
    fn finish(
        mut self,
        profile: ReplyProfile,
        result: Result<UploadResult, Problem>,
    ) -> Result<HttpResponse, Problem> {
        self.finished = true;
        let (files, claim) = match result {
            Ok(UploadResult::Replayed(response)) => return Ok(response),
            Ok(UploadResult::Files(outcomes, claim)) => (Ok(outcomes), claim),
            Err(problem) => (Err(problem), None),
        };
        self.context.upload.add_times(&self.times);
        match &files {
            Err(problem) => self.metrics.upload(problem.code.name()),
            Ok(outcomes) => {
                self.context.upload.set_has_outcomes();
                outcomes.iter().for_each(|outcome| match outcome {
                    Outcome::Stored(_) => {}
                    Outcome::Failed { problem, path, .. } => {
                        self.metrics.upload(problem.code.name());
                        path.iter().for_each(|path| self.context.upload.set_object(path.as_str()));
                    }
                });
            }
        }
        let id = self.context.id.as_str();
        let response = files.and_then(|outcomes| {
            let response = profile.response(&outcomes, id)?;
            let all_stored = outcomes.iter().all(|outcome| matches!(outcome, Outcome::Stored(_)));
            Ok(match claim.filter(|_| all_stored) {
                Some(claim) => idempotency::record(claim, response),
                None => response,
            })
        });
        response.or_else(|problem| profile.failure(&problem, id).ok_or(problem))
    }
}

impl Drop for UploadMetricsGuard<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The client disconnected, and the request was cancelled.
        if self.context.upload.stored().is_none() {
            self.metrics.upload(Code::TruncatedBody.name());
        } else if let Some(client) = self.context.client() {
            self.context.upload.add_times(&self.times);
            access_log::write_without_response(&self.context, &client);
        }
    }
}

async fn form_files(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &Worker,
    query: &UploadQuery,
    profile: ReplyProfile,
    times: &StageTimes<'_>,
) -> Result<UploadResult, Problem> {
    let client = authorize(request, worker).await?;
    let claim = match idempotency::check(request, worker, &client).await? {
        KeyCheck::Proceed(claim) => claim,
        KeyCheck::Replay(response) => return Ok(UploadResult::Replayed(response)),
    };
    let mut upload = UploadRequest::admit(request, worker, client, query, profile, claim, times)?;
    let (max_size, max_files) = (upload.client.max_file_size, upload.client.max_files);
    let max_length = (max_files as u64).saturating_mul(max_size).saturating_add(FORM_OVERHEAD);
    let length = announced_length(request.headers());
    if length.is_some_and(|length| length > max_length) {
        return Err(InboundError::FileTooLarge(max_size).into());
    }
    if upload.client.quota.is_some() {
        let wanted = quota::form(length, FORM_OVERHEAD, max_size, max_files);
        // Boxed, as is the end: otherwise the future of every upload would contain it.
        Box::pin(upload.reserve(request, wanted)).await?;
    }
    let settings = upload.settings();
    let body = Body::new(payload.into_inner(), settings.idle_timeout);
    let body = body.with_min_rate(settings.min_rate);
    let form = Rc::new(RefCell::new(Form::new(request.headers(), body)?));

    let mut outcomes = Vec::new();
    loop {
        // In `while let`, the future would contain the part three times.
        let Some(part) = Form::next_file(&form).await? else {
            break;
        };
        let first = outcomes.is_empty();
        let can_continue = match upload.store_part(&form, &part, first, outcomes.len()).await {
            Ok(Some(stored)) => {
                outcomes.push(Outcome::Stored(Box::new(stored)));
                true
            }
            Ok(None) => true,
            Err(FileFailure { problem, path }) => {
                let problem = upload.of_quota(problem);
                upload.audit_refusal(request, path.as_ref(), &problem);
                let expects_more = upload.expects_more(&part) && problem.code != Code::TooManyFiles;
                let name = part.head.file_name.unwrap_or_default();
                outcomes.push(Outcome::Failed { name, path, problem: Box::new(problem) });
                // The next file can be read only after the rest of this one was skipped.
                expects_more && Form::skip(&form, max_length).await
            }
        };
        if !can_continue {
            break;
        }
    }
    if let Some(reservation) = upload.quota.take() {
        Box::pin(quota::conclude(request, *reservation)).await;
    }
    if outcomes.is_empty() {
        return Err(form.borrow().no_file().into());
    }
    Ok(UploadResult::Files(outcomes, upload.claim))
}

async fn raw_file(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &Worker,
    query: &UploadQuery,
    profile: ReplyProfile,
    times: &StageTimes<'_>,
) -> Result<UploadResult, Problem> {
    let client = authorize(request, worker).await?;
    let key = client.upload_key(&file_url::path(request)?)?;
    refuse_form(request.headers())?;
    refuse_unframed(request)?;
    let digests = Digests::from_headers(request.headers())?;
    let claim = match idempotency::check(request, worker, &client).await? {
        KeyCheck::Proceed(claim) => claim,
        KeyCheck::Replay(response) => return Ok(UploadResult::Replayed(response)),
    };
    let mut upload = UploadRequest::admit(request, worker, client, query, profile, claim, times)?;
    let settings = upload.settings();
    let name = key.as_str().rsplit('/').next().unwrap_or_default().to_owned();
    let declared =
        upload.client.types.admit(declared_type(request.headers()), [&name, key.as_str()])?;

    let max = upload.client.max_file_size;
    let length = announced_length(request.headers());
    if length.is_some_and(|length| length > max) {
        return Err(InboundError::FileTooLarge(max).into());
    }
    if upload.client.quota.is_some() {
        let wanted = quota::one_file(length, max);
        Box::pin(upload.reserve(request, wanted)).await?;
    }
    let types = &upload.client.types;
    let body = Body::new(payload.into_inner(), settings.idle_timeout);
    let source = raw::content(body.with_min_rate(settings.min_rate));
    let source = match digests {
        Some(digests) => verified(source, digests),
        None => source,
    };
    let (source, magic) = sniffed(source, types.look(&declared)).await?;
    let content_type = types.confirm(&declared, magic)?;
    let source = limited(source, upload.max_file_size());
    let file = upload.raw(source, length).await.map_err(|problem| upload.of_quota(problem))?;
    let path = TargetPath { key, unique: false, generated: None };
    let about = FileAbout { name, content_type, metadata: Metadata::new() };
    let stored = upload.store(path, about, file, 0).await;
    let stored = stored.map_err(|FileFailure { problem, path }| {
        path.iter().for_each(|path| upload.set_object(path));
        upload.of_quota(problem)
    });
    if let Some(reservation) = upload.quota.take() {
        Box::pin(quota::conclude(request, *reservation)).await;
    }
    let stored = stored?;
    Ok(UploadResult::Files(vec![Outcome::Stored(Box::new(stored))], upload.claim))
}

/// Identifies the client, and refuses what can be refused before the body is read.
async fn authorize(request: &HttpRequest, worker: &Worker) -> Result<Arc<Client>, Problem> {
    let client = client::identify(request, worker).await?;
    client.may(Action::Upload)?;
    partial::refuse(request)?;
    preconditions::refuse(request.headers())?;
    refuse_encoding(request.headers())?;
    Ok(client)
}

/// Refuses an HTTP/1 request without body framing, which has no body (RFC 9112, 6.3). Old clients mean that the body
/// ends with the connection; an empty file would be stored instead.
fn refuse_unframed(request: &HttpRequest) -> Result<(), Problem> {
    let has = |name| request.headers().contains_key(name);
    if request.version() >= Version::HTTP_2 || has(CONTENT_LENGTH) || has(TRANSFER_ENCODING) {
        return Ok(());
    }
    let detail = "the request has neither a Content-Length nor `Transfer-Encoding: chunked`, and so no body; to store \
                  an empty file, send `Content-Length: 0`";
    Err(Problem::new(Code::LengthRequired, detail))
}

/// Refuses a form as a raw body: its delimiters and part heads would be stored as part of the file.
fn refuse_form(headers: &HeaderMap) -> Result<(), Problem> {
    let is_multipart = |value: &&HeaderValue| {
        let prefix = value.as_bytes().trim_ascii_start().get(..10);
        prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"multipart/"))
    };
    if headers.get_all(CONTENT_TYPE).find(is_multipart).is_none() {
        return Ok(());
    }
    Err(Problem::new(
        Code::TypeNotAllowed,
        "the body of a PUT is the file itself, but this Content-Type says that it is a form (multipart): POST the form \
         to /v1/files, or PUT the file's bytes with the file's own type",
    ))
}

/// The type that the request declares for a raw body; `None` if it declares several, since any may be meant.
fn declared_type(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(CONTENT_TYPE);
    let only = lines.next().filter(|_| lines.next().is_none())?;
    only.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::Handler;

    fn size_of_future<Args, H: Handler<Args>>(_: H) -> usize {
        size_of::<H::Future>()
    }

    /// Each upload in flight holds one, and it is copied into its allocation for each request. What is rare and large is
    /// boxed.
    #[test]
    fn the_future_of_an_upload_is_small() {
        assert!(size_of_future(form) < 4000, "{}", size_of_future(form));
        assert!(size_of_future(raw) < 4000, "{}", size_of_future(raw));
    }
}
