//! The alerting rules of `config/deploy`, by a real Prometheus over a run with faults: each alert fires while its cause
//! lasts, no other does, and none without a cause. Times are shorter than in the rules, by 100 to 600 times, and a verdict is
//! slow after 0.5 s: what is tried are the rules' conditions, not their numbers.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Setup, World, authorization, fetch, wait_until};
use crate::pages::page;
use crate::replicas::Redis;
use crate::resumable::{metadata, send};
use crate::threads::SetAtEnd;
use crate::{jwks, reload};

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/deploy/alerts.yaml");

/// In this order, since `for: 5m` does not stand in brackets.
const SHORTER: [(&str, &str); 7] = [
    ("[5m]", "[3s]"),
    ("[10m]", "[5s]"),
    ("[1h]", "[8s]"),
    ("for: 10m", "for: 1s"),
    ("for: 5m", "for: 1s"),
    ("for: 2m", "for: 1s"),
    // Seconds of a verdict. Between the bounds of the buckets, quantiles are interpolated: far from the delay.
    ("> 5\n", "> 0.5\n"),
];

/// Prometheus with the rules, which scrapes gateways.
struct Prometheus {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(gateways: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut rules = std::fs::read_to_string(RULES).expect("the rules");
        for (long, short) in SHORTER {
            assert!(rules.contains(long), "{long}");
            rules = rules.replace(long, short);
        }
        assert!(!rules.contains("m]") && !rules.contains("h]"), "{rules}");
        std::fs::write(folder.path().join("rules.yml"), rules).expect("written");
        let targets: Vec<_> = gateways.iter().map(SocketAddr::to_string).collect();
        let scrape = page("metrics").open_blocks("yaml").concat();
        let scrape = scrape.replace("[\"gateway:9090\"]", &format!("{targets:?}"));
        assert!(scrape.contains(&targets[0]), "{scrape}");
        let config = format!(
            "global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}\nrule_files: [rules.yml]\n{scrape}"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).expect("written");
        let mut child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus; tests/run installs it");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let listening = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once("msg=\"Listening on\" address=")?;
            Some(address.to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        let address = listening.expect("its address");
        wait_until("Prometheus is ready", || {
            let mut client = Client::connect(address.parse().expect("an address"));
            client.send_request("GET", "/-/ready", &[], b"");
            client.response().status == 200
        });
        let url = format!("http://{address}");
        Self { child, url, _folder: folder }
    }

    fn get(&self, path: &str) -> Value {
        let (body, _) = fetch(&format!("{}/api/v1/{path}", self.url));
        serde_json::from_slice(&body).expect("JSON")
    }

    /// The names of the alerts in this state: `firing`, `pending`.
    fn alerts(&self, state: &str) -> BTreeSet<String> {
        let alerts = self.get("alerts");
        let alerts = alerts["data"]["alerts"].as_array().expect("a list").iter();
        let alerts = alerts.filter(|alert| alert["state"] == state);
        alerts
            .map(|alert| alert["labels"]["alertname"].as_str().expect("its name").to_owned())
            .collect()
    }

    /// Seconds of traffic that it has seen, at most the longest window of the rules.
    fn has_seen_traffic(&self) -> bool {
        let query = "query?query=count_over_time(up%5B9s%5D)";
        let count = self.get(query)["data"]["result"][0]["value"][1].as_str().map(str::to_owned);
        count.is_some_and(|count| count.parse::<f64>().expect("a number") > 40.0)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The owner's back end: the auth server and the receiver of events. A user is called what its cookie says.
struct BackEnd {
    address: SocketAddr,
    auth: Arc<AtomicU16>,
    events: Arc<AtomicU16>,
}

impl BackEnd {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (auth, events) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
        let status = [auth.clone(), events.clone()];
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let status = status.clone();
                std::thread::spawn(move || respond(stream, &status));
            }
        });
        Self { address, auth, events }
    }
}

/// Serves one request, and closes the connection.
fn respond(stream: TcpStream, [auth, events]: &[Arc<AtomicU16>; 2]) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let lower = head.to_ascii_lowercase();
    let length =
        lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
    let status = if head.starts_with("GET ") { auth } else { events };
    let user = field("cookie:").or(field("Cookie:")).unwrap_or("unnamed");
    let body = json!({ "sub": user }).to_string();
    let status = status.load(Ordering::SeqCst);
    let response = format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(response.as_bytes()).ok()
}

