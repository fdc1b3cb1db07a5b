//! The errors that end the gateway's start or run.

use std::io;
use std::net::SocketAddr;

use super::cos_api::CosApiError;
use crate::guard::ticket::JwtKeyError;
use crate::net::redis::RedisServerError;
use crate::spool::folder::FolderError;

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("cannot listen on {address}: {cause}")]
    Bind { address: SocketAddr, cause: io::Error },
    #[error("{0}")]
    Tickets(#[from] JwtKeyError),
    #[error("{0}")]
    CosApi(#[from] CosApiError),
    #[error("TLS: {0}")]
    Tls(#[from] crate::net::tls::TlsError),
    #[error("the sandbox: {0}")]
    Sandbox(io::Error),
    #[error("this build has no sandbox; set sandbox.enabled=false and the wechat.* credentials")]
    NoSandbox,
    #[error("telemetry.audit: {0}")]
    Audit(io::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("resumable.spool: {0}")]
    Folder(#[from] FolderError),
    #[error("resumable.spool: {0}")]
    Spool(io::Error),
    #[error("auth.forward_url is not a URL that requests can be sent to")]
    ForwardUrl,
    #[error("auth.jwt.jwks_url is not a URL that requests can be sent to")]
    JwksUrl,
    #[error("hooks.stored_url is not a URL that requests can be sent to")]
    HookUrl,
    #[error("telemetry.otlp_endpoint is not a URL that requests can be sent to")]
    OtlpUrl,
    #[error("{0}")]
    Redis(#[from] RedisServerError),
    #[error("{0}")]
    Run(#[from] io::Error),
}
