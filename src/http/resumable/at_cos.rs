//! Uploads by COS's API: their bytes are at COS.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::body::{IncomingBytes, Position};
use super::sealed_url::Place;
use super::sessions::SessionGuard;
use super::upload::{Appended, Ended, OpenUpload, Progress};
use super::uploaded_file::UploadedFile;
use crate::cos::api::client::ObjectFields;
use crate::cos::api::resumable::{
    self, AppendError, Completed, Opened, Resumable, ResumableUpload, StoredFile,
};
use crate::cos::api::road::ApiRoad;
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::http::upload::by_api::{self, count};
use crate::http::upload::disposition;
use crate::http::upload::outgoing::TargetPath;
use crate::inbound::error::InboundError;
use crate::memory::budget::Share;
use crate::metrics::Stage;

/// A file that is to be uploaded.
pub struct NewUpload<'a> {
    pub id: &'a [u8; 16],
    /// A generated one may become another one.
    pub path: &'a mut TargetPath,
    pub content_type: &'a str,
    /// The file's name at the client; may be empty.
    pub name: &'a str,
    pub length: Option<u64>,
    pub max_length: u64,
}

pub async fn create(
    worker: &Worker,
    api: &ApiRoad,
    new: NewUpload<'_>,
    times: &StageTimes<'_>,
) -> Result<Place, Problem> {
    let NewUpload { id, path, content_type, name, length, max_length } = new;
    let shared = &worker.shared;
    let ids = by_api::object_id(worker, api, path, times).await?;
    let key = &path.key;
    // Makes the client of the bucket, which the link names.
    api.client(ids.target.as_ref().map(|target| (target, key.as_str())))?;
    let upload = &shared.settings.upload;
    let disposition = disposition::header(upload.content_disposition, name);
    let fields = ObjectFields {
        content_type: shared.settings.cos.send_content_type.then_some(content_type),
        content_disposition: disposition.as_deref(),
        cache_control: upload.cache_control.as_deref(),
        file_id: Some(&ids.metadata),
        ..ObjectFields::default()
    };
    let created =
        with_resumable(worker, api, async |at| at.create(key.as_str(), id, fields, length).await);
    Ok(Place::Cos {
        upload_id: created.await??,
        file_id: ids.file_id,
        part_size: api.sizes().for_file(length.unwrap_or(max_length)).part,
    })
}

pub async fn progress(
    worker: &Worker,
    api: &ApiRoad,
    upload: &OpenUpload,
    ends_session: bool,
) -> Result<Progress, Problem> {
    let at_cos = of(upload)?;
    let progress = with_resumable(worker, api, async |at| at.progress(&at_cos, ends_session).await);
    match progress.await?? {
        resumable::Progress::Gone => Err(OpenUpload::unknown()),
        resumable::Progress::Open { offset, length } => Ok(Progress::Open { offset, length }),
        resumable::Progress::Stored(completed) => Ok(match known_file(worker, upload, completed) {
            KnownFile::Reported(file) => Progress::Stored(file),
            KnownFile::Unreported(file) => Progress::Unreported(file),
        }),
    }
}

/// An upload that was completed before.
enum KnownFile {
    Reported(UploadedFile),
    Unreported(UploadedFile),
}

fn known_file(worker: &Worker, upload: &OpenUpload, completed: Completed) -> KnownFile {
    // Reported by this process.
    if let Some(known) = worker.shared.uploads.stored(&upload.sealed.id) {
        return KnownFile::Reported(known.as_ref().clone());
    }
    let file = uploaded(upload, completed.file);
    if completed.is_closed { KnownFile::Reported(file) } else { KnownFile::Unreported(file) }
}

/// Appends a request's bytes.
pub async fn append(
    worker: &Worker,
    api: &ApiRoad,
    upload: &OpenUpload,
    bytes: IncomingBytes,
    share: Arc<Share>,
    running: Rc<SessionGuard>,
    times: &StageTimes<'_>,
) -> Result<Appended, Problem> {
    let append = with_resumable(worker, api, async |at| {
        append_at(at, worker, upload, bytes, share, running, times).await
    });
    append.await?
}

