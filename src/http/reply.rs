//! What an upload is answered with.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use serde::Serialize;
use serde_json::json;

use super::problem::{Code, Document, Problem};
use crate::cos::verdict::Receipt;
use crate::key::Key;

/// The shape of an upload's reply, by the client that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Default,
    /// Editor.js' image tool: `{"success": 1, "file": {"url"}}`; a failure is any other status.
    Editorjs,
    /// UEditor: `{"state": "SUCCESS", "url", …}`, `{"state": message}`; it reads neither of another status than 200.
    Ueditor,
}

impl Profile {
    const ALL: [(&str, Self); 3] =
        [("default", Self::Default), ("editorjs", Self::Editorjs), ("ueditor", Self::Ueditor)];

    /// By its name in `?reply=`.
    pub fn named(name: &str) -> Result<Self, Problem> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, profile)| *profile).ok_or_else(|| {
            let name: String = name.chars().take(40).collect();
            let known = Self::ALL.map(|(known, _)| known).join(", ");
            let detail = format!("there is no reply profile `{name}`; there are {known}");
            Problem::new(Code::InvalidRequest, detail)
        })
    }

    /// Its client puts fields behind the file, so the request's length says nothing of the file's.
    pub fn sends_fields_last(self) -> bool {
        matches!(self, Self::Editorjs | Self::Ueditor)
    }

    /// The reply to a request whose files ended so.
    pub fn reply(self, outcomes: &[Outcome], request_id: &str) -> Result<HttpResponse, Problem> {
        match (self, outcomes) {
            (Self::Default, _) => default(outcomes, request_id),
            (_, [Outcome::Failed { problem, .. }, ..]) => Err((**problem).clone()),
            (Self::Editorjs, [Outcome::Stored(stored), ..]) => {
                let file =
                    json!({ "url": stored.url, "name": stored.name, "size": stored.receipt.size });
                Ok(HttpResponse::Ok().json(json!({ "success": 1, "file": file })))
            }
            (Self::Ueditor, [Outcome::Stored(stored), ..]) => Ok(HttpResponse::Ok().json(json!({
                "state": "SUCCESS",
                "url": stored.url,
                "title": stored.key.as_str().rsplit('/').next(),
                "original": stored.name,
                "size": stored.receipt.size,
            }))),
            (_, []) => Err(Problem::new(Code::NoFile, "the form has no file")),
        }
    }

    /// A failure in the client's own shape; `None` for the problem document.
    pub fn failure(self, problem: &Problem) -> Option<HttpResponse> {
        match self {
            Self::Default => None,
            Self::Editorjs => {
                let message = json!({ "success": 0, "message": problem.detail });
                Some(HttpResponse::build(problem.code.status()).json(message))
            }
            Self::Ueditor => Some(HttpResponse::Ok().json(json!({ "state": problem.detail }))),
        }
    }
}

/// One file's end.
pub enum Outcome {
    Stored(Box<Stored>),
    Failed { name: String, path: Option<Key>, problem: Box<Problem> },
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

/// The default profile: `url` and `location` are the first file's, so that editors which look for one of them work
/// as they are.
#[derive(Serialize)]
struct Reply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'a str>,
    files: Vec<File<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum File<'a> {
    Stored {
        file_id: &'a str,
        path: &'a str,
        name: &'a str,
        /// Bytes.
        size: u64,
        content_type: &'a str,
        /// Decimal, as COS writes it; a string, because JavaScript's numbers cannot hold it.
        crc64: String,
        verified: bool,
        url: &'a str,
    },
    Failed {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<&'a str>,
        error: Document<'a>,
    },
}

/// The reply to a request whose files ended so. A single failure is a problem document; several files are all named,
/// the stored ones too, under the first failure's status.
fn default(outcomes: &[Outcome], request_id: &str) -> Result<HttpResponse, Problem> {
    if let [Outcome::Failed { problem, .. }] = outcomes {
        return Err((**problem).clone());
    }
    let files: Vec<_> = outcomes.iter().map(|outcome| file(outcome, request_id)).collect();
    let url = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::Stored(stored) => Some(stored.url.as_str()),
        Outcome::Failed { .. } => None,
    });
    let status = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::Failed { problem, .. } => Some(problem.code.status()),
        Outcome::Stored(_) => None,
    });
    let mut reply = HttpResponse::build(status.unwrap_or(StatusCode::CREATED));
    if let ([_], Some(url)) = (outcomes, url) {
        reply.insert_header((LOCATION, url));
    }
    Ok(reply.json(Reply { url, location: url, files }))
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
