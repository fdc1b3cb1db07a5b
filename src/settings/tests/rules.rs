//! Rules between settings, and warnings.

use super::{keys, problem, production, sandbox};

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let result = sandbox(&[("GATEWAY__WECHAT__BASE_URL", "http://127.0.0.1:9/")]);
    assert!(problem(&result, "wechat.base_url").contains("sandbox.enabled = false"));
    let result = sandbox(&[("GATEWAY__SANDBOX__ENABLED", "false")]);
    assert_eq!(keys(&result), ["wechat.appid", "wechat.env", "wechat.secret"]);
    assert_eq!(keys(&sandbox(&[("GATEWAY__SERVER__BIND", "0.0.0.0:80")])), ["server.bind"]);
    assert_eq!(
        keys(&sandbox(&[("GATEWAY__UPLOAD__MAX_BUFFERED_FILE", "1GiB")])),
        ["upload.max_buffered_file"]
    );
    let budget_wrong = [
        ("GATEWAY__UPLOAD__MAX_BUFFERED_FILE", "1GiB"),
        ("GATEWAY__UPLOAD__MEMORY_BUDGET", "2GiBB"),
    ];
    assert_eq!(keys(&sandbox(&budget_wrong)), ["upload.memory_budget"]);
    for zero in ["SERVER__WORKERS", "UPLOAD__MAX_FILES", "UPLOAD__MAX_CONCURRENT"] {
        assert!(sandbox(&[(&format!("GATEWAY__{zero}"), "0")]).is_err(), "{zero}");
    }
    let ports = [("GATEWAY__SANDBOX__WECHAT_PORT", "7001"), ("GATEWAY__SANDBOX__COS_PORT", "7001")];
    assert_eq!(keys(&sandbox(&ports)), ["sandbox.cos_port"]);
    for without in ["cloudbase", "open"] {
        let pairs = [
            ("GATEWAY__WECHAT__CREDENTIAL", without),
            ("GATEWAY__WECHAT__APPID", ""),
            ("GATEWAY__WECHAT__SECRET", ""),
        ];
        production(&pairs).expect("they need neither");
    }
    assert_eq!(
        keys(&production(&[("GATEWAY__WECHAT__CREDENTIAL", "authorizer")])),
        [
            "wechat.authorizer.authorizer_appid",
            "wechat.authorizer.component_appid",
            "wechat.authorizer.component_token_file",
            "wechat.authorizer.refresh_token",
        ]
    );
    let signed = production(&[("GATEWAY__LINKS__ACCESS", "signed")]);
    assert_eq!(keys(&signed), ["links.signing_keys"]);
    assert!(production(&[("GATEWAY__LINKS__ACCESS", "authenticated")]).is_ok());
}

#[test]
fn open_mode_uses_plain_http_by_default() {
    let base_url = |pairs: &[(&str, &str)]| {
        let open = [&[("GATEWAY__WECHAT__CREDENTIAL", "open")], pairs].concat();
        let settings = production(&open).expect("no faults");
        assert!(!settings.warnings().join("").contains("plain http"));
        settings.wechat.base_url
    };
    assert_eq!(base_url(&[]), "http://api.weixin.qq.com");
    assert_eq!(
        base_url(&[("GATEWAY__WECHAT__BASE_URL", "http://127.0.0.1:81")]),
        "http://127.0.0.1:81"
    );
}

#[test]
fn public_links_without_an_address_rate_cause_a_warning() {
    let warned = |pairs: &[(&str, &str)]| {
        let warnings = production(pairs).expect("no faults").warnings();
        warnings.iter().any(|warning| warning.contains("auth.address_rate"))
    };
    let keys = ("GATEWAY__LINKS__SIGNING_KEYS", "a-signing-key-of-tests");
    assert!(warned(&[]));
    assert!(warned(&[("GATEWAY__AUTH__RATE", "10/s")]));
    assert!(!warned(&[("GATEWAY__AUTH__ADDRESS_RATE", "10/s")]));
    assert!(!warned(&[("GATEWAY__LINKS__ACCESS", "signed"), keys]));
    assert!(!warned(&[("GATEWAY__LINKS__ACCESS", "authenticated")]));
}

#[test]
fn parameters_that_strangers_choose_cause_a_warning() {
    let warned = |pairs: &[(&str, &str)]| {
        let warnings = production(pairs).expect("no faults").warnings();
        warnings.iter().any(|warning| warning.contains("links.pass_query"))
    };
    let passed = ("GATEWAY__LINKS__PASS_QUERY", "imageMogr2/*");
    assert!(!warned(&[]));
    assert!(!warned(&[("GATEWAY__LINKS__PRESETS__THUMB", "imageMogr2/thumbnail/200x")]));
    assert!(warned(&[passed]));
    assert!(!warned(&[passed, ("GATEWAY__LINKS__ACCESS", "authenticated")]));
}

#[test]
fn the_api_of_cos_needs_keys_and_allows_larger_files() {
    let api = ("GATEWAY__COS__VIA", "api");
    let large = ("GATEWAY__UPLOAD__MAX_FILE_SIZE", "20GiB");
    assert_eq!(keys(&production(&[large])), ["upload.max_file_size"]);
    assert!(production(&[api, large]).is_ok(), "temporary keys need no settings");
    let fixed = ("GATEWAY__COS__API__KEYS", "static");
    assert_eq!(keys(&production(&[api, fixed])), ["cos.api.secret_id", "cos.api.secret_key"]);
    assert!(sandbox(&[api, fixed]).is_ok(), "the sandbox has keys of its own");
    let metaid = ("GATEWAY__COS__API__FILE_IDS", "metaid");
    assert_eq!(keys(&production(&[api, metaid])), ["cos.api.bucket", "cos.api.region"]);
    let endpoint = ("GATEWAY__COS__API__ENDPOINT", "https://files.example.com");
    assert_eq!(keys(&production(&[api, metaid, endpoint])), ["cos.api.bucket"]);
    let early = ("GATEWAY__COS__API__ABORT_AFTER", "23h");
    let warned = |pairs: &[(&str, &str)]| {
        let warnings = production(&[&[api, early], pairs].concat()).expect("no faults").warnings();
        warnings.iter().any(|warning| warning.contains("cos.api.abort_after"))
    };
    assert!(warned(&[]));
    for (name, value) in [
        ("GATEWAY__RESUMABLE__EXPIRE_AFTER", "23h"),
        ("GATEWAY__RESUMABLE__ENABLED", "false"),
        ("GATEWAY__COS__VIA", "form"),
        ("GATEWAY__COS__API__ABORT_AFTER", "0s"),
    ] {
        assert!(!warned(&[(name, value)]), "{name}");
    }
    for (name, wrong) in [
        ("PART_SIZE", "1000000"),
        ("PART_SIZE", "512MiB"),
        ("SINGLE_PUT", "6GiB"),
        ("ENDPOINT", "https://{name}.example.com"),
        ("ENDPOINT", "ftp://{bucket}"),
    ] {
        let setting = format!("GATEWAY__COS__API__{name}");
        let result = production(&[api, (&setting, wrong)]);
        let key = format!("cos.api.{}", name.to_lowercase());
        assert_eq!(keys(&result), [key.as_str()], "{wrong}");
    }
}
