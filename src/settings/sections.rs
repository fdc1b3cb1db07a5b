//! How each section is read, and the limits of each value by itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::layers::Reader;
use super::model::{
    AuditOutput, Authorizer, Cos, CosApi, Hooks, Resumable, Sandbox, Server, ServerTls, Telemetry,
    Upload, WarmLinks, Wechat,
};
use super::names::{
    ContentDisposition, CosKeys, CosRoad, CredentialMode, FileIds, LogFormat, ReplyProfile, Verify,
};
use super::otlp::Otlp;
use super::rules;
use super::values::{
    self, COS_MAX_FILE_SIZE, COS_MAX_FORM, COS_MAX_PART, COS_MIN_PART, MIN_DURATION,
};

impl Server {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let path = |text: &str| Ok(PathBuf::from(text));
        let cert = reader.optional("server.tls.cert", path);
        let key = reader.optional("server.tls.key", path);
        if cert.is_some() != key.is_some() {
            let unset = if cert.is_some() { "server.tls.key" } else { "server.tls.cert" };
            reader.fault(unset, "is not set; TLS needs both the certificate and its key");
        }
        let placeholder = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Self {
            bind: reader.required("server.bind", values::socket_address).unwrap_or(placeholder),
            workers: reader
                .optional_number("server.workers", 1..=1024)
                .map_or_else(cores, |n| n as usize),
            public_url: reader.optional("server.public_url", values::base_url),
            max_connections: reader.number("server.max_connections", 1..=1_000_000) as usize,
            shutdown_grace: reader.duration("server.shutdown_grace", Duration::ZERO),
            shutdown_delay: reader.duration("server.shutdown_delay", Duration::ZERO),
            lingering_timeout: reader.duration("server.lingering_timeout", Duration::ZERO),
            write_timeout: reader.duration("server.write_timeout", Duration::from_secs(1)),
            tls: cert.zip(key).map(|(cert, key)| ServerTls { cert, key }),
            trusted_proxies: reader.list("server.trusted_proxies", values::network),
            errors_url: reader.required("server.errors_url", values::base_url).unwrap_or_default(),
        }
    }
}

impl Wechat {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let credential =
            reader.required("wechat.credential", str::parse).unwrap_or(CredentialMode::Stable);
        let base_url = reader.required("wechat.base_url", values::base_url).unwrap_or_default();
        let file = |text: &str| Ok(PathBuf::from(text));
        let warm_links = reader.scalar("wechat.warm_links", WarmLinks::parse);
        let warm_links = reader.require("wechat.warm_links", warm_links).unwrap_or(WarmLinks::Off);
        Self {
            // The platform's sidecar accepts plain HTTP only.
            base_url: match (credential, base_url.as_str()) {
                (CredentialMode::Open, rules::WECHAT_URL) => rules::WECHAT_OPEN_URL.to_owned(),
                _ => base_url,
            },
            env: reader.optional("wechat.env", values::id).unwrap_or_default(),
            credential,
            appid: reader.optional("wechat.appid", values::id).unwrap_or_default(),
            secret: reader.optional("wechat.secret", values::secret).unwrap_or_default(),
            file_id_prefix: reader.optional("wechat.file_id_prefix", values::file_id_prefix),
            cloudbase_token_file: reader
                .required("wechat.cloudbase_token_file", file)
                .unwrap_or_default(),
            authorizer: Authorizer {
                component_appid: reader
                    .optional("wechat.authorizer.component_appid", values::id)
                    .unwrap_or_default(),
                authorizer_appid: reader
                    .optional("wechat.authorizer.authorizer_appid", values::id)
                    .unwrap_or_default(),
                refresh_token: reader
                    .optional("wechat.authorizer.refresh_token", values::secret)
                    .unwrap_or_default(),
                component_token_file: reader
                    .optional("wechat.authorizer.component_token_file", file)
                    .unwrap_or_default(),
            },
            timeout: reader.duration("wechat.timeout", MIN_DURATION),
            connect_timeout: reader.duration("wechat.connect_timeout", MIN_DURATION),
            warm_links,
        }
    }
}

impl WarmLinks {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(0) => Ok(Self::Off),
                Ok(links @ 1..=Self::MAX) => Ok(Self::UpTo(links)),
                _ => Err(format!("is not off, auto or a number from 0 to {}", Self::MAX)),
            },
        }
    }
}

impl Cos {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            allowed_hosts: reader.list("cos.allowed_hosts", values::host_pattern),
            allow_http: reader.flag("cos.allow_http"),
            send_content_type: reader.flag("cos.send_content_type"),
            verify: reader.required("cos.verify", str::parse).unwrap_or(Verify::Reply),
            connect_timeout: reader.duration("cos.connect_timeout", MIN_DURATION),
            write_timeout: reader.duration("cos.write_timeout", MIN_DURATION),
            reply_timeout: reader.duration("cos.reply_timeout", MIN_DURATION),
            via: reader.required("cos.via", str::parse).unwrap_or(CosRoad::Form),
            slow_limit: reader.duration("cos.slow_limit", Duration::ZERO),
            api: CosApi::read(reader),
        }
    }
}

