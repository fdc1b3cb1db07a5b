//! Hooks: what the owner's back end is sent, what clients are told, and what is stored.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::{Form, Gateway, Response, Setup, World, authorization, wait_until};
use crate::recorder::{Recorder, Request, response};
use crate::replicas::Redis;
use crate::tickets::{self, ticket};

/// Each with the base64 of its key.
pub const SECRET: &str = "whsec_dGhlLWtleS1vZi10aGUtaG9va3Mtb2YtdGhlLXRlc3Rz";
pub const OLD_SECRET: &str = "whsec_dGhlLW9sZC1rZXktb2YtdGhlLWhvb2tzLW9mLXRoZS10ZXN0cw==";

/// An event that the receiver got.
pub type Received = Request;

impl Received {
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn data(&self) -> Value {
        self.json()["data"].clone()
    }

    /// Whether one of the signatures is that of `secret`, by the text of the standard.
    pub fn is_signed_by(&self, secret: &str) -> bool {
        let key = STANDARD.decode(&secret["whsec_".len()..]).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
        mac.update(format!("{}.{}.", self.id(), self.header("webhook-timestamp")).as_bytes());
        mac.update(&self.body);
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.header("webhook-signature").split(' ').any(|signature| signature == expected)
    }
}

/// A back end that records what it is sent.
pub struct Receiver(Recorder);

impl Receiver {
    pub fn start() -> Self {
        Self(Recorder::start())
    }

    pub fn on(listener: TcpListener) -> Self {
        Self(Recorder::on(listener))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// From now on, responds with the text; `None`: with nothing, until the gateway closes the connection.
    pub fn respond(&self, respond: impl Fn(&Received) -> Option<String> + Send + Sync + 'static) {
        self.0.respond(move |event, stream| match respond(event) {
            Some(text) => stream.write_all(text.as_bytes()),
            None => {
                drop(stream.read(&mut [0; 64]));
                Err(ErrorKind::UnexpectedEof.into())
            }
        });
    }

    pub fn respond_with(&self, text: String) {
        self.respond(move |_| Some(text.clone()));
    }

    /// From now on, `write` writes the responses.
    pub fn write(&self, write: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static) {
        self.0.respond(move |_, stream| write(stream));
    }

    pub fn received(&self) -> Vec<Received> {
        self.0.received()
    }

    pub fn calls(&self) -> usize {
        self.0.calls()
    }

    /// The requests, once there are so many.
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        wait_until("the receiver has the events", || self.calls() >= count);
        self.received()
    }

    pub fn setup(&self) -> Setup {
        setup(self.address())
    }
}

pub fn setup(address: SocketAddr) -> Setup {
    Setup::new()
        .set("hooks.stored_url", format!("http://{address}/events"))
        .set("hooks.secret", SECRET)
}

pub fn form(path: &str, content: &[u8]) -> Form {
    Form::new().field("path", path).file("f", "photo 1.txt", "text/plain", content)
}

pub fn put(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut client = crate::harness::Client::connect(gateway.address);
    let headers: Vec<_> = [authorization()].into_iter().chain(headers.iter().copied()).collect();
    client.send_request("PUT", &format!("/v1/files/{path}"), &headers, b"content");
    client.response()
}

