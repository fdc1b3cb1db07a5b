//! Settings as the person at the keyboard meets them: files, variables, and what is said about mistakes.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::layers::{Layers, Reader};
use super::*;

const DIGITS: &str = "0123456789012345678901234567890123456789012345678901234567890123";

fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn sandbox(pairs: &[(&str, &str)]) -> Result<Settings, Faults> {
    Settings::from_layers(None, None, env(pairs))
}

/// Production with its required settings, and these on top.
fn production(pairs: &[(&str, &str)]) -> Result<Settings, Faults> {
    let mut env = env(&[
        ("GATEWAY__WECHAT__ENV", "prod-1"),
        ("GATEWAY__WECHAT__APPID", "wx1"),
        ("GATEWAY__WECHAT__SECRET", "hush"),
    ]);
    env.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Settings::from_layers(Some("production"), None, env)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn with_file(text: &str, pairs: &[(&str, &str)]) -> Result<Settings, Faults> {
    Settings::from_layers(None, Some(file(text).path()), env(pairs))
}

/// The problem told of one key; panics with all that was told where there is none.
fn problem(result: &Result<Settings, Faults>, key: &str) -> String {
    let faults = result.as_ref().expect_err("faults");
    let fault = faults.0.iter().find(|fault| fault.key == key);
    fault.unwrap_or_else(|| panic!("no fault of {key} in:\n{faults}")).problem.clone()
}

fn keys(result: &Result<Settings, Faults>) -> Vec<&str> {
    result.as_ref().expect_err("faults").0.iter().map(|fault| fault.key.as_str()).collect()
}

#[test]
fn without_anything_it_is_the_sandbox_on_loopback() {
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
fn production_starts_with_its_credentials_alone() {
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
        warnings.contains("server.public_url") && warnings.contains("nobody may upload"),
        "{warnings}"
    );
}

#[test]
fn public_links_without_a_rate_of_addresses_are_warned_of() {
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
fn production_refuses_to_start_without_credentials_or_with_the_sandbox() {
    let result = Settings::from_layers(Some("production"), None, env(&[]));
    assert_eq!(keys(&result), ["wechat.appid", "wechat.env", "wechat.secret"]);
    assert!(problem(&result, "wechat.env").contains("GATEWAY__WECHAT__ENV"));
    assert_eq!(keys(&production(&[("GATEWAY__SANDBOX__ENABLED", "true")])), ["sandbox.enabled"]);
}

#[test]
fn an_empty_variable_is_an_unset_one() {
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
fn the_profile_comes_from_the_argument_before_the_environment() {
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
fn a_secret_and_a_hash_of_digits_only_stay_what_they_are() {
    let settings = production(&[
        ("GATEWAY__WECHAT__SECRET", "0123456789"),
        ("GATEWAY__AUTH__KEYS__PANEL__SHA256", DIGITS),
    ])
    .expect("no faults");
    assert_eq!(settings.wechat.secret.expose_secret(), "0123456789");
    assert_eq!(hex::encode(settings.auth.keys["panel"].sha256), DIGITS);
}

#[test]
fn a_number_where_a_string_belongs_is_asked_into_quotes() {
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
fn a_misspelt_key_and_three_wrong_values_are_named_at_once() {
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
    let told = result.expect_err("faults").to_string();
    assert_eq!(told.lines().count(), 4);
    assert!(told.contains("did you mean `wechat.secret`?"), "{told}");
    assert!(
        told.contains(
            "\"a few\" is not a whole number from 1 to 10000 (in GATEWAY__UPLOAD__MAX_FILES)"
        ),
        "{told}"
    );
    assert!(told.contains("\"localhost:8080\" is not IP:PORT"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn what_is_meant_by_an_unknown_key_is_guessed_where_it_can_be() {
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
fn a_section_given_a_value_takes_nothing_else_with_it() {
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
fn sizes_are_bytes_or_have_a_unit() {
    let size = |text: &str| {
        sandbox(&[("GATEWAY__UPLOAD__MAX_FILE_SIZE", text)]).map(|s| s.upload.max_file_size)
    };
    assert_eq!(size("1048576").expect("bytes"), 1 << 20);
    assert_eq!(size("1.5GiB").expect("binary"), 3 << 29);
    assert_eq!(size("20 MB").expect("decimal"), 20_000_000);
    assert_eq!(size("5GiB").expect("all that COS takes"), 5 << 30);
    let settings = with_file("upload.max_file_size = 1048576", &[]).expect("a TOML integer");
    assert_eq!(settings.upload.max_file_size, 1 << 20);
    for wrong in ["6GiB", "5368709121", "0", "", "-1", "huge", "99999999999999999999GiB", "1.5"] {
        assert!(size(wrong).is_err(), "{wrong}");
    }
    assert!(size("6GiB").expect_err("fault").to_string().contains("at most 5GiB"));
    let none =
        [("GATEWAY__UPLOAD__REPLAY_WINDOW", "0"), ("GATEWAY__UPLOAD__MAX_BUFFERED_FILE", "0")];
    assert_eq!(sandbox(&none).expect("both may be off").upload.replay_window, 0);
}

#[test]
fn durations_have_a_unit() {
    let idle = |text: &str| {
        sandbox(&[("GATEWAY__UPLOAD__IDLE_TIMEOUT", text)]).map(|s| s.upload.idle_timeout)
    };
    assert_eq!(idle("1m 30s").expect("two units"), Duration::from_secs(90));
    assert_eq!(idle("500ms").expect("small"), Duration::from_millis(500));
    for wrong in ["30", "0s", "", "-5s", "soon", "100years", "99999999999999999999s"] {
        assert!(idle(wrong).is_err(), "{wrong}");
    }
    assert!(with_file("upload.idle_timeout = 30", &[]).is_err());
    let grace = sandbox(&[("GATEWAY__SERVER__SHUTDOWN_GRACE", "0s")]).expect("may be none");
    assert_eq!(grace.server.shutdown_grace, Duration::ZERO);
    assert!(sandbox(&[("GATEWAY__SANDBOX__TOKEN_LIFE", "999ms")]).is_err());
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
fn the_environment_lies_over_the_file_and_the_file_over_the_profile() {
    let toml = "[upload]\nmax_files = 3\nclient_paths = false\n[server]\nbind = '127.0.0.1:0'\n";
    let settings = with_file(toml, &[("GATEWAY__UPLOAD__MAX_FILES", "4")]).expect("no faults");
    assert_eq!(settings.upload.max_files, 4);
    assert!(!settings.upload.client_paths);
    assert_eq!(settings.server.bind.port(), 0);
    assert!(settings.upload.max_file_size == 5 << 30, "the rest of the section stays");
}

#[test]
fn a_file_that_cannot_be_used_is_named_without_its_text() {
    let missing = Settings::from_layers(None, Some(Path::new("/nowhere/x.toml")), env(&[]));
    assert!(problem(&missing, "/nowhere/x.toml").contains("cannot be read"));
    let broken = file("[wechat]\nsecret = \"hunter2\nappid = 1\n");
    let result = Settings::from_layers(
        None,
        Some(broken.path()),
        env(&[("GATEWAY__UPLOAD__MAX_FILES", "0")]),
    );
    let told = result.expect_err("faults").to_string();
    assert!(told.contains("is not valid TOML: ") && told.contains("line 2"), "{told}");
    assert!(told.contains("upload.max_files"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
    let value = with_file("upload.max_files = 0", &[]);
    assert!(problem(&value, "upload.max_files").contains(".tmp"), "names the file");
}

#[test]
fn keys_have_all_rights_unless_told_otherwise() {
    let toml = format!(
        "auth.keys.panel = {{ sha256 = '{DIGITS}' }}\n\
         [auth.keys.mini-app_2]\nsha256 = '{}'\ncan = ['upload', 'link']\nprefix = 'mini/app'\nclient_paths = false\n",
        "AB".repeat(32)
    );
    let settings = with_file(&toml, &[("GATEWAY__AUTH__KEYS__PANEL__CLIENT_PATHS", "true")])
        .expect("no faults");
    let panel = &settings.auth.keys["panel"];
    assert_eq!(panel.policy.can.len(), 4);
    assert_eq!((panel.policy.prefix.as_deref(), panel.policy.client_paths), (None, Some(true)));
    let app = &settings.auth.keys["mini-app_2"];
    assert_eq!(app.sha256, [0xab; 32]);
    let app = &app.policy;
    assert!(app.can.contains(&Action::Link) && !app.can.contains(&Action::Delete));
    assert_eq!((app.prefix.as_deref(), app.client_paths), (Some("mini/app/"), Some(false)));
}

#[test]
fn keys_that_could_not_mean_what_they_say_are_refused() {
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let toml = format!(
        "[auth.keys.a]\nsha256 = '{DIGITS}'\n[auth.keys.b]\nsha256 = '{DIGITS}'\n\
         [auth.keys.c]\nsha256 = 'the-key-itself'\n[auth.keys.d]\nsha256 = '{nothing}'\n[auth.keys.e]\ncan = []\n\
         [auth.keys.F]\nsha256 = '{}'\n[auth.keys.g]\nsha256 = '{}'\ncan = 'upload, fly'\nprefix = '/x'\nshoe = 1\n",
        "11".repeat(32),
        "22".repeat(32),
    );
    let result = with_file(&toml, &[]);
    let expected = [
        "auth.keys.F",
        "auth.keys.b.sha256",
        "auth.keys.c.sha256",
        "auth.keys.d.sha256",
        "auth.keys.e.can",
        "auth.keys.e.sha256",
        "auth.keys.g.can",
        "auth.keys.g.prefix",
        "auth.keys.g.shoe",
    ];
    assert_eq!(keys(&result), expected);
    let told = result.expect_err("faults").to_string();
    assert!(
        !told.contains("the-key-itself") && told.contains("\"fly\" is not one of upload"),
        "{told}"
    );
}

#[test]
fn hosts_and_origins_and_urls_are_checked() {
    let refused: [(&str, &[&str]); 4] = [
        (
            "GATEWAY__COS__ALLOWED_HOSTS",
            &[
                "",
                "*",
                "https://a.com",
                "a.com/x",
                "a b",
                "a.*.com",
                "*a.com",
                "10.0.0.256",
                "a.com:0",
                "a.com:x",
                "a.com:+1",
                "u@a.com",
                "[::1",
                "[::g]",
                "*.1.2.3.4",
                "*.[::1]",
                "-a.com",
                "a..com",
                "例.com",
                "*.",
            ],
        ),
        (
            "GATEWAY__CORS__ORIGINS",
            &[
                "*",
                "a.com",
                "https://a.com/",
                "https://a.com/x",
                "https://*.a.com",
                "https://",
                "1x://a.com",
                "https://a.com?x",
                "http://",
                "file:",
                "file:///",
                "app://a b",
                "app://a@b",
                "Null",
            ],
        ),
        (
            "GATEWAY__SERVER__PUBLIC_URL",
            &[
                "a.com",
                "ftp://a.com",
                "https://",
                "https:///x",
                "https://a.com/?x",
                "https://a.com/#x",
                "https://a.com/ x",
                "https://u:hunter2@a.com",
            ],
        ),
        (
            "GATEWAY__SERVER__BIND",
            &["", "8080", ":8080", "localhost:8080", "127.0.0.1", "0.0.0.0:8080", "::1:80"],
        ),
    ];
    for (name, wrongs) in refused {
        for wrong in wrongs {
            let told = sandbox(&[(name, wrong)]).expect_err(&format!("{name}={wrong}")).to_string();
            assert_eq!(told.lines().count(), 1, "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
    let settings = sandbox(&[
        ("GATEWAY__SERVER__PUBLIC_URL", "HTTPS://Files.Example.com:8443/Up/"),
        ("GATEWAY__SERVER__BIND", "[::1]:0"),
        ("GATEWAY__WECHAT__FILE_ID_PREFIX", "cloud://env-1.6578-env-1-12/"),
    ])
    .expect("no faults");
    assert_eq!(settings.server.public_url.as_deref(), Some("https://files.example.com:8443/Up"));
    assert_eq!(settings.wechat.file_id_prefix.as_deref(), Some("cloud://env-1.6578-env-1-12"));
}

#[test]
fn templates_must_tell_uploads_apart() {
    let template = |text: &str| sandbox(&[("GATEWAY__UPLOAD__PATH_TEMPLATE", text)]);
    for wrong in [
        "",
        "a/{yyyy}",
        "a/{uid}",
        "{uuid",
        "uuid}{uuid}",
        "{a{uuid}}",
        "/{uuid}",
        "{uuid}/",
        "{uuid}\u{7}",
    ] {
        assert!(template(wrong).is_err(), "{wrong}");
    }
    let settings = template("{client}/{dir}/{name}").expect("no faults");
    assert!(settings.warnings().join("\n").contains("overwrite each other"));
}

#[test]
fn what_does_not_go_together_is_refused() {
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
fn a_key_for_tickets_that_does_not_fit_its_algorithm_is_refused() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let with = |algorithm: &str, key: &str, file: &str| {
        production(&[
            ("GATEWAY__AUTH__JWT__ALGORITHM", algorithm),
            ("GATEWAY__AUTH__JWT__KEY", key),
            ("GATEWAY__AUTH__JWT__KEY_FILE", file),
        ])
    };
    for (algorithm, key, file) in
        [("", "", ""), ("HS256", SECRET, ""), ("ES256", PEM, ""), ("RS256", "", "/key.pem")]
    {
        assert!(with(algorithm, key, file).is_ok(), "{algorithm}");
    }
    for (algorithm, key, file, fault) in [
        ("", SECRET, "", "auth.jwt.algorithm"),
        ("", "", "/key.pem", "auth.jwt.algorithm"),
        ("none", SECRET, "", "auth.jwt.algorithm"),
        ("hs256", SECRET, "", "auth.jwt.algorithm"),
        ("HS256", "", "", "auth.jwt.key"),
        ("HS256", &SECRET[1..], "", "auth.jwt.key"),
        // Everybody may have the public key, and could sign with it.
        ("HS256", PEM, "", "auth.jwt.key"),
        ("EdDSA", SECRET, "", "auth.jwt.key"),
        ("HS256", SECRET, "/key.pem", "auth.jwt.key_file"),
    ] {
        let result = with(algorithm, key, file);
        assert_eq!(keys(&result), [fault], "{algorithm} {key}");
        assert!(!result.expect_err("faults").to_string().contains(&SECRET[1..]));
    }
}

#[test]
fn rates_networks_and_types_are_checked() {
    let settings = production(&[
        ("GATEWAY__AUTH__RATE", "600/m"),
        ("GATEWAY__AUTH__JWT__RATE", " 10 / s"),
        ("GATEWAY__SERVER__TRUSTED_PROXIES", "10.1.2.3/8, ::1, fd00::/8"),
        ("GATEWAY__UPLOAD__ALLOWED_TYPES", "image/*, Application/PDF"),
    ])
    .expect("no faults");
    let rate = settings.auth.rate.expect("a rate");
    assert_eq!((rate.requests.get(), rate.per), (600, Duration::from_secs(60)));
    assert_eq!(settings.auth.jwt.policy.rate.expect("a rate").per, Duration::from_secs(1));
    assert_eq!(settings.upload.allowed_types, ["image/*", "application/pdf"]);
    let described = settings.describe();
    for line in [
        "auth.rate = \"600/m\"\n",
        "server.trusted_proxies = [\"10.0.0.0/8\", \"::1/128\", \"fd00::/8\"]\n",
    ] {
        assert!(described.contains(line), "{described}");
    }
    for (variable, values) in [
        ("GATEWAY__AUTH__RATE", &["0/s", "10", "10/d", "/s", "1.5/s", "-1/s"][..]),
        ("GATEWAY__SERVER__TRUSTED_PROXIES", &["10.0.0.0/33", "*", "proxy.local", "10.0.0"]),
        (
            "GATEWAY__UPLOAD__ALLOWED_TYPES",
            &["png", "image/", "*/png", "image/*;q=1", "a/b/c", "*"],
        ),
        ("GATEWAY__LINKS__SIGNING_KEYS", &["too-short", "has a blank in it which is odd"]),
    ] {
        for value in values {
            assert!(production(&[(variable, value)]).is_err(), "{variable}={value}");
        }
    }
}

#[test]
fn the_open_interface_service_is_plain_http_unless_told_otherwise() {
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
fn a_redis_url_is_checked_and_never_shown() {
    for right in ["redis://h", "redis://:hunter2@10.0.0.1:6379/2", "unix:///run/redis.sock"] {
        let settings = production(&[("GATEWAY__REDIS__URL", right)]).expect("no faults");
        let shown = format!("{}{settings:?}", settings.describe());
        assert!(!shown.contains("hunter2") && !shown.contains(right), "{shown}");
    }
    for wrong in ["h:6379", "http://:hunter2@h", "redis//:hunter2@h"] {
        let result = production(&[("GATEWAY__REDIS__URL", wrong)]);
        assert!(problem(&result, "redis.url").contains("is not a Redis URL"));
        assert!(!result.expect_err("faults").to_string().contains("hunter2"));
    }
}

#[test]
fn a_secret_with_a_line_end_is_named_and_not_shown() {
    let result = production(&[("GATEWAY__WECHAT__SECRET", "hunter2\n")]);
    assert!(problem(&result, "wechat.secret").contains("white space"));
    assert!(!result.expect_err("faults").to_string().contains("hunter2"));
}

#[test]
fn neither_check_nor_debug_shows_a_secret() {
    let settings = production(&[
        ("GATEWAY__WECHAT__SECRET", "hunter2"),
        ("GATEWAY__AUTH__KEYS__PANEL__SHA256", DIGITS),
        ("GATEWAY__AUTH__JWT__ALGORITHM", "HS256"),
        ("GATEWAY__AUTH__JWT__KEY", "hunter2hunter2hunter2hunter2hunter2"),
        ("GATEWAY__LINKS__SIGNING_KEYS", "hunter2hunter2-a,hunter2hunter2-b"),
    ])
    .expect("no faults");
    let described = settings.describe();
    assert!(
        described.contains("wechat.secret = \"***\"\n")
            && described.contains("auth.keys.panel.sha256 = \"***\"\n")
    );
    let debug = format!("{settings:?}");
    for shown in [&described, &debug] {
        assert!(!shown.contains("hunter2") && !shown.contains(DIGITS), "{shown}");
    }
    assert!(!debug.contains("sha256"), "{debug}");
}

#[test]
fn the_description_reads_back_as_the_same_settings() {
    let pairs = [
        ("GATEWAY__UPLOAD__MAX_FILE_SIZE", "20MB"),
        ("GATEWAY__UPLOAD__REPLAY_WINDOW", "0"),
        ("GATEWAY__UPLOAD__IDLE_TIMEOUT", "1500ms"),
        ("GATEWAY__SERVER__LINGERING_TIMEOUT", "0s"),
        ("GATEWAY__CORS__ORIGINS", "https://a.example.com,null"),
        ("GATEWAY__SANDBOX__DATA", "/tmp/a \"b\"\\c"),
    ];
    let described = sandbox(&pairs).expect("no faults").describe();
    let again = with_file(&described, &[]).expect("no faults").describe();
    assert_eq!(described, again);
    assert!(described.contains("upload.max_file_size = \"20000000B\"\n"), "{described}");
    let keys: Vec<&str> = described
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key)
        .collect();
    assert!(keys.is_sorted());
}

#[test]
fn the_description_has_exactly_the_keys_of_the_default_file() {
    // That every key in the file is also read, and the other way round, shows in the absence of
    // faults: an unread key is an unknown setting, an absent one must be set.
    let mut layers = Layers::default();
    layers.built_in(DEFAULT);
    let unread: Vec<String> =
        Reader::from(layers).finish().into_iter().map(|fault| fault.key).collect();
    let described = sandbox(&[]).expect("no faults").describe();
    let described: Vec<&str> = described
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(described, unread);
}

#[test]
fn the_built_in_files_are_sound_and_agree_with_the_rules() {
    for file in [DEFAULT, SANDBOX, PRODUCTION] {
        let mut layers = Layers::default();
        layers.built_in(file);
        let faults = Reader::from(layers).finish();
        assert!(
            faults.iter().all(|fault| fault.problem.starts_with("unknown setting")),
            "{faults:?}"
        );
    }
    assert_eq!(sandbox(&[]).expect("no faults").wechat.base_url, rules::WECHAT);
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

    let twice = with_file("[upload]\nhold_limit = \"1MiB\"\nmax_buffered_file = \"2MiB\"", &[]);
    assert!(problem(&twice, "upload.max_buffered_file").contains("`upload.hold_limit`"));
    let wrong =
        problem(&sandbox(&[("GATEWAY__UPLOAD__HOLD_LIMIT", "x")]), "upload.max_buffered_file");
    assert!(wrong.contains("GATEWAY__UPLOAD__HOLD_LIMIT"), "{wrong}");
}

#[test]
fn errors_are_explained_in_the_repository_unless_another_page_is_set() {
    let page = |pairs: &[(&str, &str)]| sandbox(pairs).expect("no faults").server.errors_url;
    assert_eq!(page(&[]), crate::http::problem::REPOSITORY_ERRORS_URL);
    let name = "GATEWAY__SERVER__ERRORS_URL";
    assert_eq!(
        page(&[(name, "https://help.example.com/errors")]),
        "https://help.example.com/errors"
    );
    for wrong in ["", "/errors.md", "help.example.com", "https://help.example.com/#errors"] {
        assert!(sandbox(&[(name, wrong)]).is_err(), "{wrong}");
    }
}
