//! The test harness: the real gateway binary configured by its environment, a sandbox whose state tests can inspect,
//! and a small HTTP client that sends exactly the bytes it is given, in the given segments.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use aho_corasick::AhoCorasick;
use serde_json::Value;
use tcb_upload_gateway::sandbox::{Options, Sandbox};
use tempfile::TempDir;

/// After this time a test counts as hanging.
pub const HANG_TIMEOUT: Duration = Duration::from_secs(60);

/// The API key of [`Setup::new`]'s only client, `panel`.
pub const KEY: &str = "panel-key-for-tests";

/// The gateway's settings and the sandbox's options for a test.
pub struct Setup {
    variables: BTreeMap<String, String>,
    options: Options,
    within: Option<Within>,
    data: TempDir,
}

/// Wraps a command in another one, such as a shell with a limit.
type Within = Box<dyn FnOnce(&Command) -> Command>;

impl Setup {
    /// The production profile with two workers, a sandbox upstream, and one key that has all permissions and may name
    /// paths. The variable `COS_VIA=api` runs the tests by COS's API.
    pub fn new() -> Self {
        use sha2::{Digest, Sha256};
        let data = tempfile::tempdir().expect("a temporary folder");
        let options = Options { data: data.path().join("objects"), ..Options::default() };
        let mut setup = Self { variables: BTreeMap::new(), options, within: None, data };
        for (key, value) in [
            ("server.bind", "127.0.0.1:0".to_owned()),
            ("server.workers", "2".to_owned()),
            ("server.public_url", String::new()),
            ("server.shutdown_delay", "0s".to_owned()),
            ("cos.allow_http", "true".to_owned()),
            // Otherwise the calls that a test counts, or makes fail, would not be those of its uploads alone.
            ("wechat.warm_links", "off".to_owned()),
            ("upload.client_paths", "true".to_owned()),
            ("auth.keys.panel.sha256", hex::encode(Sha256::digest(KEY))),
        ] {
            setup = setup.set(key, value);
        }
        match std::env::var("COS_VIA") {
            Ok(via) => setup.set("cos.via", via),
            Err(_) => setup,
        }
    }

    /// Files are sent by COS's API.
    pub fn by_api(self) -> Self {
        self.set("cos.via", "api")
    }

    /// A setting of the gateway, by its key.
    pub fn set(self, key: &str, value: impl ToString) -> Self {
        self.variable(&format!("GATEWAY__{}", key.to_uppercase().replace('.', "__")), value)
    }

    /// A temporary folder that exists as long as the [`World`].
    pub fn folder(&self) -> &std::path::Path {
        self.data.path()
    }

    /// A variable of the gateway's environment.
    pub fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    /// Changes the sandbox's options.
    pub fn sandbox(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// The gateway's limit of file descriptors.
    pub fn descriptors(self, limit: u32) -> Self {
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        self.within(move |command| {
            within(command, &["/bin/sh", "-c", &script], command.get_program())
        })
    }

    /// Starts the gateway by the command that `surround` makes.
    pub fn within(mut self, surround: impl FnOnce(&Command) -> Command + 'static) -> Self {
        self.within = Some(Box::new(surround));
        self
    }

    pub fn start(self) -> World {
        let Self { mut variables, options, within, data } = self;
        let defaults = [
            ("GATEWAY__WECHAT__ENV", options.env.clone()),
            ("GATEWAY__WECHAT__APPID", options.appid.clone()),
            ("GATEWAY__WECHAT__SECRET", options.secret.clone()),
        ];
        let sandbox = Sandbox::start(options).expect("the sandbox starts");
        let port = sandbox.cos_addr().port();
        let wechat_url = sandbox.wechat_url();
        let upstream = [
            ("GATEWAY__COS__API__ENDPOINT", format!("http://127.0.0.1:{port}")),
            ("GATEWAY__COS__API__GETAUTH_URL", format!("{wechat_url}/_/cos/getauth")),
            ("GATEWAY__COS__API__METAID_URL", format!("{wechat_url}/_/cos/metaid/encode")),
            ("GATEWAY__WECHAT__BASE_URL", wechat_url),
            ("GATEWAY__COS__ALLOWED_HOSTS", format!("127.0.0.1:{port},localhost:{port}")),
        ];
        for (name, value) in defaults.into_iter().chain(upstream) {
            variables.entry(name.to_owned()).or_insert(value);
        }
        let command = command(&["--profile", "production"], &variables, data.path());
        let gateway = Gateway::spawn(match within {
            Some(within) => within(&command),
            None => command,
        });
        World { gateway, sandbox, variables, data }
    }
}

/// A running gateway and its upstream.
pub struct World {
    pub gateway: Gateway,
    pub sandbox: Sandbox,
    variables: BTreeMap<String, String>,
    data: TempDir,
}

impl World {
    /// Restarts the gateway with the same upstream.
    pub fn restart(&mut self) {
        self.gateway =
            Gateway::start(&["--profile", "production"], &self.variables, self.data.path());
    }

