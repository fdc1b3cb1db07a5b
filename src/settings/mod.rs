//! Owns what can be set: every key, its type, its own limits. Knows nothing of what is done with it.
//!
//! - `auth`: who may call, and what each may do
//! - `layers`: where values come from, and typed look-ups that collect every fault
//! - `sections`: what each value must be by itself
//! - `values`: the form of single values
//! - `rules`: what must hold between settings, and what is worth a warning
//! - `describe`: the result as printed by `--check`
//!
//! What each setting means to its user is told in `config/default.toml`, once.

mod auth;
mod describe;
mod layers;
mod rules;
mod sections;
mod values;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

pub use auth::{ApiKey, Auth, Jwt, Links, Policy, Rate};
use layers::{Layers, Reader};

const DEFAULT: &str = include_str!("../../config/default.toml");
const SANDBOX: &str = include_str!("../../config/sandbox.toml");
const PRODUCTION: &str = include_str!("../../config/production.toml");

/// What COS takes in one form upload.
pub const COS_MAX_FILE_SIZE: u64 = 5 << 30;

/// The least of a duration that must not be zero: timers count in milliseconds.
const SOME: Duration = Duration::from_millis(1);

/// Enums whose variants have a name in settings files.
macro_rules! named {
    ($(#[$doc:meta])* $vis:vis enum $enum:ident { $($(#[$note:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $enum { $($(#[$note])* $variant),+ }

        impl $enum {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl std::str::FromStr for $enum {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(format!("is not one of {}", [$($name),+].join(", "))),
                }
            }
        }
    };
}

named! {
    /// Which set of defaults lies over `default.toml`.
    pub enum Profile {
        Sandbox = "sandbox",
        Production = "production",
    }
}

named! {
    /// How the gateway authenticates to WeChat.
    pub enum CredentialMode {
        /// `cgi-bin/token`: a new token replaces the previous one, which stays valid for some minutes.
        Secret = "secret",
        /// `cgi-bin/stable_token`: the same token for every caller until 5 minutes before it expires.
        Stable = "stable",
        /// A token in a file that WeChat cloud hosting writes.
        Cloudbase = "cloudbase",
        /// No token: the sidecar of WeChat cloud hosting adds it.
        Open = "open",
        /// An authorizer's token, fetched by a third-party platform.
        Authorizer = "authorizer",
    }
}

named! {
    /// Who may follow `GET /v1/files/{path}`.
    pub enum LinkAccess {
        Public = "public",
        Signed = "signed",
        Authenticated = "authenticated",
    }
}

named! {
    /// The shape of an upload's reply, by the client that reads it; `http::reply` has the shapes.
    pub enum ReplyProfile {
        Default = "default",
        Wangeditor = "wangeditor",
        Tinymce = "tinymce",
        Ckeditor = "ckeditor",
        Editorjs = "editorjs",
        Vditor = "vditor",
        Ueditor = "ueditor",
        Filepond = "filepond",
        Dropzone = "dropzone",
        Text = "text",
    }
}

named! {
    /// What a caller may be allowed.
    pub enum Action {
        Upload = "upload",
        Download = "download",
        Delete = "delete",
        Link = "link",
    }
}

named! {
    /// How tickets are signed.
    pub enum JwtAlgorithm {
        Hs256 = "HS256",
        Rs256 = "RS256",
        Es256 = "ES256",
        EdDsa = "EdDSA",
    }
}

named! {
    pub enum LogFormat {
        Text = "text",
        Json = "json",
    }
}

/// Every setting, checked. Secrets show neither in `Debug` nor in [`Settings::describe`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// A warning for each setting that was given under its old name.
    renamed: Vec<String>,
    pub profile: Profile,
    pub server: Server,
    pub cors: Cors,
    pub wechat: Wechat,
    pub cos: Cos,
    pub upload: Upload,
    pub auth: Auth,
    pub links: Links,
    pub redis: Redis,
    pub console: Console,
    pub telemetry: Telemetry,
    pub sandbox: Sandbox,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub bind: SocketAddr,
    /// At least 1.
    pub workers: usize,
    /// Without query and trailing slash.
    pub public_url: Option<String>,
    /// At least 1.
    pub max_connections: usize,
    pub shutdown_grace: Duration,
    /// Part of `shutdown_grace`.
    pub shutdown_delay: Duration,
    /// Zero: what a sender still sends after an early answer is not read.
    pub lingering_timeout: Duration,
    /// At least 1 s.
    pub write_timeout: Duration,
    /// `None`: plain HTTP.
    pub tls: Option<ServerTls>,
    pub trusted_proxies: Vec<IpNet>,
    /// Without query, fragment and trailing slash.
    pub errors_url: String,
}

