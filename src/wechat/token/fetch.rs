//! How an access token is fetched: one call of WeChat's for each credential mode that fetches tokens.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use super::file::TokenFile;
use crate::net::http_client::base_url::BaseUrl;
use crate::settings::CredentialMode;
use crate::wechat::error::WechatError;
use crate::wechat::response::receive;
use crate::wechat::transport::{Transport, target};
use crate::wechat::wire::{
    self, AuthorizerTokenReply, AuthorizerTokenRequest, StableTokenRequest, TokenReply,
};

/// Fetches tokens with one of WeChat's calls.
#[derive(Debug)]
pub struct TokenFetcher {
    pub call: TokenCall,
    /// Without a trailing slash.
    pub base_url: String,
    /// For one token request.
    pub timeout: Duration,
}

/// The call that returns the token, and what it needs.
#[derive(Debug)]
pub enum TokenCall {
    /// `GET /cgi-bin/token`.
    Plain(App),
    /// `POST /cgi-bin/stable_token`.
    Stable(App, ForcedRefreshQuota),
    /// `POST /cgi-bin/component/api_authorizer_token`.
    Authorizer(AuthorizedApp),
}

#[derive(Debug)]
pub struct App {
    pub appid: String,
    pub secret: SecretString,
}

/// The app that authorized a third-party platform, and that platform.
#[derive(Debug)]
pub struct AuthorizedApp {
    pub component_appid: String,
    pub authorizer_appid: String,
    /// The file that the platform writes its own token into.
    pub component_token: TokenFile,
    /// From the settings.
    pub refresh_token: SecretString,
    /// The newest refresh token, where WeChat has returned another one with a token.
    pub newest_refresh_token: Mutex<Option<SecretString>>,
}

/// A limit of `max` events within `window`, with at least `min_gap` between two.
#[derive(Debug)]
pub(super) struct SlidingWindow {
    max: usize,
    window: Duration,
    min_gap: Duration,
    events: Mutex<VecDeque<Instant>>,
}

impl SlidingWindow {
    pub fn new(max: usize, window: Duration, min_gap: Duration) -> Self {
        Self { max, window, min_gap, events: Mutex::default() }
    }

    /// Records an event if the limit allows one now, and returns whether it does.
    pub fn take(&self) -> bool {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        events.retain(|at| now.duration_since(*at) < self.window);
        let gap = events.back().is_none_or(|last| now.duration_since(*last) >= self.min_gap);
        let allowed = gap && events.len() < self.max;
        if allowed {
            events.push_back(now);
        }
        allowed
    }
}

/// The uses of `force_refresh`: WeChat allows 20 a day, 30 s apart (getStableAccessToken).
#[derive(Debug)]
pub struct ForcedRefreshQuota(SlidingWindow);

impl Default for ForcedRefreshQuota {
    fn default() -> Self {
        Self(SlidingWindow::new(20, Duration::from_secs(86_400), Duration::from_secs(30)))
    }
}

/// A token from WeChat or Redis.
#[derive(Debug)]
pub(super) struct IssuedToken {
    pub token: SecretString,
    /// The time until it expires.
    pub life: Duration,
    /// In `authorizer` mode: the refresh token to fetch the next token with.
    pub refresh_token: Option<SecretString>,
}

/// A token, its life in seconds, and the refresh token for the next one.
type Fetched = (SecretString, u64, Option<SecretString>);

impl TokenFetcher {
    pub fn mode(&self) -> CredentialMode {
        match self.call {
            TokenCall::Plain(_) => CredentialMode::Secret,
            TokenCall::Stable(..) => CredentialMode::Stable,
            TokenCall::Authorizer(_) => CredentialMode::Authorizer,
        }
    }

    /// The app that the token belongs to.
    pub fn appid(&self) -> &str {
        match &self.call {
            TokenCall::Plain(app) | TokenCall::Stable(app, _) => &app.appid,
            TokenCall::Authorizer(authorizer) => &authorizer.authorizer_appid,
        }
    }

    /// In `authorizer` mode: the refresh token of the settings, which identifies the authorization. The operator sets a
    /// new one when the app has authorized the platform anew.
    pub(super) fn authorization(&self) -> Option<&SecretString> {
        match &self.call {
            TokenCall::Authorizer(authorizer) => Some(&authorizer.refresh_token),
            TokenCall::Plain(_) | TokenCall::Stable(..) => None,
        }
    }

    /// Fetches a token other than `refused`, which WeChat has just refused. The time limit of one request is for all of
    /// it. `refresh_token` is the newest one that another gateway has stored.
    pub(super) async fn fetch(
        &self,
        http: &Transport,
        refused: Option<&SecretString>,
        refresh_token: Option<SecretString>,
    ) -> Result<IssuedToken, WechatError> {
        let limit = self.timeout;
        let fetched = tokio::time::timeout(limit, self.fetch_untimed(http, refused, refresh_token));
        fetched.await.map_err(|_| WechatError::Timeout { call: "token", limit })?
    }

