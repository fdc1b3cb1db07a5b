//! Upstream faults: for each, the response that the client gets and what is stored. This file has the matrix of forms, and
//! runs the matrices of both ways to COS; `api_faults` has the one of COS's API.
//!
//! `cargo test --test api faults::the_matrix -- --nocapture` prints the matrix. With `FAULTS=cos` in the environment it
//! runs only the rows that begin with `cos`.

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tcb_upload_gateway::sandbox::{Options, Sandbox};

use crate::harness::{
    BOUNDARY, Client, Form, Gateway, Response, Setup, World, authorization, crc64, noise,
};

/// Two sizes within the replay window, and one far beyond it; by COS's API, two that are sent as a whole, and one in
/// parts.
pub const SIZES: [(&str, usize); 3] =
    [("1 KiB", 1 << 10), ("200 KiB", 200 << 10), ("30 MiB", LARGE_SIZE)];
pub const LARGE_SIZE: usize = 30 << 20;

/// The expected response for each size: status, code, and COS's own code where it is passed on. Alternatives are
/// separated by ` | `, where timing decides when the fault is noticed.
pub type Told = [&'static str; 3];

pub const STORED: Told = ["201"; 3];
pub const NO_TOKEN: Told = ["503 credential_unavailable"; 3];
pub const NO_LINK: Told = ["502 wechat_unreachable"; 3];
pub const SLOW_LINK: Told = ["504 wechat_timeout"; 3];
pub const NO_VERDICT: Told = ["502 cos_unreachable"; 3];
pub const NO_TIMELY_VERDICT: Told = ["504 cos_timeout"; 3];
pub const DENIED: Told = ["502 cos_refused AccessDenied"; 3];
pub const NO_BUCKET: Told = ["502 cos_refused NoSuchBucket"; 3];
pub const SLOW_DOWN: Told = ["503 cos_busy SlowDown"; 3];
pub const COS_BROKEN: Told = ["502 cos_refused InternalError"; 3];
/// Of a response whose body does not end, COS's error code is lost; its status is not.
pub const COS_HUGE: Told = ["502 cos_refused"; 3];
pub const BAD_CRC: Told = ["502 integrity_mismatch"; 3];
/// A file that fits the replay window is sent again; a larger one fails.
const NO_VERDICT_ONCE: Told = ["201", "201", "502 cos_unreachable"];
/// The connection breaks early, possibly before the file exceeds the replay window.
const BROKEN_EARLY_ONCE: Told = ["201", "201", "201 | 502 cos_unreachable"];

/// A stage, the rule that makes a fault at it, and the expected responses. `HALF`, `RATE` and `FILE` are replaced by what
/// the column says, `COS` and `CLOSED` by socket addresses.
pub type Row = (&'static str, &'static str, &'static str, Told);

/// A file in which a fault occurs.
pub struct Column {
    pub title: &'static str,
    /// Of which of the [`SIZES`] it is.
    pub size: usize,
    /// The request that has the file's content, or the part with the fault, as a rule names it. A column whose `file` is
    /// not the first one of its size is only for rules that have `FILE`.
    pub file: &'static str,
    /// Bytes of that request, about.
    pub bytes: usize,
}

/// A matrix: what it is about, and how a gateway for it is set up.
pub struct Matrix {
    pub rows: Vec<Row>,
    pub columns: &'static [Column],
    /// The gateway for the faults of a stage.
    pub setup: fn(&str) -> Setup,
    /// The stages whose faults only a gateway meets that has just started: each cell starts its own.
    pub at_start: &'static [&'static str],
}

const fn form(size: usize) -> Column {
    Column { title: SIZES[size].0, size, file: "cos", bytes: SIZES[size].1 }
}

const FORMS: &[Column] = &[form(0), form(1), form(2)];

#[rustfmt::skip]
pub const MATRIX: &[Row] = &[
    ("token", "refuse", "token refuse", NO_TOKEN),
    ("token", "refuse once", "token refuse times=1", STORED),
    ("token", "reset before", "token reset_before", NO_TOKEN),
    ("token", "reset before once", "token reset_before times=1", STORED),
    ("token", "reset within", "token reset_within after=20", NO_TOKEN),
    ("token", "reset within once", "token reset_within after=20 times=1", STORED),
    ("token", "stall", "token stall", NO_TOKEN),
    ("token", "slow", "token slow bytes_per_second=2000", STORED),
    ("token", "wrong status", "token status status=404", NO_TOKEN),
    ("token", "garbage", "token garbage", NO_TOKEN),
    ("token", "garbage once", "token garbage times=1", STORED),
    ("token", "huge", "token huge bytes=8000000", NO_TOKEN),
    ("token", "close", "token close", NO_TOKEN),
    ("token", "close once", "token close times=1", STORED),
    ("token", "500 once", "token status status=500 times=1", STORED),
    ("token", "503 once", "token status status=503 times=1", STORED),
    ("token", "503 always", "token status status=503", NO_TOKEN),
    ("token", "pooled closed", "token close_idle", STORED),
    ("token", "DNS failure", "wechat_url http://wechat.invalid", NO_TOKEN),
    ("token", "TLS failure", "wechat_url https://WECHAT", NO_TOKEN),

    ("link", "refuse", "link refuse", NO_LINK),
    ("link", "refuse once", "link refuse times=1", STORED),
    ("link", "reset before", "link reset_before", NO_LINK),
    ("link", "reset before once", "link reset_before times=1", STORED),
    ("link", "reset within", "link reset_within after=20", NO_LINK),
    ("link", "reset within once", "link reset_within after=20 times=1", STORED),
    ("link", "stall", "link stall", SLOW_LINK),
    ("link", "slow", "link slow bytes_per_second=4000", STORED),
    ("link", "wrong status", "link status status=404", NO_LINK),
    ("link", "garbage", "link garbage", NO_LINK),
    ("link", "garbage once", "link garbage times=1", STORED),
    ("link", "huge", "link huge bytes=8000000", NO_LINK),
    ("link", "close", "link close", NO_LINK),
    ("link", "close once", "link close times=1", STORED),
    ("link", "500 once", "link status status=500 times=1", STORED),
    ("link", "503 once", "link status status=503 times=1", STORED),
    ("link", "503 always", "link status status=503", NO_LINK),
    ("link", "pooled closed", "link close_idle", STORED),
    ("link", "pooled reset", "link refuse times=0", STORED),
    ("link", "foreign host", "link foreign_host url=http://cos.example/b/k", ["502 link_not_allowed"; 3]),

    ("cos", "refuse", "cos refuse", NO_VERDICT),
    ("cos", "refuse once", "cos refuse times=1", BROKEN_EARLY_ONCE),
    ("cos", "not listening", "link foreign_host url=http://CLOSED/b/{path}", NO_VERDICT),
    ("cos", "reset before", "cos reset_before", NO_VERDICT),
    ("cos", "reset before once", "cos reset_before times=1", BROKEN_EARLY_ONCE),
    ("cos", "reset within", "cos reset_within after=HALF", NO_VERDICT),
    ("cos", "reset within once", "cos reset_within after=HALF times=1", NO_VERDICT_ONCE),
    ("cos", "stall", "cos stall", NO_TIMELY_VERDICT),
    ("cos", "stall within", "cos stall after=HALF", NO_TIMELY_VERDICT),
    ("cos", "slow", "cos slow bytes_per_second=RATE", STORED),
    ("cos", "wrong status", "cos status status=404", NO_BUCKET),
    ("cos", "garbage", "cos garbage", NO_VERDICT),
    ("cos", "garbage once", "cos garbage times=1", NO_VERDICT_ONCE),
    ("cos", "huge refusal", "cos huge bytes=8000000 status=403", COS_HUGE),
    ("cos", "huge success", "cos huge bytes=8000000 status=200", NO_VERDICT),
    ("cos", "close", "cos close", NO_VERDICT),
    ("cos", "close once", "cos close times=1", NO_VERDICT_ONCE),
    ("cos", "early 403", "cos early status=403 after=HALF", DENIED),
    ("cos", "403", "cos status status=403", DENIED),
    ("cos", "500 once", "cos status status=500 times=1", ["201", "201", COS_BROKEN[2]]),
    ("cos", "500 always", "cos status status=500", COS_BROKEN),
    ("cos", "503 once", "cos status status=503 times=1", ["201", "201", SLOW_DOWN[2]]),
    ("cos", "503 always", "cos status status=503", SLOW_DOWN),
    ("cos", "wrong CRC", "cos wrong_crc", BAD_CRC),
    ("cos", "wrong CRC once", "cos wrong_crc times=1", BAD_CRC),
    ("cos", "pooled closed", "cos close_idle", STORED),
    ("cos", "pooled reset", "cos refuse times=0", STORED),
    ("cos", "link expired once", "link expired_link times=1", ["201", "201", "201 | 502 cos_refused AccessDenied"]),
    ("cos", "link expired", "link expired_link", DENIED),
    ("cos", "DNS failure", "link foreign_host url=https://cos.invalid/b/{path}", ["502 cos_unreachable | 504 cos_timeout"; 3]),
    ("cos", "TLS failure", "link foreign_host url=https://COS/b/{path}", NO_VERDICT),
];

/// How a file is uploaded.
#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    Multipart,
    Raw,
    /// A form that leaves the path to the gateway.
    Generated,
}

