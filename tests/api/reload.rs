//! Reload of the settings: what a running gateway takes over, what it keeps, and what requests notice of it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::{
    Client, Form, Gateway, KEY, Response, Setup, World, authorization, crc64, noise, wait_until,
};
use crate::hooks::Receiver;
use crate::measured::value;
use crate::threads::SetAtEnd;
use crate::tickets::{now, signed};
use crate::tls::Certificate;

pub const RELOADED: &str = "the settings were reloaded";
pub const REFUSED: &str = "the changed settings cannot be used";
const SIZE: usize = 1 << 20;

/// A gateway that reads a file, whose text is `config`.
pub fn with_file(setup: Setup, config: &str) -> (World, PathBuf) {
    let file = setup.folder().join("gateway.toml");
    std::fs::write(&file, config).expect("a file");
    (reading(setup, &file), file)
}

/// A gateway that reads `file`.
pub fn reading(setup: Setup, file: &Path) -> World {
    let file = file.to_owned();
    let with_option = move |command: &std::process::Command| {
        let mut all = std::process::Command::new(command.get_program());
        all.args(command.get_args()).arg("--config").arg(&file).env_clear();
        all.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        all.current_dir(command.get_current_dir().expect("a folder"));
        all
    };
    setup.within(with_option).start()
}

pub fn count(world: &World, line: &str) -> usize {
    world.gateway.log().matches(line).count()
}

/// Replaces the file at once, so that the gateway never sees a half of it.
pub fn replace(file: &Path, config: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, config).expect("a file");
    std::fs::rename(new, file).expect("a file");
}

/// Writes `config`, and waits until the reload by SIGHUP has ended with `line`.
pub fn reload(world: &World, file: &Path, config: &str, line: &str) {
    replace(file, config);
    hang_up(&world.gateway, line);
}

/// Lets the gateway reload by SIGHUP, and waits until that has ended with `line`. It may have noticed the change before,
/// so that other lines and counts of reloads may be there twice.
pub fn hang_up(gateway: &Gateway, line: &str) {
    let count = || {
        let log = gateway.log();
        log.lines().filter(|one| one.contains(line) && one.contains("SIGHUP")).count()
    };
    let before = count();
    gateway.signal("HUP");
    wait_until(line, || count() > before);
}

pub fn key(name: &str, key: &str) -> String {
    format!("[auth.keys.{name}]\nsha256 = \"{}\"\n", hex::encode(Sha256::digest(key)))
}

pub fn put(world: &World, key: &str, content: &[u8]) -> Response {
    let mut client = world.client();
    let authorization = format!("Bearer {key}");
    client.send_request("PUT", "/v1/files/y.bin", &[("authorization", &authorization)], content);
    client.response()
}

fn half_sent(world: &World, key: &str, content: &[u8]) -> Client {
    let mut client = world.client();
    let (authorization, length) = (format!("Bearer {key}"), content.len().to_string());
    let headers = [("authorization", authorization.as_str()), ("content-length", &length)];
    client.send_head("PUT", "/v1/files/x.bin", &headers);
    client.send(&content[..content.len() / 2]);
    let wait = format!("wait?key=x.bin&received={}", content.len() / 2 - (256 << 10));
    assert_eq!(world.control("GET", &wait, "").status, 200);
    client
}

fn metrics(world: &World) -> String {
    world.call_with("GET", "/metrics", &[], "").text()
}

fn reloads(world: &World, result: &str) -> f64 {
    value(&metrics(world), &format!("gateway_reloads_total{{result=\"{result}\"}}"))
}

fn allowed_origin(world: &World, origin: &str) -> bool {
    let headers = [("origin", origin), ("access-control-request-method", "POST")];
    let response = world.call_with("OPTIONS", "/v1/files", &headers, "");
    response.header("access-control-allow-origin") == Some(origin)
}

