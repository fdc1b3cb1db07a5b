//! What both ways to COS need: the file to send, its target, an upload link.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;

use crate::cos::error::CosError;
use crate::cos::target::Target;
use crate::file_stream::{FileEnd, FileLength, Source};
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::key::{Generated, Key};
use crate::memory::budget::Share;
use crate::memory::replay_buffer::ReplayBuffer;
use crate::metrics::Stage;
use crate::wechat::wire::UploadLink;

/// A file that is ready to be sent.
pub struct OutgoingFile {
    /// What was read already: all of it if `end` is given.
    pub buffer: ReplayBuffer,
    pub end: Option<FileEnd>,
    /// The rest.
    pub source: Source,
    /// `None`: unknown, which only COS's API can send.
    pub length: Option<FileLength>,
    /// The memory that may be used for it.
    pub share: Arc<Share>,
}

/// The headers that each download of the object has.
#[derive(Clone, Copy)]
pub struct ContentHeaders<'a> {
    pub content_type: &'a str,
    pub disposition: Option<&'a str>,
}

/// Where a file is stored.
pub struct TargetPath {
    pub key: Key,
    /// No other file was ever stored at this key, so that a failed upload may delete the object.
    pub unique: bool,
    /// How the gateway has made the key, as long as it may be replaced: no response, and no call, has named it yet.
    pub generated: Option<Generated>,
}

/// An upload link for a file's path, and where it leads.
pub(super) struct PathLink {
    pub link: UploadLink,
    pub target: Target,
    /// It was asked for before the upload came.
    pub is_warm: bool,
}

/// Polls `background` until `main` is ready. Takes both by reference: by value, the future of every upload would
/// contain each of them twice.
pub(super) async fn poll_while<T>(
    mut main: Pin<&mut impl Future<Output = T>>,
    background: Pin<&mut impl Future<Output = ()>>,
) -> T {
    let mut background = background.fuse();
    poll_fn(|cx| {
        let result = main.as_mut().poll(cx);
        if result.is_pending() {
            let _ = background.poll_unpin(cx);
        }
        result
    })
    .await
}

/// A link for the file's path: one that was asked for in advance where there is one and `may_be_warm`, and then the path
/// becomes the link's.
pub(super) async fn path_link(
    worker: &Worker,
    path: &mut TargetPath,
    may_be_warm: bool,
    times: &StageTimes<'_>,
) -> Result<PathLink, Problem> {
    let started = Instant::now();
    if let Some(generated) = path.generated.take()
        && may_be_warm
        && let Some((key, link)) = worker.wechat.warm_link(&path.key, generated)
        // One that must not be used is not worse than none.
        && let Ok(target) = target(worker, &link, &key)
    {
        path.key = key;
        times.add_since(Stage::Link, started);
        return Ok(PathLink { link, target, is_warm: true });
    }
    // Boxed: otherwise the future of every upload would contain it, also of those that find a link.
    Box::pin(upload_link(worker, &path.key, times)).await
}

/// A link that is asked for now.
pub(super) async fn upload_link(
    worker: &Worker,
    key: &Key,
    times: &StageTimes<'_>,
) -> Result<PathLink, Problem> {
    let started = Instant::now();
    let link = worker.wechat.upload_link(key.as_str()).await;
    times.add_since(Stage::Link, started);
    let link = link.map_err(|error| Problem::from(error).with_path(key.as_str()))?;
    let target = target(worker, &link, key)?;
    Ok(PathLink { link, target, is_warm: false })
}

fn target(worker: &Worker, link: &UploadLink, key: &Key) -> Result<Target, CosError> {
    worker.shared.allowed_hosts.check(&link.url, &link.file_id, key.as_str())
}

pub(super) async fn delete_object(worker: &Worker, link: &UploadLink) {
    if let Err(error) = worker.wechat.delete_one(&link.file_id).await {
        tracing::error!(file_id = link.file_id, %error, "a failed upload could not be deleted and may still be stored");
    }
}
