//! `/docs`: Swagger UI, in the page of `index.html`.
//!
//! The page's links name its language, so that it stays the same whatever the browser prefers.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use utoipa_swagger_ui::Config;

use super::language::Language;
use crate::http::problem::{Code, Problem};

/// Scripts and styles come from the binary, and the pages send requests to this gateway only. Swagger UI's icons are
/// `data:` images.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                   form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// `GET /docs`: redirects, since the page's links are relative to `/docs/`.
pub async fn without_slash(request: HttpRequest) -> HttpResponse {
    let page = match Language::asked(&request) {
        Some(language) => Cow::Owned(format!("docs/?lang={}", language.tag())),
        None => Cow::Borrowed("docs/"),
    };
    HttpResponse::PermanentRedirect().insert_header((LOCATION, page.as_ref())).finish()
}

/// `GET /docs/{file}`
pub async fn page(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_SECURITY_POLICY, CSP))
        .insert_header((CACHE_CONTROL, "max-age=3600"))
        .insert_header((VARY, "accept-language"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    let language = Language::of(&request);
    match request.match_info().query("file") {
        "" | "index.html" => {
            Ok(response.insert_header((CONTENT_TYPE, "text/html")).body(index(language)))
        }
        "language.css" => {
            let style = include_str!("language.css");
            Ok(response.insert_header((CONTENT_TYPE, "text/css")).body(style))
        }
        file => match utoipa_swagger_ui::serve(file, config(language)) {
            Ok(Some(file)) => {
                response.insert_header((CONTENT_TYPE, file.content_type));
                // Compressed at build time; every browser that can show the page accepts gzip.
                if file.gzpipped {
                    response.insert_header((CONTENT_ENCODING, "gzip"));
                }
                // Not copied for each response, since a client may request many at once and read none.
                let body = match file.bytes {
                    Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                    Cow::Owned(bytes) => bytes.into(),
                };
                Ok(response.body(body))
            }
            Ok(None) => Err(Problem::new(Code::NotFound, "there is no page at this URL")),
            Err(error) => {
                tracing::error!(%error, "a page of the documentation cannot be served");
                Err(Problem::new(Code::Internal, "the page cannot be served"))
            }
        },
    }
}

/// The page in `language`, with a link to the page in the other one.
fn index(language: Language) -> &'static str {
    static ENGLISH: LazyLock<String> =
        LazyLock::new(|| filled(Language::English, "API", "Language", Language::Chinese, "中文"));
    static CHINESE: LazyLock<String> = LazyLock::new(|| {
        filled(Language::Chinese, "接口文档", "语言", Language::English, "English")
    });
    match language {
        Language::English => &ENGLISH,
        Language::Chinese => &CHINESE,
    }
}

fn filled(language: Language, title: &str, label: &str, other: Language, name: &str) -> String {
    include_str!("index.html")
        .replace("{language}", language.tag())
        .replace("{title}", title)
        .replace("{label}", label)
        .replace("{other}", other.tag())
        .replace("{name}", name)
}

/// What Swagger UI is started with: the description in `language`.
fn config(language: Language) -> Arc<Config<'static>> {
    static ENGLISH: LazyLock<Arc<Config<'_>>> = LazyLock::new(|| config_of(Language::English));
    static CHINESE: LazyLock<Arc<Config<'_>>> = LazyLock::new(|| config_of(Language::Chinese));
    match language {
        Language::English => ENGLISH.clone(),
        Language::Chinese => CHINESE.clone(),
    }
}

fn config_of(language: Language) -> Arc<Config<'static>> {
    let config = Config::new([format!("../openapi.json?lang={}", language.tag())])
        // The default validator is another host, which the page would send the description to.
        .validator_url("none")
        .use_base_layout()
        .try_it_out_enabled(true)
        .display_request_duration(true);
    Arc::new(config)
}
