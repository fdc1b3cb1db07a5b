//! The load test of a deployment that is busy, broken, or not a gateway: a server that responds as each test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{KEY, Setup};
use crate::target::{Ended, run};

/// A request of the load test.
#[derive(Clone, Debug)]
struct Seen {
    /// `POST /v1/files?…`
    line: String,
    /// `x-request-id`, whose end is the upload's number or `check`.
    id: String,
    host: String,
    connection: usize,
    at: Instant,
    has_key: bool,
    body: Vec<u8>,
}

/// Status, further header lines, body.
type Reply = (u16, String, String);

struct Fake {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// A server on loopback that sends what `respond` gives; `None` closes the connection without a response.
    fn start(respond: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (all, respond) = (seen.clone(), Arc::new(respond));
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let (all, respond) = (all.clone(), respond.clone());
                std::thread::spawn(move || serve(stream, connection, &all, &*respond));
            }
        });
        Self { address, seen }
    }

    fn run(&self, arguments: &str) -> Ended {
        run(&format!("http://{}/gateway/", self.address), arguments)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("requests").clone()
    }

    /// The uploads of the load, without the check.
    fn load(&self) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|seen| seen.is_upload() && !seen.is_check());
        seen
    }
}

impl Seen {
    fn is_upload(&self) -> bool {
        self.line.starts_with("POST /gateway/v1/files?reply=default&")
    }

    fn is_check(&self) -> bool {
        self.id.ends_with("-check")
    }

