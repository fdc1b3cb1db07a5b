//! Whether the gateway is alive, and whether it can serve.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::Worker;
use super::problem::{Code, Problem};

/// `GET /healthz`: the process answers.
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// `GET /readyz`: a token can be had. Cheap: the token is cached, and a failed fetch is backed off.
pub async fn ready(worker: web::Data<Worker>) -> Result<HttpResponse, Problem> {
    worker.wechat.ready().await?;
    Ok(HttpResponse::Ok().json(json!({ "status": "ready" })))
}

/// Any address that there is not.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound, "there is nothing at this address"))
}

/// An address that does not take the request's method.
pub async fn method_not_allowed() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::MethodNotAllowed, "this address does not take this method"))
}
