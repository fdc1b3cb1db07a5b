//! Reading files by their stable URLs, and URLs that name no file.

use serde_json::{Value, json};

use crate::harness::{Client, Form, Response, Setup, World, authorization};

const SECRET: &str = "the-app-secret-of-the-sandbox";

fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"small")
}

fn get(world: &World, target: &str) -> Response {
    let mut client = world.client();
    client.send_request("GET", target, &[], b"");
    client.response()
}

/// The target of a redirect.
fn target(response: &Response) -> &str {
    assert_eq!(response.status, 302, "{}", response.text());
    response.header("location").expect("a target")
}

/// Stores `content` under `path`, as named by the client.
fn store(world: &World, path: &str, content: &[u8]) -> Value {
    let form = Form::new().field("path", path).file("file", "x", "text/plain", content);
    world.post(&form).stored()
}

fn url_of(file: &Value) -> &str {
    file["url"].as_str().expect("a URL")
}

/// Asserts that `address` redirects to `content`.
fn assert_leads_to(world: &World, target: &str, content: &[u8]) {
    assert!(world.download(target).0 == content, "{target} leads to other bytes");
}

#[test]
fn a_file_url_redirects_to_the_file() {
    let world = Setup::new().start();
    let file = store(&world, "docs/x.txt", b"content");
    let response = get(&world, "/v1/files/docs/x.txt");
    assert!(target(&response).contains("docs/x.txt?"), "{response:?}");
    let cache = response.header("cache-control").expect("a life");
    let age = cache.strip_prefix("private, max-age=").and_then(|age| age.parse::<u64>().ok());
    assert!(age.is_some_and(|age| (1..=300).contains(&age)), "{cache}");
    assert_leads_to(&world, url_of(&file), b"content");
}

#[test]
fn head_is_get_without_a_body() {
    let world = Setup::new().start();
    store(&world, "x.txt", b"content");
    let mut client = world.client();
    for (target, status) in [
        ("/v1/files/x.txt", 302),
        ("/v1/files/none.txt", 404),
        ("/v1/files/a//b", 400),
        ("/nowhere", 404),
        ("/healthz", 200),
        ("/readyz", 200),
    ] {
        client.send_request("GET", target, &[], b"");
        let get = client.response();
        assert_eq!(get.status, status, "{}", get.text());
        client.send_request("HEAD", target, &[], b"");
        let (status, headers) = client.response_head().expect("a head");
        // A body would be read as the next response's head.
        let head = Response { status, headers, body: Vec::new() };
        assert_eq!(head.status, get.status, "{target}");
        for name in ["location", "content-type"] {
            assert_eq!(head.header(name), get.header(name), "{target}");
        }
    }
}

#[test]
fn many_readers_cost_one_call() {
    let world = Setup::new().start();
    let file = store(&world, "x.txt", b"content");
    let first = target(&get(&world, "/v1/files/x.txt")).to_owned();
    for _ in 0..30 {
        assert_eq!(target(&get(&world, "/v1/files/x.txt")), first);
    }
    let mut client = world.client();
    client.send_request("HEAD", "/v1/files/x.txt", &[], b"");
    assert_eq!(client.response_head().expect("a head").0, 302);
    assert_eq!(world.count("batchdownloadfile"), 1);
    assert_eq!(world.count("uploadfile"), 1, "the upload's own");
    assert_leads_to(&world, url_of(&file), b"content");
}

#[test]
fn after_a_restart_files_are_found_by_one_probe() {
    let mut world = Setup::new().start();
    let one = store(&world, "one.txt", b"one");
    let two = store(&world, "文档/two.txt", b"two");
    world.restart();
    let (links, downloads) = (world.count("uploadfile"), world.count("batchdownloadfile"));
    assert_leads_to(&world, url_of(&one), b"one");
    assert_eq!(world.count("uploadfile") - links, 1);
    assert_eq!(world.count("batchdownloadfile") - downloads, 1);
    assert_leads_to(&world, url_of(&two), b"two");
    assert_eq!(world.count("uploadfile") - links, 1, "the bucket is known");
    assert_eq!(world.count("batchdownloadfile") - downloads, 2);
    assert_eq!(world.objects().len(), 2, "the probe stores nothing");
}

