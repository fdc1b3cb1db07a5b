//! The steps that both roads to COS have in common.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::report::{Checked, Fault, Report};
use crate::app::Upstreams;
use crate::cos::target::{AllowedHosts, Target};
use crate::key::{Key, Template, Values};
use crate::net::tls;
use crate::settings::Settings;
use crate::wechat::links::LinkRequest;
use crate::wechat::wire::UploadLink;

/// The content of the uploaded file.
pub(super) const CONTENT: &[u8] = b"1";
pub(super) const CONTENT_TYPE: &str = "text/plain";
/// Of download links, which are used immediately.
const LINK_MAX_AGE: Duration = Duration::from_secs(600);

/// An upload link that may be used.
pub(super) struct CheckedLink {
    pub key: Key,
    pub link: UploadLink,
    pub target: Target,
}

/// Whether the gateway could listen on `server.bind`, with the certificate of `server.tls`.
pub(super) fn listen(settings: &Settings) -> Checked<()> {
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
pub(super) struct Checks<'a> {
    pub upstreams: Upstreams,
    pub settings: &'a Settings,
}

impl Checks<'_> {
    /// Whether a gateway responds at `server.public_url`. No response is not a fault, since the gateway need not be
    /// running yet.
    pub async fn public_url(&self, public_url: &str, report: &mut Report) {
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

    pub async fn redis(&self) -> Checked<()> {
        match self.upstreams.wechat.check_redis().await {
            Ok(()) => Ok(((), "reachable and writable".to_owned())),
            Err(error) => Err(Fault {
                what: error.to_string(),
                change: "check the host and the password in redis.url, and that this Redis allows writes and scripts \
                         (EVAL)"
                    .to_owned(),
            }),
        }
    }

    pub async fn token(&self) -> Checked<()> {
        let mode = self.settings.wechat.credential.name();
        let wechat = self.upstreams.wechat(self.settings);
        wechat.ready().await.map_err(|error| self.wechat_fault(&error))?;
        Ok(((), format!("credential mode `{mode}`, from {}", self.settings.wechat.base_url)))
    }

    /// A path of `upload.path_template` that is used for nothing else; `purpose` is part of a file's name.
    pub fn unused_key(&self, purpose: &str) -> Result<Key, Fault> {
        let name = format!("tcb-upload-gateway-{purpose}-{}.txt", Uuid::now_v7().simple());
        let values = Values {
            client: "doctor",
            dir: None,
            name: &name,
            now: Timestamp::now(),
            uuid: Uuid::now_v7(),
        };
        let template = Template::new(&self.settings.upload.path_template);
        template.render(&values, "").map_err(|error| Fault {
            what: format!("upload.path_template gives no path: {error}"),
            change: "change upload.path_template".to_owned(),
        })
    }

    /// Gets an upload link for such a path, and checks its host against `cos.allowed_hosts`.
    pub async fn link(&self, purpose: &str) -> Checked<CheckedLink> {
        let settings = self.settings;
        let key = self.unused_key(purpose)?;
        let wechat = self.upstreams.wechat(settings);
        let link = wechat.upload_link(key.as_str()).await;
        let link = link.map_err(|error| self.wechat_fault(&error))?;
        let target = self.allowed_hosts().check(&link.url, &link.file_id, key.as_str());
        let target = target.map_err(|error| self.cos_fault(&error, host(&link.url)))?;
        let text = format!("{key} in {}, to {}", settings.wechat.env, target.authority);
        Ok((CheckedLink { key, link, target }, text))
    }

    pub fn allowed_hosts(&self) -> AllowedHosts {
        AllowedHosts::new(&self.settings.cos.allowed_hosts, self.settings.cos.allow_http)
    }

    /// A URL for downloading a file, valid for a short time.
    pub async fn download_url(&self, file_id: &str) -> Result<String, Fault> {
        let wechat = self.upstreams.wechat(self.settings);
        let wanted = LinkRequest { file_id: file_id.to_owned(), max_age: LINK_MAX_AGE };
        let link = wechat.download_link(&wanted).await.map_err(|error| self.file_fault(&error))?;
        Ok(link.url)
    }

    pub async fn download(&self, file_id: &str) -> Checked<()> {
        let url = self.download_url(file_id).await?;
        let host = host(&url).to_owned();
        let fault = |what: String, change: &str| Fault {
            what: format!("{host}: {what}"),
            change: change.to_owned(),
        };
        let http = self.upstreams.http(self.settings);
        let mut response = http.get(&url).send().await.map_err(|error| {
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

    pub async fn delete(&self, file_id: &str) -> Checked<()> {
        let wechat = self.upstreams.wechat(self.settings);
        wechat.delete_one(file_id).await.map_err(|error| self.file_fault(&error))?;
        Ok(((), file_id.to_owned()))
    }
}

pub(super) fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}
