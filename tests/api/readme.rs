//! The clients of the guides, run as they stand there, and a few more of tests/clients. `tests/clients/install` brings
//! what they need; `tests/run` runs it and then these.

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::deploy::{Proxy, texts};
use crate::harness::{Form, KEY, Setup, World, noise, wait_until};
use crate::measured::{metrics, value};
use crate::pages::page;

const ADDRESS: &str = "https://files.example.com";
pub const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
/// The files are small enough for what must be held (chunked requests).
const SIZE: usize = 6 << 20;
const LIMIT: &str = "8MiB";
const TOO_LARGE: usize = 24 << 20;
/// Of a client that is killed: more than the sockets on the way hold besides the beginning. A file that was sent as a whole
/// is stored, also if its client is killed then.
const CANCELLED: usize = 24 << 20;
const BEGINNING: u64 = 1 << 20;

pub fn of_ours(name: &str) -> String {
    std::fs::read_to_string(Path::new(CLIENTS).join(name)).expect("a file of tests/clients")
}

/// A program of a client: what its file is called and how it is run.
pub struct Client {
    pub name: &'static str,
    file: &'static str,
    program: Vec<String>,
    code: String,
}

impl Client {
    pub fn new(name: &'static str, file: &'static str, program: &[&str], code: String) -> Self {
        let program = program.iter().map(|word| (*word).to_owned()).collect();
        Self { name, file, program, code }
    }

    /// Puts the program and its photo into a folder of their own.
    pub fn prepare(&self, gateway: SocketAddr, photo: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let code = self.code.replace(ADDRESS, &format!("http://{gateway}"));
        std::fs::write(folder.path().join(self.file), code).expect("written");
        std::fs::write(folder.path().join("photo.png"), photo).expect("written");
        let modules = Path::new(CLIENTS).join("node_modules");
        std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).expect("a link");
        folder
    }

    pub fn command(&self, folder: &Path, key: &str) -> Command {
        let mut command = Command::new(&self.program[0]);
        let binary =
            Path::new(env!("CARGO_BIN_EXE_tcb-upload-gateway")).parent().expect("a folder");
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
        command
            .args(&self.program[1..])
            .current_dir(folder)
            .env("PATH", path)
            .env("GATEWAY_KEY", key)
            .env("TICKET_SECRET", SECRET)
            // Go keeps what it compiles.
            .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
        command
    }

    pub fn run(&self, world: &World, photo: &[u8], key: &str) -> Output {
        self.run_at(world.gateway.address, photo, key)
    }

    pub fn run_at(&self, gateway: SocketAddr, photo: &[u8], key: &str) -> Output {
        let folder = self.prepare(gateway, photo);
        let output = self.command(folder.path(), key).output();
        output.unwrap_or_else(|error| panic!("{}: {error}; see tests/clients/install", self.name))
    }
}

const OKHTTP: &str = "/usr/share/java/okhttp.jar:/usr/share/java/okio.jar";