#[test]
fn with_the_file_ids_prefix_set_nothing_is_probed() {
    let prefix = "cloud://sandbox-1a2b3c.7361-sandbox-1a2b3c-1250000000";
    let mut world = Setup::new().set("wechat.file_id_prefix", prefix).start();
    let file = store(&world, "x.txt", b"content");
    assert_eq!(file["file_id"], format!("{prefix}/x.txt"));
    world.restart();
    assert_leads_to(&world, url_of(&file), b"content");
    assert_eq!(world.count("uploadfile"), 1, "the upload's own");
    assert_eq!(world.count("batchdownloadfile"), 1);
}

#[test]
fn a_file_that_is_missing_is_not_found_until_it_is_stored() {
    let world = Setup::new().start();
    let problem = get(&world, "/v1/files/docs/x.txt").problem(404, "file_not_found");
    assert!(problem["detail"].as_str().expect("a text").contains("docs/x.txt"), "{problem}");
    let file = store(&world, "docs/x.txt", b"content");
    assert_leads_to(&world, url_of(&file), b"content");
}

#[test]
fn a_file_stored_without_its_fileid_is_not_found_with_a_reason() {
    let world = Setup::new().start();
    let options = tcb_upload_gateway::sandbox::Options::default();
    let call = |target: &str, body: &Value| {
        let mut client = Client::connect(world.sandbox.wechat_addr());
        client.send_request("POST", target, &[], body.to_string().as_bytes());
        client.response().json()
    };
    let token = call(
        "/cgi-bin/stable_token",
        &json!({"grant_type": "client_credential", "appid": options.appid, "secret": options.secret}),
    );
    let link = call(
        &format!("/tcb/uploadfile?access_token={}", token["access_token"].as_str().expect("one")),
        &json!({"env": options.env, "path": "by-hand.txt"}),
    );
    let text = |name: &str| link[name].as_str().unwrap_or_else(|| panic!("{name}: {link}"));
    let form = Form::new()
        .field("key", "by-hand.txt")
        .field("Signature", text("authorization"))
        .field("x-cos-security-token", text("token"))
        .file("file", "x", "text/plain", b"content");
    let mut cos = Client::connect(world.sandbox.cos_addr());
    let path = text("url").splitn(4, '/').nth(3).expect("a path");
    let kind = form.content_type();
    cos.send_request("POST", &format!("/{path}"), &[("content-type", &kind)], &form.bytes());
    let response = cos.response();
    assert_eq!(response.status, 204, "{}", response.text());
    assert_eq!(world.objects()[0]["fileid_ok"], false);

    let problem = get(&world, "/v1/files/by-hand.txt").problem(404, "file_not_found");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("x-cos-meta-fileid"), "{detail}");
}

#[test]
fn urls_that_name_no_path() {
    let world = Setup::new().start();
    for path in ["", "/x", "a//b", "a/", "..%2fa", "a/%2e%2e/b", "a%00b", "%ff", "a%0Ab", "a%25b"] {
        get(&world, &format!("/v1/files/{path}")).problem(400, "invalid_path");
    }
    get(&world, &format!("/v1/files/{}", "x".repeat(851))).problem(400, "invalid_path");
    assert_eq!(world.count("batchdownloadfile"), 0);
    get(&world, &format!("/v1/files/{}", "x".repeat(850))).problem(404, "file_not_found");
}

