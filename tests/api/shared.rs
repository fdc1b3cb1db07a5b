//! `links.access`: reading files by public URLs, by signed links, or with a key or a ticket.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Form, Response, Setup, World, authorization};
use crate::tickets::{self, now, ticket};

pub const SIGNING_KEY: &str = "the-first-signing-key";
const OLD_KEY: &str = "the-signing-key-before";

fn get(world: &World, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut client = world.client();
    client.send_request("GET", target, headers, b"");
    client.response()
}

/// Stores a file and gives its URL from the response, without the host.
fn stored(world: &World, path: &str) -> String {
    let form = Form::new().field("path", path).file("f", "x.txt", "text/plain", b"shared");
    let response = world.post(&form);
    let url = response.stored()["url"].as_str().expect("a url").to_owned();
    let top = response.json();
    assert_eq!((top["url"].as_str(), top["location"].as_str()), (Some(&*url), Some(&*url)));
    assert_eq!(response.header("location"), Some(&*url));
    url[url.find("/v1/").expect("a URL")..].to_owned()
}

fn signing(keys: &str) -> Setup {
    tickets::setup().set("links.access", "signed").set("links.signing_keys", keys)
}

/// The value of a query parameter.
fn part<'a>(target: &'a str, name: &str) -> &'a str {
    let at = target.find(&format!("{name}=")).expect("the parameter") + name.len() + 1;
    target[at..].split('&').next().expect("a value")
}

#[test]
fn a_signed_link_works_and_a_changed_one_does_not() {
    let world = signing(SIGNING_KEY).start();
    let target = stored(&world, "a/x 1.txt");
    let response = get(&world, &target, &[]);
    assert_eq!(response.status, 302, "{}", response.text());
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(world.download(&target).0, b"shared");
    let ends: u64 = part(&target, "expires").parse().expect("a time");
    assert!(ends > now() + 86_000 && ends <= now() + 86_400);

    let (path, query) = target.split_once('?').expect("a query");
    let other = stored(&world, "a/y.txt");
    let (other, _) = other.split_once('?').expect("a query");
    let signature = part(query, "signature");
    let later = query.replace(&ends.to_string(), &(ends + 1).to_string());
    let first = if signature.starts_with('0') { "1" } else { "0" };
    for (what, target) in [
        ("another file", format!("{other}?{query}")),
        ("a later end", format!("{path}?{later}")),
        ("no end", format!("{path}?expires=&signature={signature}")),
        ("an endless end", format!("{path}?expires=99999999999999999999&signature={signature}")),
        ("one digit", format!("{path}?expires={ends}&signature={first}{}", &signature[1..])),
        ("short", format!("{path}?expires={ends}&signature={}", &signature[..62])),
        ("empty", format!("{path}?expires={ends}&signature=")),
        ("no hex", format!("{path}?expires={ends}&signature={}", "zz".repeat(32))),
    ] {
        let response = get(&world, &target, &[]);
        assert_eq!(response.status, 403, "{what}: {}", response.text());
        response.problem(403, "not_allowed");
        assert_eq!(response.header("location"), None);
    }
    for target in
        [path.to_owned(), format!("{path}?signature={signature}"), format!("{path}?expires={ends}")]
    {
        get(&world, &target, &[]).problem(401, "unauthenticated");
    }
    // A signature is valid for reading only.
    for method in ["DELETE", "PUT"] {
        let mut client = world.client();
        client.send_request(method, &target, &[], b"x");
        client.response().problem(401, "unauthenticated");
    }
    assert_eq!(world.object("a/x 1.txt"), b"shared");
    // A key that may download needs no signature.
    assert_eq!(get(&world, path, &[authorization()]).status, 302);
    let reader = ticket(json!({"can": "download", "prefix": "a"}));
    assert_eq!(get(&world, &format!("{path}?ticket={reader}"), &[]).status, 302);
    let elsewhere = ticket(json!({"prefix": "b"}));
    get(&world, &format!("{path}?ticket={elsewhere}"), &[]).problem(403, "path_not_allowed");
    // A wrong credential is refused even with a valid signature.
    get(&world, &target, &[("authorization", "Bearer wrong")]).problem(401, "unauthenticated");
}

#[test]
fn a_signed_link_expires() {
    let world = signing(SIGNING_KEY).set("links.max_age", "1s").start();
    let target = stored(&world, "x.txt");
    let expires: u64 = part(&target, "expires").parse().expect("a time");
    crate::harness::wait_until("the link has expired", || now() > expires);
    let problem = get(&world, &target, &[]).problem(403, "not_allowed");
    assert!(problem["detail"].as_str().expect("a text").contains("expired"), "{problem}");
}

#[test]
fn signing_keys_are_changed_without_breaking_links() {
    let folder = tempfile::tempdir().expect("a folder");
    let objects = folder.path().join("objects");
    let with = |keys: &str| {
        let objects = objects.clone();
        signing(keys).sandbox(move |options| options.data = objects).start()
    };
    let before = stored(&with(OLD_KEY), "x.txt");
    let world = with(&format!("{SIGNING_KEY},{OLD_KEY}"));
    let after = stored(&world, "x.txt");
    assert_eq!(get(&world, &before, &[]).status, 302);
    assert_eq!(get(&world, &after, &[]).status, 302);
    drop(world);
    let world = with(SIGNING_KEY);
    get(&world, &before, &[]).problem(403, "not_allowed");
    assert_eq!(get(&world, &after, &[]).status, 302);
}

#[test]
fn authenticated_links_need_a_key_or_a_ticket() {
    let world = tickets::setup()
        .set("links.access", "authenticated")
        .set("auth.keys.writer.sha256", hex::encode(Sha256::digest("writer's")))
        .set("auth.keys.writer.can", "upload")
        .start();
    let target = stored(&world, "a/x.txt");
    assert!(!target.contains('?'), "{target}");
    get(&world, &target, &[]).problem(401, "unauthenticated");
    get(&world, &format!("{target}?expires=1&signature=00"), &[]).problem(401, "unauthenticated");
    get(&world, &target, &[("authorization", "Bearer writer's")]).problem(403, "not_allowed");
    let response = get(&world, &target, &[authorization()]);
    assert_eq!(response.status, 302, "{}", response.text());
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let link = |claims: Value| get(&world, &format!("{target}?ticket={}", ticket(claims)), &[]);
    assert_eq!(link(json!({"can": "download", "path": "a/x.txt"})).status, 302);
    link(json!({"can": "upload"})).problem(403, "not_allowed");
    link(json!({"path": "a/y.txt"})).problem(403, "path_not_allowed");
    link(json!({"exp": 1})).problem(401, "unauthenticated");
    // An unauthenticated client does not learn whether a file exists.
    get(&world, "/v1/files/none.txt", &[]).problem(401, "unauthenticated");
}

#[test]
fn public_links_need_no_key_but_wrong_keys_are_refused() {
    let world = Setup::new().start();
    let target = stored(&world, "x.txt");
    let response = get(&world, &target, &[]);
    assert_eq!(response.status, 302);
    assert!(response.header("cache-control").expect("a rule").starts_with("private, max-age="));
    get(&world, &target, &[("authorization", "Bearer wrong")]).problem(401, "unauthenticated");
}
