//! Many files at a time: download links, deletes; and links for clients that post to COS themselves.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::docs::Folder;
use super::problem::{Code, Document, Problem};
use super::trace::RequestId;
use super::{Worker, caller, json};
use crate::cos::form::Fields;
use crate::guard::policy::Client;
use crate::key::{self, Key, Values};
use crate::settings::Action;
use crate::wechat::FileError;
use crate::wechat::api::{LINK_LIFE, Wanted};
use crate::wechat::wire::UploadLink;

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
struct Reply<'a, T> {
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
    responses((status = 200, description = "The files in the order they were asked for", body = Reply<Link>))
)]
pub async fn download(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = caller::identify(&request, &worker)?;
    client.may(Action::Download)?;
    let idle = worker.shared.settings.upload.idle_timeout;
    let asked: LinksRequest = json::read(&request, payload, idle).await?;
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
        expires_at: timestamp(link.expires_at),
    })
}

/// `POST /v1/delete`
#[utoipa::path(
    post, path = "/v1/delete", operation_id = "delete_files", tag = "many files",
    summary = "Delete up to 1000 files",
    description = "A file that is gone already counts as deleted. One that cannot be deleted carries its own `error`.",
    request_body = DeleteRequest,
    responses((status = 200, description = "The files in the order they were named", body = Reply<Deleted>))
)]
pub async fn delete(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = caller::identify(&request, &worker)?;
    client.may(Action::Delete)?;
    let idle = worker.shared.settings.upload.idle_timeout;
    let asked: DeleteRequest = json::read(&request, payload, idle).await?;
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
    found: Result<Found, Unresolved>,
}

pub(super) struct Found {
    pub file_id: String,
    pub path: String,
    id_given: bool,
}

impl Found {
    /// What to tell of it when its call failed.
    pub fn problem(&self, error: &FileError) -> Problem {
        let problem = Problem::of_file(error, &self.path);
        if self.id_given { problem.of_given_id() } else { problem }
    }
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
            Err(Lost::Call(problem)) => return Err(problem),
            Err(Lost::Name(problem)) => Err(Unresolved {
                file_id: file_id.map(str::to_owned),
                path: path.map(str::to_owned),
                problem,
            }),
        };
        resolved.push(Resolved { found });
    }
    Ok(resolved)
}

/// Why a name leads nowhere.
pub enum Lost {
    /// The name is wrong, or not for this client.
    Name(Problem),
    /// WeChat did not answer.
    Call(Problem),
}

/// One file by its id or its path, as `text` has it.
pub(super) async fn find_one(
    worker: &Worker,
    client: &Client,
    text: &str,
) -> Result<Found, Problem> {
    let (file_id, path) = id_or_path(text);
    find(worker, client, file_id, path).await.map_err(Problem::from)
}

fn id_or_path(text: &str) -> (Option<&str>, Option<&str>) {
    if text.starts_with("cloud://") { (Some(text), None) } else { (None, Some(text)) }
}

impl From<Lost> for Problem {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Name(problem) | Lost::Call(problem) => problem,
        }
    }
}

async fn find(
    worker: &Worker,
    client: &Client,
    file_id: Option<&str>,
    path: Option<&str>,
) -> Result<Found, Lost> {
    let wrong = |detail: &str| Lost::Name(Problem::new(Code::InvalidRequest, detail));
    let name = |problem: Problem| Lost::Name(problem);
    let by_id = file_id.map(path_of).transpose().map_err(name)?;
    let by_path =
        path.map(|path| Key::parse(path).map_err(Problem::from)).transpose().map_err(name)?;
    let path = match (by_id, &by_path) {
        (None, None) => return Err(wrong("a file is named by its `file_id` or its `path`")),
        (Some(path), Some(key)) if path != key.as_str() => {
            return Err(wrong("`file_id` and `path` name different files"));
        }
        (Some(path), _) => path,
        (None, Some(key)) => key.as_str(),
    };
    let id_given = file_id.is_some();
    let file_id = match file_id {
        Some(file_id) => {
            confine(worker, client, file_id, path).await?;
            file_id.to_owned()
        }
        None => {
            client.reach(path).map_err(|error| name(error.into()))?;
            worker.wechat.file_id(path).await.map_err(|error| match error.errcode() {
                // This one's, not all paths'.
                Some(-501007) => name(Problem::from(error).about(path)),
                _ => Lost::Call(error.into()),
            })?
        }
    };
    Ok(Found { file_id, path: path.to_owned(), id_given })
}

/// Who is kept to a folder is kept to our environment's, too.
pub async fn confine(
    worker: &Worker,
    client: &Client,
    file_id: &str,
    path: &str,
) -> Result<(), Lost> {
    client.reach(path).map_err(|error| Lost::Name(error.into()))?;
    if client.is_confined() {
        let own = worker.wechat.file_id(path).await.map_err(|error| Lost::Call(error.into()))?;
        if own != file_id {
            let detail = "the file id is of another environment";
            return Err(Lost::Name(Problem::new(Code::PathNotAllowed, detail)));
        }
    }
    Ok(())
}

