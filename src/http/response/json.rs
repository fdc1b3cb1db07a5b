//! The gateway's own response to an upload, as JSON.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, LOCATION};
use serde::Serialize;
use utoipa::ToSchema;

use super::outcome::Outcome;
use crate::http::problem::{Document, Problem};
use crate::key::Key;

/// `url` and `location` are the first file's, so that editors which look for one of them work as they are.
#[derive(Serialize, ToSchema)]
#[schema(as = Upload)]
pub struct UploadResponse<'a> {
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

impl<'a> UploadResponse<'a> {
    /// The same with a failure in words.
    pub fn with_error(self, error: Option<&'a str>) -> Self {
        Self { error, ..self }
    }

    /// Of all files of a request.
    pub fn new(outcomes: &'a [Outcome], request_id: &'a str) -> Self {
        let url = outcomes.iter().find_map(Outcome::stored).map(|stored| stored.url.as_str());
        let files = outcomes.iter().map(|outcome| file(outcome, request_id)).collect();
        Self { error: None, url, location: url, files }
    }
}

/// A single failure is a problem document; several files are all named, the stored ones too, under the first failure's
/// status.
pub fn reply(outcomes: &[Outcome], request_id: &str) -> Result<HttpResponse, Problem> {
    if let [Outcome::Failed { problem, .. }] = outcomes {
        return Err((**problem).clone());
    }
    Ok(files(outcomes, UploadResponse::new(outcomes, request_id)))
}

/// The response with `body`, under the first failure's status.
pub fn files(outcomes: &[Outcome], body: UploadResponse<'_>) -> HttpResponse {
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
pub fn with_problem(mut reply: HttpResponse, problem: Option<&Problem>) -> HttpResponse {
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
