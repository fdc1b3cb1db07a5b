//! Sends one file to COS, in the way that `cos.via` says. A file that is kept until it is complete is sent as often as
//! that may help, since it can be read again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;

use super::by_form::{FormFile, Sent, SlowFile};
use super::outgoing::{ContentHeaders, OutgoingFile, TargetPath};
use super::{by_api, by_form, kept};
use crate::cos::error::CosError;
use crate::cos::verdict::Receipt;
use crate::file_stream::{FileLength, Source};
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::memory::budget::Share;
use crate::memory::replay_buffer::ReplayBuffer;
use crate::spool::content::Content;

const MAX_ATTEMPTS: u32 = 3;
/// A pause between two attempts, in seconds; longer ones are left to the client.
const MAX_PAUSE: u64 = 2;

/// Stores a file. Returns its id and COS's receipt. The caller drops the cached download links of a key that is not new,
/// without letting what must follow a stored file wait for that.
pub async fn transfer(
    worker: &Worker,
    path: &mut TargetPath,
    headers: &ContentHeaders<'_>,
    file: OutgoingFile,
    times: &StageTimes<'_>,
) -> Result<(String, Receipt), Problem> {
    match &worker.api {
        // Boxed: otherwise the future of every form would be as large as that of a file in parts.
        Some(api) => Box::pin(by_api::store(worker, api, path, headers, file, times)).await,
        None => {
            let file = FormFile::new(file, worker)?;
            match by_form::store(worker, path, headers, file, times).await? {
                Sent::Stored(file_id, receipt) => Ok((file_id, receipt)),
                Sent::Slow(file) => {
                    Box::pin(receive_first(worker, path, headers, *file, times)).await
                }
            }
        }
    }
}

/// Receives a slow client's file to its end, then sends it.
async fn receive_first(
    worker: &Worker,
    path: &mut TargetPath,
    headers: &ContentHeaders<'_>,
    file: SlowFile,
    times: &StageTimes<'_>,
) -> Result<(String, Receipt), Problem> {
    let SlowFile { source, length, share, mut content } = file;
    kept::receive(&mut content, source).await?;
    match length {
        FileLength::Known(declared) if declared != content.length() => {
            Err(CosError::LengthMismatch { declared, got: content.length() }.into())
        }
        _ => send_repeatedly(worker, path, headers, &mut content, &share, times).await,
    }
}

/// Sends the whole file, and drops the cached download links of a key that is not new. Returns its id and COS's receipt. To
/// be run to its end, whatever the client does.
pub async fn send_kept(
    worker: &Worker,
    path: &mut TargetPath,
    headers: &ContentHeaders<'_>,
    content: &mut Content,
    share: &Arc<Share>,
    times: &StageTimes<'_>,
) -> Result<(String, Receipt), Problem> {
    let stored = send_repeatedly(worker, path, headers, content, share, times).await?;
    if !path.unique {
        worker.wechat.invalidate_links(&[stored.0.as_str()]).await;
    }
    Ok(stored)
}

/// Sends the whole file. Boxed, since a transfer may itself receive its file first.
fn send_repeatedly<'a>(
    worker: &'a Worker,
    path: &'a mut TargetPath,
    headers: &'a ContentHeaders<'_>,
    content: &'a mut Content,
    share: &'a Arc<Share>,
    times: &'a StageTimes<'_>,
) -> LocalBoxFuture<'a, Result<(String, Receipt), Problem>> {
    Box::pin(async move {
        let length = content.length();
        let mut attempt = 1;
        loop {
            let file = outgoing(content.source(), length, share);
            let problem = match transfer(worker, path, headers, file, times).await {
                Ok(stored) => return Ok(stored),
                Err(problem) => problem,
            };
            let is_soon = problem.retry_after.is_none_or(|seconds| seconds <= MAX_PAUSE);
            if !problem.code.is_transient() || !is_soon || attempt == MAX_ATTEMPTS {
                return Err(problem);
            }
            let pause = Duration::from_millis(500 << attempt).mul_f64(0.5 + fastrand::f64());
            let (code, detail) = (problem.code.name(), problem.detail.as_str());
            tracing::info!(key = %path.key, code, detail, ?pause, "the file is sent again");
            worker.shared.metrics.replay("kept");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    })
}

fn outgoing(source: Source, length: u64, share: &Arc<Share>) -> OutgoingFile {
    OutgoingFile {
        buffer: ReplayBuffer::new(share.clone()),
        end: None,
        source,
        length: Some(FileLength::Known(length)),
        share: share.clone(),
    }
}
