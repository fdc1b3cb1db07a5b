//! `doctor`: one byte through every service that the settings name, step by step, and for a step that fails what to
//! change and where. Needs no running gateway.

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
use crate::cos::target::{AllowedHosts, Target};
use crate::file_stream::{FileEnd, FileEvent, FileLength, Source};
use crate::key::{Key, Template, Values};
use crate::memory::budget::{Budget, Share};
use crate::memory::replay_buffer::ReplayBuffer;
use crate::net::tls;
use crate::settings::Settings;
use crate::wechat::error::{FileError, WechatError};
use crate::wechat::links::Wanted;
use crate::wechat::wire::UploadLink;

/// What is uploaded.
const CONTENT: &[u8] = b"1";
const CONTENT_TYPE: &str = "text/plain";
/// Of the download link; it is used at once.
const LINK_LIFE: Duration = Duration::from_secs(600);

/// What is wrong, and what to change.
struct Fault {
    what: String,
    change: String,
}

type Checked<T> = Result<(T, String), Fault>;

/// Prints each step as it ends: 0 when all of them went well, 1 otherwise.
pub fn run(settings: Settings) -> ExitCode {
    let mut report = Report::default();
    let examined = actix_web::rt::System::new().block_on(examine(settings, &mut report));
    if let Err(error) = examined {
        report.failed("start", &Fault { what: error.to_string(), change: String::new() });
    }
    report.end()
}

#[derive(Default)]
struct Report {
    failed: Vec<&'static str>,
}

impl Report {
    /// The step's result, if the steps behind it make sense.
    fn step<T>(&mut self, name: &'static str, checked: Checked<T>) -> Option<T> {
        match checked {
            Ok((value, said)) => {
                self.line("ok", name, &said);
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

    fn line(&self, mark: &str, name: &str, said: impl fmt::Display) {
        println!("{mark:<7} {name:<10} {said}");
    }

    fn end(self) -> ExitCode {
        if self.failed.is_empty() {
            println!("\nAll is well: what these settings describe works.");
            return ExitCode::SUCCESS;
        }
        println!(
            "\nNot in order: {}. Change what is said there, then run this again.",
            self.failed.join(", ")
        );
        ExitCode::FAILURE
    }
}

async fn examine(settings: Settings, report: &mut Report) -> Result<(), AppError> {
    let warnings = settings.warnings();
    report.line("ok", "settings", format!("{} profile, no faults", settings.profile.name()));
    warnings.iter().for_each(|warning| report.line("note", "settings", warning));
    report.step("listen", listen(&settings));

    let (settings, _sandbox) = app::with_sandbox(settings)?;
    let examiner = Examiner { upstreams: Upstreams::new(&settings)?, settings: &settings };
    if let Some(public_url) = &settings.server.public_url {
        examiner.public_url(public_url, report).await;
    }
    if settings.redis.url.is_some() {
        report.step("redis", examiner.redis().await);
    }
    let Some(()) = report.step("token", examiner.token().await) else {
        report.skipped(&["link", "upload", "download", "delete"]);
        return Ok(());
    };
    let Some((key, link, target)) = report.step("link", examiner.link().await) else {
        report.skipped(&["upload", "download", "delete"]);
        return Ok(());
    };
    let Some(()) = report.step("upload", examiner.upload(&key, &link, &target).await) else {
        report.skipped(&["download"]);
        // It may be stored although nobody said so.
        report.step("delete", examiner.delete(&link.file_id).await);
        return Ok(());
    };
    report.step("download", examiner.download(&link.file_id).await);
    report.step("delete", examiner.delete(&link.file_id).await);
    Ok(())
}

/// Whether the gateway could listen where it is told to, with the certificate it is told to show.
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
            Ok(((), format!("{} is in use, by a gateway that runs already?", server.bind)))
        }
        Err(error) => Err(Fault {
            what: format!("cannot listen on {}: {error}", server.bind),
            change: "set server.bind to an address of this machine and a port that the gateway's user may use \
                     (below 1024 only root)"
                .to_owned(),
        }),
    }
}

struct Examiner<'a> {
    upstreams: Upstreams,
    settings: &'a Settings,
}