/// The value of `gateway_hooks_total` for these labels.
pub fn count(world: &World, event: &str, result: &str) -> u64 {
    let mut client = world.client();
    client.send_request("GET", "/metrics", &[], b"");
    let text = client.response().text();
    let name = format!("gateway_hooks_total{{event=\"{event}\",result=\"{result}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.map_or(0, |value| value.parse().expect("a number"))
}

#[test]
fn the_back_end_is_told_of_stored_and_deleted_files() {
    let receiver = Receiver::start();
    let address = receiver.address();
    let world = tickets::setup()
        .set("hooks.stored_url", format!("http://{address}/events/"))
        .set("hooks.secret", format!("{SECRET},{OLD_SECRET}"))
        .start();
    let stored = world.post(&form("a/x.txt", b"hello")).stored();
    assert_eq!(stored.get("hook"), None, "{stored}");
    let event = receiver.wait_for(1).remove(0);
    assert!(event.head.starts_with("POST /events HTTP/1.1\r\n"), "{}", event.head);
    assert_eq!(event.header("content-type"), "application/json");
    assert!(event.is_signed_by(SECRET) && event.is_signed_by(OLD_SECRET));
    assert!(!event.is_signed_by("whsec_AAAA"));
    let sent: u64 = event.header("webhook-timestamp").parse().expect("seconds");
    assert!(sent.abs_diff(tickets::now()) < 60);
    assert!(event.id().starts_with("msg_") && !event.id().contains('.'), "{}", event.id());
    let body = event.json();
    assert_eq!(body["type"], "file.stored");
    assert!(body["timestamp"].as_str().expect("a time").ends_with('Z'), "{body}");
    let data = &body["data"];
    for member in ["file_id", "path", "name", "size", "content_type", "crc64", "verified", "url"] {
        assert_eq!(data[member], stored[member], "{member}");
    }
    assert_eq!((&data["client"], &data["sub"]), (&json!("panel"), &Value::Null));
    assert_eq!(data["metadata"], json!({}));
    assert!(data["upload_id"].as_str().is_some_and(|id| id.len() > 30), "{data}");

    // A ticket's user; by each way to delete.
    let target = format!("/v1/files/b.txt?ticket={}", ticket(json!({"sub": "alice"})));
    assert_eq!(world.call_with("PUT", &target, &[], "x").status, 201);
    let event = receiver.wait_for(2).remove(1).data();
    assert_eq!((&event["client"], &event["sub"]), (&json!("alice"), &json!("alice")));
    assert_eq!(world.call("DELETE", "/v1/files/b.txt", &Value::Null).status, 204);
    let files = json!({"files": ["a/x.txt", "none.txt", "../bad"]});
    assert_eq!(world.call("POST", "/v1/delete", &files).status, 200);
    let headers = [authorization(), ("content-type", "text/plain")];
    assert_eq!(world.call_with("DELETE", "/v1/files", &headers, "c.txt").status, 204);
    let events = receiver.wait_for(6);
    let deleted: BTreeSet<_> = events[2..]
        .iter()
        .map(|event| {
            assert!(event.is_signed_by(SECRET));
            assert_eq!(event.json()["type"], "file.deleted");
            let data = event.data();
            assert!(data["file_id"].as_str().expect("an id").starts_with("cloud://"));
            assert_eq!(data["client"], "panel");
            data["path"].as_str().expect("a path").to_owned()
        })
        .collect();
    let expected = ["a/x.txt", "b.txt", "c.txt", "none.txt"];
    assert_eq!(deleted, expected.map(str::to_owned).into());
    let ids: BTreeSet<_> = events.iter().map(Received::id).collect();
    assert_eq!(ids.len(), 6);
    assert_eq!(count(&world, "file.stored", "delivered"), 2);
    assert_eq!(count(&world, "file.deleted", "delivered"), 4);
}

#[test]
fn nothing_is_told_of_what_is_not_stored_and_optional_data_can_be_left_out() {
    let receiver = Receiver::start();
    let world = receiver.setup().set("hooks.include", "sub").start();
    world.faults(&json!([{"stage": "cos", "fault": "status", "status": 403, "times": 1}]));
    assert_eq!(world.post(&form("x.txt", b"x")).status, 502);
    assert_eq!(world.post(&Form::new().field("x", "y")).status, 400);
    assert!(put(&world.gateway, "%2e%2e/x.txt", &[]).status >= 400);
    let form = Form::new().field("path", "../bad").file("f", "x.txt", "text/plain", b"x");
    assert!(world.post(&form).status >= 400);
    assert_eq!(world.call("DELETE", "/v1/files/%2e%2e/x", &Value::Null).status / 100, 4);
    assert_eq!(put(&world.gateway, "x.txt", &[]).status, 201);
    let data = receiver.wait_for(1).remove(0).data();
    assert_eq!(receiver.received().len(), 1);
    for absent in ["client", "metadata", "url"] {
        assert_eq!(data.get(absent), None, "{data}");
    }
    assert_eq!(data.get("sub"), Some(&Value::Null));
}

#[test]
fn the_back_ends_response_is_part_of_the_clients_or_all_of_it() {
    let receiver = Receiver::start();
    receiver.respond(|event| {
        let path = event.data()["path"].clone();
        Some(response("201 Created", &json!({"row": 7, "path": path}).to_string()))
    });
    let world = receiver.setup().set("hooks.wait", "true").start();
    let response = world.post(&form("x.txt", b"x"));
    assert_eq!(response.stored()["hook"], json!({"row": 7, "path": "x.txt"}));
    assert!(response.header("server-timing").expect("times").contains("hook;dur="));
    let several = Form::new().file("f[]", "1.txt", "text/plain", b"1").file(
        "f[]",
        "2.txt",
        "text/plain",
        b"2",
    );
    let response = world.post_to("/v1/files?dir=d", &several);
    assert_eq!(response.json()["files"][1]["hook"]["row"], 7);
    let response = world.post_to("/v1/files?reply=hook", &form("y.txt", b"x"));
    assert_eq!((response.status, response.json()), (201, json!({"row": 7, "path": "y.txt"})));
    assert!(response.header("location").expect("a URL").ends_with("/v1/files/y.txt"));
    let response = world.post_to("/v1/files?dir=d&reply=hook", &several);
    assert_eq!(response.json()[1]["row"], 7);

    // A repeat gets the stored response: the back end is asked once.
    let before = receiver.received().len();
    let key = [("idempotency-key", "k1")];
    let first = put(&world.gateway, "z.txt", &key);
    let second = put(&world.gateway, "z.txt", &key);
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(receiver.received().len(), before + 1);
    // Another gateway does not have the response: it is told again, with the same id.
    let another = world.another();
    assert_eq!(put(&another, "z.txt", &key).status, 201);
    let events = receiver.received();
    assert_eq!(events.len(), before + 2);
    assert_eq!(events[before].id(), events[before + 1].id());
    let upload_id = |event: &Received| event.data()["upload_id"].clone();
    assert_eq!(upload_id(&events[before]), upload_id(&events[before + 1]));
}

#[test]
fn a_response_without_json_is_null() {
    let receiver = Receiver::start();
    let world = receiver.setup().set("hooks.wait", "true").start();
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    for body in ["", " \r\n", "<html>", "{\"a\":", &deep] {
        receiver.respond_with(response("200 OK", body));
        let stored = world.post(&form("x.txt", b"x")).stored();
        assert_eq!(stored.get("hook"), Some(&Value::Null), "{body}");
    }
    assert_eq!(world.object("x.txt"), b"x");
    assert_eq!(count(&world, "file.stored", "delivered"), 5);
    assert_eq!(receiver.received().len(), 5);
    let response = world.post_to("/v1/files?reply=hook", &form("x.txt", b"x"));
    assert_eq!((response.status, response.json()), (201, Value::Null));
    world.gateway.log_with("is not JSON");
}

#[test]
fn a_refused_file_is_deleted_and_the_client_is_told() {
    let receiver = Receiver::start();
    let world = receiver.setup().set("hooks.wait", "true").start();
    for (status, body, detail) in [
        ("422 No", r#"{"detail":"over the quota"}"#, "over the quota"),
        ("400 No", r#"{"message":"no\nsuch album","x":1}"#, "nosuch album"),
        ("403 No", "<html>forbidden</html>", "status 403"),
        ("404 No", "", "status 404"),
        ("410 No", r#"{"error":{"code":1}}"#, "status 410"),
    ] {
        receiver.respond_with(response(status, body));
        let problem = world.post(&form("x.txt", b"x")).problem(422, "refused_by_hook");
        assert!(problem["detail"].as_str().expect("a text").contains(detail), "{problem}");
        assert_eq!(world.objects(), Vec::<Value>::new(), "{status}");
        let problem = put(&world.gateway, "y.txt", &[]).problem(422, "refused_by_hook");
        assert!(problem["detail"].as_str().expect("a text").contains(detail), "{problem}");
        assert_eq!(world.objects(), Vec::<Value>::new(), "{status}");
    }
    // A long text is cut.
    let long = json!({"detail": "x".repeat(60_000)}).to_string();
    receiver.respond_with(response("422 No", &long));
    let problem = world.post(&form("x.txt", b"x")).problem(422, "refused_by_hook");
    assert_eq!(problem["detail"].as_str().map(str::len), Some(300));
    // In an editor's shape.
    let editor = world.post_to("/v1/files?reply=wangeditor", &form("x.txt", b"x")).json();
    assert_eq!((&editor["errno"], &editor["problem"]["status"]), (&json!(1), &json!(422)));
    // One file of two: the other one stays, and its result is told.
    receiver.respond(|event| {
        let is_bad = event.data()["name"] == "bad.txt";
        Some(response(if is_bad { "422 No" } else { "200 OK" }, "{}"))
    });
    let form = Form::new().file("f[]", "bad.txt", "text/plain", b"1");
    let reply = world.post(&form.file("f[]", "good.txt", "text/plain", b"2"));
    assert_eq!(reply.status, 422);
    let files = reply.json()["files"].clone();
    assert_eq!(files[0]["error"]["code"], "refused_by_hook");
    assert_eq!(files[1]["hook"], json!({}));
    assert_eq!(world.objects().len(), 1);
    assert_eq!(count(&world, "file.stored", "refused"), 13);
    // Nothing of this is told later.
    assert_eq!(count(&world, "file.stored", "queued"), 0);
}

#[test]
fn a_refused_file_that_cannot_be_deleted_is_logged() {
    let receiver = Receiver::start();
    receiver.respond_with(response("422 No", "{}"));
    let world = receiver.setup().set("hooks.wait", "true").start();
    world.faults(
        &json!([{"stage": "delete", "fault": "errcode", "errcode": 85088, "errmsg": "no"}]),
    );
    world.post(&form("x.txt", b"x")).problem(422, "refused_by_hook");
    let log = world.gateway.log_with("could not be deleted");
    assert!(log.contains("/x.txt"), "{log}");
    assert_eq!(world.object("x.txt"), b"x");
}

#[test]
fn a_back_end_that_fails_at_first_is_asked_again_while_the_client_waits() {
    let receiver = Receiver::start();
    let world = receiver.setup().set("hooks.wait", "true").set("hooks.timeout", "20s").start();
    for failure in [
        response("500 No", "{}"),
        response("503 No", ""),
        response("429 No", "{}"),
        response("302 Found\r\nLocation: /other", ""),
        "HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n".to_owned(),
        "not HTTP\r\n\r\n".to_owned(),
    ] {
        let before = receiver.received().len();
        let attempts = AtomicUsize::new(0);
        receiver.respond(move |_| match attempts.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Some(failure.clone()),
            _ => Some(response("200 OK", "{\"id\":1}")),
        });
        let stored = world.post(&form("x.txt", b"x")).stored();
        assert_eq!(stored["hook"], json!({"id": 1}));
        let events = receiver.received();
        assert_eq!(events.len(), before + 3);
        let ids: BTreeSet<_> = events[before..].iter().map(Received::id).collect();
        assert_eq!(ids.len(), 1);
        assert!(events.iter().all(|event| event.head.starts_with("POST /events ")));
        assert!(events.iter().all(|event| event.is_signed_by(SECRET)));
    }
}

#[test]
fn a_back_end_that_is_silent_or_down_is_told_later_and_the_file_stays() {
    let receiver = Receiver::start();
    receiver.respond(|_| None);
    let world = receiver.setup().set("hooks.wait", "true").set("hooks.timeout", "300ms").start();
    let began = Instant::now();
    let stored = world.post(&form("x.txt", b"x")).stored();
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(stored.get("hook"), Some(&Value::Null), "{stored}");
    assert_eq!(world.object("x.txt"), b"x");
    receiver.respond_with(response("200 OK", "{}"));
    wait_until("it is delivered", || count(&world, "file.stored", "delivered") == 1);
    let events = receiver.received();
    let ids: BTreeSet<_> = events.iter().map(Received::id).collect();
    assert!(events.len() >= 2 && ids.len() == 1, "{events:?}");
    // Refused later: the client was told that the file is stored, so it stays.
    receiver.respond(|_| None);
    assert_eq!(put(&world.gateway, "y.txt", &[]).status, 201);
    receiver.respond_with(response("422 No", "{}"));
    let before = receiver.received().len();
    receiver.wait_for(before + 2);
    assert_eq!(world.object("y.txt"), b"content");
    // 410: no more of it, and the log says what was lost.
    receiver.respond_with(response("410 Gone", ""));
    let log = world.gateway.log_with("a hook was not delivered");
    assert!(log.contains("y.txt") && log.contains("410"), "{log}");
}

#[test]
fn a_client_that_disconnects_does_not_lose_the_event() {
    let receiver = Receiver::start();
    let arrived = Arc::new(AtomicUsize::new(0));
    let seen = arrived.clone();
    receiver.respond(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(300));
        Some(response("422 No", ""))
    });
    let world = receiver.setup().set("hooks.wait", "true").start();
    let mut client = world.client();
    client.send_request("PUT", "/v1/files/x.txt", &[authorization()], b"x");
    wait_until("the back end is asked", || arrived.load(Ordering::Relaxed) == 1);
    drop(client);
    wait_until("the refused file is deleted", || world.objects().is_empty());
    assert_eq!(count(&world, "file.stored", "refused"), 1);
}

#[test]
fn a_back_end_that_is_down_at_first_gets_every_event_once_it_is_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let world = setup(address).start();
    for n in 0..20 {
        assert_eq!(put(&world.gateway, &format!("{n}.txt"), &[]).status, 201);
    }
    wait_until("it fails", || count(&world, "file.stored", "failed") >= 20);
    let receiver = Receiver::on(TcpListener::bind(address).expect("the same port"));
    receiver.wait_for(20);
    wait_until("all are delivered", || count(&world, "file.stored", "delivered") == 20);
    let events = receiver.received();
    let paths: BTreeSet<_> = events.iter().map(|event| event.data()["path"].to_string()).collect();
    assert_eq!((events.len(), paths.len()), (20, 20));
}

