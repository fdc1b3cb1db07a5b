//! The upload page: three files, served from the binary.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};

const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src * data: blob:; \
                   connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// `GET /`
pub async fn page() -> HttpResponse {
    asset("text/html; charset=utf-8", include_str!("console/index.html"))
}

/// `GET /console/app.js`
pub async fn script() -> HttpResponse {
    asset("text/javascript; charset=utf-8", include_str!("console/app.js"))
}

/// `GET /console/style.css`
pub async fn style() -> HttpResponse {
    asset("text/css; charset=utf-8", include_str!("console/style.css"))
}

fn asset(content_type: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, content_type))
        .insert_header((CONTENT_SECURITY_POLICY, CSP))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header(("x-content-type-options", "nosniff"))
        .body(text)
}
