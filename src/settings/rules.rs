//! The rules between settings, and the warnings about settings that are allowed but most likely wrong. A rule is not
//! checked where one of its values has a fault already.

use std::net::IpAddr;

use secrecy::ExposeSecret;

use super::auth::{Auth, Policy};
use super::layers::{Reader, variable};
use super::model::Settings;
use super::names::{
    Action, CosKeys, CosRoad, CredentialMode, FileIds, LinkAccess, Profile, ReplyProfile,
};
use super::tickets;
use super::values::{COS_MAX_FORM, size_text};

/// The default of `wechat.base_url`, as in `default.toml` (a test compares the two).
pub(super) const WECHAT_URL: &str = "https://api.weixin.qq.com";
/// The default in `open` mode.
pub(super) const WECHAT_OPEN_URL: &str = "http://api.weixin.qq.com";

/// `profile` is `None` where its name is unknown; the rules that depend on it are not checked then.
pub(super) fn check(settings: &Settings, profile: Option<Profile>, reader: &mut Reader) {
    credentials(settings, profile, reader);
    memory(settings, reader);
    cos_road(settings, reader);
    keys(settings, reader);
    tickets::check(settings, reader);
    links(settings, reader);
    hooks(settings, reader);
    quotas(settings, reader);
    receipts(settings, reader);
    settings.telemetry.otlp.check(cfg!(feature = "otlp"), reader);

    let Settings { server, sandbox, .. } = settings;
    if profile == Some(Profile::Sandbox)
        && !server.bind.ip().is_loopback()
        && reader.is_valid(&["server.bind"])
    {
        reader.fault(
            "server.bind",
            format!(
                "{} is not a loopback address, and the sandbox profile allows no other: \
                 use 127.0.0.1:PORT, or --profile production",
                server.bind
            ),
        );
    }
    if settings.cos.allowed_hosts.is_empty() && reader.is_valid(&["cos.allowed_hosts"]) {
        reader.fault("cos.allowed_hosts", "is empty: no upload could be sent to COS");
    }
    if sandbox.wechat_port != 0 && sandbox.wechat_port == sandbox.cos_port {
        reader.fault("sandbox.cos_port", "is the same as sandbox.wechat_port");
    }
}

fn credentials(settings: &Settings, profile: Option<Profile>, reader: &mut Reader) {
    let Settings { wechat, sandbox, .. } = settings;
    if !reader.is_valid(&["sandbox.enabled"]) {
        return;
    }
    if sandbox.enabled && profile == Some(Profile::Production) {
        reader.fault("sandbox.enabled", "must be false in production");
    } else if sandbox.enabled {
        if ![WECHAT_URL, WECHAT_OPEN_URL].contains(&wechat.base_url.as_str())
            && reader.is_valid(&["wechat.base_url"])
        {
            reader.fault(
                "wechat.base_url",
                format!(
                    "is set, but the sandbox is on and would be used instead: set sandbox.enabled = false ({}=false)",
                    variable("sandbox.enabled")
                ),
            );
        }
        return;
    }
    if profile.is_none() {
        return;
    }
    let by_secret = matches!(wechat.credential, CredentialMode::Secret | CredentialMode::Stable);
    let by_authorizer = wechat.credential == CredentialMode::Authorizer;
    let authorizer = &wechat.authorizer;
    let required = [
        ("wechat.env", "the cloud environment's id", wechat.env.is_empty()),
        ("wechat.appid", "the app's id", by_secret && wechat.appid.is_empty()),
        (
            "wechat.secret",
            "the app's secret",
            by_secret && wechat.secret.expose_secret().is_empty(),
        ),
        (
            "wechat.authorizer.component_appid",
            "the third-party platform's appid",
            by_authorizer && authorizer.component_appid.is_empty(),
        ),
        (
            "wechat.authorizer.authorizer_appid",
            "the appid of the app that authorized the platform",
            by_authorizer && authorizer.authorizer_appid.is_empty(),
        ),
        (
            "wechat.authorizer.refresh_token",
            "the authorizer_refresh_token of that app",
            by_authorizer && authorizer.refresh_token.expose_secret().is_empty(),
        ),
        (
            "wechat.authorizer.component_token_file",
            "the file with the platform's component_access_token",
            by_authorizer && authorizer.component_token_file.as_os_str().is_empty(),
        ),
    ];
    for (key, what, missing) in required {
        if missing && reader.is_valid(&[key, "wechat.credential"]) {
            reader.fault(
                key,
                format!("must be set where the sandbox is off: {what} ({})", variable(key)),
            );
        }
    }
}