#[test]
fn a_shutdown_delivers_what_it_can_and_logs_the_rest() {
    let receiver = Receiver::start();
    receiver.respond_with(response("503 No\r\nRetry-After: 3000", ""));
    let mut world = receiver.setup().start();
    for n in 0..3 {
        assert_eq!(put(&world.gateway, &format!("{n}.txt"), &[]).status, 201);
    }
    // They are due in an hour only.
    wait_until("each has failed", || count(&world, "file.stored", "failed") == 3);
    receiver.respond(|event| {
        let accepted = event.data()["path"] == "1.txt";
        Some(response(if accepted { "200 OK" } else { "500 No" }, ""))
    });
    world.gateway.signal("TERM");
    assert!(world.gateway.ended().success());
    let log = world.gateway.log_with("stopped");
    let lost: Vec<_> = log.lines().filter(|line| line.contains("was not delivered")).collect();
    assert_eq!(lost.len(), 2, "{log}");
    for (n, line) in [0, 2].iter().zip({
        let mut lines = lost.clone();
        lines.sort_by_key(|line| line.contains("2.txt"));
        lines
    }) {
        for text in [&format!("{n}.txt"), "file.stored", "msg_", "cloud://", "crc64", "upload_id"] {
            assert!(line.contains(text), "{text}: {line}");
        }
        assert!(!line.contains("whsec_"));
    }
    assert_eq!(receiver.received().len(), 6);
}

