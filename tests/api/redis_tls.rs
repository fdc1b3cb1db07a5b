//! Redis behind TLS, with a user of its ACL.

use std::path::Path;
use std::process::Command;

use crate::harness::{Form, Gateway, Setup, World, authorization, command, wait_until};
use crate::hooks::Receiver;
use crate::replicas::{Redis, readyz, upload};
use crate::tickets::{send, small};
use crate::tls::Certificate;

/// What the guide of the settings recommends.
const ACL: &str =
    "gateway on >hunter4 ~tcb-upload-gateway:* +@read +@write -@dangerous +eval +time +select";

fn start(certificate: &Certificate) -> Redis {
    Redis::with_tls(&certificate.file("cert.pem"), &certificate.file("key.pem"), ACL)
}

fn setup(url: &str, ca_file: &Path) -> Setup {
    Setup::new()
        .set("wechat.credential", "secret")
        .set("redis.url", url)
        .set("redis.ca_file", ca_file.display())
}

fn status(gateway: &Gateway) -> String {
    readyz(gateway).json()["status"].as_str().expect("a status").to_owned()
}

/// Asserts that Redis is not used, for a reason in the log, and that no upload fails because of it.
fn assert_unused(world: &World, reason: &str) {
    upload(&world.gateway).stored();
    assert_eq!(status(&world.gateway), "degraded");
    let log = world.gateway.log();
    assert!(log.contains("Redis is unavailable") && log.contains(reason), "{reason}: {log}");
    assert!(!log.contains("hunter"), "{log}");
}

#[test]
fn everything_in_redis_works_by_tls_and_with_the_least_rights() {
    let certificate = Certificate::new();
    let redis = start(&certificate);
    let hooks = Receiver::start();
    let world = hooks_and_quota(setup(&redis.url(), &certificate.file("cert.pem")), &hooks).start();
    let other = world.another();
    assert_eq!([status(&world.gateway), status(&other)], ["ready", "ready"]);
    upload(&world.gateway).stored();
    upload(&other).stored();
    assert_eq!(world.count("token"), 1, "shared");
    let headers = [authorization(), ("idempotency-key", "key")];
    send(&world, "POST", "/v1/files", &headers, &small()).stored();
    let path = world.post(&Form::new().file("f", "x", "text/plain", b"x")).stored();
    world.download(path["url"].as_str().expect("a URL"));
    hooks.wait_for(4);
    // Whatever was forbidden would have been logged.
    for gateway in [&world.gateway, &other] {
        let log = gateway.log();
        assert!(!log.contains("Redis is") && !log.contains("hunter"), "{log}");
    }
}

fn hooks_and_quota(setup: Setup, hooks: &Receiver) -> Setup {
    let url = format!("http://{}/hook", hooks.address());
    setup
        .set("hooks.stored_url", url)
        .set("hooks.secret", crate::hooks::SECRET)
        .set("quota.all.files_per_day", 100)
        .set("auth.keys.panel.quota", "all")
}

#[test]
fn redis_is_killed_behind_tls_and_comes_back() {
    let certificate = Certificate::new();
    let mut redis = start(&certificate);
    let world = setup(&redis.url(), &certificate.file("cert.pem")).start();
    assert_eq!(status(&world.gateway), "ready");
    redis.kill();
    for _ in 0..10 {
        upload(&world.gateway).stored();
    }
    wait_until("it says so", || status(&world.gateway) == "degraded");
    redis.restart();
    wait_until("it has healed", || status(&world.gateway) == "ready");
    upload(&world.gateway).stored();
}

#[test]
fn a_certificate_that_is_not_trusted_is_refused() {
    let certificate = Certificate::new();
    let redis = start(&certificate);
    let other = Certificate::new();
    assert_unused(
        &setup(&redis.url(), &other.file("cert.pem")).start(),
        "invalid peer certificate",
    );
    // Nor is one of the system's roots, which `redis.ca_file` replaces; without it they count.
    let trusted = certificate.file("cert.pem");
    let with_system = |setup: Setup| setup.variable("SSL_CERT_FILE", trusted.display()).start();
    assert_unused(
        &with_system(setup(&redis.url(), &other.file("cert.pem"))),
        "invalid peer certificate",
    );
    let world = with_system(setup(&redis.url(), Path::new("")));
    assert_eq!(status(&world.gateway), "ready");
    assert_unused(&setup(&redis.url(), Path::new("")).start(), "invalid peer certificate");
}

#[test]
fn a_certificate_of_a_private_root_is_for_its_host_alone() {
    let (certificate, root) = Certificate::from_a_root();
    let redis = start(&certificate);
    let file = certificate.file("root.pem");
    std::fs::write(&file, root).expect("a file");
    let world = setup(&redis.url(), &file).start();
    assert_eq!(status(&world.gateway), "ready");
    let mapped = redis.url().replace("127.0.0.1", "[::ffff:127.0.0.1]");
    assert_unused(&setup(&mapped, &file).start(), "not valid for name");
}

#[test]
fn a_wrong_user_or_password_is_told_apart_from_the_network() {
    let certificate = Certificate::new();
    let redis = start(&certificate);
    let trusted = certificate.file("cert.pem");
    for wrong in ["gateway:hunter5", "somebody:hunter4", ":hunter4"] {
        let url = redis.url().replace("gateway:hunter4", wrong);
        assert_unused(&setup(&url, &trusted).start(), "AuthenticationFailed");
    }
    // Plain text to a port that expects TLS.
    let plain = redis.url().replace("rediss://", "redis://");
    assert_unused(&setup(&plain, &trusted).start(), "");
}

#[test]
fn a_ca_file_without_a_certificate_is_told_at_the_start() {
    let world = Setup::new().start();
    let file = world.folder().join("empty.pem");
    std::fs::write(&file, "nothing").expect("a file");
    for (path, says) in [(file.as_path(), "empty.pem"), (Path::new("/none.pem"), "/none.pem")] {
        let mut variables = world.variables().clone();
        variables.insert("GATEWAY__REDIS__URL".to_owned(), "rediss://127.0.0.1".to_owned());
        variables.insert("GATEWAY__REDIS__CA_FILE".to_owned(), path.display().to_string());
        let mut run: Command = command(&["--profile", "production"], &variables, world.folder());
        let output = run.output().expect("it runs");
        assert!(!output.status.success());
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.contains("redis.ca_file: ") && text.contains(says), "{text}");
    }
}
