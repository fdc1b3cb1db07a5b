//! Sends what a session receives: full parts as they are complete, and the rest as the file's last part or as the tail.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::finish::joined;
use super::lease::LeaseWatch;
use super::session::{FullParts, Session};
use super::tail;
use super::upload::{AppendError, Appended, Resumable, ResumableUpload, StoredFile};
use crate::cos::api::client::ObjectFields;
use crate::cos::api::file_parts::{FilePart, FileParts};
use crate::cos::api::multipart::MAX_PARTS;
use crate::cos::api::retry::retried;
use crate::cos::api::sending_parts::SendingParts;
use crate::cos::api::sent_part::SentPart;
use crate::cos::api::upload::{ApiUpload, Head};
use crate::cos::error::CosError;
use crate::file_stream::{FileEvent, FileLength, Source};
use crate::memory::budget::{Charge, Share};

/// A session that appends.
struct Append<'a> {
    resumable: &'a Resumable<'a>,
    upload: &'a ResumableUpload,
    watch: LeaseWatch,
    /// The parts of earlier sessions, and their CRC-64 where it is known.
    before: FullParts,
    crc64_before: Option<u64>,
    /// The offset at the session's beginning.
    offset: u64,
    length: Option<u64>,
}

/// What is left when all full parts were sent.
struct Rest {
    part: Rc<FilePart>,
    /// Bytes of the part.
    length: u64,
    /// Why the source has no more.
    error: Option<CosError>,
}

impl Rest {
    /// What was received of a part before its source failed. Without memory for it, there is nothing.
    fn received(part: Rc<FilePart>, error: CosError) -> Result<Self, CosError> {
        let is_too_long =
            matches!(error, CosError::LengthMismatch { declared, got } if got > declared);
        if is_too_long || !part.relay.is_replayable() {
            return Err(error);
        }
        part.relay.cut();
        match part.relay.known_length() {
            Some(length) => Ok(Self { part, length, error: Some(error) }),
            None => Err(error),
        }
    }
}

/// How a session ends.
enum Ending {
    Stored(StoredFile),
    /// So many bytes of the file are in COS.
    Open {
        offset: u64,
        error: Option<CosError>,
    },
}

impl Resumable<'_> {
    /// Appends the bytes of `source` at the session's offset. `body`: how many bytes the source has, if that is known.
    ///
    /// Full parts are sent while the next one is read. Where the source ends, or fails, the rest becomes the tail; what
    /// a source gives before its error counts as received. The object is completed when all bytes of the file are there.
    /// Bytes beyond the file's length are an error before any of them is sent. Nothing is written any more once another
    /// session has begun. The future may be dropped at any time; what was not written by then is lost.
    pub async fn append(
        &self,
        upload: &ResumableUpload,
        session: Session,
        source: Source,
        body: Option<u64>,
        share: Arc<Share>,
    ) -> Appended {
        let Session { watch, parts, crc64, length, offset, tail, charge } = session;
        let append = Append {
            resumable: self,
            upload,
            watch,
            before: parts,
            crc64_before: crc64,
            offset,
            length,
        };
        if let Err(error) = append.check_length(offset, body.unwrap_or(0)) {
            return append.ended(0, Err(error.into()));
        }
        let buffered = offset - append.before.size();
        let body = body.map(|body| FileLength::Known(buffered + body));
        let source = with_tail(tail, charge, source);
        append.run(FileParts::new(source, body, share)).await
    }
}

