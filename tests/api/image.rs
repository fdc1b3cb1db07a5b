//! The container image: its two build profiles, and the gateway as an unprivileged user on a read-only file system.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Form, Setup, authorization, command, crc64, noise, within};

const DOCKERFILE: &str = include_str!("../../Dockerfile");

/// Mounts `$0` read-only with only `/proc` inside, and makes it the root.
const SEALED: &str = r#"
set -e
mount --bind "$0" "$0"
mkdir "$0/proc"
mount --rbind /proc "$0/proc"
mount -o remount,bind,ro "$0"
exec /usr/sbin/chroot "$0" /setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"#;

/// A binary and the libraries it is linked to, in `root`.
fn install(binary: &OsStr, name: &str, root: &Path) {
    let output = Command::new("ldd").arg(binary).output().expect("ldd");
    let linked = String::from_utf8(output.stdout).expect("text");
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries.map(PathBuf::from) {
        let place = root.join(library.strip_prefix("/").expect("a path from the root"));
        fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        fs::copy(&library, place).expect("a library");
    }
    fs::copy(binary, root.join(name)).expect("the binary");
}

/// Runs the command in a new mount namespace. Without root privileges that needs a new user namespace as well.
fn sealed(given: &Command, root: &Path) -> Command {
    install(given.get_program(), "gateway", root);
    install(OsStr::new("/usr/bin/setpriv"), "setpriv", root);
    let is_root = fs::metadata("/proc/self").expect("/proc").uid() == 0;
    let (space, user): (&[_], &[_]) = if is_root {
        (&[], &["--reuid=65532", "--regid=65532", "--clear-groups"])
    } else {
        (&["--map-root-user"], &[])
    };
    let root = root.to_str().expect("text");
    let shell = ["/bin/sh", "-c", SEALED, root];
    let runner = [&["unshare", "--mount"], space, &shell, user].concat();
    within(given, &runner, OsStr::new("/gateway"))
}

#[test]
fn an_unprivileged_gateway_on_a_read_only_file_system_uploads() {
    let setup = Setup::new();
    let root = setup.folder().join("root");
    fs::create_dir(&root).expect("a folder");
    let place = root.clone();
    let world = setup.within(move |command| sealed(command, &place)).start();

    let process = format!("/proc/{}", world.gateway.id());
    let mounts = fs::read_to_string(format!("{process}/mountinfo")).expect("/proc");
    let options = mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        (fields[4] == "/").then(|| fields[5].to_owned())
    });
    assert!(options.is_some_and(|options| options.starts_with("ro,")), "{mounts}");
    let status = fs::read_to_string(format!("{process}/status")).expect("/proc");
    for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
    assert_ne!(fs::metadata(&process).expect("/proc").uid(), 0, "{status}");

    let content = noise(5 << 20, 1);
    let file = Form::new().file("file", "x.bin", "text/plain", &content);
    assert_eq!(world.post(&file).stored()["crc64"], crc64(&content));
    // A file of unknown length is buffered in memory, not on disk.
    let buffered = Form::new().file("files[]", "y.bin", "text/plain", &content);
    assert_eq!(world.post(&buffered).stored()["crc64"], crc64(&content));
    let mut client = world.client();
    client.send_head(
        "PUT",
        "/v1/files/z.bin",
        &[authorization(), ("transfer-encoding", "chunked")],
    );
    client.send_chunk(&content);
    client.send(b"0\r\n\r\n");
    assert_eq!(client.response().stored()["crc64"], crc64(&content));
    assert_eq!(world.objects().len(), 3);
    let log = world.gateway.log();
    assert!(!log.contains("Read-only") && !log.contains("ERROR"), "{log}");
}

/// Runs the Dockerfile's build instruction with a `cargo` that only prints its arguments.
fn cargo_arguments(build: &str, profile: &str) -> Vec<String> {
    let stubs = "cargo() { echo \"$@\"; }; touch() { :; }; strip() { :; };";
    let mut shell = Command::new("sh");
    shell.args(["-ec", &format!("{stubs} {build}")]).env("PROFILE", profile);
    let output = shell.output().expect("sh");
    assert!(output.status.success(), "{build}: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("text");
    printed.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_image_has_the_sandbox_only_when_built_for_its_profile() {
    let joined = DOCKERFILE.replace("\\\n", "");
    let instructions: Vec<_> = joined.lines().collect();
    for needed in ["ARG PROFILE=production", "ENV GATEWAY_PROFILE=$PROFILE", "USER 65532:65532"] {
        assert!(instructions.contains(&needed), "{needed}");
    }
    let builds: Vec<_> =
        instructions.iter().filter(|line| line.contains("cargo build")).copied().collect();
    let [dependencies, binary] = builds[..] else { panic!("{builds:?}") };
    assert!(dependencies.contains("--no-default-features"), "{dependencies}");
    let binary = binary.strip_prefix("RUN ").expect("a command");
    let common = ["build", "--profile", "dist", "--locked", "--no-default-features"];
    assert_eq!(cargo_arguments(binary, "production"), common);
    let features = ["--features=sandbox"];
    assert_eq!(cargo_arguments(binary, "sandbox"), [&common[..], &features].concat());

    // The sandbox image starts without any other setting.
    let variables = [("GATEWAY_PROFILE".to_owned(), "sandbox".to_owned())].into();
    let output = command(&["--check"], &variables, Path::new("/")).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
