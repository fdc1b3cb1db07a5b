//! `Idempotency-Key`: a repeated request stores one object and gets the same response.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Client, Form, Gateway, Response, Setup, World, authorization, wait_until};
use crate::tickets::{self, send, small, ticket};

fn keyed(world: &World, key: &str, form: &Form) -> Response {
    send(world, "POST", "/v1/files", &[authorization(), ("idempotency-key", key)], form)
}

fn path(response: &Response) -> String {
    response.stored()["path"].as_str().expect("a path").to_owned()
}

/// The head and half the body of an upload with a key.
fn half(world: &World, target: &str, key: &str) -> Client {
    let mut client = world.client();
    let headers = [authorization(), ("idempotency-key", key), ("content-length", "100")];
    client.send_head("PUT", target, &headers);
    client.send(&[b'x'; 50]);
    client
}

fn links_asked(world: &World, count: u64) {
    wait_until("the upload runs", || world.count("uploadfile") >= count);
}

#[test]
fn a_repeat_gets_the_first_response() {
    let world = Setup::new().start();
    let first = keyed(&world, "key-1", &small());
    assert_eq!(first.header("idempotent-replayed"), None);
    for _ in 0..3 {
        let again = keyed(&world, "key-1", &small());
        assert_eq!(again.status, 201);
        assert_eq!(again.json(), first.json());
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.header("content-type"), first.header("content-type"));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    }
    assert_eq!((world.objects().len(), world.count("uploadfile")), (1, 1));
    // Another key, or none, makes another upload.
    assert_ne!(path(&keyed(&world, "key-2", &small())), path(&first));
    assert_ne!(path(&world.post(&small())), path(&first));
    assert_eq!(world.objects().len(), 3);
    // The same for a raw body.
    for replayed in [None, Some("true")] {
        let mut client = half(&world, "/v1/files/raw", "key-3");
        client.send(&[b'x'; 50]);
        let response = client.response();
        assert_eq!(response.stored()["size"], 100);
        assert_eq!(response.header("idempotent-replayed"), replayed);
    }
}

