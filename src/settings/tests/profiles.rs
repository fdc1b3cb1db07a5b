//! What each profile sets and demands.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::{env, keys, problem, production, sandbox};
use crate::settings::layers::{Layers, Reader};
use crate::settings::load::{DEFAULT, PRODUCTION, SANDBOX};
use crate::settings::{LogFormat, Profile, Settings, rules};

#[test]
fn the_defaults_are_the_sandbox_on_loopback() {
    let settings = sandbox(&[]).expect("no faults");
    assert_eq!(settings.profile, Profile::Sandbox);
    assert!(settings.sandbox.enabled && settings.auth.anonymous && settings.console.enabled);
    assert!(settings.upload.client_paths);
    assert_eq!(settings.upload.max_file_size, 5 << 30);
    assert_eq!(settings.server.bind.to_string(), "127.0.0.1:8080");
    assert!(settings.server.workers >= 1);
    assert_eq!(settings.wechat.secret.expose_secret(), "");
    assert_eq!(settings.sandbox.token_life, Duration::from_secs(7200));
    assert_eq!(settings.warnings(), Vec::<String>::new());
}

#[test]
fn production_needs_its_credentials_only() {
    let settings = production(&[]).expect("no faults");
    assert_eq!(settings.server.bind.to_string(), "0.0.0.0:8080");
    assert_eq!(settings.telemetry.format, LogFormat::Json);
    assert!(!settings.sandbox.enabled && !settings.auth.anonymous && !settings.upload.client_paths);
    assert_eq!(
        settings.cos.allowed_hosts,
        ["*.myqcloud.com", "*.tencentcos.cn", "*.tcb.qcloud.la"]
    );
    assert_eq!(settings.upload.max_buffered_file, 32 << 20);
    let warnings = settings.warnings().join("\n");
    assert!(
        warnings.contains("server.public_url") && warnings.contains("no client may upload"),
        "{warnings}"
    );
}

#[test]
fn production_refuses_to_start_without_credentials_or_with_the_sandbox() {
    let result = Settings::from_layers(Some("production"), None, env(&[]));
    assert_eq!(keys(&result), ["wechat.appid", "wechat.env", "wechat.secret"]);
    assert!(problem(&result, "wechat.env").contains("GATEWAY__WECHAT__ENV"));
    assert_eq!(keys(&production(&[("GATEWAY__SANDBOX__ENABLED", "true")])), ["sandbox.enabled"]);
}

#[test]
fn the_built_in_files_are_valid_and_agree_with_the_rules() {
    for file in [DEFAULT, SANDBOX, PRODUCTION] {
        let mut layers = Layers::default();
        layers.built_in(file);
        let faults = Reader::from(layers).finish();
        assert!(
            faults.iter().all(|fault| fault.problem.starts_with("unknown setting")),
            "{faults:?}"
        );
    }
    assert_eq!(sandbox(&[]).expect("no faults").wechat.base_url, rules::WECHAT_URL);
}
