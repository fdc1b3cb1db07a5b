//! The upload page: a handful of files served from the binary, as they are. They ask no other host for anything and
//! name each other relatively, so that the gateway may be mounted under a path.

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

/// Images may come from anywhere, because stored files lie on storage's own hosts; nothing else may. Nothing is ever
/// parsed as markup, hence no Trusted Types policy.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src * blob:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

macro_rules! assets {
    ($($name:literal)+) => {
        const ASSETS: &[(&str, &str)] = &[$(($name, include_str!($name))),+];
    };
}

assets! {
    "app.js" "clipboard.js" "figures.js" "icon.svg" "index.html" "intake.js" "queue.js" "reply.js" "row.js"
    "snippets.js" "style.css" "upload.js" "words.js" "words.en.js" "words.zh.js"
}

const PAGE: &str = "index.html";

/// A file as it is, and packed: a third of it, for phones on slow networks.
struct Asset {
    text: &'static str,
    gzip: Bytes,
}

static FILES: LazyLock<BTreeMap<&str, Asset>> = LazyLock::new(|| {
    let packed = |text: &'static str| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        // Into memory: it cannot fail.
        let _ = gzip.write_all(text.as_bytes());
        Asset { text, gzip: gzip.finish().unwrap_or_default().into() }
    };
    ASSETS.iter().map(|(name, text)| (*name, packed(text))).collect()
});

/// `GET /console`, and `/` in the sandbox.
pub async fn page(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut reply = asset(&request, PAGE).await?;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    Ok(reply)
}

/// `GET /console/`: what the page names lies beside it, so it has one address.
pub async fn without_slash() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((LOCATION, "../console")).finish()
}

/// `GET /console/{file}`
pub async fn file(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, Problem> {
    // The page has its own address, and its policy there.
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
    let mut reply = HttpResponse::Ok();
    reply
        .insert_header((CONTENT_TYPE, kind))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((VARY, "accept-encoding"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    let known = [Encoding::gzip(), Encoding::identity()];
    let wanted =
        AcceptEncoding::parse(request).ok().and_then(|wanted| wanted.negotiate(known.iter()));
    Ok(if wanted == Some(Encoding::gzip()) {
        reply.insert_header((CONTENT_ENCODING, "gzip")).body(gzip.clone())
    } else {
        reply.body(*text)
    })
}
