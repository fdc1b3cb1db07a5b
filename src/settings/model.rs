//! The checked settings: one struct for each section.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::auth::{Auth, Links};
use super::names::{
    ContentDisposition, CosKeys, CosRoad, CredentialMode, FileIds, HookField, LogFormat, Profile,
    ReplyProfile, Verify,
};
use super::otlp::Otlp;
use super::quota::Quota;

/// Every setting, checked. Neither `Debug` nor [`Settings::describe`] shows secrets.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A warning for each setting that is set under its old name.
    pub(super) renamed: Vec<String>,
    pub profile: Profile,
    pub server: Server,
    pub cors: Cors,
    pub wechat: Wechat,
    pub cos: Cos,
    pub upload: Upload,
    pub auth: Auth,
    /// By name: lower-case letters, digits, `-` and `_`.
    pub quotas: BTreeMap<String, Arc<Quota>>,
    pub links: Links,
    pub resumable: Resumable,
    pub hooks: Hooks,
    pub receipts: Receipts,
    pub redis: Redis,
    pub console: Console,
    pub telemetry: Telemetry,
    pub metrics: MetricsListener,
    pub sandbox: Sandbox,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub bind: SocketAddr,
    /// At least 1.
    pub workers: usize,
    /// Without a query and a trailing slash.
    pub public_url: Option<String>,
    /// Without query, fragment and trailing slash.
    pub errors_url: String,
    /// At least 1.
    pub max_connections: usize,
    pub shutdown_grace: Duration,
    /// Part of `shutdown_grace`.
    pub shutdown_delay: Duration,
    /// Zero: after an early response, the rest of the request is not read.
    pub lingering_timeout: Duration,
    /// At least 1 s.
    pub write_timeout: Duration,
    /// `None`: plain HTTP.
    pub tls: Option<ServerTls>,
    pub trusted_proxies: Vec<IpNet>,
}

/// PEM files, which are read at the start and at each reload.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The certificate, followed by the intermediate ones.
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Cors {
    /// Lower case, without the scheme's default port. May contain `null`, and origins without a host (`file://`).
    pub origins: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Wechat {
    /// Without a trailing slash.
    pub base_url: String,
    /// Like `appid` and `secret`, empty only where the sandbox is on, which has its own.
    pub env: String,
    pub credential: CredentialMode,
    pub appid: String,
    pub secret: SecretString,
    /// `cloud://ENV.BUCKET`, without a trailing slash.
    pub file_id_prefix: Option<String>,
    pub cloudbase_token_file: PathBuf,
    pub authorizer: Authorizer,
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub warm_links: WarmLinks,
}

/// How many upload links may be asked for in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmLinks {
    Off,
    /// As many as recent uploads justify.
    Auto,
    /// At most this many for each folder and extension.
    UpTo(usize),
}

impl WarmLinks {
    /// The most links of one folder and extension.
    pub const MAX: usize = 256;
}

