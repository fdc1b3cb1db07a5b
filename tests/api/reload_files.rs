//! Reload of the settings: which files are watched from when on, and what does not fit what is taken over.

use std::io::Write;
use std::path::Path;

use crate::harness::{Client, Form, Gateway, Setup};
use crate::hooks::SECRET;
use crate::reload::{
    REFUSED, RELOADED, connect, hang_up, head, key, put, reload, replace, response, show, trusting,
    with_file,
};
use crate::tls::Certificate;

fn tls(folder: &Path) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    format!("[server.tls]\ncert = \"{}\"\nkey = \"{}\"\n", file("cert.pem"), file("key.pem"))
}

/// The default profile: its sandbox replaces settings that no reload takes over.
#[test]
fn the_sandbox_s_settings_are_reloaded_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    let objects = folder.path().join("objects");
    let variables = [
        ("GATEWAY__SERVER__BIND", "127.0.0.1:0".to_owned()),
        ("GATEWAY__SANDBOX__DATA", objects.display().to_string()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
    std::fs::write(&file, "").expect("a file");
    let option = file.display().to_string();
    let gateway = Gateway::start(&["--config", &option], &variables, folder.path());
    let upload = || {
        let form = Form::new().file("file", "x.txt", "text/plain", b"content");
        let mut client = Client::connect(gateway.address);
        let kind = form.content_type();
        client.send_request("POST", "/v1/files", &[("content-type", &kind)], &form.bytes());
        client.response()
    };
    upload().stored();
    replace(&file, "upload.max_file_size = \"5B\"");
    hang_up(&gateway, RELOADED);
    upload().problem(413, "file_too_large");
    replace(&file, "");
    hang_up(&gateway, RELOADED);
    upload().stored();
}

#[test]
fn files_that_are_named_before_they_are_there_are_waited_for() {
    let certificates = [Certificate::new(), Certificate::new()];
    let folder = tempfile::tempdir().expect("a folder");
    let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
    std::fs::create_dir(&one).expect("a folder");
    show(&certificates[0], &one);
    let (world, file) = with_file(Setup::new(), &tls(&one));
    reload(&world, &file, &tls(&other), REFUSED);
    std::fs::create_dir(&other).expect("a folder");
    show(&certificates[1], &other);
    world.gateway.log_with(RELOADED);
    let mut stream = connect(&world, &trusting(&[&certificates[1]]));
    stream.write_all(&head("GET", "/healthz", "", 0)).expect("it reads");
    assert_eq!(response(&mut stream).expect("a response").0, 200);
}

/// The gateway is held at the start by a file that is a pipe, which it reads after its settings.
#[test]
fn a_change_during_the_start_is_noticed() {
    let setup = Setup::new();
    let pipe = setup.folder().join("secret");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let file = setup.folder().join("gateway.toml");
    let before =
        format!("auth.jwt.algorithm = \"HS256\"\nauth.jwt.key_file = \"{}\"\n", pipe.display());
    let changed = file.clone();
    std::thread::spawn(move || {
        // Once the gateway reads it, and as often as it does.
        let open = || std::fs::OpenOptions::new().write(true).open(&pipe);
        let mut secret = open();
        replace(&changed, &key("web", "the-first-web-key"));
        while let Ok(mut opened) = secret {
            // A reader that has just closed it opens it again.
            let _ = opened.write_all(b"the-secret-of-32-bytes-or-longer");
            drop(opened);
            // Meanwhile it finds the end; otherwise it reads the secret once more.
            std::thread::sleep(std::time::Duration::from_millis(20));
            secret = open();
        }
    });
    let (world, _) = with_file(setup, &before);
    world.gateway.log_with(RELOADED);
    put(&world, "the-first-web-key", b"content").stored();
}

#[test]
fn what_fits_only_with_a_restart_is_refused_and_says_so() {
    let (world, file) = with_file(Setup::new(), "");
    let hooks = format!(
        "[hooks]\nstored_url = \"http://127.0.0.1:9/\"\nwait = true\nsecret = [\"{SECRET}\"]\n"
    );
    // Hooks are turned on by a restart only.
    let reply = "upload.reply = \"hook\"\n";
    reload(&world, &file, &format!("{reply}{hooks}"), REFUSED);
    let log = world.gateway.log();
    let line = log.lines().find(|line| line.contains(REFUSED)).expect("the line");
    for said in [
        "upload.reply: is \\\"hook\\\", which needs hooks.wait = true",
        "until a restart, these changed settings have their former values: hooks.",
    ] {
        assert!(line.contains(said), "{said}: {line}");
    }
    // By itself, that is a warning. What does not even fit in the file is refused as at a start.
    reload(&world, &file, &hooks, RELOADED);
    reload(&world, &file, reply, REFUSED);
    let log = world.gateway.log();
    let line = log.lines().rfind(|line| line.contains(REFUSED)).expect("the line");
    assert!(!line.contains("former values"), "{line}");
}
