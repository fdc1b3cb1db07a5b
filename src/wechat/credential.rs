//! How an access token is come by: one request for each credential mode.

use std::time::Duration;

use awc::Client;
use secrecy::{ExposeSecret, SecretString};

use super::WechatError;
use super::api::exchange;
use super::wire::{StableTokenRequest, TokenReply};

/// The modes that need a token fetched from WeChat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `cgi-bin/token`: a new token displaces the old one after some minutes.
    Secret,
    /// `cgi-bin/stable_token`: the same token for everyone until 5 minutes before its end.
    Stable,
}

/// Who we are to WeChat.
#[derive(Debug, Clone)]
pub struct Credential {
    pub mode: Mode,
    /// Without a trailing slash.
    pub base_url: String,
    pub appid: String,
    pub secret: SecretString,
    /// For one token request.
    pub timeout: Duration,
}

/// A token as WeChat hands it out.
pub(super) struct Issued {
    pub token: SecretString,
    pub life: Duration,
}

impl Credential {
    /// Fetches a token.
    pub(super) async fn fetch(&self, http: &Client) -> Result<Issued, WechatError> {
        let secret = self.secret.expose_secret();
        let reply: TokenReply = match self.mode {
            Mode::Secret => {
                let url = format!("{}/cgi-bin/token", self.base_url);
                let query = [
                    ("grant_type", "client_credential"),
                    ("appid", self.appid.as_str()),
                    ("secret", secret),
                ];
                let request = http.get(url).query(&query).map_err(|_| unusable("its URL"))?;
                exchange("token", request, None, self.timeout).await?
            }
            Mode::Stable => {
                let url = format!("{}/cgi-bin/stable_token", self.base_url);
                let body = StableTokenRequest {
                    grant_type: "client_credential",
                    appid: &self.appid,
                    secret,
                    force_refresh: false,
                };
                let body = serde_json::to_vec(&body).map_err(|_| unusable("its request"))?;
                exchange("stable_token", http.post(url), Some(body), self.timeout).await?
            }
        };
        if reply.access_token.expose_secret().is_empty() || reply.expires_in == 0 {
            return Err(unusable("a token without content or life"));
        }
        Ok(Issued { token: reply.access_token, life: Duration::from_secs(reply.expires_in) })
    }
}

fn unusable(cause: &'static str) -> WechatError {
    WechatError::Unusable { call: "token", cause }
}
