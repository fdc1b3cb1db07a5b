//! Stores one file by COS's API: a file that is in memory as a whole with one PUT, any other one in parts.
//!
//! Parts are retained until COS has them, so each can be sent again. They are buffered before they are sent, so a slow
//! client does not keep a request to COS waiting; while a part is sent, the next one is read. A part of a known length is
//! sent while it arrives if its client is fast, and where memory is used up, which leaves it one attempt. Two parts are
//! in memory at most.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::client::{Client, ObjectFields};
use super::credentials::Credentials;
use super::file_parts::{FilePart, FileParts};
use super::multipart::MAX_PARTS;
use super::pending::{PendingParts, abort_others};
use super::response::{ApiResponse, Stored};
use super::retry::{Retry, may_pass, retried};
use super::sending_parts::SendingParts;
use super::sent_part::{SentPart, StoreError, UploadEvent};
use crate::cos::attempt::Envelope;
use crate::cos::error::CosError;
use crate::cos::upstream::Upstream;
use crate::cos::verdict::{Receipt, Verification, VerifiedBy, compare};
use crate::file_stream::{FileLength, Source};
use crate::memory::budget::Share;

/// Bytes per second of a client that a request to COS need not wait for.
const FAST_CLIENT: f64 = 16.0 * 1024.0 * 1024.0;
/// Parts are as large as whole mebibytes.
const MEBIBYTE: u64 = 1 << 20;

/// How large parts are, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct PartSizes {
    pub part: u64,
    /// A file of up to this size is buffered and sent as a whole, while memory is free.
    pub single_put: u64,
}

impl PartSizes {
    /// Grows the parts so that a file of up to `largest` bytes has no more parts than COS accepts.
    pub fn for_file(self, largest: u64) -> Self {
        let least = largest.div_ceil(u64::from(MAX_PARTS)).next_multiple_of(MEBIBYTE);
        Self { part: self.part.max(least), ..self }
    }
}

/// A file that is being uploaded.
pub struct ApiUpload<'a> {
    pub client: Rc<Client>,
    pub upstream: &'a Upstream,
    pub key: &'a str,
    pub fields: ObjectFields<'a>,
    /// No other file has this key, so all of its multipart uploads are this file's.
    pub is_key_unique: bool,
    pub verify: Verification,
    pub observe: &'a dyn Fn(UploadEvent),
}

/// A stored file, and how long it took.
pub struct Uploaded {
    pub receipt: Receipt,
    /// From the first byte that was sent to COS's response to the last part, or to the whole file.
    pub send: Duration,
    /// From then until COS had put the parts together.
    pub verdict: Option<Duration>,
    /// The end of both.
    pub ended: Instant,
}

/// A file of which the first part is being read.
pub struct IncomingFile {
    parts: FileParts,
    first: FilePart,
    sizes: PartSizes,
    began: Instant,
}

impl IncomingFile {
    /// The parts are charged to `share`.
    pub fn new(
        source: Source,
        length: Option<FileLength>,
        share: Arc<Share>,
        sizes: PartSizes,
    ) -> Self {
        let parts = FileParts::new(source, length, share);
        let first = parts.next(sizes.single_put, sizes.part);
        Self { parts, first, sizes, began: Instant::now() }
    }

    /// Reads until the first part is complete, or fails; [`ApiUpload::store`] finds the error. The future may be dropped
    /// at any time: no byte that was read is lost.
    pub async fn collect_ahead(&self) {
        self.first.relay.read_ahead().await;
    }

    async fn collect(&self) -> Result<(), CosError> {
        self.parts.collect(&self.first).await
    }

    /// The file's length, if all of it is buffered.
    pub fn whole(&self) -> Option<u64> {
        self.first.relay.known_length().filter(|_| self.parts.is_at_end())
    }
}