fn clients() -> Vec<Client> {
    let venv = format!("{CLIENTS}/venv/bin/python");
    let (servers, apps) = (page("clients-server"), page("clients-mobile"));
    let (clients, apps) = (|summary| servers.code(summary), |summary| apps.code(summary));
    vec![
        Client::new("curl", "upload.sh", &["sh", "upload.sh"], clients("curl")),
        Client::new(
            "upload",
            "upload.sh",
            &["sh", "upload.sh"],
            clients("The gateway's own command"),
        ),
        Client::new("Node fetch", "upload.mjs", &["node", "upload.mjs"], clients("Node: fetch")),
        Client::new(
            "axios",
            "upload.mjs",
            &["node", "upload.mjs"],
            clients("Node: axios and form-data"),
        ),
        Client::new("requests", "upload.py", &[&venv, "upload.py"], clients("Python: requests")),
        Client::new("PHP curl", "upload.php", &["php", "upload.php"], clients("PHP")),
        Client::new(
            "java.net.http",
            "Upload.java",
            &["java", "Upload.java"],
            clients("Java: the JDK's client"),
        ),
        Client::new("Go", "upload.go", &["go", "run", "upload.go"], clients("Go")),
        Client::new(
            "wx.uploadFile",
            "upload.mjs",
            &["node", "upload.mjs"],
            of_ours("wx.js") + &apps("Mini program: wx.uploadFile"),
        ),
        // Documented alike.
        Client::new(
            "uni.uploadFile",
            "upload.mjs",
            &["node", "upload.mjs"],
            of_ours("wx.js") + "const uni = wx;\n" + &apps("uni-app: uni.uploadFile"),
        ),
        Client::new(
            "OkHttp",
            "Upload.java",
            &["java", "-cp", OKHTTP, "Upload.java"],
            apps("Android: OkHttp"),
        ),
        Client::new(
            "OkHttp, as Retrofit",
            "Retrofit.java",
            &["java", "-cp", OKHTTP, "Retrofit.java"],
            of_ours("Retrofit.java"),
        ),
        Client::new(
            ".NET HttpClient",
            "Upload.cs",
            &["sh", "-c", "mcs -r:System.Net.Http Upload.cs && mono Upload.exe"],
            of_ours("HttpClient.cs"),
        ),
        Client::new("got", "got.mjs", &["node", "got.mjs"], of_ours("got.js")),
        Client::new(
            "Ruby multipart-post",
            "upload.rb",
            &["ruby", "upload.rb"],
            of_ours("multipart_post.rb"),
        ),
        Client::new(
            "requests-toolbelt",
            "toolbelt.py",
            &[&venv, "toolbelt.py"],
            of_ours("toolbelt.py"),
        ),
        Client::new("urllib3", "urllib3.py", &[&venv, "urllib3.py"], of_ours("urllib3.py")),
        Client::new("aiohttp", "aiohttp.py", &[&venv, "aiohttp.py"], of_ours("aiohttp.py")),
        Client::new(
            "aiohttp, chunked",
            "aiohttp.py",
            &[&venv, "aiohttp.py", "chunked"],
            of_ours("aiohttp.py"),
        ),
        Client::new("httpx", "httpx.py", &[&venv, "httpx.py"], of_ours("httpx.py")),
        Client::new(
            "httpx, chunked",
            "httpx.py",
            &[&venv, "httpx.py", "chunked"],
            of_ours("httpx.py"),
        ),
        Client::new("Go, chunked", "pipe.go", &["go", "run", "pipe.go"], of_ours("pipe.go")),
    ]
}

pub fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// How files are sent to COS. The table has columns for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    Form,
    /// Only what sends a file runs: the other cases are the same.
    Api,
}

impl Road {
    fn start(self, max_file_size: &str) -> World {
        let setup = Setup::new()
            .set("upload.max_file_size", max_file_size)
            .set("upload.path_template", "{dir}/{uuid}{ext}");
        match self {
            Self::Form => setup.set("cos.via", "form").start(),
            // Smaller than the file, which is therefore sent in parts while it arrives.
            Self::Api => setup.by_api().set("cos.api.single_put", "1MiB").start(),
        }
    }

    /// The sandbox's stage of the requests that carry the file.
    fn stage(self) -> &'static str {
        match self {
            Self::Form => "cos",
            Self::Api => "part",
        }
    }
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn every_client_of_the_guides_uploads_and_understands_a_refusal() {
    let clients = clients();
    // Side by side: most of the time, one of them waits for a compiler or a virtual machine.
    let [forms, api] = std::thread::scope(|scope| {
        let running = [Road::Form, Road::Api].map(|road| {
            let clients = &clients;
            scope.spawn(move || uploads_and_refusals(clients, road))
        });
        running.map(|road| road.join().expect("every client passes"))
    });
    let mut table = String::from(
        "| client | with a ticket | with a key | server error | too large | cancelled | wrong key | \
         with a key, API | server error, API | too large, API | cancelled, API |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (client, (form, api)) in clients.iter().zip(forms.iter().zip(&api)) {
        let (form, api) = (form.as_secs_f64(), api.as_secs_f64());
        let name = client.name;
        table.push_str(&format!(
            "| {name} | - | ok {form:.1} s | ok | ok | ok | ok | ok {api:.1} s | ok | ok | ok |\n"
        ));
    }
    println!("{table}");
    // The browser's clients are put below it.
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients.md"), table)
        .expect("written");
}

