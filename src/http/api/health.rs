//! Health probes and metrics.

use std::sync::atomic::Ordering;

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::problem::{Code, Problem};
use crate::http::state::{AppState, Worker};
use crate::wechat::auth::ApiAuth;

const RELOAD_FAILED: &str =
    "the changed settings cannot be used, so the ones before are; see the log";

/// The gateway's state.
#[derive(Serialize, ToSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
#[schema(as = State)]
enum Health {
    /// The process runs.
    Ok,
    /// Uploads are accepted, and an access token is available.
    Ready,
    /// As `ready`, but nothing is shared with the other replicas, or changed settings cannot be used.
    Degraded {
        /// The reasons.
        detail: String,
    },
}

/// `GET` and `HEAD /healthz`
#[utoipa::path(
    method(get, head), path = "/healthz", operation_id = "health", tag = "operation",
    summary = "Whether the process is alive",
    description = "For liveness probes: checks nothing but the process itself.",
    responses((status = 200, description = "The process is alive", body = Health))
)]
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().json(Health::Ok)
}

/// `GET` and `HEAD /readyz`. Cheap: the access token is cached, and after a failure the next fetch is delayed.
#[utoipa::path(
    method(get, head), path = "/readyz", operation_id = "ready", tag = "operation",
    summary = "Whether the gateway can serve",
    description = "For readiness probes and load balancers. Cheap: WeChat is called only without an access token.",
    responses((status = 200, description = "The gateway can serve", body = Health))
)]
pub async fn ready(worker: web::Data<Worker>) -> Result<HttpResponse, Problem> {
    if worker.shared.draining.is_cancelled() {
        return Err(Problem::draining());
    }
    worker.wechat.ready().await?;
    let redis = worker.shared.wechat.check_redis().await.err().map(|error| error.to_string());
    let reload_failed = worker.shared.reload_failed.load(Ordering::Relaxed);
    let reload = reload_failed.then(|| RELOAD_FAILED.to_owned());
    let reasons: Vec<_> = redis.into_iter().chain(reload).collect();
    Ok(HttpResponse::Ok().json(match &reasons[..] {
        [] => Health::Ready,
        reasons => Health::Degraded { detail: reasons.join("; ") },
    }))
}

/// `GET /metrics`, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operation",
    summary = "Metrics for Prometheus",
    responses((status = 200, description = "Prometheus's text format", body = String, content_type = "text/plain"))
)]
pub async fn metrics(worker: web::Data<Worker>) -> Result<HttpResponse, Problem> {
    metrics_of(&worker.shared).await
}

/// `GET /metrics` on the listener of `metrics.bind`.
pub async fn metrics_alone(shared: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    metrics_of(&shared).await
}

async fn metrics_of(shared: &AppState) -> Result<HttpResponse, Problem> {
    let token_age = match shared.wechat.auth() {
        ApiAuth::Fetched(tokens) => tokens.age().await,
        ApiAuth::File(_) | ApiAuth::Open => None,
    };
    let spooled = shared.uploads.folder().map_or(0, |folder| folder.used());
    let text = shared.metrics.text(shared.budget.used(), spooled, token_age).map_err(|error| {
        tracing::error!(%error, "the metrics cannot be encoded");
        Problem::new(Code::Internal, "the metrics cannot be encoded")
    })?;
    Ok(HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(text))
}
