//! What an upload is answered with: our own shape here, those of editors and widgets in `reply/clients.rs`.

mod clients;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, LOCATION};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Code, Document, Problem};
use crate::cos::verdict::Receipt;
use crate::key::Key;
use crate::settings::ReplyProfile;

/// The profile that `name` of `?reply=` stands for.
pub fn named(name: &str) -> Result<ReplyProfile, Problem> {
    name.parse().map_err(|_| {
        let name: String = name.chars().take(40).collect();
        let known: Vec<_> = ReplyProfile::ALL.iter().map(|profile| profile.name()).collect();
        let detail = format!("there is no reply profile `{name}`; there are {}", known.join(", "));
        Problem::new(Code::InvalidRequest, detail)
    })
}

impl ReplyProfile {
    /// Its client puts fields behind the file, so the request's length says nothing of the file's.
    pub fn sends_fields_last(self) -> bool {
        matches!(self, Self::Editorjs | Self::Ueditor)
    }

    /// The reply to a request whose files ended so. `Err`: the whole request failed, see [`Self::failure`].
    pub fn reply(self, outcomes: &[Outcome], request_id: &str) -> Result<HttpResponse, Problem> {
        match self {
            Self::Default => default(outcomes, request_id),
            _ => clients::reply(self, outcomes, request_id),
        }
    }

    /// The reply to a request that failed as a whole, in the client's own shape; `None` where that is the problem
    /// document.
    pub fn failure(self, problem: &Problem, request_id: &str) -> Option<HttpResponse> {
        clients::failure(self, problem, request_id)
    }
}

/// One file's end.
pub enum Outcome {
    Stored(Box<Stored>),
    Failed { name: String, path: Option<Key>, problem: Box<Problem> },
}

impl Outcome {
    fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Failed { problem, .. } => Some(problem),
            Self::Stored(_) => None,
        }
    }

    fn stored(&self) -> Option<&Stored> {
        match self {
            Self::Stored(stored) => Some(stored),
            Self::Failed { .. } => None,
        }
    }
}

/// A file that is stored.
pub struct Stored {
    pub file_id: String,
    pub key: Key,
    pub name: String,
    pub content_type: String,
    pub receipt: Receipt,
    /// Its stable address.
    pub url: String,
}

/// `url` and `location` are the first file's, so that editors which look for one of them work as they are.
#[derive(Serialize, ToSchema)]
#[schema(as = Upload)]
pub struct Reply<'a> {
    /// In words, for clients that look here (`dropzone`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    location: Option<&'a str>,
    files: Vec<File<'a>>,
}

/// A file's end.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = UploadedFile)]
enum File<'a> {
    Stored {
        file_id: &'a str,
        path: &'a str,
        name: &'a str,
        /// Bytes.
        size: u64,
        content_type: &'a str,
        /// CRC-64/XZ of the file; decimal, as COS writes it; a string, because JavaScript's numbers cannot hold it.
        crc64: String,
        /// Whether COS named the CRC-64 of what it stored, and it is this one.
        verified: bool,
        /// The file's stable address.
        url: &'a str,
    },
    Failed {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        path: Option<&'a str>,
        error: Document<'a>,
    },
}

impl<'a> Reply<'a> {
    fn new(outcomes: &'a [Outcome], request_id: &'a str) -> Self {
        let url = outcomes.iter().find_map(Outcome::stored).map(|stored| stored.url.as_str());
        let files = outcomes.iter().map(|outcome| file(outcome, request_id)).collect();
        Self { error: None, url, location: url, files }
    }
}

/// A single failure is a problem document; several files are all named, the stored ones too, under the first failure's
/// status.
fn default(outcomes: &[Outcome], request_id: &str) -> Result<HttpResponse, Problem> {
    if let [Outcome::Failed { problem, .. }] = outcomes {
        return Err((**problem).clone());
    }
    Ok(files(outcomes, Reply::new(outcomes, request_id)))
}

fn files(outcomes: &[Outcome], body: Reply<'_>) -> HttpResponse {
    let problem = outcomes.iter().find_map(Outcome::problem);
    let status = problem.map_or(StatusCode::CREATED, |problem| problem.code.status());
    let mut reply = HttpResponse::build(status);
    if let ([_], Some(url)) = (outcomes, body.url) {
        reply.insert_header((LOCATION, url));
    }
    // As `json` does, but that a reply nearly always fits what it is written to.
    let mut text = Vec::with_capacity(1024);
    match serde_json::to_writer(&mut text, &body) {
        Ok(()) => with_problem(reply.content_type(ContentType::json()).body(text), problem),
        Err(error) => HttpResponse::from_error(error),
    }
}

/// The problem goes along for the log.
fn with_problem(mut reply: HttpResponse, problem: Option<&Problem>) -> HttpResponse {
    if let Some(problem) = problem {
        reply.extensions_mut().insert(problem.clone());
    }
    reply
}

fn file<'a>(outcome: &'a Outcome, request_id: &'a str) -> File<'a> {
    match outcome {
        Outcome::Stored(stored) => File::Stored {
            file_id: &stored.file_id,
            path: stored.key.as_str(),
            name: &stored.name,
            size: stored.receipt.size,
            content_type: &stored.content_type,
            crc64: stored.receipt.crc64.to_string(),
            verified: stored.receipt.verified,
            url: &stored.url,
        },
        Outcome::Failed { name, path, problem } => File::Failed {
            name,
            path: path.as_ref().map(Key::as_str),
            error: problem.document(request_id),
        },
    }
}
