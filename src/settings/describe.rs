//! How checked settings are printed: as TOML that, secrets aside, reads back as the same settings.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::auth::Policy;
use super::layers::is_secret;
use super::model::{AuditOutput, CosApi, ServerTls, Settings, WarmLinks};
use super::names::Action;
use super::values::{self, Rate, size_text};

impl Settings {
    /// Every setting as a line `key = value`, sorted; a secret is `"***"`, and a setting that is not set is `""`.
    pub fn describe(&self) -> String {
        let mut printed = format!("# profile: {}\n", self.profile.name());
        for (key, value) in self.lines() {
            let value = if is_secret(&key) && !["\"\"", "[]"].contains(&value.as_str()) {
                text("***")
            } else {
                value
            };
            printed.push_str(&format!("{key} = {value}\n"));
        }
        printed
    }

    /// Every setting and its value, sorted; with the secrets, so for comparisons only.
    pub(super) fn lines(&self) -> Vec<(String, String)> {
        let Self {
            renamed: _,
            profile: _,
            server,
            cors,
            wechat,
            cos,
            upload,
            auth,
            quotas,
            links,
            resumable,
            hooks,
            receipts,
            redis,
            console,
            telemetry,
            metrics,
            sandbox,
        } = self;
        let mut lines = vec![
            ("server.bind".to_owned(), text(&server.bind.to_string())),
            ("server.workers".to_owned(), server.workers.to_string()),
        ];
        let mut line = |key: &str, value: String| lines.push((key.to_owned(), value));
        line("server.public_url", optional(server.public_url.as_deref()));
        line("server.max_connections", server.max_connections.to_string());
        line("server.shutdown_grace", duration(server.shutdown_grace));
        line("server.shutdown_delay", duration(server.shutdown_delay));
        line("server.lingering_timeout", duration(server.lingering_timeout));
        line("server.write_timeout", duration(server.write_timeout));
        let file = |file: fn(&ServerTls) -> &std::path::PathBuf| {
            server.tls.as_ref().map(|tls| file(tls).display().to_string())
        };
        line("server.tls.cert", optional(file(|tls| &tls.cert).as_deref()));
        line("server.tls.key", optional(file(|tls| &tls.key).as_deref()));
        let networks: Vec<String> =
            server.trusted_proxies.iter().map(ToString::to_string).collect();
        line("server.trusted_proxies", list(&networks));
        line("server.errors_url", text(&server.errors_url));
        line("cors.origins", list(&cors.origins));
        line("wechat.base_url", text(&wechat.base_url));
        line("wechat.env", text(&wechat.env));
        line("wechat.credential", text(wechat.credential.name()));
        line("wechat.appid", text(&wechat.appid));
        line("wechat.secret", text(wechat.secret.expose_secret()));
        line("wechat.file_id_prefix", optional(wechat.file_id_prefix.as_deref()));
        line("wechat.cloudbase_token_file", path(&wechat.cloudbase_token_file));
        let authorizer = &wechat.authorizer;
        line("wechat.authorizer.component_appid", text(&authorizer.component_appid));
        line("wechat.authorizer.authorizer_appid", text(&authorizer.authorizer_appid));
        line("wechat.authorizer.refresh_token", text(authorizer.refresh_token.expose_secret()));
        line("wechat.authorizer.component_token_file", path(&authorizer.component_token_file));
        line("wechat.timeout", duration(wechat.timeout));
        line("wechat.connect_timeout", duration(wechat.connect_timeout));
        let warm_links = match wechat.warm_links {
            WarmLinks::Off => text("off"),
            WarmLinks::Auto => text("auto"),
            WarmLinks::UpTo(links) => text(&links.to_string()),
        };
        line("wechat.warm_links", warm_links);
        line("cos.allowed_hosts", list(&cos.allowed_hosts));
        line("cos.allow_http", cos.allow_http.to_string());
        line("cos.send_content_type", cos.send_content_type.to_string());
        line("cos.verify", text(cos.verify.name()));
        line("cos.via", text(cos.via.name()));
        line("cos.slow_limit", duration(cos.slow_limit));
        cos_api(&mut line, &cos.api);
        line("cos.connect_timeout", duration(cos.connect_timeout));
        line("cos.write_timeout", duration(cos.write_timeout));
        line("cos.reply_timeout", duration(cos.reply_timeout));
        line("upload.max_file_size", size(upload.max_file_size));
        line("upload.max_files", upload.max_files.to_string());
        line("upload.allowed_types", list(&upload.allowed_types));
        line("upload.path_template", text(&upload.path_template));
        line("upload.client_paths", upload.client_paths.to_string());
        line("upload.idle_timeout", duration(upload.idle_timeout));
        line("upload.min_rate", size(upload.min_rate.unwrap_or_default()));
        line("upload.replay_window", size(upload.replay_window as u64));
        line("upload.replay_window_max", size(upload.replay_window_max as u64));
        line("upload.max_buffered_file", size(upload.max_buffered_file as u64));
        line("upload.memory_budget", size(upload.memory_budget as u64));
        line("upload.max_concurrent", upload.max_concurrent.to_string());
        line("upload.reply", text(upload.reply.name()));
        line("upload.content_disposition", text(upload.content_disposition.name()));
        line("upload.cache_control", optional(upload.cache_control.as_deref()));
        line("upload.max_concurrent_per_client", number(upload.max_concurrent_per_client));
        line("auth.anonymous", auth.anonymous.to_string());
        line("auth.trust_wx_headers", auth.trust_wx_headers.to_string());
        line("auth.rate", rate(auth.rate));
        line("auth.address_rate", rate(auth.address_rate));
        let jwt = &auth.jwt;
        line("auth.jwt.algorithm", optional(jwt.algorithm.map(|algorithm| algorithm.name())));
        line("auth.jwt.key", text(jwt.key.expose_secret()));
        let key_file = jwt.key_file.as_ref().map(|path| path.display().to_string());
        line("auth.jwt.key_file", optional(key_file.as_deref()));
        for (name, key) in &jwt.keys {
            line(&format!("auth.jwt.keys.{name}"), text(key.expose_secret()));
        }
        line("auth.jwt.jwks_url", optional(jwt.jwks_url.as_deref()));
        line("auth.jwt.issuer", optional(jwt.issuer.as_deref()));
        line("auth.jwt.audience", optional(jwt.audience.as_deref()));
        line("auth.jwt.max_ttl", duration(jwt.max_ttl));
        policy(&mut line, "auth.jwt", &jwt.policy);
        policy(&mut line, "auth.wx", &auth.wx);
        let forward = &auth.forward;
        line("auth.forward_url", optional(forward.url.as_deref()));
        let headers: Vec<_> = forward.headers.iter().map(|name| name.as_str()).collect();
        line("auth.forward_headers", list(&headers));
        line("auth.forward_timeout", duration(forward.timeout));
        line("auth.forward_cache", duration(forward.cache));
        policy(&mut line, "auth.forward", &forward.policy);
        for (name, key) in &auth.keys {
            line(&format!("auth.keys.{name}.sha256"), text(&hex::encode(key.sha256)));
            policy(&mut line, &format!("auth.keys.{name}"), &key.policy);
        }
        for quota in quotas.values() {
            let mut line = |name: &str, value| line(&format!("quota.{}.{name}", quota.name), value);
            let optional_size = |bytes: Option<u64>| bytes.map_or_else(|| text(""), size);
            let optional_number =
                |files: Option<u64>| files.map_or_else(|| text(""), |files| files.to_string());
            line("per", text(quota.per.name()));
            line("bytes_per_day", optional_size(quota.bytes_per_day));
            line("files_per_day", optional_number(quota.files_per_day));
            line("bytes", optional_size(quota.bytes));
            line("files", optional_number(quota.files));
        }
        line("links.access", text(links.access.name()));
        let signing_keys: Vec<_> =
            links.signing_keys.iter().map(|key| key.expose_secret()).collect();
        line("links.signing_keys", list(&signing_keys));
        line("links.max_age", duration(links.max_age));
        for (name, preset) in &links.presets {
            line(&format!("links.presets.{name}"), text(preset));
        }
        let passed: Vec<_> = links.pass_query.iter().map(|passed| passed.name()).collect();
        line("links.pass_query", list(&passed));
        let keys: Vec<_> = resumable.keys.iter().map(|key| key.expose_secret()).collect();
        line("resumable.keys", list(&keys));
        line("resumable.enabled", resumable.enabled.to_string());
        let spool = resumable.spool.as_ref().map(|folder| folder.display().to_string());
        line("resumable.spool", text(&spool.unwrap_or_default()));
        line("resumable.spool_limit", size(resumable.spool_limit));
        line("resumable.expire_after", duration(resumable.expire_after));
        line("hooks.stored_url", optional(hooks.stored_url.as_deref()));
        let secrets: Vec<_> = hooks.secret.iter().map(|secret| secret.expose_secret()).collect();
        line("hooks.secret", list(&secrets));
        line("hooks.wait", hooks.wait.to_string());
        line("hooks.timeout", duration(hooks.timeout));
        let include: Vec<_> = hooks.include.iter().map(|field| field.name()).collect();
        line("hooks.include", list(&include));
        line("receipts.key", secret(receipts.key.as_ref()));
        line("redis.url", secret(redis.url.as_ref()));
        let ca_file = redis.ca_file.as_ref().map(|file| file.display().to_string());
        line("redis.ca_file", text(&ca_file.unwrap_or_default()));
        line("console.enabled", console.enabled.to_string());
        line("telemetry.log", text(&telemetry.log));
        line("telemetry.format", text(telemetry.format.name()));
        let audit = match &telemetry.audit {
            AuditOutput::Off => "off".to_owned(),
            AuditOutput::Stdout => "stdout".to_owned(),
            AuditOutput::File(path) => path.display().to_string(),
        };
        line("telemetry.audit", text(&audit));
        let otlp = &telemetry.otlp;
        line("telemetry.otlp_endpoint", optional(otlp.endpoint.as_deref()));
        line("telemetry.otlp_headers", secret(otlp.headers.as_ref()));
        line("telemetry.otlp_ratio", otlp.ratio.to_string());
        line("metrics.bind", optional(metrics.bind.map(|bind| bind.to_string()).as_deref()));
        line("sandbox.enabled", sandbox.enabled.to_string());
        line(
            "sandbox.data",
            text(
                &sandbox.data.as_ref().map_or_else(String::new, |path| path.display().to_string()),
            ),
        );
        line("sandbox.wechat_port", sandbox.wechat_port.to_string());
        line("sandbox.cos_port", sandbox.cos_port.to_string());
        line("sandbox.token_life", duration(sandbox.token_life));
        line("sandbox.token_overlap", duration(sandbox.token_overlap));
        line("sandbox.link_life", duration(sandbox.link_life));
        line("sandbox.upload_limit", duration(sandbox.upload_limit.unwrap_or_default()));
        line("sandbox.post_crc", sandbox.post_crc.to_string());
        line("sandbox.secret_id", optional(sandbox.secret_id.as_deref()));
        line("sandbox.secret_key", secret(sandbox.secret_key.as_ref()));

        lines.sort();
        lines
    }
}

