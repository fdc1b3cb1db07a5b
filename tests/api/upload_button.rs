//! The page "An upload button, end to end": each back end as it stands there, with a gateway that tells it of files; and
//! the gateway's events, verified by the official libraries of Standard Webhooks.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Form, Response, Setup, World, command as command_of, wait_until};
use crate::hooks::{OLD_SECRET, Receiver, SECRET};
use crate::pages::{Page, page};
use crate::readme::{CLIENTS, of_ours, said};
use crate::settings::free_port;
use crate::tickets::now;

/// With the packages of npm, `better-sqlite3` among them.
const BROWSER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");
const LANGUAGES: [&str; 5] = ["Node", "PHP", "Java", "Go", "Python"];
const PAGE: &str = "The page (<code>index.html</code>)";
/// What the programs of the guide listen on.
const GUIDE_ADDRESS: &str = "127.0.0.1:3000";
/// `go run` compiles SQLite the first time.
const START_TIMEOUT: Duration = Duration::from_secs(600);
const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\nwhat follows is of no interest";

/// The settings of the guide's `gateway.toml`.
fn settings(guide: &Page) -> Vec<(String, String)> {
    let (mut section, mut settings) = (String::new(), Vec::new());
    for line in guide.open_blocks("toml").concat().lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((name, value)) = line.split_once(" = ") {
            let value = value.trim_matches(['[', ']']).replace(['"', ' '], "");
            settings.push((format!("{section}.{name}"), value));
        }
    }
    settings
}

