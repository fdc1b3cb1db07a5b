//! Uploads by forms: their bytes are at this gateway, in memory or in its spool, until the file is complete. Then it is
//! sent at full speed, with its true length, and again where that may help.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::rt;

use super::body::{IncomingBytes, MAGIC, Position};
use super::sealed_url::Place;
use super::sessions::SessionGuard;
use super::upload::{Appended, Ended, OpenUpload, Progress};
use super::uploaded_file::UploadedFile;
use crate::cos::verdict::Receipt;
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::http::upload::disposition;
use crate::http::upload::kept::problem_of;
use crate::http::upload::outgoing::{ContentHeaders, TargetPath};
use crate::http::upload::transfer::send_kept;
use crate::memory::budget::Share;
use crate::spool::content::Content;
use crate::spool::uploads::Upload;

/// Bytes of the largest file that can be received.
pub fn max_length(worker: &Worker) -> u64 {
    let (uploads, settings) = (&worker.shared.uploads, &worker.shared.settings);
    let max_length = uploads.max_length();
    match uploads.is_in_memory() {
        true => max_length.min(settings.upload.max_buffered_file as u64),
        false => max_length,
    }
}

/// Begins an upload. An empty file is stored by the first [`append`].
pub fn create(
    worker: &Worker,
    id: [u8; 16],
    length: u64,
    client: &str,
    memory: Arc<Share>,
) -> Result<(), Problem> {
    worker.shared.uploads.create(id, length, client, memory)?;
    Ok(())
}

/// When the upload is given up, in Unix time in seconds; `None` where it is stored or has ended.
pub fn expires(worker: &Worker, id: &[u8; 16]) -> Option<i64> {
    worker.shared.uploads.get(id).map(|upload| upload.expires())
}

pub fn progress(worker: &Worker, id: &[u8; 16]) -> Result<Progress, Problem> {
    let uploads = &worker.shared.uploads;
    if let Some(file) = uploads.stored(id) {
        return Ok(Progress::Stored(UploadedFile::clone(&file)));
    }
    let upload = uploads.get(id).ok_or_else(OpenUpload::unknown)?;
    Ok(Progress::Open { offset: upload.offset(), length: Some(upload.length) })
}

/// Appends a request's bytes; the last ones complete the file.
pub async fn append(
    worker: &Worker,
    upload: &OpenUpload,
    bytes: IncomingBytes,
    share: Arc<Share>,
    running: Rc<SessionGuard>,
    times: &StageTimes<'_>,
) -> Result<Appended, Problem> {
    let (uploads, id) = (&worker.shared.uploads, upload.sealed.id);
    if let Some(file) = uploads.stored(&id) {
        bytes.check_stored(file.size).await?;
        return Ok(Appended::StoredBefore(UploadedFile::clone(&file)));
    }
    let kept = uploads.get(&id).ok_or_else(OpenUpload::unknown)?;
    let mut guard = kept.content().await;
    let content = guard.as_mut().ok_or_else(OpenUpload::unknown)?;
    // What an earlier request has left beyond the offset that clients are told: the last byte of a file that was complete,
    // and could not be sent. A client sends it again, and thereby asks for another attempt.
    if content.length() > kept.offset() {
        content.truncate(kept.offset()).await?;
    }
    uploads.touch(&kept);
    let received = receive(worker, upload, &kept, content, bytes, &share, running).await;
    uploads.touch(&kept);
    received?;
    if content.length() < kept.length {
        return Ok(Appended::Open { offset: content.length(), length: Some(kept.length) });
    }
    let file = send(worker, upload, content, &share, times).await?;
    drop(guard);
    kept.remove_content().await;
    Ok(Appended::Stored(file))
}

async fn receive(
    worker: &Worker,
    upload: &OpenUpload,
    kept: &Upload,
    content: &mut Content,
    bytes: IncomingBytes,
    share: &Arc<Share>,
    running: Rc<SessionGuard>,
) -> Result<(), Problem> {
    let offset = content.length();
    let start = match offset < MAGIC {
        true => content.first_bytes(MAGIC as usize).await?,
        false => Vec::new(),
    };
    let position = Position { offset, length: Some(kept.length), start };
    let source = bytes.checked(worker, upload, &position, share, running).await?;
    let received = content.receive(source, |received| kept.set_received(received)).await;
    received.map_err(problem_of)
}

/// Sends the whole file.
async fn send(
    worker: &Worker,
    upload: &OpenUpload,
    content: &mut Content,
    share: &Arc<Share>,
    times: &StageTimes<'_>,
) -> Result<UploadedFile, Problem> {
    let unique = matches!(upload.sealed.place, Place::Gateway { is_key_unique: true });
    // The client was told the key when it created the upload.
    let mut path = TargetPath { key: upload.key.clone(), unique, generated: None };
    let content_type = &upload.sealed.content_type;
    let setting = worker.shared.settings.upload.content_disposition;
    let disposition = disposition::header(setting, &upload.sealed.name);
    let headers = ContentHeaders { content_type, disposition: disposition.as_deref() };
    let (file_id, Receipt { size, crc64, verified_by }) =
        send_kept(worker, &mut path, &headers, content, share, times).await?;
    Ok(UploadedFile { file_id, size, crc64: Some(crc64), verified_by })
}

/// Ends an upload; what was received is deleted. No request finds it any more, and one that has found it before is ended,
/// or stores the file, where it had all of it.
pub async fn terminate(worker: &Worker, id: [u8; 16]) -> Ended {
    let uploads = &worker.shared.uploads;
    if uploads.stored(&id).is_some() {
        return Ended::Stored;
    }
    let Some(upload) = uploads.end(&id) else {
        return Ended::Terminated;
    };
    let sessions = worker.shared.upload_sessions.clone();
    // In a task of its own: it is done also where the client does not wait for it.
    let ended = rt::spawn(worker.shared.requests.track_future(async move {
        sessions.end(id).await;
        upload.remove_content().await;
    }));
    if ended.await.is_err() {
        tracing::error!("the task that ends an upload has failed");
    }
    match uploads.stored(&id) {
        Some(_) => Ended::Stored,
        None => Ended::Terminated,
    }
}
