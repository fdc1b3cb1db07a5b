//! How an access token is fetched: one request for each credential mode that needs one.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use super::file::TokenFile;
use crate::settings::CredentialMode;
use crate::wechat::error::WechatError;
use crate::wechat::reply::exchange;
use crate::wechat::transport::{BaseUrl, Transport, with_query};
use crate::wechat::wire::{
    self, AuthorizerTokenReply, AuthorizerTokenRequest, StableTokenRequest, TokenReply,
};

/// What a token is fetched with.
#[derive(Debug)]
pub struct Credential {
    pub grant: Grant,
    /// Without a trailing slash.
    pub base_url: String,
    /// For one token request.
    pub timeout: Duration,
}

/// In whose name.
#[derive(Debug)]
pub enum Grant {
    Secret(App),
    Stable(App, Forced),
    Authorizer(Authorizer),
}

#[derive(Debug)]
pub struct App {
    pub appid: String,
    pub secret: SecretString,
}

/// A third-party platform and the app that authorized it.
#[derive(Debug)]
pub struct Authorizer {
    pub component_appid: String,
    pub authorizer_appid: String,
    /// The platform's own token, which it writes there.
    pub component_token: TokenFile,
    /// As the settings give it.
    pub refresh_token: SecretString,
    /// The newest one, where WeChat has handed out another with a token.
    pub newest: Mutex<Option<SecretString>>,
}

/// How often something may be done: `most` times within `within`, `apart` from each other.
#[derive(Debug)]
pub(super) struct SlidingWindow {
    most: usize,
    within: Duration,
    apart: Duration,
    used: Mutex<VecDeque<Instant>>,
}

impl SlidingWindow {
    pub fn new(most: usize, within: Duration, apart: Duration) -> Self {
        Self { most, within, apart, used: Mutex::default() }
    }

    /// Takes one, if there is one to be had now.
    pub fn take(&self) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        used.retain(|at| now.duration_since(*at) < self.within);
        let apart = used.back().is_none_or(|last| now.duration_since(*last) >= self.apart);
        let may = apart && used.len() < self.most;
        if may {
            used.push_back(now);
        }
        may
    }
}

/// When `force_refresh` was used: it is limited to 20 a day, 30 s apart (getStableAccessToken).
#[derive(Debug)]
pub struct Forced(SlidingWindow);

impl Default for Forced {
    fn default() -> Self {
        Self(SlidingWindow::new(20, Duration::from_secs(86_400), Duration::from_secs(30)))
    }
}

/// A token as WeChat hands it out, with the life it has left.
#[derive(Debug)]
pub(super) struct Issued {
    pub token: SecretString,
    pub life: Duration,
    /// What the next one is to be fetched with, in the authorizer's flow.
    pub refresh: Option<SecretString>,
}

/// A token, its life in seconds, and the refresh token for the next one.
type Fetched = (SecretString, u64, Option<SecretString>);

impl Credential {
    pub fn mode(&self) -> CredentialMode {
        match self.grant {
            Grant::Secret(_) => CredentialMode::Secret,
            Grant::Stable(..) => CredentialMode::Stable,
            Grant::Authorizer(_) => CredentialMode::Authorizer,
        }
    }

    /// The app whose token it is.
    pub fn appid(&self) -> &str {
        match &self.grant {
            Grant::Secret(app) | Grant::Stable(app, _) => &app.appid,
            Grant::Authorizer(authorizer) => &authorizer.authorizer_appid,
        }
    }

    /// What tells one authorization from another, where tokens are fetched with one: the refresh token that the settings
    /// give. A new one is set when the old one is dead.
    pub(super) fn authorization(&self) -> Option<&SecretString> {
        match &self.grant {
            Grant::Authorizer(authorizer) => Some(&authorizer.refresh_token),
            Grant::Secret(_) | Grant::Stable(..) => None,
        }
    }

    /// Fetches a token other than `refused`, the one that WeChat has just refused; all of it within the time for one
    /// request. `refresh` is the newest refresh token that another gateway knows.
    pub(super) async fn fetch(
        &self,
        http: &Transport,
        refused: Option<&SecretString>,
        refresh: Option<SecretString>,
    ) -> Result<Issued, WechatError> {
        let limit = self.timeout;
        let fetched = tokio::time::timeout(limit, self.fetch_untimed(http, refused, refresh));
        fetched.await.map_err(|_| WechatError::Timeout { call: "token", limit })?
    }