    /// The gateway's environment.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// A call to the sandbox's control endpoints.
    pub fn control(&self, method: &str, call: &str, body: &str) -> Response {
        let mut client = Client::connect(self.sandbox.wechat_addr());
        client.send_request(method, &format!("/_sandbox/{call}"), &[], body.as_bytes());
        client.response()
    }

    pub fn state(&self) -> Value {
        self.control("GET", "state", "").json()
    }

    /// How often the sandbox has been called with `call`.
    pub fn count(&self, call: &str) -> u64 {
        self.control("GET", "state?objects=0", "").json()["counts"][call].as_u64().unwrap_or(0)
    }

    /// Every stored object.
    pub fn objects(&self) -> Vec<Value> {
        self.state()["objects"].as_array().expect("a list").clone()
    }

    /// Every unfinished multipart upload of the sandbox's COS: `key`, `upload_id`, `initiated`, `parts`.
    pub fn multipart_uploads(&self) -> Vec<Value> {
        self.state()["multipart_uploads"].as_array().expect("a list").clone()
    }

    /// The bytes of one stored object.
    pub fn object(&self, key: &str) -> Vec<u8> {
        let encoded =
            percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC);
        let response = self.control("GET", &format!("object?key={encoded}"), "");
        assert_eq!(response.status, 200, "{key} is stored");
        response.body
    }

    /// Sets the sandbox's faults, as the control call's JSON.
    pub fn faults(&self, rules: &Value) {
        let response = self.control("PUT", "faults", &rules.to_string());
        assert_eq!(response.status, 200, "{}", response.text());
    }

    /// Waits until COS is idle, then asserts that nothing is stored.
    pub fn assert_nothing_stored(&self) {
        assert_eq!(self.control("GET", "wait?idle=1", "").status, 200);
        assert_eq!(self.objects(), Vec::<Value>::new());
    }

    pub fn client(&self) -> Client {
        Client::connect(self.gateway.address)
    }

    /// Posts a form with the key.
    pub fn post(&self, form: &Form) -> Response {
        self.post_to("/v1/files", form)
    }

    pub fn post_to(&self, target: &str, form: &Form) -> Response {
        let mut client = self.client();
        let (kind, body) = (form.content_type(), form.bytes());
        client.send_request("POST", target, &[authorization(), ("content-type", &kind)], &body);
        client.response()
    }

    /// A request with the key and a JSON body (no body if it is `null`).
    pub fn call(&self, method: &str, target: &str, body: &Value) -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [authorization(), ("content-type", "application/json")];
        self.call_with(method, target, &headers, &body)
    }

    pub fn call_with(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let mut client = self.client();
        client.send_request(method, target, headers, body.as_bytes());
        client.response()
    }

    /// Another gateway with the same settings and upstream.
    pub fn another(&self) -> Gateway {
        Gateway::start(&["--profile", "production"], &self.variables, self.data.path())
    }

    /// A temporary folder that exists as long as this.
    pub fn folder(&self) -> &std::path::Path {
        self.data.path()
    }

    /// Downloads a file by its URL: its bytes and their type.
    pub fn download(&self, url: &str) -> (Vec<u8>, String) {
        let path = &url[url.find("/v1/").expect("a URL of the gateway")..];
        let mut client = self.client();
        client.send_request("GET", path, &[], b"");
        let redirect = client.response();
        assert_eq!(redirect.status, 302, "{}", redirect.text());
        fetch(redirect.header("location").expect("a target"))
    }
}

