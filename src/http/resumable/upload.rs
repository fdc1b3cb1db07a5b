//! The upload that a URL names: opened, and checked against the client that asks.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::HttpRequest;
use jiff::Timestamp;
use tracing::Span;

use super::protocol::Metadata;
use super::sealed_url::{Place, SealedUpload};
use super::uploaded_file::UploadedFile;
use crate::cos::api::road::ApiRoad;
use crate::guard::policy::Client;
use crate::http::extract::{client, file_url};
use crate::http::problem::{Code, Problem};
use crate::http::response::outcome::Stored;
use crate::http::state::Worker;
use crate::http::upload::metadata;
use crate::key::Key;
use crate::settings::Action;

/// The upload of a request.
pub struct OpenUpload {
    pub sealed: SealedUpload,
    pub key: Key,
    pub client: Arc<Client>,
    pub road: Road,
}

/// How uploads come to COS, and so where their bytes are until all of them are there.
#[derive(Clone)]
pub enum Road {
    /// By COS's API: at COS.
    Api(Rc<ApiRoad>),
    /// By a form: at the gateway.
    Form,
}

impl Road {
    /// As the access log has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Api(_) => "api",
            Self::Form => "form",
        }
    }
}

/// How far an upload is.
pub enum Progress {
    /// `offset` is less than the length, which is `None` until it is told.
    Open { offset: u64, length: Option<u64> },
    /// Stored and reported.
    Stored(UploadedFile),
    /// Stored, but maybe not reported: the gateway that has completed it is about to report it, or was not told of COS's
    /// verdict, or was killed.
    Unreported(UploadedFile),
}

/// What appending has led to.
pub enum Appended {
    Open {
        offset: u64,
        length: Option<u64>,
    },
    /// Stored by this request.
    Stored(UploadedFile),
    /// As [`Progress::Unreported`].
    Unreported(UploadedFile),
    /// Stored and reported before.
    StoredBefore(UploadedFile),
}

/// What a request to end an upload has led to.
pub enum Ended {
    /// Nothing is left of it.
    Terminated,
    /// Its file was stored before, and stays.
    Stored,
}

impl Road {
    /// Fails where there are no resumable uploads.
    pub fn of(worker: &Worker) -> Result<Self, Problem> {
        match (worker.shared.settings.resumable.enabled, &worker.api) {
            (true, Some(api)) => Ok(Self::Api(api.clone())),
            (true, None) => Ok(Self::Form),
            (false, _) => Err(Problem::new(
                Code::NotFound,
                "resumable uploads are switched off: resumable.enabled",
            )),
        }
    }

    /// Whether bytes of an upload at `place` can be reached.
    fn leads_to(&self, place: &Place) -> bool {
        match self {
            Self::Api(_) => matches!(place, Place::Cos { .. }),
            Self::Form => matches!(place, Place::Gateway { .. }),
        }
    }
}

impl OpenUpload {
    /// Opens the request's URL. Another client's upload is as unknown as one that does not exist. What the credential
    /// allows must allow the upload, too: tickets of one client may differ.
    pub async fn of(request: &HttpRequest, worker: &Worker) -> Result<Self, Problem> {
        let road = Road::of(worker)?;
        let client = client::identify(request, worker).await?;
        client.may(Action::Upload)?;
        let segment = request.match_info().get("id").unwrap_or_default();
        let sealed = worker.shared.sealing_keys.open(segment);
        let sealed = sealed.filter(|sealed| {
            sealed.client == client.id
                && sealed.expires > Timestamp::now().as_second()
                && road.leads_to(&sealed.place)
        });
        let sealed = sealed.ok_or_else(Self::unknown)?;
        client.may_reach(&sealed.key)?;
        log_id(&sealed.id);
        let key = Key::parse(&sealed.key)?;
        Ok(Self { sealed, key, client, road })
    }

    pub fn unknown() -> Problem {
        Problem::new(
            Code::UploadNotFound,
            "the URL names no upload of this client that can be continued",
        )
    }

    /// The file, as responses have it.
    pub fn stored(&self, request: &HttpRequest, worker: &Worker, file: UploadedFile) -> Stored {
        self.stored_below(&file_url::base(request, &worker.shared), worker, file)
    }

    /// As [`Self::stored`], for a base of URLs.
    pub fn stored_below(&self, base_url: &str, worker: &Worker, file: UploadedFile) -> Stored {
        let mut url = file_url::of_file(base_url, &self.key);
        url.push_str(&worker.shared.links.query(&self.key, Timestamp::now()));
        // It was checked when the upload was created.
        let told = Metadata::parse(&self.sealed.metadata).unwrap_or_default();
        let metadata = metadata::of(&worker.shared, told.others()).unwrap_or_default();
        let signer = worker.shared.receipts.as_ref();
        let signed_receipt = signer.and_then(|signer| {
            let path = self.key.as_str();
            signer.sign(&self.client, &file.file_id, path, file.size, file.crc64, &metadata)
        });
        Stored {
            file_id: file.file_id,
            key: self.key.clone(),
            name: self.sealed.name.clone(),
            content_type: self.sealed.content_type.clone(),
            size: file.size,
            crc64: file.crc64,
            verified_by: file.verified_by,
            url,
            metadata,
            signed_receipt,
            hook: None,
        }
    }
}

/// Adds the upload's id to all further lines of the request's in the log.
pub fn log_id(id: &[u8; 16]) {
    Span::current().record("upload", hex::encode(id));
}
