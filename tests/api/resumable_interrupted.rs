//! Client libraries of tus over a network that breaks. `tests/clients/install` brings them; `tests/run` runs it and then
//! these.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::cutting_proxy::CuttingProxy;
use crate::harness::{KEY, noise};
use crate::resumable::{MIB, assert_stored, setup};
use crate::resumable_network::{LARGE, assert_little_was_sent_again, cut_often};

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// A file of [`LARGE`] bytes is stored over cuts by a program of `tests/clients`, in chunks of this size if one is given.
fn survives_cuts(runner: &str, program: &str, chunk_size: Option<usize>) {
    let world = setup().set("upload.max_file_size", "1GiB").start();
    let folder = tempfile::tempdir().expect("a folder");
    let content = noise(LARGE, 1);
    std::fs::write(folder.path().join("photo.bin"), &content).expect("written");
    std::fs::copy(Path::new(CLIENTS).join(program), folder.path().join(program)).expect("copied");
    std::fs::write(folder.path().join("package.json"), r#"{"type": "module"}"#).expect("written");
    let modules = Path::new(CLIENTS).join("node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).expect("a link");
    let proxy = CuttingProxy::start(world.gateway.address, cut_often(5));
    let began = Instant::now();
    let mut command = Command::new(runner);
    command
        .arg(program)
        .current_dir(folder.path())
        .env("URL", format!("http://{}/v1/uploads", proxy.address))
        .env("GATEWAY_KEY", KEY)
        .env("UPLOAD_PATH", program);
    command.envs(chunk_size.map(|size| ("CHUNK_SIZE", size.to_string())));
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{error}; see tests/clients/install"));
    let records = proxy.records();
    assert!(
        output.status.success(),
        "{program} after {:?}: {}{}",
        records.values().map(|record| &record.cuts).collect::<Vec<_>>(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(records.len(), 1, "it is one upload");
    for record in records.values() {
        let name = format!("{program}, {chunk_size:?}");
        assert_little_was_sent_again(&name, record, content.len(), began);
    }
    assert_stored(&world, program, &content);
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn tus_js_client_survives_cuts_in_one_request() {
    survives_cuts("node", "tus_interrupted.js", None);
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn tus_js_client_survives_cuts_in_chunks() {
    survives_cuts("node", "tus_interrupted.js", Some(5 * MIB));
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn tuspy_survives_cuts() {
    survives_cuts(&format!("{CLIENTS}/venv/bin/python"), "tus_interrupted.py", Some(32 * MIB));
}
