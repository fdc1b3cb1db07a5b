//! Builds the clients for WeChat and COS from the settings.

use std::rc::Rc;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::cos_api;
use super::error::AppError;
use crate::cos::api::client;
use crate::cos::api::road::{ApiRoad, ApiSettings};
use crate::cos::api::with_link::LinkClient;
use crate::cos::error::CosError;
use crate::cos::form::Fields;
use crate::cos::target::Target;
use crate::cos::upstream::{Timeouts, Upstream};
use crate::guard::forward_auth::server::{AuthServer, ForwardState};
use crate::guard::jwks::Jwks;
use crate::guard::jwks::fetch::{self as jwks_fetch, Fetcher};
use crate::hooks::client::HookClient;
use crate::hooks::sender::{HookSender, HookState};
use crate::hooks::signature::SigningKeys;
use crate::hooks::stream::EventStream;
use crate::http::problem::Code;
use crate::metrics::Metrics;
use crate::net::http_client::base_url::BaseUrl;
use crate::net::redis::RedisServer;
use crate::settings::{CosRoad, CredentialMode, Settings};
use crate::wechat::api::{self, Wechat};
use crate::wechat::auth::ApiAuth;
use crate::wechat::token::cache::TokenCache;
use crate::wechat::token::fetch::{
    self, AuthorizedApp, ForcedRefreshQuota, TokenCall, TokenFetcher,
};
use crate::wechat::token::file::TokenFile;
use crate::wechat::token::redis::RedisTokenStore;
use crate::wechat::transport::Transport;

/// What all threads share of the clients; each thread has its own connections.
#[derive(Clone)]
pub(crate) struct Upstreams {
    tls: Arc<rustls::ClientConfig>,
    pub wechat: Arc<api::WechatState>,
    timeouts: Timeouts,
    api: Option<ApiSettings>,
    hooks: Option<(BaseUrl, SigningKeys, Arc<HookState>)>,
    forward: Option<Arc<ForwardState>>,
    /// `None`: `redis.url` is not set.
    pub redis: Option<RedisServer>,
    /// The keys of tickets that their issuer publishes.
    pub jwks: Option<Arc<Jwks>>,
    pub metrics: Arc<Metrics>,
}

impl Upstreams {
    /// `tasks` are waited for at shutdown.
    pub fn new(settings: &Settings, tasks: &TaskTracker) -> Result<Self, AppError> {
        let tls = crate::net::tls::client()?;
        let metrics = Arc::new(Metrics::new(Code::ALL.iter().map(|code| code.name()))?);
        let redis = RedisServer::new(&settings.redis)?;
        let wechat = wechat_state(settings, redis.as_ref(), &metrics, tasks);
        let timeouts = Timeouts {
            connect: settings.cos.connect_timeout,
            write: settings.cos.write_timeout,
            response: settings.cos.reply_timeout,
        };
        let api = match settings.cos.via {
            CosRoad::Form => None,
            CosRoad::Api => Some(cos_api::settings(&settings.cos, settings.wechat.timeout)?),
        };
        let hooks = hook_state(settings, redis.as_ref(), None, &metrics)?;
        let forward = forward_state(settings, &metrics)?;
        let jwks = jwks(settings, None, &metrics)?;
        Ok(Self { tls, wechat, timeouts, api, hooks, forward, redis, jwks, metrics })
    }

    /// With the back end, the auth server and the issuer of `settings`; everything else, and the queue of events, stays.
    /// `keeps_forward`: nothing that the auth server's cached decisions depend on has changed.
    pub fn reloaded(&self, settings: &Settings, keeps_forward: bool) -> Result<Self, AppError> {
        let before = self.hooks.as_ref().map(|(_, _, state)| state.as_ref());
        let hooks = hook_state(settings, self.redis.as_ref(), before, &self.metrics)?;
        let forward = match keeps_forward {
            true => self.forward.clone(),
            false => forward_state(settings, &self.metrics)?,
        };
        let jwks = jwks(settings, self.jwks.as_ref(), &self.metrics)?;
        Ok(Self { hooks, forward, jwks, ..self.clone() })
    }

