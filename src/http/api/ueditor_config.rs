//! UEditor's server configuration: `GET /v1/files?action=config`, by XHR from a page of the same origin and as JSONP
//! from any other (ueditor 1.4, `core/loadconfig.js`). It needs no credential, because the editor cannot send one here
//! and the configuration contains nothing but limits.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::fallback;
use crate::http::extract::{file_url, query};
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::settings::Upload;

/// File extensions as in the editor's own `config.json`.
const IMAGES: &[&str] = &[".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"];
const VIDEOS: &[&str] = &[
    ".flv", ".swf", ".mkv", ".avi", ".rm", ".rmvb", ".mpeg", ".mpg", ".ogg", ".ogv", ".mov",
    ".wmv", ".mp4", ".webm", ".mp3", ".wav", ".mid",
];
const DOCUMENTS: &[&str] = &[
    ".rar", ".zip", ".tar", ".gz", ".7z", ".bz2", ".cab", ".iso", ".doc", ".docx", ".xls", ".xlsx",
    ".ppt", ".pptx", ".pdf", ".txt", ".md", ".xml",
];

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a schema; `get` reads the query")]
struct Query {
    /// `config` for the editor's configuration. Any other action gets a `state` that says why it is not supported.
    #[param(required = true, nullable = false, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    action: Option<String>,
    /// JSONP: the function to call with the response.
    #[param(
        required = false,
        nullable = false,
        pattern = "^[A-Za-z_$.][A-Za-z0-9_$.]*$",
        max_length = 128
    )]
    callback: Option<String>,
}

/// `GET /v1/files`.
#[utoipa::path(
    get, path = "/v1/files", operation_id = "ueditor", tag = "editors",
    summary = "UEditor's server configuration",
    params(Query),
    responses((status = 200, description = "The editor's configuration", content(
        (serde_json::Value = "application/json"),
        (String = "text/javascript"),
    )))
)]
pub async fn get(request: HttpRequest, worker: web::Data<Worker>) -> Result<HttpResponse, Problem> {
    let settings = &worker.shared.settings;
    let [action, callback] = query::parameters(&request, ["action", "callback"])?;
    let json = match action.as_deref() {
        None => return Ok(fallback::method_not_allowed("POST, DELETE")),
        Some("config") => {
            editor_config(&settings.upload, &file_url::base(&request, &worker.shared))
        }
        Some(_) => json!({ "state": "this server accepts uploads; it cannot list files" }),
    };
    let (content_type, body) = match &callback {
        None => ("application/json", json.to_string()),
        Some(name) if is_function(name) => {
            ("text/javascript; charset=utf-8", format!("{name}({json})"))
        }
        Some(_) => {
            let detail = "`callback` is not a valid function name";
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
    };
    // UE.ajax accepts only status 200.
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, content_type))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(body))
}

/// The editor's `config.json`. Functions without an action here (scrawl, screenshot, fetching remote images, file
/// lists) are disabled by the editor, or fail with a message.
fn editor_config(upload: &Upload, base: &str) -> Value {
    let host = base.split_once("://").map_or(base, |(_, rest)| rest);
    let host = host.split(['/', ':']).next().unwrap_or_default();
    let documents = [IMAGES, VIDEOS, DOCUMENTS].concat();
    json!({
        "imageActionName": "uploadimage",
        "imageFieldName": "upfile",
        "imageMaxSize": upload.max_file_size,
        "imageAllowFiles": IMAGES,
        // Images are uploaded unchanged.
        "imageCompressEnable": false,
        "imageCompressBorder": 1600,
        "imageInsertAlign": "none",
        "imageUrlPrefix": "",
        "videoActionName": "uploadvideo",
        "videoFieldName": "upfile",
        "videoUrlPrefix": "",
        "videoMaxSize": upload.max_file_size,
        "videoAllowFiles": VIDEOS,
        "fileActionName": "uploadfile",
        "fileFieldName": "upfile",
        "fileUrlPrefix": "",
        "fileMaxSize": upload.max_file_size,
        "fileAllowFiles": documents,
        // The editor does not fetch images of these hosts as remote ones.
        "catcherLocalDomain": ["127.0.0.1", "localhost", host],
    })
}

/// The name is inserted into a script without escaping.
fn is_function(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_$.".contains(&byte))
}
