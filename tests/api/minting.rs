//! `POST /v1/tickets`: which clients mint tickets, and that a ticket never allows more than the key that minted it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Form, Response, Setup, World, authorization};
use crate::tickets::{self, SECRET, call, now, post, small, ticket};

/// Adds a key of this name, which is `NAME-key-for-tests`; returns the setup.
fn with_key(setup: Setup, name: &str, policy: &[(&str, &str)]) -> Setup {
    let digest = hex::encode(Sha256::digest(key(name)));
    let setup = setup.set(&format!("auth.keys.{name}.sha256"), digest);
    policy.iter().fold(setup, |setup, (setting, value)| {
        setup.set(&format!("auth.keys.{name}.{setting}"), value)
    })
}

fn key(name: &str) -> String {
    format!("{name}-key-for-tests-of-minting")
}

fn mint(world: &World, credential: &str, body: &Value) -> Response {
    call(world, "POST", "/v1/tickets", credential, body)
}

fn minted(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("cache-control"), Some("no-store"));
    response.json()["ticket"].as_str().expect("a ticket").to_owned()
}

fn panel() -> String {
    authorization().1["Bearer ".len()..].to_owned()
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON")
}

/// That the request is refused with a text that names the claim.
fn assert_beyond(world: &World, credential: &str, body: &Value, claim: &str) {
    let problem = mint(world, credential, body).problem(403, "not_allowed");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains(&format!("`{claim}`")), "{detail}");
}

#[test]
fn a_key_mints_a_ticket_that_allows_what_it_says() {
    let world =
        tickets::setup().set("auth.jwt.issuer", "panel").set("auth.jwt.audience", "files").start();
    let body = json!({
        "sub": "alice",
        "can": ["upload", "download"],
        "prefix": "users/alice",
        "max_file_size": "10KiB",
        "max_files": 1,
        "types": ["text/*"],
        "ttl": 60,
    });
    let response = mint(&world, &panel(), &body);
    let token = minted(&response);
    let mut claims = claims(&token);
    let iat = claims["iat"].take().as_u64().expect("a time");
    assert!(iat <= now() && iat + 30 > now());
    assert_eq!(claims["exp"].take(), iat + 60);
    let expires: jiff::Timestamp =
        response.json()["expires_at"].as_str().expect("a text").parse().expect("RFC 3339");
    assert_eq!(expires.as_second() as u64, iat + 60);
    assert!(claims["jti"].take().is_string());
    let expected = json!({
        "iss": "panel",
        "aud": "files",
        "sub": "alice",
        "iat": null,
        "exp": null,
        "jti": null,
        "can": ["upload", "download"],
        "prefix": "users/alice/",
        "max_file_size": 10_240,
        "max_files": 1,
        "types": ["text/*"],
    });
    assert_eq!(claims, expected);
    // A library of JWTs verifies it.
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&["files"]);
    validation.set_issuer(&["panel"]);
    let secret = DecodingKey::from_secret(SECRET.as_bytes());
    assert!(jsonwebtoken::decode::<Value>(&token, &secret, &validation).is_ok());

    let stored = post(&world, &token, &small()).stored();
    assert!(stored["path"].as_str().expect("a path").starts_with("users/alice/"), "{stored}");
    let large = Form::new().file("f", "x.txt", "text/plain", &[b'x'; 10_241]);
    post(&world, &token, &large).problem(413, "file_too_large");
    let image = Form::new().file("f", "x.png", "image/png", b"\x89PNG\r\n\x1a\n....");
    post(&world, &token, &image).problem(415, "type_not_allowed");
    let several = Form::new().file("f[]", "a.txt", "text/plain", b"a").file(
        "f[]",
        "b.txt",
        "text/plain",
        b"b",
    );
    assert_eq!(post(&world, &token, &several).status, 413);
    let elsewhere = small_at("users/bob/x.txt");
    post(&world, &token, &elsewhere).problem(403, "path_not_allowed");
    call(&world, "DELETE", "/v1/files/users/alice/x", &token, &Value::Null)
        .problem(403, "not_allowed");
    let paths: Vec<_> = world.objects().iter().map(|object| object["key"].clone()).collect();
    assert!(paths.iter().all(|path| path.as_str().expect("a key").starts_with("users/alice/")));
}

fn small_at(path: &str) -> Form {
    Form::new().field("path", path).file("f", "x.txt", "text/plain", b"small")
}