/// A variable that the guide's commands export.
fn exported(guide: &Page, name: &str) -> String {
    let shell = guide.open_blocks("sh").concat();
    let line = shell.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
    line.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

/// The file and the command of a language, by the guide's table.
fn row(guide: &Page, language: &str) -> (String, String) {
    let start = format!("| {language} | ");
    let row = guide.text.lines().find_map(|line| line.strip_prefix(&start)).expect("a row");
    let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
    let code = |cell: &str| cell.trim_matches('`').to_owned();
    (code(cells[0]), code(cells[2]))
}

/// A running back end.
struct BackEnd {
    language: &'static str,
    child: Child,
    address: SocketAddr,
    log: std::path::PathBuf,
    folder: tempfile::TempDir,
}

impl BackEnd {
    /// Starts the program in a folder with the page, and waits until it listens.
    fn start(
        language: &'static str,
        gateway: SocketAddr,
        address: SocketAddr,
        secret: &str,
    ) -> Self {
        let guide = page("upload-button");
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let (file, command) = row(&guide, language);
        std::fs::write(place(&file), guide.code(language)).expect("written");
        std::fs::write(place("index.html"), guide.code(PAGE)).expect("written");
        for (name, target) in [
            ("node_modules", format!("{BROWSER}/node_modules")),
            ("sqlite-jdbc.jar", "/usr/share/java/sqlite-jdbc.jar".to_owned()),
            ("gson.jar", "/usr/share/java/gson.jar".to_owned()),
        ] {
            std::os::unix::fs::symlink(target, place(name)).expect("a link");
        }
        let log = place("log");
        let output = std::fs::File::create(&log).expect("a log");
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("sh")
            .args(["-c", &command.replace(GUIDE_ADDRESS, &address.to_string())])
            .current_dir(folder.path())
            .env("PATH", format!("{CLIENTS}/venv/bin:{path}"))
            .env("GATEWAY_URL", format!("http://{gateway}"))
            .env("GATEWAY_KEY", exported(&guide, "GATEWAY_KEY"))
            .env("HOOK_SECRET", secret)
            .env("PORT", address.port().to_string())
            // Debian's packages in place of what `go get` downloads; Go caches what it compiles.
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"))
            .stdout(output.try_clone().expect("a log"))
            .stderr(output)
            // What it starts (the program that Go has compiled) ends with it.
            .process_group(0)
            .spawn()
            .expect("it starts");
        let mut back_end = Self { language, child, address, log, folder };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            let exited = back_end.child.try_wait().expect("its state");
            assert!(exited.is_none(), "{language}, see tests/clients/install: {}", back_end.log());
            assert!(began.elapsed() < START_TIMEOUT, "{language}: {}", back_end.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        back_end
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    /// A request by curl, which understands every server; gives the status and the body.
    fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        let mut command = Command::new("curl");
        command.args(["-sS", "-X", method, "-w", "\n%{http_code}", "--data-binary", "@-"]);
        for (name, value) in headers {
            command.args(["-H", &format!("{name}: {value}")]);
        }
        command.arg(format!("http://{}{path}", self.address));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("curl");
        child.stdin.take().expect("its input").write_all(body.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.call("GET", path, &[], "")
    }

    fn delete(&self, id: &Value) -> u16 {
        self.call("DELETE", &format!("/files/{id}"), &[], "").0
    }

    fn list(&self) -> Vec<Value> {
        let (status, text) = self.get("/files");
        assert_eq!(status, 200, "{}: {text} {}", self.language, self.log());
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}: {text}", self.language))
    }

    /// The rows, once there are so many.
    fn listed(&self, count: usize) -> Vec<Value> {
        wait_until(&format!("{} lists {count}", self.language), || self.list().len() == count);
        self.list()
    }

    fn ticket(&self) -> String {
        let (status, text) = self.call("POST", "/ticket", &[], "");
        assert_eq!(status, 200, "{}: {text} {}", self.language, self.log());
        let minted: Value = serde_json::from_str(&text).expect("JSON");
        minted["ticket"].as_str().expect("a ticket").to_owned()
    }

    /// Sends an event; gives the status.
    fn event(&self, event: &Event) -> u16 {
        let headers = [
            ("Content-Type", "application/json"),
            ("webhook-id", event.id.as_str()),
            ("webhook-timestamp", event.timestamp.as_str()),
            ("webhook-signature", event.signature.as_str()),
        ];
        let headers: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        self.call("POST", "/events", &headers, &event.body).0
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).status();
        let _ = self.child.wait();
        // What the shell has started may end a little later than the shell.
        while !std::thread::panicking() && TcpStream::connect(self.address).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        if std::thread::panicking() {
            eprintln!("{} in {}: {}", self.language, self.folder.path().display(), self.log());
        }
    }
}

/// An event as it is sent.
#[derive(Clone, Debug)]
struct Event {
    id: String,
    timestamp: String,
    signature: String,
    body: String,
}

impl Event {
    /// A signed event of a file of user 17; `secrets` are as in the settings.
    fn stored(file: &str, timestamp: u64, secrets: &[&str]) -> Self {
        let data = json!({
            "file_id": format!("cloud://env.bucket/users/17/{file}"), "path": format!("users/17/{file}"),
            "name": file, "size": 1, "sub": "17", "url": format!("https://files.example.com/{file}"),
        });
        let body = json!({"type": "file.stored", "data": data}).to_string();
        let (id, timestamp) = (format!("msg_{file}"), timestamp.to_string());
        let signatures: Vec<_> =
            secrets.iter().map(|secret| signature(secret, &id, &timestamp, &body)).collect();
        Self { id, timestamp, signature: signatures.join(" "), body }
    }

    /// Events that a receiver with this secret must refuse, and what is wrong with each.
    fn refused(secret: &str) -> Vec<(&'static str, Self)> {
        let of = |timestamp, secrets: &[&str]| Self::stored("refused.png", timestamp, secrets);
        let right = of(now(), &[secret]);
        let key = "whsec_YW5vdGhlciBzZWNyZXQsIG9mIDMyIGJ5dGVzIGFzIHdlbGw=";
        let changed = |change: fn(&mut Self)| {
            let mut event = right.clone();
            change(&mut event);
            event
        };
        vec![
            ("forged", of(now(), &[key])),
            ("altered", changed(|event| event.body = event.body.replace("\"17\"", "\"18\""))),
            ("with another id", changed(|event| event.id.push('2'))),
            ("replayed", of(now() - 301, &[secret])),
            ("from the future", of(now() + 330, &[secret])),
            ("replayed with a new time", {
                let mut event = of(now() - 600, &[secret]);
                event.timestamp = now().to_string();
                event
            }),
            ("of another version", changed(|event| event.signature.replace_range(..2, "v2"))),
            ("without a signature", changed(|event| event.signature.clear())),
            ("without an id", changed(|event| event.id.clear())),
            ("without a time", changed(|event| event.timestamp.clear())),
            ("at no time", changed(|event| event.timestamp = "soon".to_owned())),
            ("with a short signature", changed(|event| event.signature.truncate(20))),
            ("with something else", changed(|event| event.signature = "v1".to_owned())),
        ]
    }
}

/// By the text of the standard.
fn signature(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
    let key = STANDARD.decode(&secret["whsec_".len()..]).expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// The gateway's settings name the back end's address, and the other way round.
fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// A gateway with the guide's settings, whose back end is at `address`.
fn setup(address: SocketAddr) -> Setup {
    let settings = settings(&page("upload-button"));
    assert_eq!(settings.len(), 10, "{settings:?}");
    settings.iter().fold(Setup::new(), |setup, (name, value)| {
        setup.set(name, value.replace(GUIDE_ADDRESS, &address.to_string()))
    })
}

fn secret() -> String {
    exported(&page("upload-button"), "HOOK_SECRET")
}

fn upload(world: &World, ticket: &str, name: &str, kind: &str, content: &[u8]) -> Response {
    let form = Form::new().file("file", name, kind, content);
    let (kind, bearer) = (form.content_type(), format!("Bearer {ticket}"));
    let mut client = world.client();
    let headers = [("authorization", bearer.as_str()), ("content-type", kind.as_str())];
    client.send_request("POST", "/v1/files", &headers, &form.bytes());
    client.response()
}

fn keys(world: &World) -> Vec<String> {
    let key = |object: &Value| object["key"].as_str().expect("a key").to_owned();
    world.objects().iter().map(key).collect()
}

/// Side by side: most of the time, one of them waits for a compiler or a virtual machine.
fn in_each_language(check: impl Fn(&'static str) + Sync) {
    std::thread::scope(|scope| {
        let check = &check;
        let running = LANGUAGES.map(|language| (language, scope.spawn(move || check(language))));
        let results = running.map(|(language, thread)| (language, thread.join().is_ok()));
        let failed: Vec<_> = results.into_iter().filter(|(_, passed)| !passed).collect();
        assert!(failed.is_empty(), "{failed:?}");
    });
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn a_file_gets_a_row_of_its_user_and_both_are_deleted() {
    in_each_language(|language| {
        let address = free_address();
        let world = setup(address).start();
        let back_end = BackEnd::start(language, world.gateway.address, address, &secret());
        let (status, html) = back_end.get("/");
        assert!(status == 200 && html.contains("<progress"), "{language}: {status} {html}");
        assert_eq!(back_end.list(), Vec::<Value>::new(), "{language}");

        let ticket = back_end.ticket();
        let stored = upload(&world, &ticket, "a ü.png", "image/png", PICTURE).stored();
        let row = back_end.listed(1).remove(0);
        assert_eq!((&row["url"], &row["size"]), (&stored["url"], &stored["size"]), "{language}");
        assert_eq!(row["name"], stored["name"], "{language}");
        let (bytes, kind) = world.download(row["url"].as_str().expect("a URL"));
        assert_eq!((bytes.as_slice(), kind.as_str()), (PICTURE, "image/png"), "{language}");
        // What the ticket does not allow.
        upload(&world, &ticket, "a.txt", "text/plain", b"x").problem(415, "type_not_allowed");
        let form =
            Form::new().field("path", "users/17/a.png").file("f", "a.png", "image/png", PICTURE);
        let target = format!("/v1/files?ticket={ticket}");
        let kind = form.content_type();
        let mut client = world.client();
        client.send_request("POST", &target, &[("content-type", &kind)], &form.bytes());
        client.response().problem(403, "path_not_allowed");

        // A file of another user has a row, number 2, and this user neither sees nor deletes it.
        let claims = json!({"sub": "18", "prefix": "users/18"});
        let theirs = world.call("POST", "/v1/tickets", &claims).json()["ticket"].clone();
        let theirs = theirs.as_str().expect("a ticket");
        let other = upload(&world, theirs, "b.png", "image/png", PICTURE).stored();
        assert_eq!(upload(&world, &ticket, "c.png", "image/png", PICTURE).status, 201);
        let rows = back_end.listed(2);
        assert_eq!((&rows[0]["id"], &rows[1]["id"]), (&json!(3), &row["id"]), "{language}");
        assert_eq!(back_end.delete(&json!(2)), 404, "{language}");
        assert!(keys(&world).contains(&other["path"].as_str().expect("a path").to_owned()));
        for id in ["4", "0", "-1", "x", "1%20OR%201", "99999999999999999999"] {
            let path = format!("/files/{id}");
            assert_eq!(back_end.call("DELETE", &path, &[], "").0, 404, "{language}: {id}");
        }
        assert_eq!(keys(&world).len(), 3, "{language}");

        // The gateway fails: both are there, and deleting again succeeds.
        world.faults(
            &json!([{"stage": "delete", "fault": "errcode", "errcode": -1, "errmsg": "busy"}]),
        );
        assert_eq!(back_end.delete(&row["id"]), 502, "{language}: {}", back_end.log());
        assert_eq!((back_end.list().len(), keys(&world).len()), (2, 3), "{language}");
        world.control("DELETE", "faults", "");
        assert_eq!(back_end.delete(&row["id"]), 204, "{language}: {}", back_end.log());
        assert_eq!(back_end.list(), rows[..1], "{language}");
        assert!(!keys(&world).contains(&stored["path"].as_str().expect("a path").to_owned()));
        assert_eq!(back_end.delete(&row["id"]), 404, "{language}");

        // A file that is deleted by another way loses its row by the gateway's event.
        let path = rows[0]["url"].as_str().expect("a URL");
        let path = &path[path.find("/v1/").expect("a path")..];
        assert_eq!(world.call("DELETE", path, &Value::Null).status, 204);
        back_end.listed(0);
    });
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn only_events_with_the_gateway_s_signature_become_rows() {
    in_each_language(|language| {
        let address = free_address();
        let world = setup(address).start();
        let secret = secret();
        let back_end = BackEnd::start(language, world.gateway.address, address, &secret);
        for (what, event) in Event::refused(&secret) {
            assert_eq!(back_end.event(&event), 401, "{language}: {what}: {}", back_end.log());
        }
        assert_eq!(back_end.list(), Vec::<Value>::new(), "{language}");

        let event = Event::stored("a.png", now() - 240, &[&secret]);
        // The gateway has several secrets while one is replaced.
        let two = Event::stored("b.png", now(), &[OLD_SECRET, &secret]);
        for (event, rows) in [(&event, 1), (&event, 1), (&two, 2)] {
            assert_eq!(back_end.event(event), 204, "{language}: {}", back_end.log());
            assert_eq!(back_end.list().len(), rows, "{language}");
        }
        let row = back_end.list().remove(1);
        assert_eq!((&row["name"], &row["id"]), (&json!("a.png"), &json!(1)), "{language}");
        // A late repeat does not list a deleted file again, nor does one that overtook it.
        for (stored, rows) in [(&event, 1), (&Event::stored("d.png", now(), &[&secret]), 1)] {
            let body = stored.body.replace("file.stored", "file.deleted");
            let id = format!("{}-deleted", stored.id);
            let signature = signature(&secret, &id, &stored.timestamp, &body);
            let deleted = Event { id, body, signature, timestamp: stored.timestamp.clone() };
            for event in [&deleted, stored, &deleted] {
                assert_eq!(back_end.event(event), 204, "{language}: {}", back_end.log());
            }
            assert_eq!(back_end.list().len(), rows, "{language}");
        }
        // A file that was uploaded with a key is of no user.
        let mut event = Event::stored("c.png", now(), &[]);
        event.body = event.body.replace("\"sub\":\"17\"", "\"sub\":null");
        event.signature = signature(&secret, &event.id, &event.timestamp, &event.body);
        assert_eq!(back_end.event(&event), 204, "{language}: {}", back_end.log());
        assert_eq!(back_end.list().len(), 1, "{language}");
    });
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn a_back_end_that_is_down_or_has_the_wrong_secret_leaves_no_orphan() {
    in_each_language(|language| {
        let address = free_address();
        let world = setup(address).set("hooks.timeout", "1s").start();
        // Once before, since a compiler may take longer than the pauses between the attempts should.
        drop(BackEnd::start(language, world.gateway.address, address, &secret()));
        // The back end is down: the ticket is minted with its key.
        let claims = json!({"sub": "17", "can": ["upload"], "prefix": "users/17"});
        let ticket = world.call("POST", "/v1/tickets", &claims).json()["ticket"].clone();
        let ticket = ticket.as_str().expect("a ticket");
        let stored = upload(&world, ticket, "a.png", "image/png", PICTURE).stored();
        assert_eq!(stored["hook"], Value::Null);
        world.gateway.log_with("a hook is delivered later");
        let back_end = BackEnd::start(language, world.gateway.address, address, &secret());
        let row = back_end.listed(1).remove(0);
        assert_eq!(row["url"], stored["url"], "{language}");
        drop(back_end);

        let back_end = BackEnd::start(language, world.gateway.address, address, SECRET);
        let ticket = back_end.ticket();
        let refused = upload(&world, &ticket, "b.png", "image/png", PICTURE);
        refused.problem(422, "refused_by_hook");
        assert_eq!(keys(&world).len(), 1, "{language}");
        assert_eq!(back_end.list(), Vec::<Value>::new(), "{language}");
    });
}

#[test]
fn the_commands_of_the_page_are_those_of_its_table_and_its_settings() {
    let guide = page("upload-button");
    let shell = guide.open_blocks("sh").concat();
    let lines: Vec<_> = shell.lines().collect();
    let node = guide.text.lines().find(|line| line.starts_with("| Node | ")).expect("a row");
    assert!(node.contains(&format!("`{}`", lines[0])), "{}", lines[0]);
    assert_eq!(lines[1], "tcb-upload-gateway --config gateway.toml &");
    let (_, command) = row(&guide, "Node");
    assert_eq!(lines.last(), Some(&command.as_str()));

    // The gateway in the sandbox accepts the file as it stands, and in it the key and the secret of the commands.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("gateway.toml"), guide.open_blocks("toml").concat())
        .expect("written");
    let check = ["--check", "--config", "gateway.toml"];
    let output = command_of(&check, &BTreeMap::new(), folder.path()).output().expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let address = exported(&guide, "GATEWAY_URL");
    let bind = format!("server.bind = \"{}\"", address.trim_start_matches("http://"));
    for line in [bind.as_str(), "auth.anonymous = false", "hooks.wait = true"] {
        assert!(printed.contains(line), "no {line} in\n{printed}");
    }
    assert!(guide.code(PAGE).contains(&format!("\"{address}\"")));
    let settings: BTreeMap<_, _> = settings(&guide).into_iter().collect();
    let digest = hex::encode(Sha256::digest(exported(&guide, "GATEWAY_KEY")));
    assert_eq!(settings["auth.keys.backend.sha256"], digest);
    assert_eq!(settings["hooks.secret"], secret());
}

/// Verifies events by the libraries: whether each is accepted, by each library with each secret.
fn verified(cases: &Value) -> Vec<Vec<bool>> {
    let folder = tempfile::tempdir().expect("a folder");
    let modules = Path::new(BROWSER).join("node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).expect("a link");
    std::fs::write(folder.path().join("cases.json"), cases.to_string()).expect("written");
    let python = format!("{CLIENTS}/venv/bin/python");
    let programs =
        [("node", "verify.mjs", "webhooks.mjs"), (python.as_str(), "verify.py", "webhooks.py")];
    let results = programs.map(|(program, file, ours)| {
        std::fs::write(folder.path().join(file), of_ours(ours)).expect("written");
        let output = Command::new(program).arg(file).current_dir(folder.path()).output();
        let output = output.expect("tests/clients/install brings it");
        assert!(output.status.success(), "{program}: {}", said(&output));
        serde_json::from_slice::<Vec<bool>>(&output.stdout).expect("JSON")
    });
    results.into()
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn the_official_libraries_verify_the_gateway_s_events() {
    for secrets in [vec![SECRET], vec![SECRET, OLD_SECRET]] {
        let receiver = Receiver::start();
        let world = receiver.setup().set("hooks.secret", secrets.join(",")).start();
        // With characters of several bytes, and some that JSON escapes.
        let form = Form::new().field("note", "\"\\").file("f", "图.txt", "text/plain", b"x");
        assert_eq!(world.post(&form).status, 201);
        assert_eq!(world.call("DELETE", "/v1/files/a.txt", &Value::Null).status, 204);
        let events = receiver.wait_for(2);
        let (mut cases, mut expected) = (Vec::new(), Vec::new());
        let mut case = |secret: &str, event: &Event, accepted: bool| {
            cases.push(json!({
                "secret": secret, "body": event.body, "headers": {
                    "webhook-id": event.id, "webhook-timestamp": event.timestamp,
                    "webhook-signature": event.signature,
                },
            }));
            expected.push(accepted);
        };
        for received in &events {
            let event = Event {
                id: received.header("webhook-id").to_owned(),
                timestamp: received.header("webhook-timestamp").to_owned(),
                signature: received.header("webhook-signature").to_owned(),
                body: String::from_utf8(received.body.clone()).expect("UTF-8"),
            };
            assert_eq!(event.signature.split(' ').count(), secrets.len());
            for secret in [SECRET, OLD_SECRET] {
                case(secret, &event, secrets.contains(&secret));
                let altered = Event { body: event.body.replace("txt", "exe"), ..event.clone() };
                assert_ne!(altered.body, event.body);
                case(secret, &altered, false);
            }
            case("whsec_YW5vdGhlciBzZWNyZXQsIG9mIDMyIGJ5dGVzIGFzIHdlbGw=", &event, false);
        }
        // Signed as the gateway signs, at another time or by another secret.
        for secret in &secrets {
            case(secret, &Event::stored("a.png", now(), &secrets), true);
            case(secret, &Event::stored("a.png", now() - 310, &secrets), false);
            for (_, event) in Event::refused(secret) {
                case(secret, &event, false);
            }
        }
        for results in verified(&Value::Array(cases.clone())) {
            assert_eq!(results, expected, "{cases:#?}");
        }
    }
}
