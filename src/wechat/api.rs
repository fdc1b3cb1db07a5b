//! WeChat's `/tcb` calls: with a token, within a time, tried again where that may help.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use awc::error::SendRequestError;
use awc::http::header::CONTENT_TYPE;
use awc::{Client, ClientRequest};
use moka::Expiry;
use moka::future::Cache;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::WechatError;
use super::token::Tokens;
use super::wire::{self, Envelope, UploadLink};

/// A reply may be this long.
const REPLY_LIMIT: usize = 1024 * 1024;
/// A call that failed in passing is made at most this often in all.
const ATTEMPTS: u32 = 3;
/// How long a download URL is asked for, and how long before its end it is given to nobody any more.
const LINK_LIFE: Duration = Duration::from_secs(2 * 60 * 60);
const LINK_MARGIN: Duration = Duration::from_secs(5 * 60);
/// Download links kept in memory, about 500 bytes each.
const LINKS_KEPT: u64 = 100_000;

/// What all workers share.
pub struct Shared {
    base_url: String,
    env: String,
    timeout: Duration,
    tokens: Tokens,
    /// `cloud://ENV.BUCKET/`, once it is known.
    prefix: RwLock<Option<String>>,
    links: Cache<String, DownloadLink>,
}

impl Shared {
    /// `base_url` without a trailing slash; `timeout` for one call.
    pub fn new(
        base_url: String,
        env: String,
        timeout: Duration,
        tokens: Tokens,
        prefix: Option<String>,
    ) -> Arc<Self> {
        let links = Cache::builder().max_capacity(LINKS_KEPT).expire_after(LinkLife).build();
        let prefix = RwLock::new(prefix);
        Arc::new(Self { base_url, env, timeout, tokens, prefix, links })
    }
}

/// A temporary address of one file.
#[derive(Debug, Clone)]
pub struct DownloadLink {
    pub url: String,
    /// Not to be given out after this.
    pub usable_until: Instant,
}

struct LinkLife;

impl Expiry<String, DownloadLink> for LinkLife {
    fn expire_after_create(
        &self,
        _: &String,
        link: &DownloadLink,
        now: Instant,
    ) -> Option<Duration> {
        Some(link.usable_until.saturating_duration_since(now))
    }
}

/// A worker's way to WeChat.
#[derive(Clone)]
pub struct Wechat {
    http: Client,
    shared: Arc<Shared>,
}

impl Wechat {
    /// `http` belongs to the worker, the rest to all.
    pub fn new(http: Client, shared: Arc<Shared>) -> Self {
        Self { http, shared }
    }

    /// Whether a token can be had.
    pub async fn ready(&self) -> Result<(), WechatError> {
        self.shared.tokens.get(&self.http).await.map(drop)
    }

    /// A link to upload `path` with. Asking stores nothing.
    pub async fn upload_link(&self, path: &str) -> Result<UploadLink, WechatError> {
        let body = wire::UploadFileRequest { env: &self.shared.env, path };
        let link: UploadLink = self.call("uploadfile", &body).await?;
        self.learn_prefix(&link, path);
        Ok(link)
    }

    /// A download link for `path`, from the cache or by one call; `None` when there is no such file.
    pub async fn download_link(&self, path: &str) -> Result<Option<DownloadLink>, WechatError> {
        let file_id = self.file_id(path).await?;
        if let Some(link) = self.shared.links.get(&file_id).await {
            return Ok(Some(link));
        }
        let file = wire::DownloadItem { fileid: &file_id, max_age: LINK_LIFE.as_secs() };
        let body = wire::BatchDownloadRequest { env: &self.shared.env, file_list: vec![file] };
        let asked = Instant::now();
        let reply: wire::BatchDownloadReply = self.call("batchdownloadfile", &body).await?;
        let Some(file) = reply.file_list.into_iter().next() else {
            return Err(unusable("batchdownloadfile", "it names no file"));
        };
        if wire::is_missing(file.status, &file.errmsg) {
            return Ok(None);
        }
        if file.status != 0 {
            return Err(refused("batchdownloadfile", file.status, &file.errmsg));
        }
        // It becomes a redirect's target.
        if !file.download_url.starts_with("http") || file.download_url.contains(char::is_control) {
            return Err(unusable("batchdownloadfile", "its download_url is no URL"));
        }
        let usable_until = asked + (LINK_LIFE - LINK_MARGIN);
        let link = DownloadLink { url: file.download_url, usable_until };
        self.shared.links.insert(file_id, link.clone()).await;
        Ok(Some(link))
    }