/// Runs each client on one road; gives how long its upload took.
fn uploads_and_refusals(clients: &[Client], road: Road) -> Vec<Duration> {
    let world = road.start(LIMIT);
    let without_limit = road.start("1GiB");
    let large = noise(CANCELLED, 3);
    let mut times = Vec::new();
    for client in clients {
        let name = format!("{}, {road:?}", client.name);
        let began = Instant::now();
        let photo = noise(SIZE, 1);
        let output = client.run(&world, &photo, KEY);
        assert!(output.status.success(), "{name}: {}", said(&output));
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let (bytes, kind) = world.download(stdout.trim());
        assert!(bytes == photo, "{name}");
        assert_eq!(kind, "image/png", "{name}");
        assert!(stdout.contains("/v1/files/reports/"), "{name}: {stdout}");
        assert!(stdout.trim_end().ends_with(".png"), "{name}: {stdout}");
        times.push(began.elapsed());

        world.control("POST", "reset", "");
        // Refused while it is still being sent: the client must hear why.
        let output = client.run(&world, &noise(TOO_LARGE, 2), KEY);
        assert!(!output.status.success(), "{name}");
        assert!(said(&output).contains("file_too_large"), "{name}: {}", said(&output));

        world.faults(&serde_json::json!([
            {"stage": road.stage(), "fault": "early", "status": 403, "code": "AccessDenied", "after": 100_000,
             "then": "reset"}
        ]));
        let output = client.run(&world, &photo, KEY);
        assert!(said(&output).contains("cos_refused"), "{name}: {}", said(&output));
        world.control("DELETE", "faults", "");

        if road == Road::Form {
            let output = client.run(&world, &photo, "wrong");
            assert!(said(&output).contains("unauthenticated"), "{name}: {}", said(&output));
        }

        cancelled(client, &without_limit, &large);
        for world in [&world, &without_limit] {
            world.assert_nothing_stored();
            wait_until("parts of it are deleted", || world.multipart_uploads().is_empty());
        }
        println!("{name}: {:.1} s", began.elapsed().as_secs_f64());
    }
    times
}

/// A gateway that has ended, behind a proxy that says so in HTML and then without: no client takes that for the gateway's
/// JSON, and each says what happened.
#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn every_client_of_the_guides_understands_a_proxy_s_error_and_no_answer_at_all() {
    let mut world = Setup::new().start();
    let [_, text] = texts();
    let proxy = Proxy::start(&world, text);
    let gateway = world.gateway.address;
    world.gateway.signal("KILL");
    world.gateway.ended();
    let photo = noise(100_000, 4);
    // What programs say that read a response which is not there.
    let misread = [
        "undefined: undefined",
        "Cannot read properties",
        "SyntaxError",
        "Unexpected token",
        "JSONDecodeError",
        "NullPointer",
        "array offset on",
    ];
    for client in clients() {
        let name = client.name;
        for (address, words) in [
            (proxy.address, &["502"][..]),
            (gateway, &["connect", "ECONNREFUSED", "Connection refused", "uploadFile:fail"]),
        ] {
            let output = client.run_at(address, &photo, KEY);
            let said = said(&output);
            println!(
                "{name}: {}",
                said.lines().find(|line| line.contains(words[0])).unwrap_or(&said)
            );
            assert!(!output.status.success(), "{name}: {said}");
            assert!(words.iter().any(|word| said.contains(word)), "{name}: {said}");
            assert!(!misread.iter().any(|word| said.contains(word)), "{name}: {said}");
        }
    }
    world.assert_nothing_stored();
}

/// The client is killed in the middle of its file.
fn cancelled(client: &Client, world: &World, photo: &[u8]) {
    world.control("POST", "reset", "");
    let (half_way, reached) = mpsc::channel();
    let killed = Arc::new((Mutex::new(false), Condvar::new()));
    let proxy = stopping_proxy(world.gateway.address, half_way, killed.clone());
    let folder = client.prepare(proxy, photo);
    let mut command = client.command(folder.path(), KEY);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    // What it starts (a shell's curl, what Go has compiled) goes with it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().expect("it starts");
    reached.recv_timeout(Duration::from_secs(60)).expect("it sends its file");
    wait_until("the upload has begun", || {
        value(&metrics(world), "gateway_uploads_in_flight") == 1.0
    });
    let group = format!("-{}", child.id());
    assert!(
        Command::new("kill").args(["-s", "KILL", "--", &group]).status().expect("kill").success()
    );
    child.wait().expect("it ends");
    *killed.0.lock().expect("the state") = true;
    killed.1.notify_all();
    wait_until("it is given up", || value(&metrics(world), "gateway_uploads_in_flight") == 0.0);
}

/// Before the gateway: says when it has passed on the beginning of a file, and goes on once the client is killed.
fn stopping_proxy(
    gateway: SocketAddr,
    half_way: mpsc::Sender<()>,
    killed: Arc<(Mutex<bool>, Condvar)>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (half_way, killed) = (half_way.clone(), killed.clone());
            std::thread::spawn(move || -> io::Result<()> {
                let upstream = TcpStream::connect(gateway)?;
                let (mut responses, mut to_client) = (upstream.try_clone()?, client.try_clone()?);
                std::thread::spawn(move || io::copy(&mut responses, &mut to_client));
                if io::copy(&mut (&client).take(BEGINNING), &mut &upstream)? == BEGINNING {
                    // The test may have failed.
                    let _ = half_way.send(());
                    let guard = killed.0.lock().expect("the state");
                    drop(killed.1.wait_while(guard, |killed| !*killed));
                }
                io::copy(&mut &client, &mut &upstream)?;
                upstream.shutdown(Shutdown::Write)
            });
        }
    });
    address
}

