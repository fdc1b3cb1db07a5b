//! The vendor's SDKs against the sandbox's COS: they upload in each of their ways, byte for byte, and hear why they are
//! refused. `tests/clients/install` brings them; `tests/run` runs it and then these.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::noise;
use crate::sandbox_cos::{BUCKET, Cos, Keys, start};

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
const SMALL: usize = 100_000;
/// Six parts.
const LARGE: usize = (5 << 20) + 777;

#[derive(Clone, Copy)]
enum Sdk {
    Python,
    Node,
}

impl Sdk {
    fn name(self) -> &'static str {
        match self {
            Sdk::Python => "cos-python-sdk-v5",
            Sdk::Node => "cos-nodejs-sdk-v5",
        }
    }

    /// Runs its script with these keys. `whole_host`: the host is a custom domain of the bucket;
    /// otherwise its first label is the bucket.
    fn run(self, cos: &Cos, keys: &Keys, whole_host: bool) -> Output {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in [("small.bin", noise(SMALL, 1)), ("large.bin", noise(LARGE, 2))] {
            std::fs::write(folder.path().join(name), content).expect("written");
        }
        let (program, script) = match self {
            Sdk::Python => (format!("{CLIENTS}/venv/bin/python"), "cos_python.py"),
            Sdk::Node => ("node".to_owned(), "cos_node.js"),
        };
        let address = cos.sandbox.cos_addr();
        let mut command = Command::new(&program);
        command
            .arg(Path::new(CLIENTS).join(script))
            .current_dir(folder.path())
            // The SDK for Node remembers its unfinished uploads there.
            .env("HOME", folder.path())
            .env("COS_BUCKET", BUCKET)
            .env("COS_ID", &keys.id)
            .env("COS_KEY", &keys.secret);
        if let Some(token) = &keys.token {
            command.env("COS_TOKEN", token);
        }
        if whole_host {
            command.env("COS_HOST", address.to_string());
        } else {
            command.env("COS_IP", address.ip().to_string());
            command.env("COS_PORT", address.port().to_string());
        }
        let output = command.output();
        output.unwrap_or_else(|error| panic!("{program}: {error}; see tests/clients/install"))
    }
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn the_vendor_s_sdks_upload_byte_for_byte() {
    for sdk in [Sdk::Python, Sdk::Node] {
        for temporary in [false, true] {
            let cos = start(|_| {});
            let keys = if temporary { Keys::temporary(&cos.sandbox) } else { Keys::owner() };
            let name = sdk.name();
            let output = sdk.run(&cos, &keys, temporary);
            assert!(output.status.success(), "{name}: {}", said(&output));
            assert!(cos.object("sdk/小 +.bin") == Some(noise(SMALL, 1)), "{name}");
            for key in ["sdk/large.bin", "sdk/resumed.bin"] {
                assert!(cos.object(key) == Some(noise(LARGE, 2)), "{name}: {key}");
            }
            let state = cos.state();
            assert_eq!(state["objects"].as_array().map(Vec::len), Some(3), "{name}");
            assert_eq!(state["multipart_uploads"], serde_json::json!([]), "{name}");
            // Two parts of the resumed upload were not sent again.
            assert_eq!(state["counts"]["upload_part"], 12, "{name}");
            println!("{name}: {}", state["counts"]);
        }
    }
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn the_vendor_s_sdks_are_refused_with_a_wrong_key_and_an_expired_one() {
    for sdk in [Sdk::Python, Sdk::Node] {
        let cos = start(|options| options.temporary_key_life = Duration::ZERO);
        let mut wrong = Keys::owner();
        wrong.secret.push('x');
        for (keys, expected) in [
            (wrong, "403 SignatureDoesNotMatch"),
            (Keys::temporary(&cos.sandbox), "403 ExpiredToken"),
        ] {
            let output = sdk.run(&cos, &keys, true);
            assert!(!output.status.success(), "{}", sdk.name());
            assert!(said(&output).contains(expected), "{}: {}", sdk.name(), said(&output));
            cos.assert_empty(expected);
        }
    }
}
