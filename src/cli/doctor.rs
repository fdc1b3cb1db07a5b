//! `doctor`: checks the settings step by step by uploading, downloading and deleting a 1-byte file through each service
//! that they name. For a step that fails it says what to change and where. It needs no running gateway.

use std::fmt;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use uuid::Uuid;

use crate::app::{self, AppError, Upstreams};
use crate::cos::error::CosError;
use crate::cos::form::{Fields, FormEnvelope};
use crate::cos::relay::Relay;
use crate::cos::replayable_file::BufferLimits;
use crate::cos::target::{AllowedHosts, Target};
use crate::file_stream::{FileEnd, FileEvent, FileLength, Source};
use crate::key::{Key, Template, Values};
use crate::memory::budget::{Budget, Share};
use crate::memory::replay_buffer::ReplayBuffer;
use crate::net::tls;
use crate::settings::{Settings, Verify};
use crate::wechat::error::{FileError, WechatError};
use crate::wechat::links::LinkRequest;
use crate::wechat::wire::UploadLink;

/// The content of the uploaded file.
const CONTENT: &[u8] = b"1";
const CONTENT_TYPE: &str = "text/plain";
/// Of the download link, which is used immediately.
const DEFAULT_LINK_MAX_AGE: Duration = Duration::from_secs(600);

/// Why a step failed.
struct Fault {
    what: String,
    /// What to change; may be empty.
    change: String,
}

/// A step's value and the text of its line.
type Checked<T> = Result<(T, String), Fault>;

/// Prints the result of each step; the exit code is 0 if all of them succeeded, otherwise 1.
pub fn run(settings: Settings) -> ExitCode {
    let mut report = Report::default();
    let result = actix_web::rt::System::new().block_on(check(settings, &mut report));
    if let Err(error) = result {
        report.failed("start", &Fault { what: error.to_string(), change: String::new() });
    }
    report.finish()
}

#[derive(Default)]
struct Report {
    failed: Vec<&'static str>,
}

impl Report {
    /// Prints a step's result; returns its value if the next steps can run.
    fn step<T>(&mut self, name: &'static str, checked: Checked<T>) -> Option<T> {
        match checked {
            Ok((value, text)) => {
                self.line("ok", name, &text);
                Some(value)
            }
            Err(fault) => {
                self.failed(name, &fault);
                None
            }
        }
    }

    fn failed(&mut self, name: &'static str, fault: &Fault) {
        self.line("FAILED", name, &fault.what);
        if !fault.change.is_empty() {
            println!("                   -> {}", fault.change);
        }
        self.failed.push(name);
    }

    fn skipped(&self, names: &[&str]) {
        names.iter().for_each(|name| self.line("-", name, "not tried"));
    }

    fn line(&self, mark: &str, name: &str, text: impl fmt::Display) {
        println!("{mark:<7} {name:<10} {text}");
    }

    fn finish(self) -> ExitCode {
        if self.failed.is_empty() {
            println!("\nAll steps succeeded: the gateway works with these settings.");
            return ExitCode::SUCCESS;
        }
        println!(
            "\nFailed: {}. Make the changes named there, then run doctor again.",
            self.failed.join(", ")
        );
        ExitCode::FAILURE
    }
}

async fn check(settings: Settings, report: &mut Report) -> Result<(), AppError> {
    let warnings = settings.warnings();
    report.line("ok", "settings", format!("{} profile, no faults", settings.profile.name()));
    warnings.iter().for_each(|warning| report.line("note", "settings", warning));
    report.step("listen", listen(&settings));

    let (settings, _sandbox) = app::with_sandbox(settings)?;
    let checks = Checks { upstreams: Upstreams::new(&settings)?, settings: &settings };
    if let Some(public_url) = &settings.server.public_url {
        checks.public_url(public_url, report).await;
    }
    if settings.redis.url.is_some() {
        report.step("redis", checks.redis().await);
    }
    let Some(()) = report.step("token", checks.token().await) else {
        report.skipped(&["link", "upload", "download", "delete"]);
        return Ok(());
    };
    let Some((key, link, target)) = report.step("link", checks.link().await) else {
        report.skipped(&["upload", "download", "delete"]);
        return Ok(());
    };
    let Some(()) = report.step("upload", checks.upload(&key, &link, &target).await) else {
        report.skipped(&["download"]);
        // A failed upload may have been stored nevertheless.
        report.step("delete", checks.delete(&link.file_id).await);
        return Ok(());
    };
    report.step("download", checks.download(&link.file_id).await);
    report.step("delete", checks.delete(&link.file_id).await);
    Ok(())
}

