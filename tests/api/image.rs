//! The container image: its two build profiles, and the gateway as an unprivileged user on a read-only file system.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Form, Setup, authorization, command, crc64, noise, within};
use crate::pages::project;

const DOCKERFILE: &str = include_str!("../../Dockerfile");
/// The binary in the image.
const BINARY: &str = "/usr/local/bin/tcb-upload-gateway";

/// Mounts `$0` read-only with only `/proc` inside, and makes it the root.
const SEALED: &str = r#"
set -e
mount --bind "$0" "$0"
mkdir "$0/proc"
mount --rbind /proc "$0/proc"
mount -o remount,bind,ro "$0"
exec /usr/sbin/chroot "$0" /setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"#;

/// The stages of the Dockerfile, each instruction on one line.
fn stages() -> Vec<Vec<String>> {
    let joined = DOCKERFILE.replace("\\\n", "");
    let lines = joined.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut stages = vec![Vec::new()];
    for line in lines {
        if line.starts_with("FROM ") {
            stages.push(Vec::new());
        }
        stages.last_mut().expect("one").push(line.to_owned());
    }
    stages
}

/// The command of the only RUN instruction of the first stage that contains `text`.
fn run_instruction(text: &str) -> String {
    let stages = stages();
    let runs = stages[1].iter().filter_map(|line| line.strip_prefix("RUN "));
    let [run] = runs.filter(|run| run.contains(text)).collect::<Vec<_>>()[..] else {
        panic!("not one RUN with {text}")
    };
    run.to_owned()
}

/// Runs an instruction's command in `folder`, after `stubs`.
fn shell(stubs: &str, command: &str, folder: &Path) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-ec", &format!("{stubs}\n{command}")]).current_dir(folder);
    let output = shell.output().expect("sh");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Makes the image's root file system of `binary` in `root`, as the Dockerfile does.
fn assemble(binary: &OsStr, root: &Path) {
    let folder = tempfile::tempdir().expect("a folder");
    let dist = folder.path().join("target/dist");
    fs::create_dir_all(&dist).expect("a folder");
    fs::copy(binary, dist.join("tcb-upload-gateway")).expect("the binary");
    let command = run_instruction("ldd").replace("/image", root.to_str().expect("text"));
    shell("", &command, folder.path());
}

/// What puts the process into the sandboxed root, and the libraries it is linked to; not a part of the image.
fn install_setpriv(root: &Path) {
    let command = "cp --parents $(ldd /usr/bin/setpriv | grep -o '/[^ ]*') \"$ROOT\" && cp /usr/bin/setpriv \"$ROOT\"";
    shell(&format!("ROOT='{}'", root.display()), command, root);
}

/// Runs the command in a new mount namespace. Without root privileges that needs a new user namespace as well.
fn sealed(given: &Command, root: &Path) -> Command {
    assemble(given.get_program(), root);
    install_setpriv(root);
    // As container runtimes mount it.
    fs::copy("/etc/hosts", root.join("etc/hosts")).expect("it exists");
    let is_root = fs::metadata("/proc/self").expect("/proc").uid() == 0;
    let (space, user): (&[_], &[_]) = if is_root {
        (&[], &["--reuid=65532", "--regid=65532", "--clear-groups"])
    } else {
        (&["--map-root-user"], &[])
    };
    let root = root.to_str().expect("text");
    let shell = ["/bin/sh", "-c", SEALED, root];
    let runner = [&["unshare", "--mount"], space, &shell, user].concat();
    within(given, &runner, OsStr::new(BINARY))
}