/// PEM files; read at start.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The certificate, then its intermediates.
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Cors {
    /// Lower case, without the scheme's own port. May contain `null`, and origins without a host (`file://`).
    pub origins: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Wechat {
    /// Without trailing slash.
    pub base_url: String,
    /// Like `appid` and `secret`, empty only where the sandbox is on: it has its own.
    pub env: String,
    pub credential: CredentialMode,
    pub appid: String,
    pub secret: SecretString,
    /// `cloud://ENV.BUCKET`, without trailing slash.
    pub file_id_prefix: Option<String>,
    pub cloudbase_token_file: PathBuf,
    pub authorizer: Authorizer,
    pub timeout: Duration,
    pub connect_timeout: Duration,
}

/// The third-party platform's flow; complete where `wechat.credential` is `authorizer`.
#[derive(Clone, Debug)]
pub struct Authorizer {
    pub component_appid: String,
    pub authorizer_appid: String,
    pub refresh_token: SecretString,
    pub component_token_file: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Redis {
    /// A secret as a whole: its user info may be a password.
    pub url: Option<SecretString>,
}

#[derive(Clone, Debug)]
pub struct Cos {
    /// `host`, `*.host`, `1.2.3.4`, `[::1]`, each with or without `:port`; lower case.
    pub allowed_hosts: Vec<String>,
    pub allow_http: bool,
    pub send_content_type: bool,
    pub verify_crc64: bool,
    pub connect_timeout: Duration,
    pub write_timeout: Duration,
    pub reply_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Upload {
    /// In bytes, at most [`COS_MAX_FILE_SIZE`].
    pub max_file_size: u64,
    pub max_files: usize,
    /// `image/png`, `image/*`; empty: any.
    pub allowed_types: Vec<String>,
    /// Its placeholders are known ones; its text is not checked against the rules for paths.
    pub path_template: String,
    pub client_paths: bool,
    pub idle_timeout: Duration,
    /// In bytes; zero: nothing is kept. At most `memory_budget`, as is `max_buffered_file`.
    pub replay_window: usize,
    /// In bytes; zero: nothing is held.
    pub max_buffered_file: usize,
    /// In bytes.
    pub memory_budget: usize,
    pub max_concurrent: usize,
    /// `None`: as many as there are places.
    pub max_concurrent_per_client: Option<usize>,
    /// Where the request names none.
    pub reply: ReplyProfile,
}

#[derive(Clone, Debug)]
pub struct Console {
    pub enabled: bool,
}

#[derive(Clone, Debug)]
pub struct Telemetry {
    /// As tracing's `EnvFilter` reads it; not checked here.
    pub log: String,
    pub format: LogFormat,
}

#[derive(Clone, Debug)]
pub struct Sandbox {
    pub enabled: bool,
    /// `None`: one in the system's folder for temporary files.
    pub data: Option<PathBuf>,
    /// Zero, like `cos_port`: any free one.
    pub wechat_port: u16,
    pub cos_port: u16,
    pub token_life: Duration,
    pub token_overlap: Duration,
    pub link_life: Duration,
}

/// What is wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub key: String,
    pub problem: String,
}

/// Everything that is wrong with the settings, sorted by key; one line each.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl Settings {
    /// Reads the process's environment: `GATEWAY_PROFILE` (where `profile` is `None`), `PORT`, and
    /// `GATEWAY__*`.
    pub fn load(profile: Option<&str>, config_file: Option<&Path>) -> Result<Self, Faults> {
        let mut layers = Layers::default();
        let mut env = HashMap::new();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if !(name == "GATEWAY_PROFILE" || name == "PORT" || layers::is_variable(&name)) {
                continue;
            }
            match value.into_string() {
                Ok(value) => drop(env.insert(name, value)),
                Err(_) => layers.fault(&name, "is not UTF-8"),
            }
        }
        Self::read(profile, config_file, env, layers)
    }

    /// As [`Settings::load`], with `env` as the environment.
    pub fn from_layers(
        profile: Option<&str>,
        config_file: Option<&Path>,
        env: HashMap<String, String>,
    ) -> Result<Self, Faults> {
        Self::read(profile, config_file, env, Layers::default())
    }

    fn read(
        profile: Option<&str>,
        config_file: Option<&Path>,
        env: HashMap<String, String>,
        mut layers: Layers,
    ) -> Result<Self, Faults> {
        let variable =
            |name: &str| env.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let name =
            profile.or_else(|| variable("GATEWAY_PROFILE")).unwrap_or(Profile::Sandbox.name());
        let profile: Option<Profile> = name
            .parse()
            .map_err(|problem| {
                layers
                    .fault("profile", format!("{name:?} {problem} (--profile or GATEWAY_PROFILE)"))
            })
            .ok();

        layers.built_in(DEFAULT);
        match profile {
            Some(Profile::Sandbox) => layers.built_in(SANDBOX),
            Some(Profile::Production) => layers.built_in(PRODUCTION),
            None => {}
        }
        if profile == Some(Profile::Production)
            && let Some(port) = variable("PORT")
        {
            layers.port(port);
        }
        if let Some(path) = config_file {
            layers.file(path);
        }
        layers.environment(env);

        let renamed = layers.renamed();
        let mut reader = Reader::from(layers);
        let settings = Self {
            renamed,
            profile: profile.unwrap_or(Profile::Sandbox),
            server: Server::read(&mut reader),
            cors: Cors { origins: reader.list("cors.origins", values::origin) },
            wechat: Wechat::read(&mut reader),
            cos: Cos::read(&mut reader),
            upload: Upload::read(&mut reader),
            auth: Auth::read(&mut reader),
            links: Links::read(&mut reader),
            redis: Redis { url: reader.optional("redis.url", values::redis_url) },
            console: Console { enabled: reader.flag("console.enabled") },
            telemetry: Telemetry::read(&mut reader),
            sandbox: Sandbox::read(&mut reader),
        };
        rules::check(&settings, profile, &mut reader);
        match reader.finish() {
            faults if faults.is_empty() => Ok(settings),
            faults => Err(Faults(faults)),
        }
    }
}

impl Fault {
    fn new(key: &str, problem: impl Into<String>) -> Self {
        Self { key: key.to_owned(), problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (line, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if line > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}