    /// For connections to further servers.
    #[cfg(feature = "otlp")]
    pub fn tls(&self) -> Arc<rustls::ClientConfig> {
        self.tls.clone()
    }

    /// A client for other servers, which `doctor` asks.
    pub fn http(&self, settings: &Settings) -> awc::Client {
        http_client(settings, &self.tls)
    }

    pub fn wechat(&self, settings: &Settings) -> Wechat {
        let transport = Transport::new(self.tls.clone(), settings.wechat.connect_timeout);
        Wechat::new(transport, self.wechat.clone())
    }

    /// COS's API, if files are sent by it.
    pub fn api(&self) -> Option<Rc<ApiRoad>> {
        let settings = self.api.clone()?;
        Some(ApiRoad::new(settings, self.tls.clone(), self.timeouts))
    }

    /// For requests to COS's API with the signature of an upload link, which `doctor` makes.
    pub fn with_link<'a>(
        &self,
        target: &'a Target,
        fields: Fields<'a>,
    ) -> Result<LinkClient<'a>, CosError> {
        let pool = client::pool(self.tls.clone(), self.timeouts);
        LinkClient::new(pool, target, fields, self.timeouts)
    }

    /// The way to the owner's back end, if it is told of files.
    pub fn hooks(&self) -> Option<HookSender> {
        let (url, keys, state) = self.hooks.clone()?;
        let client = HookClient::new(self.tls.clone(), url, keys, state.timeout);
        Some(HookSender { state, client })
    }

    /// The way to the owner's auth server, if it decides about requests without a key or ticket.
    pub fn auth_server(&self) -> Option<AuthServer> {
        Some(AuthServer::new(self.tls.clone(), self.forward.clone()?))
    }

    /// As [`Self::auth_server`], and with the connections of `before` where nothing has changed.
    pub fn auth_server_after(&self, before: Option<&AuthServer>) -> Option<AuthServer> {
        let state = self.forward.as_ref()?;
        match before.filter(|before| before.has_state(state)) {
            Some(before) => Some(before.clone()),
            None => self.auth_server(),
        }
    }

    /// Begins to fetch the keys of tickets, if their issuer publishes them, and ends that of `before`, unless both are the
    /// same. Must be called on a thread of the actix system.
    pub fn start_jwks(&self, before: Option<&Arc<Jwks>>) {
        let jwks = self.jwks.as_ref();
        if jwks.map(Arc::as_ptr) == before.map(Arc::as_ptr) {
            return;
        }
        if let Some(before) = before {
            before.replaced.cancel();
        }
        if let Some(jwks) = jwks {
            jwks_fetch::start(self.tls.clone(), jwks);
        }
    }

    /// For one fetch of these keys, which `doctor` makes.
    pub fn jwks_fetcher(&self) -> Option<Fetcher> {
        Some(Fetcher::new(self.tls.clone(), self.jwks.as_ref()?))
    }

    pub fn cos(&self) -> Rc<Upstream> {
        Upstream::new(self.tls.clone(), self.timeouts)
    }
}

