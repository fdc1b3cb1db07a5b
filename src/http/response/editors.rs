//! The shapes that editors and upload widgets read, each as its own source has it (named with each).
//!
//! Where a shape is JSON, a failure's whole problem document stands in it too, as `problem`: no client minds a member
//! more, and whoever looks at the exchange finds the code and the request's id.

use std::collections::{HashMap, HashSet};

use actix_web::http::header::{LOCATION, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::json::{UploadResponse, files, with_problem};
use super::outcome::{Outcome, Stored};
use crate::http::problem::{Code, Document, Problem};
use crate::settings::ReplyProfile;

/// The reply to a request with several files, or one, in a client's shape.
pub fn reply(
    profile: ReplyProfile,
    outcomes: &[Outcome],
    request_id: &str,
) -> Result<HttpResponse, Problem> {
    match (profile, outcomes) {
        (ReplyProfile::Vditor, _) => return Ok(vditor(outcomes, request_id)),
        // One that shows several files in one request and can show that one of them failed.
        (ReplyProfile::Dropzone, [_, _, ..]) => {
            let error = outcomes.iter().find_map(Outcome::problem);
            let error = error.map(|problem| problem.detail.as_str());
            let reply = UploadResponse::new(outcomes, request_id).with_error(error);
            return Ok(files(outcomes, reply));
        }
        _ => {}
    }
    // The others read one verdict on the request. It is not a success when a file is missing.
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
            files(outcomes, UploadResponse::new(outcomes, request_id))
        }
        // tinymce 8: a string `location`, any 2xx.
        ReplyProfile::Tinymce => HttpResponse::Ok().json(json!({ "location": url })),
        // @ckeditor/ckeditor5-upload 48, SimpleUploadAdapter: `url`, or `urls`.
        ReplyProfile::Ckeditor => HttpResponse::Ok().json(json!({ "url": url })),
        ReplyProfile::Wangeditor => {
            HttpResponse::Ok().json(json!({ "errno": 0, "data": wangeditor(&stored) }))
        }
        // @editorjs/image 2: `file` is kept in the document, all of it.
        ReplyProfile::Editorjs => {
            let file = json!({ "url": url, "name": first.name, "size": first.receipt.size });
            HttpResponse::Ok().json(json!({ "success": 1, "file": file }))
        }
        ReplyProfile::Ueditor => page_text(&json!({
            "state": "SUCCESS",
            "url": url,
            "title": first.key.as_str().rsplit('/').next(),
            "original": first.name,
            "type": extension(&first.name),
            "size": first.receipt.size,
        })),
        // filepond 4: the whole text is the file's id, and the body of the DELETE that takes it back.
        ReplyProfile::Filepond => {
            text(HttpResponse::Created().insert_header((LOCATION, url)), first.file_id.clone())
        }
        ReplyProfile::Text => {
            let urls: Vec<_> = stored.iter().map(|stored| format!("{}\n", stored.url)).collect();
            text(HttpResponse::Created().insert_header((LOCATION, url)), urls.concat())
        }
    })
}

/// The reply to a request that failed as a whole.
pub fn failure(profile: ReplyProfile, problem: &Problem, request_id: &str) -> Option<HttpResponse> {
    let (detail, document) = (problem.detail.as_str(), problem.document(request_id));
    let mut refused = HttpResponse::build(problem.code.status());
    if let Some(seconds) = problem.retry_after {
        refused.insert_header((RETRY_AFTER, seconds));
    }
    let reply = match profile {
        // TinyMCE reads the status only.
        ReplyProfile::Default | ReplyProfile::Tinymce => return None,
        // It shows `message`, whatever the status.
        ReplyProfile::Ckeditor => {
            refused.json(json!({ "error": { "message": detail }, "problem": document }))
        }
        // @wangeditor/core 1, over Uppy: of another status than 2xx it reads nothing.
        ReplyProfile::Wangeditor => {
            HttpResponse::Ok().json(json!({ "errno": 1, "message": detail, "problem": document }))
        }
        // Its uploader rejects another status than 2xx; `success` is for those who read the body.
        ReplyProfile::Editorjs => {
            refused.json(json!({ "success": 0, "message": detail, "problem": document }))
        }
        ReplyProfile::Vditor => HttpResponse::Ok().json(Vditor::new(Some(problem), request_id)),
        ReplyProfile::Ueditor => {
            page_text(&json!({ "state": for_markup(detail), "problem": document }))
        }
        // Its text is shown where the page asks for it: `onerror: response => response`.
        ReplyProfile::Filepond => text(&mut refused, detail.to_owned()),
        // dropzone 6 parses `application/json` and shows `error`; of `application/problem+json` it shows the text.
        ReplyProfile::Dropzone => refused.json(json!({ "error": detail, "problem": document })),
        ReplyProfile::Text => text(&mut refused, format!("{}: {detail}\n", problem.code.name())),
    };
    Some(with_problem(reply, Some(problem)))
}