fn memory(settings: &Settings, reader: &mut Reader) {
    const BUDGET: &str = "upload.memory_budget";
    let upload = &settings.upload;
    let parts = [
        ("upload.max_buffered_file", upload.max_buffered_file),
        ("upload.replay_window", upload.replay_window),
        (
            "cos.api.part_size",
            if settings.cos.via == CosRoad::Api { settings.cos.api.part_size as usize } else { 0 },
        ),
    ];
    for (key, size) in parts {
        if size > upload.memory_budget && reader.is_valid(&[key, BUDGET]) {
            reader.fault(key, format!("is larger than {BUDGET}, but must fit in it"));
        }
    }
}

fn cos_road(settings: &Settings, reader: &mut Reader) {
    let Settings { cos, upload, sandbox, .. } = settings;
    let is_form = cos.via == CosRoad::Form;
    if is_form
        && upload.max_file_size > COS_MAX_FORM
        && reader.is_valid(&["upload.max_file_size", "cos.via"])
    {
        reader.fault(
            "upload.max_file_size",
            format!("is too large: at most {}, unless cos.via is \"api\"", size_text(COS_MAX_FORM)),
        );
    }
    if is_form || sandbox.enabled {
        return;
    }
    let required = [
        ("cos.api.secret_id", cos.api.secret_id.is_empty()),
        ("cos.api.secret_key", cos.api.secret_key.expose_secret().is_empty()),
    ];
    for (key, missing) in required {
        if missing && cos.api.keys == CosKeys::Static && reader.is_valid(&[key, "cos.api.keys"]) {
            reader.fault(
                key,
                format!("must be set where cos.api.keys is \"static\" ({})", variable(key)),
            );
        }
    }
    // Without a link there is nothing to take them from.
    let learned = [
        ("cos.api.bucket", "{bucket}", cos.api.bucket.is_none()),
        ("cos.api.region", "{region}", cos.api.region.is_none()),
    ];
    for (key, placeholder, missing) in learned {
        let is_needed = key == "cos.api.bucket" || cos.api.endpoint.contains(placeholder);
        if missing && is_needed && cos.api.file_ids == FileIds::Metaid && reader.is_valid(&[key]) {
            reader.fault(
                key,
                format!("must be set where cos.api.file_ids is \"metaid\" ({})", variable(key)),
            );
        }
    }
}

fn keys(settings: &Settings, reader: &mut Reader) {
    let digest = |name: &str| format!("auth.keys.{name}.sha256");
    let keys: Vec<_> = settings.auth.keys.iter().collect();
    for (at, (name, key)) in keys.iter().enumerate() {
        let duplicate = keys[..at].iter().find(|(_, earlier)| earlier.sha256 == key.sha256);
        if let Some((other, _)) = duplicate
            && reader.is_valid(&[&digest(name), &digest(other)])
        {
            reader.fault(
                &digest(name),
                format!("is the same as that of `{other}`: the two keys cannot be told apart"),
            );
        }
    }
}