fn cos_api(line: &mut impl FnMut(&str, String), api: &CosApi) {
    let mut line = |name: &str, value| line(&format!("cos.api.{name}"), value);
    line("keys", text(api.keys.name()));
    line("getauth_url", text(&api.getauth_url));
    line("secret_id", text(&api.secret_id));
    line("secret_key", text(api.secret_key.expose_secret()));
    line("token", secret(api.token.as_ref()));
    line("endpoint", text(&api.endpoint));
    line("bucket", optional(api.bucket.as_deref()));
    line("region", optional(api.region.as_deref()));
    line("file_ids", text(api.file_ids.name()));
    line("metaid_url", text(&api.metaid_url));
    line("part_size", size(api.part_size));
    line("single_put", size(api.single_put));
    line("abort_after", duration(api.abort_after.unwrap_or_default()));
}

fn policy(line: &mut impl FnMut(&str, String), under: &str, policy: &Policy) {
    let mut line = |name: &str, value| line(&format!("{under}.{name}"), value);
    let can: Vec<&str> = policy.can.iter().copied().map(Action::name).collect();
    line("can", list(&can));
    line("prefix", optional(policy.prefix.as_deref()));
    line("client_paths", policy.client_paths.map_or_else(|| text(""), |flag| flag.to_string()));
    line("max_file_size", policy.max_file_size.map_or_else(|| text(""), size));
    line("max_files", number(policy.max_files));
    line("types", list(&policy.types));
    line("rate", rate(policy.rate));
    line("quota", optional(policy.quota.as_deref()));
}

fn number(value: Option<usize>) -> String {
    value.map_or_else(|| text(""), |number| number.to_string())
}

fn rate(value: Option<Rate>) -> String {
    optional(value.map(values::rate_text).as_deref())
}

/// A JSON string is also a TOML string.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn optional(value: Option<&str>) -> String {
    text(value.unwrap_or_default())
}

fn secret(value: Option<&SecretString>) -> String {
    optional(value.map(ExposeSecret::expose_secret))
}

fn path(value: &std::path::Path) -> String {
    text(&value.display().to_string())
}

fn list<S: AsRef<str>>(values: &[S]) -> String {
    let items: Vec<String> = values.iter().map(|value| text(value.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

fn size(bytes: u64) -> String {
    text(&size_text(bytes))
}

fn duration(value: Duration) -> String {
    text(&humantime::format_duration(value).to_string())
}