/// Whether the gateway could listen on `server.bind`, with the certificate of `server.tls`.
fn listen(settings: &Settings) -> Checked<()> {
    let server = &settings.server;
    if let Some(files) = &server.tls {
        tls::server(files).map_err(|error| Fault {
            what: format!("TLS: {error}"),
            change: "server.tls.cert and server.tls.key are PEM files that belong together and that the gateway's \
                     user may read"
                .to_owned(),
        })?;
    }
    match TcpListener::bind(server.bind) {
        Ok(_) => Ok(((), server.bind.to_string())),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Ok(((), format!("{} is in use; is a gateway already running?", server.bind)))
        }
        Err(error) => Err(Fault {
            what: format!("cannot listen on {}: {error}", server.bind),
            change: "set server.bind to an address of this machine and a port that the gateway's user may use \
                     (below 1024 only root)"
                .to_owned(),
        }),
    }
}

/// The steps that use the services.
struct Checks<'a> {
    upstreams: Upstreams,
    settings: &'a Settings,
}

impl Checks<'_> {
    /// Whether a gateway responds at `server.public_url`. No response is not a fault, since the gateway need not be
    /// running yet.
    async fn public_url(&self, public_url: &str, report: &mut Report) {
        const STEP: &str = "public_url";
        let http = self.upstreams.http(self.settings);
        let health = format!("{}/healthz", public_url.trim_end_matches('/'));
        let mut response = match http.get(&health).send().await {
            Ok(response) => response,
            Err(error) => {
                let text = format!(
                    "no response from {public_url} ({error}); is the gateway not running yet?"
                );
                return report.line("note", STEP, text);
            }
        };
        let status = response.status().as_u16();
        let body = response.body().limit(64 * 1024).await.unwrap_or_default();
        let body = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
        report.step(
            STEP,
            if status == 200 && body["status"] == "ok" {
                Ok(((), format!("a gateway responds at {public_url}")))
            } else {
                Err(Fault {
                    what: format!("{public_url} responds with {status}, not like a gateway"),
                    change: "server.public_url is the URL at which clients reach the gateway: correct it, or have the \
                             proxy there forward all paths below it"
                        .to_owned(),
                })
            },
        );
    }

    async fn redis(&self) -> Checked<()> {
        match self.upstreams.auth().check_sharing().await {
            Ok(()) => Ok(((), "reachable and writable".to_owned())),
            Err(error) => Err(Fault {
                what: error.to_string(),
                change: "check the host and the password in redis.url, and that this Redis allows writes and scripts \
                         (EVAL)"
                    .to_owned(),
            }),
        }
    }

    async fn token(&self) -> Checked<()> {
        let mode = self.settings.wechat.credential.name();
        let wechat = self.upstreams.wechat(self.settings);
        wechat.ready().await.map_err(|error| self.wechat_fault(&error))?;
        Ok(((), format!("credential mode `{mode}`, from {}", self.settings.wechat.base_url)))
    }

    /// Gets an upload link for a path of `upload.path_template`, and checks its host against `cos.allowed_hosts`.
    async fn link(&self) -> Checked<(Key, UploadLink, Target)> {
        let settings = self.settings;
        let name = format!("tcb-upload-gateway-doctor-{}.txt", Uuid::now_v7().simple());
        let values = Values {
            client: "doctor",
            dir: None,
            name: &name,
            now: Timestamp::now(),
            uuid: Uuid::now_v7(),
        };
        let template = Template::new(&settings.upload.path_template);
        let key = template.render(&values, "").map_err(|error| Fault {
            what: format!("upload.path_template gives no path: {error}"),
            change: "change upload.path_template".to_owned(),
        })?;
        let wechat = self.upstreams.wechat(settings);
        let link = wechat.upload_link(key.as_str()).await;
        let link = link.map_err(|error| self.wechat_fault(&error))?;
        let hosts = AllowedHosts::new(&settings.cos.allowed_hosts, settings.cos.allow_http);
        let target = hosts.check(&link.url, &link.file_id, key.as_str());
        let target = target.map_err(|error| self.cos_fault(&error, &link.url))?;
        let text = format!("{key} in {}, to {}", settings.wechat.env, target.authority);
        Ok(((key, link, target), text))
    }

    async fn upload(&self, key: &Key, link: &UploadLink, target: &Target) -> Checked<()> {
        let cos = &self.settings.cos;
        let fault = |error: CosError| self.cos_fault(&error, &link.url);
        let envelope = FormEnvelope::new(&Fields {
            key: key.as_str(),
            signature: link.authorization.expose_secret(),
            security_token: link.token.expose_secret(),
            file_id: link.cos_file_id.expose_secret(),
            content_type: cos.send_content_type.then_some(CONTENT_TYPE),
        })
        .map_err(fault)?;
        let buffer = ReplayBuffer::new(Share::new(Budget::new(0)));
        let limits = BufferLimits::window(0);
        let relay = Relay::new(buffer, None, one_byte(), limits, cos.verify != Verify::None);
        let length = FileLength::Known(CONTENT.len() as u64);
        let result = relay.post(&self.upstreams.cos(), target, envelope, length).await;
        let receipt = result.map_err(fault)?;
        let verified = if receipt.verified_by.is_some() {
            "CRC-64 verified"
        } else {
            "COS returned no CRC-64"
        };
        Ok(((), format!("{} byte stored, {verified}", receipt.size)))
    }

    async fn download(&self, file_id: &str) -> Checked<()> {
        let wechat = self.upstreams.wechat(self.settings);
        let wanted = LinkRequest { file_id: file_id.to_owned(), max_age: DEFAULT_LINK_MAX_AGE };
        let link = wechat.download_link(&wanted).await.map_err(|error| self.file_fault(&error))?;
        let host = host(&link.url).to_owned();
        let fault = |what: String, change: &str| Fault {
            what: format!("{host}: {what}"),
            change: change.to_owned(),
        };
        let http = self.upstreams.http(self.settings);
        let mut response = http.get(&link.url).send().await.map_err(|error| {
            fault(
                error.to_string(),
                "this machine cannot reach the download host, and browsers must: check its name, its certificate \
                 and the firewall",
            )
        })?;
        let status = response.status();
        if !status.is_success() {
            return Err(fault(
                format!("the download link responds with {}", status.as_u16()),
                "let users read the storage: the cloud console > 存储 > 权限设置 (storage permissions), or the rules \
                 of its CDN domain (防盗链)",
            ));
        }
        let body = response.body().limit(64 * 1024).await.unwrap_or_default();
        if body != CONTENT {
            return Err(fault(
                "the downloaded content differs from the uploaded one".to_owned(),
                "check what changes it on the way: a proxy, or the rules of the storage's CDN domain",
            ));
        }
        Ok(((), format!("the same content from {host}")))
    }

    async fn delete(&self, file_id: &str) -> Checked<()> {
        let wechat = self.upstreams.wechat(self.settings);
        wechat.delete_one(file_id).await.map_err(|error| self.file_fault(&error))?;
        Ok(((), file_id.to_owned()))
    }

    fn wechat_fault(&self, error: &WechatError) -> Fault {
        let base_url = &self.settings.wechat.base_url;
        let change = match error {
            WechatError::NoToken { cause, .. } => return self.wechat_fault(cause),
            WechatError::Refused { call, errcode, message, hint, .. } => {
                return Fault {
                    what: format!("WeChat refused `{call}`: {errcode} {message}"),
                    change: hint.as_deref().unwrap_or(UNKNOWN).to_owned(),
                };
            }
            WechatError::Unreachable { .. } => format!(
                "this machine must reach {base_url} (wechat.base_url): check the name, the firewall, and for a \
                 private certificate SSL_CERT_FILE"
            ),
            WechatError::Timeout { .. } => format!(
                "{base_url} (wechat.base_url) is too slow or does not respond: check the route to it, or raise \
                 wechat.timeout"
            ),
            WechatError::Unusable { .. } => {
                format!("{base_url} does not respond like WeChat's API: correct wechat.base_url")
            }
            WechatError::NoCredential(_) => {
                "see wechat.credential and the settings of its mode".to_owned()
            }
        };
        Fault { what: error.to_string(), change }
    }

    fn file_fault(&self, error: &FileError) -> Fault {
        match error {
            FileError::Call(error) => self.wechat_fault(error),
            FileError::File { status, message, hint } => Fault {
                what: format!("WeChat's status of the file: {status} {message}"),
                change: hint.as_deref().unwrap_or(UNKNOWN).to_owned(),
            },
        }
    }

    fn cos_fault(&self, error: &CosError, link: &str) -> Fault {
        let host = host(link);
        let change = match error {
            CosError::Link(_) => format!(
                "WeChat's upload link is for {host}: if that host is Tencent's, add it to cos.allowed_hosts (plain \
                 http also needs cos.allow_http); if not, wechat.base_url is not WeChat"
            ),
            CosError::Unreachable(_) => format!(
                "this machine must reach {host}: check the firewall, proxies, and for a private certificate \
                 SSL_CERT_FILE"
            ),
            CosError::Timeout { .. } | CosError::NoVerdict(_) => format!(
                "{host} is too slow, or a proxy closes the connection: check the route to it; the limits are \
                 cos.connect_timeout, .write_timeout and .reply_timeout"
            ),
            CosError::Integrity { .. } => format!(
                "a proxy between this machine and {host} changes what is sent: remove it; the file is deleted \
                 again"
            ),
            CosError::Refused { status, code, .. } => cos_advice(*status, code).to_owned(),
            CosError::Keys { .. } => {
                "getauth responds only inside WeChat cloud hosting, with the open interface service switched on; \
                 elsewhere set cos.api.keys to static"
                    .to_owned()
            }
            CosError::Source(_)
            | CosError::NotLast { .. }
            | CosError::SlowClient
            | CosError::OutOfMemory
            | CosError::LengthMismatch { .. } => String::new(),
        };
        Fault { what: error.to_string(), change }
    }
}