/// @wangeditor/upload-image-module 1: one file's data, or a list of them; `href` is where its own server links a
/// picture to.
fn wangeditor(stored: &[&Stored]) -> Value {
    let data =
        |stored: &&Stored| json!({ "url": stored.url, "alt": stored.name, "href": stored.url });
    match stored {
        [one] => data(one),
        several => several.iter().map(data).collect(),
    }
}

/// vditor 4: a 2xx always (it shows anything else as it stands), and `data` always.
#[derive(Serialize)]
struct Vditor<'a> {
    msg: String,
    /// 1: it shows `msg`.
    code: u8,
    data: VditorData<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Document<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VditorData<'a> {
    err_files: Vec<String>,
    /// By name, in the order they were sent in, which is the order they are inserted in.
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
    let mut reply = Vditor::new(problem, request_id);
    let mut names = Names::default();
    for outcome in outcomes {
        match outcome {
            Outcome::Failed { name, .. } => reply.data.err_files.push(for_markup(name)),
            Outcome::Stored(stored) => {
                let name = names.unused(for_markup(&stored.name));
                reply.data.succ_map.push((name, &stored.url));
            }
        }
    }
    with_problem(HttpResponse::Ok().json(reply), problem)
}

/// The names in a map. Pasted pictures are all called image.png, and a map has room for one of them.
#[derive(Default)]
struct Names {
    taken: HashSet<String>,
    /// The number that the next file of a name is tried with: a thousand files of one name are numbered in a thousand
    /// steps.
    next: HashMap<String, u32>,
}

impl Names {
    /// `name`, or the next one like it that is free.
    fn unused(&mut self, name: String) -> String {
        if self.taken.insert(name.clone()) {
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
            if self.taken.insert(numbered.clone()) {
                return numbered;
            }
        }
    }
}

/// For editors that put a message or a name into markup as it is, while other dialogs of theirs show it as text.
fn for_markup(text: &str) -> String {
    text.replace('<', "\u{2039}").replace('>', "\u{203a}").replace('"', "\u{201d}")
}

/// UEditor's own server names the type by the extension, with its dot.
fn extension(name: &str) -> String {
    name.rsplit_once('.').map(|(_, extension)| format!(".{extension}")).unwrap_or_default()
}

/// ueditor 1.4: a form's target is a hidden frame, and the frame's text is evaluated; browsers put things of their own
/// into a frame of JSON, none into one of plain text.
fn page_text(body: &Value) -> HttpResponse {
    text(&mut HttpResponse::Ok(), body.to_string())
}

fn text(reply: &mut HttpResponseBuilder, body: String) -> HttpResponse {
    reply
        .content_type("text/plain; charset=utf-8")
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_do_not_hide_each_other() {
        let mut names = Names::default();
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
    fn a_thousand_files_of_one_name_are_named_in_no_time() {
        for numbered in [false, true] {
            let began = std::time::Instant::now();
            let mut names = Names::default();
            for index in 0..1000 {
                // Numbers that are taken already are gone past once.
                let is_numbered = numbered && index < 500;
                names.unused(if is_numbered { format!("i-{index}.png") } else { "i.png".into() });
            }
            assert_eq!(names.taken.len(), 1000);
            assert!(began.elapsed().as_millis() < 10, "{:?}", began.elapsed());
        }
    }
}