/// Sends a request on a connection of its own, and reads its response. Failures are the run's purpose.
fn attempt(gateway: SocketAddr, request: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request.as_bytes())?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// Uploads by key and by session, and probes, until it is stopped.
fn traffic(gateway: SocketAddr, stopped: &AtomicBool) {
    let (_, key) = authorization();
    let upload = |credential: &str| {
        format!(
            "PUT /v1/files/x.txt HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{credential}\r\n\
             Content-Type: text/plain\r\nContent-Length: 1\r\n\r\nx"
        )
    };
    let requests = [
        upload(&format!("Authorization: {key}")),
        upload("Cookie: carol"),
        "GET /readyz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n".to_owned(),
    ];
    while !stopped.load(Ordering::SeqCst) {
        for request in &requests {
            let _ = attempt(gateway, request);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connections whose uploads are not complete: each holds `bytes` of the memory budget, as another user.
fn incomplete(world: &World, users: usize, bytes: usize) -> Vec<TcpStream> {
    let begin = |user| {
        let mut stream = TcpStream::connect(world.gateway.address).expect("it accepts");
        let head = format!(
            "PUT /v1/files/unfinished-{user}.bin HTTP/1.1\r\nHost: gateway\r\nCookie: user-{user}\r\n\
             Transfer-Encoding: chunked\r\n\r\n{bytes:x}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(&vec![b'x'; bytes]).expect("sent");
        stream
    };
    (0..users).map(begin).collect()
}

/// The URLs of resumable uploads that reserve their length of the spool, each as another user.
fn reserved(world: &World, lengths: &[usize]) -> Vec<(String, String)> {
    let create = |(user, length): (usize, &usize)| {
        let (cookie, length) = (format!("user-{user}"), length.to_string());
        let path = metadata(&[("path", "large.bin")]);
        let headers = [
            ("cookie", cookie.as_str()),
            ("tus-resumable", "1.0.0"),
            ("upload-length", &length),
            ("upload-metadata", &path),
        ];
        let response = send(world.client(), "POST", "/v1/uploads", &headers, b"");
        assert_eq!(response.status, 201, "{}", response.text());
        (cookie, crate::resumable::path_of(&response))
    };
    lengths.iter().enumerate().map(create).collect()
}

const MIB: usize = 1 << 20;

struct Run {
    world: World,
    prometheus: Prometheus,
    seen: Mutex<BTreeSet<String>>,
}

impl Run {
    /// Waits until these alerts fire. Meanwhile none fires but these and those that `may` follow from the same cause.
    fn fires(&self, alerts: &[&str], may: &[&str]) {
        let allowed: BTreeSet<_> =
            alerts.iter().chain(may).map(|name| (*name).to_owned()).collect();
        wait_until(&format!("{alerts:?} fire"), || {
            let firing = self.prometheus.alerts("firing");
            assert!(firing.is_subset(&allowed), "{firing:?} fire, of {allowed:?}");
            alerts.iter().all(|name| firing.contains(*name))
        });
        let names = alerts.iter().map(|name| (*name).to_owned());
        self.seen.lock().expect("the names").extend(names);
    }

    /// Waits until none fires nor is about to.
    fn heals(&self) {
        wait_until("no alert fires", || {
            self.prometheus.alerts("firing").is_empty()
                && self.prometheus.alerts("pending").is_empty()
        });
    }

    fn faults(&self, rules: &Value, alerts: &[&str], may: &[&str]) {
        self.world.faults(rules);
        self.fires(alerts, may);
        self.world.faults(&json!([]));
        self.heals();
    }
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    let back_end = BackEnd::start();
    let mut redis = Redis::start();
    let setup = Setup::new();
    let spool = setup.folder().join("spool");
    let (issuer, unknown) = jwks::issuer_with_stranger();
    let (with_spool, settings) = reload::with_file(
        setup
            .set("resumable.spool", spool.display())
            .set("resumable.spool_limit", "100MiB")
            .set("auth.forward_url", format!("http://{}/check", back_end.address))
            .set("auth.forward.can", "upload")
            .set("auth.jwt.algorithm", "EdDSA")
            .set("auth.jwt.jwks_url", format!("http://{}/keys", issuer.address)),
        "",
    );
    let world = Setup::new()
        .set("server.workers", 1)
        .set("server.max_connections", 64)
        .set("upload.memory_budget", "2MiB")
        .set("upload.max_buffered_file", "512KiB")
        .set("upload.replay_window", "64KiB")
        .set("upload.client_paths", true)
        .set("upload.idle_timeout", "60s")
        .set("auth.forward_url", format!("http://{}/check", back_end.address))
        .set("auth.forward.can", "upload")
        .set("auth.forward_cache", "0s")
        .set("hooks.stored_url", format!("http://{}/events", back_end.address))
        .set("hooks.secret", "whsec_bXktc2VjcmV0LW9mLTI0LWJ5dGVzLW9yLW1vcmU=")
        .set("redis.url", redis.url())
        .start();
    let gateway = world.gateway.address;
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| traffic(gateway, &stopped));
        let _end = SetAtEnd(&stopped);
        let mut run = Run {
            prometheus: Prometheus::start(&[gateway, with_spool.gateway.address]),
            world,
            seen: Mutex::default(),
        };
        wait_until("Prometheus has seen traffic for the longest window", || {
            // One scrape that took too long makes an alert pending.
            let firing = run.prometheus.alerts("firing");
            assert!(firing.is_empty(), "{firing:?} fire");
            run.prometheus.has_seen_traffic()
        });

        let failing = "GatewayUploadsFailing";
        let slow_down =
            json!([{"stage": "cos", "fault": "status", "status": 503, "code": "SlowDown"}]);
        run.faults(&slow_down, &["GatewayCosFailing", failing], &["GatewaySlowVerdicts"]);
        let delay = json!([{"stage": "cos", "fault": "delay", "ms": 1000}]);
        run.faults(&delay, &["GatewaySlowVerdicts"], &[]);
        let busy = json!([{"stage": "link", "fault": "errcode", "errcode": -1}]);
        run.faults(&busy, &["GatewayWechatFailing", failing], &[]);
        let quota = json!([{"stage": "link", "fault": "errcode", "errcode": 45009}]);
        run.faults(&quota, &["GatewayWechatQuota"], &["GatewayWechatFailing", failing]);
        run.world.control("POST", "tokens/revoke", "");
        let no_token = json!([{"stage": "token", "fault": "errcode", "errcode": 40125}]);
        run.faults(&no_token, &["GatewayTokenFailing"], &["GatewayWechatFailing", failing]);

        back_end.auth.store(500, Ordering::SeqCst);
        run.fires(&["GatewayForwardAuthFailing"], &[failing]);
        back_end.auth.store(200, Ordering::SeqCst);
        run.heals();

        back_end.events.store(500, Ordering::SeqCst);
        run.fires(&["GatewayHooksDelayed"], &[]);
        back_end.events.store(410, Ordering::SeqCst);
        run.fires(&["GatewayHooksLost"], &["GatewayHooksDelayed"]);
        back_end.events.store(200, Ordering::SeqCst);
        run.heals();

        redis.kill();
        run.fires(&["GatewayRedisDown"], &[]);
        redis.restart();
        run.heals();

        let unfinished = incomplete(&run.world, 10, 200_000);
        run.fires(&["GatewayMemoryBudgetFull"], &[]);
        drop(unfinished);
        run.heals();

        let uploads = reserved(&with_spool, &[70 * MIB, 20 * MIB, 6 * MIB]);
        run.fires(&["GatewaySpoolFull"], &[]);
        for (cookie, url) in uploads {
            let headers = [("cookie", cookie.as_str()), ("tus-resumable", "1.0.0")];
            assert_eq!(send(with_spool.client(), "DELETE", &url, &headers, b"").status, 204);
        }
        run.heals();

        std::fs::write(&settings, "upload.max_file_size = \"much\"").expect("written");
        run.fires(&["GatewayReloadFailed"], &[]);
        std::fs::write(&settings, "").expect("written");
        run.heals();

        jwks::fails(&issuer);
        // Its key is asked for; whether the auth server then knows the user is another matter.
        let path = format!("/v1/files/x.txt?ticket={unknown}");
        let mut client = with_spool.client();
        client.send_request("PUT", &path, &[], b"x");
        client.response();
        run.fires(&["GatewayKeySetFailing"], &[]);
        run.heals();

        let is_less = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_less.load(Ordering::SeqCst) {
                    let connections: Vec<_> =
                        (0..80).map(|_| TcpStream::connect(gateway)).collect();
                    std::thread::sleep(Duration::from_millis(50));
                    drop(connections);
                }
            });
            let _end = SetAtEnd(&is_less);
            run.fires(&["GatewayShedding"], &["GatewayDown", failing]);
        });
        run.heals();

        run.world.gateway.signal("KILL");
        run.fires(&["GatewayDown"], &[]);

        let rules = std::fs::read_to_string(RULES).expect("the rules");
        let all = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
        let all: BTreeSet<_> = all.map(str::to_owned).collect();
        assert_eq!(*run.seen.get_mut().expect("the names"), all, "each has fired");
    });
}

#[test]
fn promtool_accepts_the_rules() {
    let output = Command::new("promtool").args(["check", "rules", RULES]).output();
    let output = output.expect("promtool; tests/run installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
