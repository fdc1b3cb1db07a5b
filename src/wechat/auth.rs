//! What a call shows of who we are: a token that is fetched, one that stands in a file, or nothing.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::error::WechatError;
use super::token::cache::{Token, Tokens};
use super::token::file::TokenFile;
use super::token::redis::RedisUnavailable;
use super::transport::Transport;
use crate::settings::CredentialMode;

/// How the calls are let in; shared by all workers.
pub enum ApiAuth {
    /// `access_token=`, fetched from WeChat (`secret`, `stable`, `authorizer`).
    Fetched(Tokens),
    /// `cloudbase_access_token=`, from the platform's file.
    File(TokenFile),
    /// Nothing: the platform's sidecar adds it.
    Open,
}

/// What one call shows.
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

    /// Whether the token can be shared with other gateways, where it is to be.
    pub async fn shared(&self) -> Result<(), RedisUnavailable> {
        match self {
            Self::Fetched(tokens) => tokens.shared().await,
            Self::File(_) | Self::Open => Ok(()),
        }
    }

    /// Something to show; `http` is used only if a token must be fetched.
    pub async fn pass(&self, http: &Transport) -> Result<AuthParam, WechatError> {
        Ok(match self {
            Self::Fetched(tokens) => AuthParam::Fetched(tokens.get(http).await?),
            Self::File(file) => AuthParam::File(file.token()?),
            Self::Open => AuthParam::Open,
        })
    }

    /// Says that WeChat refused `pass`; says whether another one may be had.
    pub async fn reject(&self, pass: &AuthParam) -> bool {
        match (self, pass) {
            (Self::Fetched(tokens), AuthParam::Fetched(token)) => {
                tokens.reject(token).await;
                true
            }
            (Self::File(file), _) => {
                file.forget();
                true
            }
            _ => false,
        }
    }
}

impl AuthParam {
    /// The query's parameter, if there is one.
    pub fn parameter(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Fetched(token) => Some(("access_token", token.expose_secret())),
            Self::File(token) => Some(("cloudbase_access_token", token.expose_secret())),
            Self::Open => None,
        }
    }
}
