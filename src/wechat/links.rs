//! The cache of download links: by file, and by the lifetime that was requested for them; in this gateway's memory, and in
//! Redis where it is set.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::Expiry;
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use super::error::FileError;
use super::shared_links::{NewLink, SharedLinks};

/// A link is not given out in its last minutes, or in the last tenth of a short lifetime.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// A link is cached no longer than this, whatever lifetime was requested: WeChat documents no longer one.
const MAX_CACHED: Duration = Duration::from_secs(24 * 60 * 60);
/// In bytes, of cached links.
const LINKS_CAPACITY: u64 = 64 * 1024 * 1024;
/// In bytes, of each of the caches `in_flight` and `invalidated`.
const BOOKKEEPING_CAPACITY: u64 = 8 * 1024 * 1024;
/// In bytes: what an entry costs besides its content, for the cache's own bookkeeping and the entry's allocations.
const OVERHEAD: usize = 256;
/// At most this many links of one file are cached, each with another lifetime.
const LIFETIMES_PER_FILE: usize = 4;
/// In bytes, of a download URL: it becomes the value of a `Location` header.
const MAX_URL: usize = 8 * 1024;
/// No call for links takes longer than this.
const MAX_CALL: Duration = Duration::from_secs(5 * 60);

/// A request for one file's download link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkRequest {
    pub file_id: String,
    /// In whole seconds.
    pub max_age: Duration,
}

/// A temporary URL of one file.
#[derive(Debug, Clone)]
pub struct DownloadLink {
    pub url: String,
    /// The lifetime that was requested; WeChat does not return the one it granted.
    pub max_age: Duration,
    pub expires_at: Timestamp,
    /// The link must not be given out after this.
    pub usable_until: Instant,
    requested: Instant,
}

impl DownloadLink {
    /// A link from a call that began at `requested`.
    pub(super) fn new(url: String, max_age: Duration, requested: Instant) -> Self {
        let now = Timestamp::now();
        let left = max_age.saturating_sub(requested.elapsed());
        let expires_at = now.checked_add(left).unwrap_or(now);
        let cached = max_age.min(MAX_CACHED);
        let usable_until = requested + (cached - MARGIN.min(cached / 10));
        Self { url, max_age, expires_at, usable_until, requested }
    }

    /// A link that another gateway has fetched, and that may be given out for `usable`. `None`: it is no link, or Redis has
    /// kept it too long.
    fn from_shared(url: String, max_age: Duration, usable: Duration) -> Option<Self> {
        let cached = max_age.min(MAX_CACHED);
        let elapsed = (cached - MARGIN.min(cached / 10)).checked_sub(usable)?;
        let requested = Instant::now().checked_sub(elapsed)?;
        is_url(&url).then(|| Self::new(url, max_age, requested))
    }

    fn is_usable(&self) -> bool {
        Instant::now() < self.usable_until
    }
}

/// Whether a `download_url` can be the target of a redirect.
pub(super) fn is_url(url: &str) -> bool {
    url.starts_with("http")
        && url.len() <= MAX_URL
        && !url.contains(|c: char| c.is_control() || c == ' ')
}

/// The bytes of an entry with `content` bytes in it.
fn weight(content: usize) -> u32 {
    u32::try_from(OVERHEAD + content).unwrap_or(u32::MAX)
}

/// One file's cached links, each with another lifetime.
type FileLinks = Arc<Vec<DownloadLink>>;

/// The cache; shared by all workers. It never contains failures.
pub(super) struct LinkCache {
    links: Cache<String, FileLinks>,
    /// Calls in flight, so that concurrent requests for the same link share one call.
    in_flight: Cache<LinkRequest, DownloadLink>,
    /// When a file was replaced or deleted: a link that was requested before that must not be cached afterwards.
    invalidated: Cache<String, Instant>,
    /// The number of calls in flight for links of any file.
    fetches: AtomicUsize,
    /// `None`: links are not shared with other gateways.
    shared: Option<SharedLinks>,
}

