//! The command line: what each subcommand prints to stdout and stderr, and its exit code.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{KEY, Setup, World, command, crc64, noise};

/// A command that has ended.
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub fn run(arguments: &[&str], variables: &BTreeMap<String, String>, folder: &Path) -> Ended {
    let Output { status, stdout, stderr } =
        command(arguments, variables, folder).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code: status.code().expect("a code"), stdout: text(stdout), stderr: text(stderr) }
}

fn upload(world: &World, arguments: &[&str], folder: &Path) -> Ended {
    let to = format!("http://{}", world.gateway.address);
    let variables = [("GATEWAY_URL".to_owned(), to), ("GATEWAY_KEY".to_owned(), KEY.to_owned())];
    run(&[&["upload"], arguments].concat(), &variables.into(), folder)
}

#[test]
fn files_are_uploaded_and_their_urls_printed_in_order() {
    let world = Setup::new().set("upload.path_template", "{dir}/{uuid}-{name}").start();
    let folder = tempfile::tempdir().expect("a folder");
    let contents = [noise(9 << 20, 1), noise(10, 2), Vec::new(), noise(100_000, 3), noise(5, 4)];
    let names = ["photo.png", "b \"quoted\" 中文.txt", "empty", "d.bin", "e.mp4"];
    for (name, content) in names.iter().zip(&contents) {
        std::fs::write(folder.path().join(name), content).expect("written");
    }
    let ended = upload(&world, &[&names[..], &["--dir", "tried & true"]].concat(), folder.path());
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let urls: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(urls.len(), 5, "{}", ended.stdout);
    for (url, content) in urls.iter().zip(&contents) {
        assert!(url.contains("/tried%20%26%20true/"), "{url}");
        assert!(world.download(url).0 == *content, "{url}");
    }
    assert!(ended.stderr.starts_with("5 of 5 files stored, 9.10 MiB in "), "{}", ended.stderr);
    let kinds: Vec<_> =
        world.objects().iter().map(|object| object["content_type"].clone()).collect();
    assert!(
        kinds.contains(&json!("image/png")) && kinds.contains(&json!("video/mp4")),
        "{kinds:?}"
    );

    let ended = upload(&world, &["d.bin", "--json", "--key", KEY], folder.path());
    let stored: Value = serde_json::from_str(&ended.stdout).expect("a line of JSON");
    assert_eq!(stored["crc64"], crc64(&contents[3]));
    assert!(stored["file_id"].as_str().expect("an id").starts_with("cloud://"));
}

#[test]
fn files_that_are_not_stored_are_named_with_the_reason() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let folder = tempfile::tempdir().expect("a folder");
    for (name, size) in [("small", 100), ("large", 60 << 20)] {
        std::fs::write(folder.path().join(name), noise(size, 1)).expect("written");
    }
    let ended = upload(&world, &["missing", "large", "small", "."], folder.path());
    assert_eq!(ended.code, 1);
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    for said in [
        "missing: No such file",
        "large: file_too_large: the file is larger than 1.0 MiB",
        ".: it is not a file",
        "1 of 4 files stored, 100 B in ",
    ] {
        assert!(ended.stderr.contains(said), "no {said:?} in\n{}", ended.stderr);
    }
    // The request id on stderr is in the gateway's log.
    let id = ended.stderr.split_once("(request ").and_then(|(_, rest)| rest.split_once(')'));
    world.gateway.log_with(id.expect("an id").0);

    let wrong = upload(&world, &["small", "--key", "no such key"], folder.path());
    assert_eq!((wrong.code, wrong.stdout.as_str()), (1, ""));
    assert!(wrong.stderr.contains("unauthenticated: the key is not known"), "{}", wrong.stderr);
    assert_eq!(world.objects().len(), 1);

    let unused = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", unused.local_addr().expect("an address"));
    drop(unused);
    let nowhere = upload(&world, &["small", "--to", &address], folder.path());
    assert!(nowhere.stderr.contains("cannot reach 127.0.0.1:"), "{}", nowhere.stderr);
    for not_an_address in ["gateway.local:8080", "ftp://gateway.local"] {
        let ended = upload(&world, &["small", "--to", not_an_address], folder.path());
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("must begin with http"), "{}", ended.stderr);
    }
    // A server that responds, but not as a gateway: the sandbox's COS.
    let cos = format!("http://{}/", world.sandbox.cos_addr());
    let ended = upload(&world, &["small", "--to", &cos], folder.path());
    assert!(ended.stderr.contains("does not respond like a gateway"), "{}", ended.stderr);
}

#[test]
fn wrong_arguments_exit_with_code_64() {
    let folder = tempfile::tempdir().expect("a folder");
    for arguments in [&["upload"][..], &["uplaod", "x"], &["--no-such"]] {
        let ended = run(arguments, &BTreeMap::new(), folder.path());
        assert_eq!(ended.code, 64, "{arguments:?}: {}", ended.stderr);
    }
    let help = run(&["--help"], &BTreeMap::new(), folder.path());
    assert_eq!(help.code, 0);
    for named in ["upload", "doctor", "--check", "--health", "--profile", "--config"] {
        assert!(help.stdout.contains(named), "{}", help.stdout);
    }
}