/// A policy names a quota that exists.
fn quotas(settings: &Settings, reader: &mut Reader) {
    let Auth { jwt, wx, keys, .. } = &settings.auth;
    let keys = keys.iter().map(|(name, key)| (format!("auth.keys.{name}"), &key.policy));
    let others = [("auth.jwt".to_owned(), &jwt.policy), ("auth.wx".to_owned(), wx)];
    for (under, policy) in keys.chain(others) {
        let unknown = policy.quota.as_ref().filter(|name| !settings.quotas.contains_key(*name));
        if let Some(name) = unknown {
            let problem = format!("names a quota that is not set: there is no [quota.{name}]");
            reader.fault(&format!("{under}.quota"), problem);
        }
    }
}

fn links(settings: &Settings, reader: &mut Reader) {
    const KEYS: &str = "links.signing_keys";
    let links = &settings.links;
    if links.access == LinkAccess::Signed
        && links.signing_keys.is_empty()
        && reader.is_valid(&[KEYS])
    {
        reader.fault(KEYS, "must be set where links.access is \"signed\"");
    }
}

fn hooks(settings: &Settings, reader: &mut Reader) {
    let Settings { hooks, upload, .. } = settings;
    let is_on = hooks.stored_url.is_some();
    if is_on && hooks.secret.is_empty() && reader.is_valid(&["hooks.secret", "hooks.stored_url"]) {
        reader.fault(
            "hooks.secret",
            format!("must be set where hooks.stored_url is set ({})", variable("hooks.secret")),
        );
    }
    if !is_on && hooks.wait && reader.is_valid(&["hooks.wait", "hooks.stored_url"]) {
        reader.fault("hooks.wait", "is true, but hooks.stored_url is not set");
    }
    if upload.reply == ReplyProfile::Hook && !hooks.wait && reader.is_valid(&["hooks.wait"]) {
        reader.fault("upload.reply", "is \"hook\", which needs hooks.wait = true");
    }
}

fn receipts(settings: &Settings, reader: &mut Reader) {
    const KEY: &str = "receipts.key";
    let key = settings.receipts.key.as_ref().map(ExposeSecret::expose_secret);
    // The holder of either could sign the other.
    let jwt = &settings.auth.jwt;
    let mut of_tickets =
        [&jwt.key].into_iter().chain(jwt.keys.values()).map(ExposeSecret::expose_secret);
    if of_tickets.any(|of_tickets| key == Some(of_tickets))
        && reader.is_valid(&[KEY, "auth.jwt.key"])
    {
        reader.fault(KEY, "is the same as a key of auth.jwt: receipts need a key of their own");
    }
}

/// Whether events would be sent unencrypted over a network that others may share: the host is neither a name without a
/// dot, as of another container, nor a private or loopback address.
fn is_plain_and_public(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
        Ok(IpAddr::V6(ip)) => !(ip.is_loopback() || ip.is_unique_local()),
        Err(_) => {
            let internal = [".local", ".internal", ".localhost"];
            host.contains('.') && !internal.iter().any(|suffix| host.ends_with(suffix))
        }
    }
}

