//! Sends one file to COS, in the way that `cos.via` says.

use super::outgoing::{OutgoingFile, TargetPath};
use super::{by_api, by_form};
use crate::cos::verdict::Receipt;
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::Problem;
use crate::http::state::Worker;

/// Stores a file. Returns its id and COS's receipt.
pub async fn transfer(
    worker: &Worker,
    path: &TargetPath,
    content_type: &str,
    file: OutgoingFile,
    times: &StageTimes<'_>,
) -> Result<(String, Receipt), Problem> {
    let stored = match &worker.api {
        // Boxed: otherwise the future of every form would be as large as that of a file in parts.
        Some(api) => Box::pin(by_api::store(worker, api, path, content_type, file, times)).await?,
        None => by_form::store(worker, path, content_type, file, times).await?,
    };
    // There is no cached download link for a key that is new.
    if !path.unique {
        worker.wechat.invalidate_links(&stored.0).await;
    }
    Ok(stored)
}
