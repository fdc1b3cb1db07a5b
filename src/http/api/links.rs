//! `POST /v1/links`: stable URLs of up to 1000 files, signed again where links are signed.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::batch::{BatchResponse, FileName, MAX_MAX_AGE, Unresolved, max_age, resolve, response};
use crate::http::extract::file_ref::{FileRef, ResolveError, own_bucket};
use crate::http::extract::{client, file_url, json};
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::key::Key;
use crate::settings::Action;

/// Files to get stable URLs of.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StableLinksRequest {
    #[schema(min_items = 1, max_items = 1000)]
    files: Vec<FileName>,
    /// Lifetime of signed URLs, in seconds. A longer one than `links.max_age`, which is the default, is shortened to that; a
    /// file's own `max_age` takes precedence.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_622_400)]
    max_age: Option<f64>,
}

/// A stable URL.
#[derive(Serialize, ToSchema)]
pub(super) struct StableLink {
    /// As in the response to an upload.
    url: String,
    /// RFC 3339, UTC; absent where links are not signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expires_at: Option<String>,
}

/// `POST /v1/links`
#[utoipa::path(
    post, path = "/v1/links", operation_id = "stable_links", tag = "many files",
    summary = "Stable URLs of up to 1000 files",
    description = "Where `links.access` is `signed`, a stable URL expires: store a file's id or path, and sign its URL \
                   again for each page. Whether the files exist is not checked. A file whose URL cannot be made has an \
                   `error` of its own.",
    request_body = StableLinksRequest,
    responses((status = 200, description = "The files in the order of the request", body = BatchResponse<StableLink>))
)]
pub async fn sign(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker).await?;
    client.may(Action::Download)?;
    let wanted: StableLinksRequest =
        json::read(&request, payload, &worker, json::LONG_LIMIT).await?;
    let links = &worker.shared.links;
    // A longer lifetime is shortened; `expires_at` tells.
    let longest = Duration::from_secs(links.max_age());
    let common = max_age(wanted.max_age, MAX_MAX_AGE)?.unwrap_or(longest);
    let resolved = resolve(&worker, &client, &wanted.files, MAX_MAX_AGE).await?;
    let (base, now) = (file_url::base(&request, &worker.shared), Timestamp::now());
    let mut files = Vec::with_capacity(resolved.len());
    let mut urls = Vec::with_capacity(resolved.len());
    for (file, name) in resolved.into_iter().zip(&wanted.files) {
        let file = match file {
            Ok(file) => match stable_key(&worker, &file).await {
                Ok(key) => {
                    let age = name.max_age(MAX_MAX_AGE)?.unwrap_or(common).min(longest);
                    let signed = links.query_for(&key, now, age.as_secs());
                    let url = file_url::of_file(&base, &key) + &signed.query;
                    let expires_at = signed.expires.map(json::timestamp);
                    urls.push(Ok(StableLink { url, expires_at }));
                    Ok(file)
                }
                Err(ResolveError::Call(problem)) => return Err(problem),
                Err(ResolveError::Reference(problem)) => {
                    let (file_id, path) = (Some(file.file_id), Some(file.path));
                    Err(Unresolved { file_id, path, problem })
                }
            },
            unresolved => unresolved,
        };
        files.push(file);
    }
    response(&request, &files, urls, |link| link)
}

/// The key in a file's stable URL, which names files of the gateway's own bucket only.
async fn stable_key(worker: &Worker, file: &FileRef) -> Result<Key, ResolveError> {
    own_bucket(worker, &file.file_id, &file.path).await?;
    match Key::parse(&file.path) {
        Ok(key) if key.as_str() == file.path => Ok(key),
        Ok(_) => {
            let detail = "the path is not in Unicode's form NFC, so no stable URL names it";
            Err(ResolveError::Reference(Problem::new(Code::InvalidPath, detail)))
        }
        Err(error) => Err(ResolveError::Reference(error.into())),
    }
}