/// The content of every test file of this size.
pub fn content(size: usize) -> &'static [u8] {
    static LARGE: OnceLock<Vec<u8>> = OnceLock::new();
    &LARGE.get_or_init(|| noise(LARGE_SIZE, 5))[..size]
}

pub fn content_crc(size: usize) -> &'static str {
    static ALL: OnceLock<[String; 3]> = OnceLock::new();
    let all = ALL.get_or_init(|| SIZES.map(|(_, size)| crc64(content(size))));
    &all[SIZES.iter().position(|(_, known)| *known == size).expect("one of the sizes")]
}

/// A gateway that sends forms, with short timeouts, and with one worker so that each upload finds the pooled connections.
pub fn setup() -> Setup {
    Setup::new()
        .set("cos.via", "form")
        .set("server.workers", 1)
        .set("wechat.timeout", "1s")
        .set("wechat.connect_timeout", "500ms")
        .set("cos.connect_timeout", "500ms")
        .set("cos.write_timeout", "1s")
        .set("cos.reply_timeout", "1s")
        .set("cos.allowed_hosts", "127.0.0.1,localhost,cos.invalid")
        .set("upload.path_template", "{dir}/{uuid}{ext}")
        // How far COS is when it fails, and so whether all bytes are still retained, must not decide.
        .set("upload.replay_window_max", "256KiB")
}

