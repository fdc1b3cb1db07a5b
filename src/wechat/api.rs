//! WeChat's `/tcb` calls, with authentication, a time limit and retries. Calls for more than 50 files are split.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::rt;
use futures::future::join_all;
use moka::future::Cache;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use super::auth::ApiAuth;
use super::by_file::by_file;
use super::call_quota::{self, CallQuotas};
use super::error::{FileError, WechatError};
use super::links::{self, DownloadLink, LinkCache, LinkRequest};
use super::redis_probe::{RedisProbe, RedisUnavailable};
use super::response::receive;
use super::shared_links::SharedLinks;
use super::transport::{Transport, target};
use super::warm_links::WarmLinks;
use super::wire::{self, UploadLink};
use crate::metrics::Metrics;
use crate::net::http_client::base_url::BaseUrl;
use crate::net::redis::RedisServer;
use crate::settings;

/// The most files that WeChat accepts in one call (the vendor's documentation of both batch calls).
pub(super) const FILES_PER_CALL: usize = 50;
/// The lifetime of a download link where the request does not name one.
pub const DEFAULT_LINK_MAX_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// The call that every upload makes.
const UPLOAD_LINK: &str = "uploadfile";

/// The path of the upload link that is requested only to learn the prefix of file ids. It is never a path from a
/// client's request: WeChat might refuse that, and the next request would have to call again.
const PROBE: &str = "probe";

/// The state that all workers share.
pub struct WechatState {
    /// `None`: `wechat.base_url` is not a usable URL.
    base_url: Option<BaseUrl>,
    env: String,
    timeout: Duration,
    pub(super) auth: ApiAuth,
    /// `cloud://ENV.BUCKET/`, where the settings name it.
    file_id_prefix: Option<String>,
    /// The prefix as learned from an upload link; concurrent calls that need it share one probe.
    learned_prefix: Cache<(), Arc<str>>,
    links: LinkCache,
    quotas: CallQuotas,
    warm_links: WarmLinks,
    /// `None`: `redis.url` is not set, or it has the access token.
    redis_probe: Option<RedisProbe>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
}

impl WechatState {
    /// `tasks` are waited for at shutdown.
    pub fn new(
        settings: &settings::Wechat,
        auth: ApiAuth,
        file_id_prefix: Option<String>,
        redis: Option<&RedisServer>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let settings::Wechat { base_url, env, timeout, warm_links, .. } = settings;
        let shared_links = redis.map(|server| SharedLinks::new(server, env, base_url));
        let redis = redis.filter(|_| !matches!(auth, ApiAuth::Fetched(_)));
        Arc::new(Self {
            base_url: BaseUrl::parse(base_url),
            env: env.clone(),
            timeout: *timeout,
            auth,
            file_id_prefix,
            learned_prefix: Cache::new(1),
            links: LinkCache::new(shared_links),
            quotas: CallQuotas::default(),
            warm_links: WarmLinks::new(*warm_links, metrics.warm_links.clone()),
            redis_probe: redis.map(|server| RedisProbe::new(server, env, metrics.clone())),
            metrics,
            tasks,
        })
    }

    /// How calls authenticate.
    pub fn auth(&self) -> &ApiAuth {
        &self.auth
    }

    /// Whether Redis can be used at the moment; `Ok` where it is not set.
    pub async fn check_redis(&self) -> Result<(), RedisUnavailable> {
        match (&self.auth, &self.redis_probe) {
            (ApiAuth::Fetched(tokens), _) => tokens.check_sharing().await,
            (_, Some(probe)) => probe.check().await,
            (_, None) => Ok(()),
        }
    }

    pub fn warm_links(&self) -> &WarmLinks {
        &self.warm_links
    }
}

/// A worker's client of WeChat's API.
#[derive(Clone)]
pub struct Wechat {
    transport: Transport,
    pub(super) shared: Arc<WechatState>,
}