#[test]
fn keys_limits_and_origins_change_and_a_running_upload_keeps_its_own() {
    let before =
        format!("cors.origins = [\"https://a.test\"]\n{}", key("web", "the-first-web-key"));
    let (world, file) = with_file(Setup::new(), &before);
    put(&world, "the-first-web-key", b"content").stored();
    let content = noise(SIZE, 1);
    let mut running = half_sent(&world, "the-first-web-key", &content);

    let after = format!(
        "cors.origins = [\"https://b.test\"]\nupload.max_file_size = \"10KiB\"\n{}",
        key("web", "the-second-web-key")
    );
    reload(&world, &file, &after, RELOADED);
    put(&world, "the-first-web-key", b"content").problem(401, "unauthenticated");
    put(&world, "the-second-web-key", b"content").stored();
    put(&world, "the-second-web-key", &content[..20 << 10]).problem(413, "file_too_large");
    assert!(!allowed_origin(&world, "https://a.test"));
    assert!(allowed_origin(&world, "https://b.test"));
    // Of the environment, which overrides the file.
    put(&world, KEY, b"content").stored();

    running.send(&content[SIZE / 2..]);
    assert_eq!(running.response().stored()["crc64"], crc64(&content));
    let log = world.gateway.log();
    let line = log.lines().find(|line| line.contains(RELOADED)).expect("the line");
    for name in ["auth.keys.web.sha256", "cors.origins", "upload.max_file_size"] {
        assert!(line.contains(name), "{name}: {line}");
    }
    assert!(reloads(&world, "applied") >= 1.0);
}

#[test]
fn a_changed_file_is_read_again_without_a_signal_also_behind_a_swapped_link() {
    let setup = Setup::new();
    // As Kubernetes mounts a secret: `gateway.toml` → `data/gateway.toml`, and `data` → a folder for each version.
    let folder = setup.folder().join("mounted");
    for (version, name) in [("v1", "the-first-web-key"), ("v2", "the-second-web-key")] {
        std::fs::create_dir_all(folder.join(version)).expect("a folder");
        std::fs::write(folder.join(version).join("gateway.toml"), key("web", name))
            .expect("a file");
    }
    let link = |to: &str, from: &str| {
        std::os::unix::fs::symlink(to, folder.join(from)).expect("a link");
    };
    link("v1", "data");
    link("data/gateway.toml", "gateway.toml");
    let world = reading(setup, &folder.join("gateway.toml"));
    put(&world, "the-first-web-key", b"content").stored();
    link("v2", "data.new");
    std::fs::rename(folder.join("data.new"), folder.join("data")).expect("a link");
    let log = world.gateway.log_with(RELOADED);
    assert!(log.contains("a file has changed"), "{log}");
    put(&world, "the-second-web-key", b"content").stored();
    put(&world, "the-first-web-key", b"content").problem(401, "unauthenticated");

    // In place; and only where something has changed, not with every look at the files.
    std::fs::write(folder.join("v2/gateway.toml"), key("web", "the-third-web-key"))
        .expect("a file");
    wait_until("the new key", || put(&world, "the-third-web-key", b"content").status == 201);
    let log = world.gateway.log();
    for line in log.lines().filter(|line| line.contains(RELOADED)) {
        assert!(line.contains("auth.keys.web.sha256"), "{log}");
    }
}

#[test]
fn twenty_broken_files_change_nothing() {
    let good = key("web", "the-first-web-key");
    let (world, file) = with_file(Setup::new(), &good);
    let other = key("web", "the-second-web-key");
    let broken = [
        "upload.max_file_size = \"much\"",
        "upload.max_file_size = \"0\"",
        "upload.max_files = 0",
        "upload.max_concurrent = \"x\"",
        "upload.path_template = \"{nothing}\"",
        "upload.allowed_types = [\"image\"]",
        "upload.idle_timeout = \"soon\"",
        "cors.origins = [\"a.test\"]",
        "links.access = \"secret\"",
        "links.access = \"signed\"",
        "links.signing_keys = [\"short\"]",
        "links.presets.thumb = \"/../../\"",
        "receipts.key = \"short-receipt-key\"",
        "hooks.secret = [\"whsec_nothing-of-base64!\"]",
        "auth.rate = \"5/year\"",
        "auth.jwt.algorithm = \"HS256\"",
        "auth.jwt.key_file = \"/no/such/file\"\nauth.jwt.algorithm = \"RS256\"",
        "unknown.setting = 1",
        "receipts.key = \"a-secret-that-is-not-closed",
        "quota.small.per = \"planet\"",
    ];
    for line in broken {
        reload(&world, &file, &format!("{line}\n{other}"), REFUSED);
        put(&world, "the-first-web-key", b"content").stored();
        put(&world, "the-second-web-key", b"content").problem(401, "unauthenticated");
        let ready = world.call_with("GET", "/readyz", &[], "");
        assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("degraded")), "{line}");
    }
    std::fs::remove_file(&file).expect("a file");
    hang_up(&world.gateway, REFUSED);
    put(&world, "the-first-web-key", b"content").stored();
    assert_eq!(count(&world, RELOADED), 0);
    let log = world.gateway.log();
    for secret in ["short-receipt-key", "whsec_nothing", "is-not-closed"] {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(reloads(&world, "failed") >= 21.0);

    reload(&world, &file, &other, RELOADED);
    put(&world, "the-second-web-key", b"content").stored();
    let ready = world.call_with("GET", "/readyz", &[], "");
    assert_eq!(ready.json()["status"], "ready");
}

