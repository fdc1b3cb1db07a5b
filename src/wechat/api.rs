//! WeChat's `/tcb` calls: with a token, within a time, tried again where that may help; for any number of files, 50 to
//! a call.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use moka::future::Cache;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::auth::ApiAuth;
use super::error::{FileError, WechatError};
use super::links::{DownloadLink, LinkCache, Wanted};
use super::reply::exchange;
use super::transport::{BaseUrl, Transport, with_query};
use super::wire::{self, UploadLink};
use crate::metrics::Metrics;

/// A call that failed in passing is made at most this often in all.
const ATTEMPTS: u32 = 3;
/// What WeChat takes in one call (the vendor's documents of both batch calls).
const FILES_PER_CALL: usize = 50;
/// How long a download link is asked for where nobody says.
pub const LINK_LIFE: Duration = Duration::from_secs(2 * 60 * 60);

/// In bytes; it becomes a header's value.
const LONGEST_URL: usize = 8 * 1024;

/// The call that every upload makes.
const UPLOAD_LINK: &str = "uploadfile";

/// The path that a link is asked for to learn what file ids begin with. Never one that a request names: WeChat might not
/// take that, and the next request would ask again.
const PROBE: &str = "probe";

/// What all workers share.
pub struct WechatState {
    address: Option<BaseUrl>,
    env: String,
    timeout: Duration,
    access: ApiAuth,
    /// `cloud://ENV.BUCKET/`, where the settings name it.
    prefix: Option<String>,
    /// The same, once it is learned; many who need it ask once.
    learned: Cache<(), Arc<str>>,
    links: LinkCache,
    metrics: Arc<Metrics>,
}

impl WechatState {
    /// `base_url` without a trailing slash; `timeout` for one call.
    pub fn new(
        base_url: &str,
        env: String,
        timeout: Duration,
        access: ApiAuth,
        prefix: Option<String>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (learned, links) = (Cache::new(1), LinkCache::new());
        let address = BaseUrl::of(base_url);
        Arc::new(Self { address, env, timeout, access, prefix, learned, links, metrics })
    }

    /// How calls are let in.
    pub fn access(&self) -> &ApiAuth {
        &self.access
    }
}

/// A worker's way to WeChat.
#[derive(Clone)]
pub struct Wechat {
    transport: Transport,
    shared: Arc<WechatState>,
}

impl Wechat {
    /// `direct` belongs to the worker, the rest to all.
    pub fn new(transport: Transport, shared: Arc<WechatState>) -> Self {
        Self { transport, shared }
    }

    /// The environment of the settings.
    pub fn env(&self) -> &str {
        &self.shared.env
    }

    /// Whether a file id may be of our environment, as far as can be told without asking: its bucket may be another's.
    pub fn may_be_own(&self, file_id: &str) -> bool {
        let WechatState { prefix, env, .. } = &*self.shared;
        match prefix {
            Some(prefix) => file_id.starts_with(prefix.as_str()),
            None => file_id
                .strip_prefix("cloud://")
                .and_then(|rest| rest.strip_prefix(env.as_str()))
                .is_some_and(|rest| rest.starts_with('.')),
        }
    }

    /// Whether a call can be made: what it shows of who we are can be had.
    pub async fn ready(&self) -> Result<(), WechatError> {
        self.shared.access.pass(&self.transport).await.map(drop)
    }

    /// A link to upload `path` with. Asking stores nothing.
    pub async fn upload_link(&self, path: &str) -> Result<UploadLink, WechatError> {
        self.upload_link_in(self.env(), path).await
    }

    /// The same in another environment of the app's.
    pub async fn upload_link_in(&self, env: &str, path: &str) -> Result<UploadLink, WechatError> {
        let link: UploadLink =
            self.call(UPLOAD_LINK, &wire::UploadFileRequest { env, path }).await?;
        if env == self.shared.env
            && self.shared.prefix.is_none()
            && !self.shared.learned.contains_key(&())
            && let Some(prefix) = prefix_of(&link, path)
        {
            self.shared.learned.insert((), prefix).await;
        }
        Ok(link)
    }

    /// A download link for one file, from the cache or by a call that all who want it share.
    pub async fn download_link(&self, wanted: &Wanted) -> Result<DownloadLink, FileError> {
        let fetch = async || {
            let mut links = self.fetch_links(self.env(), std::slice::from_ref(wanted)).await;
            links.pop().unwrap_or_else(|| Err(nameless("batchdownloadfile").into()))
        };
        self.shared.links.get_or(wanted, fetch).await
    }

