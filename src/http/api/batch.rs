//! Batch calls: download links and deletion of up to 1000 files.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::guard::policy::Client;
use crate::http::deletion;
use crate::http::extract::file_ref::{FileRef, ResolveError, id_or_path, resolve_file};
use crate::http::extract::{client, json};
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::{Code, Document, Problem};
use crate::http::state::Worker;
use crate::settings::Action;
use crate::wechat::api::DEFAULT_LINK_MAX_AGE;
use crate::wechat::error::FileError;
use crate::wechat::links::LinkRequest;

/// Files in one request.
const MAX_FILES: usize = 1000;
/// The longest lifetime of a link that a request may set, in seconds.
pub(super) const MAX_MAX_AGE: f64 = 366.0 * 24.0 * 3600.0;

/// A file as a request names it: its id (`cloud://…`) or its path, as a string or in an object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a file is its id or its path, as a string or as {file_id, path, max_age}"
)]
#[schema(as = FileName)]
pub enum FileName {
    /// An id or a path.
    Text(String),
    /// An id, a path, or both if they name the same file.
    Object(NamedFile),
}

/// A file as an object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedFile {
    /// `cloud://ENV.BUCKET/PATH`
    file_id: Option<String>,
    path: Option<String>,
    /// Lifetime of the file's download link, in seconds.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_622_400)]
    max_age: Option<f64>,
}

/// Files to get download links for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LinksRequest {
    #[schema(min_items = 1, max_items = 1000)]
    files: Vec<FileName>,
    /// Lifetime of the links, in seconds; a file's own `max_age` takes precedence.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_622_400)]
    max_age: Option<f64>,
}

/// Files to delete.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeleteRequest {
    #[schema(min_items = 1, max_items = 1000)]
    files: Vec<FileName>,
}

/// The files in the order of the request.
#[derive(Serialize, ToSchema)]
#[schema(as = Files)]
pub(super) struct BatchResponse<'a, T> {
    files: Vec<File<'a, T>>,
}

/// One file's result.
#[derive(Serialize, ToSchema)]
pub(super) struct File<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    file_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    path: Option<&'a str>,
    #[serde(flatten)]
    result: FileResult<'a, T>,
}

/// A file's result, or why it failed.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Outcome)]
pub(super) enum FileResult<'a, T> {
    Ok(T),
    Failed { error: Document<'a> },
}

/// A download link.
#[derive(Serialize, ToSchema)]
struct Link {
    /// Where to download the file; no credential is needed.
    url: String,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// A deleted file.
#[derive(Serialize, ToSchema)]
struct Deleted {
    /// Always `true`, also if the file did not exist.
    deleted: bool,
}

/// `POST /v1/download-links`
#[utoipa::path(
    post, path = "/v1/download-links", operation_id = "download_links", tag = "many files",
    summary = "Download links of up to 1000 files",
    description = "The links expire; in a page, use the stable URL `GET /v1/files/{path}` instead. A file whose link \
                   cannot be made has an `error` of its own; the others have their links.",
    request_body = LinksRequest,
    responses((status = 200, description = "The files in the order of the request", body = BatchResponse<Link>))
)]
pub async fn download(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker).await?;
    client.may(Action::Download)?;
    let wanted: LinksRequest = json::read(&request, payload, &worker, json::LONG_LIMIT).await?;
    let default_max_age = max_age(wanted.max_age, MAX_MAX_AGE)?.unwrap_or(DEFAULT_LINK_MAX_AGE);
    let files = resolve(&worker, &client, &wanted.files, MAX_MAX_AGE).await?;
    let mut links = Vec::new();
    for (file, name) in files.iter().zip(&wanted.files) {
        if let Ok(file) = file {
            let max_age = name.max_age(MAX_MAX_AGE)?.unwrap_or(default_max_age);
            links.push(LinkRequest { file_id: file.file_id.clone(), max_age });
        }
    }
    let links = worker.wechat.download_links(worker.wechat.env(), &links, false).await;
    response(&request, &files, links, |link| Link {
        url: link.url,
        expires_at: json::timestamp(link.expires_at),
    })
}

/// `POST /v1/delete`
#[utoipa::path(
    post, path = "/v1/delete", operation_id = "delete_files", tag = "many files",
    summary = "Delete up to 1000 files",
    description = "A file that does not exist counts as deleted. One that cannot be deleted has an `error` of its own.",
    request_body = DeleteRequest,
    responses((status = 200, description = "The files in the order of the request", body = BatchResponse<Deleted>))
)]
pub async fn delete(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker).await?;
    client.may(Action::Delete)?;
    let wanted: DeleteRequest = json::read(&request, payload, &worker, json::LONG_LIMIT).await?;
    let files = resolve(&worker, &client, &wanted.files, MAX_MAX_AGE).await?;
    let resolved = files.iter().filter_map(|file| file.as_ref().ok());
    let resolved = resolved.map(|file| (file.file_id.clone(), file.path.clone())).collect();
    let deleted = deletion::delete(&request, &worker, &client, resolved).await;
    response(&request, &files, deleted, |()| Deleted { deleted: true })
}