#[test]
fn an_event_that_a_client_still_waits_for_at_the_end_is_logged() {
    let receiver = Receiver::start();
    receiver.respond(|_| None);
    let mut world = receiver
        .setup()
        .set("hooks.wait", "true")
        .set("hooks.timeout", "60s")
        .set("server.shutdown_grace", "1s")
        .start();
    let mut client = world.client();
    client.send_request("PUT", "/v1/files/waiting.txt", &[authorization()], b"x");
    receiver.wait_for(1);
    world.gateway.signal("TERM");
    world.gateway.ended();
    let log = world.gateway.log_with("stopped");
    let lost = log.lines().find(|line| line.contains("was not delivered")).expect("a line");
    assert!(lost.contains("waiting.txt") && lost.contains("msg_"), "{lost}");
    assert_eq!(world.object("waiting.txt"), b"x");
}

#[test]
fn settings_of_hooks_are_checked() {
    let refused = |changes: &[(&str, &str)]| {
        let variables = changes.iter().map(|(key, value)| {
            (format!("GATEWAY__{}", key.to_uppercase().replace('.', "__")), (*value).to_owned())
        });
        tcb_upload_gateway::settings::Settings::from_layers(None, None, variables.collect())
            .map(|settings| settings.describe())
            .map_err(|faults| faults.to_string())
    };
    let url = ("hooks.stored_url", "https://example.com/hook");
    for (changes, fault) in [
        (vec![url], "hooks.secret: must be set"),
        (vec![url, ("hooks.secret", "secret-in-plain")], "hooks.secret: the value is not `whsec_`"),
        (vec![url, ("hooks.secret", "whsec_c2hvcnQ=")], "24 to 64 bytes"),
        (vec![("hooks.wait", "true")], "hooks.wait: is true"),
        (vec![("upload.reply", "hook")], "needs hooks.wait"),
        (vec![("hooks.include", "name")], "is not one of client, sub"),
        (vec![("hooks.stored_url", "https://u:p@example.com/")], "user info"),
        (vec![("hooks.timeout", "1ms")], "too short"),
    ] {
        let faults = refused(&changes).expect_err(fault);
        assert!(faults.contains(fault), "{faults}");
        assert!(!faults.contains("secret-in-plain") && !faults.contains("u:p"), "{faults}");
    }
    let printed = refused(&[url, ("hooks.secret", SECRET)]).expect("valid settings");
    assert!(printed.contains("hooks.secret = \"***\"") && !printed.contains("whsec"), "{printed}");
}

