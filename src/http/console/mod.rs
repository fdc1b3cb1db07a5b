//! The upload page: static files that are embedded in the binary. They load nothing from other hosts, and their links
//! are relative, so that the gateway may be mounted under a path.

pub mod info;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::LazyLock;

use actix_web::http::header::{
    AcceptEncoding, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    Encoding, Header, HeaderValue, LOCATION, VARY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::api::fallback;
use super::problem::Problem;

/// Images may come from any host, because stored files are on storage's own hosts; nothing else may. The page never
/// parses text as markup, so no Trusted Types policy is allowed.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src * blob:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

macro_rules! assets {
    ($($name:literal)+) => {
        const ASSETS: &[(&str, &str)] = &[$(($name, include_str!($name))),+];
    };
}

assets! {
    "app.js" "clipboard.js" "connection.js" "deletion.js" "exchange.js" "figures.js" "file_input.js" "finished.js"
    "folds.js" "icon.svg" "index.html" "limits.js" "problems.js" "queue.js" "response.js" "row.js" "snippets.js"
    "style.css" "thumbnail.js" "tus.js" "unfinished.js" "upload.js" "words.js" "words.en.js" "words.zh.js"
}

const PAGE: &str = "index.html";

/// A file, and its gzipped form, which is a third as long.
struct Asset {
    text: &'static str,
    gzip: Bytes,
}

static FILES: LazyLock<BTreeMap<&str, Asset>> = LazyLock::new(|| {
    let compressed = |text: &'static str| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        // Writing into memory cannot fail.
        let _ = gzip.write_all(text.as_bytes());
        Asset { text, gzip: gzip.finish().unwrap_or_default().into() }
    };
    ASSETS.iter().map(|(name, text)| (*name, compressed(text))).collect()
});

/// `GET /console`, and `/` in the sandbox.
pub async fn page(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut response = asset(&request, PAGE).await?;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    Ok(response)
}

/// `GET /console/`: redirects, since the page's links are relative to `/console`.
pub async fn without_slash() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((LOCATION, "../console")).finish()
}

/// `GET /console/{file}`
pub async fn file(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, Problem> {
    // The page is served at `/console` only, with its policy.
    if *name == PAGE { fallback::not_found().await } else { asset(&request, &name).await }
}

async fn asset(request: &HttpRequest, name: &str) -> Result<HttpResponse, Problem> {
    let Some(Asset { text, gzip }) = FILES.get(name) else {
        return fallback::not_found().await;
    };
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "js")) => "text/javascript",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "image/svg+xml",
    };
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, kind))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((VARY, "accept-encoding"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    let supported = [Encoding::gzip(), Encoding::identity()];
    let encoding = AcceptEncoding::parse(request)
        .ok()
        .and_then(|accepted| accepted.negotiate(supported.iter()));
    Ok(if encoding == Some(Encoding::gzip()) {
        response.insert_header((CONTENT_ENCODING, "gzip")).body(gzip.clone())
    } else {
        response.body(*text)
    })
}
