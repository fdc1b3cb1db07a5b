//! The resumable uploads of which something is kept. Shared by all workers; one request at a time writes to an upload.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Mutex as AsyncMutex;

use super::SpoolError;
use super::content::Content;
use super::folder::{FileName, SpoolFolder};
use super::memory::MemoryFile;
use crate::memory::budget::{Budget, Charge, Share};

/// Uploads that are kept at most. Each takes some 300 bytes besides its content.
const MAX_UPLOADS: u64 = 10_000;
/// Stored files that are remembered at most, so that a client whose response was lost is told again. Each takes less
/// than 2 KiB.
const MAX_STORED: u64 = 10_000;
/// An upload in memory is given up when no request has continued it for so long: memory is scarcer than disks.
const MEMORY_IDLE: Duration = Duration::from_secs(600);

/// All uploads.
pub struct Uploads<T> {
    folder: Option<Arc<SpoolFolder>>,
    expire_after: Duration,
    /// Counts uploads.
    slots: Arc<Budget>,
    /// Bytes of all uploads together.
    quota: Arc<Budget>,
    kept: Mutex<Kept>,
    stored: Cache<[u8; 16], Arc<T>>,
}

#[derive(Default)]
struct Kept {
    uploads: HashMap<[u8; 16], Arc<Upload>>,
    /// Of clients with uploads, by their id.
    shares: HashMap<String, Shares>,
}

/// What a client uses; it ends with the client's last upload.
struct Shares {
    slots: Weak<Share>,
    quota: Weak<Share>,
}

/// An upload whose bytes are being received.
pub struct Upload {
    /// Bytes of the whole file.
    pub length: u64,
    received: AtomicU64,
    /// Unix time in seconds.
    expires: AtomicI64,
    is_in_memory: bool,
    /// `None`: it was stored, or has ended.
    content: AsyncMutex<Option<Content>>,
    _slot: Charge,
}

impl<T: Send + Sync + 'static> Uploads<T> {
    /// With a `folder`, files are kept there, otherwise in at most `memory` bytes of memory.
    pub fn new(folder: Option<Arc<SpoolFolder>>, memory: u64, expire_after: Duration) -> Self {
        // The default policy would refuse to remember new ones while many others were asked for.
        let stored = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(MAX_STORED)
            .time_to_live(expire_after)
            .build();
        let slots = Budget::new(MAX_UPLOADS);
        let in_folder = folder.as_ref().map(|folder| folder.quota().clone());
        let quota = in_folder.unwrap_or_else(|| Budget::new(memory));
        Self { folder, expire_after, slots, quota, kept: Mutex::default(), stored }
    }

    /// Takes up what an earlier process has left in the folder, and deletes what has expired. Unless `can_continue`, no
    /// client can name those uploads any more, and all are deleted. Returns how many were taken up.
    pub fn restore(&self, can_continue: bool) -> io::Result<usize> {
        let Some(folder) = &self.folder else {
            return Ok(0);
        };
        let now = Timestamp::now().as_second();
        let keeps = |name: &FileName| can_continue && name.expires > now;
        let mut kept = self.lock();
        for (FileName { id, length, expires }, file) in folder.restore(keeps)? {
            let mut slot = Charge::new(Share::new(self.slots.clone()));
            let mut content = Content::File(file);
            if slot.grow(1).is_err() {
                // More than there can be.
                continue;
            }
            let received = content.length().min(length.saturating_sub(1));
            content.shorten_now(received)?;
            let upload = Upload {
                length,
                received: received.into(),
                expires: expires.into(),
                is_in_memory: false,
                content: AsyncMutex::new(Some(content)),
                _slot: slot,
            };
            kept.uploads.insert(id, Arc::new(upload));
        }
        Ok(kept.uploads.len())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder, if there is one.
    pub fn folder(&self) -> Option<&Arc<SpoolFolder>> {
        self.folder.as_ref()
    }

    /// Bytes of the largest file that one client can ever send.
    pub fn max_length(&self) -> u64 {
        self.quota.most_of_one_client()
    }

    /// Whether files are kept in memory.
    pub fn is_in_memory(&self) -> bool {
        self.folder.is_none()
    }

    /// Begins an upload of `length` bytes, for all of which there is room. `client`: its id; `memory`: its share.
    pub fn create(
        &self,
        id: [u8; 16],
        length: u64,
        client: &str,
        memory: Arc<Share>,
    ) -> Result<Arc<Upload>, SpoolError> {
        let expires = self.expiry();
        let mut kept = self.lock();
        let (slots, quota) = kept.shares_of(client, &self.slots, &self.quota);
        let mut slot = Charge::new(slots);
        slot.grow(1)?;
        let content = match &self.folder {
            Some(folder) => Content::File(folder.create(&FileName { id, length, expires }, quota)?),
            None => Content::Memory(MemoryFile::new(length, quota, memory)?),
        };
        let upload = Arc::new(Upload {
            length,
            received: 0.into(),
            expires: expires.into(),
            is_in_memory: self.folder.is_none(),
            content: AsyncMutex::new(Some(content)),
            _slot: slot,
        });
        kept.uploads.insert(id, upload.clone());
        Ok(upload)
    }

    fn expiry(&self) -> i64 {
        let keep = match &self.folder {
            Some(_) => self.expire_after,
            None => self.expire_after.min(MEMORY_IDLE),
        };
        (Timestamp::now() + keep).as_second()
    }

    /// An upload that has not expired, or that a request is writing to.
    pub fn get(&self, id: &[u8; 16]) -> Option<Arc<Upload>> {
        let now = Timestamp::now().as_second();
        let is_alive = |upload: &&Arc<Upload>| upload.expires() > now || upload.is_in_use();
        self.lock().uploads.get(id).filter(is_alive).cloned()
    }

    /// What [`Self::set_stored`] was told.
    pub fn stored(&self, id: &[u8; 16]) -> Option<Arc<T>> {
        self.stored.get(id)
    }

    /// An upload in memory was continued: it is kept longer.
    pub fn touch(&self, upload: &Upload) {
        if upload.is_in_memory {
            upload.expires.store(self.expiry(), Ordering::Relaxed);
        }
    }

    /// The file is stored; its content is released.
    pub fn set_stored(&self, id: [u8; 16], file: T) {
        self.stored.insert(id, Arc::new(file));
        self.lock().uploads.remove(&id);
    }

    /// Ends an upload. Its content is released once no request uses it any more.
    pub fn end(&self, id: &[u8; 16]) -> Option<Arc<Upload>> {
        self.stored.invalidate(id);
        self.lock().uploads.remove(id)
    }

    /// Ends the uploads that have expired and that no request is writing to. Returns how many.
    pub async fn end_expired(&self) -> usize {
        let now = Timestamp::now().as_second();
        let expired: Vec<_> = {
            let mut kept = self.lock();
            let is_expired = |upload: &Upload| upload.expires() <= now && !upload.is_in_use();
            kept.uploads.extract_if(|_, upload| is_expired(upload)).collect()
        };
        for (_, upload) in &expired {
            upload.remove_content().await;
        }
        expired.len()
    }
}

