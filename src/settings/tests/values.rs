//! The syntax of single values.

use std::time::Duration;

use super::{problem, production, sandbox, with_file};
use crate::settings::WarmLinks;

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
fn links_in_advance_are_a_word_or_a_number() {
    let of =
        |text: &str| sandbox(&[("GATEWAY__WECHAT__WARM_LINKS", text)]).map(|s| s.wechat.warm_links);
    assert_eq!(sandbox(&[]).expect("the default").wechat.warm_links, WarmLinks::Auto);
    for (text, links) in [
        ("off", WarmLinks::Off),
        ("0", WarmLinks::Off),
        ("auto", WarmLinks::Auto),
        ("1", WarmLinks::UpTo(1)),
        ("256", WarmLinks::UpTo(256)),
    ] {
        assert_eq!(of(text).expect("a value"), links, "{text}");
    }
    let number = with_file("wechat.warm_links = 8", &[]).expect("a TOML integer");
    assert_eq!(number.wechat.warm_links, WarmLinks::UpTo(8));
    assert!(number.describe().contains("wechat.warm_links = \"8\"\n"));
    for wrong in ["", "on", "true", "-1", "257", "1.5"] {
        assert!(of(wrong).is_err(), "{wrong}");
    }
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
            let report =
                sandbox(&[(name, wrong)]).expect_err(&format!("{name}={wrong}")).to_string();
            assert_eq!(report.lines().count(), 1, "{report}");
            assert!(!report.contains("hunter2"), "{report}");
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
fn a_path_template_must_make_paths_unique() {
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
fn a_redis_url_is_checked_and_never_shown() {
    for right in [
        "redis://h",
        "redis://:hunter2@10.0.0.1:6379/2",
        "rediss://user:hunter2@h",
        "unix:///run/redis.sock",
    ] {
        let settings = production(&[("GATEWAY__REDIS__URL", right)]).expect("no faults");
        let shown = format!("{}{settings:?}", settings.describe());
        assert!(!shown.contains("hunter2") && !shown.contains(right), "{shown}");
    }
    for wrong in
        ["h:6379", "http://:hunter2@h", "redis//:hunter2@h", "rediss://:hunter2@h#insecure"]
    {
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