#[test]
fn only_keys_that_may_mint_mint() {
    let setup = with_key(tickets::setup(), "reader", &[("can", "upload,download")]);
    let setup = with_key(setup, "minter", &[("can", "mint,upload")]);
    let world = setup.set("auth.trust_wx_headers", "true").set("auth.anonymous", "true").start();
    let body = json!({"sub": "u"});
    minted(&mint(&world, &panel(), &body));
    minted(&mint(&world, &key("minter"), &body));
    mint(&world, &key("reader"), &body).problem(403, "not_allowed");
    mint(&world, "unknown", &body).problem(401, "unauthenticated");
    // Tickets mint none, whatever they claim.
    for claims in [json!({}), json!({"can": "mint"}), json!({"can": ["mint", "upload"]})] {
        mint(&world, &ticket(claims), &body).problem(403, "not_allowed");
    }
    let token = minted(&mint(&world, &panel(), &body));
    mint(&world, &token, &body).problem(403, "not_allowed");
    let wx = world.call_with("POST", "/v1/tickets", &[("x-wx-openid", "openid")], "{}");
    wx.problem(403, "not_allowed");
    world.call_with("POST", "/v1/tickets", &[], "{}").problem(403, "not_allowed");
    // Nor is a key accepted in the URL.
    let target = format!("/v1/tickets?ticket={}", panel());
    world.call_with("POST", &target, &[], "{}").problem(401, "unauthenticated");
}

#[test]
fn a_ticket_never_allows_more_than_its_key() {
    let setup = tickets::setup().set("upload.max_file_size", "1MiB");
    let setup = with_key(
        setup,
        "small",
        &[
            ("can", "mint,upload,link"),
            ("prefix", "team/"),
            ("client_paths", "false"),
            ("max_file_size", "100B"),
            ("max_files", "2"),
            ("types", "text/plain,image/*"),
        ],
    );
    let world = setup.start();
    let small_key = key("small");
    for (body, claim) in [
        (json!({"can": ["upload", "delete"]}), "can"),
        (json!({"can": ["download"]}), "can"),
        (json!({"prefix": "tea"}), "prefix"),
        (json!({"prefix": "team2/x"}), "prefix"),
        (json!({"prefix": "other"}), "prefix"),
        (json!({"client_paths": true}), "client_paths"),
        (json!({"max_file_size": 101}), "max_file_size"),
        (json!({"max_file_size": "1KiB"}), "max_file_size"),
        (json!({"max_files": 3}), "max_files"),
        (json!({"types": ["text/plain", "application/pdf"]}), "types"),
        (json!({"types": ["text/*"]}), "types"),
        (json!({"types": ["*/*"]}), "types"),
    ] {
        assert_beyond(&world, &small_key, &body, claim);
    }
    for path in ["other/x.txt", "team/x.txt"] {
        mint(&world, &small_key, &json!({"path": path})).problem(403, "path_not_allowed");
    }
    // What the request leaves out is the key's.
    let token = minted(&mint(&world, &small_key, &json!({"sub": "u"})));
    let all = claims(&token);
    assert_eq!(
        (&all["can"], &all["prefix"], &all["client_paths"], &all["max_file_size"]),
        (&json!(["upload", "link"]), &json!("team/"), &json!(false), &json!(100))
    );
    assert_eq!((&all["max_files"], &all["types"]), (&json!(2), &json!(["text/plain", "image/*"])));
    post(&world, &token, &small_at("team/x.txt")).problem(403, "path_not_allowed");
    let large = Form::new().file("f", "x.txt", "text/plain", &[b'x'; 101]);
    post(&world, &token, &large).problem(413, "file_too_large");
    let pdf = Form::new().file("f", "x.pdf", "application/pdf", b"%PDF-1.7\n");
    post(&world, &token, &pdf).problem(415, "type_not_allowed");
    // The key may have no upload link, since its files are limited; neither may its tickets.
    let link = json!({"name": "x.txt"});
    call(&world, "POST", "/v1/upload-links", &token, &link).problem(403, "not_allowed");
    world.assert_nothing_stored();
    let stored = post(&world, &token, &small()).stored();
    assert!(stored["path"].as_str().expect("a path").starts_with("team/"), "{stored}");
    // Less than the key may is granted.
    let less =
        json!({"prefix": "team/a/", "max_file_size": 99, "max_files": 2, "types": ["image/png"]});
    assert_eq!(claims(&minted(&mint(&world, &small_key, &less)))["types"], json!(["image/png"]));
}