/// A third-party platform and the app that authorized it; complete where `wechat.credential` is `authorizer`.
#[derive(Clone, Debug)]
pub struct Authorizer {
    pub component_appid: String,
    pub authorizer_appid: String,
    pub refresh_token: SecretString,
    pub component_token_file: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Redis {
    /// The whole URL is secret, because it may contain a password.
    pub url: Option<SecretString>,
    /// PEM, which is read at the start. `None`: the system's roots.
    pub ca_file: Option<PathBuf>,
}

impl Redis {
    /// What follows `rediss://`: Redis is reached by TLS.
    pub fn behind_tls(&self) -> Option<&str> {
        let (scheme, rest) = self.url.as_ref()?.expose_secret().split_once("://")?;
        scheme.eq_ignore_ascii_case("rediss").then_some(rest)
    }
}

#[derive(Clone, Debug)]
pub struct Cos {
    /// `host`, `*.host`, `1.2.3.4`, `[::1]`, each with or without `:port`; lower case.
    pub allowed_hosts: Vec<String>,
    pub allow_http: bool,
    pub send_content_type: bool,
    pub verify: Verify,
    pub connect_timeout: Duration,
    pub write_timeout: Duration,
    pub reply_timeout: Duration,
    pub via: CosRoad,
    /// Zero: no file is buffered because its client is slow.
    pub slow_limit: Duration,
    pub api: CosApi,
}

/// COS's own API.
#[derive(Clone, Debug)]
pub struct CosApi {
    pub keys: CosKeys,
    /// Without a query and a trailing slash, as is `metaid_url`.
    pub getauth_url: String,
    /// Like `secret_key`, set where `keys` is `static`, except in the sandbox.
    pub secret_id: String,
    pub secret_key: SecretString,
    pub token: Option<SecretString>,
    /// May contain `{bucket}` and `{region}`.
    pub endpoint: String,
    pub bucket: Option<String>,
    pub region: Option<String>,
    pub file_ids: FileIds,
    pub metaid_url: String,
    /// In bytes, at least 1 MiB.
    pub part_size: u64,
    /// In bytes.
    pub single_put: u64,
    /// `None`: no upload is aborted.
    pub abort_after: Option<Duration>,
}

/// Uploads that can be resumed: tus 1.0.
#[derive(Clone, Debug)]
pub struct Resumable {
    pub enabled: bool,
    pub expire_after: Duration,
    /// The first key seals, all of them open. Each has at least 32 bytes.
    pub keys: Vec<SecretString>,
    /// `None`: no folder.
    pub spool: Option<PathBuf>,
    /// In bytes.
    pub spool_limit: u64,
}

/// Events that the owner's back end is sent.
#[derive(Clone, Debug)]
pub struct Hooks {
    /// Without a query and a trailing slash. `None`: no events.
    pub stored_url: Option<String>,
    /// `whsec_` and base64, decodable. Not empty where `stored_url` is set.
    pub secret: Vec<SecretString>,
    pub wait: bool,
    pub timeout: Duration,
    /// The optional members that are sent.
    pub include: Vec<HookField>,
}

/// Signed statements of what was stored.
#[derive(Clone, Debug)]
pub struct Receipts {
    /// HS256's secret, of at least 32 bytes, and another one than `auth.jwt.key`. `None`: no receipts.
    pub key: Option<SecretString>,
}

/// Where `/metrics` is served.
#[derive(Clone, Debug)]
pub struct MetricsListener {
    /// `None`: on the gateway's own port.
    pub bind: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
pub struct Upload {
    /// In bytes.
    pub max_file_size: u64,
    pub max_files: usize,
    /// `image/png`, `image/*`; an empty list allows all types.
    pub allowed_types: Vec<String>,
    /// All its placeholders are known; the rest of it is not checked against the rules for objects' paths.
    pub path_template: String,
    pub client_paths: bool,
    pub idle_timeout: Duration,
    /// In bytes per second. `None`: clients may be as slow as they are.
    pub min_rate: Option<u64>,
    /// In bytes; zero: nothing can be sent again. At most `memory_budget`, as is `max_buffered_file`.
    pub replay_window: usize,
    /// In bytes; smaller than `replay_window`: the window does not grow.
    pub replay_window_max: usize,
    /// In bytes; zero: no file is buffered.
    pub max_buffered_file: usize,
    /// In bytes.
    pub memory_budget: usize,
    pub max_concurrent: usize,
    /// `None`: limited by `max_concurrent` only.
    pub max_concurrent_per_client: Option<usize>,
    /// For requests that do not name one.
    pub reply: ReplyProfile,
    pub content_disposition: ContentDisposition,
    /// Printable ASCII. `None`: no header.
    pub cache_control: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Console {
    pub enabled: bool,
}

#[derive(Clone, Debug)]
pub struct Telemetry {
    /// In the syntax of tracing's `Targets`; not checked here.
    pub log: String,
    pub format: LogFormat,
    pub audit: AuditOutput,
    pub otlp: Otlp,
}

/// Where the audit log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditOutput {
    Off,
    Stdout,
    /// Appended to.
    File(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Sandbox {
    pub enabled: bool,
    /// `None`: a folder in the system's folder for temporary files.
    pub data: Option<PathBuf>,
    /// Zero: any free port. The same holds for `cos_port`.
    pub wechat_port: u16,
    pub cos_port: u16,
    pub token_life: Duration,
    pub token_overlap: Duration,
    pub link_life: Duration,
    /// `None`: no limit.
    pub upload_limit: Option<Duration>,
    pub post_crc: bool,
    pub secret_id: Option<String>,
    pub secret_key: Option<SecretString>,
}
