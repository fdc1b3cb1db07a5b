//! What a call shows of who we are: a token that is fetched, one that stands in a file, or nothing.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::error::WechatError;
use super::token::cache::{Token, Tokens};
use super::token::file::TokenFile;
use super::token::redis::Away;
use super::transport::Direct;
use crate::settings::CredentialMode;

/// How the calls are let in; shared by all workers.
pub enum Access {
    /// `access_token=`, fetched from WeChat (`secret`, `stable`, `authorizer`).
    Fetched(Tokens),
    /// `cloudbase_access_token=`, from the platform's file.
    File(TokenFile),
    /// Nothing: the platform's sidecar adds it.
    Open,
}

/// What one call shows.
pub enum Pass {
    Fetched(Arc<Token>),
    File(Arc<SecretString>),
    Open,
}

impl Access {
    /// The mode of the settings.
    pub fn mode(&self) -> CredentialMode {
        match self {
            Self::Fetched(tokens) => tokens.mode(),
            Self::File(_) => CredentialMode::Cloudbase,
            Self::Open => CredentialMode::Open,
        }
    }

    /// Whether the token can be shared with other gateways, where it is to be.
    pub async fn shared(&self) -> Result<(), Away> {
        match self {
            Self::Fetched(tokens) => tokens.shared().await,
            Self::File(_) | Self::Open => Ok(()),
        }
    }

    /// Something to show; `http` is used only if a token must be fetched.
    pub async fn pass(&self, http: &Direct) -> Result<Pass, WechatError> {
        Ok(match self {
            Self::Fetched(tokens) => Pass::Fetched(tokens.get(http).await?),
            Self::File(file) => Pass::File(file.token()?),
            Self::Open => Pass::Open,
        })
    }

    /// Says that WeChat refused `pass`; says whether another one may be had.
    pub async fn reject(&self, pass: &Pass) -> bool {
        match (self, pass) {
            (Self::Fetched(tokens), Pass::Fetched(token)) => {
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

impl Pass {
    /// The query's parameter, if there is one.
    pub fn parameter(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Fetched(token) => Some(("access_token", token.expose_secret())),
            Self::File(token) => Some(("cloudbase_access_token", token.expose_secret())),
            Self::Open => None,
        }
    }
}