    /// Download links in the order of `wanted`: what is not in the cache (or all, where none but `fresh` ones will do)
    /// is asked for once, 50 files to a call, all calls at the same time.
    pub async fn download_links(
        &self,
        env: &str,
        wanted: &[Wanted],
        fresh: bool,
    ) -> Vec<Result<DownloadLink, FileError>> {
        let mut known = HashMap::new();
        let mut missing = Vec::new();
        for file in wanted {
            if known.contains_key(file) {
                continue;
            }
            let link = if fresh { None } else { self.shared.links.get(file).await };
            if link.is_none() {
                missing.push(file.clone());
            }
            known.insert(file, link.map(Ok));
        }
        let _asking = self.shared.links.asking();
        let calls = missing.chunks(FILES_PER_CALL).map(|files| self.fetch_links(env, files));
        let fetched: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
        for (file, link) in missing.iter().zip(fetched) {
            if let Ok(link) = &link {
                self.shared.links.put(&file.file_id, link.clone()).await;
            }
            known.insert(file, Some(link));
        }
        let link = |file| known.get(file).cloned().flatten();
        let unnamed = || Err(nameless("batchdownloadfile").into());
        wanted.iter().map(|file| link(file).unwrap_or_else(unnamed)).collect()
    }

    /// Asks for at most 50 files; one result for each, in their order.
    async fn fetch_links(
        &self,
        env: &str,
        wanted: &[Wanted],
    ) -> Vec<Result<DownloadLink, FileError>> {
        const CALL: &str = "batchdownloadfile";
        let items = wanted.iter().map(|file| wire::DownloadItem {
            fileid: &file.file_id,
            max_age: file.max_age.as_secs(),
        });
        let body = wire::BatchDownloadRequest { env, file_list: items.collect() };
        let asked = Instant::now();
        let reply: wire::BatchDownloadReply = match self.call(CALL, &body).await {
            Ok(reply) => reply,
            Err(error) => return wanted.iter().map(|_| Err(error.clone().into())).collect(),
        };
        let ids = wanted.iter().map(|file| file.file_id.as_str()).collect::<Vec<_>>();
        let results = by_file(&ids, reply.file_list, |result| &result.fileid);
        let mode = self.shared.access.mode();
        let link = |(file, result): (&Wanted, Option<wire::DownloadResult>)| {
            let result = result.ok_or_else(|| nameless(CALL))?;
            if result.status != 0 {
                return Err(FileError::refused(result.status, &result.errmsg, mode));
            }
            // It becomes a redirect's target.
            let url = result.download_url;
            if !url.starts_with("http")
                || url.len() > LONGEST_URL
                || url.contains(|c: char| c.is_control() || c == ' ')
            {
                let cause = "a download_url is no URL";
                return Err(WechatError::Unusable { call: CALL, cause }.into());
            }
            Ok(DownloadLink::new(url, file.max_age, asked))
        };
        wanted.iter().zip(results).map(link).collect()
    }

    /// Deletes files, 50 to a call, all calls at the same time; each named twice is deleted once. That a file is not
    /// there is an error of its own ([`FileError::is_missing`]).
    pub async fn delete(&self, env: &str, file_ids: &[String]) -> Vec<Result<(), FileError>> {
        let mut unique: Vec<&str> = file_ids.iter().map(String::as_str).collect();
        unique.sort_unstable();
        unique.dedup();
        let calls = unique.chunks(FILES_PER_CALL).map(|ids| self.delete_call(env, ids));
        let results: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
        let results: HashMap<_, _> = unique.into_iter().zip(results).collect();
        let result = |id: &String| results.get(id.as_str()).cloned();
        let unnamed = || Err(nameless("batchdeletefile").into());
        file_ids.iter().map(|id| result(id).unwrap_or_else(unnamed)).collect()
    }

    /// Deletes one file; one that was gone already is fine.
    pub async fn delete_one(&self, file_id: &str) -> Result<(), FileError> {
        let result = self.delete(self.env(), &[file_id.to_owned()]).await.pop();
        match result.unwrap_or_else(|| Err(nameless("batchdeletefile").into())) {
            Err(error) if error.is_missing() => Ok(()),
            result => result,
        }
    }

    async fn delete_call(&self, env: &str, ids: &[&str]) -> Vec<Result<(), FileError>> {
        const CALL: &str = "batchdeletefile";
        let body = wire::BatchDeleteRequest { env, fileid_list: ids };
        // Whatever comes of it, and whether or not anybody waits for that: a link that leads nowhere is worse than one
        // that is asked for again.
        for id in ids {
            self.forget_link(id).await;
        }
        let reply: Result<wire::BatchDeleteReply, _> = self.call(CALL, &body).await;
        for id in ids {
            self.forget_link(id).await;
        }
        let list = match reply {
            Ok(reply) => reply.delete_list,
            Err(error) => return ids.iter().map(|_| Err(error.clone().into())).collect(),
        };
        // A reply that says nothing of single files says that all went well.
        if list.is_empty() {
            return ids.iter().map(|_| Ok(())).collect();
        }
        let results = by_file(ids, list, wire::DeleteResult::file_id);
        let mode = self.shared.access.mode();
        let done = |result: Option<wire::DeleteResult>| match result {
            Some(wire::DeleteResult::Id(_) | wire::DeleteResult::Item { status: 0, .. }) => Ok(()),
            Some(wire::DeleteResult::Item { status, errmsg, .. }) => {
                Err(FileError::refused(status, &errmsg, mode))
            }
            None => Err(nameless(CALL).into()),
        };
        results.into_iter().map(done).collect()
    }