impl FileName {
    /// The lifetime that the request sets for this file's link, of at most `most` seconds.
    pub(super) fn max_age(&self, most: f64) -> Result<Option<Duration>, Problem> {
        match self {
            Self::Object(NamedFile { max_age: seconds, .. }) => max_age(*seconds, most),
            Self::Text(_) => Ok(None),
        }
    }
}

/// The lifetime of a link, of at most `most` seconds. A whole number of seconds, but parsed as a float because some
/// languages write `60.0`.
pub(super) fn max_age(seconds: Option<f64>, most: f64) -> Result<Option<Duration>, Problem> {
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds.fract() == 0.0 && (1.0..=most).contains(&seconds) => {
            Ok(Some(Duration::from_secs_f64(seconds)))
        }
        Some(_) => {
            let detail = format!("max_age is a number of seconds from 1 to {most}");
            Err(Problem::new(Code::InvalidRequest, detail))
        }
    }
}

/// A file name that could not be resolved, as the request has it.
pub(super) struct Unresolved {
    pub file_id: Option<String>,
    pub path: Option<String>,
    pub problem: Problem,
}

/// Resolves each file's id and path. A name that cannot be resolved fails its own file only. `most`: of `max_age`.
pub(super) async fn resolve(
    worker: &Worker,
    client: &Client,
    files: &[FileName],
    most: f64,
) -> Result<Vec<Result<FileRef, Unresolved>>, Problem> {
    if files.is_empty() {
        return Err(Problem::new(Code::InvalidRequest, "`files` names no file"));
    }
    if files.len() > MAX_FILES {
        let detail =
            format!("`files` names {} files; a request may name at most {MAX_FILES}", files.len());
        return Err(Problem::new(Code::TooManyFiles, detail));
    }
    let mut resolved = Vec::with_capacity(files.len());
    for name in files {
        // An invalid `max_age` fails the request, even if the file cannot be resolved.
        name.max_age(most)?;
        let (file_id, path) = match name {
            FileName::Text(text) => id_or_path(text),
            FileName::Object(file) => (file.file_id.as_deref(), file.path.as_deref()),
        };
        let file = match resolve_file(worker, client, file_id, path).await {
            Ok(file) => Ok(file),
            // While WeChat cannot be called, no path can be resolved.
            Err(ResolveError::Call(problem)) => return Err(problem),
            Err(ResolveError::Reference(problem)) => Err(Unresolved {
                file_id: file_id.map(str::to_owned),
                path: path.map(str::to_owned),
                problem,
            }),
        };
        resolved.push(file);
    }
    Ok(resolved)
}

/// The files' results in the order of the request. If every call to WeChat failed, so does the request.
pub(super) fn response<T, U: Serialize>(
    request: &HttpRequest,
    files: &[Result<FileRef, Unresolved>],
    results: Vec<Result<T, FileError>>,
    to_json: impl Fn(T) -> U,
) -> Result<HttpResponse, Problem> {
    if let Some(Err(FileError::Call(error))) = results.first()
        && results.iter().all(|result| matches!(result, Err(FileError::Call(_))))
    {
        return Err(error.clone().into());
    }
    let id = RequestContext::id_of(request);
    let mut results = results.into_iter();
    let outcomes: Vec<Result<U, Problem>> = files
        .iter()
        .map(|file| match file {
            Err(unresolved) => Err(unresolved.problem.clone()),
            Ok(file) => match results.next() {
                Some(Ok(value)) => Ok(to_json(value)),
                Some(Err(error)) => Err(file.problem(&error)),
                None => Err(Problem::new(Code::Internal, "a file's result is missing")),
            },
        })
        .collect();
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    if failed > 0 {
        tracing::info!(files = files.len(), failed, "some files of a batch failed");
    }
    let items = files.iter().zip(&outcomes).map(|(file, outcome)| {
        let (file_id, path) = match file {
            Ok(file) => (Some(file.file_id.as_str()), Some(file.path.as_str())),
            Err(unresolved) => (unresolved.file_id.as_deref(), unresolved.path.as_deref()),
        };
        let result = match outcome {
            Ok(value) => FileResult::Ok(value),
            Err(problem) => FileResult::Failed { error: problem.document(&id) },
        };
        File { file_id, path, result }
    });
    Ok(HttpResponse::Ok().json(BatchResponse { files: items.collect() }))
}
