//! Settings as the binary reads them: from the environment, files and flags.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tcb_upload_gateway::sandbox::{Options, Sandbox};

use crate::harness::{Client, Form, Gateway, KEY, Setup, authorization, command, crc64, noise};

const PRODUCTION: &[(&str, &str)] = &[
    ("GATEWAY_PROFILE", "production"),
    ("GATEWAY__WECHAT__ENV", "env-1a2b"),
    ("GATEWAY__WECHAT__APPID", "wx1234"),
    ("GATEWAY__WECHAT__SECRET", "an-app-secret"),
];

fn variables(lists: &[&[(&str, &str)]]) -> BTreeMap<String, String> {
    let all = lists.iter().flat_map(|list| list.iter());
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"small")
}

/// The exit code and output of a process that has exited.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary in an empty folder until it exits.
fn run(arguments: &[&str], variables: &BTreeMap<String, String>) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    run_in(folder.path(), arguments, variables)
}

fn run_in(folder: &Path, arguments: &[&str], variables: &BTreeMap<String, String>) -> Ended {
    let child = command(arguments, variables, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let Output { status, stdout, stderr } = ended(child);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ended { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// Waits for a process with little output to exit.
fn ended(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().expect("its state").is_none() {
        if began.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().expect("its output")
}

/// A free port outside the ephemeral range, which other tests' sockets use. No two tests get the same.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| fastrand::u16(0..10_000).into());
    let mut ports = (0..100).map(|_| 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000);
    ports
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .expect("a free port")
}

/// Asserts that the binary refuses to start and that its message contains each of `named`.
fn assert_refused(ended: &Ended, named: &[&str]) {
    assert_eq!(ended.code, Some(64), "{}{}", ended.out, ended.err);
    for name in named {
        assert!(ended.err.contains(name), "{name} is not named:\n{}", ended.err);
    }
}

/// The settings printed by `--check`, by key.
fn checked(arguments: &[&str], variables: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let Ended { code, out, err } = run(&[arguments, &["--check"]].concat(), variables);
    assert_eq!(code, Some(0), "{err}");
    let lines = out.lines().filter_map(|line| line.split_once(" = "));
    lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn every_wrong_setting_is_named_at_once() {
    let wrong = variables(&[
        PRODUCTION,
        &[
            ("GATEWAY__UPLOAD__CLIENT_PATH", "true"),
            ("GATEWAY__UPLOAD__MAX_FILE_SIZE", "plenty"),
            ("GATEWAY__SERVER__WORKERS", "-3"),
            ("GATEWAY__WECHAT__TIMEOUT", "10"),
        ],
    ]);
    for arguments in [&[][..], &["--check"], &["--health"]] {
        let ended = run(arguments, &wrong);
        assert_refused(
            &ended,
            &[
                "upload.client_path:",
                "did you mean `upload.client_paths`?",
                "upload.max_file_size: \"plenty\"",
                "server.workers: \"-3\"",
                "wechat.timeout: \"10\"",
                "GATEWAY__SERVER__WORKERS",
            ],
        );
        assert_eq!(ended.out, "");
        assert_eq!(ended.err.lines().count(), 5, "one line for each:\n{}", ended.err);
    }
}

#[test]
fn a_wrong_secret_is_named_and_not_shown() {
    let hash = "0123456789abcdef-pasted-key";
    let wrong = variables(&[
        PRODUCTION,
        &[
            ("GATEWAY__WECHAT__SECRET", "pasted secret\n"),
            ("GATEWAY__AUTH__KEYS__PANEL__SHA256", hash),
        ],
    ]);
    let ended = run(&[], &wrong);
    assert_refused(&ended, &["wechat.secret:", "auth.keys.panel.sha256:"]);
    for hidden in ["pasted secret", hash] {
        assert!(!ended.err.contains(hidden), "{}", ended.err);
    }
}

#[test]
fn production_needs_credentials_and_no_sandbox() {
    let bare = variables(&[&[("GATEWAY_PROFILE", "production")]]);
    let all =
        ["wechat.env:", "wechat.appid:", "wechat.secret:", "GATEWAY__WECHAT__SECRET"].as_slice();
    assert_refused(&run(&[], &bare), all);
    assert_refused(&run(&["--profile", "production"], &variables(&[])), all);
    let sandbox = variables(&[PRODUCTION, &[("GATEWAY__SANDBOX__ENABLED", "true")]]);
    assert_refused(&run(&[], &sandbox), &["sandbox.enabled:"]);
    let unknown = variables(&[&[("GATEWAY_PROFILE", "prod")]]);
    assert_refused(&run(&[], &unknown), &["\"prod\"", "sandbox, production"]);
}

#[test]
fn the_sandbox_listens_on_loopback_only() {
    let open = variables(&[&[("GATEWAY__SERVER__BIND", "0.0.0.0:0")]]);
    assert_refused(&run(&[], &open), &["server.bind:", "loopback"]);
}

#[test]
fn unknown_flags_and_files_are_refused() {
    let production = variables(&[PRODUCTION]);
    assert_refused(&run(&["--no-such-flag"], &production), &["--no-such-flag"]);
    assert_refused(&run(&["--config"], &production), &["--config"]);
    assert_refused(&run(&["--config", "none.toml"], &production), &["none.toml"]);
    let ended = run(&["--help"], &variables(&[]));
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.contains("--config"), "{}", ended.out);
}

#[test]
fn hash_key_prints_the_hash_for_the_settings() {
    let none = variables(&[]);
    let hash = hex::encode(Sha256::digest(KEY));
    let ended = run(&["hash-key", KEY], &none);
    assert_eq!((ended.code, ended.out.trim_end(), ended.err.as_str()), (Some(0), &*hash, ""));
    let folder = tempfile::tempdir().expect("a folder");
    let piped = |text: &str| {
        let mut child = command(&["hash-key"], &none, folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut pipe = child.stdin.take().expect("a pipe");
        pipe.write_all(text.as_bytes()).expect("taken");
        drop(pipe);
        ended_of(child)
    };
    for line in [KEY.to_owned(), format!("{KEY}\n"), format!("{KEY}\r\n")] {
        assert_eq!(piped(&line), (Some(0), format!("{hash}\n")), "{line:?}");
    }
    assert_eq!(piped("\n").0, Some(64));
    let ended = run(&["hash-key", "--new"], &none);
    let value = |name: &str| {
        let mut lines = ended.out.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| *known == name).expect("it").1.to_owned()
    };
    assert_eq!(value("key").len(), 64);
    assert_eq!(value("sha256"), hex::encode(Sha256::digest(value("key"))));
    assert_ne!(run(&["hash-key", "--new"], &none).out, ended.out);
}

fn ended_of(child: Child) -> (Option<i32>, String) {
    let Output { status, stdout, .. } = ended(child);
    (status.code(), String::from_utf8(stdout).expect("text"))
}

#[test]
fn check_prints_the_settings_and_no_secrets() {
    let hash = hex::encode(Sha256::digest(KEY));
    let given = variables(&[
        PRODUCTION,
        &[
            ("GATEWAY__AUTH__KEYS__PANEL__SHA256", &hash),
            ("GATEWAY__AUTH__KEYS__PANEL__CAN", "upload,download"),
            ("GATEWAY__AUTH__KEYS__PANEL__PREFIX", "panel"),
            ("GATEWAY__UPLOAD__MAX_FILE_SIZE", "1048576"),
            ("GATEWAY__SERVER__PUBLIC_URL", "https://files.example.com/"),
            ("GATEWAY__AUTH__ADDRESS_RATE", "20/s"),
        ],
    ]);
    let Ended { code, out, err } = run(&["--check"], &given);
    assert_eq!(code, Some(0), "{err}");
    for line in [
        "wechat.env = \"env-1a2b\"",
        "wechat.secret = \"***\"",
        "auth.keys.panel.sha256 = \"***\"",
        "auth.keys.panel.can = [\"upload\", \"download\"]",
        "auth.keys.panel.prefix = \"panel/\"",
        "upload.max_file_size = \"1MiB\"",
        "upload.client_paths = false",
        "server.public_url = \"https://files.example.com\"",
        "server.bind = \"0.0.0.0:8080\"",
    ] {
        assert!(out.lines().any(|printed| printed == line), "no {line}:\n{out}");
    }
    for hidden in ["an-app-secret", &hash] {
        assert!(!out.contains(hidden) && !err.contains(hidden), "{out}{err}");
    }
    assert_eq!(err, "");
    // Risky settings are warned about, but are no error.
    let risky = variables(&[PRODUCTION, &[("GATEWAY__AUTH__ANONYMOUS", "true")]]);
    let ended = run(&["--check"], &risky);
    assert_eq!(ended.code, Some(0));
    assert!(ended.err.contains("warning: auth.anonymous"), "{}", ended.err);
}

#[test]
fn check_reads_the_named_files() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("wrong.pem"), "no key").expect("a file");
    let tickets = [("GATEWAY__AUTH__JWT__ALGORITHM", "RS256")];
    let key = |name| [("GATEWAY__AUTH__JWT__KEY_FILE", name)];
    let tls =
        [("GATEWAY__SERVER__TLS__CERT", "wrong.pem"), ("GATEWAY__SERVER__TLS__KEY", "wrong.pem")];
    for (wrong, named) in [
        (&[&tickets[..], &key("none.pem")].concat()[..], "auth.jwt.key_file: none.pem"),
        (&[&tickets[..], &key("wrong.pem")].concat()[..], "not a public key in PEM for RS256"),
        (&tls[..], "TLS: wrong.pem"),
    ] {
        let ended = run_in(folder.path(), &["--check"], &variables(&[PRODUCTION, wrong]));
        assert_refused(&ended, &[named]);
        assert_eq!(ended.out, "");
    }
}

#[test]
fn the_output_of_check_is_a_file_with_the_same_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let given = variables(&[
        PRODUCTION,
        &[
            ("GATEWAY__CORS__ORIGINS", "https://a.example.com,http://localhost:5173"),
            ("GATEWAY__COS__WRITE_TIMEOUT", "90s"),
        ],
    ]);
    let printed = run(&["--check"], &given).out;
    std::fs::write(folder.path().join("printed.toml"), &printed).expect("a file");
    let secret = variables(&[&[("GATEWAY__WECHAT__SECRET", "an-app-secret")]]);
    let arguments = ["--profile", "production", "--config", "printed.toml", "--check"];
    let ended = run_in(folder.path(), &arguments, &secret);
    assert_eq!(ended.out, printed, "{}", ended.err);
}