impl Examiner<'_> {
    /// Whether what clients are told to call is this gateway's. Nobody there is no fault: it need not run yet.
    async fn public_url(&self, public_url: &str, report: &mut Report) {
        const STEP: &str = "address";
        let http = self.upstreams.http(self.settings);
        let health = format!("{}/healthz", public_url.trim_end_matches('/'));
        let mut reply = match http.get(&health).send().await {
            Ok(reply) => reply,
            Err(error) => {
                let said = format!(
                    "nobody answers at {public_url} ({error}), by a gateway that does not run yet?"
                );
                return report.line("note", STEP, said);
            }
        };
        let status = reply.status().as_u16();
        let body = reply.body().limit(64 * 1024).await.unwrap_or_default();
        let body = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
        report.step(
            STEP,
            if status == 200 && body["status"] == "ok" {
                Ok(((), format!("a gateway answers at {public_url}")))
            } else {
                Err(Fault {
                    what: format!("{public_url} answers {status}, and not like a gateway"),
                    change: "server.public_url is the address under which clients reach the gateway: correct it, or \
                             have the proxy there pass everything below it on"
                        .to_owned(),
                })
            },
        );
    }

    async fn redis(&self) -> Checked<()> {
        match self.upstreams.access().shared().await {
            Ok(()) => Ok(((), "answers, and takes what is shared".to_owned())),
            Err(away) => Err(Fault {
                what: away.to_string(),
                change: "check the address and the password in redis.url, and that this Redis may be written to and \
                         runs scripts (EVAL)"
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

    /// A link for a path of the template, and whether it may be followed.
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
            what: format!("no path by upload.path_template: {error}"),
            change: "change upload.path_template".to_owned(),
        })?;
        let wechat = self.upstreams.wechat(settings);
        let link = wechat.upload_link(key.as_str()).await;
        let link = link.map_err(|error| self.wechat_fault(&error))?;
        let hosts = AllowedHosts::new(&settings.cos.allowed_hosts, settings.cos.allow_http);
        let target = hosts.check(&link.url, &link.file_id, key.as_str());
        let target = target.map_err(|error| self.cos_fault(&error, &link.url))?;
        let said = format!("{key} in {}, to {}", settings.wechat.env, target.authority);
        Ok(((key, link, target), said))
    }

    async fn upload(&self, key: &Key, link: &UploadLink, target: &Target) -> Checked<()> {
        let cos = &self.settings.cos;
        let fault = |error: CosError| self.cos_fault(&error, &link.url);
        let frame = FormEnvelope::new(&Fields {
            key: key.as_str(),
            signature: link.authorization.expose_secret(),
            security_token: link.token.expose_secret(),
            file_id: link.cos_file_id.expose_secret(),
            content_type: cos.send_content_type.then_some(CONTENT_TYPE),
        })
        .map_err(fault)?;
        let kept = ReplayBuffer::new(Share::new(Budget::new(0)));
        let relay = Relay::new(kept, None, one_byte(), 0, cos.verify_crc64);
        let framed = FileLength::Known(CONTENT.len() as u64);
        let sent = relay.attempt(&self.upstreams.cos(), target, frame, framed).await;
        let receipt = sent.map_err(fault)?;
        let verified = if receipt.verified { "its CRC-64 agrees" } else { "COS named no CRC-64" };
        Ok(((), format!("{} byte stored, {verified}", receipt.size)))
    }

    async fn download(&self, file_id: &str) -> Checked<()> {
        let wechat = self.upstreams.wechat(self.settings);
        let wanted = Wanted { file_id: file_id.to_owned(), max_age: LINK_LIFE };
        let link = wechat.download_link(&wanted).await.map_err(|error| self.file_fault(&error))?;
        let host = host(&link.url).to_owned();
        let fault = |what: String, change: &str| Fault {
            what: format!("{host}: {what}"),
            change: change.to_owned(),
        };
        let http = self.upstreams.http(self.settings);
        let mut reply = http.get(&link.url).send().await.map_err(|error| {
            fault(
                error.to_string(),
                "this machine cannot reach the download host; browsers must: check its name, its certificate and \
                 the firewall",
            )
        })?;
        let status = reply.status();
        if !status.is_success() {
            return Err(fault(
                format!("the download link answers {}", status.as_u16()),
                "let users read the storage: the cloud console > 存储 > 权限设置 (storage permissions), or the rules \
                 of its CDN domain (防盗链)",
            ));
        }
        let body = reply.body().limit(64 * 1024).await.unwrap_or_default();
        if body != CONTENT {
            return Err(fault(
                "something else comes back than was stored".to_owned(),
                "look at what stands between: a proxy, or the rules of the storage's CDN domain",
            ));
        }
        Ok(((), format!("the same byte from {host}")))
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
            WechatError::Refused { call, errcode, message, advice } => {
                return Fault {
                    what: format!("WeChat refused `{call}`: {errcode} {message}"),
                    change: advice.as_deref().unwrap_or(UNKNOWN).to_owned(),
                };
            }
            WechatError::Unreachable { .. } => format!(
                "this machine must reach {base_url} (wechat.base_url): check the name, the firewall, and for a \
                 private certificate SSL_CERT_FILE"
            ),
            WechatError::Timeout { .. } => format!(
                "{base_url} (wechat.base_url) is too slow or does not answer: check the route to it, or raise \
                 wechat.timeout"
            ),
            WechatError::Unusable { .. } => {
                format!("{base_url} does not answer like WeChat's API: correct wechat.base_url")
            }
            WechatError::Credential(_) => {
                "see wechat.credential and the settings of its mode".to_owned()
            }
        };
        Fault { what: error.to_string(), change }
    }

    fn file_fault(&self, error: &FileError) -> Fault {
        match error {
            FileError::Call(error) => self.wechat_fault(error),
            FileError::File { status, message, advice } => Fault {
                what: format!("WeChat says of the file: {status} {message}"),
                change: advice.as_deref().unwrap_or(UNKNOWN).to_owned(),
            },
        }
    }

    fn cos_fault(&self, error: &CosError, link: &str) -> Fault {
        let host = host(link);
        let change = match error {
            CosError::Link(_) => format!(
                "the link that WeChat gave leads to {host}: if that is Tencent's, add it to cos.allowed_hosts (plain \
                 http also wants cos.allow_http); if not, wechat.base_url is not WeChat"
            ),
            CosError::Unreachable(_) => format!(
                "this machine must reach {host}: check the firewall, proxies, and for a private certificate \
                 SSL_CERT_FILE"
            ),
            CosError::Timeout { .. } | CosError::NoVerdict(_) => format!(
                "{host} is too slow or something between cuts it off: check the route to it; the limits are \
                 cos.connect_timeout, .write_timeout and .reply_timeout"
            ),
            CosError::Integrity { .. } => format!(
                "something between this machine and {host} changes what is sent: take that proxy out; the file is \
                 deleted again"
            ),
            CosError::Refused { status, code, .. } => cos_advice(*status, code).to_owned(),
            CosError::Source(_) | CosError::NotLast { .. } | CosError::LengthMismatch { .. } => {
                String::new()
            }
        };
        Fault { what: error.to_string(), change }
    }
}

const UNKNOWN: &str =
    "WeChat's own words are all there is to say; its support will ask for the rid";

/// By COS's error codes (doc 7730).
fn cos_advice(status: u16, code: &str) -> &'static str {
    match (status, code) {
        (402, _) | (451, _) | (_, "PaymentRequired") => {
            "the account is in arrears or blocked: see the Tencent Cloud console > 费用中心"
        }
        (_, "NoSuchBucket") => {
            "the environment's bucket is gone: take wechat.env from the cloud hosting console again"
        }
        (_, "RequestTimeTooSkewed" | "ExpiredToken") => {
            "the link had expired when it was used: something between holds requests back for minutes"
        }
        (_, "MalformedPOSTRequest" | "MissingContentLength" | "IncompleteBody") | (411, _) => {
            "something between this machine and COS changes requests (a proxy that sends chunked?): take it out"
        }
        (403, _) => {
            "the environment's storage refuses uploads: the cloud console > 存储 > 权限设置 (storage permissions); \
             and look whether the environment is locked"
        }
        (500.., _) => "COS is busy or out of order: try again in a few minutes",
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
