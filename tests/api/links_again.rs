//! `POST /v1/links`: stable URLs of stored files, signed again.

use serde_json::{Value, json};

use crate::harness::{Response, Setup, World, authorization};
use crate::shared::SIGNING_KEY;
use crate::tickets::{self, call, now, ticket};

fn signing() -> Setup {
    tickets::setup().set("links.access", "signed").set("links.signing_keys", SIGNING_KEY)
}

fn links(world: &World, body: &Value) -> Response {
    world.call("POST", "/v1/links", body)
}

fn files(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["files"].as_array().expect("files").clone()
}

fn store(world: &World, path: &str) -> Value {
    let mut client = world.client();
    client.send_request("PUT", &format!("/v1/files/{path}"), &[authorization()], b"stored");
    client.response().stored()
}

/// The path and query of a URL.
fn target(url: &Value) -> &str {
    let url = url.as_str().expect("a URL");
    &url[url.find("/v1/").expect("a path")..]
}

fn expiry(file: &Value) -> u64 {
    let time: jiff::Timestamp =
        file["expires_at"].as_str().expect("a time").parse().expect("RFC 3339");
    u64::try_from(time.as_second()).expect("after 1970")
}

#[test]
fn urls_are_signed_again() {
    let world = signing().start();
    let (one, other) = (store(&world, "a/x%201.txt"), store(&world, "b.txt"));
    let wanted = json!({
        "files": [one["path"], other["file_id"], {"path": "b.txt", "max_age": 60}],
        "max_age": 600,
    });
    let before = now();
    let files = files(&links(&world, &wanted));
    for (file, stored, age) in
        [(&files[0], &one, 600), (&files[1], &other, 600), (&files[2], &other, 60)]
    {
        assert_eq!((&file["path"], &file["file_id"]), (&stored["path"], &stored["file_id"]));
        assert!((before + age..=now() + age).contains(&expiry(file)), "{file}");
        let (path, query) = target(&file["url"]).split_once('?').expect("a query");
        assert_eq!(Some(path), target(&stored["url"]).split('?').next());
        assert!(query.starts_with(&format!("expires={}&signature=", expiry(file))), "{query}");
        assert_eq!(world.download(target(&file["url"])).0, b"stored");
    }
    // Without a lifetime it is that of the settings.
    let default = &self::files(&links(&world, &json!({"files": ["b.txt"]})))[0];
    assert!((before + 86_400..=now() + 86_400).contains(&expiry(default)));
    // A file that does not exist has a URL as well, which leads nowhere.
    let none = &self::files(&links(&world, &json!({"files": ["none.txt"]})))[0];
    assert_eq!(world.call_with("GET", target(&none["url"]), &[], "").status, 404);
}

#[test]
fn a_lifetime_is_bounded_by_the_settings() {
    let world = signing().set("links.max_age", "1h").start();
    for wrong in [json!(0), json!(-1), json!(1.5), json!("60"), json!(31_622_401), json!(1e300)] {
        links(&world, &json!({"files": ["a"], "max_age": wrong})).problem(400, "invalid_request");
        links(&world, &json!({"files": [{"path": "a", "max_age": wrong}]}))
            .problem(400, "invalid_request");
    }
    for long in [json!(3600.0), json!(3601), json!(31_622_400)] {
        for body in [
            json!({"files": ["a"], "max_age": long}),
            json!({"files": [{"path": "a", "max_age": long}]}),
        ] {
            let longest = &files(&links(&world, &body))[0];
            assert!((3590..=3600).contains(&(expiry(longest) - now())), "{long}: {longest}");
        }
    }
}

#[test]
fn each_file_is_checked_against_what_the_client_may_reach() {
    let world = signing().start();
    let own = store(&world, "users/alice/x.txt");
    let alice = ticket(json!({"sub": "alice", "can": "download", "prefix": "users/alice"}));
    let bucket = own["file_id"].as_str().expect("an id").strip_suffix("users/alice/x.txt");
    let bucket = bucket.expect("the bucket");
    let wanted = json!({"files": [
        "users/alice/x.txt",
        "users/bob/x.txt",
        format!("{bucket}users/bob/x.txt"),
        format!("{bucket}users/alice/../bob/x.txt"),
        "/users/alice/x.txt",
        own["file_id"],
        {},
        "cloud://other.bucket/users/alice/x.txt",
    ]});
    let files = files(&call(&world, "POST", "/v1/links", &alice, &wanted));
    let codes: Vec<_> = files.iter().map(|file| file["error"]["code"].as_str()).collect();
    assert_eq!(
        codes,
        [
            None,
            Some("path_not_allowed"),
            Some("path_not_allowed"),
            Some("path_not_allowed"),
            Some("invalid_path"),
            None,
            Some("invalid_request"),
            Some("path_not_allowed"),
        ]
    );
    for file in &files {
        assert_eq!(file.get("url").is_some(), file.get("error").is_none(), "{file}");
    }
    // A key may use other buckets, but no stable URL leads to them.
    let foreign = json!({"files": ["cloud://other.bucket/x.txt", "x.txt"]});
    let files = self::files(&links(&world, &foreign));
    assert_eq!(files[0]["error"]["code"], "path_not_allowed");
    assert!(files[0].get("url").is_none() && files[1]["url"].is_string());
    // Clients that may not download get no URL.
    let uploader = ticket(json!({"can": "upload"}));
    call(&world, "POST", "/v1/links", &uploader, &json!({"files": ["x"]}))
        .problem(403, "not_allowed");
    world
        .call_with("POST", "/v1/links", &[], "{\"files\": [\"x\"]}")
        .problem(401, "unauthenticated");
}

#[test]
fn public_urls_and_those_for_clients_have_no_signature() {
    for access in ["public", "authenticated"] {
        let world = tickets::setup().set("links.access", access).start();
        let stored = store(&world, "x.txt");
        let file = &files(&links(&world, &json!({"files": ["x.txt"], "max_age": 60})))[0];
        assert_eq!((&file["url"], file.get("expires_at")), (&stored["url"], None));
    }
}

#[test]
fn a_request_names_up_to_a_thousand_files() {
    let world = signing().start();
    let named = |count: usize| -> Value {
        let paths: Vec<_> = (0..count).map(|index| format!("{index}.txt")).collect();
        json!({"files": paths})
    };
    let all = files(&links(&world, &named(1000)));
    assert_eq!((all.len(), &all[999]["path"]), (1000, &json!("999.txt")));
    links(&world, &named(1001)).problem(413, "too_many_files");
    links(&world, &named(0)).problem(400, "invalid_request");
    links(&world, &json!({"files": ["a"], "age": 1})).problem(400, "invalid_request");
    // The name of the bucket is all that WeChat is asked for.
    assert!(world.count("uploadfile") <= 2, "{}", world.state()["counts"]);
    assert_eq!(world.count("batchdownloadfile"), 0);
}