impl Wechat {
    /// `transport` belongs to the calling worker; `shared` is the same for all workers.
    pub fn new(transport: Transport, shared: Arc<WechatState>) -> Self {
        Self { transport, shared }
    }

    /// The environment of the settings.
    pub fn env(&self) -> &str {
        &self.shared.env
    }

    /// Whether a file id may belong to the gateway's environment, as far as is known without a call: where the settings
    /// do not name the bucket, any bucket of the environment passes.
    pub fn may_be_own(&self, file_id: &str) -> bool {
        let WechatState { file_id_prefix, env, .. } = &*self.shared;
        match file_id_prefix {
            Some(prefix) => file_id.starts_with(prefix.as_str()),
            None => file_id
                .strip_prefix("cloud://")
                .and_then(|rest| rest.strip_prefix(env.as_str()))
                .is_some_and(|rest| rest.starts_with('.')),
        }
    }

    /// Whether calls can be made: a token is available, or none is needed.
    pub async fn ready(&self) -> Result<(), WechatError> {
        self.shared.auth.param(&self.transport).await.map(drop)
    }

    /// A link to upload to `path`. The call itself stores nothing.
    pub async fn upload_link(&self, path: &str) -> Result<UploadLink, WechatError> {
        self.upload_link_in(self.env(), path).await
    }

    /// The links for generated paths that were asked for in advance.
    pub fn warm_links(&self) -> &WarmLinks {
        &self.shared.warm_links
    }

    /// As [`Self::upload_link`], but a failure that is not the token's is not retried.
    pub(super) async fn upload_link_once(&self, path: &str) -> Result<UploadLink, WechatError> {
        let request = wire::UploadFileRequest { env: self.env(), path };
        let link = self.call_up_to(1, UPLOAD_LINK, &request).await?;
        self.learn_prefix(&link, path).await;
        Ok(link)
    }

    pub(super) fn is_link_quota_used_up(&self, now: Instant) -> bool {
        self.shared.quotas.is_used_up(UPLOAD_LINK, now)
    }

    /// As [`Self::upload_link`], in another environment of the app.
    pub async fn upload_link_in(&self, env: &str, path: &str) -> Result<UploadLink, WechatError> {
        let link: UploadLink =
            self.call(UPLOAD_LINK, &wire::UploadFileRequest { env, path }).await?;
        if env == self.shared.env {
            self.learn_prefix(&link, path).await;
        }
        Ok(link)
    }

    async fn learn_prefix(&self, link: &UploadLink, path: &str) {
        if self.shared.file_id_prefix.is_none()
            && !self.shared.learned_prefix.contains_key(&())
            && let Some(prefix) = prefix_of(link, path)
        {
            self.shared.learned_prefix.insert((), prefix).await;
        }
    }

    /// A download link for one file: cached, or from a call that concurrent requests for the same link share.
    pub async fn download_link(&self, request: &LinkRequest) -> Result<DownloadLink, FileError> {
        let fetch = async || {
            let mut links = self.fetch_links(self.env(), std::slice::from_ref(request)).await;
            links.pop().unwrap_or_else(|| Err(no_result("batchdownloadfile").into()))
        };
        self.shared.links.get_or_fetch(request, fetch).await
    }