#[test]
fn the_environment_overrides_the_file_then_port_then_the_profile() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway.toml").display().to_string();
    let file = ["--config", path.as_str()];
    let bind = |arguments: &[&str], more: &[(&str, &str)]| {
        checked(arguments, &variables(&[PRODUCTION, more]))["server.bind"].clone()
    };
    let port = ("PORT", "9000");
    assert_eq!(bind(&[], &[]), "\"0.0.0.0:8080\"");
    assert_eq!(bind(&[], &[port]), "\"0.0.0.0:9000\"");
    std::fs::write(&path, "server.bind = \"10.0.0.1:9001\"\n").expect("a file");
    assert_eq!(bind(&file, &[port]), "\"10.0.0.1:9001\"");
    let environment = ("GATEWAY__SERVER__BIND", "10.0.0.1:9002");
    assert_eq!(bind(&file, &[port, environment]), "\"10.0.0.1:9002\"");
    // An empty variable counts as not set, since platforms may define it empty.
    assert_eq!(bind(&[], &[("PORT", "")]), "\"0.0.0.0:8080\"");
    // In the sandbox profile `PORT` is ignored, so that a variable set by chance does not open a port to the network.
    let sandbox = checked(&[], &variables(&[&[port]]));
    assert_eq!(sandbox["server.bind"], "\"127.0.0.1:8080\"");
    assert_refused(
        &run(&[], &variables(&[PRODUCTION, &[("PORT", "http")]])),
        &["server.bind:", "from PORT"],
    );

    std::fs::write(&path, "[server]\nbnid = \"10.0.0.1:9001\"\n").expect("a file");
    assert_refused(&run(&file, &variables(&[PRODUCTION])), &["server.bnid:", "gateway.toml"]);
    std::fs::write(&path, "[server\n").expect("a file");
    assert_refused(&run(&file, &variables(&[PRODUCTION])), &["gateway.toml:", "TOML"]);
}

