//! Responses to requests that no endpoint serves.

use actix_web::HttpResponse;
use actix_web::http::header::{ALLOW, HeaderValue};

use crate::http::problem::{Code, Problem};

/// For a path without an endpoint.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound, "there is no endpoint at this URL"))
}

/// For a method other than those that the endpoint serves, which are `allowed`.
pub fn method_not_allowed(allowed: &'static str) -> HttpResponse {
    refused_method(allowed, format!("this URL accepts {allowed}"))
}

/// For a method that the endpoint serves in another state, with the reason.
pub fn refused_method(allowed: &'static str, detail: impl Into<String>) -> HttpResponse {
    let mut response = HttpResponse::from_error(Problem::new(Code::MethodNotAllowed, detail));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