    /// As the gateway: a stored file, its deletion, no metrics.
    fn usual(&self) -> Option<Reply> {
        if self.is_upload() {
            let number = self.id.rsplit('-').next().expect("a number");
            let path = format!("uploads/{number}");
            let file = json!({"file_id": format!("cloud://env.b/{path}"), "path": path, "url": ""});
            return reply(201, "", &json!({"files": [file]}));
        }
        if self.line.starts_with("POST /gateway/v1/delete ") {
            let list: Value = serde_json::from_slice(&self.body).expect("JSON");
            let files = list["files"].as_array().expect("a list");
            let deleted = files.iter().map(|file| json!({"file_id": file, "deleted": true}));
            return reply(200, "", &json!({"files": deleted.collect::<Vec<_>>()}));
        }
        reply(404, "", &json!({}))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a server responds is optional")]
fn reply(status: u16, headers: &str, body: &Value) -> Option<Reply> {
    Some((status, headers.to_owned(), body.to_string()))
}

fn busy(retry_after: u64) -> Option<Reply> {
    let problem = json!({"code": "overloaded", "detail": "too many uploads", "request_id": "r"});
    reply(503, &format!("Retry-After: {retry_after}\r\n"), &problem)
}

fn serve(
    stream: TcpStream,
    connection: usize,
    all: &Mutex<Vec<Seen>>,
    respond: &dyn Fn(&Seen) -> Option<Reply>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let mut values = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
            values.next().map(|(_, value)| value.to_owned())
        };
        let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let seen = Seen {
            line: head.lines().next().expect("a line").to_owned(),
            id: header("x-request-id").unwrap_or_default(),
            host: header("host").unwrap_or_default(),
            connection,
            at: Instant::now(),
            has_key: header("authorization") == Some(format!("Bearer {KEY}")),
            body,
        };
        all.lock().expect("requests").push(seen.clone());
        let Some((status, headers, body)) = respond(&seen) else { return };
        let response = format!(
            "HTTP/1.1 {status} Said\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.get_mut().write_all(response.as_bytes()).is_err()
            || headers.contains("Connection: close")
        {
            return;
        }
    }
}

#[test]
fn a_busy_deployment_is_given_the_time_that_it_asks_for() {
    let is_first = Mutex::new(true);
    let fake = Fake::start(move |seen| match seen.is_upload() && seen.id.ends_with("-6") {
        true if std::mem::take(&mut *is_first.lock().expect("a flag")) => busy(1),
        _ => seen.usual(),
    });
    let ended = fake.run("--uploads 500 --connections 2 --size 100B");
    ended.failed("| … 503 overloaded | 1 |");
    ended.failed("The first error: 503 overloaded: too many uploads (request r)");
    ended.failed("Ended: all uploads were sent.");
    let paused = ended.report["paused_seconds"].as_f64().expect("a time");
    assert!((0.9..=1.0).contains(&paused), "{paused}");
    assert_eq!((&ended.report["uploads"], &ended.report["failed"]), (&json!(499), &json!(1)));
    // Neither connection sends anything for a second.
    let times: Vec<_> = fake.load().iter().map(|seen| seen.at).collect();
    let longest = times.windows(2).map(|two| two[1] - two[0]).max().expect("two");
    assert!(longest >= Duration::from_millis(950), "{longest:?}");

    // In the deletion as well.
    let is_first = Mutex::new(true);
    let fake = Fake::start(move |seen| {
        let is_deletion = seen.line.contains("/v1/delete") && seen.body.len() > 60;
        if is_deletion && std::mem::take(&mut *is_first.lock().expect("a flag")) {
            return busy(1);
        }
        seen.usual()
    });
    let report = fake.run("--uploads 3 --size 100B").good();
    assert_eq!(report["deletion"]["deleted"], 3);
}

#[test]
fn a_run_that_mostly_fails_ends_early() {
    let fake = Fake::start(|seen| match seen.is_upload() && !seen.is_check() {
        true => busy(0),
        false => seen.usual(),
    });
    let ended = fake.run("--connections 4");
    ended.failed("Ended: more than half of the latest uploads failed.");
    let sent = fake.load().len();
    assert!((20..=23).contains(&sent), "{sent} uploads");
    assert_eq!(ended.report["errors"], json!({"503 overloaded": sent}));

    // A pause that is longer than the run ends it.
    let fake = Fake::start(|seen| match seen.is_upload() && !seen.is_check() {
        true => busy(700),
        false => seen.usual(),
    });
    let ended = fake.run("--connections 1 --seconds 600");
    ended.failed(
        "the deployment asked for a pause of 700s, which is longer than the rest of the run",
    );
    assert_eq!(fake.load().len(), 1);

    // The real gateway's own limit of requests.
    let limited = Setup::new().set("auth.keys.panel.rate", "10/s").start();
    let ended = run(&format!("http://{}", limited.gateway.address), "--seconds 3 --size 1KiB");
    ended.failed("429 rate_limited");
    let uploads = ended.report["uploads"].as_u64().expect("a number");
    assert!((10..=45).contains(&uploads), "{}", ended.printed);
    assert!(ended.report["paused_seconds"].as_f64().expect("a time") > 1.0, "{}", ended.printed);
    assert_eq!(ended.report["deletion"]["remaining"], 0, "{}", ended.printed);
    assert_eq!(limited.objects(), Vec::<Value>::new());
}

#[test]
fn connections_that_end_are_opened_again() {
    let fake = Fake::start(|seen| {
        let (status, headers, body) = seen.usual()?;
        Some((status, format!("{headers}Connection: close\r\n"), body))
    });
    let report = fake.run("--uploads 10 --connections 2 --size 1B").good();
    let load = fake.load();
    assert_eq!((load.len(), &report["uploads"]), (10, &json!(10)));
    let mut connections: Vec<_> = load.iter().map(|seen| seen.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), 10);
    assert!(load.iter().all(|seen| seen.has_key));

    // Without it, each connection serves one upload after the other.
    let fake = Fake::start(Seen::usual);
    fake.run("--uploads 10 --connections 2 --size 1B").good();
    let last = fake.load().iter().map(|seen| seen.connection).max();
    assert!(last.expect("one") <= 2, "{last:?}");
}

