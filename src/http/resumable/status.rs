//! `HEAD`, `GET` and `DELETE /v1/uploads/{id}`, and `OPTIONS`: where an upload is, its end, and what the gateway supports.

use std::rc::Rc;

use actix_web::http::header::{ACCEPT, CACHE_CONTROL, HeaderValue, LOCATION};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::protocol::{
    self, UPLOAD_DEFER_LENGTH, UPLOAD_EXPIRES, UPLOAD_LENGTH, UPLOAD_METADATA, UPLOAD_OFFSET,
    http_date,
};
use super::report::Reporter;
use super::upload::{Ended, OpenUpload, Progress, Road};
use super::{append, by_road, checksum};
use crate::http::api::fallback::{method_not_allowed, refused_method};
use crate::http::extract::client;
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::Problem;
use crate::http::quota;
use crate::http::response::outcome::Outcome;
use crate::http::state::Worker;
use crate::settings::ReplyProfile;

/// How far an upload is.
#[derive(Serialize)]
struct State<'a> {
    path: &'a str,
    name: &'a str,
    /// Bytes that need not be sent again.
    offset: u64,
    /// Bytes of the file; missing until it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    /// When the upload can no longer be continued, as an HTTP date.
    expires: String,
}

/// `HEAD /v1/uploads/{id}`: the offset.
///
/// What may pass, and every failure that is not the client's, is refused with 423: after any other status that is no
/// success, tus-js-client and Uppy take the upload for lost and begin anew.
pub async fn head(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    tell_offset(&request, &worker).await.map_err(|problem| {
        let code = problem.code;
        match code.is_transient() || code.status().is_server_error() {
            true => Problem::offset_unavailable(&problem),
            false => problem,
        }
    })
}

async fn tell_offset(
    request: &HttpRequest,
    worker: &web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    protocol::check_version(request.headers())?;
    let upload = Rc::new(OpenUpload::of(request, worker).await?);
    // What a request still sends counts, once it is stored.
    worker.shared.upload_sessions.end(upload.sealed.id).await;
    let mut response = HttpResponse::Ok();
    let reporter = Reporter::new(request, worker, &upload);
    let (offset, length) = match reporter.progress(true).await? {
        Progress::Open { offset, length } => (offset, length),
        Progress::Stored(file) | Progress::Unreported(file) => {
            file.add_id_to(&mut response);
            (file.size, Some(file.size))
        }
    };
    response
        .insert_header((UPLOAD_OFFSET, offset.to_string()))
        .insert_header((UPLOAD_EXPIRES, http_date(by_road::expires(worker, &upload))))
        .insert_header((CACHE_CONTROL, "no-store"));
    match length {
        Some(length) => response.insert_header((UPLOAD_LENGTH, length.to_string())),
        None => response.insert_header((UPLOAD_DEFER_LENGTH, "1")),
    };
    if !upload.sealed.metadata.is_empty() {
        response.insert_header((UPLOAD_METADATA, upload.sealed.metadata.as_str()));
    }
    Ok(response.finish())
}

/// `GET /v1/uploads/{id}`: the state as JSON, or the file.
pub async fn get(request: HttpRequest, worker: web::Data<Worker>) -> Result<HttpResponse, Problem> {
    let upload = Rc::new(OpenUpload::of(&request, &worker).await?);
    // A look at an upload does not disturb it.
    let reporter = Reporter::new(&request, &worker, &upload);
    let (offset, length) = match reporter.progress(false).await? {
        Progress::Open { offset, length } => (offset, length),
        Progress::Stored(file) | Progress::Unreported(file) => {
            let stored = upload.stored(&request, &worker, file);
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            if accept.is_some_and(|accept| accept.contains("application/json")) {
                let id = RequestContext::id_of(&request);
                let outcomes = [Outcome::Stored(Box::new(stored))];
                let mut response = ReplyProfile::Default.response(&outcomes, &id)?;
                // The response of the upload was 201; this one creates nothing.
                *response.status_mut() = StatusCode::OK;
                let no_store = HeaderValue::from_static("no-store");
                response.headers_mut().insert(CACHE_CONTROL, no_store);
                return Ok(response);
            }
            return Ok(HttpResponse::Found()
                .insert_header((LOCATION, stored.url))
                .insert_header((CACHE_CONTROL, "no-store"))
                .finish());
        }
    };
    let state = State {
        path: &upload.sealed.key,
        name: &upload.sealed.name,
        offset,
        length,
        expires: http_date(by_road::expires(&worker, &upload)),
    };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(state))
}

/// `DELETE /v1/uploads/{id}`: ends an upload; its parts are deleted. The file of one that is complete stays, and that is
/// told: the client may lack the permission to delete files, and another file may have been stored at the path since.
pub async fn terminate(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    protocol::check_version(request.headers())?;
    let upload = OpenUpload::of(&request, &worker).await?;
    if let Ended::Stored = by_road::end(&worker, &upload).await? {
        let detail = "the upload is complete; what deletes its file is DELETE /v1/files";
        return Ok(refused_method("GET, HEAD, PATCH", detail));
    }
    quota::conclude_resumable(&worker, &upload.client, &upload.sealed.id, None, false).await;
    worker.shared.metrics.resumable("terminated");
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /v1/uploads/{id}`: another method, by `X-HTTP-Method-Override`.
pub async fn overridden(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    match protocol::method(request.method(), request.headers())? {
        Method::PATCH => append::patch(request, payload, worker).await,
        Method::HEAD => head(request, worker).await,
        Method::DELETE => terminate(request, worker).await,
        _ => Ok(method_not_allowed("GET, HEAD, PATCH, DELETE")),
    }
}

/// `OPTIONS /v1/uploads`: the versions and extensions. `Tus-Max-Size` is the caller's own where it has a credential.
pub async fn options(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let road = Road::of(&worker)?;
    let max_size = match client::identify(&request, &worker).await {
        Ok(client) => client.max_file_size,
        Err(_) => worker.shared.settings.upload.max_file_size,
    };
    let max_size = by_road::max_length(&worker, &road, max_size);
    let extensions = match road {
        Road::Api(_) => [protocol::EXTENSIONS, protocol::DEFERRED_LENGTH].join(","),
        Road::Form => protocol::EXTENSIONS.to_owned(),
    };
    Ok(HttpResponse::NoContent()
        .insert_header((protocol::TUS_VERSION, protocol::VERSION))
        .insert_header(("tus-extension", extensions))
        .insert_header(("tus-max-size", max_size.to_string()))
        .insert_header(("tus-checksum-algorithm", checksum::ALGORITHMS))
        .finish())
}
