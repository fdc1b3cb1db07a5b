//! The dependencies: licences that fit ours, and each crate in one version, with the exceptions of `deny.toml`.
//! Needs no network.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use config::{Config, File, FileFormat};
use serde::Deserialize;
use serde_json::Value;
use spdx::{Expression, ParseMode};

/// The lists of `deny.toml`.
#[derive(Deserialize)]
struct Deny {
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skipped>,
}

/// A version of a crate that is there beside a newer one, and why both are needed.
#[derive(Deserialize)]
struct Skipped {
    #[serde(rename = "crate")]
    name_and_version: String,
    reason: String,
}

fn deny() -> Deny {
    let file = File::from_str(include_str!("../../deny.toml"), FileFormat::Toml);
    let read = Config::builder().add_source(file).build().expect("TOML");
    read.try_deserialize().expect("its lists")
}

/// Everything that is built for this platform, tests and benchmarks included.
fn packages() -> Vec<Value> {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc");
    let version = String::from_utf8(rustc.stdout).expect("text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a platform");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--all-features"])
        .args(["--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

#[test]
fn every_licence_fits_ours() {
    let licences = deny().licenses.allow;
    let allowed = |text: &str| {
        let expression = Expression::parse_mode(text, ParseMode::LAX).ok()?;
        let fits = expression.evaluate(|licence| {
            licence.license.id().is_some_and(|id| licences.iter().any(|name| name == id.name))
        });
        Some(fits)
    };
    assert_eq!(allowed("GPL-3.0-only OR MIT"), Some(true));
    assert_eq!(allowed("GPL-3.0-only AND MIT"), Some(false));
    let refused: Vec<_> = packages()
        .iter()
        .filter(|package| package["license"].as_str().and_then(allowed) != Some(true))
        .map(|package| {
            format!("{} {}: {}", package["name"], package["version"], package["license"])
        })
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn every_crate_is_there_once_or_for_a_reason() {
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for package in packages() {
        let text = |key: &str| package[key].as_str().expect("text").to_owned();
        versions.entry(text("name")).or_default().insert(text("version"));
    }
    let skipped = deny().bans.skip;
    for Skipped { name_and_version, reason } in &skipped {
        let (name, version) = name_and_version.split_once('@').expect("a version");
        assert!(!reason.is_empty(), "{name_and_version}");
        let found = versions.get_mut(name).unwrap_or_else(|| panic!("{name} is not there"));
        assert!(found.len() > 1, "{name} is there once and needs no exception");
        found.retain(|other| !other.starts_with(&format!("{version}.")));
    }
    versions.retain(|_, versions| versions.len() != 1);
    assert!(
        versions.is_empty(),
        "in several versions, without a reason in deny.toml: {versions:#?}"
    );
}