    async fn fetch_untimed(
        &self,
        http: &Transport,
        refused: Option<&SecretString>,
        refresh_token: Option<SecretString>,
    ) -> Result<IssuedToken, WechatError> {
        let requested = Instant::now();
        let (token, seconds, refresh_token) = match &self.call {
            TokenCall::Plain(app) => self.plain(http, app).await?,
            TokenCall::Stable(app, quota) => self.stable(http, app, quota, refused).await?,
            TokenCall::Authorizer(app) => self.authorizer(http, app, refresh_token).await?,
        };
        if token.expose_secret().is_empty() || seconds == 0 {
            return Err(unusable("the token is empty or already expired"));
        }
        let life = Duration::from_secs(seconds).saturating_sub(requested.elapsed());
        Ok(IssuedToken { token, life, refresh_token })
    }

    fn base_url(&self) -> Result<BaseUrl, WechatError> {
        let cause = || "wechat.base_url is invalid".to_owned();
        let invalid = || WechatError::Unreachable { call: "token", cause: cause() };
        BaseUrl::parse(&self.base_url).ok_or_else(invalid)
    }

    async fn plain(&self, http: &Transport, app: &App) -> Result<Fetched, WechatError> {
        let base_url = self.base_url()?;
        let target = target(
            &base_url,
            &["/cgi-bin/token"],
            &[
                ("grant_type", "client_credential"),
                ("appid", app.appid.as_str()),
                ("secret", app.secret.expose_secret()),
            ],
        );
        let response = pin!(http.get(&base_url, &target));
        let reply: TokenReply =
            receive("token", CredentialMode::Secret, response, self.timeout).await?;
        Ok((reply.access_token, reply.expires_in, None))
    }

    /// A normal fetch; a forced refresh only where the normal one returns the token that was just refused.
    async fn stable(
        &self,
        http: &Transport,
        app: &App,
        quota: &ForcedRefreshQuota,
        refused: Option<&SecretString>,
    ) -> Result<Fetched, WechatError> {
        let mut force_refresh = false;
        loop {
            let body = StableTokenRequest {
                grant_type: "client_credential",
                appid: &app.appid,
                secret: app.secret.expose_secret(),
                force_refresh,
            };
            let body =
                serde_json::to_vec(&body).map_err(|_| unusable("the request is not JSON"))?;
            let base_url = self.base_url()?;
            let target = target(&base_url, &["/cgi-bin/stable_token"], &[]);
            let response = pin!(http.post(&base_url, &target, &body));
            let reply: TokenReply =
                receive("stable_token", CredentialMode::Stable, response, self.timeout).await?;
            let same = refused.is_some_and(|refused| {
                refused.expose_secret() == reply.access_token.expose_secret()
            });
            match same {
                false => return Ok((reply.access_token, reply.expires_in, None)),
                true if !force_refresh && quota.0.take() => {
                    tracing::warn!("WeChat returned the token it had refused; forcing a refresh");
                    force_refresh = true;
                }
                true => {
                    return Err(unusable(
                        "it is the token that WeChat has just refused, and a refresh can be forced only 20 times a \
                         day, 30 s apart",
                    ));
                }
            }
        }
    }

    async fn authorizer(
        &self,
        http: &Transport,
        app: &AuthorizedApp,
        stored: Option<SecretString>,
    ) -> Result<Fetched, WechatError> {
        const CALL: &str = "api_authorizer_token";
        let newest = || app.newest_refresh_token.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = stored.or_else(|| newest().clone());
        let refresh_token = newer.as_ref().unwrap_or(&app.refresh_token);
        let mut read_again = false;
        loop {
            let component = app.component_token.token()?;
            let body = AuthorizerTokenRequest {
                component_appid: &app.component_appid,
                authorizer_appid: &app.authorizer_appid,
                authorizer_refresh_token: refresh_token.expose_secret(),
            };
            let body =
                serde_json::to_vec(&body).map_err(|_| unusable("the request is not JSON"))?;
            let base_url = self.base_url()?;
            let target = target(
                &base_url,
                &["/cgi-bin/component/api_authorizer_token"],
                &[("component_access_token", component.expose_secret())],
            );
            let response = pin!(http.post(&base_url, &target, &body));
            let reply: Result<AuthorizerTokenReply, _> =
                receive(CALL, CredentialMode::Authorizer, response, self.timeout).await;
            match reply {
                // The platform may have renewed its token since the file was read.
                Err(WechatError::Refused { errcode, .. })
                    if wire::is_bad_token(errcode) && !read_again =>
                {
                    read_again = true;
                    app.component_token.invalidate();
                }
                Err(WechatError::Refused { errcode, message, .. })
                    if wire::is_bad_token(errcode) =>
                {
                    let hint = "the component_access_token in wechat.authorizer.component_token_file is refused: \
                                the platform that owns it must keep the file up to date";
                    let hint = Some(hint.into());
                    return Err(WechatError::Refused {
                        call: CALL,
                        errcode,
                        message,
                        hint,
                        retry_after: None,
                    });
                }
                Err(error) => return Err(error),
                Ok(reply) => {
                    let next = reply
                        .authorizer_refresh_token
                        .filter(|next| !next.expose_secret().is_empty());
                    if let Some(next) = &next
                        && next.expose_secret() != refresh_token.expose_secret()
                    {
                        tracing::warn!(
                            "WeChat returned a new refresh token; it outlives this process only in Redis"
                        );
                        *newest() = Some(next.clone());
                    }
                    return Ok((reply.authorizer_access_token, reply.expires_in, next));
                }
            }
        }
    }
}

fn unusable(cause: &'static str) -> WechatError {
    WechatError::Unusable { call: "token", cause }
}
