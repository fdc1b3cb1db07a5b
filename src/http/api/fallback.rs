//! Responses to requests that no endpoint takes.

use actix_web::HttpResponse;
use actix_web::http::header::{ALLOW, HeaderValue};

use crate::http::problem::{Code, Problem};

/// To a URL that no endpoint has.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound, "there is nothing at this address"))
}

/// To a method other than the endpoint's, which are `allowed`.
pub fn method_not_allowed(allowed: &'static str) -> HttpResponse {
    let detail = format!("this address takes {allowed}");
    let mut reply = HttpResponse::from_error(Problem::new(Code::MethodNotAllowed, detail));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}