    /// Deletes `file_id`; a file that was gone already is fine.
    pub async fn delete(&self, file_id: &str) -> Result<(), WechatError> {
        self.shared.links.invalidate(file_id).await;
        let body = wire::BatchDeleteRequest { env: &self.shared.env, fileid_list: &[file_id] };
        let reply: wire::BatchDeleteReply = self.call("batchdeletefile", &body).await?;
        match reply.delete_list.into_iter().next() {
            Some(wire::DeleteResult::Item { status, errmsg })
                if status != 0 && !wire::is_missing(status, &errmsg) =>
            {
                Err(refused("batchdeletefile", status, &errmsg))
            }
            _ => Ok(()),
        }
    }

    /// Forgets the cached download link of a file that is being replaced.
    pub async fn forget_link(&self, file_id: &str) {
        self.shared.links.invalidate(file_id).await;
    }

    /// `cloud://ENV.BUCKET/PATH`. The bucket is known from any upload link; before the first one, a link is asked for.
    async fn file_id(&self, path: &str) -> Result<String, WechatError> {
        let known = self.shared.prefix.read().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(prefix) => Ok(format!("{prefix}{path}")),
            None => Ok(self.upload_link(path).await?.file_id),
        }
    }

    fn learn_prefix(&self, link: &UploadLink, path: &str) {
        let known = self.shared.prefix.read().unwrap_or_else(PoisonError::into_inner).is_some();
        if known {
            return;
        }
        if let Some(prefix) = link.file_id.strip_suffix(path).filter(|prefix| prefix.ends_with('/'))
        {
            let mut slot = self.shared.prefix.write().unwrap_or_else(PoisonError::into_inner);
            *slot = Some(prefix.to_owned());
        }
    }

    async fn call<R: DeserializeOwned>(
        &self,
        call: &'static str,
        body: &impl Serialize,
    ) -> Result<R, WechatError> {
        let body = serde_json::to_vec(body).map_err(|_| unusable(call, "its request"))?;
        let mut token_refused = false;
        let mut attempt = 1;
        loop {
            let token = self.shared.tokens.get(&self.http).await?;
            let url = format!("{}/tcb/{call}", self.shared.base_url);
            let request = self
                .http
                .post(url)
                .query(&[("access_token", token.expose_secret())])
                .map_err(|_| unusable(call, "its URL"))?;
            match exchange(call, request, Some(body.clone()), self.shared.timeout).await {
                Err(WechatError::Refused { errcode, .. })
                    if wire::is_bad_token(errcode) && !token_refused =>
                {
                    tracing::info!(call, errcode, "access token refused, fetching another");
                    token_refused = true;
                    self.shared.tokens.reject(&token).await;
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

/// Sends one request and reads its reply, all of it within `limit`.
pub(super) async fn exchange<R: DeserializeOwned>(
    call: &'static str,
    request: ClientRequest,
    body: Option<Vec<u8>>,
    limit: Duration,
) -> Result<R, WechatError> {
    let work = async {
        let request = request.timeout(limit);
        let sent = match body {
            Some(body) => request.insert_header((CONTENT_TYPE, "application/json")).send_body(body),
            None => request.send(),
        };
        let unreachable = |cause: String| WechatError::Unreachable { call, cause };
        let mut reply = sent.await.map_err(|error| match error {
            SendRequestError::Timeout => WechatError::Timeout { call, limit },
            error => unreachable(without_url(&error)),
        })?;
        let status = reply.status();
        if !status.is_success() {
            return Err(unreachable(format!("HTTP status {}", status.as_u16())));
        }
        let bytes = reply
            .body()
            .limit(REPLY_LIMIT)
            .await
            .map_err(|error| unreachable(format!("reading the reply: {error}")))?;
        let envelope: Envelope =
            serde_json::from_slice(&bytes).map_err(|_| unusable(call, "it is no JSON object"))?;
        if envelope.errcode != 0 {
            return Err(refused(call, envelope.errcode, &envelope.errmsg));
        }
        serde_json::from_slice(&bytes).map_err(|_| unusable(call, "a field is missing"))
    };
    timeout(limit, work).await.map_err(|_| WechatError::Timeout { call, limit })?
}

/// awc's errors do not name the URL, which holds the secret or the token; this keeps it so by naming the kind only.
fn without_url(error: &SendRequestError) -> String {
    use SendRequestError as E;
    match error {
        E::Connect(cause) => format!("connecting: {cause}"),
        E::Send(cause) => format!("sending: {cause}"),
        E::Response(cause) => format!("reading the reply's head: {cause}"),
        E::Url(_) => "its URL is invalid".to_owned(),
        _ => "the request failed".to_owned(),
    }
}

fn refused(call: &'static str, errcode: i64, errmsg: &str) -> WechatError {
    let message = errmsg.chars().filter(|character| !character.is_control()).take(512).collect();
    WechatError::Refused { call, errcode, message }
}

fn unusable(call: &'static str, cause: &'static str) -> WechatError {
    WechatError::Unusable { call, cause }
}