async fn append_at(
    at: &Resumable<'_>,
    worker: &Worker,
    upload: &OpenUpload,
    bytes: IncomingBytes,
    share: Arc<Share>,
    running: Rc<SessionGuard>,
    times: &StageTimes<'_>,
) -> Result<Appended, Problem> {
    let at_cos = of(upload)?;
    let session = match at.open(&at_cos, bytes.length, &share).await? {
        Opened::Gone => return Err(OpenUpload::unknown()),
        Opened::Stored(completed) => {
            bytes.check_stored(completed.file.size).await?;
            return Ok(match known_file(worker, upload, completed) {
                KnownFile::Reported(file) => Appended::StoredBefore(file),
                KnownFile::Unreported(file) => Appended::Unreported(file),
            });
        }
        Opened::Session(session) => session,
    };
    let position = Position {
        offset: session.offset(),
        length: session.length(),
        start: session.tail().to_vec(),
    };
    let announced = bytes.announced;
    let source = bytes.checked(worker, upload, &position, &share, running).await?;
    let began = Instant::now();
    let appended = at.append(&at_cos, session, source, announced, share).await;
    times.add_since(Stage::Send, began);
    match (appended.error, appended.stored) {
        (Some(AppendError::Superseded), _) => Err(InboundError::Superseded.into()),
        (Some(AppendError::Cos(error)), _) => Err(error.into()),
        (None, Some(file)) => Ok(Appended::Stored(uploaded(upload, file))),
        (None, None) => Ok(Appended::Open { offset: appended.offset, length: position.length }),
    }
}

/// An upload was reported. A failure is logged.
pub async fn close(worker: &Worker, api: &ApiRoad, upload: &OpenUpload) {
    let id = &upload.sealed.id;
    if let Err(problem) = with_resumable(worker, api, async |at| at.close(id).await).await {
        let detail = problem.detail.as_str();
        tracing::warn!(detail, "the helper objects of an upload could not be deleted");
    }
}

/// Ends an upload; its parts are deleted.
pub async fn terminate(
    worker: &Worker,
    api: &ApiRoad,
    upload: &OpenUpload,
) -> Result<Ended, Problem> {
    let at_cos = of(upload)?;
    let terminated = with_resumable(worker, api, async |at| at.terminate(&at_cos).await);
    Ok(if terminated.await?? { Ended::Terminated } else { Ended::Stored })
}

/// As COS's side knows it.
fn of(upload: &OpenUpload) -> Result<ResumableUpload, Problem> {
    let Place::Cos { upload_id, part_size, .. } = &upload.sealed.place else {
        return Err(OpenUpload::unknown());
    };
    Ok(ResumableUpload {
        key: upload.sealed.key.clone(),
        upload_id: upload_id.clone(),
        id: upload.sealed.id,
        part_size: *part_size,
        length: upload.sealed.length,
    })
}

fn uploaded(upload: &OpenUpload, file: StoredFile) -> UploadedFile {
    let file_id = match &upload.sealed.place {
        Place::Cos { file_id, .. } => file_id.clone(),
        Place::Gateway { .. } => String::new(),
    };
    let StoredFile { size, crc64, verified_by } = file;
    UploadedFile { file_id, size, crc64, verified_by }
}

/// Calls `run` with what operations on uploads need.
async fn with_resumable<T>(
    worker: &Worker,
    api: &ApiRoad,
    run: impl AsyncFnOnce(&Resumable<'_>) -> T,
) -> Result<T, Problem> {
    let metrics = &worker.shared.metrics;
    let resumable = Resumable {
        client: by_api::client(api, &worker.wechat, &worker.shared.allowed_hosts).await?,
        upstream: api.upstream(),
        verify: by_api::verification(worker),
        observe: &|event| count(metrics, event),
    };
    Ok(run(&resumable).await)
}
