//! What a Redis that fails at a certain command must not undo, and where its failure is shown.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Gateway, Setup, World, authorization, wait_until};
use crate::hooks::{Receiver, put};
use crate::measured::{metrics, value};
use crate::reload::with_file;
use crate::replicas::{Redis, readyz, upload};

/// A proxy in front of Redis. A connection hangs from the command on that a test names; others are not affected.
struct HangingProxy {
    url: String,
    at: Arc<Mutex<Option<&'static str>>>,
    hanging: Arc<AtomicUsize>,
}

impl HangingProxy {
    fn start(redis: &Redis) -> Self {
        let url = redis.url();
        let authority = url.split(['@', '/']).find(|part| part.starts_with("127.0.0.1:"));
        let server: SocketAddr = authority.expect("an address").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let own = listener.local_addr().expect("an address").to_string();
        let url = url.replace(&server.to_string(), &own);
        let proxy = Self { url, at: Arc::default(), hanging: Arc::default() };
        let (at, hanging) = (proxy.at.clone(), proxy.hanging.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let (mut from, mut to) =
                    (server.try_clone().expect("it"), client.try_clone().expect("it"));
                thread::spawn(move || {
                    drop(io::copy(&mut from, &mut to));
                    to.shutdown(Shutdown::Both)
                });
                let (at, hanging) = (at.clone(), hanging.clone());
                thread::spawn(move || pass(client, server, &at, &hanging));
            }
        });
        proxy
    }

    /// From now on, connections hang at a command that contains `text`; `None`: no further one does.
    fn hang_at(&self, text: Option<&'static str>) {
        *self.at.lock().expect("the text") = text;
    }

    /// Waits until a connection hangs.
    fn hangs(&self) {
        wait_until("Redis is asked", || self.hanging.load(Ordering::SeqCst) > 0);
    }
}

fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    at: &Mutex<Option<&'static str>>,
    hanging: &AtomicUsize,
) -> io::Result<()> {
    let (mut buffer, mut seen) = ([0; 65536], Vec::new());
    loop {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return server.shutdown(Shutdown::Both);
        }
        seen.extend_from_slice(&buffer[..read]);
        let text = *at.lock().expect("the text");
        let is_there = |text: &str| seen.windows(text.len()).any(|part| part == text.as_bytes());
        if text.is_some_and(is_there) {
            hanging.fetch_add(1, Ordering::SeqCst);
            while client.read(&mut buffer)? > 0 {}
            return server.shutdown(Shutdown::Both);
        }
        // The text may arrive in two reads.
        seen.drain(..seen.len().saturating_sub(64));
        server.write_all(&buffer[..read])?;
    }
}

/// The client disconnects while Redis is told that the file's download links are no longer valid.
#[test]
fn a_file_that_is_stored_or_deleted_is_told_of_though_redis_hangs_and_the_client_is_gone() {
    for (method, target, body, event, recorded) in [
        ("PUT", "/v1/files/x.txt", "content", "file.stored", "stored"),
        ("DELETE", "/v1/files/x.txt", "", "file.deleted", "deleted"),
        ("DELETE", "/v1/files", "x.txt", "file.deleted", "deleted"),
        ("POST", "/v1/delete", "{\"files\":[\"x.txt\"]}", "file.deleted", "deleted"),
    ] {
        let redis = Redis::start();
        let proxy = HangingProxy::start(&redis);
        let receiver = Receiver::start();
        let setup = receiver.setup();
        let audit = setup.folder().join("audit.log");
        let setup = setup.set("redis.url", &proxy.url).set("telemetry.audit", audit.display());
        let world = setup.start();
        // The id of a path is asked for once.
        put(&world.gateway, "before.txt", &[]).stored();
        receiver.wait_for(1);
        proxy.hang_at(Some(":links:"));
        let mut client = world.client();
        client.send_request(method, target, &[authorization()], body.as_bytes());
        proxy.hangs();
        client.reset();
        let told = receiver.wait_for(2).remove(1);
        assert_eq!((&told.json()["type"], &told.data()["path"]), (&json!(event), &json!("x.txt")));
        let audit = std::fs::read_to_string(&audit).expect("the audit log");
        let record = audit.lines().last().expect("a record");
        let record: Value = serde_json::from_str(record).expect("JSON");
        assert_eq!((&record["event"], &record["object"]), (&json!(recorded), &json!("x.txt")));
    }
}