#[test]
fn what_needs_a_restart_is_named_and_stays_as_it_was() {
    let (world, file) = with_file(Setup::new(), "");
    let after = format!(
        "resumable.expire_after = \"2h\"\nupload.memory_budget = \"100MiB\"\nredis.url = \"redis://:a-password-of-redis@127.0.0.1/\"\n{}",
        key("web", "the-first-web-key")
    );
    for _ in 0..2 {
        reload(&world, &file, &after, RELOADED);
        put(&world, "the-first-web-key", b"content").stored();
    }
    let log = world.gateway.log();
    let line = log.lines().find(|line| line.contains("need a restart")).expect("the line");
    assert!(line.contains("redis.url, resumable.expire_after, upload.memory_budget"), "{line}");
    assert!(!line.contains("auth.keys"), "{line}");
    assert!(!log.contains("a-password-of-redis"), "{log}");
    let options = world.call_with("OPTIONS", "/v1/uploads", &[], "");
    assert_eq!(options.status, 204);
    assert!(!metrics(&world).contains("gateway_redis_up"), "no Redis");
}

#[test]
fn rates_slots_and_retained_responses_survive() {
    let limited = format!("{}rate = \"3/h\"\n", key("web", "the-first-web-key"));
    let (world, file) = with_file(Setup::new(), &limited);
    let idempotent = |world: &World| {
        let mut client = world.client();
        let headers = [authorization(), ("idempotency-key", "one"), ("content-type", "text/plain")];
        client.send_request("PUT", "/v1/files/once.txt", &headers, b"content");
        client.response()
    };
    let first = idempotent(&world);
    first.stored();
    put(&world, "the-first-web-key", b"content").stored();
    put(&world, "the-first-web-key", b"content").stored();
    let more = format!("cors.origins = [\"https://a.test\"]\n{limited}");
    reload(&world, &file, &more, RELOADED);
    put(&world, "the-first-web-key", b"content").stored();
    put(&world, "the-first-web-key", b"content").problem(429, "rate_limited");
    let again = idempotent(&world);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.body, first.body);

    // The slots in use count against a smaller limit.
    let content = noise(SIZE, 1);
    let mut running = half_sent(&world, KEY, &content);
    reload(&world, &file, "upload.max_concurrent = 1", RELOADED);
    put(&world, KEY, b"content").problem(503, "overloaded");
    running.send(&content[SIZE / 2..]);
    running.response().stored();
    wait_until("the slot is free", || put(&world, KEY, b"content").status == 201);
}

#[test]
fn a_queued_event_is_sent_to_the_new_url_of_hooks() {
    let receiver = Receiver::start();
    let closed = TcpStream::connect(receiver.address()).expect("it accepts").local_addr();
    let closed = closed.expect("an address");
    let hooks = |url: &str| {
        format!(
            "[hooks]\nstored_url = \"{url}\"\nsecret = [\"whsec_dGhlLWtleS1vZi10aGUtaG9va3Mtb2YtdGhlLXRlc3Rz\"]\n"
        )
    };
    let (world, file) = with_file(Setup::new(), &hooks(&format!("http://{closed}/")));
    let stored = world.post(&Form::new().file("file", "x.txt", "text/plain", b"content")).stored();
    world.gateway.log_with("a hook could not be delivered");
    reload(&world, &file, &hooks(&format!("http://{}/", receiver.address())), RELOADED);
    assert_eq!(receiver.wait_for(1)[0].data()["file_id"], stored["file_id"]);
}