#[test]
fn files_of_all_names_are_stored_and_downloaded() {
    let world = Setup::new().start();
    for (name, encoded) in [
        (
            "图片/我 的 照片.txt",
            "%E5%9B%BE%E7%89%87/%E6%88%91%20%E7%9A%84%20%E7%85%A7%E7%89%87.txt",
        ),
        ("a b/c+d&e=f;g,h.txt", "a%20b/c%2Bd%26e%3Df%3Bg%2Ch.txt"),
        ("is it?.txt", "is%20it%3F.txt"),
        ("mail@host:8080!*('x').txt", "mail%40host%3A8080%21%2A%28%27x%27%29.txt"),
        ("😀-é.txt", "%F0%9F%98%80-%C3%A9.txt"),
        ("a-b._c/d.txt", "a-b._c/d.txt"),
    ] {
        let file = store(&world, name, name.as_bytes());
        assert_eq!(file["path"], name);
        assert_eq!(url_of(&file), format!("http://gateway.test/v1/files/{encoded}"));
        assert_leads_to(&world, url_of(&file), name.as_bytes());

        let mut client = world.client();
        let again = [name.as_bytes(), b" again"].concat();
        client.send_request("PUT", &format!("/v1/files/{encoded}"), &[authorization()], &again);
        assert_eq!(client.response().stored()["path"], name);
        assert_leads_to(&world, url_of(&file), &again);
    }
    // An é as macOS writes it: a letter and a combining accent (NFD).
    let response = get(&world, "/v1/files/%F0%9F%98%80-e%CC%81.txt");
    assert!(target(&response).contains("-%C3%A9.txt?"), "{response:?}");
    assert_eq!(world.objects().len(), 6);
}