#[test]
fn redis_is_told_of_all_deleted_files_at_once() {
    let redis = Redis::start();
    let world = Setup::new().set("redis.url", redis.url()).start();
    put(&world.gateway, "x.txt", &[]).stored();
    let scripts = || -> usize {
        let all = redis.command(&["INFO", "commandstats"]);
        let line = all.lines().find_map(|line| line.strip_prefix("cmdstat_eval:calls="));
        line.and_then(|line| line.split(',').next()?.parse().ok()).expect("a number")
    };
    let before = scripts();
    let files: Vec<_> = (0..120).map(|n| format!("{n}.txt")).collect();
    assert_eq!(world.call("POST", "/v1/delete", &json!({ "files": files })).status, 200);
    // Before the deletion and after it.
    assert_eq!(scripts() - before, 2);
}

/// The client disconnects while Redis is told what was stored.
#[test]
fn a_stored_file_counts_though_redis_hangs_and_the_client_is_gone() {
    let redis = Redis::start();
    let proxy = HangingProxy::start(&redis);
    let world = Setup::new()
        .set("redis.url", &proxy.url)
        .set("quota.all.files_per_day", 100_000)
        .set("auth.keys.panel.quota", "all")
        .start();
    upload(&world.gateway).stored();
    proxy.hang_at(Some("release(ARGV[4]) or"));
    let mut client = world.client();
    client.send_request("PUT", "/v1/files/x.txt", &[authorization()], b"content");
    proxy.hangs();
    client.reset();
    proxy.hang_at(None);
    let counters = redis.command(&["KEYS", "*:quota:*}"]);
    let uploads = AtomicUsize::new(2);
    wait_until("it counts", || {
        upload(&world.gateway).stored();
        let uploads = uploads.fetch_add(1, Ordering::Relaxed) + 1;
        redis.command(&["HGET", &counters, "files"]) == uploads.to_string()
    });
}

fn ready(gateway: &Gateway) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let body = readyz(gateway).json();
    (text(&body["status"]), text(&body["detail"]))
}

/// Where no access token is in Redis, it has the rest.
#[test]
fn a_redis_that_fails_is_shown_whatever_the_credential_is() {
    let without_token = |mode: &str| {
        let setup = Setup::new().set("wechat.credential", mode);
        let setup = setup.set("wechat.appid", "").set("wechat.secret", "");
        let file = setup.folder().join("token");
        std::fs::write(&file, "token-of-the-platform").expect("a file");
        setup.set("wechat.cloudbase_token_file", file.display()).sandbox(|options| {
            options.open = true;
            options.cloudbase_token = Some("token-of-the-platform".to_owned());
        })
    };
    for setup in [without_token("open"), without_token("cloudbase"), Setup::new()] {
        let mut redis = Redis::start();
        let (world, file) = with_file(setup.set("redis.url", redis.url()), "");
        let up = |world: &World| value(&metrics(world), "gateway_redis_up");
        assert_eq!(ready(&world.gateway).0, "ready");
        assert_eq!(up(&world), 1.0);
        redis.kill();
        let (status, detail) = ready(&world.gateway);
        assert_eq!((status.as_str(), up(&world)), ("degraded", 0.0), "{detail}");
        assert!(detail.contains("Redis") && !detail.contains("settings"), "{detail}");
        // It hides no other reason.
        std::fs::write(&file, "upload.max_file_size = \"much\"").expect("written");
        world.gateway.log_with("the changed settings cannot be used");
        wait_until("both are told", || {
            let (_, detail) = ready(&world.gateway);
            detail.contains("Redis") && detail.contains("settings")
        });
        redis.restart();
        wait_until("it has healed", || !ready(&world.gateway).1.contains("Redis"));
        assert_eq!((ready(&world.gateway).0.as_str(), up(&world)), ("degraded", 1.0));
        upload(&world.gateway).stored();
    }
}

#[test]
fn the_log_says_why_redis_cannot_be_used() {
    let receiver = Receiver::start();
    let world = receiver.setup().set("redis.url", "redis://127.0.0.1:1").start();
    put(&world.gateway, "x.txt", &[]).stored();
    readyz(&world.gateway);
    let log = world.gateway.log_with("tokens are not shared meanwhile");
    let lines = log.lines().filter(|line| line.contains("Redis is unavailable"));
    let lines: Vec<Value> =
        lines.map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert!(lines.len() >= 3, "{log}");
    for line in lines {
        assert!(line["cause"].as_str().is_some_and(|cause| cause.contains("refused")), "{line}");
    }
}
