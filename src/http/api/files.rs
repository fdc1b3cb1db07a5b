//! One stored file: the redirect from its stable URL, and its deletion.

use std::time::Instant;

use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use utoipa::IntoParams;

use super::info::{self, FileInfo};
use crate::http::deletion;
use crate::http::extract::file_url::{self, PathParameter};
use crate::http::extract::schemas::IdOrPath;
use crate::http::extract::variant::{self, Preset};
use crate::http::extract::{client, file_ref, json, preconditions, query};
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::{Code, Problem};
use crate::http::response::profile;
use crate::http::state::Worker;
use crate::key::Key;
use crate::settings::{Action, LinkAccess, ReplyProfile};
use crate::wechat::api::DEFAULT_LINK_MAX_AGE;
use crate::wechat::links::LinkRequest;

/// Seconds that a browser may cache a redirect: a replaced file should appear soon.
const MAX_REDIRECT_AGE: u64 = 300;

/// `GET` and `HEAD /v1/files/{path}`: 302 to a temporary URL, or with `?info=1` what is stored.
#[utoipa::path(
    method(get, head), path = "/v1/files/{path}", operation_id = "file", tag = "one file",
    summary = "A file's stable URL",
    description = "Redirects to a temporary download URL, so that it can be used in an `<img src>`. (Swagger UI does \
                   not follow the redirect: its page may connect to the gateway only.) With `preset`, the picture is \
                   processed by COS. Parameters of COS itself (`imageMogr2/…`) are passed on as far as \
                   `links.pass_query` lists them. With `?info=1`, GET responds with the file's size, type and checksum \
                   instead.",
    params(PathParameter, Preset, Signature, InfoQuery),
    responses((status = 200, description = "With `?info=1`: what is stored", body = FileInfo), (status = 302, description = "Redirect to the file's content", headers(
        ("location", description = "A temporary download URL"),
        ("cache-control", description = "How long the redirect may be cached"),
    )))
)]
pub async fn redirect(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let key = Key::parse(&file_url::path(&request)?)?;
    let is_cacheable = authorize(&request, &worker, &key).await?;
    let [info] = query::parameters(&request, ["info"])?;
    let wants_info = match info.as_deref() {
        None | Some("0") => false,
        Some("1") => true,
        Some(_) => return Err(Problem::new(Code::InvalidRequest, "`info` is 0 or 1")),
    };
    if wants_info && request.method() == Method::GET {
        return info::respond(&worker, &key).await;
    }
    // The temporary URL of all variants is the same; browsers cache the redirect of each by its own URL.
    let variant = variant::parameters(&request, &worker.shared.settings.links)?;
    let file_id = worker.wechat.file_id(key.as_str()).await?;
    let wanted = LinkRequest { file_id, max_age: DEFAULT_LINK_MAX_AGE };
    let link = worker
        .wechat
        .download_link(&wanted)
        .await
        .map_err(|error| Problem::of_file(&error, key.as_str()))?;
    let left = link.usable_until.saturating_duration_since(Instant::now()).as_secs();
    let cache_control = match is_cacheable {
        true => format!("private, max-age={}", left.min(MAX_REDIRECT_AGE)),
        false => "no-store".to_owned(),
    };
    let target = match variant {
        Some(parameters) => variant::append(&link.url, &parameters),
        None => link.url,
    };
    Ok(HttpResponse::Found()
        .insert_header((LOCATION, target))
        .insert_header((CACHE_CONTROL, cache_control))
        .finish())
}

