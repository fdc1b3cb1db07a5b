//! How an access token is fetched: one request for each credential mode that needs one.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use awc::Client;
use secrecy::{ExposeSecret, SecretString};

use super::WechatError;
use super::api::exchange;
use super::file::TokenFile;
use super::wire::{
    self, AuthorizerTokenReply, AuthorizerTokenRequest, StableTokenRequest, TokenReply,
};

/// How we are known to WeChat, as `wechat.credential` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `cgi-bin/token`: a new token displaces the old one after some minutes.
    Secret,
    /// `cgi-bin/stable_token`: the same token for everyone until 5 minutes before its end.
    Stable,
    /// A token in a file of the platform's.
    Cloudbase,
    /// No token: the platform's sidecar knows us.
    Open,
    /// An authorizer's token, fetched by a third-party platform.
    Authorizer,
}

impl Mode {
    pub const ALL: &[Self] =
        &[Self::Secret, Self::Stable, Self::Cloudbase, Self::Open, Self::Authorizer];

    /// As in the settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Stable => "stable",
            Self::Cloudbase => "cloudbase",
            Self::Open => "open",
            Self::Authorizer => "authorizer",
        }
    }
}

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
    /// The newest one; WeChat may hand out another with each token.
    pub refresh_token: Mutex<SecretString>,
}

/// When `force_refresh` was used: it is limited to 20 a day, 30 s apart (getStableAccessToken).
#[derive(Debug, Default)]
pub struct Forced(Mutex<VecDeque<Instant>>);

impl Forced {
    const APART: Duration = Duration::from_secs(30);
    const A_DAY: usize = 20;
    const DAY: Duration = Duration::from_secs(86_400);

    /// Takes one of the day's, if there is one to be had now.
    fn take(&self) -> bool {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        used.retain(|at| now.duration_since(*at) < Self::DAY);
        let apart = used.back().is_none_or(|last| now.duration_since(*last) >= Self::APART);
        let may = apart && used.len() < Self::A_DAY;
        if may {
            used.push_back(now);
        }
        may
    }
}

/// A token as WeChat hands it out, with the life it has left.
#[derive(Debug)]
pub(super) struct Issued {
    pub token: SecretString,
    pub life: Duration,
}

impl Credential {
    pub fn mode(&self) -> Mode {
        match self.grant {
            Grant::Secret(_) => Mode::Secret,
            Grant::Stable(..) => Mode::Stable,
            Grant::Authorizer(_) => Mode::Authorizer,
        }
    }

    /// The app whose token it is.
    pub fn appid(&self) -> &str {
        match &self.grant {
            Grant::Secret(app) | Grant::Stable(app, _) => &app.appid,
            Grant::Authorizer(authorizer) => &authorizer.authorizer_appid,
        }
    }

    /// Fetches a token other than `refused`, the one that WeChat has just refused.
    pub(super) async fn fetch(
        &self,
        http: &Client,
        refused: Option<&SecretString>,
    ) -> Result<Issued, WechatError> {
        let asked = Instant::now();
        let (token, seconds) = match &self.grant {
            Grant::Secret(app) => self.plain(http, app).await?,
            Grant::Stable(app, forced) => self.stable(http, app, forced, refused).await?,
            Grant::Authorizer(authorizer) => self.authorizer(http, authorizer).await?,
        };
        if token.expose_secret().is_empty() || seconds == 0 {
            return Err(unusable("a token without content or life"));
        }
        let life = Duration::from_secs(seconds).saturating_sub(asked.elapsed());
        Ok(Issued { token, life })
    }

    async fn plain(&self, http: &Client, app: &App) -> Result<(SecretString, u64), WechatError> {
        let url = format!("{}/cgi-bin/token", self.base_url);
        let query = [
            ("grant_type", "client_credential"),
            ("appid", app.appid.as_str()),
            ("secret", app.secret.expose_secret()),
        ];
        let request = http.get(url).query(&query).map_err(|_| unusable("its URL"))?;
        let reply: TokenReply =
            exchange("token", Mode::Secret, request, None, self.timeout).await?;
        Ok((reply.access_token, reply.expires_in))
    }

    /// A normal fetch; a forced one only where that hands back the token that was just refused.
    async fn stable(
        &self,
        http: &Client,
        app: &App,
        forced: &Forced,
        refused: Option<&SecretString>,
    ) -> Result<(SecretString, u64), WechatError> {
        let mut force_refresh = false;
        loop {
            let url = format!("{}/cgi-bin/stable_token", self.base_url);
            let body = StableTokenRequest {
                grant_type: "client_credential",
                appid: &app.appid,
                secret: app.secret.expose_secret(),
                force_refresh,
            };
            let body = serde_json::to_vec(&body).map_err(|_| unusable("its request"))?;
            let request = http.post(url);
            let reply: TokenReply =
                exchange("stable_token", Mode::Stable, request, Some(body), self.timeout).await?;
            let same = refused.is_some_and(|refused| {
                refused.expose_secret() == reply.access_token.expose_secret()
            });
            match same {
                false => return Ok((reply.access_token, reply.expires_in)),
                true if !force_refresh && forced.take() => {
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
        http: &Client,
        authorizer: &Authorizer,
    ) -> Result<(SecretString, u64), WechatError> {
        const CALL: &str = "api_authorizer_token";
        let refresh = |refresh: &Mutex<SecretString>| {
            refresh.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        let mut read_again = false;
        loop {
            let component = authorizer.component_token.token()?;
            let current = refresh(&authorizer.refresh_token);
            let url = format!("{}/cgi-bin/component/api_authorizer_token", self.base_url);
            let body = AuthorizerTokenRequest {
                component_appid: &authorizer.component_appid,
                authorizer_appid: &authorizer.authorizer_appid,
                authorizer_refresh_token: current.expose_secret(),
            };
            let body = serde_json::to_vec(&body).map_err(|_| unusable("its request"))?;
            let request = http
                .post(url)
                .query(&[("component_access_token", component.expose_secret())])
                .map_err(|_| unusable("its URL"))?;
            let mode = Mode::Authorizer;
            match exchange::<AuthorizerTokenReply>(CALL, mode, request, Some(body), self.timeout)
                .await
            {
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
                    if let Some(next) = reply.authorizer_refresh_token
                        && !next.expose_secret().is_empty()
                    {
                        let known = &authorizer.refresh_token;
                        *known.lock().unwrap_or_else(PoisonError::into_inner) = next;
                    }
                    return Ok((reply.authorizer_access_token, reply.expires_in));
                }
            }
        }
    }
}

fn unusable(cause: &'static str) -> WechatError {
    WechatError::Unusable { call: "token", cause }
}
