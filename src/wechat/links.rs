//! Download links that are still good, in memory: by file, and by the life they were asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::Expiry;
use moka::future::Cache;

use super::error::FileError;

/// How long before its end a link is given to nobody any more; of a short life, a tenth.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// Whatever was asked for, a link is kept for no longer: that WeChat gives longer lives is not documented.
const LONGEST_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Memory for links,
const CAPACITY: u64 = 64 * 1024 * 1024;
/// for calls under way, and for notes of files that were replaced.
const NOTES: u64 = 8 * 1024 * 1024;
/// What an entry costs beside what is in it: the cache's own bookkeeping, and the entry's allocations.
const OVERHEAD: usize = 256;
/// LinkCache of different lives that are kept of one file.
const LIVES: usize = 4;
/// No call for links takes as long.
const LONGEST_CALL: Duration = Duration::from_secs(5 * 60);

/// A file whose download link is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub file_id: String,
    /// In whole seconds.
    pub max_age: Duration,
}

/// A temporary address of one file.
#[derive(Debug, Clone)]
pub struct DownloadLink {
    pub url: String,
    /// As it was asked for; the life of a link that WeChat does not tell.
    pub max_age: Duration,
    pub expires_at: Timestamp,
    /// Not to be given out after this.
    pub usable_until: Instant,
    asked: Instant,
}

impl DownloadLink {
    /// A link that was asked for at `asked`.
    pub(super) fn new(url: String, max_age: Duration, asked: Instant) -> Self {
        let now = Timestamp::now();
        let expires_at = now.checked_add(max_age.saturating_sub(asked.elapsed())).unwrap_or(now);
        let kept = max_age.min(LONGEST_KEPT);
        let usable_until = asked + (kept - MARGIN.min(kept / 10));
        Self { url, max_age, expires_at, usable_until, asked }
    }

    fn is_usable(&self) -> bool {
        Instant::now() < self.usable_until
    }
}

/// In bytes.
fn weight(content: usize) -> u32 {
    u32::try_from(OVERHEAD + content).unwrap_or(u32::MAX)
}

type Kept = Arc<Vec<DownloadLink>>;

/// The cache; shared by all workers. Failures are never in it.
pub(super) struct LinkCache {
    kept: Cache<String, Kept>,
    /// Calls under way, so that many who want the same link make one.
    flights: Cache<Wanted, DownloadLink>,
    /// When a file was replaced or deleted: a link that was asked for before that must not come back.
    forgotten: Cache<String, Instant>,
    /// Calls for links of any file under way.
    asking: AtomicUsize,
}

/// A call for links, from before it is made until its links are [`LinkCache::put`].
pub(super) struct Asking<'a>(&'a AtomicUsize);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

struct Life;

impl Life {
    fn of(links: &Kept, now: Instant) -> Option<Duration> {
        let ends = links.iter().map(|link| link.usable_until).max();
        Some(ends.map_or(Duration::ZERO, |ends| ends.saturating_duration_since(now)))
    }
}

impl Expiry<String, Kept> for Life {
    fn expire_after_create(&self, _: &String, links: &Kept, now: Instant) -> Option<Duration> {
        Self::of(links, now)
    }

    fn expire_after_update(
        &self,
        _: &String,
        links: &Kept,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Self::of(links, now)
    }
}

impl LinkCache {
    pub fn new() -> Self {
        let size = |file_id: &String, links: &Kept| {
            let urls: usize = links.iter().map(|link| link.url.len() + size_of_val(link)).sum();
            weight(file_id.len() + urls)
        };
        Self {
            kept: Cache::builder().weigher(size).max_capacity(CAPACITY).expire_after(Life).build(),
            flights: Cache::builder()
                .weigher(|wanted: &Wanted, link: &DownloadLink| {
                    weight(wanted.file_id.len() + link.url.len())
                })
                .max_capacity(NOTES)
                .time_to_live(LONGEST_CALL)
                .build(),
            forgotten: Cache::builder()
                .weigher(|file_id: &String, _: &Instant| weight(file_id.len()))
                .max_capacity(NOTES)
                .time_to_live(LONGEST_CALL)
                .build(),
            asking: AtomicUsize::new(0),
        }
    }

    /// A call for links begins.
    pub fn asking(&self) -> Asking<'_> {
        self.asking.fetch_add(1, SeqCst);
        Asking(&self.asking)
    }

    pub async fn get(&self, wanted: &Wanted) -> Option<DownloadLink> {
        let links = self.kept.get(&wanted.file_id).await?;
        links.iter().find(|link| link.max_age == wanted.max_age && link.is_usable()).cloned()
    }

    /// The link, or what `fetch` gives; whoever asks for the same one meanwhile waits for that.
    pub async fn get_or(
        &self,
        wanted: &Wanted,
        fetch: impl AsyncFnOnce() -> Result<DownloadLink, FileError>,
    ) -> Result<DownloadLink, FileError> {
        if let Some(link) = self.get(wanted).await {
            return Ok(link);
        }
        let flight = async {
            let _asking = self.asking();
            let link = fetch().await?;
            self.put(&wanted.file_id, link.clone()).await;
            Ok(link)
        };
        let link = self.flights.try_get_with_by_ref(wanted, flight).await;
        self.flights.invalidate(wanted).await;
        link.map_err(|error: Arc<FileError>| (*error).clone())
    }

    /// Keeps a link; the call that brought it is still [`Self::asking`].
    pub async fn put(&self, file_id: &str, link: DownloadLink) {
        let asked = link.asked;
        let others = |links: &Kept| {
            let others =
                links.iter().filter(|kept| kept.is_usable() && kept.max_age != link.max_age);
            others.take(LIVES - 1).cloned().collect::<Vec<_>>()
        };
        self.kept
            .entry(file_id.to_owned())
            .and_upsert_with(|entry| {
                let mut links = vec![link.clone()];
                links.extend(entry.map_or_else(Vec::new, |entry| others(entry.value())));
                std::future::ready(Arc::new(links))
            })
            .await;
        // Forgotten while it was asked for; whoever forgets it from now on finds it in its place.
        if self.forgotten.get(file_id).await.is_some_and(|at| at >= asked) {
            self.kept.invalidate(file_id).await;
        }
    }

    /// Drops a file's links. Only a call under way can bring back what is older than now, so without one nothing is noted:
    /// a note for each upload would be memory for as many as a few minutes bring.
    pub async fn forget(&self, file_id: &str) {
        if self.asking.load(SeqCst) > 0 {
            self.forgotten.insert(file_id.to_owned(), Instant::now()).await;
        }
        self.kept.invalidate(file_id).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_and_links_have_a_bound_in_bytes() {
        let links = LinkCache::new();
        let asking = links.asking();
        let long = "x".repeat(800);
        for n in 0..20_000 {
            links.forget(&format!("cloud://env.bucket/{long}{n}")).await;
        }
        links.forgotten.run_pending_tasks().await;
        assert!(links.forgotten.weighted_size() <= NOTES);
        assert!(links.forgotten.weighted_size() > NOTES / 2);
        drop(asking);
        let url = format!("https://cos/{}", "x".repeat(8000));
        for n in 0..10_000 {
            let link = DownloadLink::new(url.clone(), Duration::from_secs(7200), Instant::now());
            links.put(&format!("cloud://env.bucket/{long}{n}"), link).await;
        }
        links.kept.run_pending_tasks().await;
        assert!(links.kept.weighted_size() <= CAPACITY);
    }
}
