//! The sweep of unfinished multipart uploads, in the background.

use std::sync::Arc;

use super::upstreams::Upstreams;
use crate::cos::api::client::Client;
use crate::cos::api::sweep::{INTERVAL, sweep, sweep_helpers};
use crate::cos::error::CosError;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::upload::by_api::client;
use crate::settings::Settings;

/// Sweeps at once and every hour, if files are sent by COS's API. Must be called on a thread of the actix system.
pub(crate) fn start(upstreams: &Upstreams, shared: Arc<AppState>) {
    let Some(api) = upstreams.api().filter(|_| shared.settings.cos.api.abort_after.is_some())
    else {
        return;
    };
    let wechat = upstreams.wechat(&shared.settings);
    actix_web::rt::spawn(async move {
        loop {
            let swept = match client(&api, &wechat, &shared.allowed_hosts).await {
                Ok(client) => sweep_all(&client, &shared.settings).await.map_err(Problem::from),
                Err(problem) => Err(problem),
            };
            if let Err(problem) = swept {
                let detail = problem.detail.as_str();
                tracing::warn!(detail, "unfinished uploads to COS could not be looked for");
            }
            tokio::select! {
                () = shared.shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    });
}

async fn sweep_all(client: &Client, settings: &Settings) -> Result<(), CosError> {
    if let Some(age) = settings.cos.api.abort_after {
        let uploads = sweep(client, age).await?;
        if uploads > 0 {
            tracing::info!(uploads, "unfinished uploads to COS were aborted");
        }
        if settings.resumable.enabled {
            let objects = sweep_helpers(client, settings.resumable.expire_after).await?;
            if objects > 0 {
                tracing::info!(objects, "objects of uploads that were given up were deleted");
            }
        }
    }
    Ok(())
}
