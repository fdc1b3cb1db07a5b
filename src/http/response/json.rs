//! The gateway's own response format for uploads: JSON.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, LOCATION};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::outcome::Outcome;
use crate::cos::verdict::VerifiedBy;
use crate::http::problem::{Document, Problem};
use crate::key::Key;

/// The files of an upload. `url` and `location` are the first stored file's, for editors that read one of them.
#[derive(Serialize, ToSchema)]
#[schema(as = Upload)]
pub struct UploadResponse<'a> {
    /// The first failure in words, for clients that read this member (`dropzone`).
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

/// One file: stored, or not.
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
        /// CRC-64/XZ of the file, decimal as COS writes it. A string, because it does not fit a JavaScript number. Absent
        /// if it is not known: a resumable upload that another gateway completed, and COS told none.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        crc64: Option<String>,
        /// Whether COS reported the same CRC-64 for the stored object; `false` if it reported none.
        verified: bool,
        /// Where COS reported it: `reply` (its response to the file), `parts` (its responses to the file's parts), `head`
        /// (a HEAD request for the object).
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        verified_by: Option<&'static str>,
        /// The file's stable URL.
        url: &'a str,
        /// Only if `hooks.wait` is on: the back end's response to `file.stored`. `null` if it has no JSON, or if the
        /// back end did not respond in time: the file is stored, and the event is delivered later.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Object>)]
        hook: Option<&'a Value>,
        /// Only if `receipts.key` is set: a JSON Web Token (HS256) with `file_id`, `path`, `size`, `crc64`, `iat`, and
        /// `sub` if the client is a user. A back end verifies it.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        receipt: Option<&'a str>,
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
    /// Sets the member `error`.
    pub fn with_error(self, error: Option<&'a str>) -> Self {
        Self { error, ..self }
    }

    /// The response for all files of a request.
    pub fn new(outcomes: &'a [Outcome], request_id: &'a str) -> Self {
        let url = outcomes.iter().find_map(Outcome::stored).map(|stored| stored.url.as_str());
        let files = outcomes.iter().map(|outcome| file(outcome, request_id)).collect();
        Self { error: None, url, location: url, files }
    }
}

/// A single failed file gets a problem document. Of several files each is listed, the stored ones too, and the status
/// is that of the first failure.
pub fn response(outcomes: &[Outcome], request_id: &str) -> Result<HttpResponse, Problem> {
    if let [Outcome::Failed { problem, .. }] = outcomes {
        return Err((**problem).clone());
    }
    Ok(with_files(outcomes, UploadResponse::new(outcomes, request_id)))
}

/// The response with `body`, and with the status of the first failure.
pub fn with_files(outcomes: &[Outcome], body: UploadResponse<'_>) -> HttpResponse {
    let problem = outcomes.iter().find_map(Outcome::problem);
    let status = problem.map_or(StatusCode::CREATED, |problem| problem.code.status());
    let mut response = HttpResponse::build(status);
    if let ([_], Some(url)) = (outcomes, body.url) {
        response.insert_header((LOCATION, url));
    }
    // Like `HttpResponseBuilder::json`, but with a buffer that is nearly always large enough.
    let mut text = Vec::with_capacity(1024);
    match serde_json::to_writer(&mut text, &body) {
        Ok(()) => with_problem(response.content_type(ContentType::json()).body(text), problem),
        Err(error) => HttpResponse::from_error(error),
    }
}

/// Attaches the problem to the response, for the access log.
pub fn with_problem(mut response: HttpResponse, problem: Option<&Problem>) -> HttpResponse {
    if let Some(problem) = problem {
        response.extensions_mut().insert(problem.clone());
    }
    response
}

fn file<'a>(outcome: &'a Outcome, request_id: &'a str) -> File<'a> {
    match outcome {
        Outcome::Stored(stored) => File::Stored {
            file_id: &stored.file_id,
            path: stored.key.as_str(),
            name: &stored.name,
            size: stored.size,
            content_type: &stored.content_type,
            crc64: stored.crc64.map(|crc64| crc64.to_string()),
            verified: stored.verified_by.is_some(),
            verified_by: stored.verified_by.map(VerifiedBy::name),
            url: &stored.url,
            hook: stored.hook.as_ref(),
            receipt: stored.signed_receipt.as_deref(),
        },
        Outcome::Failed { name, path, problem } => File::Failed {
            name,
            path: path.as_ref().map(Key::as_str),
            error: problem.document(request_id),
        },
    }
}