    async fn fetch_untimed(
        &self,
        http: &Transport,
        refused: Option<&SecretString>,
        refresh: Option<SecretString>,
    ) -> Result<Issued, WechatError> {
        let asked = Instant::now();
        let (token, seconds, refresh) = match &self.grant {
            Grant::Secret(app) => self.plain(http, app).await?,
            Grant::Stable(app, forced) => self.stable(http, app, forced, refused).await?,
            Grant::Authorizer(authorizer) => self.authorizer(http, authorizer, refresh).await?,
        };
        if token.expose_secret().is_empty() || seconds == 0 {
            return Err(unusable("a token without content or life"));
        }
        let life = Duration::from_secs(seconds).saturating_sub(asked.elapsed());
        Ok(Issued { token, life, refresh })
    }

    fn address(&self) -> Result<BaseUrl, WechatError> {
        let cause = || "wechat.base_url is invalid".to_owned();
        let invalid = || WechatError::Unreachable { call: "token", cause: cause() };
        BaseUrl::of(&self.base_url).ok_or_else(invalid)
    }

    async fn plain(&self, http: &Transport, app: &App) -> Result<Fetched, WechatError> {
        let path = with_query(
            "/cgi-bin/token",
            &[
                ("grant_type", "client_credential"),
                ("appid", app.appid.as_str()),
                ("secret", app.secret.expose_secret()),
            ],
        );
        let address = self.address()?;
        let sent = pin!(http.get(&address, &path));
        let reply: TokenReply =
            exchange("token", CredentialMode::Secret, sent, self.timeout).await?;
        Ok((reply.access_token, reply.expires_in, None))
    }

    /// A normal fetch; a forced one only where that hands back the token that was just refused.
    async fn stable(
        &self,
        http: &Transport,
        app: &App,
        forced: &Forced,
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
            let body = serde_json::to_vec(&body).map_err(|_| unusable("its request"))?;
            let address = self.address()?;
            let sent = pin!(http.post(&address, "/cgi-bin/stable_token", &body));
            let reply: TokenReply =
                exchange("stable_token", CredentialMode::Stable, sent, self.timeout).await?;
            let same = refused.is_some_and(|refused| {
                refused.expose_secret() == reply.access_token.expose_secret()
            });
            match same {
                false => return Ok((reply.access_token, reply.expires_in, None)),
                true if !force_refresh && forced.0.take() => {
                    tracing::warn!("WeChat hands back the token it refused; forcing a refresh");
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
        authorizer: &Authorizer,
        refresh: Option<SecretString>,
    ) -> Result<Fetched, WechatError> {
        const CALL: &str = "api_authorizer_token";
        let newest = || authorizer.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = refresh.or_else(|| newest().clone());
        let refresh = known.as_ref().unwrap_or(&authorizer.refresh_token);
        let mut read_again = false;
        loop {
            let component = authorizer.component_token.token()?;
            let body = AuthorizerTokenRequest {
                component_appid: &authorizer.component_appid,
                authorizer_appid: &authorizer.authorizer_appid,
                authorizer_refresh_token: refresh.expose_secret(),
            };
            let body = serde_json::to_vec(&body).map_err(|_| unusable("its request"))?;
            let path = with_query(
                "/cgi-bin/component/api_authorizer_token",
                &[("component_access_token", component.expose_secret())],
            );
            let address = self.address()?;
            let sent = pin!(http.post(&address, &path, &body));
            let reply: Result<AuthorizerTokenReply, _> =
                exchange(CALL, CredentialMode::Authorizer, sent, self.timeout).await;
            match reply {
                // The platform's token may have been renewed just now.
                Err(WechatError::Refused { errcode, .. })
                    if wire::is_bad_token(errcode) && !read_again =>
                {
                    read_again = true;
                    authorizer.component_token.forget();
                }
                Err(WechatError::Refused { errcode, message, .. })
                    if wire::is_bad_token(errcode) =>
                {
                    let advice = "the component_access_token in wechat.authorizer.component_token_file is refused: \
                                  the platform that owns it must keep the file up to date";
                    let advice = Some(advice.into());
                    return Err(WechatError::Refused { call: CALL, errcode, message, advice });
                }
                Err(error) => return Err(error),
                Ok(reply) => {
                    let next = reply
                        .authorizer_refresh_token
                        .filter(|next| !next.expose_secret().is_empty());
                    if let Some(next) = &next
                        && next.expose_secret() != refresh.expose_secret()
                    {
                        tracing::warn!(
                            "WeChat handed out another refresh token; it outlives this process only in Redis"
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
