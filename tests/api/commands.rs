//! The README's commands that are no client's (those are in readme.rs), run as they stand.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Gateway, command, noise};

const README: &str = include_str!("../../README.md");

/// ReplayBuffer of code in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let blocks = README.split(fence.as_str()).skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

/// The names of all that a document has, by where they stand.
fn shape(value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| {
                let below = shape(value);
                std::iter::once(name.clone())
                    .chain(below.into_iter().map(move |at| format!("{name}.{at}")))
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(shape).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_first_screen_s_commands_give_what_stands_there() {
    let shell = blocks("sh");
    assert_eq!(shell[0], "cargo run --release\n");
    let folder = tempfile::tempdir().expect("a folder");
    let own = [
        ("GATEWAY__SERVER__BIND", "127.0.0.1:0".to_owned()),
        ("GATEWAY__SANDBOX__DATA", folder.path().join("objects").display().to_string()),
    ];
    let variables = own.map(|(name, value)| (name.to_owned(), value)).into();
    let gateway = Gateway::start(&[], &variables, folder.path());

    std::fs::write(folder.path().join("photo.png"), noise(100_000, 1)).expect("written");
    let curl = shell[1].replace("127.0.0.1:8080", &gateway.address.to_string());
    let output = Command::new("sh").args(["-c", &curl]).current_dir(folder.path()).output();
    let reply = serde_json::from_slice::<Value>(&output.expect("curl").stdout).expect("JSON");
    let told = serde_json::from_str::<Value>(blocks("json")[0]).expect("JSON");
    assert_eq!(shape(&reply), shape(&told), "{reply}");
    for same in ["name", "size", "content_type", "verified"] {
        assert_eq!(reply["files"][0][same], told["files"][0][same], "{same}");
    }
}

/// What a block of shell sets, with something that could be there for `…`.
fn variables(block: &str) -> BTreeMap<String, String> {
    let lines = block.lines().map(|line| line.trim().trim_start_matches("export "));
    let set = lines
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.starts_with("GATEWAY"));
    set.map(|(name, value)| {
        let (value, _) = value.split_once("  ").unwrap_or((value, ""));
        let value = match name {
            "GATEWAY__AUTH__KEYS__PANEL__SHA256" => value.replace('…', &"0".repeat(64)),
            _ => value.replace('…', "0123456789abcdef"),
        };
        (name.to_owned(), value)
    })
    .collect()
}

#[test]
fn what_the_readme_sets_is_understood() {
    let sets: Vec<_> =
        blocks("sh").into_iter().map(variables).filter(|set| set.len() > 2).collect();
    assert_eq!(sets.len(), 3, "in production, on cloud hosting, behind nginx");
    for set in &sets {
        // nginx's are more of the first.
        let mut all = if set.contains_key("GATEWAY__WECHAT__ENV") {
            BTreeMap::new()
        } else {
            sets[0].clone()
        };
        all.extend(set.clone());
        all.insert("GATEWAY_PROFILE".to_owned(), "production".to_owned());
        let folder = tempfile::tempdir().expect("a folder");
        let output = command(&["--check"], &all, folder.path()).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{set:?}: {}", text(&output.stderr));
        let printed = text(&output.stdout);
        for (name, value) in set.iter().filter(|(name, _)| name.contains("__")) {
            let key = name.trim_start_matches("GATEWAY__").replace("__", ".").to_lowercase();
            let line = printed.lines().find(|line| line.starts_with(&key)).unwrap_or_default();
            assert!(line.contains(value.trim()) || line.ends_with("\"***\""), "{key}: {line}");
        }
    }
}

#[test]
fn commands_that_take_long_are_those_there_are() {
    let shell = blocks("sh").concat();
    for (said, file, there) in [
        ("tests/run", "tests/run", "cargo test --release"),
        ("--test api faults::the_matrix", "tests/api/faults.rs", "fn the_matrix"),
        ("SOAK_MINUTES=60", "tests/api/soak.rs", "\"SOAK_MINUTES\""),
        ("cargo bench --bench relay", "benches/relay.rs", "#[derive(Parser)]"),
        ("-- --check --record", "benches/relay.rs", "record: bool"),
        ("cargo bench --bench encode", "benches/encode.rs", "--instructions"),
    ] {
        assert!(shell.contains(said), "{said}");
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        assert!(std::fs::read_to_string(path).expect("a file").contains(there), "{there}");
    }
}
