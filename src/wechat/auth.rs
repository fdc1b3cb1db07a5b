//! How calls to WeChat authenticate: with a fetched token, with a token from a file, or with none.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::error::WechatError;
use super::token::cache::{Token, TokenCache};
use super::token::file::TokenFile;
use super::transport::Transport;
use crate::settings::CredentialMode;

/// How the calls authenticate; shared by all workers.
pub enum ApiAuth {
    /// `access_token=`, fetched from WeChat (`secret`, `stable`, `authorizer`).
    Fetched(TokenCache),
    /// `cloudbase_access_token=`, from the platform's file.
    File(TokenFile),
    /// No parameter: the platform's sidecar adds the token.
    Open,
}

/// The query parameter of one call.
pub enum AuthParam {
    Fetched(Arc<Token>),
    File(Arc<SecretString>),
    Open,
}

impl ApiAuth {
    /// The mode of the settings.
    pub fn mode(&self) -> CredentialMode {
        match self {
            Self::Fetched(tokens) => tokens.mode(),
            Self::File(_) => CredentialMode::Cloudbase,
            Self::Open => CredentialMode::Open,
        }
    }

    /// The parameter for one call; `http` is used only if a token must be fetched.
    pub async fn param(&self, http: &Transport) -> Result<AuthParam, WechatError> {
        Ok(match self {
            Self::Fetched(tokens) => AuthParam::Fetched(tokens.get(http).await?),
            Self::File(file) => AuthParam::File(file.token()?),
            Self::Open => AuthParam::Open,
        })
    }

    /// WeChat refused `param`; returns whether a retry may get another one.
    pub async fn reject(&self, param: &AuthParam) -> bool {
        match (self, param) {
            (Self::Fetched(tokens), AuthParam::Fetched(token)) => {
                tokens.reject(token).await;
                true
            }
            (Self::File(file), _) => {
                file.invalidate();
                true
            }
            _ => false,
        }
    }
}

impl AuthParam {
    /// Its name and value; `None` in `open` mode.
    pub fn query_parameter(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Fetched(token) => Some(("access_token", token.expose_secret())),
            Self::File(token) => Some(("cloudbase_access_token", token.expose_secret())),
            Self::Open => None,
        }
    }
}