#[test]
fn an_app_secret_of_digits_only_works() {
    for mode in ["stable", "secret"] {
        let world = Setup::new()
            .sandbox(|options| options.secret = "01234567890123456789012345678901".to_owned())
            .set("wechat.credential", mode)
            .start();
        let content = noise(100_000, 1);
        let file = world.post(&Form::new().file("f", "x", "text/plain", &content)).stored();
        assert_eq!(file["crc64"], crc64(&content));
        assert_eq!(world.objects().len(), 1);
    }
}

#[test]
fn lists_come_from_the_environment() {
    let world =
        Setup::new().set("cors.origins", "https://a.example.com, https://b.example.com").start();
    let from = |origin: &str| {
        let (kind, body) = (small().content_type(), small().bytes());
        let headers = [authorization(), ("content-type", &kind), ("origin", origin)];
        let mut client = world.client();
        client.send_request("POST", "/v1/files", &headers, &body);
        client.response()
    };
    from("https://a.example.com").stored();
    from("https://b.example.com").stored();
    from("https://c.example.com").problem(403, "origin_not_allowed");
    assert_eq!(world.objects().len(), 2);

    // The sandbox's COS is on 127.0.0.1.
    for (hosts, stored) in [
        ("*.example.com,127.0.0.1", 1),
        ("127.0.0.1", 1),
        ("*.example.com,127.0.0.2", 0),
        ("*.myqcloud.com", 0),
    ] {
        let world = Setup::new().set("cos.allowed_hosts", hosts).start();
        let response = world.post(&small());
        match stored {
            0 => drop(response.problem(502, "link_not_allowed")),
            _ => drop(response.stored()),
        }
        assert_eq!(world.objects().len(), stored, "{hosts}");
    }
}

