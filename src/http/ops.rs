//! Whether the gateway is alive, and whether it can serve.

use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::{HttpResponse, web};
use serde_json::json;

use super::Worker;
use super::problem::{Code, Problem};
use crate::wechat::access::Access;

/// `GET /healthz`: the process answers.
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

/// `GET /readyz`: a token can be had. Cheap: the token is cached, and a failed fetch is backed off. `degraded` is able to
/// serve, too, but does not share its token with the other replicas.
pub async fn ready(worker: web::Data<Worker>) -> Result<HttpResponse, Problem> {
    worker.wechat.ready().await?;
    let shared = match worker.shared.wechat.access() {
        Access::Fetched(tokens) => tokens.shared().await,
        Access::File(_) | Access::Open => Ok(()),
    };
    Ok(HttpResponse::Ok().json(match shared {
        Ok(()) => json!({ "status": "ready" }),
        Err(away) => json!({ "status": "degraded", "detail": away.to_string() }),
    }))
}

/// `GET /metrics`, for Prometheus.
pub async fn metrics(worker: web::Data<Worker>) -> Result<HttpResponse, Problem> {
    let shared = &worker.shared;
    let token_age = match shared.wechat.access() {
        Access::Fetched(tokens) => tokens.age().await,
        Access::File(_) | Access::Open => None,
    };
    let text = shared.metrics.text(shared.budget.used(), token_age).map_err(|error| {
        tracing::error!(%error, "metrics cannot be encoded");
        Problem::new(Code::Internal, "the metrics cannot be encoded")
    })?;
    Ok(HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(text))
}

/// Any address that there is not.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(Code::NotFound, "there is nothing at this address"))
}

/// An address that takes only the methods `allowed`.
pub fn method_not_allowed(allowed: &'static str) -> HttpResponse {
    let detail = format!("this address takes {allowed}");
    let mut reply = HttpResponse::from_error(Problem::new(Code::MethodNotAllowed, detail));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}