impl Drop for World {
    /// Asserts that the gateway's log contains no token or signature that the sandbox has issued.
    fn drop(&mut self) {
        if std::thread::panicking() || self.sandbox.wechat_url().starts_with("https:") {
            return;
        }
        let state = self.state();
        let tokens = state["tokens"].as_array().into_iter().flatten();
        let objects = state["objects"].as_array().into_iter().flatten();
        let fields = objects.flat_map(|object| object["fields"].as_array().into_iter().flatten());
        let signed = ["Signature", "x-cos-security-token", "x-cos-meta-fileid"];
        let fields = fields
            .filter(|field| signed.iter().any(|name| field[0] == *name))
            .map(|field| &field[1]);
        let texts = tokens.chain(fields).filter_map(Value::as_str).map(str::to_owned);
        self.gateway.keep_secret(texts);
    }
}

/// Downloads from a download link: bytes and their type.
pub fn fetch(url: &str) -> (Vec<u8>, String) {
    let rest = url.strip_prefix("http://").expect("an http URL");
    let (authority, path) = rest.split_once('/').expect("a path");
    let mut client = Client::connect(authority.parse().expect("an address"));
    client.send_request("GET", &format!("/{path}"), &[], b"");
    let response = client.response();
    assert_eq!(response.status, 200, "{}", response.text());
    let kind = response.header("content-type").unwrap_or_default().to_owned();
    (response.body, kind)
}

pub fn authorization() -> (&'static str, &'static str) {
    ("authorization", "Bearer panel-key-for-tests")
}

/// Polls until `so` is true.
pub fn wait_until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < HANG_TIMEOUT, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A process of the real binary.
pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Texts that must not be in its log.
    secrets: Vec<String>,
}

impl Gateway {
    /// Starts the gateway in `folder` with exactly these variables, and waits until it listens.
    pub fn start(
        arguments: &[&str],
        variables: &BTreeMap<String, String>,
        folder: &std::path::Path,
    ) -> Self {
        Self::spawn(command(arguments, variables, folder))
    }

    /// Runs `command`, which starts a gateway, and waits until it listens.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the gateway starts");
        let lines = BufReader::new(child.stdout.take().expect("its log"));
        let log = Arc::<Mutex<String>>::default();
        let kept = log.clone();
        let (listens, listening) = mpsc::channel();
        std::thread::spawn(move || {
            let mut listens = Some(listens);
            for line in lines.lines().map_while(Result::ok) {
                let address = address_in(&line);
                let mut kept = kept.lock().expect("the log");
                kept.push_str(&line);
                kept.push('\n');
                if let Some(address) = address
                    && let Some(listens) = listens.take()
                {
                    let _ = listens.send(address);
                }
            }
        });
        let address = listening.recv_timeout(HANG_TIMEOUT).unwrap_or_else(|error| {
            let _ = child.kill();
            panic!(
                "the gateway exited, or does not listen: {error}\n{}",
                log.lock().expect("the log")
            )
        });
        let own = command.get_envs().filter(|(name, _)| is_secret(name));
        let values = own.filter_map(|(_, value)| value?.to_str());
        let secrets =
            values.flat_map(|value| value.split([',', '\n'])).map(str::to_owned).collect();
        Self { child, address, log, secrets }
    }

    /// Adds texts that must not be in its log.
    pub fn keep_secret(&mut self, secrets: impl IntoIterator<Item = String>) {
        self.secrets.extend(secrets);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// The log, as soon as it contains `text`.
    pub fn log_with(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(began.elapsed() < HANG_TIMEOUT, "no {text} in the log:\n{log}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A figure of `/proc/PID/status` in KiB: `VmRSS`, `VmHWM`.
    pub fn memory(&self, figure: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("/proc");
        let line = status.lines().find(|line| line.starts_with(figure)).expect("the figure");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    /// File descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("/proc").count()
    }

    /// CPU seconds it has used.
    pub fn cpu(&self) -> f64 {
        let process = format!("/proc/{}", self.child.id());
        // The scheduler's exact count, if the kernel has it; the usual figure is sampled every 10 ms.
        let threads = std::fs::read_dir(format!("{process}/task")).expect("/proc");
        let counted = threads.map(|thread| {
            let counts = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            counts.split(' ').next()?.parse::<u64>().ok()
        });
        if let Some(nanoseconds) = counted.sum::<Option<u64>>() {
            return nanoseconds as f64 / 1e9;
        }
        let stat = std::fs::read_to_string(format!("{process}/stat")).expect("/proc");
        let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<f64>().expect("ticks");
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let process = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &process]).status();
        assert!(status.expect("kill").success());
    }

    /// Waits for its exit status.
    pub fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status;
            }
            assert!(began.elapsed() < HANG_TIMEOUT, "it does not exit:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The address that a line of the log says it listens on.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, url) = line.split_once("listening on ")?;
    let authority = url.split("://").nth(1).expect("a URL");
    let end = authority.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c)));
    Some(authority[..end.unwrap_or(authority.len())].parse().expect("an address"))
}