impl Kept {
    fn shares_of(
        &mut self,
        client: &str,
        slots: &Arc<Budget>,
        quota: &Arc<Budget>,
    ) -> (Arc<Share>, Arc<Share>) {
        let known = self.shares.get(client);
        let known_slots = known.and_then(|shares| shares.slots.upgrade());
        let known_quota = known.and_then(|shares| shares.quota.upgrade());
        let slots = known_slots.unwrap_or_else(|| Share::new(slots.clone()));
        let quota = known_quota.unwrap_or_else(|| Share::new(quota.clone()));
        self.shares.retain(|_, shares| shares.slots.strong_count() > 0);
        let shares = Shares { slots: Arc::downgrade(&slots), quota: Arc::downgrade(&quota) };
        self.shares.insert(client.to_owned(), shares);
        (slots, quota)
    }
}

impl Upload {
    /// Bytes of the file that need not be sent again: fewer than [`Self::length`], since the file is not stored.
    pub fn offset(&self) -> u64 {
        self.received.load(Ordering::Relaxed).min(self.length.saturating_sub(1))
    }

    /// Unix time in seconds.
    pub fn expires(&self) -> i64 {
        self.expires.load(Ordering::Relaxed)
    }

    /// Whether a request is writing to it.
    fn is_in_use(&self) -> bool {
        self.content.try_lock().is_err()
    }