#[test]
fn an_unprivileged_gateway_on_a_read_only_file_system_uploads() {
    let setup = Setup::new();
    let root = setup.folder().join("root");
    fs::create_dir(&root).expect("a folder");
    let place = root.clone();
    let world = setup
        // Names are resolved without files of glibc's own.
        .sandbox(|options| options.cos_host = Some("localhost".to_owned()))
        .within(move |command| sealed(command, &place))
        .start();

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
    let stubs = format!(
        "PROFILE={profile}; cargo() {{ echo \"$@\"; }}; touch() {{ :; }}; strip() {{ :; }};"
    );
    shell(&stubs, build, Path::new("/")).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_image_has_the_sandbox_only_when_built_for_its_profile() {
    let stages = stages();
    assert!(stages[0].contains(&"ARG PROFILE=production".to_owned()));
    let common = ["build", "--profile", "dist", "--locked", "--no-default-features"];
    let binary = run_instruction("strip");
    for (profile, features) in
        [("production", "--features=otlp"), ("sandbox", "--features=otlp,sandbox")]
    {
        assert_eq!(cargo_arguments(&binary, profile), [&common[..], &[features]].concat());
    }
    assert!(run_instruction("rm -r src").contains("--no-default-features"));

    // The sandbox image starts without any other setting.
    let variables = [("GATEWAY_PROFILE".to_owned(), "sandbox".to_owned())].into();
    let output = command(&["--check"], &variables, Path::new("/")).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The image has no shell, so what starts there is started by its path.
#[test]
fn the_image_has_the_gateway_and_nothing_else() {
    let health = format!(
        "HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD [\"{BINARY}\", \"--health\"]"
    );
    let image = [
        "FROM scratch",
        "COPY --from=build /image /",
        "USER 65532:65532",
        "ARG PROFILE",
        "ENV GATEWAY_PROFILE=$PROFILE",
        "EXPOSE 8080",
        &health,
        &format!("ENTRYPOINT [\"{BINARY}\"]"),
    ];
    assert_eq!(stages()[2], image);

    let root = tempfile::tempdir().expect("a folder");
    assemble(OsStr::new(env!("CARGO_BIN_EXE_tcb-upload-gateway")), root.path());
    let listed = shell("", "find . -type f -printf '%s %P\\n'", root.path());
    let files = listed.lines().map(|line| line.split_once(' ').expect("size and path"));
    let (binaries, others): (Vec<_>, Vec<_>) = files.partition(|(_, path)| *path == &BINARY[1..]);
    assert_eq!(binaries.len(), 1, "{listed}");
    let is_known = |path: &str| {
        path == "etc/ssl/certs/ca-certificates.crt"
            || path.contains(".so.") && path.starts_with("lib")
    };
    assert!(others.iter().all(|(_, path)| is_known(path)), "{listed}");
    // The binary's size is limited by tests/deploy.py, where it is built as for a release.
    let size: usize = others.iter().map(|(size, _)| size.parse::<usize>().expect("a size")).sum();
    assert!(size < 6 << 20, "{listed}");
    let folder = fs::metadata(root.path().join("tmp")).expect("a folder");
    assert_eq!(folder.mode() & 0o7777, 0o1777, "the sandbox stores objects there");
}

/// The targets that `cargo metadata` lists, without tests, which are found where their folder is.
fn targets(metadata: &str) -> BTreeSet<String> {
    let metadata: Value = serde_json::from_str(metadata).expect("JSON");
    let targets = metadata["packages"][0]["targets"].as_array().expect("targets").iter();
    let named = targets.map(|target| {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        format!("{} {}", text(&target["kind"][0]), text(&target["name"]))
    });
    named.filter(|target| !target.starts_with("test ")).collect()
}

/// Follows the first stage in a folder that has only what the stage copies: cargo finds every target of Cargo.toml, and
/// the sources every file that they include.
#[test]
fn the_dockerfile_copies_all_that_is_compiled() {
    let folder = tempfile::tempdir().expect("a folder");
    let ignored = fs::read_to_string(project().join(".dockerignore")).expect("a file");
    let cargo = format!(
        "cargo() {{ '{}' metadata --no-deps --offline --locked --format-version 1; }}; strip() {{ :; }};",
        env!("CARGO")
    );
    let all = targets(&shell(&cargo, "cargo", project()));
    assert!(all.contains("bench relay"), "{all:?}");
    let mut builds = 0;
    for line in &stages()[1] {
        if let Some(command) = line.strip_prefix("RUN ").filter(|run| run.contains("cargo ")) {
            // A build fails if one has no file; `metadata` leaves it out.
            assert_eq!(targets(&shell(&cargo, command, folder.path())), all, "{command}");
            builds += 1;
        } else if let Some(paths) = line.strip_prefix("COPY ") {
            let paths: Vec<_> = paths.split_whitespace().collect();
            let (to, from) = paths.split_last().expect("paths");
            for from in from {
                assert!(
                    ignored.contains(&format!("\n!{from}\n")),
                    "{from} is not sent to the builder"
                );
                let to = if *to == "./" { from } else { to };
                let copy = format!(
                    "mkdir -p \"$(dirname '{to}')\" && cp -r '{}/{from}' '{to}'",
                    project().display()
                );
                shell("", &copy, folder.path());
            }
        }
    }
    assert_eq!(builds, 2);
    let sources = shell("", "grep -rlE 'include_(str|bytes)!\\(\"' src", folder.path());
    let mut included = 0;
    for source in sources.lines() {
        let source = folder.path().join(source);
        let text = fs::read_to_string(&source).expect("text");
        for rest in text.split("include_str!(\"").skip(1) {
            let path = rest.split('"').next().expect("a path");
            let path = source.parent().expect("a folder").join(path);
            assert!(path.exists(), "{} includes {path:?}", source.display());
            included += 1;
        }
    }
    assert!(included >= 10, "{included}");
}
