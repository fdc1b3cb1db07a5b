//! Forward-auth: what the owner's auth server is sent, what its responses allow, and what happens without one.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::{Client, Form, Response, Setup, World, authorization, wait_until};
use crate::measured::{metrics, value};
use crate::recorder::{Recorder, response};
use crate::resumable::{OCTETS, TUS, path_of};
use crate::tickets::{self, small, ticket};

const PANEL: &str = "https://panel.example.com";

/// The owner's auth server. Unless told otherwise, it knows the sessions of alice and bob.
pub struct AuthServer(Recorder);

impl AuthServer {
    pub fn start() -> Self {
        let server = Self(Recorder::start());
        server.respond(|head| Some(sessions(head)));
        server
    }

    /// From now on, responds with the text for a request's head; `None`: it closes the connection.
    pub fn respond(&self, respond: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        self.0.respond(move |request, stream| match respond(&request.head) {
            Some(text) => stream.write_all(text.as_bytes()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        });
    }

    fn respond_with(&self, status: &str, body: impl ToString) {
        let text = response(status, &body.to_string());
        self.respond(move |_| Some(text.clone()));
    }

    /// The heads of the requests so far.
    pub fn received(&self) -> Vec<String> {
        self.0.received().into_iter().map(|request| request.head).collect()
    }

    fn calls(&self) -> usize {
        self.0.calls()
    }

    pub fn setup(&self) -> Setup {
        tickets::setup()
            .set("auth.forward_url", format!("http://{}/check/", self.0.address))
            .set("auth.forward_headers", "X-Session, cookie")
            .set("cors.origins", PANEL)
    }
}

fn sessions(head: &str) -> String {
    for user in ["alice", "bob"] {
        if head.contains(&format!("session={user}")) {
            return response("200 OK", &json!({ "sub": user }).to_string());
        }
    }
    response("401 Unauthorized", "")
}

const ALICE: (&str, &str) = ("cookie", "theme=dark; session=alice");
const BOB: (&str, &str) = ("cookie", "session=bob");

fn put(world: &World, path: &str, headers: &[(&str, &str)]) -> Response {
    world.call_with("PUT", &format!("/v1/files/{path}"), headers, "content")
}

/// Posts a form as a page does, with cookies instead of a key.
fn post(world: &World, target: &str, headers: &[(&str, &str)], form: &Form) -> Response {
    tickets::send(world, "POST", target, headers, form)
}

fn call(
    world: &World,
    method: &str,
    target: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> Response {
    let headers = [headers, &[("content-type", "application/json")]].concat();
    world.call_with(method, target, &headers, &body.to_string())
}

#[test]
fn a_head_that_is_too_long_for_the_auth_server_is_the_clients_fault_and_the_log_is_bounded() {
    let server = AuthServer::start();
    let world = server.setup().start();
    for (at, status) in ["413 Too Large", "414 Too Long", "431 Too Large"].into_iter().enumerate() {
        server.respond_with(status, "");
        let cookie = format!("session={at}");
        put(&world, "a.txt", &[("cookie", &cookie)]).problem(401, "unauthenticated");
    }
    let text = metrics(&world);
    assert_eq!(value(&text, "gateway_forward_auth_total{result=\"refused\"}"), 3.0);
    assert_eq!(value(&text, "gateway_forward_auth_total{result=\"failed\"}"), 0.0);
    // A client that makes it fail now and then does not fill the log.
    for attempt in 0..40 {
        let cookie = format!("attempt={attempt}");
        server.respond_with(if attempt % 2 == 0 { "400 Bad Request" } else { "401 No" }, "");
        put(&world, "a.txt", &[("cookie", &cookie)]);
    }
    let log = world.gateway.log();
    let changes = log.matches("the auth server can").count();
    assert!((2..=11).contains(&changes), "{changes}");
}

#[test]
fn a_session_lets_in_and_nothing_but_the_listed_parts_is_sent() {
    let server = AuthServer::start();
    let world = server.setup().set("upload.path_template", "{client}/{uuid}{ext}").start();
    let headers = [
        ALICE,
        ("authorization", "Basic cGFuZWw6cGFuZWw="),
        ("x-session", "one"),
        ("x-other", "leaked"),
        ("x-forwarded-for", "9.9.9.9"),
        ("x-forwarded-uri", "/leaked"),
        ("user-agent", "leaked"),
        ("origin", PANEL),
    ];
    let stored = post(&world, "/v1/files?x=leaked", &headers, &small()).stored();
    assert!(stored["path"].as_str().is_some_and(|path| path.starts_with("alice/")), "{stored}");
    let head = server.received().remove(0);
    let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
    lines.retain(|line| !line.starts_with("User-Agent: tcb-upload-gateway/"));
    let host = format!("Host: {}", server.0.address);
    assert_eq!(
        lines,
        [
            "GET /check HTTP/1.1",
            &host,
            "Accept: application/json",
            "X-Forwarded-Method: POST",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: gateway.test",
            "X-Forwarded-Uri: /v1/files",
            "X-Forwarded-For: 127.0.0.1",
            "Authorization: Basic cGFuZWw6cGFuZWw=",
            "Cookie: theme=dark; session=alice",
            "x-session: one",
        ]
    );
    let log = world.gateway.log_with("\"client\":\"alice\"");
    assert!(!log.contains("session=") && !log.contains("cGFuZWw6"), "{log}");
    assert_eq!(value(&metrics(&world), "gateway_forward_auth_total{result=\"allowed\"}"), 1.0);
}

#[test]
fn keys_tickets_and_public_links_do_not_need_the_auth_server() {
    let server = AuthServer::start();
    server.respond_with("500 Internal Server Error", "");
    let world = server.setup().start();
    world.post(&small()).stored();
    put(&world, "a.txt", &[authorization(), ALICE]).stored();
    let user = format!("Bearer {}", ticket(json!({"sub": "carol"})));
    put(&world, "b.txt", &[("authorization", &user), ALICE]).stored();
    let target = format!("b.txt?ticket={}", ticket(json!({"sub": "carol"})));
    put(&world, &target, &[ALICE]).stored();
    // A ticket in the URL that is not valid, or that is valid and allows less, is refused here.
    put(&world, "b.txt?ticket=a.b.c", &[ALICE]).problem(401, "unauthenticated");
    let narrow = format!("Bearer {}", ticket(json!({"sub": "carol", "prefix": "carol"})));
    put(&world, "b.txt", &[("authorization", &narrow), ALICE]).problem(403, "path_not_allowed");
    for headers in [vec![], vec![ALICE], vec![("authorization", "Basic eDp5")]] {
        assert_eq!(world.call_with("GET", "/v1/files/a.txt", &headers, "").status, 302);
    }
    for page in ["/healthz", "/openapi.json", "/docs"] {
        assert!(world.call_with("GET", page, &[ALICE], "").status < 400, "{page}");
    }
    assert_eq!(server.calls(), 0);
    // What is no key and no ticket of the gateway is for the auth server to judge.
    let expired = ticket(json!({"sub": "carol", "exp": tickets::now() - 1}));
    for (calls, credential) in
        ["Bearer unknown", &format!("Bearer {expired}"), "Basic eDp5"].iter().enumerate()
    {
        put(&world, "c.txt", &[("authorization", credential)])
            .problem(503, "credential_unavailable");
        assert_eq!(server.calls(), calls + 1, "{credential}");
    }
    assert_eq!(world.objects().len(), 3);
}

#[test]
fn every_call_works_with_a_session() {
    let server = AuthServer::start();
    let world = server
        .setup()
        .set("links.access", "authenticated")
        .set("auth.forward.can", "upload,download,delete,link")
        .start();
    let none = json!(null);
    put(&world, "a.txt", &[ALICE]).stored();
    assert_eq!(world.call_with("GET", "/v1/files/a.txt", &[ALICE], "").status, 302);
    world.call_with("GET", "/v1/files/a.txt", &[], "").problem(401, "unauthenticated");
    let files = json!({"files": ["a.txt"]});
    for (target, body) in [
        ("/v1/download-links", &files),
        ("/v1/upload-links", &json!({"path": "b.txt"})),
        ("/v1/delete", &files),
    ] {
        call(&world, "POST", target, body, &[]).problem(401, "unauthenticated");
        let response = call(&world, "POST", target, body, &[ALICE]);
        assert!(response.status < 300, "{target}: {}", response.text());
    }
    let link = call(&world, "POST", "/tcb/uploadfile", &json!({"path": "c.txt"}), &[ALICE]);
    assert_eq!(link.json()["errcode"], 0, "{}", link.text());
    let refused = call(&world, "POST", "/tcb/uploadfile", &json!({"path": "c.txt"}), &[]);
    assert_ne!(refused.json()["errcode"], 0);
    put(&world, "d.txt", &[ALICE]).stored();
    assert_eq!(call(&world, "DELETE", "/v1/files/d.txt", &none, &[ALICE]).status, 204);
    world.assert_nothing_stored();
    let asked: BTreeSet<_> = server
        .received()
        .iter()
        .filter_map(|head| Some(head.split("X-Forwarded-Uri: ").nth(1)?.lines().next()?.to_owned()))
        .collect();
    assert!(asked.contains("/tcb/uploadfile") && asked.contains("/v1/delete"), "{asked:?}");
}

#[test]
fn claims_narrow_what_a_session_may_do_and_never_widen() {
    let server = AuthServer::start();
    let setup = server.setup().set("auth.forward.prefix", "users").set("auth.forward_cache", "0s");
    let world = setup.set("auth.forward.can", "upload,download").start();
    let claims = |claims: Value| server.respond_with("200 OK", claims);
    let text = |path: &str| put(&world, path, &[ALICE]);
    claims(
        json!({"sub": "alice", "prefix": "users/alice", "can": "upload delete", "unknown": [1]}),
    );
    text("users/alice/a.txt").stored();
    text("users/bob/a.txt").problem(403, "path_not_allowed");
    call(&world, "DELETE", "/v1/files/users/alice/a.txt", &json!(null), &[ALICE])
        .problem(403, "not_allowed");
    claims(json!({"sub": "alice", "path": "users/only.txt"}));
    text("users/only.txt").stored();
    text("users/other.txt").problem(403, "path_not_allowed");
    claims(json!({"sub": "alice", "max_file_size": 3}));
    text("users/b.txt").problem(413, "file_too_large");
    claims(json!({"sub": "alice", "types": ["image/*"]}));
    text("users/b.txt").problem(415, "type_not_allowed");
    claims(json!({"sub": "alice", "can": ["download"]}));
    text("users/b.txt").problem(403, "not_allowed");
    // No body: the policy of auth.forward.
    server.respond_with("204 No Content", "");
    text("users/c.txt").stored();
    text("c.txt").problem(403, "path_not_allowed");
    // Claims outside the policy are a fault of the auth server, not of the client.
    claims(json!({"sub": "alice", "prefix": "elsewhere"}));
    text("elsewhere/c.txt").problem(503, "credential_unavailable");
    assert_eq!(world.objects().len(), 3);
}

#[test]
fn refusals_are_told_with_the_auth_servers_own_words() {
    let server = AuthServer::start();
    let world = server.setup().set("auth.forward_cache", "0s").start();
    let long = "y".repeat(1000);
    for (status, body, expected, code, detail) in [
        (
            "401 Unauthorized",
            json!({"detail": "log in, please"}),
            401,
            "unauthenticated",
            "log in, please",
        ),
        ("403 Forbidden", json!({"message": "not\r\nyours"}), 403, "not_allowed", "notyours"),
        ("401 Unauthorized", json!("x"), 401, "unauthenticated", "log in"),
        ("403 Forbidden", json!({"detail": long}), 403, "not_allowed", "yyy"),
        (
            "302 Found\r\nLocation: /login",
            json!({"detail": "moved"}),
            401,
            "unauthenticated",
            "log in",
        ),
        ("307 Temporary Redirect", json!(""), 401, "unauthenticated", "log in"),
    ] {
        server.respond_with(status, body);
        for response in [
            put(&world, "a.txt", &[ALICE]),
            post(&world, "/v1/files", &[ALICE], &small()),
            call(&world, "DELETE", "/v1/files/a.txt", &json!(null), &[ALICE]),
        ] {
            let problem = response.problem(expected, code);
            let text = problem["detail"].as_str().expect("a text");
            assert!(text.contains(detail) && text.len() <= 300, "{status}: {text}");
        }
    }
    world.assert_nothing_stored();
}

#[test]
fn failures_of_the_auth_server_are_not_blamed_on_the_client() {
    let server = AuthServer::start();
    let world = server.setup().set("auth.forward_timeout", "500ms").start();
    let refused = |what: &str| {
        for response in [
            put(&world, "a.txt", &[ALICE]),
            post(&world, "/v1/files", &[ALICE], &small()),
            call(&world, "POST", "/v1/delete", &json!({"files": ["a.txt"]}), &[ALICE]),
        ] {
            let problem = response.problem(503, "credential_unavailable");
            assert!(response.header("retry-after").is_some(), "{what}");
            let detail = problem["detail"].as_str().expect("a text");
            assert!(!detail.contains("127.0.0.1"), "{what}: {detail}");
        }
    };
    for (status, body) in [
        ("500 Internal Server Error", "{}"),
        ("503 Service Unavailable", ""),
        ("404 Not Found", ""),
        ("429 Too Many Requests", ""),
        ("400 Bad Request", r#"{"detail":"you"}"#),
        ("200 OK", "welcome"),
        ("200 OK", r#"["alice"]"#),
        ("200 OK", r#"{"sub": null}"#),
        ("200 OK", r#"{"sub": "alice", "sub": "bob"}"#),
        ("200 OK", r#"{"sub": ""}"#),
        ("200 OK", r#"{"sub": "alice", "can": 7}"#),
        ("200 OK", r#"{"sub": "alice", "prefix": "../.."}"#),
        ("200 OK", r#"{"sub": "alice", "types": []}"#),
        ("200 OK", &format!("{{\"sub\": \"alice\"{}}}", " ".repeat(20_000))),
    ] {
        server.respond_with(status, body);
        refused(body);
    }
    server.respond(|_| None);
    refused("a closed connection");
    server.respond(|_| Some("no HTTP\r\n\r\n".to_owned()));
    refused("no HTTP");
    server.respond(|_| Some("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_owned()));
    refused("a response that does not end");
    // The first failure of several is worth a warning, with its cause.
    let log = world.gateway.log_with("the auth server cannot be asked: auth.forward_url");
    assert_eq!(
        log.matches("the auth server cannot be asked: auth.forward_url").count(),
        1,
        "{log}"
    );
    assert!(log.contains("status 500"), "{log}");
    // Failures are not cached.
    server.respond(|head| Some(sessions(head)));
    put(&world, "a.txt", &[ALICE]).stored();
    world.gateway.log_with("the auth server can be asked again");
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn an_auth_server_that_cannot_be_reached_is_no_refusal() {
    let address = TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("one");
    let world = Setup::new().set("auth.forward_url", format!("http://{address}")).start();
    put(&world, "a.txt", &[ALICE]).problem(503, "credential_unavailable");
    let response = post(&world, "/v1/files?reply=tinymce", &[ALICE], &small());
    assert_eq!(response.status, 503, "{}", response.text());
    put(&world, "a.txt", &[]).problem(503, "credential_unavailable");
    world.assert_nothing_stored();
    // Keys do not need it.
    world.post(&small()).stored();
}

#[test]
fn decisions_are_cached_by_all_that_is_sent() {
    let server = AuthServer::start();
    let world = server.setup().start();
    let twice = |path: &str, headers: &[(&str, &str)]| {
        put(&world, path, headers);
        put(&world, path, headers);
        server.calls()
    };
    assert_eq!(twice("a.txt", &[ALICE]), 1);
    assert_eq!(twice("a.txt", &[BOB]), 2);
    assert_eq!(twice("b.txt", &[BOB]), 3);
    assert_eq!(twice("b.txt", &[BOB, ("x-session", "1")]), 4);
    assert_eq!(twice("b.txt", &[BOB, ("authorization", "Basic eDp5")]), 5);
    // What the auth server is not sent does not matter.
    assert_eq!(twice("b.txt?x=1", &[BOB, ("x-other", "1")]), 5);
    call(&world, "DELETE", "/v1/files/b.txt", &json!(null), &[BOB]);
    assert_eq!(server.calls(), 6, "another method");
    // A refusal, until the user has logged in.
    let carol = ("cookie", "session=carol");
    assert_eq!(twice("c.txt", &[carol]), 7);
    server.respond_with("200 OK", json!({"sub": "carol"}));
    wait_until("the refusal is forgotten", || put(&world, "c.txt", &[carol]).status == 201);
    assert_eq!(server.calls(), 8);
}

#[test]
fn a_decision_expires() {
    let server = AuthServer::start();
    let world = server.setup().set("auth.forward_cache", "200ms").start();
    put(&world, "a.txt", &[ALICE]).stored();
    server.respond_with("401 Unauthorized", "");
    wait_until("the session has ended", || put(&world, "a.txt", &[ALICE]).status == 401);
}

/// Sends one PUT on a connection of its own; the response is read later.
fn begin_put(world: &World, path: &str, cookie: &str) -> Client {
    let mut client = world.client();
    client.send_request("PUT", &format!("/v1/files/{path}"), &[("cookie", cookie)], b"x");
    client
}

#[test]
fn equal_requests_at_once_are_one_call() {
    let server = AuthServer::start();
    let world = server.setup().set("auth.forward_timeout", "30s").start();
    let is_open = Arc::new(AtomicBool::new(false));
    let opened = is_open.clone();
    server.respond(move |head| {
        wait_until("the server may respond", || opened.load(Ordering::Relaxed));
        Some(sessions(head))
    });
    let mut clients: Vec<_> =
        (0..100).map(|_| begin_put(&world, "a.txt", "session=alice")).collect();
    wait_until("all are connected", || value(&metrics(&world), "gateway_connections") >= 100.0);
    wait_until("the server is asked", || server.calls() > 0);
    // The client that asked gives up; the others must not wait for it.
    drop(clients.remove(0));
    is_open.store(true, Ordering::Relaxed);
    for client in &mut clients {
        client.response().stored();
    }
    assert!(server.calls() <= 2, "{} calls", server.calls());
}

#[test]
fn calls_at_once_are_bounded() {
    let server = AuthServer::start();
    let world = server.setup().set("auth.forward_timeout", "30s").start();
    let (is_open, running, most) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (opened, now, peak) = (is_open.clone(), running.clone(), most.clone());
    server.respond(move |_| {
        peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        wait_until("the server may respond", || opened.load(Ordering::Relaxed));
        now.fetch_sub(1, Ordering::SeqCst);
        Some(response("200 OK", ""))
    });
    let mut clients: Vec<_> =
        (0..200).map(|index| begin_put(&world, "a.txt", &format!("session={index}"))).collect();
    wait_until("all slots are in use", || running.load(Ordering::SeqCst) >= 64);
    wait_until("all are connected", || value(&metrics(&world), "gateway_connections") >= 200.0);
    is_open.store(true, Ordering::Relaxed);
    for client in &mut clients {
        client.response().stored();
    }
    assert_eq!(most.load(Ordering::SeqCst), 64);
}

/// Sessions that strangers make up, and those of many users: neither costs memory without end.
#[test]
fn ten_thousand_cookies_take_bounded_memory() {
    const COOKIES: usize = 10_000;
    let server = AuthServer::start();
    let world = server.setup().set("auth.forward_cache", "1h").start();
    // A large response, and a large cookie: only the hash of the latter is cached.
    let types: Vec<_> = (0..500).map(|index| format!("image/x-{index:06}")).collect();
    server.respond(move |head| {
        let is_known = head.contains("known");
        let claims = json!({"can": "download", "types": types});
        Some(match is_known {
            true => response("200 OK", &claims.to_string()),
            false => response("401 Unauthorized", &json!({"detail": "x".repeat(300)}).to_string()),
        })
    });
    let all = |from: usize, to: usize| {
        std::thread::scope(|scope| {
            for part in 0..4 {
                let world = &world;
                scope.spawn(move || {
                    let mut client = world.client();
                    for index in (from..to).filter(|index| index % 4 == part) {
                        let kind = if index % 2 == 0 { "known" } else { "stranger" };
                        let cookie = format!("{kind}={index}; {}", "c".repeat(1000));
                        client.send_request("DELETE", "/v1/files/a", &[("cookie", &cookie)], b"");
                        let status = client.response().status;
                        assert_eq!(status, if index % 2 == 0 { 403 } else { 401 });
                    }
                });
            }
        });
    };
    all(0, 1000);
    let before = world.gateway.memory("VmRSS");
    all(1000, COOKIES);
    let after = world.gateway.memory("VmRSS");
    println!("{COOKIES} cookies: RSS {before} KiB after 1000, {after} KiB after all");
    assert!(after < before + (40 << 10), "{before} KiB, {after} KiB");
}

#[test]
fn pages_of_listed_origins_may_send_credentials_and_no_others() {
    let server = AuthServer::start();
    let world = server.setup().start();
    let asked =
        [("access-control-request-method", "PUT"), ("access-control-request-headers", "x-any")];
    for (origin, allowed) in [
        (PANEL, true),
        ("https://evil.example.com", false),
        ("https://panel.example.com.evil.com", false),
        ("null", false),
    ] {
        let origin_header = ("origin", origin);
        let preflight = [&[origin_header], &asked[..]].concat();
        for (response, what) in [
            (world.call_with("OPTIONS", "/v1/files/a.txt", &preflight, ""), "preflight"),
            (put(&world, "a.txt", &[origin_header, ALICE]), "stored"),
            (put(&world, "b.txt", &[origin_header, ("cookie", "session=x")]), "refused"),
            (world.call_with("GET", "/v1/files/a.txt", &[origin_header, ALICE], ""), "read"),
        ] {
            let header = |name| response.header(name);
            let expected = if allowed { (Some(PANEL), Some("true")) } else { (None, None) };
            let found =
                (header("access-control-allow-origin"), header("access-control-allow-credentials"));
            assert_eq!(found, expected, "{what} of {origin}");
        }
    }
    assert_eq!(world.objects().len(), 1);
}

/// A page of a foreign origin can make a browser send a user's cookies. No request that changes something may pass.
#[test]
fn a_foreign_page_cannot_use_a_session() {
    let server = AuthServer::start();
    let world = server.setup().start();
    put(&world, "a.txt", &[ALICE]).stored();
    let create = [ALICE, TUS, ("upload-length", "5")];
    let created = world.call_with("POST", "/v1/uploads", &create, "");
    assert_eq!(created.status, 201, "{}", created.text());
    let upload = path_of(&created);
    let before = server.calls();
    let files = json!({"files": ["a.txt"]}).to_string();
    let ids = json!({"fileid_list": ["cloud://x/a.txt"]}).to_string();
    let form = String::from_utf8(small().bytes()).expect("text");
    let kind = small().content_type();
    let plain: &[(&str, &str)] = &[("content-type", "text/plain")];
    let multipart: &[(&str, &str)] = &[("content-type", &kind)];
    let patch: &[(&str, &str)] = &[TUS, OCTETS, ("upload-offset", "0")];
    let override_patch: &[(&str, &str)] =
        &[TUS, OCTETS, ("upload-offset", "0"), ("x-http-method-override", "PATCH")];
    let override_delete: &[(&str, &str)] = &[TUS, ("x-http-method-override", "DELETE")];
    type Lines<'a> = &'a [(&'a str, &'a str)];
    let requests: [(&str, &str, Lines, &str); 13] = [
        ("POST", "/v1/files", multipart, &form),
        ("POST", "/v1/files?reply=wangeditor", multipart, &form),
        ("PUT", "/v1/files/a.txt", plain, "other"),
        ("DELETE", "/v1/files/a.txt", &[], ""),
        ("DELETE", "/v1/files", plain, "a.txt"),
        ("POST", "/v1/delete", plain, &files),
        ("POST", "/v1/uploads", &[TUS, ("upload-length", "5")], ""),
        ("PATCH", &upload, patch, "hello"),
        ("POST", &upload, override_patch, "hello"),
        ("POST", &upload, override_delete, ""),
        ("DELETE", &upload, &[TUS], ""),
        ("POST", "/tcb/batchdeletefile", plain, &ids),
        ("POST", "/tcb/uploadfile", plain, r#"{"path":"b.txt"}"#),
    ];
    for origin in
        ["https://evil.com", "null", "https://sub.panel.example.com", "http://panel.example.com"]
    {
        for (method, target, headers, body) in requests {
            let headers = [headers, &[ALICE, ("origin", origin)]].concat();
            let response = world.call_with(method, target, &headers, body);
            assert_eq!(response.status, 403, "{origin} {method} {target}: {}", response.text());
            assert!(response.text().contains("origin_not_allowed"), "{}", response.text());
        }
    }
    assert_eq!(server.calls(), before, "the auth server is not asked for them");
    assert_eq!(world.object("a.txt"), b"content");
    assert_eq!(world.objects().len(), 1);
    // The page of the panel, and the gateway's own pages, may.
    for (method, target, headers, body) in [requests[0], requests[7], requests[2], requests[3]] {
        for origin in [PANEL, "http://gateway.test"] {
            let headers = [headers, &[ALICE, ("origin", origin)]].concat();
            let response = world.call_with(method, target, &headers, body);
            assert!(
                response.status < 300 || response.status == 409,
                "{origin} {method} {target}: {}",
                response.text()
            );
        }
    }
}

#[test]
fn resumable_uploads_belong_to_the_user_of_the_session() {
    let server = AuthServer::start();
    let world = server.setup().start();
    let metadata = crate::resumable::metadata(&[("path", "a.txt")]);
    let headers = [ALICE, TUS, ("upload-length", "10"), ("upload-metadata", metadata.as_str())];
    let created = world.call_with("POST", "/v1/uploads", &headers, "");
    assert_eq!(created.status, 201, "{}", created.text());
    let url = path_of(&created);
    let patch = |user: (&str, &str), offset: &str, body: &str| {
        world.call_with("PATCH", &url, &[user, TUS, OCTETS, ("upload-offset", offset)], body)
    };
    patch(BOB, "0", "01234").problem(404, "upload_not_found");
    patch(("cookie", "session=nobody"), "0", "01234").problem(401, "unauthenticated");
    // Other cookies change from request to request, and it is still the same user.
    assert_eq!(patch(ALICE, "0", "01234").status, 204);
    let later = ("cookie", "theme=light; seen=7; session=alice");
    let bob_deletes = [BOB, TUS, ("x-http-method-override", "DELETE")];
    world.call_with("POST", &url, &bob_deletes, "").problem(404, "upload_not_found");
    let head = server.received().pop().expect("a request");
    assert!(head.contains("X-Forwarded-Method: DELETE\r\n"), "{head}");
    assert_eq!(patch(later, "5", "56789").status, 204);
    assert_eq!(world.object("a.txt"), b"0123456789");
    // An override counts only where it is one.
    let headers = [ALICE, ("x-http-method-override", "GET")];
    call(&world, "POST", "/v1/delete", &json!({"files": ["none.txt"]}), &headers);
    let head = server.received().pop().expect("a request");
    assert!(head.contains("X-Forwarded-Method: POST\r\n"), "{head}");
}

#[test]
fn rates_and_idempotency_are_per_user() {
    let server = AuthServer::start();
    let world = server.setup().set("auth.forward.rate", "3/h").start();
    let upload = |user: (&str, &str), path: &str| {
        put(&world, path, &[user, ("idempotency-key", "the-same-key-for-both")])
    };
    upload(ALICE, "a.txt").stored();
    let again = upload(ALICE, "a.txt");
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = upload(BOB, "a.txt");
    assert_eq!((other.status, other.header("idempotent-replayed")), (201, None));
    put(&world, "b.txt", &[("cookie", "session=alice; other=1")]).stored();
    put(&world, "c.txt", &[ALICE]).problem(429, "rate_limited");
    put(&world, "c.txt", &[BOB]).stored();
    assert_eq!(world.objects().len(), 3);
}

#[test]
fn the_client_s_address_is_that_behind_trusted_proxies() {
    let server = AuthServer::start();
    let world = server.setup().set("server.trusted_proxies", "127.0.0.0/8").start();
    let forwarded = [
        ALICE,
        ("x-forwarded-for", "8.8.8.8, 203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "files.example.com"),
    ];
    put(&world, "a.txt", &forwarded).stored();
    let head = server.received().remove(0);
    for line in ["For: 203.0.113.7", "Proto: https", "Host: files.example.com"] {
        assert!(head.contains(&format!("X-Forwarded-{line}\r\n")), "{head}");
    }
    assert!(!head.contains("8.8.8.8"), "{head}");
    // Another address is another decision.
    put(&world, "a.txt", &[ALICE, ("x-forwarded-for", "203.0.113.8")]).stored();
    assert_eq!(server.calls(), 2);
}

#[test]
fn a_quota_is_per_user_or_of_all_that_the_auth_server_lets_in() {
    for (per, claims, second) in [
        ("sub", true, 201),
        ("client", true, 429),
        // Sessions without a user: a new one begins no new count.
        ("sub", false, 429),
        ("client", false, 429),
    ] {
        let server = AuthServer::start();
        if !claims {
            server.respond_with("204 No Content", "");
        }
        let setup = server.setup().set("auth.forward.quota", "users").set("quota.users.per", per);
        let world = setup.set("quota.users.files_per_day", "1").start();
        put(&world, "a.txt", &[ALICE]).stored();
        put(&world, "b.txt", &[ALICE]).problem(429, "daily_quota_exceeded");
        assert_eq!(put(&world, "c.txt", &[BOB]).status, second, "{per}, {claims}");
    }
}

#[test]
fn the_sessions_and_the_tickets_of_a_user_share_a_quota() {
    let server = AuthServer::start();
    let setup = server.setup().set("auth.forward.quota", "users").set("auth.jwt.quota", "users");
    let world = setup.set("quota.users.files_per_day", "1").start();
    put(&world, "a.txt", &[ALICE]).stored();
    let by_ticket = |user: &str| {
        let claims = json!({ "sub": user, "can": ["upload"] });
        let bearer = format!("Bearer {}", ticket(claims));
        put(&world, &format!("{user}.txt"), &[("authorization", &bearer)])
    };
    by_ticket("alice").problem(429, "daily_quota_exceeded");
    by_ticket("bob").stored();
}