const UNKNOWN: &str = "no advice is known for this error; give the rid to WeChat's support";

/// What to change, by COS's error codes (doc 7730).
fn cos_advice(status: u16, code: &str) -> &'static str {
    match (status, code) {
        (402, _) | (451, _) | (_, "PaymentRequired") => {
            "the account is in arrears or blocked: see the Tencent Cloud console > 费用中心"
        }
        (_, "NoSuchBucket") => {
            "the environment's bucket is gone: take wechat.env from the cloud hosting console again"
        }
        (_, "RequestTimeTooSkewed" | "ExpiredToken") => {
            "the link had expired when it was used: a proxy delays requests by minutes"
        }
        (_, "MalformedPOSTRequest" | "MissingContentLength" | "IncompleteBody") | (411, _) => {
            "a proxy between this machine and COS changes requests (to chunked encoding?): remove it"
        }
        (403, _) => {
            "the environment's storage refuses uploads: the cloud console > 存储 > 权限设置 (storage permissions); \
             and check whether the environment is locked"
        }
        (500.., _) => "COS is busy or failing: try again in a few minutes",
        _ => "look the code up in COS's error codes (cloud.tencent.com/document/product/436/7730)",
    }
}

fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

fn one_byte() -> Source {
    let end = FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() });
    Box::pin(stream::iter([Ok(FileEvent::Content(Bytes::from_static(CONTENT))), Ok(end)]))
}