/// A call for links is in flight: exists from before the call until after [`LinkCache::insert`] of its links.
pub(super) struct FetchGuard<'a>(&'a AtomicUsize);

impl Drop for FetchGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// An entry expires when none of its links is usable.
struct LastUsable;

impl LastUsable {
    fn expires_in(links: &FileLinks, now: Instant) -> Option<Duration> {
        let last = links.iter().map(|link| link.usable_until).max();
        Some(last.map_or(Duration::ZERO, |last| last.saturating_duration_since(now)))
    }
}

impl Expiry<String, FileLinks> for LastUsable {
    fn expire_after_create(&self, _: &String, links: &FileLinks, now: Instant) -> Option<Duration> {
        Self::expires_in(links, now)
    }

    fn expire_after_update(
        &self,
        _: &String,
        links: &FileLinks,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Self::expires_in(links, now)
    }
}

impl LinkCache {
    pub fn new(shared: Option<SharedLinks>) -> Self {
        let size = |file_id: &String, links: &FileLinks| {
            let urls: usize = links.iter().map(|link| link.url.len() + size_of_val(link)).sum();
            weight(file_id.len() + urls)
        };
        Self {
            links: Cache::builder()
                .weigher(size)
                .max_capacity(LINKS_CAPACITY)
                .expire_after(LastUsable)
                .build(),
            in_flight: Cache::builder()
                .weigher(|request: &LinkRequest, link: &DownloadLink| {
                    weight(request.file_id.len() + link.url.len())
                })
                .max_capacity(BOOKKEEPING_CAPACITY)
                .time_to_live(MAX_CALL)
                .build(),
            // The default policy would refuse to remember new ones while many others were asked for.
            invalidated: Cache::builder()
                .eviction_policy(EvictionPolicy::lru())
                .weigher(|file_id: &String, _: &Instant| weight(file_id.len()))
                .max_capacity(BOOKKEEPING_CAPACITY)
                .time_to_live(MAX_CALL)
                .build(),
            fetches: AtomicUsize::new(0),
            shared,
        }
    }