impl Settings {
    /// Settings that are allowed but most likely a mistake, or that the operator should know about.
    pub fn warnings(&self) -> Vec<String> {
        let Self {
            profile,
            server,
            cors,
            wechat,
            cos,
            upload,
            auth,
            quotas,
            links,
            hooks,
            redis,
            resumable,
            telemetry,
            sandbox,
            ..
        } = self;
        let production = *profile == Profile::Production;
        let uploads = |policy: &Policy| policy.can.contains(&Action::Upload);
        let may_upload = auth.anonymous
            || auth.keys.values().any(|key| uploads(&key.policy))
            || (auth.jwt.algorithm.is_some() && uploads(&auth.jwt.policy))
            || (auth.trust_wx_headers && uploads(&auth.wx))
            || (auth.forward.url.is_some() && uploads(&auth.forward.policy));
        let credentials =
            [wechat.env.as_str(), wechat.appid.as_str(), wechat.secret.expose_secret()];

        let cases = [
            (
                production && server.public_url.is_none(),
                "server.public_url is not set: the links in responses are built from each request's Host header",
            ),
            (
                !may_upload,
                "no client may upload: no key in auth.keys can, there are no tickets (auth.jwt), there is no \
                 auth.forward_url, and auth.anonymous is false",
            ),
            (
                production && auth.anonymous && auth.forward.url.is_some(),
                "auth.anonymous is true, but auth.forward_url is set: its server decides about every request without \
                 a key or ticket",
            ),
            (
                auth.forward.url.is_some() && cors.origins.iter().any(|origin| origin == "null"),
                "cors.origins has \"null\", which any page can have, and auth.forward_url is set: any page may act \
                 for a user that is logged in",
            ),
            (
                auth.forward.url.as_deref().is_some_and(is_plain_and_public),
                "auth.forward_url is plain http: cookies and other credentials are sent unencrypted",
            ),
            (
                auth.jwt.jwks_url.as_deref().is_some_and(is_plain_and_public),
                "auth.jwt.jwks_url is plain http: a stranger in the network between can replace the keys, and sign tickets",
            ),
            (
                production && auth.anonymous && auth.forward.url.is_none(),
                "auth.anonymous is true: every client that reaches the gateway may upload, download and delete",
            ),
            (
                production && links.access == LinkAccess::Public && auth.address_rate.is_none(),
                "links.access is public and auth.address_rate is not set: a client without a key can use up WeChat's \
                 quota, since each GET of a path that is not cached makes a call",
            ),
            (
                production && links.access == LinkAccess::Public && !links.pass_query.is_empty(),
                "links.pass_query is set and links.access is public: a client without a key can have COS process \
                 pictures in any number of variants, which COS charges for; links.presets has no such risk",
            ),
            (
                auth.trust_wx_headers,
                "auth.trust_wx_headers is true: a client that reaches the gateway without passing WeChat's cloud \
                 hosting can pretend to be any user",
            ),
            (
                cos.via == CosRoad::Api
                    && resumable.enabled
                    && cos.api.abort_after.is_some_and(|age| age < resumable.expire_after),
                "cos.api.abort_after is less than resumable.expire_after: uploads that can still be resumed are aborted",
            ),
            (
                cos.allow_http && !sandbox.enabled,
                "cos.allow_http is true: files and their signatures may be sent unencrypted",
            ),
            (
                wechat.base_url.starts_with("http://")
                    && wechat.credential != CredentialMode::Open
                    && !sandbox.enabled,
                "wechat.base_url is plain http: the app's secret and tokens are sent unencrypted",
            ),
            (
                redis.ca_file.is_some() && redis.behind_tls().is_none(),
                "redis.ca_file is set but not used: redis.url does not begin with rediss://",
            ),
            (
                hooks.stored_url.as_deref().is_some_and(is_plain_and_public),
                "hooks.stored_url is plain http: what the back end is told of each file is sent unencrypted",
            ),
            (
                telemetry.otlp.endpoint.as_deref().is_some_and(is_plain_and_public),
                "telemetry.otlp_endpoint is plain http: spans, and telemetry.otlp_headers, are sent unencrypted",
            ),
            (
                redis.url.is_none() && quotas.values().any(|quota| quota.has_total()),
                "quota.*.bytes or .files is set, and redis.url is not: what was stored is forgotten when the gateway \
                 restarts",
            ),
            (
                sandbox.enabled && credentials.iter().any(|text| !text.is_empty()),
                "wechat.env, .appid or .secret is set but not used: the sandbox is on (sandbox.enabled)",
            ),
            (
                !upload.path_template.contains("{uuid}"),
                "upload.path_template has no {uuid}: files of the same name overwrite each other",
            ),
        ];
        let cases = cases.into_iter().filter(|(applies, _)| *applies);
        let renamed = self.renamed.iter().cloned();
        renamed.chain(cases.map(|(_, warning)| warning.to_owned())).collect()
    }
}