#[test]
fn reply_hook_needs_a_back_end_that_is_waited_for() {
    let receiver = Receiver::start();
    for world in [Setup::new().start(), receiver.setup().start()] {
        let response = world.post_to("/v1/files?reply=hook", &form("x.txt", b"x"));
        response.problem(400, "invalid_request");
        world.assert_nothing_stored();
    }
    assert!(receiver.received().is_empty());
}

#[test]
fn replicas_deliver_for_one_that_was_killed() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    // The first gateway's attempts never end, so that it has its events when it is killed.
    receiver.respond(|_| None);
    let mut world = receiver.setup().set("redis.url", redis.url()).start();
    for n in 0..10 {
        assert_eq!(put(&world.gateway, &format!("{n}.txt"), &[]).status, 201);
    }
    receiver.wait_for(10);
    world.gateway.signal("KILL");
    world.gateway.ended();
    let first = receiver.received();
    receiver.respond_with(response("200 OK", ""));
    let other = world.another();
    receiver.wait_for(first.len() + 10);
    let ids = |events: &[Received]| -> BTreeSet<String> {
        events.iter().map(|event| event.id().to_owned()).collect()
    };
    let all = receiver.received();
    assert_eq!(ids(&all[first.len()..]), ids(&first));
    assert_eq!(ids(&all).len(), 10);
    assert!(all.iter().all(|event| event.is_signed_by(SECRET)));
    drop(other);
}

