//! How far an upload is, and sessions: one at a time may write, the one that the lease names.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::lease::{Lease, LeaseWatch};
use super::tail::{self, Tail};
use super::upload::{Completed, Progress, Resumable, ResumableUpload, StoredFile};
use crate::cos::api::multipart::Part;
use crate::cos::api::retry::retried;
use crate::cos::error::CosError;
use crate::memory::budget::{Charge, Share};

/// A tail that is replaced while it is read is read again, so often in all.
const MAX_LOADS: u32 = 3;

/// While COS puts an upload's parts together, it may know neither the upload any more nor the object yet. Before an upload
/// that has a lease counts as gone, the object is looked for again after these times.
const COMPLETING: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The result of [`Resumable::open`].
pub enum Opened {
    Session(Session),
    Stored(Completed),
    /// As [`Progress::Gone`].
    Gone,
}

/// The right to append to an upload, until another session begins.
pub struct Session {
    pub(super) watch: LeaseWatch,
    pub(super) parts: FullParts,
    /// Of `parts`, where it is known.
    pub(super) crc64: Option<u64>,
    pub(super) length: Option<u64>,
    pub(super) offset: u64,
    pub(super) tail: Vec<Bytes>,
    pub(super) charge: Charge,
}

impl Session {
    /// Bytes of the file that need not be sent again. Less than [`Self::length`], unless that was declared only now.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The file's length: the one that was declared first.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The file's bytes just before [`Self::offset`], fewer than a part has; all of them if the offset is less than a
    /// part.
    pub fn tail(&self) -> &[Bytes] {
        &self.tail
    }
}

/// The parts of an upload that count: those before the first gap, and before the first one of another size.
pub(super) struct FullParts {
    parts: Vec<Part>,
    part_size: u64,
}

/// What COS knows of an upload.
enum Known {
    Open(Vec<Part>),
    Ended(Progress),
}

impl FullParts {
    /// With the file's `length`, parts that end at its end do not count: as long as the object is not there, the offset
    /// must be less than the length, so a client sends the last bytes again, and the object can be completed.
    fn new(mut parts: Vec<Part>, part_size: u64, length: Option<u64>) -> Self {
        let counts = |(index, part): (u32, &Part)| {
            let end = u64::from(index + 1) * part_size;
            part.number == index + 1
                && part.size == part_size
                && length.is_none_or(|length| end < length)
        };
        let count = (0..).zip(&parts).take_while(|part| counts(*part)).count();
        parts.truncate(count);
        Self { parts, part_size }
    }

    pub fn count(&self) -> u32 {
        // There are at most 10,000.
        self.parts.len() as u32
    }

    pub fn size(&self) -> u64 {
        u64::from(self.count()) * self.part_size
    }

    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter()
    }

    /// Whether `tail` continues these parts.
    fn are_before(&self, tail: &Tail) -> bool {
        tail.part == self.count() + 1 && tail.size < self.part_size
    }

    /// The file's offset, with `tail` if it continues these parts; less than the file's `length`.
    fn offset(&self, tail: Option<&Tail>, length: Option<u64>) -> u64 {
        let tail = tail.filter(|tail| self.are_before(tail)).map_or(0, |tail| tail.size);
        let offset = self.size() + tail;
        length.map_or(offset, |length| offset.min(length.saturating_sub(1)))
    }
}

