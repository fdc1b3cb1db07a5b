//! The response formats of editors and upload widgets, each taken from the client's own source (named with each).
//!
//! A failure in a JSON format also contains the whole problem document as `problem`: no client objects to an additional
//! member, and a developer finds the code and the request's id there.

use std::collections::{HashMap, HashSet};

use actix_web::http::header::{LOCATION, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::json::{UploadResponse, with_files, with_problem};
use super::outcome::{Outcome, Stored};
use crate::http::problem::{Code, Document, Problem};
use crate::settings::ReplyProfile;

/// The response to an upload of one or several files, in the client's format.
pub fn response(
    profile: ReplyProfile,
    outcomes: &[Outcome],
    request_id: &str,
) -> Result<HttpResponse, Problem> {
    match (profile, outcomes) {
        (ReplyProfile::Vditor, _) => return Ok(vditor(outcomes, request_id)),
        // Dropzone sends several files in one request and can show that one of them failed.
        (ReplyProfile::Dropzone, [_, _, ..]) => {
            let error = outcomes.iter().find_map(Outcome::problem);
            let error = error.map(|problem| problem.detail.as_str());
            let body = UploadResponse::new(outcomes, request_id).with_error(error);
            return Ok(with_files(outcomes, body));
        }
        _ => {}
    }
    // The other clients read one result for the whole request. It is a failure if any file failed.
    if let Some(problem) = outcomes.iter().find_map(Outcome::problem) {
        return Err(problem.clone());
    }
    let stored: Vec<&Stored> = outcomes.iter().filter_map(Outcome::stored).collect();
    let Some(first) = stored.first() else {
        return Err(Problem::new(Code::NoFile, "the form has no file"));
    };
    let url = first.url.as_str();
    Ok(match profile {
        ReplyProfile::Default | ReplyProfile::Vditor | ReplyProfile::Dropzone => {
            with_files(outcomes, UploadResponse::new(outcomes, request_id))
        }
        // tinymce 8: a string `location`, any 2xx.
        ReplyProfile::Tinymce => {
            HttpResponse::Ok().json(with_receipt(json!({ "location": url }), &stored))
        }
        // @ckeditor/ckeditor5-upload 48, SimpleUploadAdapter: `url`, or `urls`.
        ReplyProfile::Ckeditor => {
            HttpResponse::Ok().json(with_receipt(json!({ "url": url }), &stored))
        }
        ReplyProfile::Wangeditor => {
            let body = json!({ "errno": 0, "data": wangeditor(&stored) });
            HttpResponse::Ok().json(with_receipt(body, &stored))
        }
        // @editorjs/image 2: the editor saves all of `file` in the document.
        ReplyProfile::Editorjs => {
            let file = json!({ "url": url, "name": first.name, "size": first.size });
            let body = json!({ "success": 1, "file": file });
            HttpResponse::Ok().json(with_receipt(body, &stored))
        }
        ReplyProfile::Ueditor => json_as_text(&json!({
            "state": "SUCCESS",
            "url": url,
            "title": first.key.as_str().rsplit('/').next(),
            "original": first.name,
            "type": extension(&first.name),
            "size": first.size,
        })),
        // filepond 4: the whole text is the file's id, which it later sends as the body of the DELETE that reverts the
        // upload.
        ReplyProfile::Filepond => {
            text(HttpResponse::Created().insert_header((LOCATION, url)), first.file_id.clone())
        }
        // Whatever the page and its back end agreed on.
        ReplyProfile::Hook => {
            let hook = |stored: &&Stored| stored.hook.clone().unwrap_or_default();
            let body = match &stored[..] {
                [one] => hook(one),
                several => several.iter().map(hook).collect(),
            };
            HttpResponse::Created().insert_header((LOCATION, url)).json(body)
        }
        ReplyProfile::Text => {
            let urls: Vec<_> = stored.iter().map(|stored| format!("{}\n", stored.url)).collect();
            text(HttpResponse::Created().insert_header((LOCATION, url)), urls.concat())
        }
    })
}

/// Adds the receipt of the only file. The editors ignore an additional member; the page's own code can read it.
fn with_receipt(mut body: Value, stored: &[&Stored]) -> Value {
    if let [Stored { signed_receipt: Some(receipt), .. }] = stored {
        body["receipt"] = receipt.as_str().into();
    }
    body
}

/// The response to a request that failed as a whole; `None`: the problem document.
pub fn failure(profile: ReplyProfile, problem: &Problem, request_id: &str) -> Option<HttpResponse> {
    let (detail, document) = (problem.detail.as_str(), problem.document(request_id));
    let mut failed = HttpResponse::build(problem.code.status());
    if let Some(seconds) = problem.retry_after {
        failed.insert_header((RETRY_AFTER, seconds));
    }
    let response = match profile {
        // TinyMCE reads only the status.
        ReplyProfile::Default | ReplyProfile::Tinymce | ReplyProfile::Hook => return None,
        // CKEditor shows `message`, whatever the status.
        ReplyProfile::Ckeditor => {
            failed.json(json!({ "error": { "message": detail }, "problem": document }))
        }
        // @wangeditor/core 1, which uses Uppy: it ignores the body unless the status is 2xx.
        ReplyProfile::Wangeditor => {
            HttpResponse::Ok().json(json!({ "errno": 1, "message": detail, "problem": document }))
        }
        // Editor.js's uploader fails on any status other than 2xx; `success` is for custom uploaders that read the
        // body.
        ReplyProfile::Editorjs => {
            failed.json(json!({ "success": 0, "message": detail, "problem": document }))
        }
        ReplyProfile::Vditor => HttpResponse::Ok().json(Vditor::new(Some(problem), request_id)),
        ReplyProfile::Ueditor => {
            json_as_text(&json!({ "state": for_markup(detail), "problem": document }))
        }
        // FilePond shows the text if the page sets `onerror: response => response`.
        ReplyProfile::Filepond => text(&mut failed, detail.to_owned()),
        // dropzone 6 parses `application/json` and shows `error`; it would show all of an `application/problem+json`.
        ReplyProfile::Dropzone => failed.json(json!({ "error": detail, "problem": document })),
        ReplyProfile::Text => text(&mut failed, format!("{}: {detail}\n", problem.code.name())),
    };
    Some(with_problem(response, Some(problem)))
}

/// @wangeditor/upload-image-module 1: one file's data, or a list of them. `href` is the link of an inserted image.
fn wangeditor(stored: &[&Stored]) -> Value {
    let data =
        |stored: &&Stored| json!({ "url": stored.url, "alt": stored.name, "href": stored.url });
    match stored {
        [one] => data(one),
        several => several.iter().map(data).collect(),
    }
}

/// vditor 4: always a 2xx, since the body of any other status is shown as it is; `data` is required.
#[derive(Serialize)]
struct Vditor<'a> {
    msg: String,
    /// 1: Vditor shows `msg`.
    code: u8,
    data: VditorData<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Document<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VditorData<'a> {
    err_files: Vec<String>,
    /// URLs by file name, in the order of the upload, in which Vditor inserts them.
    #[serde(serialize_with = "as_map")]
    succ_map: Vec<(String, &'a str)>,
}

fn as_map<S: Serializer>(entries: &[(String, &str)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(entries.iter().map(|(name, url)| (name, url)))
}

impl<'a> Vditor<'a> {
    fn new(problem: Option<&'a Problem>, request_id: &'a str) -> Self {
        Self {
            msg: problem.map(|problem| for_markup(&problem.detail)).unwrap_or_default(),
            code: problem.is_some().into(),
            data: VditorData { err_files: Vec::new(), succ_map: Vec::new() },
            problem: problem.map(|problem| problem.document(request_id)),
        }
    }
}

fn vditor(outcomes: &[Outcome], request_id: &str) -> HttpResponse {
    let problem = outcomes.iter().find_map(Outcome::problem);
    let mut body = Vditor::new(problem, request_id);
    let mut names = UniqueNames::default();
    for outcome in outcomes {
        match outcome {
            Outcome::Failed { name, .. } => body.data.err_files.push(for_markup(name)),
            Outcome::Stored(stored) => {
                let name = names.unused(for_markup(&stored.name));
                body.data.succ_map.push((name, &stored.url));
            }
        }
    }
    with_problem(HttpResponse::Ok().json(body), problem)
}

/// Unique names for a map. Pasted images are all called image.png, and would overwrite each other in it.
#[derive(Default)]
struct UniqueNames {
    used: HashSet<String>,
    /// The number to try first for the next file of a name, so that a thousand files of one name take a thousand steps.
    next: HashMap<String, u32>,
}

impl UniqueNames {
    /// `name`, or the next numbered one that is unused.
    fn unused(&mut self, name: String) -> String {
        if self.used.insert(name.clone()) {
            return name;
        }
        let (stem, extension) = match name.rsplit_once('.') {
            Some((stem, extension)) => (stem, format!(".{extension}")),
            None => (name.as_str(), String::new()),
        };
        let next = self.next.entry(name.clone()).or_insert(2);
        loop {
            let numbered = format!("{stem}-{next}{extension}");
            *next += 1;
            if self.used.insert(numbered.clone()) {
                return numbered;
            }
        }
    }
}

/// Replaces `<`, `>` and `"` with similar characters. These editors insert a message or a name into HTML without
/// escaping it, and show it as plain text elsewhere, so that HTML entities would be visible.
fn for_markup(text: &str) -> String {
    text.replace('<', "\u{2039}").replace('>', "\u{203a}").replace('"', "\u{201d}")
}

/// The file's type as UEditor's own server reports it: the extension with its dot.
fn extension(name: &str) -> String {
    name.rsplit_once('.').map(|(_, extension)| format!(".{extension}")).unwrap_or_default()
}

/// JSON as plain text, for ueditor 1.4: it submits a form into a hidden frame and evaluates the frame's text. Browsers
/// add elements of their own when they display JSON in a frame, and none when they display plain text.
fn json_as_text(body: &Value) -> HttpResponse {
    text(&mut HttpResponse::Ok(), body.to_string())
}

fn text(response: &mut HttpResponseBuilder, body: String) -> HttpResponse {
    response
        .content_type("text/plain; charset=utf-8")
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_same_name_get_unique_names() {
        let mut names = UniqueNames::default();
        for (name, expected) in [
            ("image.png", "image.png"),
            ("image.png", "image-2.png"),
            ("image-3.png", "image-3.png"),
            ("image.png", "image-4.png"),
            ("image-2.png", "image-2-2.png"),
            ("image", "image"),
            ("image", "image-2"),
            ("", ""),
            ("", "-2"),
        ] {
            assert_eq!(names.unused(name.to_owned()), expected);
        }
    }

    #[test]
    fn a_thousand_files_of_the_same_name_are_named_within_10_ms() {
        for numbered in [false, true] {
            let started = std::time::Instant::now();
            let mut names = UniqueNames::default();
            for index in 0..1000 {
                // Numbers that are used already are skipped once.
                let is_numbered = numbered && index < 500;
                names.unused(if is_numbered { format!("i-{index}.png") } else { "i.png".into() });
            }
            assert_eq!(names.used.len(), 1000);
            assert!(started.elapsed().as_millis() < 10, "{:?}", started.elapsed());
        }
    }
}
