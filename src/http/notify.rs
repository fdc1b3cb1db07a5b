//! Tells the owner's back end of files: what handlers call after COS's verdict, and after a deletion.

use actix_web::rt;
use serde_json::Value;
use tracing::Instrument;

use crate::guard::policy::Client;
use crate::hooks::event::{Actor, DeletedFile, StoredFile};
use crate::hooks::sender::Verdict;
use crate::http::middleware::request_context::RequestContext;
use crate::http::problem::{Code, Problem};
use crate::http::response::outcome::Stored;
use crate::http::state::Worker;

/// Tells the back end of a stored file, where `hooks.stored_url` is set. Every way to store a file calls it exactly once
/// for an upload, when the file is stored; `upload_id` is the same for every request of that upload.
///
/// Where `hooks.wait` is set, returns the back end's response, which is null if it has none in time. `Err`: the back end
/// refused the file, and it was deleted. Runs to its end even if the client disconnects meanwhile.
pub async fn stored(
    worker: &Worker,
    context: &RequestContext,
    client: &Client,
    upload_id: String,
    stored: &Stored,
) -> Result<Option<Value>, Problem> {
    let Some(hooks) = worker.hooks.clone() else {
        return Ok(None);
    };
    let event = StoredFile {
        upload_id,
        file_id: stored.file_id.clone(),
        path: stored.key.as_str().to_owned(),
        name: stored.name.clone(),
        size: stored.size,
        content_type: stored.content_type.clone(),
        crc64: stored.crc64,
        verified: stored.verified_by.is_some(),
        by: actor(client),
        metadata: stored.metadata.clone(),
        url: stored.url.clone(),
        trace: context.trace,
    };
    let waits = hooks.state.wait;
    let wechat = worker.wechat.clone();
    let told = async move {
        match hooks.stored(&event).await {
            Verdict::Queued => Ok(waits.then_some(Value::Null)),
            Verdict::Accepted(json) => Ok(Some(json)),
            Verdict::Refused { status, detail } => {
                if let Err(error) = wechat.delete_one(&event.file_id).await {
                    let file_id = event.file_id;
                    tracing::error!(file_id, %error, "a file that the back end refused could not be deleted");
                }
                let detail = detail.unwrap_or_else(|| {
                    format!("the back end refused the file with status {status}")
                });
                Err(Problem::new(Code::RefusedByHook, detail))
            }
        }
    };
    // Tracked, so that a shutdown waits for it.
    let running = rt::spawn(worker.shared.requests.track_future(told).in_current_span());
    running.await.unwrap_or_else(|_| {
        Err(Problem::new(Code::Internal, "the task that tells the back end has failed"))
    })
}

/// Tells the back end of deleted files, by their ids and paths. Its response does not matter to the client. The caller must
/// run it to its end.
pub async fn deleted<'a>(
    worker: &Worker,
    context: &RequestContext,
    client: &Client,
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    let Some(hooks) = worker.hooks.clone() else { return };
    let trace = context.trace;
    let files = files.into_iter().map(|(file_id, path)| DeletedFile {
        file_id: file_id.to_owned(),
        path: path.to_owned(),
        by: actor(client),
        trace,
    });
    let files: Vec<_> = files.collect();
    hooks.deleted(&files).await;
}

fn actor(client: &Client) -> Actor {
    Actor { client: client.name.clone(), sub: client.user().map(str::to_owned) }
}