    /// Must be called before each call for links.
    pub fn begin_fetch(&self) -> FetchGuard<'_> {
        self.fetches.fetch_add(1, SeqCst);
        FetchGuard(&self.fetches)
    }

    pub async fn get(&self, request: &LinkRequest) -> Option<DownloadLink> {
        let links = self.links.get(&request.file_id).await?;
        links.iter().find(|link| link.max_age == request.max_age && link.is_usable()).cloned()
    }

    /// The links of `requests` that other gateways share, in their order; they are cached here, too. The [`FetchGuard`] of
    /// the call that would otherwise fetch them must exist.
    pub async fn shared_by_others(&self, requests: &[LinkRequest]) -> Vec<Option<DownloadLink>> {
        let (Some(shared), false) = (&self.shared, requests.is_empty()) else {
            return vec![None; requests.len()];
        };
        let files: Vec<_> =
            requests.iter().map(|request| (request.file_id.as_str(), request.max_age)).collect();
        let mut links = Vec::with_capacity(files.len());
        for (request, found) in requests.iter().zip(shared.read(&files).await) {
            let link = found
                .and_then(|link| DownloadLink::from_shared(link.url, request.max_age, link.usable));
            if let Some(link) = &link {
                self.insert(&request.file_id, link.clone()).await;
            }
            links.push(link);
        }
        links
    }

    /// Tells the other gateways of links that were fetched. Nothing waits for it.
    pub fn share(&self, links: Vec<(String, DownloadLink)>) {
        let Some(shared) = self.shared.clone().filter(|_| !links.is_empty()) else { return };
        tokio::spawn(async move {
            let now = Instant::now();
            let links = links.iter().map(|(file_id, link)| NewLink {
                file_id,
                url: &link.url,
                max_age: link.max_age,
                age: now - link.requested,
                usable: link.usable_until.saturating_duration_since(now),
            });
            shared.share(&links.collect::<Vec<_>>()).await;
        });
    }

    /// The cached link, the one that other gateways share, or the result of `fetch`. Concurrent calls for the same link
    /// share one call.
    pub async fn get_or_fetch(
        &self,
        request: &LinkRequest,
        fetch: impl AsyncFnOnce() -> Result<DownloadLink, FileError>,
    ) -> Result<DownloadLink, FileError> {
        if let Some(link) = self.get(request).await {
            return Ok(link);
        }
        let fetch_and_insert = async {
            let _guard = self.begin_fetch();
            if let Some(link) =
                self.shared_by_others(std::slice::from_ref(request)).await.pop().flatten()
            {
                return Ok(link);
            }
            let link = fetch().await?;
            self.insert(&request.file_id, link.clone()).await;
            self.share(vec![(request.file_id.clone(), link.clone())]);
            Ok(link)
        };
        let link = self.in_flight.try_get_with_by_ref(request, fetch_and_insert).await;
        self.in_flight.invalidate(request).await;
        link.map_err(|error: Arc<FileError>| (*error).clone())
    }

    /// Caches a link, unless its file was invalidated after the link was requested. The [`FetchGuard`] of the call that
    /// brought the link must still exist.
    pub async fn insert(&self, file_id: &str, link: DownloadLink) {
        let requested = link.requested;
        let others = |links: &FileLinks| {
            let others =
                links.iter().filter(|other| other.is_usable() && other.max_age != link.max_age);
            others.take(LIFETIMES_PER_FILE - 1).cloned().collect::<Vec<_>>()
        };
        self.links
            .entry(file_id.to_owned())
            .and_upsert_with(|entry| {
                let mut links = vec![link.clone()];
                links.extend(entry.map_or_else(Vec::new, |entry| others(entry.value())));
                std::future::ready(Arc::new(links))
            })
            .await;
        // The check comes after the insertion: an invalidation that comes after the check removes the inserted link.
        if self.invalidated.get(file_id).await.is_some_and(|at| at >= requested) {
            self.links.invalidate(file_id).await;
        }
    }

    /// Drops the links of files, here and then for the other gateways. Only a call in flight can bring a link that was
    /// requested before now, so the time is recorded only while there is one: a record for each upload would take memory
    /// for all uploads of [`MAX_CALL`].
    pub async fn invalidate(&self, file_ids: &[String]) {
        for file_id in file_ids {
            if self.fetches.load(SeqCst) > 0 {
                self.invalidated.insert(file_id.clone(), Instant::now()).await;
            }
            self.links.invalidate(file_id).await;
        }
        if let (Some(shared), false) = (&self.shared, file_ids.is_empty()) {
            shared.invalidate(file_ids).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn invalidations_and_links_have_a_bound_in_bytes() {
        let links = LinkCache::new(None);
        let guard = links.begin_fetch();
        let long = "x".repeat(800);
        for n in 0..20_000 {
            links.invalidate(&[format!("cloud://env.bucket/{long}{n}")]).await;
        }
        links.invalidated.run_pending_tasks().await;
        assert!(links.invalidated.weighted_size() <= BOOKKEEPING_CAPACITY);
        assert!(links.invalidated.weighted_size() > BOOKKEEPING_CAPACITY / 2);
        drop(guard);
        let url = format!("https://cos/{}", "x".repeat(8000));
        for n in 0..10_000 {
            let link = DownloadLink::new(url.clone(), Duration::from_secs(7200), Instant::now());
            links.insert(&format!("cloud://env.bucket/{long}{n}"), link).await;
        }
        links.links.run_pending_tasks().await;
        assert!(links.links.weighted_size() <= LINKS_CAPACITY);
    }
}