#[test]
fn two_gateways_share_the_events_and_neither_sends_them_twice() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let world = receiver.setup().set("redis.url", redis.url()).start();
    let other = world.another();
    for n in 0..20 {
        let gateway = if n % 2 == 0 { &world.gateway } else { &other };
        assert_eq!(put(gateway, &format!("{n}.txt"), &[]).status, 201);
    }
    let events = receiver.wait_for(20);
    let ids: BTreeSet<_> = events.iter().map(Received::id).collect();
    assert_eq!((events.len(), ids.len()), (20, 20));
    let queued = || {
        let mut client = world.client();
        client.send_request("GET", "/metrics", &[], b"");
        client.response().text().contains("gateway_hooks_queued 0\n")
    };
    wait_until("Redis has none left", queued);
}

#[test]
fn without_redis_events_are_queued_in_memory() {
    let receiver = Receiver::start();
    let world = receiver.setup().set("redis.url", "redis://:hunter2@127.0.0.1:1").start();
    for n in 0..3 {
        assert_eq!(put(&world.gateway, &format!("{n}.txt"), &[]).status, 201);
    }
    let events = receiver.wait_for(3);
    assert_eq!(events.len(), 3);
    let log = world.gateway.log_with("queued in this gateway's memory");
    assert_eq!(log.matches("queued in this gateway's memory").count(), 1, "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn what_has_no_room_in_memory_is_logged() {
    let receiver = Receiver::start();
    receiver.respond(|_| None);
    let world = receiver.setup().start();
    let deleted = |call: usize| {
        let files: Vec<_> = (0..1000).map(|n| format!("{call}/{n}.txt")).collect();
        let response = world.call("POST", "/v1/delete", &json!({ "files": files }));
        assert_eq!(response.status, 200, "{}", response.text());
    };
    (0..10).for_each(deleted);
    assert!(!world.gateway.log().contains("was not delivered"));
    deleted(10);
    wait_until("the rest is logged", || count(&world, "file.deleted", "dropped") == 1000);
    assert_eq!(count(&world, "file.deleted", "queued"), 10_000);
    let log = world.gateway.log_with("10/999.txt");
    let lost: Vec<_> = log.lines().filter(|line| line.contains("was not delivered")).collect();
    assert_eq!(lost.len(), 1000);
    let complete = |line: &&str| line.contains("msg_") && line.contains("file.deleted");
    assert!(lost.iter().all(complete), "{}", lost[0]);
    // Uploads are served all the same.
    assert_eq!(put(&world.gateway, "x.txt", &[]).status, 201);
}

/// A request of tus.
fn tus(world: &World, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let octets = ("content-type", "application/offset+octet-stream");
    let all: Vec<_> = [authorization(), ("tus-resumable", "1.0.0"), octets]
        .into_iter()
        .chain(headers.iter().copied())
        .collect();
    let mut client = world.client();
    client.send_request(method, url, &all, body);
    client.response()
}

fn created(response: &Response) -> String {
    assert_eq!(response.status, 201, "{}", response.text());
    let url = response.header("location").expect("a Location");
    url[url.find("/v1/").expect("a path")..].to_owned()
}

#[test]
fn a_resumable_upload_is_told_once_when_it_is_stored() {
    let receiver = Receiver::start();
    let world = receiver.setup().by_api().set("hooks.wait", "true").start();
    let name = format!("filename {}", STANDARD.encode("a.txt"));
    let metadata = ("upload-metadata", name.as_str());
    let create = |length: &str, body: &[u8]| {
        tus(&world, "POST", "/v1/uploads", &[("upload-length", length), metadata], body)
    };
    let url = created(&create("10", b"12345"));
    assert!(receiver.received().is_empty());
    let last = [("upload-offset", "5")];
    assert_eq!(tus(&world, "PATCH", &url, &last, b"67890").status, 204);
    let events = receiver.received();
    assert_eq!(events.len(), 1);
    let data = events[0].data();
    assert_eq!((&data["name"], &data["size"]), (&json!("a.txt"), &json!(10)));
    assert!(data["url"].as_str().expect("a URL").contains("/v1/files/uploads/"), "{data}");
    // The response to the last bytes was lost; the client asks, and sends nothing more.
    assert_eq!(tus(&world, "HEAD", &url, &[], b"").status, 200);
    assert_eq!(tus(&world, "PATCH", &url, &[("upload-offset", "10")], b"").status, 204);
    // In one request, and an empty file.
    created(&create("3", b"abc"));
    created(&create("0", b""));
    let events = receiver.received();
    let ids: BTreeSet<_> = events.iter().map(Received::id).collect();
    assert_eq!((events.len(), ids.len()), (3, 3));

    receiver.respond_with(response("422 No", r#"{"detail":"no room"}"#));
    let before = world.objects().len();
    let problem = create("3", b"abc").problem(422, "refused_by_hook");
    assert_eq!(problem["detail"], "no room");
    create("0", b"").problem(422, "refused_by_hook");
    let url = created(&create("10", b"12345"));
    tus(&world, "PATCH", &url, &last, b"67890").problem(422, "refused_by_hook");
    tus(&world, "PATCH", &url, &last, b"67890").problem(404, "upload_not_found");
    wait_until("nothing of them is left", || world.objects().len() == before);
}