    /// Forgets the cached download links of a file that is being replaced.
    pub async fn forget_link(&self, file_id: &str) {
        self.shared.links.forget(file_id).await;
    }

    /// `cloud://ENV.BUCKET/PATH`. The bucket is known from any upload link; before the first one, a link is asked for.
    pub async fn file_id(&self, path: &str) -> Result<String, WechatError> {
        let WechatState { prefix, learned, .. } = &*self.shared;
        if let Some(prefix) = prefix {
            return Ok(format!("{prefix}{path}"));
        }
        let probe = async {
            let link = self.upload_link(PROBE).await.map_err(Probe::Failed)?;
            prefix_of(&link, PROBE).ok_or(Probe::Odd)
        };
        match learned.try_get_with((), probe).await {
            Ok(prefix) => Ok(format!("{prefix}{path}")),
            Err(probe) => match &*probe {
                Probe::Failed(error) => Err(error.clone()),
                // Ids of no known form: each is asked for.
                Probe::Odd => Ok(self.upload_link(path).await?.file_id),
            },
        }
    }

    async fn call<R: DeserializeOwned>(
        &self,
        call: &'static str,
        body: &impl Serialize,
    ) -> Result<R, WechatError> {
        let WechatState { address, access, metrics, .. } = &*self.shared;
        let unusable = |cause| WechatError::Unusable { call, cause };
        let body = serde_json::to_vec(body).map_err(|_| unusable("its request"))?;
        let invalid = || WechatError::Unreachable { call, cause: "its URL is invalid".to_owned() };
        let address = address.as_ref().ok_or_else(invalid)?;
        let path = ["/tcb/", call].concat();
        let mut token_refused = false;
        let mut attempt = 1;
        loop {
            let pass = access.pass(&self.transport).await?;
            let path = with_query(&path, pass.parameter().as_slice());
            let (mode, limit) = (access.mode(), self.shared.timeout);
            let result = if call == UPLOAD_LINK {
                let sent = pin!(self.transport.post_at_once(address, &path, &body));
                exchange(call, mode, sent, limit).await
            } else {
                let sent = Box::pin(self.transport.post(address, &path, &body));
                exchange(call, mode, pin!(sent), limit).await
            };
            metrics.wechat(call, result.as_ref().map_or_else(WechatError::class, |_| "ok"));
            match result {
                Err(WechatError::Refused { errcode, .. })
                    if wire::is_bad_token(errcode)
                        && !token_refused
                        // Rare, and large: every upload would make room for it.
                        && Box::pin(access.reject(&pass)).await =>
                {
                    tracing::info!(call, errcode, "access token refused, trying another");
                    token_refused = true;
                }
                Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                    let pause =
                        Duration::from_millis(100 << attempt).mul_f64(0.5 + fastrand::f64());
                    tracing::info!(call, %error, ?pause, "trying again");
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }
}

/// Why the prefix of file ids is not known.
enum Probe {
    Failed(WechatError),
    /// The link's file id does not end with the path.
    Odd,
}

/// What precedes `path` in a link's file id.
fn prefix_of(link: &UploadLink, path: &str) -> Option<Arc<str>> {
    let prefix = link.file_id.strip_suffix(path)?;
    let place = prefix.strip_prefix("cloud://")?.strip_suffix('/')?;
    (!place.contains('/')).then(|| Arc::from(prefix))
}

/// Finds each asked file's answer: by its place where the id there is the file's own or none, otherwise by its id.
fn by_file<R>(asked: &[&str], answers: Vec<R>, id: impl Fn(&R) -> &str) -> Vec<Option<R>> {
    let in_order = asked.len() == answers.len()
        && asked
            .iter()
            .zip(&answers)
            .all(|(asked, answer)| matches!(id(answer), i if i.is_empty() || i == *asked));
    if in_order {
        return answers.into_iter().map(Some).collect();
    }
    let mut by_id: HashMap<String, R> =
        answers.into_iter().map(|answer| (id(&answer).to_owned(), answer)).collect();
    asked.iter().map(|asked| by_id.remove(*asked)).collect()
}

fn nameless(call: &'static str) -> WechatError {
    WechatError::Unusable { call, cause: "it does not name a file that was asked for" }
}

#[cfg(test)]
mod tests {
    use super::by_file;

    #[test]
    fn answers_find_their_files_in_any_order_and_without_ids() {
        let found = |answers: &[(&'static str, u32)]| {
            by_file(&["a", "b"], answers.to_vec(), |answer| answer.0)
                .into_iter()
                .map(|answer| answer.map(|answer| answer.1))
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&[("a", 1), ("b", 2)]), [Some(1), Some(2)]);
        assert_eq!(found(&[("", 1), ("", 2)]), [Some(1), Some(2)]);
        assert_eq!(found(&[("b", 2), ("a", 1)]), [Some(1), Some(2)]);
        assert_eq!(found(&[("b", 2)]), [None, Some(2)]);
        assert_eq!(found(&[("c", 3), ("b", 2)]), [None, Some(2)]);
        assert_eq!(found(&[]), [None, None]);
    }
}