/// Whether a variable of the gateway's environment is a secret.
fn is_secret(name: &OsStr) -> bool {
    const ENDINGS: [&str; 8] = [
        "__SECRET",
        "__SHA256",
        "__JWT__KEY",
        "__SIGNING_KEYS",
        "__REFRESH_TOKEN",
        "__REDIS__URL",
        "__RECEIPTS__KEY",
        "__OTLP_HEADERS",
    ];
    name.to_str().is_some_and(|name| ENDINGS.iter().any(|ending| name.ends_with(ending)))
}

/// Shorter secrets are ordinary words that tests chose, which may occur in a log.
const SHORTEST_SECRET: usize = 16;

/// Texts that must never be in a log: keys, their hashes, tickets, signatures, tokens.
const HIDDEN: &[&str] = &[
    KEY,
    "03e4a02939974b579a0e76971c9a11d8b5fac101a14e15dfb4a068c306b28c9f",
    "q-signature=",
    "access_token=",
    "secret=",
    "ticket=",
    "signature=",
    "?sign=",
    "eyJ",
    crate::tickets::SECRET,
    crate::shared::SIGNING_KEY,
];

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let log = self.log();
            let own =
                self.secrets.iter().map(String::as_str).filter(|own| own.len() >= SHORTEST_SECRET);
            // One pass for all of them: a test may have tens of thousands of signatures and lines.
            let hidden = AhoCorasick::new(HIDDEN.iter().copied().chain(own)).expect("few texts");
            let line = hidden.find(&log).map(|found| {
                let begin = log[..found.start()].rfind('\n').map_or(0, |end| end + 1);
                log[begin..].lines().next()
            });
            assert_eq!(line, None, "a secret is in the log");
        }
    }
}

/// A command for the binary with only these variables in its environment.
pub fn command(
    arguments: &[&str],
    variables: &BTreeMap<String, String>,
    folder: &std::path::Path,
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcb-upload-gateway"));
    command.args(arguments).current_dir(folder).env_clear().envs(variables);
    command
}

/// `command` run by `runner`, which finds its binary at `program`.
pub fn within(command: &Command, runner: &[&str], program: &OsStr) -> Command {
    let mut within = Command::new(runner[0]);
    within.args(&runner[1..]).arg(program).args(command.get_args()).env_clear();
    within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    within.current_dir(command.get_current_dir().expect("a folder"));
    within
}

