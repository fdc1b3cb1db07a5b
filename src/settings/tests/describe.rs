//! The printed settings, which show no secrets.

use super::{DIGITS, production, sandbox, with_file};
use crate::settings::layers::{Layers, Reader};
use crate::settings::load::DEFAULT;

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
    // Every key in the file is read, and every key that is read is in the file: otherwise there would be faults,
    // because a key that is not read is an unknown setting, and an absent one must be set.
    let mut layers = Layers::default();
    layers.built_in(DEFAULT);
    let unread: Vec<String> =
        Reader::from(layers).finish().into_iter().map(|fault| fault.key).collect();
    // The sandbox has a preset besides, and presets have names of their own.
    let described = production(&[]).expect("no faults").describe();
    let described: Vec<&str> = described
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(described, unread);
}