const SECRET: &str = "a-secret-shared-with-the-gateway-0123";

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn every_language_s_ticket_says_the_same() {
    let world = Setup::new().set("auth.jwt.algorithm", "HS256").set("auth.jwt.key", SECRET).start();
    for (name, file, program) in [
        ("Node", "ticket.mjs", &["node", "ticket.mjs"][..]),
        ("PHP", "ticket.php", &["php", "ticket.php"]),
        ("Java", "Ticket.java", &["java", "Ticket.java"]),
        ("Go", "ticket.go", &["go", "run", "ticket.go"]),
    ] {
        let client = Client::new(name, file, program, page("tickets").code(name));
        let output = client.run(&world, b"", KEY);
        assert!(output.status.success(), "{name}: {}", said(&output));
        let ticket = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let (signed, signature) = ticket.rsplit_once('.').expect("three parts");
        assert_eq!(signature, signature_of(signed), "{name}");
        let (head, claims) = signed.split_once('.').expect("three parts");
        let json = |part: &str| -> Value { serde_json::from_slice(&decode(part)).expect("JSON") };
        assert_eq!(json(head), serde_json::json!({"alg": "HS256", "typ": "JWT"}), "{name}");
        let mut claims = json(claims);
        let expires = claims["exp"].take().as_i64().expect("a number");
        let left = expires - jiff::Timestamp::now().as_second();
        assert!((590..=600).contains(&left), "{name}: {left}");
        let expected = serde_json::json!({
            "sub": "user-17", "exp": null, "can": ["upload"], "prefix": "users/user-17/",
            "max_file_size": 20 << 20,
        });
        assert_eq!(claims, expected, "{name}");

        // As a key, and in the address.
        let form = Form::new().file("file", "x.txt", "text/plain", b"x");
        let kind = form.content_type();
        let bearer = format!("Bearer {ticket}");
        for (address, key) in [
            ("/v1/files".to_owned(), &[("authorization", bearer.as_str())][..]),
            (format!("/v1/files?ticket={ticket}"), &[]),
        ] {
            let mut client = world.client();
            let headers = [key, &[("content-type", kind.as_str())]].concat();
            client.send_request("POST", &address, &headers, &form.bytes());
            let path = client.response().stored()["path"].as_str().expect("a path").to_owned();
            assert!(path.starts_with("users/user-17/"), "{name}: {path}");
            // It may upload, and no more.
            client.send_request("DELETE", &address, key, path.as_bytes());
            client.response().problem(403, "not_allowed");
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn decode(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut pending) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter).expect("base64url");
        bits = bits << 6 | value as u32;
        pending += 6;
        if pending >= 8 {
            pending -= 8;
            bytes.push((bits >> pending) as u8);
        }
    }
    bytes
}

/// HMAC-SHA256 by another hand: openssl's.
fn signature_of(signed: &str) -> String {
    use std::io::Write;
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", SECRET, "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl");
    openssl.stdin.take().expect("its input").write_all(signed.as_bytes()).expect("written");
    let output = openssl.wait_with_output().expect("it ends");
    let mut text = String::new();
    for chunk in output.stdout.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63].into());
        }
    }
    text
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn a_back_end_that_speaks_tcb_changes_its_address_and_its_token() {
    let guide = page("migrate");
    let program = &["node", "moved.mjs"];
    let client = Client::new("tcb", "moved.mjs", program, guide.code("Node"));
    let photo = noise(SIZE, 3);

    // As the production profile has it: the refusal names what the guide says to set.
    let world = Setup::new().set("upload.client_paths", false).start();
    let output = client.run(&world, &photo, KEY);
    assert!(!output.status.success());
    assert!(said(&output).contains("-501007"), "{}", said(&output));
    assert!(said(&output).contains("client_paths"), "{}", said(&output));
    world.assert_nothing_stored();

    let (name, value) = setting(&guide.open_blocks("sh")[0]);
    let world = Setup::new().set("upload.client_paths", false).variable(&name, value).start();
    let output = client.run(&world, &photo, KEY);
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("http"), "{}", said(&output));
    assert!(world.object("moved/photo.png") == photo);
}

/// The one variable that a block of shell exports, and its value.
fn setting(block: &str) -> (String, String) {
    let export = block.strip_prefix("export ").expect("a variable").trim_end();
    let (name, value) = export.split_once('=').expect("a value");
    (name.to_owned(), value.to_owned())
}
