//! What is done in one way by COS's API and in another by forms.

use std::rc::Rc;
use std::sync::Arc;

use super::body::IncomingBytes;
use super::sessions::SessionGuard;
use super::upload::{Appended, Ended, OpenUpload, Progress, Road};
use super::{at_cos, at_gateway};
use crate::http::middleware::server_timing::StageTimes;
use crate::http::problem::Problem;
use crate::http::state::Worker;
use crate::memory::budget::Share;

/// Bytes of the largest file that can be sent, of those with at most `max`.
pub fn max_length(worker: &Worker, road: &Road, max: u64) -> u64 {
    match road {
        Road::Api(_) => max,
        Road::Form => max.min(at_gateway::max_length(worker)),
    }
}

/// How far an upload is. With `ends_session`, a request that still sends bytes by another gateway is ended.
pub async fn progress(
    worker: &Worker,
    upload: &OpenUpload,
    ends_session: bool,
) -> Result<Progress, Problem> {
    match &upload.road {
        Road::Api(api) => at_cos::progress(worker, api, upload, ends_session).await,
        Road::Form => at_gateway::progress(worker, &upload.sealed.id),
    }
}

/// Appends a request's bytes.
pub async fn append(
    worker: &Worker,
    upload: &OpenUpload,
    bytes: IncomingBytes,
    share: Arc<Share>,
    running: Rc<SessionGuard>,
    times: &StageTimes<'_>,
) -> Result<Appended, Problem> {
    match &upload.road {
        Road::Api(api) => at_cos::append(worker, api, upload, bytes, share, running, times).await,
        Road::Form => at_gateway::append(worker, upload, bytes, share, running, times).await,
    }
}

/// An upload was reported, and is not again.
pub async fn close(worker: &Worker, upload: &OpenUpload) {
    if let Road::Api(api) = &upload.road {
        at_cos::close(worker, api, upload).await;
    }
}

/// Ends an upload, and a request that sends bytes of it; what was received of it is deleted, unless its file is stored.
pub async fn end(worker: &Worker, upload: &OpenUpload) -> Result<Ended, Problem> {
    match &upload.road {
        Road::Api(api) => {
            worker.shared.upload_sessions.end(upload.sealed.id).await;
            at_cos::terminate(worker, api, upload).await
        }
        Road::Form => Ok(at_gateway::terminate(worker, upload.sealed.id).await),
    }
}

/// When the upload can no longer be continued, in Unix time in seconds.
pub fn expires(worker: &Worker, upload: &OpenUpload) -> i64 {
    let at_gateway = match upload.road {
        Road::Api(_) => None,
        Road::Form => at_gateway::expires(worker, &upload.sealed.id),
    };
    at_gateway.unwrap_or(upload.sealed.expires)
}