impl CosApi {
    fn read(reader: &mut Reader) -> Self {
        let url =
            |reader: &mut Reader, key| reader.required(key, values::base_url).unwrap_or_default();
        Self {
            keys: reader.required("cos.api.keys", str::parse).unwrap_or(CosKeys::Getauth),
            getauth_url: url(reader, "cos.api.getauth_url"),
            secret_id: reader.optional("cos.api.secret_id", values::id).unwrap_or_default(),
            secret_key: reader.optional("cos.api.secret_key", values::secret).unwrap_or_default(),
            token: reader.optional("cos.api.token", values::secret),
            endpoint: reader.required("cos.api.endpoint", values::cos_endpoint).unwrap_or_default(),
            bucket: reader.optional("cos.api.bucket", values::id),
            region: reader.optional("cos.api.region", values::id),
            file_ids: reader.required("cos.api.file_ids", str::parse).unwrap_or(FileIds::Link),
            metaid_url: url(reader, "cos.api.metaid_url"),
            part_size: reader.size("cos.api.part_size", COS_MIN_PART..=COS_MAX_PART),
            single_put: reader.size("cos.api.single_put", 0..=COS_MAX_FORM),
            abort_after: Some(reader.duration("cos.api.abort_after", Duration::ZERO))
                .filter(|age| !age.is_zero()),
        }
    }
}

impl Resumable {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            enabled: reader.flag("resumable.enabled"),
            expire_after: reader.duration("resumable.expire_after", Duration::from_secs(60)),
            keys: reader.list("resumable.keys", values::sealing_key),
            spool: reader.optional("resumable.spool", values::text).map(PathBuf::from),
            spool_limit: reader.size("resumable.spool_limit", 1 << 20..=1 << 50),
        }
    }
}

impl Hooks {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            stored_url: reader.optional("hooks.stored_url", values::base_url),
            secret: reader.list("hooks.secret", values::webhook_secret),
            wait: reader.flag("hooks.wait"),
            timeout: reader.duration("hooks.timeout", Duration::from_millis(100)),
            include: reader.list("hooks.include", str::parse),
        }
    }
}

impl Upload {
    pub(super) fn read(reader: &mut Reader) -> Self {
        // More than any machine's memory, and small enough that sums of several such values do not overflow.
        const MEMORY: u64 = 1 << 40;
        // Per second: more than a client's line can be expected to have.
        const MAX_MIN_RATE: u64 = 1 << 30;
        Self {
            max_file_size: reader.size("upload.max_file_size", 1..=COS_MAX_FILE_SIZE),
            max_files: reader.number("upload.max_files", 1..=10_000) as usize,
            allowed_types: reader.list("upload.allowed_types", values::media_type),
            path_template: reader
                .required("upload.path_template", values::path_template)
                .unwrap_or_default(),
            client_paths: reader.flag("upload.client_paths"),
            idle_timeout: reader.duration("upload.idle_timeout", MIN_DURATION),
            min_rate: Some(reader.size("upload.min_rate", 0..=MAX_MIN_RATE))
                .filter(|rate| *rate > 0),
            replay_window: reader.size("upload.replay_window", 0..=MEMORY) as usize,
            replay_window_max: reader.size("upload.replay_window_max", 0..=MEMORY) as usize,
            max_buffered_file: reader.size("upload.max_buffered_file", 0..=MEMORY) as usize,
            memory_budget: reader.size("upload.memory_budget", 0..=MEMORY) as usize,
            max_concurrent: reader.number("upload.max_concurrent", 1..=1_000_000) as usize,
            max_concurrent_per_client: reader
                .optional_number("upload.max_concurrent_per_client", 1..=1_000_000)
                .map(|n| n as usize),
            reply: reader.required("upload.reply", str::parse).unwrap_or(ReplyProfile::Default),
            content_disposition: reader
                .required("upload.content_disposition", str::parse)
                .unwrap_or(ContentDisposition::None),
            cache_control: reader.optional("upload.cache_control", values::header_value),
        }
    }
}

impl Telemetry {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            log: reader.required("telemetry.log", values::text).unwrap_or_default(),
            format: reader.required("telemetry.format", str::parse).unwrap_or(LogFormat::Text),
            audit: match reader.required("telemetry.audit", values::text).as_deref() {
                None | Some("off") => AuditOutput::Off,
                Some("stdout") => AuditOutput::Stdout,
                Some(path) => AuditOutput::File(PathBuf::from(path)),
            },
            otlp: Otlp::read(reader),
        }
    }
}

impl Sandbox {
    pub(super) fn read(reader: &mut Reader) -> Self {
        // The sandbox, as WeChat and COS, counts the life of tokens and links in whole seconds.
        const SECOND: Duration = Duration::from_secs(1);
        let mut port = |key| u16::try_from(reader.number(key, 0..=65535)).unwrap_or_default();
        let (wechat_port, cos_port) = (port("sandbox.wechat_port"), port("sandbox.cos_port"));
        Self {
            enabled: reader.flag("sandbox.enabled"),
            data: reader.optional("sandbox.data", values::text).map(PathBuf::from),
            wechat_port,
            cos_port,
            token_life: reader.duration("sandbox.token_life", SECOND),
            token_overlap: reader.duration("sandbox.token_overlap", Duration::ZERO),
            link_life: reader.duration("sandbox.link_life", SECOND),
            upload_limit: Some(reader.duration("sandbox.upload_limit", Duration::ZERO))
                .filter(|limit| !limit.is_zero()),
            post_crc: reader.flag("sandbox.post_crc"),
            secret_id: reader.optional("sandbox.secret_id", values::id),
            secret_key: reader.optional("sandbox.secret_key", values::secret),
        }
    }
}