#[test]
fn a_key_is_not_replayed_to_a_body_of_another_length_or_digest() {
    let world = Setup::new().start();
    let put = |content: &[u8], digest: &[(&str, &str)]| {
        let headers = [&[authorization(), ("idempotency-key", "key-1")], digest].concat();
        send_put(&world, &headers, content)
    };
    put(b"first", &[]).stored();
    assert_eq!(put(b"first", &[]).header("idempotent-replayed"), Some("true"));
    put(b"another", &[]).problem(400, "invalid_request");
    put(b"other", &[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")]).problem(400, "invalid_request");
    assert_eq!(world.object("named.txt"), b"first");
}

fn send_put(world: &World, headers: &[(&str, &str)], content: &[u8]) -> Response {
    let mut client = world.client();
    client.send_request("PUT", "/v1/files/named.txt", headers, content);
    client.response()
}

#[test]
fn a_repeat_waits_for_the_upload_that_runs() {
    let world = Setup::new().start();
    let mut first = half(&world, "/v1/files/x", "key");
    links_asked(&world, 1);
    let mut repeats: Vec<Client> = (0..4).map(|_| half(&world, "/v1/files/x", "key")).collect();
    for repeat in &mut repeats {
        repeat.send(&[b'x'; 50]);
    }
    assert!(world.objects().is_empty());
    first.send(&[b'x'; 50]);
    let response = first.response();
    for mut repeat in repeats {
        let again = repeat.response();
        assert_eq!(again.json(), response.json());
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    assert_eq!((world.objects().len(), world.count("uploadfile")), (1, 1));
}

#[test]
fn if_the_first_upload_breaks_off_the_repeat_runs() {
    let world = Setup::new().start();
    let first = half(&world, "/v1/files/x", "key");
    links_asked(&world, 1);
    let mut repeat = half(&world, "/v1/files/x", "key");
    repeat.send(&[b'x'; 50]);
    first.reset();
    let response = repeat.response();
    assert_eq!(response.stored()["size"], 100);
    assert_eq!(response.header("idempotent-replayed"), None);
    assert_eq!(world.object("x"), [b'x'; 100]);
}

#[test]
fn a_failure_is_not_replayed() {
    let world = Setup::new().start();
    world.faults(&json!([
        {"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied", "times": 1}
    ]));
    keyed(&world, "key", &small()).problem(502, "cos_refused");
    world.assert_nothing_stored();
    let response = keyed(&world, "key", &small());
    response.stored();
    assert_eq!(response.header("idempotent-replayed"), None);
    assert_eq!(keyed(&world, "key", &small()).header("idempotent-replayed"), Some("true"));
    assert_eq!(world.objects().len(), 1);
    // Nor is the response to a form of which one file failed.
    let two = || {
        let form = Form::new().file("f[]", "a", "text/plain", b"a");
        form.file("f[]", "b", "text/plain", b"b")
    };
    world.faults(&json!([
        {"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied", "times": 1}
    ]));
    assert_eq!(keyed(&world, "two", &two()).status, 502);
    let paths = |response: &Response| {
        let files = response.json()["files"].as_array().expect("files").clone();
        files.iter().map(|file| file["path"].clone()).collect::<Vec<Value>>()
    };
    let again = keyed(&world, "two", &two());
    assert_eq!(again.status, 201, "{}", again.text());
    assert_eq!(paths(&again).len(), 2);
    // The file that had been stored before is stored under the same path again.
    assert_eq!(world.objects().len(), 3);
}

#[test]
fn after_a_restart_and_on_another_replica_a_repeat_writes_the_same_object() {
    let mut world = Setup::new().start();
    let two = || {
        let form = Form::new().file("f[]", "a.txt", "text/plain", b"a");
        form.file("f[]", "b.txt", "text/plain", b"b")
    };
    let first = path(&keyed(&world, "key", &small()));
    let both = keyed(&world, "two", &two()).json();
    let random = path(&world.post(&small()));
    assert_eq!(world.objects().len(), 4);

    world.restart();
    assert_eq!(path(&keyed(&world, "key", &small())), first);
    let again = keyed(&world, "two", &two()).json();
    for index in 0..2 {
        assert_eq!(again["files"][index]["path"], both["files"][index]["path"]);
    }
    assert_ne!(both["files"][0]["path"], both["files"][1]["path"]);

    let folder = tempfile::tempdir().expect("a folder");
    let replica = Gateway::start(&["--profile", "production"], world.variables(), folder.path());
    let mut client = Client::connect(replica.address);
    let form = small();
    let headers =
        [authorization(), ("idempotency-key", "key"), ("content-type", &form.content_type())];
    client.send_request("POST", "/v1/files", &headers, &form.bytes());
    assert_eq!(path(&client.response()), first);
    assert_eq!(world.objects().len(), 4, "and nowhere else");
    // The object's name cannot be guessed from the key alone.
    assert!(random != first && !first.contains("key"));
}

#[test]
fn idempotency_keys_are_separate_for_each_client() {
    let world = tickets::setup()
        .set("auth.keys.other.sha256", hex::encode(Sha256::digest("other's")))
        .set("auth.anonymous", true)
        .set("server.trusted_proxies", "127.0.0.1")
        .start();
    let bearers: Vec<String> = [json!({"sub": "u"}), json!({"sub": "v"}), json!({"sub": "panel"})]
        .into_iter()
        .map(|claims| format!("Bearer {}", ticket(claims)))
        .chain(["Bearer other's".to_owned()])
        .collect();
    let mut paths = vec![path(&keyed(&world, "key", &small()))];
    for bearer in &bearers {
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", "key")];
        paths.push(path(&send(&world, "POST", "/v1/files", &headers, &small())));
    }
    for target in ["9.9.9.9", "8.8.8.8"] {
        let headers = [("x-forwarded-for", target), ("idempotency-key", "key")];
        paths.push(path(&send(&world, "POST", "/v1/files", &headers, &small())));
    }
    assert_eq!(world.objects().len(), 7);
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 7);
    // A new ticket of the same user is the same client.
    let fresh = ticket(json!({"sub": "u", "jti": "another"}));
    let target = format!("/v1/files?ticket={fresh}");
    let response = send(&world, "POST", &target, &[("idempotency-key", "key")], &small());
    assert_eq!(response.header("idempotent-replayed"), Some("true"));
}

#[test]
fn a_key_that_was_used_for_something_else_is_refused() {
    let world = Setup::new().start();
    keyed(&world, "key", &small()).stored();
    let headers = [authorization(), ("idempotency-key", "key")];
    send(&world, "POST", "/v1/files?dir=d", &headers, &small()).problem(400, "invalid_request");
    let mut client = half(&world, "/v1/files/x", "key");
    client.response().problem(400, "invalid_request");
    for odd in ["", " ", "two words", &"k".repeat(256), "l\u{f6}wen"] {
        keyed(&world, odd, &small()).problem(400, "invalid_request");
    }
    assert_eq!(world.objects().len(), 1);
    keyed(&world, &"k".repeat(255), &small()).stored();
}