/// The request's line and headers, and the bytes before and after the content.
pub struct Request {
    pub method: &'static str,
    pub target: String,
    pub kind: String,
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
}

/// An upload into `folder`.
pub fn request(way: Way, folder: &str) -> Request {
    let field = match way {
        Way::Raw => {
            let target = format!("/v1/files/{folder}/x.bin");
            let kind = "application/octet-stream".to_owned();
            return Request { method: "PUT", target, kind, head: Vec::new(), tail: Vec::new() };
        }
        Way::Multipart => ("path", format!("{folder}/x.bin")),
        Way::Generated => ("dir", folder.to_owned()),
    };
    let form = Form::new().field(field.0, &field.1).file("file", "x.bin", "text/plain", b"");
    let mut head = form.bytes();
    let tail = format!("\r\n--{BOUNDARY}--\r\n").into_bytes();
    head.truncate(head.len() - tail.len());
    let kind = form.content_type();
    Request { method: "POST", target: "/v1/files".to_owned(), kind, head, tail }
}

impl Request {
    pub fn headers<'a>(&'a self, length: &'a str) -> [(&'a str, &'a str); 3] {
        [authorization(), ("content-type", &self.kind), ("content-length", length)]
    }

    pub fn length(&self, content: &[u8]) -> String {
        (self.head.len() + content.len() + self.tail.len()).to_string()
    }
}

/// Uploads, and summarises the response. The gateway must read the whole request, whatever the response is.
pub fn upload(world: &World, way: Way, folder: &str, size: usize) -> (String, Option<Response>) {
    let (request, content) = (request(way, folder), content(size));
    let mut client = world.client();
    client.send_head(request.method, &request.target, &request.headers(&request.length(content)));
    for piece in [&request.head[..], content, &request.tail] {
        if let Err(error) = client.try_send(piece) {
            return (format!("the request was not taken: {error}"), None);
        }
    }
    match client.try_response() {
        Ok(response) => (told(&response, size), Some(response)),
        Err(error) => (format!("no response: {error}"), None),
    }
}

/// The `detail` of a problem.
pub fn detail(response: Option<&Response>) -> String {
    response.map_or_else(String::new, |response| response.json()["detail"].to_string())
}

/// A stored file for which COS returned no CRC.
pub const UNVERIFIED: &str = "201 unverified";

/// A response as a summary: its status, its code, COS's code, and anything wrong with it.
pub fn told(response: &Response, size: usize) -> String {
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    if response.status == 201 {
        let file = &body["files"][0];
        let right = file["crc64"] == content_crc(size) && file["size"] == size;
        return match file["verified"].as_bool() {
            Some(true) if right => "201".into(),
            Some(false) if right => UNVERIFIED.into(),
            _ => format!("201 {body}"),
        };
    }
    let mut text = format!("{} {}", response.status, body["code"].as_str().unwrap_or("(no code)"));
    if let Some(code) = body["cos_code"].as_str() {
        text = format!("{text} {code}");
    }
    let mut wrong = |is: bool, what: &str| {
        if is {
            text = format!("{text}, {what}");
        }
    };
    wrong(
        response.header("content-type") != Some("application/problem+json")
            || body["status"] != response.status
            || body["request_id"].as_str() != response.header("x-request-id"),
        "no proper problem document",
    );
    wrong(
        response.status == 503
            && response.header("retry-after").and_then(|after| after.parse().ok()).unwrap_or(0)
                == 0,
        "no Retry-After",
    );
    wrong(body["detail"].as_str().is_none_or(str::is_empty), "no detail");
    text
}

