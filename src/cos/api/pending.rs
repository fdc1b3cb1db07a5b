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
        let mut etags: Vec<_> = sent.iter().map(|part| part.etag.clone()).collect();
        let mut has_known_etags = false;
        let mut retry = Retry::new(&self.key, observe);
        let mut may_be_complete = false;
        let stored = loop {
            let numbered = sent.iter().zip(&etags).map(|(part, etag)| (part.number, etag.as_str()));
            let result = self.client.complete(&self.key, &self.upload_id, numbered).await;
            let class = result.as_ref().map_or_else(CosError::response_class, |_| Some("2xx"));
            class.into_iter().for_each(|class| observe(UploadEvent::Response(class)));
            let error = match result {
                Ok(stored) => break stored,
                Err(error) => error,
            };
            let failed = |cause| StoreError::after_request(cause, may_be_complete);
            if may_be_complete && error.is_refused_as("NoSuchUpload") {
                break self.completed_before(size, crc64).await.map_err(failed)?;
            }
            // COS had begun its response before it put the parts together (doc 7742).
            let is_late = matches!(error, CosError::Refused { status: 200, .. });
            let has_other_etags = !has_known_etags && error.is_refused_as("InvalidPart");
            may_be_complete |= is_late || !error.is_final();
            let failed = |cause| StoreError::after_request(cause, may_be_complete);
            if !has_other_etags && !is_late && !may_pass(&error) || !retry.pause(&error).await {
                return Err(failed(error));
            }
            if has_other_etags {
                etags = self.known_etags(sent).await.map_err(failed)?;
                has_known_etags = true;
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

    /// The ETags by which COS knows the parts, whose bytes its CRCs have confirmed.
    async fn known_etags(&self, sent: &[SentPart]) -> Result<Vec<String>, CosError> {
        let known = self.client.list_all_parts(&self.key, &self.upload_id).await?;
        let is_same = known.len() == sent.len()
            && known.iter().zip(sent).all(|(known, sent)| {
                known.number == sent.number && known.size == sent.size && sent.is_verified
            });
        match is_same {
            true => Ok(known.into_iter().map(|part| part.etag).collect()),
            false => Err(CosError::NoVerdict("COS has other parts than were sent")),
        }
    }
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
                    Ok(()) => return,
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
