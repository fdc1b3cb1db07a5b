//! Deletes files for a client, and then tells the audit log and the back end. That is one task, which runs to its end even
//! if the client disconnects: otherwise a file could be deleted without a record.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::{HttpRequest, rt, web};
use tracing::Instrument;

use crate::guard::policy::Client;
use crate::http::middleware::request_context::RequestContext;
use crate::http::state::Worker;
use crate::http::{audit, notify};
use crate::wechat::error::{FileError, WechatError};

type Results = Vec<Result<(), FileError>>;

/// What the task needs.
struct Deletion {
    worker: web::Data<Worker>,
    context: Rc<RequestContext>,
    client: Arc<Client>,
}

/// Deletes files by their ids and paths; returns their results in this order. A file that does not exist counts as deleted.
pub async fn delete(
    request: &HttpRequest,
    worker: &web::Data<Worker>,
    client: &Arc<Client>,
    files: Vec<(String, String)>,
) -> Results {
    let count = files.len();
    run(request, worker, client, count, async move |Deletion { worker, context, client }| {
        let ids: Vec<_> = files.iter().map(|(file_id, _)| file_id.clone()).collect();
        let mut results = worker.wechat.delete(worker.wechat.env(), &ids).await;
        for result in &mut results {
            if result.as_ref().is_err_and(FileError::is_missing) {
                *result = Ok(());
            }
        }
        let gone = files.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let gone: Vec<_> = gone.map(|((id, path), _)| (id.as_str(), path.as_str())).collect();
        audit::deleted(&worker, &context, &client, &gone);
        notify::deleted(&worker, &context, &client, gone).await;
        results
    })
    .await
}

/// As [`delete`], but one file.
pub async fn delete_one(
    request: &HttpRequest,
    worker: &web::Data<Worker>,
    client: &Arc<Client>,
    file_id: &str,
    path: &str,
) -> Result<(), FileError> {
    let files = vec![(file_id.to_owned(), path.to_owned())];
    delete(request, worker, client, files).await.pop().unwrap_or_else(|| Err(failed()))
}

/// Deletes files in an environment for the back end, which knows of it and is told nothing. A file that does not exist is
/// an error.
pub async fn delete_for_back_end(
    request: &HttpRequest,
    worker: &web::Data<Worker>,
    client: &Arc<Client>,
    env: &str,
    file_ids: Vec<String>,
) -> Results {
    let (count, env) = (file_ids.len(), env.to_owned());
    run(request, worker, client, count, async move |Deletion { worker, context, client }| {
        let results = worker.wechat.delete(&env, &file_ids).await;
        let gone = file_ids.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let gone: Vec<_> = gone.map(|(file_id, _)| (file_id.as_str(), "")).collect();
        audit::deleted(&worker, &context, &client, &gone);
        results
    })
    .await
}

/// Runs a deletion of `count` files as a task that a shutdown waits for.
async fn run(
    request: &HttpRequest,
    worker: &web::Data<Worker>,
    client: &Arc<Client>,
    count: usize,
    delete: impl AsyncFnOnce(Deletion) -> Results + 'static,
) -> Results {
    let context = RequestContext::of(request);
    let requests = worker.shared.requests.clone();
    let deletion = Deletion { worker: worker.clone(), context, client: client.clone() };
    let running = async move { delete(deletion).await };
    let running = rt::spawn(requests.track_future(running).in_current_span());
    running.await.unwrap_or_else(|_| (0..count).map(|_| Err(failed())).collect())
}

fn failed() -> FileError {
    let cause = "the task that deletes files has failed".to_owned();
    WechatError::Unreachable { call: "batchdeletefile", cause }.into()
}
