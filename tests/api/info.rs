//! `GET /v1/files/{path}?info=1`: what it says of a stored file, and to which clients.

use serde_json::{Value, json};

use crate::harness::{Client, Response, Setup, World, authorization, crc64, noise};
use crate::tickets::{self, ticket};

fn get(world: &World, target: &str, headers: &[(&str, &str)]) -> Response {
    world.call_with("GET", target, headers, "")
}

fn store(world: &World, path: &str, content: &[u8]) -> Value {
    let mut client = world.client();
    let headers = [authorization(), ("content-type", "image/png")];
    client.send_request("PUT", &format!("/v1/files/{path}"), &headers, content);
    client.response().stored()
}

#[test]
fn the_info_is_what_was_stored() {
    for setup in [Setup::new(), Setup::new().by_api()] {
        let world = setup.start();
        let content = noise(10_000, 1);
        let before = jiff::Timestamp::now().as_second();
        let stored = store(&world, "a/%E4%B8%AD%20x.png", &content);
        let response = get(&world, "/v1/files/a/%E4%B8%AD%20x.png?info=1", &[]);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let mut info = response.json();
        let modified = info["last_modified"].take();
        let modified: jiff::Timestamp =
            modified.as_str().expect("a text").parse().expect("RFC 3339");
        assert!((before..=before + 60).contains(&modified.as_second()), "{modified}");
        let etag = info["etag"].take();
        assert!(etag.as_str().is_some_and(|etag| etag.starts_with('"') && etag.len() > 2));
        let expected = json!({
            "path": "a/中 x.png",
            "file_id": stored["file_id"],
            "size": 10_000,
            "content_type": "image/png",
            "crc64": crc64(&content),
            "etag": null,
            "last_modified": null,
        });
        assert_eq!(info, expected);
        // An empty file, and another one at the same path.
        store(&world, "a/empty", b"");
        assert_eq!(get(&world, "/v1/files/a/empty?info=1", &[]).json()["size"], 0);
        store(&world, "a/empty", b"now");
        let now = get(&world, "/v1/files/a/empty?info=1", &[]).json();
        assert_eq!((&now["size"], &now["crc64"]), (&json!(3), &json!(crc64(b"now"))));
        // Without it there is a redirect, as for HEAD.
        for target in ["/v1/files/a/empty", "/v1/files/a/empty?info=0"] {
            assert_eq!(get(&world, target, &[]).status, 302);
        }
        let mut client = world.client();
        client.send_head("HEAD", "/v1/files/a/empty?info=1", &[]);
        assert_eq!(client.response_head().expect("a response").0, 302);
    }
}

#[test]
fn a_file_that_is_missing_or_deleted_has_no_info() {
    for setup in [Setup::new(), Setup::new().by_api()] {
        let world = setup.start();
        get(&world, "/v1/files/none.png?info=1", &[]).problem(404, "file_not_found");
        store(&world, "x.png", b"x");
        assert_eq!(get(&world, "/v1/files/x.png?info=1", &[]).status, 200);
        // By another gateway, so that the link is still cached.
        let other = world.another();
        let mut client = Client::connect(other.address);
        client.send_request("DELETE", "/v1/files/x.png", &[authorization()], b"");
        assert_eq!(client.response().status, 204);
        get(&world, "/v1/files/x.png?info=1", &[]).problem(404, "file_not_found");
        get(&world, "/v1/files/a//b?info=1", &[]).problem(400, "invalid_path");
    }
}

#[test]
fn the_info_is_for_clients_that_may_download() {
    let world = tickets::setup()
        .set("links.access", "signed")
        .set("links.signing_keys", crate::shared::SIGNING_KEY)
        .start();
    let url = store(&world, "a/x.png", b"x")["url"].as_str().expect("a URL").to_owned();
    let signed = &url[url.find("/v1/").expect("a path")..];
    assert_eq!(get(&world, &format!("{signed}&info=1"), &[]).status, 200);
    let target = "/v1/files/a/x.png?info=1";
    get(&world, target, &[]).problem(401, "unauthenticated");
    get(&world, target, &[("authorization", "Bearer wrong")]).problem(401, "unauthenticated");
    assert_eq!(get(&world, target, &[authorization()]).status, 200);
    for (claims, code) in [
        (json!({"can": "upload"}), "not_allowed"),
        (json!({"prefix": "b"}), "path_not_allowed"),
        (json!({"path": "a/y.png"}), "path_not_allowed"),
    ] {
        get(&world, &format!("{target}&ticket={}", ticket(claims)), &[]).problem(403, code);
    }
    let reader = ticket(json!({"can": "download", "prefix": "a"}));
    assert_eq!(get(&world, &format!("{target}&ticket={reader}"), &[]).status, 200);
}

#[test]
fn a_storage_that_does_not_respond_properly_is_told() {
    let world = Setup::new().set("cos.via", "form").set("cos.reply_timeout", "300ms").start();
    store(&world, "x.png", b"x");
    for (fault, status, code) in [
        (json!({"fault": "status", "status": 403}), 502, "cos_refused"),
        (json!({"fault": "status", "status": 503}), 503, "cos_busy"),
        (json!({"fault": "stall"}), 504, "cos_timeout"),
    ] {
        let mut rule = fault.clone();
        rule["stage"] = json!("object");
        world.faults(&json!([rule]));
        let response = get(&world, "/v1/files/x.png?info=1", &[]);
        assert_eq!(response.status, status, "{fault}: {}", response.text());
        response.problem(status, code);
        world.faults(&json!([]));
    }
    assert_eq!(get(&world, "/v1/files/x.png?info=1", &[]).status, 200);
}
