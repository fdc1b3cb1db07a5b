//! Many files at a time: download links, and deletes.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::guard::policy::Client;
use crate::http::extract::file_ref::{FileRef, ResolveError, find, id_or_path};
use crate::http::extract::{client, json};
use crate::http::middleware::request_id::RequestId;
use crate::http::problem::{Code, Document, Problem};
use crate::http::state::Worker;
use crate::settings::Action;
use crate::wechat::api::LINK_LIFE;
use crate::wechat::error::FileError;
use crate::wechat::links::Wanted;

/// Files in one request.
const MOST_FILES: usize = 1000;
/// The longest life of a link that may be asked for, in seconds.
const LONGEST_LIFE: f64 = 366.0 * 24.0 * 3600.0;

/// A file as a request names it: its id (`cloud://…`) or its path, as a string or in an object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a file is its id or its path, as a string or as {file_id, path, max_age}"
)]
#[schema(as = FileName)]
pub enum Named {
    /// An id or a path.
    Text(String),
    /// An id, a path, or both of the same file.
    Object(NamedFile),
}

/// A file as an object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedFile {
    /// `cloud://ENV.BUCKET/PATH`
    file_id: Option<String>,
    path: Option<String>,
    /// Life of its download link, in seconds.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_622_400)]
    max_age: Option<f64>,
}

/// Files whose download links are asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LinksRequest {
    #[schema(min_items = 1, max_items = 1000)]
    files: Vec<Named>,
    /// Life of the links in seconds; a file's own goes before it.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_622_400)]
    max_age: Option<f64>,
}

/// Files to delete.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeleteRequest {
    #[schema(min_items = 1, max_items = 1000)]
    files: Vec<Named>,
}

/// The files in the order they were asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = Files)]
struct BatchResponse<'a, T> {
    files: Vec<File<'a, T>>,
}

/// One file's answer.
#[derive(Serialize, ToSchema)]
struct File<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    file_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    path: Option<&'a str>,
    #[serde(flatten)]
    result: Outcome<'a, T>,
}

/// A file's link, or why there is none.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Outcome<'a, T> {
    Done(T),
    Failed { error: Document<'a> },
}

/// A download link.
#[derive(Serialize, ToSchema)]
struct Link {
    /// Where the file's bytes are, for everyone who has it.
    url: String,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// A file that is gone.
#[derive(Serialize, ToSchema)]
struct Deleted {
    /// Always `true`, also when it was gone before.
    deleted: bool,
}

/// `POST /v1/download-links`
#[utoipa::path(
    post, path = "/v1/download-links", operation_id = "download_links", tag = "many files",
    summary = "Download links of up to 1000 files",
    description = "Addresses that end: for a page, `GET /v1/files/{path}` is the stable one. A file that has no link \
                   carries its own `error`; the others are there.",
    request_body = LinksRequest,
    responses((status = 200, description = "The files in the order they were asked for", body = BatchResponse<Link>))
)]
pub async fn download(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker)?;
    client.may(Action::Download)?;
    let asked: LinksRequest = json::read(&request, payload, &worker, json::LONG).await?;
    let common = life(asked.max_age)?;
    let files = resolve(&worker, &client, &asked.files).await?;
    let mut wanted = Vec::new();
    for (file, named) in files.iter().zip(&asked.files) {
        if let Ok(file) = &file.found {
            let max_age = named.life()?.unwrap_or(common);
            wanted.push(Wanted { file_id: file.file_id.clone(), max_age });
        }
    }
    let links = worker.wechat.download_links(worker.wechat.env(), &wanted, false).await;
    answer(&request, &files, links, |link| Link {
        url: link.url,
        expires_at: json::timestamp(link.expires_at),
    })
}

/// `POST /v1/delete`
#[utoipa::path(
    post, path = "/v1/delete", operation_id = "delete_files", tag = "many files",
    summary = "Delete up to 1000 files",
    description = "A file that is gone already counts as deleted. One that cannot be deleted carries its own `error`.",
    request_body = DeleteRequest,
    responses((status = 200, description = "The files in the order they were named", body = BatchResponse<Deleted>))
)]
pub async fn delete(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = client::identify(&request, &worker)?;
    client.may(Action::Delete)?;
    let asked: DeleteRequest = json::read(&request, payload, &worker, json::LONG).await?;
    let files = resolve(&worker, &client, &asked.files).await?;
    let found = files.iter().filter_map(|file| file.found.as_ref().ok());
    let ids: Vec<_> = found.map(|file| file.file_id.clone()).collect();
    let deleted = worker.wechat.delete(worker.wechat.env(), &ids).await;
    // One that was gone already is as deleted as any.
    let deleted = deleted.into_iter().map(|result| match result {
        Err(error) if error.is_missing() => Ok(()),
        result => result,
    });
    answer(&request, &files, deleted.collect(), |()| Deleted { deleted: true })
}