fn ticket(kid: Option<&str>, secret: &str) -> String {
    let mut header = json!({"alg": "HS256", "typ": "JWT"});
    if let Some(kid) = kid {
        header["kid"] = json!(kid);
    }
    signed(&header, &json!({"sub": "u", "exp": now() + 300}), secret.as_bytes())
}

#[test]
fn keys_of_tickets_are_rotated_and_picked_by_kid() {
    let (a, b) = ("the-first-secret-of-32-bytes-or-more", "the-second-secret-of-32-bytes-or-more");
    let keys = |lines: &str| format!("[auth.jwt]\nalgorithm = \"HS256\"\n{lines}\n");
    let (world, file) = with_file(Setup::new(), &keys(&format!("key = \"{a}\"")));
    let minted = |world: &World| {
        let minted = world.call("POST", "/v1/tickets", &json!({"sub": "u"}));
        minted.json()["ticket"].as_str().expect("a ticket").to_owned()
    };
    let old = minted(&world);
    put(&world, &old, b"content").stored();

    let both = keys(&format!("key = \"{b}\"\nkeys.\"Old.1\" = \"{a}\""));
    reload(&world, &file, &both, RELOADED);
    put(&world, &old, b"content").stored();
    put(&world, &minted(&world), b"content").stored();
    for (kid, secret, is_valid) in [
        (None, a, true),
        (None, b, true),
        (Some("Old.1"), a, true),
        (Some("Old.1"), b, false),
        (Some("old.1"), a, false),
        (Some("another"), b, true),
        (Some("another"), a, false),
        (None, "a-third-secret-of-32-bytes-or-more-", false),
    ] {
        let status = put(&world, &ticket(kid, secret), b"content").status;
        assert_eq!(status, if is_valid { 201 } else { 401 }, "{kid:?} {secret}");
    }
    // Without a `key` there is no secret for tickets that name none of the others.
    reload(&world, &file, &keys(&format!("keys.one = \"{a}\"")), RELOADED);
    put(&world, &ticket(Some("one"), a), b"content").stored();
    put(&world, &ticket(Some("another"), a), b"content").problem(401, "unauthenticated");
    reload(&world, &file, &keys(&format!("key = \"{b}\"")), RELOADED);
    put(&world, &old, b"content").problem(401, "unauthenticated");
    put(&world, &ticket(Some("one"), b), b"content").stored();

    let many =
        |count: usize| -> String { (0..count).map(|n| format!("keys.k{n} = \"{a}\"\n")).collect() };
    reload(&world, &file, &keys(&many(16)), RELOADED);
    reload(&world, &file, &keys(&many(17)), REFUSED);
    let log = world.gateway.log();
    assert!(!log.contains(a) && !log.contains(b), "{log}");
}

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

pub fn trusting(certificates: &[&Certificate]) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.der()).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(tls)
}

pub fn connect(world: &World, tls: &Arc<ClientConfig>) -> Tls {
    let stream = TcpStream::connect(world.gateway.address).expect("it accepts");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("an option");
    let name = ServerName::try_from("localhost").expect("a name");
    StreamOwned::new(ClientConnection::new(tls.clone(), name).expect("a connection"), stream)
}

pub fn head(method: &str, path: &str, key: &str, length: usize) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: gateway.test\r\nauthorization: Bearer {key}\r\n\
         content-length: {length}\r\n\r\n"
    )
    .into_bytes()
}

/// The status and the text of one response.
pub fn response(stream: &mut Tls) -> std::io::Result<(u16, String)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().filter_map(|line| line.split_once(": "));
            let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length = length.filter_map(|(_, value)| value.parse::<usize>().ok()).next();
            if body.len() >= length.unwrap_or(0) {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                return Ok((status.unwrap_or(0), text.into_owned()));
            }
        }
        match stream.read(&mut chunk)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

