//! Where values come from, and how unknown keys and values of a wrong type are reported.

use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::{DIGITS, env, file, keys, problem, production, sandbox, with_file};
use crate::settings::{Faults, Profile, Settings, Verify};

#[test]
fn an_empty_variable_counts_as_unset() {
    let result =
        production(&[("GATEWAY__WECHAT__SECRET", ""), ("GATEWAY__SERVER__PUBLIC_URL", "")]);
    assert_eq!(keys(&result), ["wechat.secret"]);
    let settings = production(&[
        ("GATEWAY__SERVER__WORKERS", ""),
        ("GATEWAY__CORS__ORIGINS", ""),
        ("PORT", ""),
    ]);
    assert_eq!(settings.expect("no faults").server.bind.port(), 8080);
}

#[test]
fn the_argument_overrides_the_profile_of_the_environment() {
    let variable = env(&[("GATEWAY_PROFILE", "production")]);
    assert_eq!(keys(&Settings::from_layers(None, None, variable.clone())).len(), 3);
    let settings = Settings::from_layers(Some("sandbox"), None, variable).expect("no faults");
    assert_eq!(settings.profile, Profile::Sandbox);
}

#[test]
fn an_unknown_profile_does_not_hide_other_faults() {
    let result =
        Settings::from_layers(Some("prod"), None, env(&[("GATEWAY__UPLOAD__MAX_FILES", "many")]));
    assert_eq!(keys(&result), ["profile", "upload.max_files"]);
    assert!(problem(&result, "profile").contains("\"prod\" is not one of sandbox, production"));
}

#[test]
fn a_secret_and_a_hash_of_digits_only_stay_strings() {
    let settings = production(&[
        ("GATEWAY__WECHAT__SECRET", "0123456789"),
        ("GATEWAY__AUTH__KEYS__PANEL__SHA256", DIGITS),
    ])
    .expect("no faults");
    assert_eq!(settings.wechat.secret.expose_secret(), "0123456789");
    assert_eq!(hex::encode(settings.auth.keys["panel"].sha256), DIGITS);
}

#[test]
fn a_number_instead_of_a_string_must_be_quoted() {
    let result = with_file("wechat.secret = 123456\nwechat.appid = 7", &[]);
    assert!(problem(&result, "wechat.secret").contains("put it in quotes"));
    assert!(!problem(&result, "wechat.secret").contains("123456"));
    assert!(problem(&result, "wechat.appid").contains("put it in quotes"));
}

#[test]
fn lists_come_as_arrays_or_with_commas() {
    let settings = sandbox(&[
        (
            "GATEWAY__COS__ALLOWED_HOSTS",
            "127.0.0.1:9000, *.MyQcloud.com,,[::1]:9000 ,::1,cos.local",
        ),
        (
            "GATEWAY__CORS__ORIGINS",
            "https://A.example.com:443,null,http://localhost:5173,file://,Capacitor://localhost,app://.",
        ),
    ])
    .expect("no faults");
    let hosts = ["127.0.0.1:9000", "*.myqcloud.com", "[::1]:9000", "[::1]", "cos.local"];
    assert_eq!(settings.cos.allowed_hosts, hosts);
    let origins = [
        "https://a.example.com",
        "null",
        "http://localhost:5173",
        "file://",
        "capacitor://localhost",
        "app://.",
    ];
    assert_eq!(settings.cors.origins, origins);

    let settings =
        with_file("cors.origins = ['https://a.example.com', 'https://b.example.com']", &[]);
    assert_eq!(settings.expect("no faults").cors.origins.len(), 2);
    let settings = with_file("cors.origins = 'https://a.example.com, https://b.example.com'", &[]);
    assert_eq!(settings.expect("no faults").cors.origins.len(), 2);
    assert!(
        problem(&with_file("cors.origins = [1]", &[]), "cors.origins").contains("strings only")
    );
}