#[test]
fn what_is_not_a_gateway_s_response_is_said() {
    let echo = format!("the key\u{7} {KEY} is wrong");
    let problem = json!({"code": "unauthenticated", "detail": echo, "request_id": "r"});
    for (answer, said) in [
        (reply(401, "", &problem), "401 unauthenticated: the key  [key] is wrong (request r)"),
        (reply(200, "", &json!({"ok": true})), "200, and not a response as the gateway's"),
        (reply(201, "", &json!({"files": []})), "201, and not a response as the gateway's"),
        (
            reply(302, "Location: https://login.example.com/\r\n", &json!({})),
            "302, a redirect to https://login.example.com/, which is not followed",
        ),
        (None, "the connection broke: "),
    ] {
        let fake = Fake::start(move |_| answer.clone());
        let ended = fake.run("");
        ended.failed(&format!("the check failed, and nothing else was sent: {said}"));
        assert_eq!(fake.seen().len(), 1, "{said}");
    }
}

#[test]
fn files_that_may_be_stored_or_are_damaged_are_told() {
    // Uploads without a response may be stored; where the run chooses the paths, they are deleted.
    let fake = Fake::start(|seen| match seen.id.ends_with("-2") {
        true => None,
        false => seen.usual(),
    });
    let ended = fake.run("--uploads 4 --connections 1 --size 1B --prefix load");
    ended.failed("1 uploads failed without a verdict: their files may be stored.");
    ended.failed("| … connection broken | 1 |");
    let deletion = fake.seen().pop().expect("a request");
    let list: Value = serde_json::from_slice(&deletion.body).expect("JSON");
    let run = ended.report["run"].as_str().expect("a name");
    assert!(list["files"].as_array().expect("a list").contains(&json!(format!("load/{run}/2"))));

    // A CRC that is not the file's.
    let fake = Fake::start(|seen| match seen.id.ends_with("-1") {
        true => {
            let file = json!({"file_id": "cloud://env.b/damaged", "path": "damaged", "crc64": "1"});
            reply(201, "", &json!({"files": [file]}))
        }
        false => seen.usual(),
    });
    let ended = fake.run("--uploads 2 --size 1B");
    ended.failed("| … CRC-64 differs | 1 |");
    assert_eq!(
        (&ended.report["deletion"]["deleted"], &ended.report["uploads"]),
        (&json!(2), &json!(1))
    );

    // The check's file comes back as another one.
    let fake = Fake::start(|seen| {
        if seen.line.starts_with("GET /gateway/v1/files/x ") {
            assert!(seen.has_key);
            return reply(200, "", &json!("other bytes"));
        }
        let url = format!("http://{}/gateway/v1/files/x", seen.host);
        let file = json!({"file_id": "cloud://env.b/a/x", "path": "a/x", "url": url});
        reply(201, "", &json!({"files": [file]}))
    });
    let ended = fake.run("");
    ended.failed("the downloaded file differs from the uploaded one. Its file remains at a/x");
    assert_eq!(fake.seen().len(), 2);
}

#[test]
fn files_that_cannot_be_deleted_are_named() {
    let undeletable = |name: &'static str| {
        Fake::start(move |seen| {
            let (status, headers, body) = seen.usual()?;
            let deleted =
                format!("{{\"deleted\":true,\"file_id\":\"cloud://env.b/uploads/{name}\"}}");
            let error = format!("{{\"error\":{{\"detail\":\"{KEY} cannot\"}}}}");
            Some((status, headers, body.replace(&deleted, &error)))
        })
    };
    let fake = undeletable("check");
    let ended = fake.run("--size 1B");
    ended.failed("the check's file cannot be deleted, and nothing else was sent: [key] cannot.");
    ended.failed("It remains at uploads/check.");
    assert_eq!(fake.load().len(), 0);

    let ended = undeletable("1").run("--size 1B --uploads 3");
    ended.failed(
        "Deleted: 2 files; remaining: 1, in `uploads/`, such as cloud://env.b/uploads/1 ([key] cannot).",
    );
}