impl ApiUpload<'_> {
    /// Stores `file`.
    pub async fn store(&self, file: IncomingFile) -> Result<Uploaded, StoreError> {
        let mut uploaded = self.store_unchecked(file).await?;
        if self.verify == Verification::Head && uploaded.receipt.verified_by.is_none() {
            let Receipt { size, crc64, .. } = uploaded.receipt;
            let checked = check_by_head(&self.client, self.key, size, crc64).await;
            let checked = checked.map_err(|cause| StoreError::after_request(cause, true));
            uploaded.receipt.verified_by = checked?;
        }
        Ok(uploaded)
    }

    async fn store_unchecked(&self, file: IncomingFile) -> Result<Uploaded, StoreError> {
        file.collect().await?;
        let began = Instant::now();
        if let Some(length) = file.whole() {
            let head = Head::Put { length };
            let sent = self.send(&file.first, length, head).await;
            let (stored, crc64) = sent.map_err(|cause| {
                StoreError::after_request(cause, file.first.relay.is_outcome_unknown())
            })?;
            let is_verified = self.agrees(crc64, &stored)?;
            let verified_by = is_verified.then_some(VerifiedBy::Reply);
            let receipt = Receipt { size: length, crc64, verified_by };
            let ended = Instant::now();
            return Ok(Uploaded { receipt, send: ended - began, verdict: None, ended });
        }
        let upload_id = self.initiate().await?;
        // Dropped before it is completed, it aborts the upload.
        let pending = PendingParts::new(self.client.clone(), self.key, upload_id);
        let sent = self.send_parts(file, &pending).await?;
        let sent_at = Instant::now();
        let receipt = pending.complete(&sent, self.verify, self.observe).await?;
        let ended = Instant::now();
        Ok(Uploaded { receipt, send: sent_at - began, verdict: Some(ended - sent_at), ended })
    }

    async fn initiate(&self) -> Result<String, CosError> {
        let is_response_lost = Cell::new(false);
        let initiate = async || {
            let result = self.client.initiate(self.key, self.fields).await;
            let is_lost = result.as_ref().is_err_and(|error| !error.is_final());
            is_response_lost.set(is_response_lost.get() || is_lost);
            result
        };
        let result = retried(self.key, self.observe, initiate).await;
        if is_response_lost.get() && self.is_key_unique {
            abort_others(self.client.clone(), self.key, result.as_deref().unwrap_or_default());
        }
        result
    }

    /// Sends all parts. A part begins when the one before it was read to its end, while COS has still to confirm that one.
    async fn send_parts(
        &self,
        file: IncomingFile,
        pending: &PendingParts,
    ) -> Result<Vec<SentPart>, CosError> {
        let IncomingFile { parts, first, sizes, began } = file;
        let sent = self.send_parts_of(&parts, first, sizes, began, pending).await;
        let mut sent = sent.map_err(|error| parts.error_of_file(error))?;
        // What was begun as a part, and turned out to be the file's end.
        sent.retain(|part| part.size > 0);
        Ok(sent)
    }

    /// `began`: when the client began to send the `first` part.
    async fn send_parts_of(
        &self,
        parts: &FileParts,
        first: FilePart,
        sizes: PartSizes,
        mut began: Instant,
        pending: &PendingParts,
    ) -> Result<Vec<SentPart>, CosError> {
        let (mut sending, mut part) = (SendingParts::default(), Rc::new(first));
        for number in 1.. {
            let length = parts.length_of(&part).ok_or(CosError::OutOfMemory)?;
            let is_fast = length as f64 >= FAST_CLIENT * began.elapsed().as_secs_f64();
            began = Instant::now();
            let send = self.send_part(part.clone(), number, length, pending.upload_id());
            sending.begin(send, || part.relay.known_length().is_some()).await?;
            part = Rc::new(parts.next(sizes.part, sizes.part));
            // A part of a fast client is sent while it is read: its bytes are still in the processor's cache.
            if !is_fast || parts.is_at_end() || parts.length_of(&part).is_none() {
                sending.poll_while(parts.collect(&part)).await?;
            }
            if parts.is_at_end() && part.relay.known_length() == Some(0) {
                break;
            }
        }
        sending.finish().await
    }

    pub(super) async fn send_part(
        &self,
        part: Rc<FilePart>,
        number: u32,
        length: u64,
        upload_id: &str,
    ) -> Result<SentPart, CosError> {
        let send =
            async |length| self.send(&part, length, Head::Part { number, upload_id, length }).await;
        let mut length = length;
        let mut result = send(length).await;
        // Another file follows the one that was assumed to be the last: the part is shorter than was announced.
        if let Err(CosError::LengthMismatch { .. }) = &result
            && part.has_assumed_length
            && let Some(known) = part.relay.known_length().filter(|known| *known < length)
        {
            if known == 0 {
                let etag = String::new();
                return Ok(SentPart { number, size: 0, crc64: 0, is_verified: true, etag });
            }
            length = known;
            result = send(length).await;
        }
        let (stored, crc64) = result?;
        let is_verified = self.agrees(crc64, &stored)?;
        Ok(SentPart { number, size: length, crc64, is_verified, etag: stored.etag })
    }

    /// Sends a part, again while it is buffered and that may help. Returns its CRC-64, too.
    pub(super) async fn send(
        &self,
        part: &FilePart,
        length: u64,
        head: Head<'_>,
    ) -> Result<(Stored, u64), CosError> {
        let mut retry = Retry::new(self.key, self.observe);
        let mut mismatch = None;
        loop {
            let mut has_other_keys = false;
            let result = match self.client.credentials().await {
                Ok(credentials) => {
                    let result = self.attempt(&credentials, part, length, head).await;
                    if let Err(error) = &result {
                        has_other_keys = self.client.reject_credentials(&credentials, error).await;
                    }
                    result
                }
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(stored) => return Ok(stored),
                Err(error) => error,
            };
            let is_mismatch = matches!(error, CosError::Integrity { .. });
            let may_help = is_mismatch || has_other_keys || may_pass(&error);
            if !may_help || !part.relay.is_replayable() || !retry.pause(&error).await {
                // Where an earlier attempt has stored other bytes, that matters more than why they were not replaced.
                return Err(mismatch.unwrap_or(error));
            }
            if is_mismatch {
                mismatch = Some(error);
            }
        }
    }

    async fn attempt(
        &self,
        credentials: &Credentials,
        part: &FilePart,
        length: u64,
        head: Head<'_>,
    ) -> Result<(Stored, u64), CosError> {
        let head = head.signed(self, credentials)?;
        let judge = |response: ApiResponse, _, crc64| {
            let stored = response.stored()?;
            self.agrees(crc64, &stored)?;
            Ok((stored, crc64))
        };
        let (origin, length) = (self.client.origin(), FileLength::Known(length));
        let sent =
            part.relay.attempt(self.upstream, origin, |_| head, Envelope::Raw, length, judge);
        let result = sent.await;
        let class = result.as_ref().map_or_else(CosError::response_class, |_| Some("2xx"));
        class.into_iter().for_each(|class| (self.observe)(UploadEvent::Response(class)));
        result
    }

    /// Whether COS's CRC-64 is ours; `false` where it sent none.
    fn agrees(&self, ours: u64, stored: &Stored) -> Result<bool, CosError> {
        compare(ours, stored.crc64.as_deref(), self.verify != Verification::Off)
    }
}

