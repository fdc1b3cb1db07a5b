//! Owns how checked settings are printed: TOML that reads back as the same settings, secrets aside.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::layers::is_secret;
use super::values::size_text;
use super::{Action, Settings};

impl Settings {
    /// Every setting as a line `key = value`, sorted, secrets as `"***"`; what is not set is `""`.
    pub fn describe(&self) -> String {
        let Self {
            profile,
            server,
            cors,
            wechat,
            cos,
            upload,
            auth,
            links,
            redis,
            console,
            telemetry,
            sandbox,
        } = self;
        let mut lines = vec![
            ("server.bind".to_owned(), text(&server.bind.to_string())),
            ("server.workers".to_owned(), server.workers.to_string()),
        ];
        let mut line = |key: &str, value: String| lines.push((key.to_owned(), value));
        line("server.public_url", optional(server.public_url.as_deref()));
        line("server.shutdown_grace", duration(server.shutdown_grace));
        line("server.drain_timeout", duration(server.drain_timeout));
        let file = |file: fn(&super::ServerTls) -> &std::path::PathBuf| {
            server.tls.as_ref().map(|tls| file(tls).display().to_string())
        };
        line("server.tls.cert", optional(file(|tls| &tls.cert).as_deref()));
        line("server.tls.key", optional(file(|tls| &tls.key).as_deref()));
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
        line("cos.allowed_hosts", list(&cos.allowed_hosts));
        line("cos.allow_http", cos.allow_http.to_string());
        line("cos.send_content_type", cos.send_content_type.to_string());
        line("cos.verify_crc64", cos.verify_crc64.to_string());
        line("cos.connect_timeout", duration(cos.connect_timeout));
        line("cos.write_timeout", duration(cos.write_timeout));
        line("cos.reply_timeout", duration(cos.reply_timeout));
        line("upload.max_file_size", size(upload.max_file_size));
        line("upload.max_files", upload.max_files.to_string());
        line("upload.path_template", text(&upload.path_template));
        line("upload.client_paths", upload.client_paths.to_string());
        line("upload.idle_timeout", duration(upload.idle_timeout));
        line("upload.replay_window", size(upload.replay_window as u64));
        line("upload.hold_limit", size(upload.hold_limit as u64));
        line("upload.memory_budget", size(upload.memory_budget as u64));
        line("upload.max_concurrent", upload.max_concurrent.to_string());
        line("upload.reply", text(upload.reply.name()));
        line("auth.anonymous", auth.anonymous.to_string());
        for (name, key) in &auth.keys {
            let can: Vec<&str> = key.can.iter().copied().map(Action::name).collect();
            line(&format!("auth.keys.{name}.sha256"), text(&hex::encode(key.sha256)));
            line(&format!("auth.keys.{name}.can"), list(&can));
            line(&format!("auth.keys.{name}.prefix"), optional(key.prefix.as_deref()));
            let client_paths = key.client_paths.map_or_else(|| text(""), |flag| flag.to_string());
            line(&format!("auth.keys.{name}.client_paths"), client_paths);
        }
        line("links.access", text(links.access.name()));
        line("redis.url", optional(redis.url.as_ref().map(ExposeSecret::expose_secret)));
        line("console.enabled", console.enabled.to_string());
        line("telemetry.log", text(&telemetry.log));
        line("telemetry.format", text(telemetry.format.name()));
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

        lines.sort();
        let mut printed = format!("# profile: {}\n", profile.name());
        for (key, value) in lines {
            let value = if is_secret(&key) && value != text("") { text("***") } else { value };
            printed.push_str(&format!("{key} = {value}\n"));
        }
        printed
    }
}

/// JSON's string syntax is TOML's, too.
fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn optional(value: Option<&str>) -> String {
    text(value.unwrap_or_default())
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