/// Copies the certificate and its key to where the gateway reads them.
pub fn show(certificate: &Certificate, folder: &Path) {
    for name in ["cert.pem", "key.pem"] {
        let new = folder.join("new.pem");
        std::fs::copy(certificate.file(name), &new).expect("a copy");
        std::fs::rename(new, folder.join(name)).expect("a file");
    }
}

pub fn shown_from(setup: Setup, folder: &Path) -> Setup {
    setup
        .set("server.tls.cert", folder.join("cert.pem").display())
        .set("server.tls.key", folder.join("key.pem").display())
}

#[test]
fn a_new_connection_gets_the_new_certificate_and_an_old_one_goes_on() {
    let (one, other) = (Certificate::new(), Certificate::new());
    let folder = tempfile::tempdir().expect("a folder");
    show(&one, folder.path());
    let world = shown_from(Setup::new(), folder.path()).start();
    let mut old = connect(&world, &trusting(&[&one]));
    let ask = |stream: &mut Tls| {
        stream.write_all(&head("GET", "/healthz", KEY, 0))?;
        response(stream)
    };
    assert_eq!(ask(&mut old).expect("a response").0, 200);
    assert!(ask(&mut connect(&world, &trusting(&[&other]))).is_err(), "not the certificate yet");

    // Noticed without a signal.
    show(&other, folder.path());
    world.gateway.log_with(RELOADED);
    assert_eq!(ask(&mut connect(&world, &trusting(&[&other]))).expect("a response").0, 200);
    assert!(ask(&mut connect(&world, &trusting(&[&one]))).is_err(), "still the old certificate");
    assert_eq!(ask(&mut old).expect("a response").0, 200);

    // A key that is not the certificate's.
    std::fs::copy(one.file("key.pem"), folder.path().join("key.pem")).expect("a copy");
    world.gateway.log_with(REFUSED);
    assert_eq!(ask(&mut connect(&world, &trusting(&[&other]))).expect("a response").0, 200);
}

fn ticket_secret(n: usize) -> String {
    format!("ticket-secret-number-{n:04}-of-32-bytes")
}

/// The state number `n`: its keys, and those of the two states before it.
fn state(n: usize) -> String {
    let listed = n.saturating_sub(2)..=n;
    let signing: Vec<_> =
        listed.clone().rev().map(|n| format!("\"signing-key-number-{n:04}\"")).collect();
    let tickets: String = listed
        .clone()
        .map(|n| format!("auth.jwt.keys.t{n} = \"{}\"\n", ticket_secret(n)))
        .collect();
    let keys: String = listed.map(|n| key(&format!("k{n}"), &format!("key-number-{n}"))).collect();
    format!(
        "links.access = \"signed\"\nlinks.signing_keys = [{}]\nreceipts.key = \"receipts-key-number-{n:04}-of-32-bytes\"\n\
         upload.max_file_size = \"{}MiB\"\nupload.max_concurrent = {}\nauth.rate = \"{}/s\"\n\
         cors.origins = [\"https://n{n}.test\"]\nauth.jwt.algorithm = \"HS256\"\nauth.jwt.key = \"{}\"\n{tickets}{keys}",
        signing.join(", "),
        10 + n,
        400 + n,
        100_000 + n,
        ticket_secret(n),
    )
}