/// Compares the length and the CRC-64 that COS returns for the object. Where that fails, it stays unverified.
pub(super) async fn check_by_head(
    client: &Client,
    key: &str,
    size: u64,
    crc64: u64,
) -> Result<Option<VerifiedBy>, CosError> {
    match client.head(key).await {
        Ok(Some(object)) if object.size == size => {
            let agrees = compare(crc64, object.crc64.as_deref(), true)?;
            Ok(agrees.then_some(VerifiedBy::Head))
        }
        Ok(object) => {
            let theirs = object.map_or("none".to_owned(), |o| format!("of {} bytes", o.size));
            Err(CosError::Integrity { ours: crc64, theirs })
        }
        Err(error) => {
            tracing::warn!(key, %error, "the stored file could not be verified");
            Ok(None)
        }
    }
}

/// A request whose body is a part, or the whole file.
#[derive(Clone, Copy)]
pub(super) enum Head<'a> {
    Put { length: u64 },
    Part { number: u32, upload_id: &'a str, length: u64 },
}

impl Head<'_> {
    fn signed(self, upload: &ApiUpload<'_>, credentials: &Credentials) -> Result<String, CosError> {
        let ApiUpload { client, key, fields, .. } = upload;
        match self {
            Self::Put { length } => client.put_head(credentials, key, *fields, length),
            Self::Part { number, upload_id, length } => {
                client.part_head(credentials, key, upload_id, number, length)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_has_more_parts_than_cos_accepts() {
        let sizes = PartSizes { part: MEBIBYTE, single_put: 8 * MEBIBYTE };
        for (largest, part) in [
            (0, 1),
            (10_000 * MEBIBYTE, 1),
            (10_000 * MEBIBYTE + 1, 2),
            (20 << 30, 3),
            (10_000 * (5 << 30), 5 << 10),
        ] {
            let sized = sizes.for_file(largest);
            assert_eq!(sized.part, part * MEBIBYTE, "{largest}");
            assert!(largest.div_ceil(sized.part) <= u64::from(MAX_PARTS));
        }
    }
}