    /// The content, for one request at a time; `None` once the upload has ended.
    pub async fn content(&self) -> tokio::sync::MutexGuard<'_, Option<Content>> {
        self.content.lock().await
    }

    pub fn set_received(&self, received: u64) {
        self.received.store(received, Ordering::Relaxed);
    }

    /// Releases the content.
    pub async fn remove_content(&self) {
        if let Some(content) = self.content.lock().await.take()
            && let Err(error) = content.remove().await
        {
            tracing::error!(%error, "a file of the spool could not be deleted");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::file_stream::{FileEnd, FileEvent, Source};

    const ID: [u8; 16] = [7; 16];

    fn source(content: &'static [u8]) -> Source {
        let end = FileEnd { last: true, epilogue: Bytes::new() };
        let events = [FileEvent::Content(Bytes::from_static(content)), FileEvent::End(end)];
        Box::pin(futures::stream::iter(events.map(Ok)))
    }

    fn uploads(folder: Option<Arc<SpoolFolder>>) -> Uploads<&'static str> {
        Uploads::new(folder, 1000, Duration::from_secs(3600))
    }

    fn memory(bytes: u64) -> Arc<Share> {
        Share::new(Budget::new(bytes))
    }

    /// In memory, uploads use a quarter of the budget; a client has three quarters of that, and of the places.
    #[tokio::test]
    async fn there_are_bounds() {
        let uploads = uploads(None);
        let budget = Budget::new(4000);
        let share = || Share::new(budget.clone());
        assert_eq!(uploads.max_length(), 750);
        assert!(uploads.create([1; 16], 751, "a", share()).is_err());
        let first = uploads.create([1; 16], 600, "a", share()).unwrap();
        // Its memory is the client's still, though no request of it runs.
        assert!(uploads.create([2; 16], 151, "a", share()).is_err());
        assert!(uploads.create([2; 16], 401, "b", share()).is_err());
        uploads.create([2; 16], 300, "b", share()).unwrap();
        uploads.end(&[1; 16]);
        uploads.end(&[2; 16]);
        drop(first);
        assert_eq!(budget.used(), 0);

        let id = |number: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&number.to_be_bytes());
            id
        };
        let share = memory(4000);
        let of_one =
            (0..).take_while(|number| uploads.create(id(*number), 0, "one", share.clone()).is_ok());
        assert_eq!(of_one.count(), 7500);
        let of_another = (10_000..)
            .take_while(|number| uploads.create(id(*number), 0, "another", share.clone()).is_ok());
        assert_eq!(of_another.count(), 1875);
        assert!(uploads.create(id(20_000), 0, "third", share.clone()).is_ok());
        assert_eq!(uploads.lock().shares.len(), 3);
    }

    #[tokio::test]
    async fn uploads_end_when_they_expire_unless_a_request_writes_to_them() {
        let uploads = uploads(None);
        let upload = uploads.create(ID, 10, "a", memory(1000)).unwrap();
        assert!(upload.expires() <= Timestamp::now().as_second() + 600);
        upload.expires.store(0, Ordering::Relaxed);
        assert!(uploads.get(&ID).is_none());
        let content = upload.content().await;
        assert!(uploads.get(&ID).is_some());
        assert_eq!(uploads.end_expired().await, 0);
        drop(content);
        assert_eq!(uploads.end_expired().await, 1);
        assert!(upload.content().await.is_none());
        // One that is continued is kept.
        let upload = uploads.create(ID, 10, "a", memory(1000)).unwrap();
        upload.expires.store(1, Ordering::Relaxed);
        uploads.touch(&upload);
        assert_eq!(uploads.end_expired().await, 0);
        uploads.set_stored(ID, "stored");
        assert!(uploads.get(&ID).is_none() && uploads.stored(&ID).is_some());
    }

    /// However many there were before, and however often these were asked for.
    #[test]
    fn what_was_stored_last_is_known() {
        let uploads = uploads(None);
        let id = |number: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            id
        };
        for number in 0..2 * MAX_STORED {
            uploads.set_stored(id(number), "stored");
            for before in [0, 1, 100] {
                let known = number.saturating_sub(before);
                assert!(uploads.stored(&id(known)).is_some(), "{known} after {number}");
            }
        }
    }

    /// The offset is less than the length, also of a file that was complete when the process was killed.
    #[tokio::test]
    async fn files_outlive_the_process() {
        let path = tempfile::tempdir().unwrap();
        let open = || Some(Arc::new(SpoolFolder::open(path.path(), 1000).unwrap()));
        let names = || std::fs::read_dir(path.path()).unwrap().count() - 1;
        {
            let uploads = uploads(open());
            for (id, content) in [(ID, &b"0123456789"[..]), ([8; 16], &b"0123"[..])] {
                let upload = uploads.create(id, 10, "a", memory(0)).unwrap();
                let mut kept = upload.content().await;
                let kept = kept.as_mut().unwrap();
                kept.receive(source(content), |len| upload.set_received(len)).await.unwrap();
            }
            let expired = uploads.create([9; 16], 10, "a", memory(0)).unwrap();
            expired.expires.store(0, Ordering::Relaxed);
            assert_eq!((uploads.get(&ID).unwrap().offset(), names()), (9, 3));
        }
        {
            let uploads = uploads(open());
            assert_eq!(uploads.restore(true).unwrap(), 3);
            assert_eq!(uploads.folder().unwrap().used(), 30);
            let offset = |id| uploads.get(&id).unwrap().offset();
            assert_eq!((offset(ID), offset([8; 16]), offset([9; 16])), (9, 4, 0));
            let upload = uploads.get(&ID).unwrap();
            let mut kept = upload.content().await;
            let kept = kept.as_mut().unwrap();
            kept.receive(source(b"9"), drop).await.unwrap();
            let mut events: Vec<_> = futures::StreamExt::collect(kept.source()).await;
            let Some(Ok(FileEvent::Content(bytes))) = events.drain(..).next() else {
                panic!("no content");
            };
            assert_eq!(bytes, &b"0123456789"[..]);
        }
        // Nothing could name them.
        let uploads = uploads(open());
        assert_eq!((uploads.restore(false).unwrap(), names()), (0, 0));
    }
}
