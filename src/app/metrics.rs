//! The listener of `metrics.bind`, which serves `/metrics` and nothing else.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpServer, rt, web};

use super::error::AppError;
use crate::http::api::health;
use crate::http::state::AppState;

/// Prometheus opens one, or two; others are refused.
const MAX_CONNECTIONS: usize = 32;
/// A request's head must arrive within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves until the process ends, so that the end of a shutdown can be followed.
pub fn serve(listener: TcpListener, shared: Arc<AppState>) -> Result<(), AppError> {
    let address = listener.local_addr()?;
    let shared = web::Data::from(shared);
    let app = move || {
        let metrics = web::get().to(health::metrics_alone);
        App::new().app_data(shared.clone()).route("/metrics", metrics)
    };
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(MAX_CONNECTIONS)
        .client_request_timeout(HEAD_TIMEOUT)
        .disable_signals()
        .listen(listener)?;
    rt::spawn(server.run());
    tracing::info!("metrics on http://{address}/metrics");
    Ok(())
}
