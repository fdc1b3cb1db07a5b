//! The arguments of `--target`, and the plan that they make: within bounds, whatever is asked for.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use hyper::Uri;
use hyper::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tcb_upload_gateway::key::Key;

/// The most of a run, in seconds.
pub const MAX_SECONDS: u64 = 600;
/// The most files of a run; their ids stay in memory until they are deleted.
pub const MAX_UPLOADS: u64 = 100_000;
/// The most bytes of a run.
pub const MAX_BYTES: u64 = 10 << 30;
/// The most bytes of a file, which is what COS accepts in one form.
const MAX_SIZE: u64 = 5 << 30;
/// The file of the check is at most this large, in bytes.
const MAX_CHECK: u64 = 1 << 20;
/// Without `--seconds` and `--uploads`.
const DEFAULT_SECONDS: u64 = 10;
const DEFAULT_UPLOADS: u64 = 1_000;
/// The endpoint's path, which may stand at the end of `--target`.
const FILES: &str = "/v1/files";
/// What measures other things, or in another way. The ids of `relay.rs`'s arguments.
const OTHER_MODES: [&str; 10] = [
    "filters", "quick", "check", "rounds", "peers", "binary", "polling", "record", "guides", "list",
];

/// A load test of a deployment. Clap copies these comments into `--help`.
#[derive(Args, Debug)]
#[command(next_help_heading = "A deployment of your own")]
pub struct TargetArguments {
    /// Measure this deployment of the gateway in place of the peers on this machine; a path is allowed
    #[arg(long, value_name = "URL", conflicts_with_all = OTHER_MODES)]
    pub target: Option<String>,
    /// The API key or ticket. Other users can see arguments in the list of processes: the variable GATEWAY_KEY is safer
    #[arg(long, value_parser = secret, requires = "target")]
    key: Option<SecretString>,
    /// Root certificates in PEM that are trusted as well as the system's
    #[arg(long, value_name = "FILE", requires = "target")]
    ca: Option<PathBuf>,
    /// Connections, each with one upload at a time
    #[arg(
        long,
        default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=256),
        requires = "target"
    )]
    connections: u16,
    /// The longest time that uploads are begun, up to 600 [default: 10, or 600 with --uploads]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS), requires = "target")]
    seconds: Option<u64>,
    /// The most uploads, up to 100,000 [default: 1,000, or what the bounds allow with --seconds or --rate]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_UPLOADS), requires = "target")]
    uploads: Option<u64>,
    /// The size of each file, such as 64KiB or 1MiB
    #[arg(long, default_value = "64KiB", value_parser = size, requires = "target")]
    size: u64,
    /// Begin this many uploads a second, whether earlier ones are finished or not (an open loop)
    #[arg(long, value_name = "UPLOADS/S", value_parser = rate, requires = "target")]
    rate: Option<f64>,
    /// Store the files under this path, in a folder of the run; the key must be allowed to choose paths (client_paths)
    #[arg(long, value_name = "PATH", requires = "target")]
    prefix: Option<String>,
    /// Leave the files where they are
    #[arg(long, requires = "target")]
    keep: bool,
    /// Begin without asking; for scripts
    #[arg(long, requires = "target")]
    yes: bool,
}