    /// Download links in the order of `requests`. Links that are not cached (all, where `fresh` is set) are fetched
    /// with concurrent calls of 50 files each; a request that is repeated is fetched once.
    pub async fn download_links(
        &self,
        env: &str,
        requests: &[LinkRequest],
        fresh: bool,
    ) -> Vec<Result<DownloadLink, FileError>> {
        let mut links = HashMap::new();
        let mut missing = Vec::new();
        for request in requests {
            if links.contains_key(request) {
                continue;
            }
            let link = if fresh { None } else { self.shared.links.get(request).await };
            if link.is_none() {
                missing.push(request.clone());
            }
            links.insert(request, link.map(Ok));
        }
        let _guard = self.shared.links.begin_fetch();
        let mut shared = Vec::new();
        if !fresh {
            let found = self.shared.links.shared_by_others(&missing).await;
            let asked = std::mem::take(&mut missing);
            for (request, link) in asked.into_iter().zip(found) {
                match link {
                    Some(link) => shared.push((request, link)),
                    None => missing.push(request),
                }
            }
        }
        links.extend(shared.iter().map(|(request, link)| (request, Some(Ok(link.clone())))));
        let calls = missing.chunks(FILES_PER_CALL).map(|files| self.fetch_links(env, files));
        let fetched: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
        let mut new = Vec::new();
        for (request, link) in missing.iter().zip(fetched) {
            if let Ok(link) = &link {
                self.shared.links.insert(&request.file_id, link.clone()).await;
                new.push((request.file_id.clone(), link.clone()));
            }
            links.insert(request, Some(link));
        }
        self.shared.links.share(new);
        let link = |request| links.get(request).cloned().flatten();
        let none = || Err(no_result("batchdownloadfile").into());
        requests.iter().map(|request| link(request).unwrap_or_else(none)).collect()
    }

    /// One call, for at most 50 files; returns one result for each, in their order.
    async fn fetch_links(
        &self,
        env: &str,
        requests: &[LinkRequest],
    ) -> Vec<Result<DownloadLink, FileError>> {
        const CALL: &str = "batchdownloadfile";
        let items = requests.iter().map(|request| wire::DownloadItem {
            fileid: &request.file_id,
            max_age: request.max_age.as_secs(),
        });
        let body = wire::BatchDownloadRequest { env, file_list: items.collect() };
        let requested = Instant::now();
        let reply: wire::BatchDownloadReply = match self.call(CALL, &body).await {
            Ok(reply) => reply,
            Err(error) => return requests.iter().map(|_| Err(error.clone().into())).collect(),
        };
        let ids = requests.iter().map(|request| request.file_id.as_str()).collect::<Vec<_>>();
        let results = by_file(&ids, reply.file_list, |result| &result.fileid);
        let mode = self.shared.auth.mode();
        let link = |(request, result): (&LinkRequest, Option<wire::DownloadResult>)| {
            let result = result.ok_or_else(|| no_result(CALL))?;
            if result.status != 0 {
                return Err(FileError::refused(result.status, &result.errmsg, mode));
            }
            // The URL becomes the target of a redirect.
            let url = result.download_url;
            if !links::is_url(&url) {
                let cause = "a download_url is not a URL";
                return Err(WechatError::Unusable { call: CALL, cause }.into());
            }
            Ok(DownloadLink::new(url, request.max_age, requested))
        };
        requests.iter().zip(results).map(link).collect()
    }

    /// Drops the cached download links of files that are replaced or deleted, here and in Redis. Begins at once, and runs
    /// to its end even if the returned future is dropped: a response to the client must come after it, and what must
    /// happen even if the client disconnects must not wait for it.
    pub fn invalidate_links(&self, file_ids: &[&str]) -> impl Future<Output = ()> + use<> {
        let shared = self.shared.clone();
        let file_ids: Vec<_> = file_ids.iter().map(|&id| id.to_owned()).collect();
        let dropped = async move { shared.links.invalidate(&file_ids).await };
        let running = rt::spawn(self.shared.tasks.track_future(dropped));
        // An error is a panic there, which is logged.
        async move { drop(running.await) }
    }

    /// The file id of `path` in `bucket`, whose name is known.
    pub fn file_id_in(&self, bucket: &str, path: &str) -> String {
        match &self.shared.file_id_prefix {
            Some(prefix) => format!("{prefix}{path}"),
            None => format!("cloud://{}.{bucket}/{path}", self.env()),
        }
    }