/// Every key, certificate and limit changes 100 times. What either state allows does not fail.
#[test]
fn a_hundred_reloads_under_load_fail_no_request() {
    const UPLOADS: usize = 200;
    const LENGTH: usize = 96 << 10;
    // Two requests each, or as often as the machine can.
    const EVERY: Duration = Duration::from_millis(10);
    const SENDERS: usize = 8;
    let certificates = [Certificate::new(), Certificate::new()];
    let folder = tempfile::tempdir().expect("a folder");
    show(&certificates[0], folder.path());
    // The uploads wait for the end of the reloads.
    let setup = Setup::new().set("upload.idle_timeout", "10m");
    let (world, file) = with_file(shown_from(setup, folder.path()), &state(0));
    let trusted = trusting(&[&certificates[0], &certificates[1]]);
    let content = noise(LENGTH, 1);

    let mut uploads: Vec<_> = (0..UPLOADS)
        .map(|n| {
            let mut stream = connect(&world, &trusted);
            let head = head("PUT", &format!("/v1/files/up/{n}.bin"), "key-number-0", LENGTH);
            stream.write_all(&head).expect("it reads");
            stream.write_all(&content[..LENGTH / 2]).expect("it reads");
            stream
        })
        .collect();
    let in_flight = format!("gateway_uploads_in_flight {UPLOADS}\n");
    wait_until("all uploads run", || {
        let mut stream = connect(&world, &trusted);
        stream.write_all(&head("GET", "/metrics", KEY, 0)).expect("it reads");
        response(&mut stream).expect("a response").1.contains(&in_flight)
    });

    let (newest, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    // Of each sender.
    let sent = [const { AtomicUsize::new(0) }; SENDERS];
    let sent_by_each = || sent.each_ref().map(|sent| sent.load(Ordering::SeqCst));
    let mut memory = Vec::new();
    let began = Instant::now();
    // Stores and follows what `n` names. A URL was signed by this state or a newer one.
    let round = |n: usize| {
        let state = newest.load(Ordering::SeqCst);
        let credential = match n % 3 {
            0 => format!("key-number-{state}"),
            1 => ticket(None, &ticket_secret(state)),
            _ => ticket(Some(&format!("t{state}")), &ticket_secret(state)),
        };
        let mut stream = connect(&world, &trusted);
        let head = head("PUT", "/v1/files/small.txt", &credential, 7);
        let mut ask = |bytes: &[u8]| {
            stream.write_all(bytes)?;
            response(&mut stream)
        };
        let stored = ask(&[head.as_slice(), b"content"].concat());
        let link = stored.as_ref().ok().and_then(|(_, text)| {
            let (_, rest) = text.split_once("/v1/files/small.txt?")?;
            rest.split(['"', '\r']).next().map(str::to_owned)
        });
        let followed = link.map(|link| {
            let path = format!("/v1/files/small.txt?{link}");
            ask(format!("GET {path} HTTP/1.1\r\nhost: gateway.test\r\n\r\n").as_bytes())
        });
        match (&stored, &followed) {
            (Ok((201, _)), Some(Ok((302, _)))) => None,
            _ => {
                let status = |one: &std::io::Result<(u16, String)>| {
                    one.as_ref().map(|(status, _)| *status).map_err(ToString::to_string)
                };
                Some((state, status(&stored), followed.as_ref().map(status)))
            }
        }
    };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (next, done, round) = (&next, &done, &round);
        let senders: Vec<_> = sent
            .iter()
            .map(|sent| {
                scope.spawn(move || {
                    let mut failed = Vec::new();
                    while !done.load(Ordering::SeqCst) {
                        let n = next.fetch_add(1, Ordering::SeqCst);
                        let begin = began + EVERY * n as u32;
                        std::thread::sleep(begin.saturating_duration_since(Instant::now()));
                        failed.extend(round(n));
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                    failed
                })
            })
            .collect();
        let end = SetAtEnd(done);
        for n in 1..=100 {
            show(&certificates[n % 2], folder.path());
            reload(&world, &file, &state(n), RELOADED);
            newest.store(n, Ordering::SeqCst);
            let before = sent_by_each();
            // The first may have begun in the state before. So none is in an older state than that from now on.
            wait_until("requests by this state", || {
                sent_by_each().iter().zip(before).all(|(sent, before)| *sent >= before + 2)
            });
            if n % 20 == 0 {
                memory.push(world.gateway.memory("VmRSS"));
            }
        }
        drop(end);
        for sender in senders {
            let failed = sender.join().expect("the requests");
            assert!(failed.is_empty(), "{failed:#?}");
        }
    });
    let sent: usize = sent_by_each().iter().sum();
    let every = began.elapsed() / sent as u32;
    println!("{sent} uploads and downloads, one every {every:?}; RSS in KiB: {memory:?}");
    assert!(memory[4] < memory[0] + (8 << 10), "KiB after 20, 40 … 100 reloads: {memory:?}");
    for stream in &mut uploads {
        stream.write_all(&content[LENGTH / 2..]).expect("it reads");
    }
    for stream in &mut uploads {
        let (status, text) = response(stream).expect("a response");
        assert_eq!(status, 201, "{text}");
    }
    assert_eq!(count(&world, REFUSED), 0, "{}", world.gateway.log());
}
