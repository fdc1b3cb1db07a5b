//! Client libraries of tus, and Uppy in a browser, over a network that breaks. `tests/clients/install` and `npm ci` in
//! `tests/browser` bring them; `tests/run` runs both and then these.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::cutting_proxy::CuttingProxy;
use crate::harness::{KEY, Setup, noise, wait_until};
use crate::resumable::{MIB, assert_stored, setup};
use crate::resumable_network::{LARGE, assert_little_was_sent_again, cut_often};

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
const BROWSER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");
/// A file of [`LARGE`] bytes is stored over cuts by a program of `tests/clients`, in chunks of this size if one is given.
fn survives_cuts(runner: &str, program: &str, chunk_size: Option<usize>) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(Path::new(CLIENTS).join(program), folder.path().join(program)).expect("copied");
    std::fs::write(folder.path().join("package.json"), r#"{"type": "module"}"#).expect("written");
    let modules = Path::new(CLIENTS).join("node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).expect("a link");
    let mut command = Command::new(runner);
    command
        .arg(program)
        .current_dir(folder.path())
        .env("GATEWAY_KEY", KEY)
        .env("UPLOAD_PATH", program);
    command.envs(chunk_size.map(|size| ("CHUNK_SIZE", size.to_string())));
    let name = format!("{program}, {chunk_size:?}");
    survives(setup(), &name, &folder.path().join("photo.bin"), |url| {
        command
            .env("URL", url)
            .output()
            .unwrap_or_else(|error| panic!("{error}; see tests/clients/install"))
    });
}

/// Uppy's page of the guide in Chromium does so, over a road to COS.
fn uppy_survives_cuts(setup: Setup, road: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("photo.bin");
    let mut command = Command::new("node");
    command.arg("interrupted.js").arg(&file).current_dir(BROWSER).env("GATEWAY_KEY", KEY);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = command.spawn().expect("node");
    let mut origin = String::new();
    let output = program.stdout.as_mut().expect("its output");
    BufReader::new(output).read_line(&mut origin).expect("the page's origin");
    let setup = setup.set("cors.origins", origin.trim());
    survives(setup, &format!("Uppy, {road}"), &file, |url| {
        writeln!(program.stdin.as_mut().expect("its input"), "{url}").expect("written");
        program.wait_with_output().expect("its end")
    });
}

/// A client uploads the file at `path`, of [`LARGE`] bytes, to the URL that it is given, through a network that is cut often.
fn survives(setup: Setup, name: &str, path: &Path, client: impl FnOnce(&str) -> Output) {
    let world = setup.set("upload.max_file_size", "1GiB").start();
    let content = noise(LARGE, 1);
    std::fs::write(path, &content).expect("written");
    let proxy = CuttingProxy::start(world.gateway.address, cut_often(5));
    let began = Instant::now();
    let output = client(&format!("http://{}/v1/uploads", proxy.address));
    let records = proxy.records();
    assert!(
        output.status.success(),
        "{name} after {:?}: {}{}",
        records.values().map(|record| &record.cuts).collect::<Vec<_>>(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(records.len(), 1, "it is one upload");
    for record in records.values() {
        assert_little_was_sent_again(name, record, content.len(), began);
    }
    wait_until("helper objects are deleted", || world.objects().len() == 1);
    let key = world.objects()[0]["key"].as_str().expect("a key").to_owned();
    assert_stored(&world, &key, &content);
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

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn uppy_in_a_browser_survives_cuts_over_cos_s_api() {
    uppy_survives_cuts(setup(), "the API");
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn uppy_in_a_browser_survives_cuts_over_forms() {
    let spool = tempfile::tempdir().expect("a folder");
    let path = spool.path().to_str().expect("a path");
    uppy_survives_cuts(Setup::new().set("resumable.spool", path), "forms");
}
