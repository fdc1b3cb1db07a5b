//! What the gateway is built from: licences that fit its own, and each crate once. Needs no network.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, ParseMode};

/// Licences that ask for no more than to be named. Of several that a crate offers, one is enough.
const LICENCES: [&str; 9] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "BSL-1.0",
    "Unicode-3.0",
    // Mozilla's list of root certificates (webpki-roots): data, free to hand on.
    "CDLA-Permissive-2.0",
];

/// Crates that are there in two versions, and why that has to do.
const TWICE: &[(&str, &str)] = &[
    ("base64", "rcgen (tests) is ahead of actix-http and jsonwebtoken"),
    ("bit-vec", "yasna under rcgen (tests), and proptest (tests)"),
    ("crypto-common", "follows digest"),
    ("digest", "crc-fast is behind sha2 and hmac"),
    ("getrandom", "ring is behind rand"),
    ("hashbrown", "governor is behind indexmap"),
    ("http", "actix is of http's first generation, hyper of its second"),
    ("linux-raw-sys", "follows rustix"),
    ("pem", "rcgen (tests) is ahead of jsonwebtoken"),
    ("rand_core", "signature under jsonwebtoken is behind rand"),
    ("rustix", "procfs under prometheus is behind the rest"),
    ("syn", "macros, at build time only"),
    ("synstructure", "macros, at build time only"),
    ("untrusted", "aws-lc-rs is behind rustls-webpki"),
];

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
    let allowed = |text: &str| {
        let expression = Expression::parse_mode(text, ParseMode::LAX).ok()?;
        let fits = expression
            .evaluate(|licence| licence.license.id().is_some_and(|id| LICENCES.contains(&id.name)));
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
    versions.retain(|_, versions| versions.len() > 1);
    let excused: BTreeSet<_> = TWICE.iter().map(|(name, _)| (*name).to_owned()).collect();
    let found: BTreeSet<_> = versions.keys().cloned().collect();
    let new: BTreeMap<_, _> =
        versions.iter().filter(|(name, _)| !excused.contains(*name)).collect();
    assert!(new.is_empty(), "in several versions, and for no reason that is told here: {new:#?}");
    assert_eq!(excused, found, "those that are there once need no excuse");
}
