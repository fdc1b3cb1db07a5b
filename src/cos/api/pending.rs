//! A multipart upload between its start and its end: its parts are put together, or it is aborted.

use std::rc::Rc;
use std::time::Duration;

use actix_web::rt;
use tokio::time::sleep;

use super::client::Client;
use super::response::Stored;
use super::retry::{Retry, may_pass};
use super::sent_part::{SentPart, StoreError, UploadEvent};
use crate::cos::crc64::combine;
use crate::cos::error::CosError;
use crate::cos::verdict::{Receipt, Verification, VerifiedBy, compare};

/// Attempts to abort.
const MAX_ABORTS: u32 = 4;

/// Aborts the upload when it is dropped, unless it was completed or may have been.
pub(super) struct PendingParts {
    client: Rc<Client>,
    key: String,
    /// Empty once there is nothing to abort.
    upload_id: String,
}

impl PendingParts {
    pub fn new(client: Rc<Client>, key: &str, upload_id: String) -> Self {
        Self { client, key: key.to_owned(), upload_id }
    }

    pub fn upload_id(&self) -> &str {
        &self.upload_id
    }

    /// Puts the parts together. Whether an attempt succeeded whose response was lost is found
    /// out by a further one.
    pub async fn complete(
        mut self,
        sent: &[SentPart],
        verify: Verification,
        observe: &dyn Fn(UploadEvent),
    ) -> Result<Receipt, StoreError> {
        let size = sent.iter().map(|part| part.size).sum();
        let crc64 = sent.iter().fold(0, |crc, part| combine(crc, part.crc64, part.size));
        let completed =
            complete(&self.client, &self.key, &self.upload_id, sent, true, observe).await;
        let stored = match completed {
            Ok(stored) => stored,
            Err(CompleteError { cause, may_be_complete: true })
                if cause.is_refused_as("NoSuchUpload") =>
            {
                let completed = self.completed_before(size, crc64).await;
                completed.map_err(|cause| StoreError::after_request(cause, true))?
            }
            Err(CompleteError { cause, may_be_complete }) => {
                return Err(StoreError::after_request(cause, may_be_complete));
            }
        };
        self.upload_id.clear();
        let is_verified = compare(crc64, stored.crc64.as_deref(), verify != Verification::Off)
            .map_err(|cause| StoreError::after_request(cause, true))?;
        let all_parts = || sent.iter().all(|part| part.is_verified).then_some(VerifiedBy::Parts);
        let verified_by = if is_verified { Some(VerifiedBy::Reply) } else { all_parts() };
        Ok(Receipt { size, crc64, verified_by })
    }

    /// COS no longer knows the upload: an attempt before has completed it, if the object is there.
    async fn completed_before(&self, size: u64, crc64: u64) -> Result<Stored, CosError> {
        let lost =
            CosError::NoVerdict("the upload is not known any more, and its object is not there");
        let object = self.client.head(&self.key).await?.ok_or(lost)?;
        if object.size != size || compare(crc64, object.crc64.as_deref(), true).is_err() {
            return Err(CosError::NoVerdict("the object is another than that of the upload"));
        }
        Ok(Stored { etag: object.etag.unwrap_or_default(), crc64: object.crc64 })
    }
}

/// Why parts could not be put together.
pub(super) struct CompleteError {
    pub cause: CosError,
    /// An attempt may have succeeded whose response was lost. If the cause is `NoSuchUpload`, one has.
    pub may_be_complete: bool,
}

/// Puts the parts of an upload together, again while that may help. `relists`: where COS knows verified parts by other
/// ETags than were received for them, those are used.
pub(super) async fn complete(
    client: &Client,
    key: &str,
    upload_id: &str,
    parts: &[SentPart],
    relists: bool,
    observe: &dyn Fn(UploadEvent),
) -> Result<Stored, CompleteError> {
    let mut etags: Vec<_> = parts.iter().map(|part| part.etag.clone()).collect();
    let mut has_known_etags = false;
    let mut retry = Retry::new(key, observe);
    let mut may_be_complete = false;
    loop {
        let numbered = parts.iter().zip(&etags).map(|(part, etag)| (part.number, etag.as_str()));
        let result = client.complete(key, upload_id, numbered).await;
        let class = result.as_ref().map_or_else(CosError::response_class, |_| Some("2xx"));
        class.into_iter().for_each(|class| observe(UploadEvent::Response(class)));
        let cause = match result {
            Ok(stored) => return Ok(stored),
            Err(cause) => cause,
        };
        // COS had begun its response before it put the parts together (doc 7742).
        let is_late = matches!(cause, CosError::Refused { status: 200, .. });
        let has_other_etags = relists && !has_known_etags && cause.is_refused_as("InvalidPart");
        may_be_complete |= is_late || !cause.is_final();
        if !has_other_etags && !is_late && !may_pass(&cause) || !retry.pause(&cause).await {
            return Err(CompleteError { cause, may_be_complete });
        }
        if has_other_etags {
            let known = known_etags(client, key, upload_id, parts).await;
            etags = known.map_err(|cause| CompleteError { cause, may_be_complete })?;
            has_known_etags = true;
        }
    }
}

/// The ETags by which COS knows the parts, whose bytes CRCs have confirmed.
async fn known_etags(
    client: &Client,
    key: &str,
    upload_id: &str,
    parts: &[SentPart],
) -> Result<Vec<String>, CosError> {
    let known = client.list_all_parts(key, upload_id).await?;
    let is_same = known.len() == parts.len()
        && known.iter().zip(parts).all(|(known, sent)| {
            known.number == sent.number && known.size == sent.size && sent.is_verified
        });
    match is_same {
        true => Ok(known.into_iter().map(|part| part.etag).collect()),
        false => Err(CosError::NoVerdict("COS has other parts than were sent")),
    }
}

/// Aborts all uploads of a key but `own`, in the background: COS began them, and its response was lost.
pub(super) fn abort_others(client: Rc<Client>, key: &str, own: &str) {
    let (key, own) = (key.to_owned(), own.to_owned());
    rt::spawn(async move {
        match client.list_uploads(&key, None).await {
            Ok(page) => {
                let others = page.uploads.into_iter();
                for other in others.filter(|other| other.key == key && other.upload_id != own) {
                    // Dropped, it aborts.
                    drop(PendingParts::new(client.clone(), &key, other.upload_id));
                }
            }
            Err(error) => {
                tracing::warn!(key, %error, "an upload may be left open; the sweep will abort it");
            }
        }
    });
}

impl Drop for PendingParts {
    fn drop(&mut self) {
        let upload_id = std::mem::take(&mut self.upload_id);
        if upload_id.is_empty() {
            return;
        }
        let (client, key) = (self.client.clone(), std::mem::take(&mut self.key));
        rt::spawn(async move {
            for attempt in 1.. {
                match client.abort(&key, &upload_id).await {
                    Ok(_) => return,
                    Err(error) if attempt == MAX_ABORTS => {
                        tracing::error!(
                            key, %error,
                            "the parts of a failed upload could not be deleted; the sweep will try again"
                        );
                        return;
                    }
                    Err(_) => sleep(Duration::from_secs(1) * attempt).await,
                }
            }
        });
    }
}
