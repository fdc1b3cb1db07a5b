//! The upload that a URL names: opened, and checked against the client that asks.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::HttpRequest;
use jiff::Timestamp;
use tracing::Span;

use super::sealed_url::SealedUpload;
use crate::cos::api::resumable::{Resumable, ResumableUpload, StoredFile};
use crate::cos::api::road::ApiRoad;
use crate::cos::verdict::Receipt;
use crate::guard::policy::Client;
use crate::http::extract::{client, file_url};
use crate::http::problem::{Code, Problem};
use crate::http::response::outcome::Stored;
use crate::http::state::Worker;
use crate::http::upload::by_api::{self, count};
use crate::key::Key;
use crate::settings::Action;

/// The upload of a request.
pub struct OpenUpload {
    pub sealed: SealedUpload,
    pub key: Key,
    pub client: Arc<Client>,
    pub api: Rc<ApiRoad>,
}

/// The way to COS's API, without which there are no resumable uploads.
pub fn api_of(worker: &Worker) -> Result<Rc<ApiRoad>, Problem> {
    let resumable = &worker.shared.settings.resumable;
    let detail = match (resumable.enabled, &worker.api) {
        (true, Some(api)) => return Ok(api.clone()),
        (false, _) => "resumable uploads are switched off: resumable.enabled",
        (true, None) => "resumable uploads need COS's API: cos.via = \"api\"",
    };
    Err(Problem::new(Code::NotFound, detail))
}

impl OpenUpload {
    /// Opens the request's URL. Another client's upload is as unknown as one that does not exist.
    pub fn of(request: &HttpRequest, worker: &Worker) -> Result<Self, Problem> {
        let api = api_of(worker)?;
        let client = client::identify(request, worker)?;
        client.may(Action::Upload)?;
        let segment = request.match_info().get("id").unwrap_or_default();
        let sealed = worker.shared.sealing_keys.open(segment);
        let sealed = sealed.filter(|sealed| {
            sealed.client == client.id && sealed.expires > Timestamp::now().as_second()
        });
        let sealed = sealed.ok_or_else(Self::unknown)?;
        // Tickets of one client may allow different things.
        client.may_reach(&sealed.key)?;
        log_id(&sealed.id);
        let key = Key::parse(&sealed.key)?;
        Ok(Self { sealed, key, client, api })
    }

    pub fn unknown() -> Problem {
        Problem::new(
            Code::UploadNotFound,
            "the URL names no upload of this client that can be continued",
        )
    }

    /// As COS's side knows it.
    pub fn at_cos(&self) -> ResumableUpload {
        ResumableUpload {
            key: self.sealed.key.clone(),
            upload_id: self.sealed.upload_id.clone(),
            id: self.sealed.id,
            part_size: self.sealed.part_size,
            length: self.sealed.length,
        }
    }

    /// The file, as responses have it.
    pub fn stored(&self, request: &HttpRequest, worker: &Worker, file: &StoredFile) -> Stored {
        let base = file_url::base(request, &worker.shared);
        let mut url = file_url::of_file(&base, &self.key);
        url.push_str(&worker.shared.links.query(&self.key, Timestamp::now()));
        let receipt = Receipt {
            size: file.size,
            crc64: file.crc64.unwrap_or_default(),
            verified_by: file.verified_by,
        };
        Stored {
            file_id: self.sealed.file_id.clone(),
            key: self.key.clone(),
            name: self.sealed.name.clone(),
            content_type: self.sealed.content_type.clone(),
            receipt,
            url,
        }
    }
}

/// Adds the upload's id to all further lines of the request's in the log.
pub fn log_id(id: &[u8; 16]) {
    Span::current().record("upload", hex::encode(id));
}

/// Calls `run` with what operations on uploads need.
pub async fn with_resumable<T>(
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
