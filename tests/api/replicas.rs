//! Several gateways that share one access token in a real Redis, and the failures of Redis.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Form, Gateway, Response, Setup, World, authorization, wait_until};
use crate::settings::free_port;
use crate::stand_in::{self, Upstream, ok};
use crate::threads::SetAtEnd;

/// A redis-server, of which nothing is left when it is killed, unless [`Redis::persistent`] started it.
pub struct Redis {
    port: u16,
    url: String,
    arguments: Vec<String>,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Redis {
    pub fn start() -> Self {
        Self::plain(&[])
    }

    /// Keeps its data when it is killed.
    pub fn persistent() -> Self {
        Self::plain(&["--appendonly", "yes"])
    }

    fn plain(persistence: &[&str]) -> Self {
        let port = free_port();
        let mut arguments = vec!["--port".to_owned(), port.to_string()];
        arguments.extend(["--requirepass", "hunter2"].map(str::to_owned));
        arguments.extend(persistence.iter().map(|&argument| argument.to_owned()));
        Self::with(port, &format!("redis://:hunter2@127.0.0.1:{port}/1"), arguments)
    }

    /// A server that is reached by TLS alone, with a certificate and its key, and a user of whom the rules are `acl`.
    pub fn with_tls(cert: &Path, key: &Path, acl: &str) -> Self {
        let port = free_port();
        let (number, cert, key) =
            (port.to_string(), cert.display().to_string(), key.display().to_string());
        let tls = ["--port", "0", "--tls-port", &number, "--tls-auth-clients", "no"];
        let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &cert];
        let users = ["--requirepass", "hunter2", "--user"];
        let arguments = tls.into_iter().chain(files).chain(users).chain(acl.split(' '));
        let url = format!("rediss://gateway:hunter4@127.0.0.1:{port}/1");
        Self::with(port, &url, arguments.map(str::to_owned).collect())
    }

    fn with(port: u16, url: &str, mut arguments: Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().display().to_string();
        arguments.extend(["--bind", "127.0.0.1", "--save", "", "--dir", &place].map(str::to_owned));
        let child = Self::run(port, &arguments);
        Self { port, url: url.to_owned(), arguments, child, _folder: folder }
    }

    fn run(port: u16, arguments: &[String]) -> Child {
        let mut command = Command::new("redis-server");
        command.args(arguments).stdout(Stdio::null());
        let child = command.spawn().expect("redis-server; tests/run installs it");
        wait_until("Redis accepts", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        child
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// What a command returns, in the database of [`Self::url`]; without TLS.
    pub fn command(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli")
            .args(["-p", &port, "-a", "hunter2", "--no-auth-warning", "-n", "1"])
            .args(words)
            .output()
            .expect("redis-cli");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Sends a signal by its name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill").success());
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended");
    }

    pub fn restart(&mut self) {
        self.child = Self::run(self.port, &self.arguments);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn upload(gateway: &Gateway) -> Response {
    let mut client = Client::connect(gateway.address);
    let form = Form::new().file("file", "x.txt", "text/plain", b"x");
    let (kind, body) = (form.content_type(), form.bytes());
    let headers = [authorization(), ("content-type", kind.as_str())];
    client.send_request("POST", "/v1/files", &headers, &body);
    client.response()
}

pub fn readyz(gateway: &Gateway) -> Response {
    let mut client = Client::connect(gateway.address);
    client.send_request("GET", "/readyz", &[], b"");
    client.response()
}

fn metric(gateway: &Gateway, line: &str) -> f64 {
    let mut client = Client::connect(gateway.address);
    client.send_request("GET", "/metrics", &[], b"");
    let text = client.response().text();
    let found = text.lines().find_map(|known| known.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {line} in:\n{text}"))
}

/// Two more gateways with the settings of the first.
fn three(world: &World) -> [Gateway; 2] {
    [world.another(), world.another()]
}

#[test]
fn three_gateways_share_tokens_that_invalidate_each_other() {
    let redis = Redis::start();
    let life = Duration::from_secs(4);
    let world = Setup::new()
        .set("wechat.credential", "secret")
        .set("redis.url", redis.url())
        .sandbox(|options| {
            options.token_life = life;
            options.token_overlap = Duration::from_secs(2);
        })
        .start();
    let more = three(&world);
    let gateways = [&world.gateway, &more[0], &more[1]];
    const UPLOADS: usize = 300;
    let began = Instant::now();
    let every = Duration::from_millis(50);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= UPLOADS {
                        break;
                    }
                    // Spread over the lifetimes of several tokens.
                    let at = began + every * n as u32;
                    std::thread::sleep(at.saturating_duration_since(Instant::now()));
                    upload(gateways[n % 3]).stored();
                }
            });
        }
    });
    let took = began.elapsed();
    assert_eq!(world.objects().len(), UPLOADS);
    // Each token is replaced when an eighth of its lifetime is left.
    let period = life.as_secs_f64() * 7.0 / 8.0;
    let (calls, expiries) = (world.count("token"), took.as_secs_f64() / period);
    println!(
        "{UPLOADS} uploads over three gateways in {took:.1?}: {calls} token calls, {expiries:.1} expiries"
    );
    assert!(
        (calls as f64 - 1.0 - expiries).abs() <= 1.0,
        "{calls} token calls for {expiries:.1} expiries"
    );
    let refreshes = |result: &str| -> f64 {
        let line = format!("gateway_token_refreshes_total{{result=\"{result}\"}}");
        gateways.iter().map(|gateway| metric(gateway, &line)).sum()
    };
    assert_eq!(refreshes("fetched"), calls as f64);
    assert!(refreshes("shared") >= 2.0 && refreshes("failed") == 0.0);
    for gateway in gateways {
        assert!(!gateway.log().contains("hunter2"), "{}", gateway.log());
    }
}