/// The path in `cloud://ENV.BUCKET/PATH`. Files that others stored may have paths that we would not give.
pub fn path_of(file_id: &str) -> Result<&str, Problem> {
    let path = file_id.strip_prefix("cloud://").and_then(|rest| rest.split_once('/'));
    match path {
        Some((place, path))
            if !place.is_empty() && !path.is_empty() && !file_id.contains(char::is_control) =>
        {
            Ok(path)
        }
        _ => {
            Err(Problem::new(Code::InvalidPath, "a file id is of the form cloud://ENV.BUCKET/PATH"))
        }
    }
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
    Ok(HttpResponse::Ok().json(Reply { files: replies.collect() }))
}

/// A file that its client will post to COS itself.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UploadRequest {
    /// The object's path; without it, the template's.
    #[schema(value_type = Option<Key>)]
    path: Option<String>,
    /// For the template: the file's name,
    name: Option<String>,
    /// and the folder.
    #[schema(value_type = Option<Folder>)]
    dir: Option<String>,
    /// The object's type; without it, the one its name tells.
    content_type: Option<String>,
}

/// What a client needs to post a file to COS itself.
#[derive(Serialize, ToSchema)]
#[schema(as = UploadLink)]
struct UploadReply<'a> {
    /// Where the form goes.
    url: &'a str,
    /// `POST`
    method: &'static str,
    /// Name and value, in the order COS wants them; then the file.
    #[schema(value_type = Vec<[String; 2]>)]
    fields: Vec<(&'static str, &'a str)>,
    /// The name of the file's part.
    file_field: &'static str,
    /// The file's id once it is stored.
    file_id: &'a str,
    path: &'a str,
    /// RFC 3339, UTC; absent where the signature does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expires_at: Option<String>,
}

/// `POST /v1/upload-links`
#[utoipa::path(
    post, path = "/v1/upload-links", operation_id = "upload_link", tag = "links to COS",
    summary = "What a client needs to post one file to COS itself",
    description = "Post `multipart/form-data` to `url`: `fields` in their order, then the file as `file_field`, then \
                   nothing more. The file is stored when COS answers 204 (or 200).",
    request_body = UploadRequest,
    responses((status = 200, description = "The form's address and fields", body = UploadReply))
)]
pub async fn upload(
    request: HttpRequest,
    payload: web::Payload,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let client = caller::identify(&request, &worker)?;
    client.may(Action::Link)?;
    let settings = &worker.shared.settings;
    let asked: UploadRequest = json::read(&request, payload, settings.upload.idle_timeout).await?;
    let name = asked.name.as_deref().unwrap_or_default();
    // Also where a path makes it idle.
    asked.dir.as_deref().map(key::folder).transpose()?;
    let key = match asked.path.as_deref().or(client.path.as_ref().map(Key::as_str)) {
        Some(path) => client.own_key(path)?,
        None => {
            let values = Values {
                client: &client.name,
                dir: asked.dir.as_deref(),
                name,
                now: Timestamp::now(),
                uuid: Uuid::now_v7(),
            };
            let prefix = client.prefix.as_deref().unwrap_or_default();
            worker.shared.template.render(&values, prefix)?
        }
    };
    let named = if name.is_empty() { key.as_str() } else { name };
    let declared = client.types.admit(asked.content_type.as_deref(), [named, key.as_str()])?;
    let content_type = client.types.unseen(&declared);
    let link = worker.wechat.upload_link(key.as_str()).await;
    let link = link.map_err(|error| Problem::from(error).about(key.as_str()))?;
    // A browser that posts elsewhere is as wrong as we would be.
    worker.shared.allowed_hosts.check(&link.url)?;
    worker.wechat.forget_link(&link.file_id).await;
    let fields = Fields {
        key: key.as_str(),
        signature: link.authorization.expose_secret(),
        security_token: link.token.expose_secret(),
        file_id: link.cos_file_id.expose_secret(),
        content_type: settings.cos.send_content_type.then_some(&content_type),
    };
    Ok(HttpResponse::Ok().json(UploadReply {
        url: &link.url,
        method: "POST",
        fields: fields.ordered().collect(),
        file_field: "file",
        file_id: &link.file_id,
        path: key.as_str(),
        expires_at: signed_until(&link).map(timestamp),
    }))
}

/// The end of `q-sign-time=START;END`.
fn signed_until(link: &UploadLink) -> Option<Timestamp> {
    let pairs =
        link.authorization.expose_secret().split('&').filter_map(|pair| pair.split_once('='));
    let (_, times) = pairs.into_iter().find(|(name, _)| *name == "q-sign-time")?;
    let (_, end) = times.split_once(';')?;
    Timestamp::from_second(end.parse().ok()?).ok()
}

fn timestamp(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_id_names_its_path() {
        assert_eq!(path_of("cloud://env.bucket/a/b.png").ok(), Some("a/b.png"));
        for wrong in [
            "",
            "a/b",
            "cloud://",
            "cloud://env.bucket",
            "cloud://e.b/",
            "cloud:///a",
            "cloud://e.b/a\n",
        ] {
            assert!(path_of(wrong).is_err(), "{wrong:?}");
        }
    }
}