fn wechat_state(
    settings: &Settings,
    redis: Option<&RedisServer>,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
) -> Arc<api::WechatState> {
    let wechat = &settings.wechat;
    let app = || fetch::App { appid: wechat.appid.clone(), secret: wechat.secret.clone() };
    let call = match wechat.credential {
        CredentialMode::Secret => Some(TokenCall::Plain(app())),
        CredentialMode::Stable => Some(TokenCall::Stable(app(), ForcedRefreshQuota::default())),
        CredentialMode::Authorizer => Some(TokenCall::Authorizer(AuthorizedApp {
            component_appid: wechat.authorizer.component_appid.clone(),
            authorizer_appid: wechat.authorizer.authorizer_appid.clone(),
            component_token: TokenFile::new(&wechat.authorizer.component_token_file),
            refresh_token: wechat.authorizer.refresh_token.clone(),
            newest_refresh_token: None.into(),
        })),
        CredentialMode::Cloudbase | CredentialMode::Open => None,
    };
    let auth = match call {
        Some(call) => {
            let base_url = wechat.base_url.clone();
            let credential = TokenFetcher { call, base_url, timeout: wechat.timeout };
            let replicas =
                redis.map(|server| RedisTokenStore::new(server, &credential, metrics.clone()));
            ApiAuth::Fetched(TokenCache::new(credential, replicas, metrics.clone()))
        }
        None if wechat.credential == CredentialMode::Open => ApiAuth::Open,
        None => ApiAuth::File(TokenFile::new(&wechat.cloudbase_token_file)),
    };
    // A bucket that the settings name need not be learned from an upload link.
    let bucket = settings.cos.api.bucket.as_ref().filter(|_| settings.cos.via == CosRoad::Api);
    let prefix = match (&wechat.file_id_prefix, bucket) {
        (Some(prefix), _) => Some(format!("{prefix}/")),
        (None, Some(bucket)) => Some(format!("cloud://{}.{bucket}/", wechat.env)),
        (None, None) => None,
    };
    api::WechatState::new(wechat, auth, prefix, redis, metrics.clone(), tasks.clone())
}

/// The queue and the stream are those of `before`, if there is one.
fn hook_state(
    settings: &Settings,
    redis: Option<&RedisServer>,
    before: Option<&HookState>,
    metrics: &Arc<Metrics>,
) -> Result<Option<(BaseUrl, SigningKeys, Arc<HookState>)>, AppError> {
    let hooks = &settings.hooks;
    let Some(url) = &hooks.stored_url else {
        return Ok(None);
    };
    let url = BaseUrl::parse(url).ok_or(AppError::HookUrl)?;
    let (queue, stream) = match before {
        Some(before) => (before.queue.clone(), before.stream.clone()),
        None => {
            let stream = redis.map(|server| EventStream::new(server, &settings.wechat.env));
            (Arc::default(), stream.map(Arc::new))
        }
    };
    let state = HookState {
        include: hooks.include.clone(),
        wait: hooks.wait,
        timeout: hooks.timeout,
        queue,
        stream,
        metrics: metrics.clone(),
    };
    Ok(Some((url, SigningKeys::new(&hooks.secret), Arc::new(state))))
}

fn forward_state(
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<ForwardState>>, AppError> {
    let Some(url) = &settings.auth.forward.url else {
        return Ok(None);
    };
    let url = BaseUrl::parse(url).ok_or(AppError::ForwardUrl)?;
    Ok(Some(Arc::new(ForwardState::new(url, settings, metrics.clone()))))
}

/// That of `before`, with its keys, where its URL and algorithm have not changed.
fn jwks(
    settings: &Settings,
    before: Option<&Arc<Jwks>>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Jwks>>, AppError> {
    let jwt = &settings.auth.jwt;
    let (Some(url), Some(algorithm)) = (&jwt.jwks_url, jwt.algorithm) else {
        return Ok(None);
    };
    let url = BaseUrl::parse(url).ok_or(AppError::JwksUrl)?;
    let jwks = match before.filter(|before| before.is_of(&url, algorithm)) {
        Some(before) => before.clone(),
        None => Arc::new(Jwks::new(url, algorithm, metrics.clone())),
    };
    Ok(Some(jwks))
}

fn http_client(settings: &Settings, tls: &Arc<rustls::ClientConfig>) -> awc::Client {
    let connector =
        awc::Connector::new().rustls_0_23(tls.clone()).timeout(settings.wechat.connect_timeout);
    awc::Client::builder()
        .connector(connector)
        .disable_redirects()
        .timeout(settings.wechat.timeout)
        .finish()
}