/// The objects in `folder`: sizes and CRCs.
pub fn stored(world: &World, folder: &str) -> Vec<(u64, String)> {
    let state = world.control("GET", &format!("state?prefix={folder}/"), "").json();
    let objects = state["objects"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    objects.iter().map(|o| (o["size"].as_u64().expect("a size"), text(&o["crc64"]))).collect()
}

/// Any contradiction between the stored objects and the response `told`.
pub fn storage_fault(world: &World, folder: &str, size: usize, told: &str) -> Option<String> {
    let idle = world.control("GET", "wait?idle=1", "");
    if idle.status != 200 {
        return Some(format!("COS is still busy: {}", idle.text()));
    }
    let objects = stored(world, folder);
    let right = match told {
        "201" | UNVERIFIED => objects == [(size as u64, content_crc(size).to_owned())],
        _ => objects.is_empty(),
    };
    (!right).then(|| format!("told {told}, stored {objects:?}"))
}

/// Waits until no multipart upload in `folder` is open at COS: they are aborted after the response. `None`: so it is.
pub fn open_uploads(world: &World, folder: &str) -> Option<String> {
    let began = Instant::now();
    loop {
        let state = world.control("GET", &format!("state?prefix={folder}/"), "").json();
        let uploads = state["multipart_uploads"].as_array().expect("a list").len();
        if uploads == 0 {
            return None;
        }
        if began.elapsed() > Duration::from_secs(10) {
            return Some(format!("{uploads} multipart uploads are open"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `stage fault name=value …` as the control call takes it; the values may stand anywhere.
pub fn rule(text: &str) -> Value {
    let mut rule = Map::new();
    for word in text.split(' ') {
        match word.split_once('=') {
            Some((name, value)) => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
                rule.insert(name.to_owned(), value);
            }
            None => {
                let name = if rule.contains_key("stage") { "fault" } else { "stage" };
                rule.insert(name.to_owned(), word.into());
            }
        }
    }
    Value::Object(rule)
}

/// A port where nothing listens.
pub fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// One cell: the response's summary, and everything that was wrong.
struct Cell {
    told: String,
    wrong: Vec<String>,
}

fn install(world: &World, text: &str, size: usize) {
    let index = SIZES.iter().position(|(_, known)| *known == size).expect("one of the sizes");
    install_in(world, text, &FORMS[index]);
}

fn install_in(world: &World, text: &str, column: &Column) {
    // Half a second for the small ones, two for the large one.
    let bytes = column.bytes;
    let rate = if bytes > 1 << 20 { bytes / 2 } else { (bytes + 4096) * 2 };
    let text = text
        .replace("FILE", column.file)
        .replace("HALF", &(bytes / 2).to_string())
        .replace("RATE", &rate.to_string())
        .replace("COS", &world.sandbox.cos_addr().to_string())
        .replace("CLOSED", &closed());
    world.faults(&json!([rule(&text)]));
}

/// Waits until the kernel has seen the remote close of every connection to this port: it may arrive a little after the
/// sandbox reports it.
pub fn wait_until_disconnected(port: u16) {
    const ESTABLISHED: &str = "01";
    let began = Instant::now();
    let is_open = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[2].ends_with(&format!(":{port:04X}")) && fields[3] == ESTABLISHED
    };
    while std::fs::read_to_string("/proc/net/tcp").expect("/proc").lines().any(is_open) {
        assert!(began.elapsed() < Duration::from_secs(5), "connections to {port} stay open");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An upload that must succeed after a failed one: at once, or after `Retry-After` if no token could be fetched.
fn afterwards(world: &World, failed: Option<&Response>) -> Result<(), String> {
    let failed = failed.ok_or("no response to go by")?;
    if told(failed, 0).starts_with("503 credential_unavailable") {
        let after = failed.header("retry-after").and_then(|after| after.parse().ok());
        std::thread::sleep(Duration::from_secs(after.unwrap_or(0)));
    }
    match upload(world, Way::Raw, "afterwards", 1 << 10).0.as_str() {
        "201" => Ok(()),
        told => Err(format!("a good upload afterwards: {told}")),
    }
}

/// Rules that let COS close the pooled connections.
const CLOSED_BY_COS: [&str; 4] =
    ["cos close_idle", "cos refuse times=0", "put close_idle", "put refuse times=0"];

fn cell(
    world: &World,
    text: &str,
    way: Way,
    column: &Column,
    expected: &str,
    folder: &str,
) -> Cell {
    let (_, size) = SIZES[column.size];
    let heals = !text.starts_with("wechat_url");
    if heals {
        install_in(world, text, column);
    }
    if text.ends_with("close_idle") && !text.starts_with("token") {
        // The rule applies to the upload before the measured one.
        assert_eq!(upload(world, Way::Raw, "before", 1 << 10).0, "201");
        world.control("DELETE", "faults", "");
    }
    if CLOSED_BY_COS.contains(&text) {
        wait_until_disconnected(world.sandbox.cos_addr().port());
    }
    let began = Instant::now();
    let (told, response) = upload(world, way, folder, size);
    let took = began.elapsed();
    let mut wrong = Vec::new();
    if !expected.split(" | ").any(|expected| expected == told) {
        wrong.push(format!("told {told} {} instead of {expected}", detail(response.as_ref())));
    }
    if took > Duration::from_secs(20) {
        wrong.push(format!("it took {took:?}"));
    }
    wrong.extend(storage_fault(world, folder, size, &told));
    world.control("DELETE", "faults", "");
    wrong.extend(open_uploads(world, folder));
    if !told.starts_with("201") && heals {
        wrong.extend(afterwards(world, response.as_ref()).err());
    }
    Cell { told, wrong }
}

/// A row's cells: for each column that it has, both ways.
fn cells(matrix: &Matrix, (stage, _, text, expected): Row) -> Vec<Option<Cell>> {
    let other = text.contains("https://WECHAT").then(|| {
        let data = tempfile::tempdir().expect("a folder");
        let options = Options { data: data.path().join("objects"), ..Options::default() };
        (Sandbox::start(options).expect("the sandbox starts"), data)
    });
    let start = || match text.strip_prefix("wechat_url ") {
        Some(url) => {
            let wechat = other.as_ref().map(|(sandbox, _)| sandbox.wechat_addr().to_string());
            let url = url.replace("WECHAT", &wechat.unwrap_or_default());
            (matrix.setup)(stage).variable("GATEWAY__WECHAT__BASE_URL", url).start()
        }
        None => (matrix.setup)(stage).start(),
    };
    let start_warm = || {
        let world = start();
        // Fetches a token and fills the connection pools.
        assert_eq!(upload(&world, Way::Raw, "first", 1 << 10).0, "201");
        world
    };
    let is_at_start = matrix.at_start.contains(&stage);
    // An upload in parts leaves two connections in the pool, of which such a rule closes one.
    let closes = CLOSED_BY_COS.contains(&text);
    let shared = (!is_at_start && !closes).then(start_warm);
    let mut cells = Vec::new();
    for (index, column) in matrix.columns.iter().enumerate() {
        let is_further = matrix.columns[..index].iter().any(|other| other.size == column.size);
        for way in [Way::Multipart, Way::Raw] {
            if is_further && !text.starts_with("FILE") {
                cells.push(None);
                continue;
            }
            let fresh;
            let world = match &shared {
                Some(world) => world,
                None => {
                    fresh = if is_at_start { start() } else { start_warm() };
                    &fresh
                }
            };
            let folder = format!("cell-{}", cells.len());
            let expected = expected[column.size];
            cells.push(Some(cell(world, text, way, column, expected, &folder)));
        }
    }
    cells
}

/// Runs the jobs on several threads; most of them wait for a timer.
pub fn in_parallel<T: Send>(
    jobs: usize,
    threads: usize,
    job: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= jobs {
                        return;
                    }
                    let result = job(index);
                    results.lock().expect("the results").push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("the results");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn the_matrix() {
    run(&Matrix {
        rows: MATRIX.to_vec(),
        columns: FORMS,
        setup: |_| setup(),
        at_start: &["token"],
    });
}

/// Runs a matrix and prints it.
pub fn run(matrix: &Matrix) {
    let began = Instant::now();
    let only = std::env::var("FAULTS").unwrap_or_default();
    let selected: Vec<_> = matrix
        .rows
        .iter()
        .filter(|(stage, fault, ..)| format!("{stage} {fault}").starts_with(&only))
        .collect();
    let rows = in_parallel(selected.len(), 10, |index| cells(matrix, *selected[index]));

    const WAYS: [&str; 2] = ["multipart", "raw"];
    let mut wrong = Vec::new();
    let mut lines = vec![format!("{:28}", "")];
    for Column { title, .. } in matrix.columns {
        for way in WAYS {
            lines[0] += &format!("{:28}", format!("{title} {way}"));
        }
    }
    for ((stage, fault, ..), cells) in selected.iter().zip(&rows) {
        let mut line = format!("{:28}", format!("{stage} {fault}"));
        for (index, cell) in cells.iter().enumerate() {
            let Some(cell) = cell else {
                line += &format!("{:28}", "");
                continue;
            };
            // COS's code is checked but not printed: the table would be too wide.
            let text = cell.told.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
            let mark = if cell.wrong.is_empty() { "" } else { "!" };
            line += &format!("{:28}", text + mark);
            let (column, way) = (matrix.columns[index / 2].title, WAYS[index % 2]);
            wrong
                .extend(cell.wrong.iter().map(|w| format!("{stage} {fault}, {column} {way}: {w}")));
        }
        lines.push(line);
    }
    lines.iter().for_each(|line| println!("{}", line.trim_end()));
    let (all, bad) = (
        rows.iter().flatten().flatten().count(),
        rows.iter().flatten().flatten().filter(|cell| !cell.wrong.is_empty()).count(),
    );
    println!("{all} cells, {} right, {bad} wrong (!), {:.0?}", all - bad, began.elapsed());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// COS stores the object, but its response is lost. Within the replay window the file is sent again and stored. Beyond
/// it the upload fails; an object under a generated path is then deleted, because the client does not know that path.
#[test]
fn a_stored_object_whose_response_is_lost() {
    const SIZE: usize = 200 << 10;
    const FAULTS: [(&str, &str); 7] = [
        ("close", "502 cos_unreachable"),
        ("garbage", "502 cos_unreachable"),
        ("reset_within after=99999999", "502 cos_unreachable"),
        ("stall", "504 cos_timeout"),
        ("huge bytes=8000000 status=200", "502 cos_unreachable"),
        ("status status=500", "502 cos_refused InternalError"),
        ("status status=503", "503 cos_busy SlowDown"),
    ];
    let wrong = in_parallel(FAULTS.len(), 4, |index| {
        let (fault, failure) = FAULTS[index];
        let world = setup().start();
        let mut wrong = Vec::new();
        for (times, size) in [(" times=1", SIZE), ("", SIZE), (" times=1", LARGE_SIZE)] {
            let retried = !times.is_empty() && size == SIZE && fault != "stall";
            let expected = if retried { "201" } else { failure };
            for (name, way) in
                [("multipart", Way::Multipart), ("raw", Way::Raw), ("generated", Way::Generated)]
            {
                let folder = format!("{name}{times}-{size}").replace([' ', '='], "-");
                install(&world, &format!("cos {fault} store=true{times}"), size);
                let (told, response) = upload(&world, way, &folder, size);
                let case = format!("{fault}{times}, {size} bytes, {name}");
                if told != expected {
                    let detail = detail(response.as_ref());
                    wrong.push(format!("{case}: told {told} {detail} instead of {expected}"));
                }
                let mut fault = storage_fault(&world, &folder, size, &told);
                // A path named by the client is left: the client can upload again or delete it.
                if told != "201" && way != Way::Generated {
                    fault = storage_fault(&world, &folder, size, "201").and(fault);
                }
                wrong.extend(fault.map(|fault| format!("{case}: {fault}")));
                world.control("DELETE", "faults", "");
                let (told, _) = upload(&world, way, &format!("{folder}-afterwards"), SIZE);
                if told != "201" {
                    wrong.push(format!("{case}: a good upload afterwards: {told}"));
                }
            }
        }
        wrong
    });
    let mut wrong: Vec<_> = wrong.into_iter().flatten().collect();

    // Stored by an attempt whose response is lost, then refused at the next attempt.
    let world = setup().start();
    let lost = rule("cos close store=true times=1");
    world.faults(&json!([lost, rule("cos status status=403 times=1")]));
    let (told, _) = upload(&world, Way::Generated, "refused-later", SIZE);
    assert_eq!(told, "502 cos_refused AccessDenied");
    wrong.extend(storage_fault(&world, "refused-later", SIZE, &told));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A client that keeps sending and one that stops in the middle both get COS's refusal within a second, and may still
/// send the rest.
#[test]
fn an_early_refusal_reaches_every_client_within_a_second() {
    const RUNS: usize = 120;
    const THEN: [&str; 3] = ["close", "reset", "keep_reading"];
    let world = setup().start();
    let folder = |run: usize| format!("run-{run}-");
    let after = |run: usize| [0, 1, 64 << 10, 1 << 20, 2 << 20][run % 5];
    let rules: Vec<_> = (0..RUNS)
        .map(|run| {
            let (then, after, path) = (THEN[run % 3], after(run), folder(run));
            rule(&format!("cos early status=403 after={after} then={then} path={path}"))
        })
        .collect();
    world.faults(&json!(rules));

    let runs = in_parallel(RUNS, 2, |run| {
        let way = [Way::Multipart, Way::Raw][run / 3 % 2];
        let (request, content) = (request(way, &folder(run)), content(LARGE_SIZE));
        let at_once = if run / 6 % 2 == 0 { LARGE_SIZE } else { after(run) + (64 << 10) };
        let mut client = world.client();
        let (mut sender, began) = (client.sender(), Instant::now());
        let length = request.length(content);
        client.send_head(request.method, &request.target, &request.headers(&length));
        let (response, took, sent) = std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                sender.write_all(&request.head)?;
                sender.write_all(&content[..at_once])
            });
            let response = client.try_response();
            let took = began.elapsed();
            let sent = first.join().expect("the sender");
            (response, took, sent)
        });
        let rest = [&content[at_once..], &request.tail];
        let sent = sent.and_then(|()| rest.iter().try_for_each(|rest| client.try_send(rest)));
        let told = match (&response, sent) {
            (Err(error), _) => format!("no response: {error}"),
            (Ok(_), Err(error)) => format!("not all was taken: {error}"),
            (Ok(response), Ok(())) => told(response, LARGE_SIZE),
        };
        let then = THEN[run % 3];
        (told, took, format!("run {run}, then {then}, after {}, {at_once} at once", after(run)))
    });
    let slowest = runs.iter().map(|(_, took, _)| *took).max().unwrap_or_default();
    println!("{RUNS} early refusals, the slowest heard after {slowest:.0?}");
    let wrong: Vec<_> = runs
        .iter()
        .filter(|(told, took, _)| {
            told != "502 cos_refused AccessDenied" || *took > Duration::from_secs(1)
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {RUNS}: {wrong:#?}", wrong.len());
    world.assert_nothing_stored();
}

#[test]
fn a_connection_is_not_reused_after_an_early_verdict() {
    let world = setup().start();
    let good = |name: &str| {
        let began = Instant::now();
        let (told, _) = upload(&world, Way::Raw, name, 1 << 10);
        assert_eq!(told, "201", "{name}");
        assert!(began.elapsed() < Duration::from_secs(1), "{name} after {:?}", began.elapsed());
    };
    good("first");
    good("second");
    let mut connections = world.count("cos_connections");
    assert_eq!(connections, 1, "connections are kept");
    for then in ["close", "reset", "keep_reading"] {
        for way in [Way::Multipart, Way::Raw] {
            install(&world, &format!("cos early status=403 after=70000 then={then}"), LARGE_SIZE);
            let (told, _) = upload(&world, way, "refused", LARGE_SIZE);
            assert_eq!(told, "502 cos_refused AccessDenied", "{then}");
            world.control("DELETE", "faults", "");
            good(&format!("after-{then}"));
            good(&format!("again-after-{then}"));
            connections += 1;
            assert_eq!(world.count("cos_connections"), connections, "{then}");
        }
    }
    assert_eq!(stored(&world, "refused"), []);
}

/// The client withholds its last byte until it has the response.
#[test]
fn a_success_before_the_last_byte_is_a_failure() {
    let world = setup().start();
    for (size, way) in [(200 << 10, Way::Multipart), (200 << 10, Way::Raw)]
        .into_iter()
        .chain([(LARGE_SIZE, Way::Multipart), (LARGE_SIZE, Way::Raw)])
    {
        for after in [0, 1, size / 2, size - 1] {
            install(&world, &format!("cos early_2xx after={after}"), size);
            let (request, content) = (request(way, "early"), content(size));
            let mut client = world.client();
            let length = request.length(content);
            client.send_head(request.method, &request.target, &request.headers(&length));
            client.send(&request.head);
            client.send(&content[..size - 1]);
            let response = client.response();
            assert_eq!(told(&response, size), "502 cos_unreachable", "after {after} of {size}");
            client.send(&content[size - 1..]);
            client.send(&request.tail);
            world.assert_nothing_stored();
        }
    }

    // A single fault within the replay window: the file is sent again, and that attempt waits for the last byte.
    let size = 200 << 10;
    for (folder, way) in [("multipart", Way::Multipart), ("raw", Way::Raw)] {
        install(&world, "cos early_2xx after=HALF times=1", size);
        let (request, content) = (request(way, folder), content(size));
        let mut client = world.client();
        let length = request.length(content);
        client.send_head(request.method, &request.target, &request.headers(&length));
        client.send(&request.head);
        client.send(&content[..size - 1]);
        // The form's scanner withholds bytes that may be the start of a delimiter.
        let seen = format!("wait?key={folder}/x.bin&received={}", size - 1 - 64);
        assert_eq!(world.control("GET", &seen, "").status, 200);
        client.send(&content[size - 1..]);
        client.send(&request.tail);
        assert_eq!(told(&client.response(), size), "201");
        assert_eq!(storage_fault(&world, folder, size, "201"), None);
    }
}

/// COS may close idle connections at any time; the next upload notices before it sends, or sends again.
#[test]
fn a_pooled_connection_that_cos_has_closed_costs_nothing() {
    let world = setup().start();
    assert_eq!(upload(&world, Way::Raw, "first", 1 << 10).0, "201");
    for round in 0..10 {
        for rule in ["cos close_idle", "cos refuse times=0"] {
            for (way, size) in [
                (Way::Raw, LARGE_SIZE),
                (Way::Multipart, LARGE_SIZE),
                (Way::Raw, 1 << 10),
                (Way::Multipart, 200 << 10),
            ] {
                let case = format!("{rule}, {size} bytes, round {round}");
                let before = world.count("cos_connections");
                let column = FORMS.iter().find(|column| column.bytes == size).expect("a column");
                let cell = cell(&world, rule, way, column, "201", &format!("{round}"));
                assert!(cell.wrong.is_empty(), "{case}: {:?}", cell.wrong);
                assert_eq!(world.count("cos_connections"), before + 1, "{case}");
                world.control("POST", "reset", "");
            }
        }
    }
}

#[test]
fn a_late_response_of_wechat_is_a_timeout() {
    let world = setup().start();
    assert_eq!(upload(&world, Way::Raw, "first", 1 << 10).0, "201");
    for (size, way) in
        [(1 << 10, Way::Multipart), (LARGE_SIZE, Way::Multipart), (1 << 10, Way::Raw)]
    {
        install(&world, "link delay ms=1500", size);
        let began = Instant::now();
        assert_eq!(upload(&world, way, "late", size).0, "504 wechat_timeout");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        world.control("DELETE", "faults", "");
        assert_eq!(storage_fault(&world, "late", size, "504"), None);
        assert_eq!(upload(&world, way, "afterwards", 1 << 10).0, "201");
    }
}

#[test]
fn an_expired_link_is_replaced_by_a_fresh_one() {
    let world = setup().start();
    for (folder, way) in [("multipart", Way::Multipart), ("raw", Way::Raw)] {
        let before = world.count("uploadfile");
        install(&world, "link expired_link times=1", 200 << 10);
        assert_eq!(upload(&world, way, folder, 200 << 10).0, "201");
        assert_eq!(world.count("uploadfile"), before + 2);
        assert_eq!(storage_fault(&world, folder, 200 << 10, "201"), None);
    }
    // A limited number of times, and only within the replay window.
    for (folder, size) in [("small", 1 << 10), ("large", LARGE_SIZE)] {
        let before = world.count("uploadfile");
        install(&world, "link expired_link", size);
        assert_eq!(upload(&world, Way::Raw, folder, size).0, "502 cos_refused AccessDenied");
        let links = world.count("uploadfile") - before;
        assert!(links <= 3, "{links} links");
        assert_eq!(storage_fault(&world, folder, size, "502"), None);
    }
}

/// A host name that resolves for the token call but no longer for the link call: the gateway has its own `/etc/hosts`.
#[test]
fn a_link_call_whose_host_no_longer_resolves() {
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost wechat.test\n").expect("a file");
    let world = Setup::new().start();
    world.faults(&json!([{"stage": "token", "fault": "close_idle", "times": 1}]));
    let mut variables = world.variables().clone();
    let port = world.sandbox.wechat_addr().port();
    let base = format!("http://wechat.test:{port}");
    variables.insert("GATEWAY__WECHAT__BASE_URL".to_owned(), base);
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"")
        .arg(&hosts)
        .args([env!("CARGO_BIN_EXE_tcb-upload-gateway"), "--profile", "production"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(&variables);
    let gateway = Gateway::spawn(command);

    let mut ready = Client::connect(gateway.address);
    ready.send_request("GET", "/readyz", &[], b"");
    assert_eq!(ready.response().status, 200);
    std::fs::write(&hosts, "127.0.0.1 localhost\n").expect("a file");
    for (_, size) in SIZES {
        let form = Form::new().file("file", "x", "text/plain", &noise(size, 1));
        let mut client = Client::connect(gateway.address);
        let kind = form.content_type();
        let headers = [authorization(), ("content-type", kind.as_str())];
        client.send_request("POST", "/v1/files", &headers, &form.bytes());
        let response = client.response();
        let code = response.json()["code"].as_str().expect("a code").to_owned();
        // Without a reachable name server, a look-up may be slow.
        assert!(["wechat_unreachable", "wechat_timeout"].contains(&code.as_str()), "{code}");
    }
    assert_eq!(world.count("stable_token"), 1);
    assert_eq!(world.count("uploadfile"), 0);
    world.assert_nothing_stored();
}