#[test]
fn the_holder_of_the_lease_is_killed_in_the_middle_of_its_fetch() {
    let redis = Redis::start();
    let world = Setup::new()
        .set("wechat.credential", "secret")
        .set("wechat.timeout", "2s")
        .set("redis.url", redis.url())
        .start();
    let mut holder = world.another();
    let others = [&world.gateway, &world.another()];
    world.faults(&json!([{"stage": "token", "fault": "stall", "times": 1}]));
    std::thread::scope(|scope| {
        let mut client = Client::connect(holder.address);
        client.send_request("PUT", "/v1/files/lost", &[authorization()], b"x");
        wait_until("it asks for a token", || world.count("token") == 1);
        let began = Instant::now();
        let waiting: Vec<_> = (0..10)
            .map(|n| {
                let gateway = others[n % 2];
                scope.spawn(move || {
                    upload(gateway).stored();
                    began.elapsed()
                })
            })
            .collect();
        holder.signal("KILL");
        holder.ended();
        // The lease lasts for the fetch timeout and two seconds more.
        for waiting in waiting {
            let waited = waiting.join().expect("stored");
            assert!(waited < Duration::from_secs(5), "{waited:?}");
        }
    });
    assert_eq!(world.count("token"), 2, "the lost one, and one for the others");
    assert_eq!(world.objects().len(), 10);
}

#[test]
fn a_refused_token_is_replaced_once_for_all_gateways() {
    let redis = Redis::start();
    for mode in ["secret", "authorizer"] {
        let setup = Setup::new();
        let file = setup.folder().join("token");
        std::fs::write(&file, "component").expect("a file");
        let options = tcb_upload_gateway::sandbox::Options::default();
        let world = setup
            .set("wechat.credential", mode)
            .set("redis.url", redis.url())
            .set("wechat.authorizer.component_appid", &options.component_appid)
            .set("wechat.authorizer.authorizer_appid", &options.appid)
            .set("wechat.authorizer.refresh_token", &options.refresh_token)
            .set("wechat.authorizer.component_token_file", file.display())
            .sandbox(|options| options.component_token = Some("component".to_owned()))
            .start();
        let call = if mode == "secret" { "token" } else { "api_authorizer_token" };
        let more = three(&world);
        let gateways = [&world.gateway, &more[0], &more[1]];
        for round in 1..4 {
            std::thread::scope(|scope| {
                for n in 0..12 {
                    let gateway = gateways[n % 3];
                    scope.spawn(move || upload(gateway).stored());
                }
            });
            assert_eq!(world.count(call), round, "{mode}");
            world.control("POST", "tokens/revoke", "");
        }
    }
}

#[test]
fn no_upload_fails_while_redis_is_down() {
    let mut redis = Redis::start();
    let world = Setup::new()
        .set("wechat.credential", "stable")
        .set("redis.url", redis.url())
        // Tokens expire while Redis is unavailable.
        .sandbox(|options| {
            options.token_life = Duration::from_secs(3);
            options.token_overlap = Duration::from_secs(1);
        })
        .start();
    let more = three(&world);
    let gateways = [&world.gateway, &more[0], &more[1]];
    let status = |gateway: &Gateway| {
        let response = readyz(gateway);
        assert_eq!(response.status, 200, "able to serve all the time: {}", response.text());
        response.json()["status"].clone()
    };
    let over = AtomicBool::new(false);
    let uploads = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for gateway in gateways {
            let (over, uploads) = (&over, &uploads);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    upload(gateway).stored();
                    uploads.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let _end = SetAtEnd(&over);
        for gateway in gateways {
            assert_eq!(status(gateway), "ready");
            assert_eq!(metric(gateway, "gateway_redis_up"), 1.0);
        }
        redis.kill();
        let away = Instant::now();
        for gateway in gateways {
            wait_until("it says so", || status(gateway) == "degraded");
            assert_eq!(metric(gateway, "gateway_redis_up"), 0.0);
        }
        let tokens = world.count("stable_token");
        std::thread::sleep(Duration::from_secs(6).saturating_sub(away.elapsed()));
        assert!(world.count("stable_token") > tokens, "tokens were had without Redis");
        redis.restart();
        for gateway in gateways {
            wait_until("it has healed", || status(gateway) == "ready");
            assert_eq!(metric(gateway, "gateway_redis_up"), 1.0);
        }
    });
    assert_eq!(world.objects().len(), uploads.load(Ordering::Relaxed));
    println!("{} uploads while Redis was away for 6 s and back", uploads.load(Ordering::Relaxed));
    for gateway in gateways {
        let log = gateway.log();
        let said = log.matches("Redis is unavailable").count();
        assert!((1..=2).contains(&said), "said when it changes, not for every call: {log}");
    }
}

