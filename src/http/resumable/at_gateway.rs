//! Uploads by forms: their bytes are at this gateway, in memory or in its spool, until the file is complete. Then it is
//! sent at full speed, with its true length, and again where that may help.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::body::{IncomingBytes, MAGIC, Position};
use super::sealed_url::Place;
use super::upload::{OpenUpload, Progress};
use super::uploaded_file::UploadedFile;
use crate::cos::error::CosError;
use crate::file_stream::{FileLength, Source};
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::http::upload::outgoing::{OutgoingFile, TargetPath};
use crate::http::upload::transfer::transfer;
use crate::memory::budget::Share;
use crate::memory::replay_buffer::ReplayBuffer;
use crate::spool::content::{Content, ReceiveError};
use crate::spool::uploads::Upload;

const MAX_ATTEMPTS: u32 = 3;
/// A pause between two attempts; longer ones are left to the client.
const MAX_PAUSE: u64 = 2;

/// Bytes of the largest file that can be received.
pub fn max_length(worker: &Worker) -> u64 {
    let upload = &worker.shared.settings.upload;
    let memory = upload.max_buffered_file.min(upload.memory_budget / 4);
    worker.shared.uploads.max_length(memory as u64)
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
    superseded: CancellationToken,
) -> Result<Progress, Problem> {
    let (uploads, id) = (&worker.shared.uploads, upload.sealed.id);
    if let Some(file) = uploads.stored(&id) {
        bytes.check_stored(file.size)?;
        return Ok(Progress::Stored(UploadedFile::clone(&file)));
    }
    let kept = uploads.get(&id).ok_or_else(OpenUpload::unknown)?;
    let mut content = kept.content().await;
    let content = content.as_mut().ok_or_else(OpenUpload::unknown)?;
    uploads.touch(&kept);
    let received = receive(worker, upload, &kept, content, bytes, &share, superseded).await;
    uploads.touch(&kept);
    received?;
    if content.len() < kept.length {
        return Ok(Progress::Open { offset: content.len(), length: Some(kept.length) });
    }
    match send(worker, upload, content, &share).await {
        Ok(file) => {
            uploads.set_stored(id, file.clone());
            upload.report_stored(worker, &file);
            Ok(Progress::Stored(file))
        }
        Err(problem) => {
            // The client sends the last byte again, and thereby asks for another attempt.
            content.truncate(kept.length.saturating_sub(1)).await?;
            kept.set_received(content.len());
            Err(problem)
        }
    }
}

async fn receive(
    worker: &Worker,
    upload: &OpenUpload,
    kept: &Upload,
    content: &mut Content,
    bytes: IncomingBytes,
    share: &Arc<Share>,
    superseded: CancellationToken,
) -> Result<(), Problem> {
    let offset = content.len();
    let start = match offset < MAGIC {
        true => content.first_bytes(MAGIC as usize).await?,
        false => Vec::new(),
    };
    let position = Position { offset, length: Some(kept.length), start };
    let source = bytes.checked(worker, upload, &position, share, superseded).await?;
    let received = content.receive(source, |received| kept.set_received(received)).await;
    received.map_err(|error| match error {
        ReceiveError::Source(error) => CosError::Source(error).into(),
        ReceiveError::Spool(error) => error.into(),
    })
}

/// Sends the whole file.
async fn send(
    worker: &Worker,
    upload: &OpenUpload,
    content: &mut Content,
    share: &Arc<Share>,
) -> Result<UploadedFile, Problem> {
    let unique = matches!(upload.sealed.place, Place::Gateway { is_key_unique: true });
    let path = TargetPath { key: upload.key.clone(), unique };
    let content_type = &upload.sealed.content_type;
    let times = StageTimes::new(&worker.shared.metrics);
    let length = content.len();
    let mut attempt = 1;
    loop {
        let file = outgoing(content.source(), length, share);
        let problem = match transfer(worker, &path, content_type, file, &times).await {
            Ok((file_id, receipt)) => {
                let (size, crc64) = (receipt.size, Some(receipt.crc64));
                return Ok(UploadedFile { file_id, size, crc64, verified_by: receipt.verified_by });
            }
            Err(problem) => problem,
        };
        let is_soon = problem.retry_after.is_none_or(|seconds| seconds <= MAX_PAUSE);
        if !problem.code.is_transient() || !is_soon || attempt == MAX_ATTEMPTS {
            return Err(problem);
        }
        let pause = Duration::from_millis(500 << attempt).mul_f64(0.5 + fastrand::f64());
        let (code, detail) = (problem.code.name(), problem.detail.as_str());
        tracing::info!(key = %upload.key, code, detail, ?pause, "the file is sent again");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
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

/// Ends an upload; what was received is deleted.
pub async fn terminate(worker: &Worker, id: &[u8; 16]) {
    if let Some(upload) = worker.shared.uploads.end(id) {
        upload.remove_content().await;
    }
}