/// `DELETE /v1/files/{path}`: 204, also if the file does not exist.
#[utoipa::path(
    delete, path = "/v1/files/{path}", operation_id = "delete_file", tag = "one file",
    summary = "Delete a file",
    params(PathParameter),
    responses((status = 204, description = "The file is deleted, or did not exist"))
)]
pub async fn delete(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker).await?;
    client.may(Action::Delete)?;
    preconditions::refuse(request.headers())?;
    let key = Key::parse(&file_url::path(&request)?)?;
    client.may_reach(key.as_str())?;
    let file_id = worker.wechat.file_id(key.as_str()).await?;
    let deleted = deletion::delete_one(&request, &worker, &client, &file_id, key.as_str()).await;
    deleted.map_err(|error| Problem::of_file(&error, key.as_str()))?;
    RequestContext::of(&request).upload.set_object(key.as_str());
    Ok(HttpResponse::NoContent().finish())
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a schema; `revert` reads the query")]
struct RevertQuery {
    /// The format of the response to a failed request.
    #[param(value_type = ReplyProfile, required = false)]
    reply: Option<String>,
}

/// `DELETE /v1/files`: the body is the file's id or path, as FilePond sends it to revert an upload. 204, also if the
/// file does not exist.
#[utoipa::path(
    delete, path = "/v1/files", operation_id = "revert", tag = "editors",
    summary = "Delete the file that the body names, as FilePond does to revert an upload",
    params(RevertQuery),
    request_body(content = IdOrPath, content_type = "text/plain"),
    responses(
        (status = 204, description = "The file is deleted, or did not exist"),
        (status = 200, description = "A failure in the format of an editor that reads no other status",
         content((serde_json::Value = "application/json"), (String = "text/plain"))),
    )
)]
pub async fn revert(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let [profile] = query::parameters(&request, ["reply"])?;
    let profile = profile.as_deref().map(profile::parse).transpose()?;
    let deleted = delete_named_file(&request, payload, &worker).await;
    deleted.map(|()| HttpResponse::NoContent().finish()).or_else(|problem| {
        let id = RequestContext::id_of(&request);
        profile.and_then(|profile| profile.failure(&problem, &id)).ok_or(problem)
    })
}

async fn delete_named_file(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &web::Data<Worker>,
) -> Result<(), Problem> {
    let client = client::identify(request, worker).await?;
    client.may(Action::Delete)?;
    preconditions::refuse(request.headers())?;
    let body = json::bytes(request, payload, worker, json::SHORT_LIMIT).await?;
    let name = std::str::from_utf8(&body).map_err(|_| {
        let detail = "the body of this request, which names the file to delete, is not UTF-8";
        Problem::new(Code::InvalidPath, detail)
    })?;
    let name = name.trim();
    if name.is_empty() {
        let detail = "the body of this request is the id or the path of the file to delete";
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let file = file_ref::file_ref(worker, &client, name).await?;
    let deleted = deletion::delete_one(request, worker, &client, &file.file_id, &file.path).await;
    deleted.map_err(|error| file.problem(&error))?;
    RequestContext::of(request).upload.set_object(&file.path);
    Ok(())
}

/// The query for a file's properties.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a schema; `redirect` reads the query")]
struct InfoQuery {
    /// `1`: the response is JSON about the file instead of a redirect to it.
    #[param(required = false, nullable = false, pattern = "^[01]$")]
    info: Option<String>,
}

/// The query of a signed link.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a schema; `authorize` reads the query")]
struct Signature {
    /// Copied from a signed link.
    #[param(required = false, nullable = false, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    expires: Option<String>,
    /// Copied from a signed link.
    #[param(required = false, nullable = false, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    signature: Option<String>,
}

/// Checks access to the file as `links.access` requires. Returns whether the redirect may be cached.
async fn authorize(request: &HttpRequest, worker: &Worker, key: &Key) -> Result<bool, Problem> {
    let links = &worker.shared.links;
    let signature = query::parameters(request, ["expires", "signature"])?;
    if let (LinkAccess::Signed, [Some(expires), Some(signature)]) = (links.access(), signature) {
        client::identify_if_given(request, worker).await?;
        links.verify(key, &expires, &signature, Timestamp::now())?;
        return Ok(false);
    }
    if links.access() == LinkAccess::Public {
        client::identify_if_given(request, worker).await?;
        return Ok(true);
    }
    let client = client::identify(request, worker).await?;
    client.may(Action::Download)?;
    client.may_reach(key.as_str())?;
    Ok(false)
}
