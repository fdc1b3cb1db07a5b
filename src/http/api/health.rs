//! Whether the gateway is alive, and whether it can serve.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::wechat::auth::ApiAuth;

/// How the gateway is.
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
enum State {
    /// The process answers.
    Ok,
    /// A token can be had.
    Ready,
    /// Able to serve, too, but without sharing its token with the other replicas.
    Degraded {
        /// Why.
        detail: String,
    },
}

/// `GET /healthz`: the process answers.
#[utoipa::path(
    method(get, head), path = "/healthz", operation_id = "health", tag = "operation",
    summary = "Whether the process is alive",
    description = "Asks nobody else: for liveness probes.",
    responses((status = 200, description = "It is", body = State))
)]
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(State::Ok)
}

/// `GET /readyz`: uploads are taken, and a token can be had. Cheap: the token is cached, and a failed fetch is backed off. `degraded` is able to
/// serve, too, but does not share its token with the other replicas.
#[utoipa::path(
    method(get, head), path = "/readyz", operation_id = "ready", tag = "operation",
    summary = "Whether the gateway can serve",
    description = "For readiness probes and load balancers. Cheap: WeChat is asked only when there is no token yet.",
    responses((status = 200, description = "It can", body = State))
)]
pub async fn ready(worker: web::Data<Worker>) -> Result<HttpResponse, Problem> {
    if worker.shared.requests.is_closed() {
        return Err(Problem::draining());
    }
    worker.wechat.ready().await?;
    Ok(HttpResponse::Ok().json(match worker.shared.wechat.access().shared().await {
        Ok(()) => State::Ready,
        Err(away) => State::Degraded { detail: away.to_string() },
    }))
}

/// `GET /metrics`, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operation",
    summary = "Figures for Prometheus",
    responses((status = 200, description = "Its text format", body = String, content_type = "text/plain"))
)]
pub async fn metrics(worker: web::Data<Worker>) -> Result<HttpResponse, Problem> {
    let shared = &worker.shared;
    let token_age = match shared.wechat.access() {
        ApiAuth::Fetched(tokens) => tokens.age().await,
        ApiAuth::File(_) | ApiAuth::Open => None,
    };
    let text = shared.metrics.text(shared.budget.used(), token_age).map_err(|error| {
        tracing::error!(%error, "metrics cannot be encoded");
        Problem::new(Code::Internal, "the metrics cannot be encoded")
    })?;
    Ok(HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(text))
}
