//! The upload page: a handful of files served from the binary, as they are. They ask no other host for anything and
//! name each other relatively, so that the gateway may be mounted under a path.

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, LOCATION,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpResponse, web};

use super::ops;
use super::problem::Problem;

/// Images may come from anywhere, because stored files lie on storage's own hosts; nothing else may. Nothing is ever
/// parsed as markup, hence no Trusted Types policy.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src * blob:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

macro_rules! assets {
    ($($name:literal)+) => {
        /// Everything the page is made of besides itself.
        const ASSETS: &[(&str, &str)] = &[$(($name, include_str!(concat!("console/", $name)))),+];
    };
}

assets! {
    "app.js" "clipboard.js" "figures.js" "icon.svg" "intake.js" "queue.js" "reply.js" "row.js" "snippets.js" "style.css"
    "upload.js" "words.js" "words.en.js" "words.zh.js"
}

/// `GET /console`, and `/` in the sandbox.
pub async fn page() -> HttpResponse {
    let mut reply = asset("text/html; charset=utf-8", include_str!("console/index.html"));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    reply
}

/// `GET /console/`: what the page names lies beside it, so it has one address.
pub async fn without_slash() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((LOCATION, "../console")).finish()
}

/// `GET /console/{file}`
pub async fn file(name: web::Path<String>) -> Result<HttpResponse, Problem> {
    let Some((name, text)) = ASSETS.iter().find(|(known, _)| *known == name.as_str()) else {
        return ops::not_found().await;
    };
    let kind = match name.rsplit_once('.') {
        Some((_, "js")) => "text/javascript",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "image/svg+xml",
    };
    Ok(asset(kind, text))
}

fn asset(kind: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, kind))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(text)
}
