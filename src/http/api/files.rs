//! One stored file by its stable address: where it can be had, and its end.

use std::time::Instant;

use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use utoipa::IntoParams;

use crate::http::extract::file_url::{self, PathParameter};
use crate::http::extract::schemas::IdOrPath;
use crate::http::extract::{client, file_ref, json, query};
use crate::http::middleware::request_id::RequestId;
use crate::http::problem::{Code, Problem};
use crate::http::response::profile;
use crate::http::state::Worker;
use crate::key::Key;
use crate::settings::{Action, LinkAccess, ReplyProfile};
use crate::wechat::api::LINK_LIFE;
use crate::wechat::error::FileError;
use crate::wechat::links::Wanted;

/// Browsers may keep a redirect this long at most, in seconds: a file that is replaced should show soon.
const LONGEST_CACHED: u64 = 300;

/// `GET` and `HEAD /v1/files/{path}`: 302 to a temporary address.
#[utoipa::path(
    method(get, head), path = "/v1/files/{path}", operation_id = "file", tag = "one file",
    summary = "A file's stable address",
    description = "Redirects to where the file's bytes are for now, so it may stand in an `<img src>`. (Swagger UI \
                   follows no redirect to another host: its page may talk to the gateway only.)",
    params(PathParameter, Signature),
    responses((status = 302, description = "To the file's bytes", headers(
        ("location", description = "A temporary download address"),
        ("cache-control", description = "How long it may be kept"),
    )))
)]
pub async fn redirect(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let key = Key::parse(&file_url::path(&request)?)?;
    let cached = admit(&request, &worker, &key)?;
    let file_id = worker.wechat.file_id(key.as_str()).await?;
    let wanted = Wanted { file_id, max_age: LINK_LIFE };
    let link = worker
        .wechat
        .download_link(&wanted)
        .await
        .map_err(|error| Problem::of_file(&error, key.as_str()))?;
    let left = link.usable_until.saturating_duration_since(Instant::now()).as_secs();
    let cache_control = match cached {
        true => format!("private, max-age={}", left.min(LONGEST_CACHED)),
        false => "no-store".to_owned(),
    };
    Ok(HttpResponse::Found()
        .insert_header((LOCATION, link.url))
        .insert_header((CACHE_CONTROL, cache_control))
        .finish())
}

/// `DELETE /v1/files/{path}`: 204, also when there is no such file any more.
#[utoipa::path(
    delete, path = "/v1/files/{path}", operation_id = "delete_file", tag = "one file",
    summary = "Delete a file",
    params(PathParameter),
    responses((status = 204, description = "It is gone, or was before"))
)]
pub async fn delete(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker)?;
    client.may(Action::Delete)?;
    let key = Key::parse(&file_url::path(&request)?)?;
    client.reach(key.as_str())?;
    let file_id = worker.wechat.file_id(key.as_str()).await?;
    let deleted = worker.wechat.delete_one(&file_id).await;
    deleted.map_err(|error| Problem::of_file(&error, key.as_str()))?;
    Ok(HttpResponse::NoContent().finish())
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a description; `revert` reads it")]
struct RevertQuery {
    /// The shape of a failure's reply.
    #[param(value_type = ReplyProfile, required = false)]
    reply: Option<String>,
}

/// `DELETE /v1/files`: the body names the file, by its id or its path, as FilePond takes an upload back. 204, also when
/// there is no such file any more.
#[utoipa::path(
    delete, path = "/v1/files", operation_id = "revert", tag = "editors",
    summary = "Delete the file that the body names, as FilePond takes an upload back",
    params(RevertQuery),
    request_body(content = IdOrPath, content_type = "text/plain"),
    responses(
        (status = 204, description = "It is gone, or was before"),
        (status = 200, description = "A failure in the shape of an editor that reads no other status",
         content((serde_json::Value = "application/json"), (String = "text/plain"))),
    )
)]
pub async fn revert(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let [profile] = query::parameters(&request, ["reply"])?;
    let profile = profile.as_deref().map(profile::named).transpose()?;
    let deleted = named_by_body(&request, payload, &worker).await;
    deleted.map(|()| HttpResponse::NoContent().finish()).or_else(|problem| {
        let id = RequestId::of_running(&request);
        profile.and_then(|profile| profile.failure(&problem, &id)).ok_or(problem)
    })
}

async fn named_by_body(
    request: &HttpRequest,
    payload: web::Payload,
    worker: &Worker,
) -> Result<(), Problem> {
    let client = client::identify(request, worker)?;
    client.may(Action::Delete)?;
    let body = json::bytes(request, payload, worker, json::SHORT).await?;
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
    let deleted = worker.wechat.delete_one(&file.file_id).await;
    deleted.map_err(|error| file.problem(&error))
}

/// What a signed link says of itself.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a description; `admit` reads it")]
struct Signature {
    /// Of a signed link: as it stands there.
    #[param(required = false, nullable = false)]
    expires: Option<String>,
    /// Likewise.
    #[param(required = false, nullable = false)]
    signature: Option<String>,
}

/// Whether who asks may have the file, as `links.access` says; tells whether its answer may be kept.
fn admit(request: &HttpRequest, worker: &Worker, key: &Key) -> Result<bool, Problem> {
    let links = &worker.shared.links;
    let signature = query::parameters(request, ["expires", "signature"])?;
    if let (LinkAccess::Signed, [Some(expires), Some(signature)]) = (links.access(), signature) {
        client::identify_if_given(request, worker)?;
        links.check(key, &expires, &signature, Timestamp::now())?;
        return Ok(false);
    }
    if links.access() == LinkAccess::Public {
        client::identify_if_given(request, worker)?;
        return Ok(true);
    }
    let client = client::identify(request, worker)?;
    client.may(Action::Download)?;
    client.reach(key.as_str())?;
    Ok(false)
}

impl Problem {
    /// What to tell of one file; `file` is its path or id.
    pub fn of_file(error: &FileError, file: &str) -> Self {
        match error {
            missing if missing.is_missing() => Self::new(
                Code::FileNotFound,
                format!(
                    "`{file}` does not exist, or was stored without its x-cos-meta-fileid: such a file can never be \
                     downloaded, only deleted and sent again"
                ),
            ),
            FileError::File { status, message, advice } => {
                Self::wechat_file(*status, message, advice.as_deref(), file)
            }
            FileError::Call(error) => error.clone().into(),
        }
    }
}