/// Why a run is not begun.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("--target must begin with http:// or https:// and name a host")]
    Scheme,
    #[error("--target must not contain a user, a query or a fragment")]
    Extras,
    #[error("--target is not a URL: {0}")]
    Uri(#[from] hyper::http::uri::InvalidUri),
    #[error("the key is empty or contains characters that are not allowed in a header")]
    Key,
    #[error("--prefix: {0}")]
    Prefix(#[from] tcb_upload_gateway::key::KeyError),
    #[error("{uploads} files of {size}, and the check, are more than {}", ByteSize(MAX_BYTES))]
    Bytes { uploads: u64, size: ByteSize },
    #[error("{0} uploads are more than {MAX_UPLOADS}")]
    Uploads(u64),
}

/// A run within the bounds.
#[derive(Debug)]
pub struct RunPlan {
    /// `http` or `https`, host, path without a slash at its end.
    pub base: Uri,
    /// `Bearer …`, marked as sensitive.
    pub authorization: Option<HeaderValue>,
    pub ca: Option<PathBuf>,
    pub connections: u16,
    /// How long uploads are begun.
    pub seconds: u64,
    /// The most uploads, apart from the check.
    pub uploads: u64,
    /// Of each file, in bytes.
    pub size: u64,
    /// Of the check's file, in bytes.
    pub check_size: u64,
    /// Uploads a second in an open loop.
    pub rate: Option<f64>,
    pub prefix: Option<String>,
    pub keep: bool,
    pub yes: bool,
}

impl TargetArguments {
    /// The plan for `target`. `key` is of the environment; the argument comes first.
    pub fn plan(&self, target: &str, key: Option<SecretString>) -> Result<RunPlan, PlanError> {
        let base = base(target)?;
        let key = self.key.clone().or(key);
        let authorization = key.as_ref().map(bearer).transpose()?;
        if let Some(prefix) = &self.prefix {
            // As long as the longest of the run's paths.
            Key::parse(format!("{prefix}/20260101-000000-00000000/100000"))?;
        }
        let check_size = self.size.min(MAX_CHECK);
        let most = ((MAX_BYTES - check_size) / self.size).min(MAX_UPLOADS);
        let seconds = match (self.seconds, self.uploads) {
            (Some(seconds), _) => seconds,
            (None, Some(_)) => MAX_SECONDS,
            (None, None) => DEFAULT_SECONDS,
        };
        let scheduled = self.rate.map(|rate| (rate * seconds as f64).ceil() as u64);
        let uploads = match (self.uploads, scheduled) {
            (Some(uploads), Some(scheduled)) => uploads.min(scheduled),
            (Some(uploads), None) => uploads,
            (None, Some(scheduled)) => scheduled,
            (None, None) if self.seconds.is_some() => most,
            (None, None) => DEFAULT_UPLOADS.min(most),
        };
        if uploads > MAX_UPLOADS {
            return Err(PlanError::Uploads(uploads));
        }
        if uploads > most {
            return Err(PlanError::Bytes { uploads, size: ByteSize(self.size) });
        }
        Ok(RunPlan {
            base,
            authorization,
            ca: self.ca.clone(),
            connections: self.connections,
            seconds,
            uploads,
            size: self.size,
            check_size,
            rate: self.rate,
            prefix: self.prefix.clone(),
            keep: self.keep,
            yes: self.yes,
        })
    }
}

impl RunPlan {
    /// The target's host, which confirms a run.
    pub fn host(&self) -> &str {
        self.base.host().unwrap_or_default()
    }

    /// The most bytes that are sent, apart from the requests' heads.
    pub fn bytes(&self) -> u64 {
        self.uploads * self.size + self.check_size
    }

    /// How long a response is waited for, from the request's first byte: long enough for a file at 128 KiB/s.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs((60 + self.size / (128 << 10)).min(MAX_SECONDS))
    }

    /// The target as it is printed.
    pub fn target(&self) -> String {
        self.base.to_string().trim_end_matches('/').to_owned()
    }

    /// The key, so that no output contains it.
    pub fn key(&self) -> Option<&str> {
        self.authorization.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }
}

fn base(target: &str) -> Result<Uri, PlanError> {
    let rest = target.strip_prefix("https://").or_else(|| target.strip_prefix("http://"));
    let rest = rest.ok_or(PlanError::Scheme)?;
    if rest.contains(['@', '?', '#']) {
        return Err(PlanError::Extras);
    }
    if rest.is_empty() || rest.starts_with('/') {
        return Err(PlanError::Scheme);
    }
    let target = target.trim_end_matches('/');
    let uri: Uri = target.strip_suffix(FILES).unwrap_or(target).parse()?;
    if uri.host().is_none_or(str::is_empty) { Err(PlanError::Scheme) } else { Ok(uri) }
}

fn bearer(key: &SecretString) -> Result<HeaderValue, PlanError> {
    let key = key.expose_secret();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(PlanError::Key);
    }
    let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| PlanError::Key)?;
    value.set_sensitive(true);
    Ok(value)
}

fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(text.into())
}

fn size(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(ByteSize(bytes)) if (1..=MAX_SIZE).contains(&bytes) => Ok(bytes),
        Ok(_) => Err(format!("a file has 1 byte to {}", ByteSize(MAX_SIZE))),
        Err(_) => Err("not a size such as 256KiB or 20MiB, or a number of bytes".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 10_000.0 => Ok(rate),
        _ => Err("not a number of uploads a second, up to 10,000".to_owned()),
    }
}