impl Named {
    /// How long its link shall live, where that is said.
    fn life(&self) -> Result<Option<Duration>, Problem> {
        match self {
            Self::Object(NamedFile { max_age: Some(seconds), .. }) => {
                life(Some(*seconds)).map(Some)
            }
            Self::Object(_) | Self::Text(_) => Ok(None),
        }
    }
}

/// How long a link shall live. A whole number, which not every language writes without a point.
fn life(seconds: Option<f64>) -> Result<Duration, Problem> {
    match seconds {
        None => Ok(LINK_LIFE),
        Some(seconds) if seconds.fract() == 0.0 && (1.0..=LONGEST_LIFE).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        Some(_) => {
            let detail = format!("max_age is a number of seconds from 1 to {LONGEST_LIFE}");
            Err(Problem::new(Code::InvalidRequest, detail))
        }
    }
}

/// A file of a request.
struct Resolved {
    found: Result<FileRef, Unresolved>,
}

/// A name that leads to no file; as it was given.
struct Unresolved {
    file_id: Option<String>,
    path: Option<String>,
    problem: Problem,
}

/// Finds each file's id and path; a name that cannot be used is its own file's failure.
async fn resolve(
    worker: &Worker,
    client: &Client,
    files: &[Named],
) -> Result<Vec<Resolved>, Problem> {
    if files.is_empty() {
        return Err(Problem::new(Code::InvalidRequest, "`files` names no file"));
    }
    if files.len() > MOST_FILES {
        let detail = format!("`files` names {} files; at most {MOST_FILES} at a time", files.len());
        return Err(Problem::new(Code::TooManyFiles, detail));
    }
    let mut resolved = Vec::with_capacity(files.len());
    for named in files {
        // A request is right or wrong, whatever becomes of its files.
        named.life()?;
        let (file_id, path) = match named {
            Named::Text(text) => id_or_path(text),
            Named::Object(file) => (file.file_id.as_deref(), file.path.as_deref()),
        };
        let found = match find(worker, client, file_id, path).await {
            Ok(found) => Ok(found),
            // Without it no path can be resolved, this one or another.
            Err(ResolveError::Call(problem)) => return Err(problem),
            Err(ResolveError::Name(problem)) => Err(Unresolved {
                file_id: file_id.map(str::to_owned),
                path: path.map(str::to_owned),
                problem,
            }),
        };
        resolved.push(Resolved { found });
    }
    Ok(resolved)
}

/// The files in the order they were asked for. When no call to WeChat succeeded, that is the answer.
fn answer<T, U: Serialize>(
    request: &HttpRequest,
    files: &[Resolved],
    results: Vec<Result<T, FileError>>,
    done: impl Fn(T) -> U,
) -> Result<HttpResponse, Problem> {
    if let Some(Err(FileError::Call(error))) = results.first()
        && results.iter().all(|result| matches!(result, Err(FileError::Call(_))))
    {
        return Err(error.clone().into());
    }
    let id = RequestId::of_running(request);
    let mut results = results.into_iter();
    let outcomes: Vec<Result<U, Problem>> = files
        .iter()
        .map(|file| match &file.found {
            Err(unresolved) => Err(unresolved.problem.clone()),
            Ok(found) => match results.next() {
                Some(Ok(value)) => Ok(done(value)),
                Some(Err(error)) => Err(found.problem(&error)),
                None => Err(Problem::new(Code::Internal, "an answer is missing")),
            },
        })
        .collect();
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    if failed > 0 {
        tracing::info!(files = files.len(), failed, "some files have no answer");
    }
    let replies = files.iter().zip(&outcomes).map(|(file, outcome)| {
        let (file_id, path) = match &file.found {
            Ok(found) => (Some(found.file_id.as_str()), Some(found.path.as_str())),
            Err(unresolved) => (unresolved.file_id.as_deref(), unresolved.path.as_deref()),
        };
        let result = match outcome {
            Ok(value) => Outcome::Done(value),
            Err(problem) => Outcome::Failed { error: problem.document(&id) },
        };
        File { file_id, path, result }
    });
    Ok(HttpResponse::Ok().json(BatchResponse { files: replies.collect() }))
}