/// It accepts connections but does not respond.
#[test]
fn a_redis_that_hangs_delays_no_upload() {
    let redis = Redis::start();
    let world =
        Setup::new().set("wechat.credential", "secret").set("redis.url", redis.url()).start();
    upload(&world.gateway).stored();
    assert_eq!(readyz(&world.gateway).json()["status"], "ready");
    redis.signal("STOP");
    world.control("POST", "tokens/revoke", "");
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..60 {
            scope.spawn(|| upload(&world.gateway).stored());
        }
        for _ in 0..5 {
            let asked = Instant::now();
            assert_eq!(readyz(&world.gateway).status, 200);
            assert!(asked.elapsed() < Duration::from_millis(990), "{:?}", asked.elapsed());
        }
    });
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(readyz(&world.gateway).json()["status"], "degraded");
    redis.signal("CONT");
    wait_until("it has healed", || readyz(&world.gateway).json()["status"] == "ready");
}

/// A Redis that answers PING but cannot share tokens: a read-only replica after a failover, or a wrong password.
#[test]
fn a_redis_that_cannot_share_counts_as_unavailable() {
    let redis = Redis::start();
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let world = Setup::new().set("redis.url", redis.url()).start();
    upload(&world.gateway).stored();
    assert_eq!(readyz(&world.gateway).json()["status"], "degraded");
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    wait_until("it has healed", || readyz(&world.gateway).json()["status"] == "ready");

    let wrong = redis.url().replace("hunter2", "hunter3");
    let world = Setup::new().set("redis.url", wrong).start();
    upload(&world.gateway).stored();
    assert_eq!(readyz(&world.gateway).json()["status"], "degraded");
    assert!(!world.gateway.log().contains("hunter3"), "{}", world.gateway.log());
}

/// Redis loses the lease during a fetch: at most one more token call, and no loop that uses up the daily quota.
#[test]
fn a_redis_that_loses_the_lease_costs_few_calls() {
    let redis = Redis::start();
    let world =
        Setup::new().set("wechat.credential", "secret").set("redis.url", redis.url()).start();
    let other = world.another();
    world.faults(&json!([{"stage": "token", "fault": "delay", "ms": 600, "times": 1}]));
    std::thread::scope(|scope| {
        scope.spawn(|| upload(&world.gateway).stored());
        wait_until("it asks for a token", || world.count("token") == 1);
        redis.command(&["FLUSHALL"]);
    });
    upload(&other).stored();
    assert!(world.count("token") <= 2, "{}", world.count("token"));
}

/// The newest refresh token is shared with other gateways, and known after a restart.
#[test]
fn a_refresh_token_that_wechat_replaces_is_shared() {
    let redis = Redis::start();
    let upstream = Upstream::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("component").display().to_string();
    std::fs::write(&file, "component-token").expect("a file");
    let token = |life: u64, refresh: &str| {
        ok(&json!({
            "authorizer_access_token": "token", "expires_in": life, "authorizer_refresh_token": refresh,
        }))
    };
    let call = "/cgi-bin/component/api_authorizer_token";
    let start = || {
        let url = redis.url();
        let settings = [
            ("GATEWAY__WECHAT__CREDENTIAL", "authorizer"),
            ("GATEWAY__WECHAT__AUTHORIZER__COMPONENT_APPID", "wxc"),
            ("GATEWAY__WECHAT__AUTHORIZER__AUTHORIZER_APPID", "wxa"),
            ("GATEWAY__WECHAT__AUTHORIZER__REFRESH_TOKEN", "refresh-1"),
            ("GATEWAY__WECHAT__AUTHORIZER__COMPONENT_TOKEN_FILE", &file),
            ("GATEWAY__REDIS__URL", &url),
        ];
        stand_in::gateway(&upstream, &settings)
    };
    upstream.respond_with(call, token(1, "refresh-2"));
    let (first, _folder) = start();
    upload(&first).stored();
    drop(first);
    // The token in Redis expires in a second.
    let (second, _folder) = start();
    wait_until("another token is fetched", || {
        upload(&second).stored();
        upstream.seen(call).len() >= 2
    });
    assert_eq!(upstream.seen(call)[1].json()["authorizer_refresh_token"], "refresh-2");
}

/// Redis is unreachable from the start: each gateway fetches its own tokens.
#[test]
fn without_redis_each_gateway_fetches_its_own_tokens() {
    let world = Setup::new()
        .set("wechat.credential", "secret")
        .set("redis.url", "redis://127.0.0.1:1")
        .start();
    let other = world.another();
    upload(&world.gateway).stored();
    upload(&other).stored();
    assert_eq!(world.count("token"), 2);
    let degraded = readyz(&other).json();
    assert_eq!((&degraded["status"], degraded["detail"].is_string()), (&json!("degraded"), true));
    assert_ne!(world.objects(), Vec::<Value>::new());
}
