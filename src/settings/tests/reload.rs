//! What a reload takes over: exactly the settings that it says it does.

use super::{DIGITS, production};
use crate::settings::Settings;

const EVERYWHERE: [(&str, &str); 26] = [
    ("GATEWAY__SERVER__BIND", "127.0.0.1:9999"),
    ("GATEWAY__SERVER__WORKERS", "7"),
    ("GATEWAY__SERVER__TRUSTED_PROXIES", "10.0.0.0/8"),
    ("GATEWAY__CORS__ORIGINS", "https://a.example.com"),
    ("GATEWAY__WECHAT__SECRET", "another-secret"),
    ("GATEWAY__WECHAT__WARM_LINKS", "8"),
    ("GATEWAY__COS__REPLY_TIMEOUT", "77s"),
    ("GATEWAY__UPLOAD__MAX_FILE_SIZE", "20MB"),
    ("GATEWAY__UPLOAD__MAX_CONCURRENT", "33"),
    ("GATEWAY__UPLOAD__MEMORY_BUDGET", "300MiB"),
    ("GATEWAY__UPLOAD__REPLAY_WINDOW", "0"),
    ("GATEWAY__UPLOAD__MAX_BUFFERED_FILE", "3MiB"),
    ("GATEWAY__AUTH__KEYS__PANEL__SHA256", DIGITS),
    ("GATEWAY__AUTH__JWT__ALGORITHM", "HS256"),
    ("GATEWAY__AUTH__JWT__KEYS__OLD", "hunter2hunter2hunter2hunter2hunter2"),
    ("GATEWAY__AUTH__RATE", "10/s"),
    ("GATEWAY__QUOTA__SMALL__BYTES", "1GiB"),
    ("GATEWAY__LINKS__SIGNING_KEYS", "hunter2hunter2-a"),
    ("GATEWAY__RESUMABLE__EXPIRE_AFTER", "2h"),
    ("GATEWAY__RECEIPTS__KEY", "receipts-receipts-receipts-receipts"),
    ("GATEWAY__REDIS__URL", "redis://127.0.0.1/"),
    ("GATEWAY__CONSOLE__ENABLED", "true"),
    ("GATEWAY__TELEMETRY__FORMAT", "json"),
    ("GATEWAY__TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:4318"),
    ("GATEWAY__METRICS__BIND", "127.0.0.1:9090"),
    ("GATEWAY__HOOKS__TIMEOUT", "7s"),
];

/// Asserts that exactly the settings of which `can_reload` says so come from `newer`.
fn assert_divided(start: &Settings, newer: &Settings) -> (Vec<String>, Vec<String>) {
    let effective = start.reloaded(newer);
    let all = start.changed(newer).into_iter();
    let (taken, kept) = all.partition(|key| start.can_reload(newer, key));
    assert_eq!(start.changed(&effective), taken);
    assert_eq!(newer.changed(&effective), kept);
    (taken, kept)
}

#[test]
fn exactly_what_can_be_reloaded_is_taken_over() {
    let (start, newer) = (production(&[]).expect("no faults"), production(&EVERYWHERE));
    let newer = newer.expect("no faults");
    for (older, newer) in [(&start, &newer), (&newer, &start)] {
        let (taken, kept) = assert_divided(older, newer);
        for key in [
            "auth.keys.panel.sha256",
            "auth.jwt.keys.old",
            "hooks.timeout",
            "auth.rate",
            "wechat.warm_links",
        ] {
            assert!(taken.iter().any(|name| name == key), "{key}: {taken:?}");
        }
        for key in ["redis.url", "server.bind", "upload.memory_budget", "upload.replay_window"] {
            assert!(kept.iter().any(|name| name == key), "{key}: {kept:?}");
        }
    }
    assert_eq!(start.changed(&start), [""; 0]);
}

#[test]
fn hooks_and_tls_are_turned_on_by_a_restart_only() {
    let hooks = [
        ("GATEWAY__HOOKS__STORED_URL", "https://back.example.com/hooks"),
        ("GATEWAY__HOOKS__SECRET", "whsec_dGhlLWtleS1vZi10aGUtaG9va3Mtb2YtdGhlLXRlc3Rz"),
    ];
    let tls = [("GATEWAY__SERVER__TLS__CERT", "/a.pem"), ("GATEWAY__SERVER__TLS__KEY", "/b.pem")];
    let start = production(&[]).expect("no faults");
    for pairs in [hooks, tls] {
        let newer = production(&pairs).expect("no faults");
        assert_eq!(assert_divided(&start, &newer).0, [""; 0]);
        assert_eq!(assert_divided(&newer, &start).0, [""; 0]);
    }
    let on = production(&tls).expect("no faults");
    let moved = production(&[tls[0], ("GATEWAY__SERVER__TLS__KEY", "/c.pem")]).expect("no faults");
    assert_eq!(assert_divided(&on, &moved).0, ["server.tls.key"]);
}