#[test]
fn a_misspelt_key_and_three_wrong_values_are_all_reported() {
    let result = production(&[
        ("GATEWAY__WECHAT__SECERT", "hunter2"),
        ("GATEWAY__UPLOAD__MAX_FILES", "a few"),
        ("GATEWAY__SERVER__BIND", "localhost:8080"),
        ("GATEWAY__COS__ALLOW_HTTP", "yes"),
    ]);
    assert_eq!(
        keys(&result),
        ["cos.allow_http", "server.bind", "upload.max_files", "wechat.secert"]
    );
    let report = result.expect_err("faults").to_string();
    assert_eq!(report.lines().count(), 4);
    assert!(report.contains("did you mean `wechat.secret`?"), "{report}");
    assert!(
        report.contains(
            "\"a few\" is not a whole number from 1 to 10000 (in GATEWAY__UPLOAD__MAX_FILES)"
        ),
        "{report}"
    );
    assert!(report.contains("\"localhost:8080\" is not IP:PORT"), "{report}");
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn an_unknown_key_gets_a_suggestion_where_one_is_likely() {
    let meant = [
        ("wechat.env_id", Some("wechat.env")),
        ("wechat_appid", Some("wechat.appid")),
        ("sever.bind", Some("server.bind")),
        ("upload.maxfilesize", Some("upload.max_file_size")),
        ("server.max_file_size", Some("upload.max_file_size")),
        ("redis.address", None),
        ("server.port", None),
    ];
    for (key, meant) in meant {
        let problem = problem(&with_file(&format!("{key} = 'x'"), &[]), key);
        let hint = meant.map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
        assert!(
            problem.starts_with("unknown setting") && problem.ends_with(&hint),
            "{key}: {problem}"
        );
        assert_eq!(meant.is_some(), problem.contains("did you mean"), "{key}: {problem}");
    }
}

#[test]
fn a_value_for_a_section_does_not_replace_the_section() {
    let pairs = [
        ("GATEWAY__SERVER", "x"),
        ("GATEWAY__SERVER__BIND", "127.0.0.1:1"),
        ("GATEWAY__AUTH__KEYS", "hunter2"),
    ];
    let result = sandbox(&pairs);
    assert_eq!(keys(&result), ["auth.keys", "server"]);
    assert!(problem(&result, "server").contains("is a section"));
    assert!(!result.expect_err("faults").to_string().contains("hunter2"));
    assert_eq!(
        keys(&with_file("server.bind.x = 1\nnowhere.y = 2", &[])),
        ["nowhere.y", "server.bind.x"]
    );
}

#[test]
fn a_platforms_port_is_used_in_production_only() {
    let bind =
        |settings: Result<Settings, Faults>| settings.expect("no faults").server.bind.to_string();
    assert_eq!(bind(production(&[("PORT", "3000")])), "0.0.0.0:3000");
    assert_eq!(
        bind(production(&[("PORT", "3000"), ("GATEWAY__SERVER__BIND", "[::1]:9")])),
        "[::1]:9"
    );
    assert_eq!(bind(sandbox(&[("PORT", "3000")])), "127.0.0.1:8080");
    assert!(problem(&production(&[("PORT", "http")]), "server.bind").contains("(from PORT)"));
}

#[test]
fn the_environment_overrides_the_file_and_the_file_overrides_the_profile() {
    let toml = "[upload]\nmax_files = 3\nclient_paths = false\n[server]\nbind = '127.0.0.1:0'\n";
    let settings = with_file(toml, &[("GATEWAY__UPLOAD__MAX_FILES", "4")]).expect("no faults");
    assert_eq!(settings.upload.max_files, 4);
    assert!(!settings.upload.client_paths);
    assert_eq!(settings.server.bind.port(), 0);
    assert!(settings.upload.max_file_size == 5 << 30, "the rest of the section stays");
}

#[test]
fn an_unusable_file_is_named_and_its_text_is_not_shown() {
    let missing = Settings::from_layers(None, Some(Path::new("/nowhere/x.toml")), env(&[]));
    assert!(problem(&missing, "/nowhere/x.toml").contains("cannot be read"));
    let broken = file("[wechat]\nsecret = \"hunter2\nappid = 1\n");
    let result = Settings::from_layers(
        None,
        Some(broken.path()),
        env(&[("GATEWAY__UPLOAD__MAX_FILES", "0")]),
    );
    let report = result.expect_err("faults").to_string();
    assert!(report.contains("is not valid TOML: ") && report.contains("line 2"), "{report}");
    assert!(report.contains("upload.max_files"), "{report}");
    assert!(!report.contains("hunter2"), "{report}");
    assert_eq!(report.lines().count(), 2, "{report}");
    let value = with_file("upload.max_files = 0", &[]);
    assert!(problem(&value, "upload.max_files").contains(".tmp"), "names the file");
}

#[test]
fn an_old_name_is_read_and_warned_about() {
    let settings = with_file("[upload]\nhold_limit = \"1MiB\"", &[]).expect("no faults");
    assert_eq!(settings.upload.max_buffered_file, 1 << 20);
    let warnings = settings.warnings().join("\n");
    assert!(warnings.contains("upload.hold_limit (in /"), "{warnings}");
    assert!(warnings.contains("is called upload.max_buffered_file now"), "{warnings}");

    let settings = sandbox(&[("GATEWAY__SERVER__DRAIN_TIMEOUT", "2s")]).expect("no faults");
    assert_eq!(settings.server.lingering_timeout, Duration::from_secs(2));
    let warnings = settings.warnings().join("\n");
    assert!(warnings.contains("GATEWAY__SERVER__DRAIN_TIMEOUT"), "{warnings}");

    // The later layer counts, whichever name it uses.
    let text = "[server]\ndrain_timeout = \"2s\"";
    let settings = with_file(text, &[("GATEWAY__SERVER__LINGERING_TIMEOUT", "3s")]);
    assert_eq!(settings.expect("no faults").server.lingering_timeout, Duration::from_secs(3));

    // A flag became one of three names.
    for (old, new) in [("true", Verify::Reply), ("false", Verify::None)] {
        let settings = sandbox(&[("GATEWAY__COS__VERIFY_CRC64", old)]).expect("no faults");
        assert_eq!(settings.cos.verify, new);
        let settings = with_file(&format!("cos.verify_crc64 = {old}"), &[]).expect("no faults");
        assert_eq!(settings.cos.verify, new);
        assert!(settings.warnings().join("\n").contains("cos.verify_crc64 (in /"));
    }
    assert_eq!(keys(&sandbox(&[("GATEWAY__COS__VERIFY_CRC64", "yes")])), ["cos.verify"]);

    let twice = with_file("[upload]\nhold_limit = \"1MiB\"\nmax_buffered_file = \"2MiB\"", &[]);
    assert!(problem(&twice, "upload.max_buffered_file").contains("`upload.hold_limit`"));
    let wrong =
        problem(&sandbox(&[("GATEWAY__UPLOAD__HOLD_LIMIT", "x")]), "upload.max_buffered_file");
    assert!(wrong.contains("GATEWAY__UPLOAD__HOLD_LIMIT"), "{wrong}");
}
