//! Download links that are still good, in memory: by file, and by the life they were asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::Expiry;
use moka::future::Cache;

use super::FileError;

/// How long before its end a link is given to nobody any more; of a short life, a tenth.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// Files whose links are kept, about 500 bytes each.
const FILES: u64 = 100_000;
/// Links of different lives that are kept of one file.
const LIVES: usize = 4;

/// A temporary address of one file.
#[derive(Debug, Clone)]
pub struct DownloadLink {
    pub url: String,
    /// As it was asked for; the life of a link that WeChat does not tell.
    pub max_age: Duration,
    pub expires_at: Timestamp,
    /// Not to be given out after this.
    pub usable_until: Instant,
}

impl DownloadLink {
    /// A link that was asked for at `asked`.
    pub(super) fn new(url: String, max_age: Duration, asked: Instant) -> Self {
        let left = max_age.saturating_sub(asked.elapsed());
        let now = Timestamp::now();
        let usable_until = asked + (max_age - MARGIN.min(max_age / 10));
        Self { url, max_age, expires_at: now.checked_add(left).unwrap_or(now), usable_until }
    }

    fn is_usable(&self) -> bool {
        Instant::now() < self.usable_until
    }
}

type Kept = Arc<Vec<DownloadLink>>;

/// The cache; shared by all workers. Failures are never in it.
pub(super) struct Links {
    kept: Cache<String, Kept>,
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

impl Links {
    pub fn new() -> Self {
        Self { kept: Cache::builder().max_capacity(FILES).expire_after(Life).build() }
    }

    pub async fn get(&self, file_id: &str, max_age: Duration) -> Option<DownloadLink> {
        find(&self.kept.get(file_id).await?, max_age)
    }

    /// The link, or what `fetch` gives; whoever asks for the same file meanwhile waits for that.
    pub async fn get_or(
        &self,
        file_id: &str,
        max_age: Duration,
        fetch: impl AsyncFn() -> Result<DownloadLink, FileError>,
    ) -> Result<DownloadLink, FileError> {
        let init = async { fetch().await.map(|link| Arc::new(vec![link])) };
        let kept = self.kept.try_get_with(file_id.to_owned(), init).await;
        match find(&kept.map_err(|error: Arc<FileError>| (*error).clone())?, max_age) {
            Some(link) => Ok(link),
            // Kept is one of another life.
            None => {
                let link = fetch().await?;
                self.put(file_id, link.clone()).await;
                Ok(link)
            }
        }
    }

    pub async fn put(&self, file_id: &str, link: DownloadLink) {
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
    }

    pub async fn forget(&self, file_id: &str) {
        self.kept.invalidate(file_id).await;
    }
}

fn find(links: &[DownloadLink], max_age: Duration) -> Option<DownloadLink> {
    links.iter().find(|link| link.max_age == max_age && link.is_usable()).cloned()
}
