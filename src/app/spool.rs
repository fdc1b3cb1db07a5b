//! The uploads that are kept until they are complete: opened at start, and ended when they expire.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::AppError;
use crate::http::resumable::uploaded_file::UploadedFile;
use crate::settings::{CosRoad, Settings};
use crate::spool::folder::SpoolFolder;
use crate::spool::uploads::Uploads;

/// How often expired uploads are looked for.
const INTERVAL: Duration = Duration::from_secs(30);

/// Takes the folder of `resumable.spool`, and takes up what it has.
pub(super) fn open(settings: &Settings) -> Result<Arc<Uploads<UploadedFile>>, AppError> {
    let resumable = &settings.resumable;
    let path = resumable.spool.as_ref().filter(|_| settings.cos.via == CosRoad::Form);
    let folder = path.map(|path| SpoolFolder::open(path, resumable.spool_limit)).transpose()?;
    let memory = settings.upload.memory_budget as u64 / 4;
    let uploads = Uploads::new(folder.map(Arc::new), memory, resumable.expire_after);
    // Without keys of its own, a restarted gateway cannot open the URLs that it has sealed before.
    let can_continue = resumable.enabled && !resumable.keys.is_empty();
    let restored = uploads.restore(can_continue).map_err(AppError::Spool)?;
    if restored > 0 {
        tracing::info!(uploads = restored, "resumable uploads of an earlier process can go on");
    }
    Ok(Arc::new(uploads))
}

/// Ends expired uploads. Must be called on a thread of the actix system.
pub(super) fn start(uploads: Arc<Uploads<UploadedFile>>, shutdown: CancellationToken) {
    actix_web::rt::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let ended = uploads.end_expired().await;
            if ended > 0 {
                tracing::info!(uploads = ended, "resumable uploads have expired");
            }
        }
    });
}
