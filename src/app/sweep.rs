//! The sweep of unfinished multipart uploads, in the background.

use std::sync::Arc;

use super::upstreams::Upstreams;
use crate::cos::api::sweep::{INTERVAL, sweep};
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::upload::by_api::client;

/// Sweeps at once and every hour, if files are sent by COS's API. Must be called on a thread of the actix system.
pub(crate) fn start(upstreams: &Upstreams, shared: Arc<AppState>) {
    let (Some(api), Some(age)) = (upstreams.api(), shared.settings.cos.api.abort_after) else {
        return;
    };
    let wechat = upstreams.wechat(&shared.settings);
    actix_web::rt::spawn(async move {
        loop {
            let swept = match client(&api, &wechat, &shared.allowed_hosts).await {
                Ok(client) => sweep(&client, age).await.map_err(Problem::from),
                Err(problem) => Err(problem),
            };
            match swept {
                Ok(0) => {}
                Ok(uploads) => tracing::info!(uploads, "unfinished uploads to COS were aborted"),
                Err(problem) => {
                    let detail = problem.detail.as_str();
                    tracing::warn!(detail, "unfinished uploads to COS could not be looked for");
                }
            }
            tokio::select! {
                () = shared.shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    });
}