#[test]
fn a_ticket_stays_within_the_limits_of_all_tickets() {
    let setup = tickets::setup()
        .set("auth.jwt.can", "upload")
        .set("auth.jwt.prefix", "users/")
        .set("auth.jwt.max_file_size", "10B");
    let setup = with_key(setup, "team", &[("prefix", "team/")]);
    let world = with_key(setup, "reader", &[("can", "mint,download")]).start();
    for (body, claim) in [
        (json!({"can": ["upload", "download"]}), "can"),
        (json!({"prefix": "team"}), "prefix"),
        (json!({"max_file_size": 11}), "max_file_size"),
    ] {
        assert_beyond(&world, &panel(), &body, claim);
    }
    mint(&world, &panel(), &json!({"path": "team/x"})).problem(403, "path_not_allowed");
    mint(&world, &panel(), &json!({"prefix": "users/a", "path": "users/b/x"}))
        .problem(403, "path_not_allowed");
    // Tickets of this key could use no path, and those of the other one could do nothing.
    mint(&world, &key("team"), &json!({})).problem(403, "path_not_allowed");
    mint(&world, &key("reader"), &json!({})).problem(403, "not_allowed");
    let token = minted(&mint(&world, &panel(), &json!({"path": "users/17/a.txt"})));
    assert_eq!(claims(&token)["can"], json!(["upload"]));
    assert_eq!(post(&world, &token, &small()).stored()["path"], "users/17/a.txt");
}

#[test]
fn malformed_requests_mint_nothing() {
    let world = tickets::setup().set("auth.jwt.max_ttl", "10m").start();
    for body in [
        json!({"ttl": 0}),
        json!({"ttl": -1}),
        json!({"ttl": 1.5}),
        json!({"ttl": 601}),
        json!({"ttl": "60"}),
        json!({"ttl": 1e300}),
        json!({"sub": ""}),
        json!({"sub": "a\nb"}),
        json!({"sub": "x".repeat(129)}),
        json!({"sub": 7}),
        json!({"can": []}),
        json!({"can": ["fly"]}),
        json!({"can": ["mint"]}),
        json!({"can": "upload"}),
        json!({"types": []}),
        json!({"types": ["png"]}),
        json!({"max_file_size": -1}),
        json!({"max_file_size": "big"}),
        json!({"exp": 9_999_999_999_u64}),
        json!({"iss": "other"}),
        json!({"types": vec!["image/a-type-with-a-rather-long-name-for-a-type"; 250]}),
        json!({"prefix": null}),
        json!({"sub": null}),
        json!({"can": null}),
        json!([]),
        json!(["alice", ["upload"]]),
    ] {
        mint(&world, &panel(), &body).problem(400, "invalid_request");
    }
    for body in [json!({"prefix": "../x"}), json!({"prefix": ""}), json!({"path": "/x"})] {
        mint(&world, &panel(), &body).problem(400, "invalid_path");
    }
    let long = json!({"types": vec!["image/png"; 3_000]});
    mint(&world, &panel(), &long).problem(413, "fields_too_large");
    // At the bounds.
    for body in [json!({"ttl": 600.0}), json!({"ttl": 1}), json!({"sub": "x".repeat(128)})] {
        minted(&mint(&world, &panel(), &body));
    }
    let default = claims(&minted(&mint(&world, &panel(), &json!({}))));
    let seconds = |name: &str| default[name].as_u64().expect("a time");
    assert_eq!(seconds("exp") - seconds("iat"), 600);
}

#[test]
fn a_gateway_without_the_secret_mints_nothing() {
    let world = Setup::new().start();
    let problem = mint(&world, &panel(), &json!({})).problem(404, "not_found");
    assert!(problem["detail"].as_str().expect("a text").contains("HS256"), "{problem}");
    // The secret may be in a file.
    let setup = Setup::new();
    let file = setup.folder().join("jwt.key");
    std::fs::write(&file, format!("{SECRET}\n")).expect("written");
    let world =
        setup.set("auth.jwt.algorithm", "HS256").set("auth.jwt.key_file", file.display()).start();
    let token = minted(&mint(&world, &panel(), &json!({"sub": "u", "ttl": 60})));
    assert_eq!(post(&world, &token, &small()).status, 201);
}

#[test]
fn the_request_of_the_guide_is_understood() {
    let world = tickets::setup().start();
    let request = crate::pages::page("tickets").open_blocks("json").remove(0);
    let request: Value = serde_json::from_str(&request).expect("JSON");
    let claims = claims(&minted(&mint(&world, &panel(), &request)));
    assert_eq!((&claims["sub"], &claims["can"]), (&request["sub"], &request["can"]));
    assert_eq!(claims["prefix"], json!("users/user-17/"));
}