impl Append<'_> {
    async fn run(&self, file: FileParts) -> Appended {
        let parts = ApiUpload {
            is_key_unique: false,
            client: self.resumable.client.clone(),
            upstream: self.resumable.upstream,
            key: &self.upload.key,
            fields: ObjectFields::default(),
            verify: self.resumable.verify,
            observe: self.resumable.observe,
        };
        let mut sending = SendingParts::default();
        let mut began = self.before.count();
        let result = self.send_full_parts(&parts, &file, &mut sending, &mut began).await;
        // What COS is still receiving belongs to the result, unless it may not be written any more.
        let confirmed = match &result {
            Err(AppendError::Superseded) => Ok(()),
            _ => sending.confirm().await.map_err(AppendError::from),
        };
        let mut sent = sending.into_sent();
        let full = sent.len() as u32;
        let mut result = match (result, confirmed) {
            (Ok(rest), Ok(())) => self.send_rest(&parts, rest, &mut sent).await,
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        };
        if let Err(AppendError::Cos(error)) = &result {
            if let CosError::Integrity { .. } = error {
                self.discard_parts(self.before.count() + full + 1..=began).await;
            } else if error.is_refused_as("NoSuchUpload") {
                result = self.completed_by_another().await;
            }
        }
        self.ended(full, result)
    }

    /// Sends all parts of full size. `began` becomes the number of the last one that COS may have received.
    async fn send_full_parts<'s>(
        &'s self,
        parts: &'s ApiUpload<'s>,
        file: &FileParts,
        sending: &mut SendingParts<'s>,
        began: &mut u32,
    ) -> Result<Rest, AppendError> {
        let ResumableUpload { upload_id, part_size, .. } = self.upload;
        for number in self.before.count() + 1.. {
            let part = Rc::new(file.next(*part_size, *part_size));
            let read = sending.poll_while(async { Ok(file.collect(&part).await) }).await?;
            if let Err(error) = read {
                return Ok(Rest::received(part, error)?);
            }
            let length = file.length_of(&part).ok_or(CosError::OutOfMemory)?;
            self.check_length(u64::from(number - 1) * part_size, length)?;
            if length < *part_size {
                return Ok(Rest { part, length, error: None });
            }
            let check = async { Ok(self.watch.check_if_old(self.resumable).await) };
            sending.poll_while(check).await??;
            *began = number;
            let send = parts.send_part(part.clone(), number, length, upload_id);
            match sending.begin(send, || part.relay.known_length().is_some()).await {
                Err(error @ CosError::Source(_)) => {
                    return Ok(Rest::received(part, error)?);
                }
                result => result?,
            }
        }
        Err(CosError::OutOfMemory.into())
    }

    /// Sends what is left as the file's last part, and completes the object; or else as the tail.
    async fn send_rest(
        &self,
        parts: &ApiUpload<'_>,
        mut rest: Rest,
        sent: &mut Vec<SentPart>,
    ) -> Result<Ending, AppendError> {
        let size = self.full_size(sent);
        loop {
            self.check_length(size, rest.length)?;
            let is_complete = rest.error.is_none() && self.length == Some(size + rest.length);
            let result = match is_complete {
                true => self.complete(parts, &rest, sent).await,
                false => {
                    let offset = self.write_tail(&rest, sent).await;
                    offset.map(|offset| Ending::Open { offset, error: None })
                }
            };
            match result {
                // For lack of memory it was sent while it arrived: what was received becomes the tail.
                Err(AppendError::Cos(error @ CosError::Source(_))) if rest.error.is_none() => {
                    rest = Rest::received(rest.part, error)?;
                }
                Ok(Ending::Open { offset, error }) => {
                    return Ok(Ending::Open { offset, error: error.or(rest.error) });
                }
                // That the source has failed matters more than that its last bytes are lost.
                Err(AppendError::Cos(error)) => {
                    return Err(rest.error.unwrap_or(error).into());
                }
                result => return result,
            }
        }
    }

    /// Sends the last part, and puts all parts together.
    async fn complete(
        &self,
        parts: &ApiUpload<'_>,
        rest: &Rest,
        sent: &mut Vec<SentPart>,
    ) -> Result<Ending, AppendError> {
        let number = self.before.count() + sent.len() as u32 + 1;
        // An upload without a part cannot be completed.
        if rest.length > 0 || number == 1 {
            self.watch.check_if_old(self.resumable).await?;
            let (part, id) = (rest.part.clone(), &self.upload.upload_id);
            sent.push(parts.send_part(part, number, rest.length, id).await?);
        }
        self.watch.check(self.resumable).await?;
        let crc64 = joined(self.crc64_before, sent);
        let of_before = self.before.iter().map(|part| SentPart {
            number: part.number,
            size: part.size,
            crc64: 0,
            is_verified: false,
            etag: part.etag.clone(),
        });
        let all: Vec<_> = of_before.chain(sent.drain(..)).collect();
        match self.resumable.complete(self.upload, &all, crc64).await {
            Ok(file) => Ok(Ending::Stored(file)),
            Err(error) => match self.discard_replaced(&all, &error).await {
                Some(offset) => Ok(Ending::Open { offset, error: Some(error) }),
                None => Err(error.into()),
            },
        }
    }

    /// Completing has failed with `error`. If that was because COS has other parts than `known`, which a late request of
    /// an earlier session may have replaced, those do not count any more. Returns the offset then.
    async fn discard_replaced(&self, known: &[SentPart], error: &CosError) -> Option<u64> {
        if !error.is_refused_as("InvalidPart") {
            return None;
        }
        let ResumableUpload { key, upload_id, .. } = self.upload;
        let listed = self.resumable.client.list_all_parts(key, upload_id).await.ok()?;
        let is_same = |part: &SentPart| {
            let listed = listed.get(part.number as usize - 1);
            listed.is_some_and(|listed| {
                listed.number == part.number && listed.etag.eq_ignore_ascii_case(&part.etag)
            })
        };
        let replaced: Vec<_> =
            known.iter().filter(|part| !is_same(part)).map(|part| part.number).collect();
        let first = *replaced.first()?;
        self.discard_parts(replaced.into_iter()).await;
        // The tail of the session before is still there.
        let is_first = first == self.before.count() + 1;
        Some(if is_first { self.offset } else { u64::from(first - 1) * self.upload.part_size })
    }

    /// Writes the tail, if that is a gain; returns the offset.
    async fn write_tail(&self, rest: &Rest, sent: &[SentPart]) -> Result<u64, AppendError> {
        let offset = self.full_size(sent) + rest.length;
        if offset <= self.offset {
            return Ok(self.offset);
        }
        self.watch.check(self.resumable).await?;
        let number = (self.before.count() + sent.len() as u32 + 1).to_string();
        let crc64 = joined(self.crc64_before, sent).map(|crc64| crc64.to_string());
        let crc64 = crc64.as_deref().map(|crc64| (tail::CRC64, crc64));
        let named = [(tail::PART, number.as_str()), (tail::SESSION, self.watch.session())];
        let metadata: Vec<_> = named.into_iter().chain(crc64).collect();
        let key = tail::key(&self.upload.id);
        let upload = ApiUpload {
            is_key_unique: false,
            client: self.resumable.client.clone(),
            upstream: self.resumable.upstream,
            key: &key,
            fields: ObjectFields { metadata: &metadata, ..ObjectFields::default() },
            verify: self.resumable.verify,
            observe: self.resumable.observe,
        };
        let head = Head::Put { length: rest.length };
        let result = upload.send(&rest.part, rest.length, head).await;
        if let Err(CosError::Integrity { .. }) = &result
            && let Err(error) = self.resumable.client.delete(&key).await
        {
            tracing::error!(key, %error, "a tail with wrong bytes could not be deleted");
        }
        result?;
        Ok(offset)
    }

    /// Makes parts not count whose bytes COS has received wrongly: they get another size.
    async fn discard_parts(&self, numbers: impl Iterator<Item = u32>) {
        let ResumableUpload { key, upload_id, .. } = self.upload;
        for number in numbers {
            let Resumable { client, observe, .. } = self.resumable;
            let replace = || client.upload_part(key, upload_id, number, b"-");
            let replaced = match self.watch.check(self.resumable).await {
                Ok(()) => {
                    retried(key, *observe, replace).await.map(drop).map_err(AppendError::from)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = replaced {
                tracing::error!(key, number, %error, "a part with wrong bytes could not be replaced");
            }
        }
    }

    /// COS no longer knows the upload: another session has completed it, or it was aborted.
    async fn completed_by_another(&self) -> Result<Ending, AppendError> {
        let object = self.resumable.object(self.upload).await?.ok_or(AppendError::Superseded)?;
        let crc64 = object.crc64.and_then(|crc64| crc64.parse().ok());
        Ok(Ending::Stored(StoredFile { size: object.size, crc64, verified_by: None }))
    }

    /// Bytes of the full parts, `sent` are those of this session.
    fn full_size(&self, sent: &[SentPart]) -> u64 {
        self.before.size() + sent.len() as u64 * self.upload.part_size
    }

    /// Whether the file may have `more` bytes after the first `size`.
    fn check_length(&self, size: u64, more: u64) -> Result<(), CosError> {
        let most = u64::from(MAX_PARTS) * self.upload.part_size;
        let declared = self.length.unwrap_or(most).min(most);
        match size.saturating_add(more) {
            got if got > declared => Err(CosError::LengthMismatch { declared, got }),
            _ => Ok(()),
        }
    }

    /// `sent`: full parts that this session has sent.
    fn ended(&self, sent: u32, result: Result<Ending, AppendError>) -> Appended {
        let (offset, error) = match result {
            Ok(Ending::Stored(file)) => {
                return Appended { offset: file.size, stored: Some(file), error: None };
            }
            Ok(Ending::Open { offset, error }) => (offset, error.map(AppendError::from)),
            Err(error) => (self.offset_without_tail(sent), Some(error)),
        };
        let most = self.length.map_or(u64::MAX, |length| length.saturating_sub(1));
        Appended { offset: offset.min(most), stored: None, error }
    }

    /// The offset if this session has sent full parts but has written no tail.
    fn offset_without_tail(&self, sent: u32) -> u64 {
        let part_size = self.upload.part_size;
        let size = self.before.size() + u64::from(sent) * part_size;
        match (sent, self.length == Some(size)) {
            (0, false) | (1, true) => self.offset,
            (_, false) => size,
            // Parts that end at the file's end do not count before it is complete.
            (_, true) => size.saturating_sub(part_size),
        }
    }
}

/// The bytes of a tail, and what follows them. `charge` is that of the tail.
fn with_tail(tail: Vec<Bytes>, charge: Charge, source: Source) -> Source {
    let tail = tail.into_iter().map(move |bytes| {
        let _charged = &charge;
        Ok(FileEvent::Content(bytes))
    });
    Box::pin(stream::iter(tail).chain(source))
}