    /// `cloud://ENV.BUCKET/PATH`. Any upload link names the bucket; before the first upload, a link is requested for
    /// it.
    pub async fn file_id(&self, path: &str) -> Result<String, WechatError> {
        let WechatState { file_id_prefix, learned_prefix, .. } = &*self.shared;
        if let Some(prefix) = file_id_prefix {
            return Ok(format!("{prefix}{path}"));
        }
        let probe = async {
            let link = self.upload_link(PROBE).await.map_err(ProbeError::Call)?;
            prefix_of(&link, PROBE).ok_or(ProbeError::UnknownForm)
        };
        match learned_prefix.try_get_with((), probe).await {
            Ok(prefix) => Ok(format!("{prefix}{path}")),
            Err(error) => match &*error {
                ProbeError::Call(error) => Err(error.clone()),
                // The id of each file has to be requested.
                ProbeError::UnknownForm => Ok(self.upload_link(path).await?.file_id),
            },
        }
    }

    pub(super) async fn call<R: DeserializeOwned>(
        &self,
        call: &'static str,
        body: &impl Serialize,
    ) -> Result<R, WechatError> {
        self.call_up_to(wire::MAX_ATTEMPTS, call, body).await
    }

    async fn call_up_to<R: DeserializeOwned>(
        &self,
        max_attempts: u32,
        call: &'static str,
        body: &impl Serialize,
    ) -> Result<R, WechatError> {
        let WechatState { base_url, auth, quotas, metrics, .. } = &*self.shared;
        let unusable = |cause| WechatError::Unusable { call, cause };
        let body = serde_json::to_vec(body).map_err(|_| unusable("the request is not JSON"))?;
        let cause = || "wechat.base_url is invalid".to_owned();
        let invalid = || WechatError::Unreachable { call, cause: cause() };
        let base_url = base_url.as_ref().ok_or_else(invalid)?;
        let mut token_refused = false;
        let mut attempt = 1;
        loop {
            let param = auth.param(&self.transport).await?;
            let parameters = param.query_parameter();
            let target = target(base_url, &["/tcb/", call], parameters.as_slice());
            let (mode, limit) = (auth.mode(), self.shared.timeout);
            let result = if call == UPLOAD_LINK {
                let response = pin!(self.transport.post_unlimited(base_url, &target, &body));
                receive(call, mode, response, limit).await
            } else {
                let response = Box::pin(self.transport.post(base_url, &target, &body));
                receive(call, mode, pin!(response), limit).await
            };
            metrics.wechat(call, result.as_ref().map_or_else(WechatError::class, |_| "ok"));
            match result {
                Err(WechatError::Refused { errcode, .. })
                    if wire::is_bad_token(errcode)
                        && !token_refused
                        // Boxed because it is large and rare: it would enlarge the future of every upload.
                        && Box::pin(auth.reject(&param)).await =>
                {
                    tracing::info!(call, errcode, "access token refused, trying another one");
                    token_refused = true;
                }
                Err(error) if attempt < error.max_attempts().min(max_attempts) => {
                    let pause =
                        Duration::from_millis(100 << attempt).mul_f64(0.5 + fastrand::f64());
                    tracing::info!(call, %error, ?pause, "trying again");
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
                Ok(reply) => {
                    quotas.available(call);
                    return Ok(reply);
                }
                Err(mut error) => {
                    if let WechatError::Refused {
                        errcode: call_quota::USED_UP, retry_after, ..
                    } = &mut error
                    {
                        *retry_after = Some(quotas.refused(call, Instant::now()));
                    }
                    return Err(error);
                }
            }
        }
    }
}

/// Why the prefix of file ids is not known.
enum ProbeError {
    Call(WechatError),
    /// The link's file id is not `cloud://ENV.BUCKET/` and the path.
    UnknownForm,
}

/// What precedes `path` in a link's file id: `cloud://ENV.BUCKET/`.
fn prefix_of(link: &UploadLink, path: &str) -> Option<Arc<str>> {
    let prefix = link.file_id.strip_suffix(path)?;
    let env_and_bucket = prefix.strip_prefix("cloud://")?.strip_suffix('/')?;
    (!env_and_bucket.contains('/')).then(|| Arc::from(prefix))
}

pub(super) fn no_result(call: &'static str) -> WechatError {
    WechatError::Unusable { call, cause: "it has no result for one of the requested files" }
}