#[test]
fn urls_in_responses_have_the_host_that_clients_use() {
    let world = Setup::new().start();
    let url_for_host = |host: &str| {
        let (kind, body) = (small().content_type(), small().bytes());
        let (name, key) = authorization();
        let head = format!(
            "POST /v1/files HTTP/1.1\r\nhost: {host}\r\n{name}: {key}\r\ncontent-type: {kind}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let mut client = world.client();
        client.send(head.as_bytes());
        client.send(&body);
        let response = client.response();
        let file = response.stored();
        assert_eq!(response.header("location"), Some(url_of(&file)));
        let (base, path) = url_of(&file).split_once("/v1/files/").expect("a URL");
        assert_eq!(file["path"], path);
        base.to_owned()
    };
    for host in ["files.example.com", "127.0.0.1:8080", "[::1]:8080", "my-host_1"] {
        assert_eq!(url_for_host(host), format!("http://{host}"));
    }
    // An invalid host is not used in URLs.
    for host in ["a\"><script>", "user@host", ""] {
        assert_eq!(url_for_host(host), "");
    }

    for (public, base) in [
        ("https://files.example.com", "https://files.example.com"),
        ("https://Example.com:8443/gw/", "https://example.com:8443/gw"),
    ] {
        let world = Setup::new().set("server.public_url", public).start();
        let response = world.post(&small());
        let file = response.stored();
        let path = file["path"].as_str().expect("a path");
        assert_eq!(url_of(&file), format!("{base}/v1/files/{path}"));
        assert_eq!(response.header("location"), Some(url_of(&file)));
        assert_leads_to(&world, url_of(&file), b"small");
    }
}

#[test]
fn a_reader_is_told_what_wechat_said() {
    let world = Setup::new().start();
    store(&world, "x.txt", b"content");
    let read = || get(&world, "/v1/files/x.txt");
    let failing = |rule: Value| {
        let mut rule = rule;
        rule["stage"] = json!("download");
        world.faults(&json!([rule]));
        world.count("batchdownloadfile")
    };

    let before = failing(json!({"fault": "errcode", "errcode": -1, "errmsg": "system error"}));
    let problem = read().problem(502, "wechat_refused");
    assert_eq!(problem["errcode"], -1);
    assert_eq!(world.count("batchdownloadfile") - before, 3, "passing failures are retried");

    for code in [40164, 48001, -501000] {
        let before = failing(json!({"fault": "errcode", "errcode": code, "errmsg": "no, not you"}));
        let problem = read().problem(502, "wechat_refused");
        assert_eq!(problem["errcode"], code);
        let rid = problem["rid"].as_str().expect("an id");
        assert!(rid.len() == 26 && rid.split('-').count() == 3, "{rid}");
        assert!(problem["detail"].as_str().expect("a text").contains("no, not you"), "{problem}");
        assert_eq!(world.count("batchdownloadfile") - before, 1, "{code} is not retried");
    }

    for rule in [
        json!({"fault": "status", "status": 500}),
        json!({"fault": "garbage"}),
        json!({"fault": "reset_before"}),
        json!({"fault": "close"}),
    ] {
        failing(rule);
        read().problem(502, "wechat_unreachable");
    }

    // Failures are not cached, and temporary ones are retried unnoticed by the client.
    failing(json!({"fault": "errcode", "errcode": -1, "times": 2}));
    assert_leads_to(&world, "/v1/files/x.txt", b"content");
}

#[test]
fn a_file_id_prefix_of_another_bucket_is_noticed() {
    let world = Setup::new().set("wechat.file_id_prefix", "cloud://other.bucket").start();
    let problem = get(&world, "/v1/files/x.txt").problem(502, "wechat_refused");
    assert_eq!(problem["errcode"], -501007);
}

#[test]
fn a_download_is_bounded_in_time() {
    let world = Setup::new().set("wechat.timeout", "300ms").start();
    store(&world, "x.txt", b"content");
    world.faults(&json!([{"stage": "download", "fault": "stall"}]));
    get(&world, "/v1/files/x.txt").problem(504, "wechat_timeout");
    assert_eq!(world.count("batchdownloadfile"), 1, "the wait is not repeated");
}

#[test]
fn a_revoked_token_is_replaced_unnoticed() {
    let world = Setup::new().start();
    store(&world, "x.txt", b"content");
    world.control("POST", "tokens/revoke", "");
    assert_leads_to(&world, "/v1/files/x.txt", b"content");
    assert_eq!(world.count("stable_token"), 2);
}

#[test]
fn unknown_urls_and_methods() {
    let world = Setup::new().start();
    let ask = |method: &str, target: &str| {
        let mut client = world.client();
        client.send_request(method, target, &[authorization()], b"");
        client.response()
    };
    // In production the console is switched off.
    for target in ["/", "/console", "/v1", "/v1/", "/v1/filesystem", "/v2/files", "//v1/files"] {
        for method in ["GET", "POST", "PUT"] {
            ask(method, target).problem(404, "not_found");
        }
    }
    for (method, target) in [
        ("GET", "/v1/files"),
        ("PUT", "/v1/files"),
        ("PATCH", "/v1/files"),
        ("POST", "/v1/files/x.txt"),
        ("PATCH", "/v1/files/x.txt"),
        ("POST", "/healthz"),
        ("PUT", "/readyz"),
    ] {
        ask(method, target).problem(405, "method_not_allowed");
    }
    world.assert_nothing_stored();
}

#[test]
fn health_and_readiness_are_reported() {
    let secret =
        |options: &mut tcb_upload_gateway::sandbox::Options| SECRET.clone_into(&mut options.secret);
    let world = Setup::new().sandbox(secret).start();
    assert_eq!(get(&world, "/healthz").json(), json!({"status": "ok"}));
    assert_eq!(world.count("stable_token"), 0);
    for _ in 0..3 {
        let response = get(&world, "/readyz");
        assert_eq!((response.status, response.json()), (200, json!({"status": "ready"})));
    }
    assert_eq!(world.count("stable_token"), 1);

    let world = Setup::new().sandbox(secret).set("wechat.secret", "another-secret").start();
    assert_eq!(get(&world, "/healthz").status, 200);
    let response = get(&world, "/readyz");
    let problem = response.problem(503, "credential_unavailable");
    assert_eq!(problem["errcode"], 40125);
    let wait = response.header("retry-after").and_then(|wait| wait.parse::<u64>().ok());
    assert!(wait.is_some_and(|wait| (1..=60).contains(&wait)), "{response:?}");
    let text = response.text();
    assert!(!text.contains("another-secret") && !text.contains(SECRET), "{text}");
}