/// A client connection that sends the given bytes.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("it accepts")
    }

    /// Connects to a gateway that may have ended.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANG_TIMEOUT))?;
        stream.set_write_timeout(Some(HANG_TIMEOUT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes; panics if the connection is closed.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("it takes what it is sent");
    }

    /// Sends bytes on a connection that may be closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub fn send_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let length = body.len().to_string();
        self.send_head(method, path, &[headers, &[("content-length", &length)]].concat());
        self.send(body);
    }

    /// Posts JSON with the key.
    pub fn post_json(&mut self, path: &str, body: &Value) -> Response {
        self.send_request("POST", path, &[authorization()], body.to_string().as_bytes());
        self.response()
    }

    pub fn send_head(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        self.send(head(method, path, headers).as_bytes());
    }

    /// A request and its response, on a connection that may be closed at any time.
    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let length = body.len().to_string();
        let headers = [headers, &[("content-length", &length)]].concat();
        self.try_send(head(method, path, &headers).as_bytes())?;
        self.try_send(body)?;
        self.try_response()
    }

    /// One chunk of a chunked body.
    pub fn send_chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.send(&chunk);
    }

    /// Shuts down the sending side.
    pub fn finish(&mut self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
    }

    /// A second handle to the socket, to send while this one reads.
    pub fn sender(&self) -> TcpStream {
        self.stream.get_ref().try_clone().expect("the socket")
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(self.stream.get_ref());
        socket.set_linger(Some(Duration::ZERO)).expect("an option");
    }

    pub fn response(&mut self) -> Response {
        self.try_response().expect("a response")
    }

    /// The next response, after any `100 Continue`.
    pub fn try_response(&mut self) -> io::Result<Response> {
        loop {
            let (status, headers) = self.response_head()?;
            if status == 100 {
                continue;
            }
            let mut response = Response { status, headers, body: Vec::new() };
            let length = response.header("content-length").and_then(|length| length.parse().ok());
            match length {
                Some(length) => {
                    response.body.resize(length, 0);
                    self.stream.read_exact(&mut response.body)?;
                }
                None if matches!(status, 204 | 304) => {}
                None => drop(self.stream.read_to_end(&mut response.body)?),
            }
            return Ok(response);
        }
    }

    /// The head of a response without a body, such as that to HEAD.
    pub fn response_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let mut line = || {
            let mut line = String::new();
            match self.stream.read_line(&mut line)? {
                0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                _ => Ok(line.trim_end().to_owned()),
            }
        };
        let status = line()?.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status"))?;
        let mut headers = Vec::new();
        loop {
            match line()?.split_once(':') {
                Some((name, value)) => {
                    headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
                None => return Ok((status, headers)),
            }
        }
    }
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: gateway.test\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// A whole response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// The first file of an upload that succeeded.
    pub fn stored(&self) -> Value {
        assert_eq!(self.status, 201, "{}", self.text());
        self.json()["files"][0].clone()
    }

    /// Asserts a problem document with this status and code, and gives it.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}",
            self.text()
        );
        let problem = self.json();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        problem
    }
}

/// A multipart form under construction.
pub struct Form {
    body: Vec<u8>,
}

pub const BOUNDARY: &str = "----test-boundary";

impl Form {
    pub fn new() -> Self {
        Self { body: Vec::new() }
    }

    pub fn field(self, name: &str, value: &str) -> Self {
        self.part(
            format!("Content-Disposition: form-data; name=\"{name}\"").as_bytes(),
            value.as_bytes(),
        )
    }

    pub fn file(self, field: &str, name: &str, kind: &str, content: &[u8]) -> Self {
        let head = format!(
            "Content-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\nContent-Type: {kind}"
        );
        self.part(head.as_bytes(), content)
    }

    /// A part with this head (without its blank line).
    pub fn part(mut self, head: &[u8], content: &[u8]) -> Self {
        let opening = format!("--{BOUNDARY}\r\n");
        for piece in [opening.as_bytes(), head, b"\r\n\r\n", content, b"\r\n"] {
            self.body.extend_from_slice(piece);
        }
        self
    }

    /// The form's bytes, with a line break after the last delimiter, as browsers send it.
    pub fn bytes(&self) -> Vec<u8> {
        self.ending("\r\n")
    }

    /// The form's bytes, with `epilogue` after the last delimiter.
    pub fn ending(&self, epilogue: &str) -> Vec<u8> {
        let mut bytes = self.body.clone();
        bytes.extend_from_slice(format!("--{BOUNDARY}--{epilogue}").as_bytes());
        bytes
    }

    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={BOUNDARY}")
    }
}

/// Pseudo-random bytes, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

/// CRC-64/XZ in decimal.
pub fn crc64(bytes: &[u8]) -> String {
    crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_XZ).checksum(bytes).to_string()
}
