//! What follows when the file of an upload is stored: the metrics, the log, the quota and the back end are told, once.
//!
//! A gateway may have completed an upload and not know it, or may have been killed before it could report it. The next
//! request that finds the file does it then; a report that two gateways make has one event id, and is counted once.

use std::rc::Rc;
use std::time::Instant;

use actix_web::{HttpRequest, rt, web};
use tracing::Instrument;

use super::by_road;
use super::upload::{OpenUpload, Progress, Road};
use super::uploaded_file::UploadedFile;
use crate::http::extract::file_url;
use crate::http::middleware::request_context::RequestContext;
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::http::{audit, notify, quota};
use crate::metrics::Stage;

/// Whether a file counts for its client's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Not before.
    New,
    /// It may have been counted by another gateway.
    MaybeBefore,
}

/// The request that reports an upload.
#[derive(Clone)]
pub struct Reporter {
    pub worker: web::Data<Worker>,
    pub context: Rc<RequestContext>,
    pub upload: Rc<OpenUpload>,
    /// Of the stable URL, as this request names the gateway.
    pub base_url: String,
}

impl Reporter {
    pub fn new(request: &HttpRequest, worker: &web::Data<Worker>, upload: &Rc<OpenUpload>) -> Self {
        Self {
            worker: worker.clone(),
            context: RequestContext::of(request),
            upload: upload.clone(),
            base_url: file_url::base(request, &worker.shared),
        }
    }

    /// How far the upload is. If its file is stored and was not reported, it is reported first, so that none is told to be
    /// stored that the back end then refuses; such a request waits for a running one of the upload.
    pub async fn progress(self, ends_session: bool) -> Result<Progress, Problem> {
        match by_road::progress(&self.worker, &self.upload, ends_session).await? {
            Progress::Unreported(_) => {}
            progress => return Ok(progress),
        }
        // Tracked, and done also where the client does not wait for it.
        let requests = self.worker.shared.requests.clone();
        let reported = rt::spawn(requests.track_future(self.reported()).in_current_span());
        reported.await.unwrap_or_else(|_| {
            Err(Problem::new(Code::Internal, "the task that reports an upload has failed"))
        })
    }

    async fn reported(self) -> Result<Progress, Problem> {
        let Self { worker, context, upload, .. } = &self;
        // A request of this process that is just reporting it.
        let _running = worker.shared.upload_sessions.begin(upload.sealed.id).await;
        match by_road::progress(worker, upload, false).await? {
            Progress::Unreported(file) => {
                let times = context.stage_times(&worker.shared.metrics);
                let told = self.report(&file, Counted::MaybeBefore, &times).await;
                context.upload.add_times(&times);
                told?;
                Ok(Progress::Stored(file))
            }
            progress => Ok(progress),
        }
    }

    /// Counts and logs the stored file, and tells the back end of it. It then counts for the quota. `Err`: the back end
    /// refused it, and it is deleted.
    pub async fn report(
        &self,
        file: &UploadedFile,
        counted: Counted,
        times: &StageTimes<'_>,
    ) -> Result<(), Problem> {
        let Self { worker, context, upload, .. } = self;
        let metrics = &worker.shared.metrics;
        context.upload.set_object(upload.key.as_str());
        context.upload.set_road(upload.road.name());
        if let Road::Api(_) = upload.road {
            // It may have replaced a file. By a form, that is done where the form is sent.
            worker.wechat.invalidate_links(&[file.file_id.as_str()]).await;
        }
        let told = self.tell(file, times).await;
        match &told {
            Ok(()) => {
                metrics.resumable("stored");
                metrics.stored(file.size);
                context.upload.add_stored(file.size);
                // The request's own line has the same at INFO; its `bytes` must be in no other.
                tracing::debug!(object = %upload.key, size = file.size, "a resumable upload is stored");
                // How it was verified cannot be found out later.
                worker.shared.uploads.set_stored(upload.sealed.id, file.clone());
            }
            Err(problem) => {
                metrics.upload(problem.code.name());
                drop(worker.shared.uploads.end(&upload.sealed.id));
            }
        }
        let stored = told.is_ok().then_some(file.size);
        let (client, id) = (&upload.client, &upload.sealed.id);
        quota::conclude_resumable(worker, client, id, stored, counted == Counted::MaybeBefore)
            .await;
        by_road::close(worker, upload).await;
        told
    }

    async fn tell(&self, file: &UploadedFile, times: &StageTimes<'_>) -> Result<(), Problem> {
        let Self { worker, context, upload, base_url } = self;
        if worker.hooks.is_none() && !worker.shared.audit.is_on() {
            return Ok(());
        }
        let stored = upload.stored_below(base_url, worker, file.clone());
        audit::stored(worker, context, &upload.client, &stored);
        let id = hex::encode(upload.sealed.id);
        let began = Instant::now();
        let told = notify::stored(worker, context, &upload.client, id, &stored).await;
        if worker.hooks.is_some() && worker.shared.settings.hooks.wait {
            times.add_since(Stage::Hook, began);
        }
        told.map(drop)
    }
}
