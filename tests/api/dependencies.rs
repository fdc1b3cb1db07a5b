//! The dependencies: licences that fit ours, and each crate in one version, with the exceptions of `deny.toml`.
//! Needs no network.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use config::{Config, File, FileFormat};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

/// The parts of `deny.toml` that are tested.
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

/// An older version of a crate that is used along with a newer one, and why both are needed.
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

/// A crate that is built for this platform, tests and benchmarks included.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
}

fn packages() -> BTreeSet<Package> {
    packages_with(&["--all-features"])
}

fn packages_with(options: &[&str]) -> BTreeSet<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--no-dedupe"])
        .args(options)
        .args(["--prefix", "none", "--format", "{p}|{l}|"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("text");
    let package = |line: &str| {
        let mut columns = line.split('|');
        let mut words = columns.next()?.split(' ');
        let name = words.next()?.to_owned();
        let version = words.next()?.strip_prefix('v')?.to_owned();
        Some(Package { name, version, licence: columns.next()?.to_owned() })
    };
    let packages = printed.lines().filter(|line| !line.is_empty());
    packages.map(|line| package(line).unwrap_or_else(|| panic!("{line}"))).collect()
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
    let packages = packages();
    let refused: Vec<_> =
        packages.iter().filter(|package| allowed(&package.licence) != Some(true)).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn every_crate_has_one_version_or_a_reason() {
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for Package { name, version, .. } in packages() {
        versions.entry(name).or_default().insert(version);
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

#[test]
fn what_only_the_sandbox_needs_is_not_in_the_image() {
    let has_any = |options: &[&str]| {
        let packages = packages_with(&[&["--edges", "normal"], options].concat());
        assert!(packages.iter().any(|package| package.name == "actix-web"));
        packages.into_iter().any(|package| ["crc", "image", "png"].contains(&&*package.name))
    };
    assert!(has_any(&["--all-features"]));
    assert!(!has_any(&["--no-default-features"]));
}