/// A production gateway that takes its port from `PORT`, with its sandbox, variables and folder.
fn on_port() -> (Gateway, Sandbox, BTreeMap<String, String>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { data: folder.path().join("objects"), ..Options::default() };
    let (env, appid, secret) = (options.env.clone(), options.appid.clone(), options.secret.clone());
    let sandbox = Sandbox::start(options).expect("the sandbox starts");
    let variables = variables(&[&[
        ("GATEWAY_PROFILE", "production"),
        ("PORT", &free_port().to_string()),
        ("GATEWAY__WECHAT__BASE_URL", &sandbox.wechat_url()),
        ("GATEWAY__WECHAT__ENV", &env),
        ("GATEWAY__WECHAT__APPID", &appid),
        ("GATEWAY__WECHAT__SECRET", &secret),
        ("GATEWAY__COS__ALLOWED_HOSTS", &sandbox.cos_addr().to_string()),
        ("GATEWAY__COS__ALLOW_HTTP", "true"),
        ("GATEWAY__AUTH__KEYS__PANEL__SHA256", &hex::encode(Sha256::digest(KEY))),
    ]]);
    let gateway = Gateway::start(&[], &variables, folder.path());
    (gateway, sandbox, variables, folder)
}

#[test]
fn a_hosting_platform_s_port_is_used() {
    let (gateway, _sandbox, variables, _folder) = on_port();
    assert_eq!(gateway.address.to_string(), format!("0.0.0.0:{}", variables["PORT"]));
    let mut client = Client::connect((Ipv4Addr::LOCALHOST, gateway.address.port()).into());
    let (kind, body) = (small().content_type(), small().bytes());
    let headers = [authorization(), ("content-type", kind.as_str())];
    client.send_request("POST", "/v1/files", &headers, &body);
    client.response().stored();
}

#[test]
fn health_checks_the_running_gateway() {
    let (mut gateway, _sandbox, variables, folder) = on_port();
    let health = |variables: &BTreeMap<String, String>| {
        let ended = run_in(folder.path(), &["--health"], variables);
        assert_eq!(ended.out, "");
        (ended.code, ended.err.is_empty())
    };
    assert_eq!(health(&variables), (Some(0), true));
    gateway.signal("TERM");
    gateway.ended();
    assert_eq!(health(&variables), (Some(1), false));

    // A listener that does not respond like a gateway is not healthy.
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let mut elsewhere = variables.clone();
    let address = other.local_addr().expect("an address").to_string();
    elsewhere.insert("GATEWAY__SERVER__BIND".to_owned(), address);
    let answers = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = other.accept().expect("a connection");
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    });
    assert_eq!(health(&elsewhere), (Some(1), false));
    answers.join().expect("the other server");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let address = taken.local_addr().expect("an address").to_string();
    let given = variables(&[PRODUCTION, &[("GATEWAY__SERVER__BIND", &address)]]);
    let ended = run(&[], &given);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.out.contains("cannot listen on") && ended.out.contains(&address),
        "{}",
        ended.out
    );
}

#[test]
fn a_relative_folder_is_in_the_working_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let given = variables(&[&[
        ("GATEWAY__SERVER__BIND", "127.0.0.1:0"),
        ("GATEWAY__SANDBOX__DATA", "my-objects"),
    ]]);
    let gateway = Gateway::start(&[], &given, folder.path());
    let mut client = Client::connect(gateway.address);
    client.send_request("PUT", "/v1/files/x.txt", &[], b"content");
    client.response().stored();
    let entries = std::fs::read_dir(folder.path().join("my-objects")).expect("the folder");
    assert!(entries.count() > 0);
}