impl Resumable<'_> {
    /// How far an upload is. With `ends_session`, a session that is still active ends; a request to COS that it has
    /// begun may still succeed, so a later [`Self::open`] can find more.
    pub async fn progress(
        &self,
        upload: &ResumableUpload,
        ends_session: bool,
    ) -> Result<Progress, CosError> {
        if upload.upload_id.is_empty() {
            return self.ended(upload, true).await;
        }
        let (lease, mut tail) = futures::try_join!(self.lease(&upload.id), self.tail(&upload.id))?;
        let has_lease = lease.is_some();
        if let Some(lease) = lease.as_ref().filter(|lease| lease.is_active && ends_session)
            && tail.as_ref().is_none_or(|tail| tail.session.as_ref() != Some(&lease.session))
        {
            self.write_lease(&upload.id, &Lease::new(false, lease.length)).await?;
            tail = self.tail(&upload.id).await?;
        }
        let length = upload.length.or(lease.and_then(|lease| lease.length));
        let parts = match self.known(upload, has_lease).await? {
            Known::Open(parts) => FullParts::new(parts, upload.part_size, length),
            Known::Ended(progress) => return Ok(progress),
        };
        let offset = parts.offset(tail.as_ref(), length);
        // The length of an empty file would be its offset: it is declared again.
        Ok(Progress::Open { offset, length: length.filter(|length| *length > offset) })
    }

    /// Begins a session, and ends any other. `length`: the file's, if it is declared only now. It is not used if one was
    /// declared before, or if it is less than the offset: [`Session::length`] tells. The tail is charged to `share`;
    /// without memory for it, the error is [`CosError::OutOfMemory`].
    pub async fn open(
        &self,
        upload: &ResumableUpload,
        length: Option<u64>,
        share: &Arc<Share>,
    ) -> Result<Opened, CosError> {
        if upload.upload_id.is_empty() {
            return Ok(Opened::of(self.ended(upload, true).await?));
        }
        let id = &upload.id;
        let before = self.lease(id).await?;
        let had_lease = before.is_some();
        let declared = before.and_then(|lease| lease.length);
        let known_length = upload.length.or(declared);
        let mut lease = Lease::new(true, declared);
        let began = Instant::now();
        self.write_lease(id, &lease).await?;
        // Only now: what is read from here on, another session no longer changes but by a request that has begun.
        let parts = match self.known(upload, had_lease).await? {
            Known::Open(parts) => FullParts::new(parts, upload.part_size, known_length),
            Known::Ended(progress) => {
                if !matches!(&progress, Progress::Stored(completed) if !completed.is_closed) {
                    self.close(id).await;
                }
                return Ok(Opened::of(progress));
            }
        };
        let mut charge = Charge::new(share.clone());
        let (tail, mut pieces) = self.loaded_tail(id, &parts, &mut charge).await?;
        let offset = parts.offset(tail.as_ref(), known_length);
        shorten(&mut pieces, offset.saturating_sub(parts.size()));
        let crc64 = match parts.count() {
            0 => Some(0),
            _ => tail.and_then(|tail| tail.crc64_before),
        };
        let length = known_length.or(length.filter(|length| *length >= offset));
        if length != known_length {
            lease.length = length;
            self.write_lease(id, &lease).await?;
        }
        let watch = LeaseWatch::new(*id, lease.session, began);
        let session = Session { watch, parts, crc64, length, offset, tail: pieces, charge };
        Ok(Opened::Session(session))
    }

    /// The tail that continues `parts`, with its content.
    async fn loaded_tail(
        &self,
        id: &[u8; 16],
        parts: &FullParts,
        charge: &mut Charge,
    ) -> Result<(Option<Tail>, Vec<Bytes>), CosError> {
        for _ in 0..MAX_LOADS {
            let Some(tail) = self.tail(id).await?.filter(|tail| parts.are_before(tail)) else {
                return Ok((None, Vec::new()));
            };
            charge.clear();
            let size = usize::try_from(tail.size).unwrap_or(usize::MAX);
            charge.grow(size).map_err(|_| CosError::OutOfMemory)?;
            if let Some(pieces) = self.load_tail(id, &tail).await? {
                return Ok((Some(tail), pieces));
            }
        }
        // Its bytes are not those that COS says: nothing continues with them.
        let key = tail::key(id);
        tracing::warn!(key, "the tail of an upload cannot be read, and is deleted");
        self.client.delete(&key).await?;
        charge.clear();
        Ok((None, Vec::new()))
    }

    /// `had_lease`: whether a session has begun before.
    async fn known(&self, upload: &ResumableUpload, had_lease: bool) -> Result<Known, CosError> {
        let ResumableUpload { key, upload_id, .. } = upload;
        let list = || self.client.list_all_parts(key, upload_id);
        match retried(key, self.observe, list).await {
            Ok(parts) => Ok(Known::Open(parts)),
            Err(error) if error.is_refused_as("NoSuchUpload") => {
                let pauses = if had_lease { &COMPLETING[..] } else { &[] };
                for pause in pauses {
                    let ended = self.ended(upload, !had_lease).await?;
                    if ended != Progress::Gone {
                        return Ok(Known::Ended(ended));
                    }
                    sleep(*pause).await;
                }
                self.ended(upload, !had_lease).await.map(Known::Ended)
            }
            Err(error) => Err(error),
        }
    }

    /// What has become of an upload that COS no longer knows. `is_closed`: if it was completed.
    async fn ended(&self, upload: &ResumableUpload, is_closed: bool) -> Result<Progress, CosError> {
        Ok(self.object(upload).await?.map_or(Progress::Gone, |object| {
            let crc64 = object.crc64.and_then(|crc64| crc64.parse().ok());
            let file = StoredFile { size: object.size, crc64, verified_by: None };
            Progress::Stored(Completed { file, is_closed })
        }))
    }
}

impl Opened {
    fn of(ended: Progress) -> Self {
        match ended {
            Progress::Stored(completed) => Self::Stored(completed),
            Progress::Gone | Progress::Open { .. } => Self::Gone,
        }
    }
}

/// Leaves `size` bytes.
fn shorten(pieces: &mut Vec<Bytes>, size: u64) {
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    pieces.retain_mut(|piece| {
        piece.truncate(left);
        left -= piece.len();
        !piece.is_empty()
    });
}
