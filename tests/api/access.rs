//! API keys: what each may do; and CORS: which origins may send requests.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Client, Form, KEY, Response, Setup, World, authorization};

const LISTED: &str = "https://panel.example.com";
const FOREIGN: &str = "https://evil.example.org";

fn small() -> Form {
    Form::new().file("file", "x.txt", "text/plain", b"small")
}

fn sha256(key: &str) -> String {
    hex::encode(Sha256::digest(key))
}

/// Posts `form` with exactly these headers and the form's own content type.
fn post(world: &World, target: &str, headers: &[(&str, &str)], form: &Form) -> Response {
    let (kind, body) = (form.content_type(), form.bytes());
    let mut client = world.client();
    let headers = [headers, &[("content-type", &kind)]].concat();
    client.send_request("POST", target, &headers, &body);
    client.response()
}

fn put(world: &World, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut client = world.client();
    client.send_request("PUT", target, headers, body);
    client.response()
}

/// The response to the head of an upload of 100 MB of which no byte is sent.
fn response_to_head(
    world: &World,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Response {
    let kind = small().content_type();
    let more = [("content-type", kind.as_str()), ("content-length", "100000000")];
    let mut client = world.client();
    client.send_head(method, target, &[headers, &more].concat());
    client.response()
}

fn path_of(file: &Value) -> &str {
    file["path"].as_str().expect("a path")
}

fn assert_unauthenticated(response: &Response) {
    response.problem(401, "unauthenticated");
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
}

#[test]
fn without_a_key_the_refusal_comes_before_the_body() {
    let world = Setup::new().start();
    for (method, target) in [("POST", "/v1/files"), ("PUT", "/v1/files/a/b.txt")] {
        assert_unauthenticated(&response_to_head(&world, method, target, &[]));
        // The same when the body has already arrived.
        let mut client = world.client();
        client.send_request(method, target, &[], b"x");
        assert_unauthenticated(&client.response());
    }
    assert_eq!(world.count("stable_token"), 0);
    assert_eq!(world.count("uploadfile"), 0);
    world.assert_nothing_stored();
}

#[test]
fn a_wrong_key_is_refused_even_if_no_key_is_required() {
    for anonymous in [false, true] {
        let world = Setup::new().set("auth.anonymous", anonymous).start();
        let hash = format!("Bearer {}", sha256(KEY));
        for wrong in [
            "Bearer another-key",
            "Bearer panel-key-for-test",
            "Bearer panel-key-for-tests-",
            "Bearer PANEL-KEY-FOR-TESTS",
            &hash,
            "Bearer ",
            "Bearer",
            "Basic panel-key-for-tests",
            "panel-key-for-tests",
        ] {
            let headers = [("authorization", wrong)];
            assert_unauthenticated(&response_to_head(&world, "POST", "/v1/files", &headers));
            assert_unauthenticated(&post(&world, "/v1/files", &headers, &small()));
        }
        world.assert_nothing_stored();
        post(&world, "/v1/files", &[authorization()], &small()).stored();
        let lower = [("authorization", "bearer panel-key-for-tests")];
        post(&world, "/v1/files", &lower, &small()).stored();
        assert_eq!(world.objects().len(), 2);
    }
}

#[test]
fn anonymous_uploads_need_no_key() {
    let world = Setup::new().set("auth.anonymous", true).start();
    post(&world, "/v1/files", &[], &small()).stored();
    assert_eq!(put(&world, "/v1/files/own/x.txt", &[], b"x").stored()["path"], "own/x.txt");
    assert_eq!(world.objects().len(), 2);
}

#[test]
fn a_hash_of_digits_only_is_a_hash() {
    let digits = "1234567890".repeat(6) + "1234";
    let zeros = "0".repeat(63) + "7";
    let world = Setup::new()
        .set("auth.keys.digits.sha256", &digits)
        .set("auth.keys.zeros.sha256", zeros)
        .start();
    post(&world, "/v1/files", &[authorization()], &small()).stored();
    let hash = format!("Bearer {digits}");
    assert_unauthenticated(&post(&world, "/v1/files", &[("authorization", &hash)], &small()));
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn a_key_without_upload_permission_is_refused_before_the_body() {
    let world = Setup::new()
        .set("auth.keys.reader.sha256", sha256("reader's"))
        .set("auth.keys.reader.can", "download, link,delete")
        .set("auth.keys.writer.sha256", sha256("writer's"))
        .set("auth.keys.writer.can", "upload")
        .start();
    let reader = [("authorization", "Bearer reader's")];
    for (method, target) in [("POST", "/v1/files"), ("PUT", "/v1/files/a.txt")] {
        let problem = response_to_head(&world, method, target, &reader).problem(403, "not_allowed");
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains("reader") && detail.contains("upload"), "{detail}");
    }
    post(&world, "/v1/files", &reader, &small()).problem(403, "not_allowed");
    world.assert_nothing_stored();
    post(&world, "/v1/files", &[("authorization", "Bearer writer's")], &small()).stored();
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn a_key_with_a_prefix_stays_under_it() {
    let world = Setup::new()
        .set("auth.keys.panel.prefix", "panel")
        .set("auth.keys.other.sha256", sha256("other's"))
        .start();
    let with_path = |path: &str| Form::new().field("path", path).file("f", "x", "text/plain", b"x");

    let generated = world.post(&small()).stored();
    assert!(path_of(&generated).starts_with("panel/uploads/20"), "{generated}");
    let below = Form::new().field("dir", "中/d").file("f", "x.txt", "text/plain", b"x");
    let below = world.post(&below).stored();
    assert!(path_of(&below).starts_with("panel/uploads/20"), "{below}");
    assert!(path_of(&below).contains("/中/d/"), "{below}");
    assert_eq!(world.post(&with_path("panel/own.txt")).stored()["path"], "panel/own.txt");
    let own = put(&world, "/v1/files/panel%2Fa/own.txt", &[authorization()], b"x").stored();
    assert_eq!(own["path"], "panel/a/own.txt");
    assert_eq!(world.objects().len(), 4);

    for outside in ["own.txt", "panelist/own.txt", "PANEL/own.txt", "panel"] {
        let problem = world.post(&with_path(outside)).problem(403, "path_not_allowed");
        assert!(problem["detail"].as_str().expect("a text").contains("panel/"), "{problem}");
        let target = format!("/v1/files?path={outside}");
        world.post_to(&target, &small()).problem(403, "path_not_allowed");
        let target = format!("/v1/files/{outside}");
        response_to_head(&world, "PUT", &target, &[authorization()])
            .problem(403, "path_not_allowed");
    }
    for climbing in ["panel/../own.txt", "panel//own.txt", "panel/./../own.txt"] {
        world.post(&with_path(climbing)).problem(400, "invalid_path");
    }
    for climbing in ["panel/..%2fown.txt", "panel%2f%2e%2e/own.txt"] {
        let target = format!("/v1/files/{climbing}");
        put(&world, &target, &[authorization()], b"x").problem(400, "invalid_path");
    }
    world.post_to("/v1/files?dir=../..", &small()).problem(400, "invalid_path");
    assert_eq!(world.control("GET", "wait?idle=1", "").status, 200);
    assert_eq!(world.objects().len(), 4);

    // The prefix of one key does not restrict another.
    let other = [("authorization", "Bearer other's")];
    post(&world, "/v1/files", &other, &with_path("own.txt")).stored();
}

#[test]
fn paths_are_the_gateway_s_choice_unless_a_key_may_name_them() {
    let world = Setup::new()
        .set("upload.client_paths", false)
        .set("auth.keys.free.sha256", sha256("free's"))
        .set("auth.keys.free.client_paths", true)
        .start();
    let named = Form::new().field("path", "own.txt").file("f", "x", "text/plain", b"x");
    world.post(&named).problem(403, "path_not_allowed");
    world.post_to("/v1/files?path=own.txt", &small()).problem(403, "path_not_allowed");
    response_to_head(&world, "PUT", "/v1/files/own.txt", &[authorization()])
        .problem(403, "path_not_allowed");
    world.assert_nothing_stored();
    let dir = Form::new().field("dir", "d").file("f", "x.txt", "text/plain", b"x");
    assert!(path_of(&world.post(&dir).stored()).contains("/d/"));

    let free = [("authorization", "Bearer free's")];
    assert_eq!(post(&world, "/v1/files", &free, &named).stored()["path"], "own.txt");
    assert_eq!(put(&world, "/v1/files/b.txt", &free, b"x").stored()["path"], "b.txt");

    // A key may also forbid what the setting allows.
    let world = Setup::new().set("auth.keys.panel.client_paths", false).start();
    world.post(&named).problem(403, "path_not_allowed");
    put(&world, "/v1/files/b.txt", &[authorization()], b"x").problem(403, "path_not_allowed");
    world.assert_nothing_stored();
}

#[test]
fn a_page_of_a_foreign_origin_cannot_upload() {
    // Even without keys: a form post needs no preflight, so CORS alone does not stop it.
    let world = Setup::new().set("auth.anonymous", true).set("cors.origins", LISTED).start();
    for foreign in [
        FOREIGN,
        "null",
        "https://panel.example.com.evil.example.org",
        "https://panel.example.com:444",
        "http://panel.example.com",
        "http://gateway.test.evil.example.org",
        "http://gateway.test:81",
        "gateway.test",
    ] {
        let origin = [("origin", foreign)];
        let response = post(&world, "/v1/files", &origin, &small());
        response.problem(403, "origin_not_allowed");
        assert_eq!(response.header("access-control-allow-origin"), None);
        let with_key = [("origin", foreign), authorization()];
        post(&world, "/v1/files", &with_key, &small()).problem(403, "origin_not_allowed");
        response_to_head(&world, "POST", "/v1/files", &origin).problem(403, "origin_not_allowed");
        response_to_head(&world, "PUT", "/v1/files/x", &origin).problem(403, "origin_not_allowed");
    }
    world.assert_nothing_stored();
    post(&world, "/v1/files", &[("origin", "http://gateway.test")], &small()).stored();
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn a_page_of_a_foreign_origin_cannot_read_files() {
    let world = Setup::new().set("cors.origins", LISTED).start();
    let file = world.post(&small()).stored();
    let target = format!("/v1/files/{}", path_of(&file));
    let get = |origin: &str| {
        let mut client = world.client();
        client.send_request("GET", &target, &[("origin", origin)], b"");
        client.response()
    };
    let response = get(FOREIGN);
    response.problem(403, "origin_not_allowed");
    assert_eq!(response.header("location"), None);
    assert_eq!(world.count("batchdownloadfile"), 0);
    assert_eq!(get("http://gateway.test").status, 302);
    let response = get(LISTED);
    assert_eq!(response.status, 302);
    assert_eq!(response.header("access-control-allow-origin"), Some(LISTED));
}

#[test]
fn the_public_url_is_the_gateway_s_own_origin() {
    let world = Setup::new().set("server.public_url", "https://Files.example.com/gw").start();
    let own = [authorization(), ("origin", "https://files.example.com")];
    post(&world, "/v1/files", &own, &small()).stored();
    // The `Origin` and `Host` of a page that reaches the gateway by DNS rebinding.
    let by_host = [authorization(), ("origin", "http://gateway.test")];
    post(&world, "/v1/files", &by_host, &small()).problem(403, "origin_not_allowed");
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn an_allowed_origin_can_read_every_response() {
    let world =
        Setup::new().set("cors.origins", format!("http://localhost:5173, {LISTED}")).start();
    for origin in [LISTED, "http://localhost:5173"] {
        let readable = |response: &Response| {
            assert_eq!(
                response.header("access-control-allow-origin"),
                Some(origin),
                "{response:?}"
            );
            let vary = response.header("vary").expect("vary").to_ascii_lowercase();
            assert!(vary.contains("origin"), "{vary}");
            let exposed = response.header("access-control-expose-headers").expect("names");
            assert!(exposed.to_ascii_lowercase().contains("x-request-id"), "{exposed}");
        };
        let headers = [authorization(), ("origin", origin)];
        let response = post(&world, "/v1/files", &headers, &small());
        response.stored();
        readable(&response);

        let response = post(&world, "/v1/files", &[("origin", origin)], &small());
        assert_unauthenticated(&response);
        readable(&response);
        let response = post(&world, "/v1/files", &headers, &Form::new());
        response.problem(400, "no_file");
        readable(&response);
        let response = response_to_head(&world, "PUT", "/v1/files/a//b", &headers);
        response.problem(400, "invalid_path");
        readable(&response);
        for (method, target, status, code) in [
            ("GET", "/v1/files/none", 404, "file_not_found"),
            ("GET", "/nowhere", 404, "not_found"),
            ("PATCH", "/v1/files", 405, "method_not_allowed"),
        ] {
            let mut client = world.client();
            client.send_request(method, target, &headers, b"");
            let response = client.response();
            response.problem(status, code);
            readable(&response);
        }
        let rule = json!([{"stage": "link", "fault": "errcode", "errcode": -501007, "times": 1}]);
        world.faults(&rule);
        let response = post(&world, "/v1/files", &headers, &small());
        response.problem(502, "wechat_refused");
        readable(&response);
    }
    let without = world.post(&small());
    without.stored();
    assert_eq!(without.header("access-control-allow-origin"), None);
}

#[test]
fn an_allowed_origin_may_send_the_headers_of_upload_widgets() {
    let world = Setup::new().set("cors.origins", LISTED).start();
    let wanted = "authorization,x-requested-with,cache-control,content-type";
    let preflight = |origin: &str, method: &str, target: &str| {
        let mut client = world.client();
        let headers = [
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", wanted),
        ];
        client.send_request("OPTIONS", target, &headers, b"");
        client.response()
    };
    for (method, target) in [("POST", "/v1/files"), ("PUT", "/v1/files/a/b.txt")] {
        let response = preflight(LISTED, method, target);
        assert!(matches!(response.status, 200 | 204), "{response:?}");
        assert_eq!(response.header("access-control-allow-origin"), Some(LISTED));
        let lower = |name: &str| response.header(name).unwrap_or_default().to_ascii_lowercase();
        let allowed = lower("access-control-allow-headers");
        let allowed: Vec<_> = allowed.split(',').map(str::trim).collect();
        assert!(wanted.split(',').all(|name| allowed.contains(&name)), "{allowed:?}");
        let methods = lower("access-control-allow-methods");
        assert!(methods.split(',').any(|m| m.trim().eq_ignore_ascii_case(method)), "{methods}");

        for foreign in [FOREIGN, "null", "http://gateway.test"] {
            let response = preflight(foreign, method, target);
            assert!(response.status >= 400, "{response:?}");
            assert_eq!(response.header("access-control-allow-origin"), None, "{response:?}");
        }
    }
}

#[test]
fn a_client_s_request_id_is_used_if_it_is_valid() {
    let world = Setup::new().start();
    let id_for = |given: &str| {
        let headers = [authorization(), ("x-request-id", given)];
        let response = post(&world, "/v1/files", &headers, &small());
        response.stored();
        let id = response.header("x-request-id").expect("an id").to_owned();
        world.gateway.log_with(&format!("\"{id}\""));
        id
    };
    let long = "a".repeat(128);
    for sane in ["one-id_of.mine-42", "0193e1b2-7a2f-7c1e-8f00-0123456789ab", &long] {
        assert_eq!(id_for(sane), sane);
    }
    let too_long = "b".repeat(129);
    for other in ["two words", "", "quo\"te", "<b>", "semi;colon", "l\u{f6}wen", &too_long] {
        let id = id_for(other);
        assert!(id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'), "{id}");
        assert!(other.is_empty() || !world.gateway.log().contains(other));
    }
    // The id is also in the problem document and in the access log.
    let response = post(&world, "/v1/files", &[("x-request-id", "failing-1")], &small());
    assert_eq!(response.problem(401, "unauthenticated")["request_id"], "failing-1");
    let log = world.gateway.log_with("failing-1");
    let line = log.lines().find(|line| line.contains("failing-1")).expect("a line");
    assert!(line.contains("unauthenticated"), "{line}");
    let line: Value = serde_json::from_str(line).expect("JSON in production");
    assert_eq!(line["status"], 401, "{line}");
    assert_eq!(line["path"], "/v1/files", "{line}");
}

#[test]
fn the_log_holds_no_secrets() {
    let secret = "0123456789abcdef-app-secret";
    for (level, mode) in [("info", "stable"), ("info", "secret"), ("debug", "secret")] {
        let world = Setup::new()
            .sandbox(|options| options.secret = secret.to_owned())
            .set("telemetry.log", level)
            .set("wechat.credential", mode)
            .start();
        let file = world.post(&small()).stored();
        put(&world, "/v1/files/own/x.txt", &[authorization()], b"x").stored();
        let fields = world.objects()[0]["fields"].clone();
        let text = |index: usize| fields[index][1].as_str().expect("a text").to_owned();
        let (signature, security_token, file_id) = (text(1), text(2), text(3));
        assert!(signature.contains("q-signature=") && security_token.len() > 100, "{fields}");

        let mut client = world.client();
        client.send_request("GET", &format!("/v1/files/{}", path_of(&file)), &[], b"");
        let target = client.response().header("location").expect("a target").to_owned();
        let (_, signed) = target.split_once('?').expect("a signature");

        // Failures log more than successes do.
        let wrong = [("authorization", "Bearer a-wrong-key-of-mine")];
        assert_unauthenticated(&post(&world, "/v1/files?ticket=in-the-query", &wrong, &small()));
        for rules in [
            json!([{"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied"}]),
            json!([{"stage": "cos", "fault": "reset_before"}]),
            json!([{"stage": "link", "fault": "reset_before"}]),
            json!([{"stage": "link", "fault": "garbage"}]),
            json!([{"stage": "link", "fault": "errcode", "errcode": 40164}]),
            json!([{"stage": "link", "fault": "foreign_host",
                "url": "http://evil.example.org/x?q-signature=foreign-link"}]),
        ] {
            world.faults(&rules);
            assert!(world.post(&small()).status >= 500, "{rules}");
        }
        world.control("DELETE", "faults", "");
        world.control("POST", "tokens/revoke", "");
        world.post(&small()).stored();

        // The token in use; fetching it again from `stable_token` does not invalidate it.
        let options = tcb_upload_gateway::sandbox::Options::default();
        let ask =
            json!({"grant_type": "client_credential", "appid": options.appid, "secret": secret});
        let mut wechat = Client::connect(world.sandbox.wechat_addr());
        wechat.send_request("POST", "/cgi-bin/stable_token", &[], ask.to_string().as_bytes());
        let token = wechat.response().json()["access_token"].as_str().expect("a token").to_owned();

        let last = [authorization(), ("x-request-id", "the-last-one")];
        post(&world, "/v1/files", &last, &small()).stored();
        let log = world.gateway.log_with("the-last-one");
        assert!(log.contains(path_of(&file)), "the requests are in it:\n{log}");
        for hidden in [
            KEY,
            &sha256(KEY),
            secret,
            &signature,
            &security_token,
            &file_id,
            &token,
            signed,
            "a-wrong-key-of-mine",
            "in-the-query",
            "foreign-link",
            "q-signature",
            "access_token=",
            "secret=",
        ] {
            let line = log.lines().find(|line| line.contains(hidden));
            assert_eq!(line, None, "{hidden} is in the log at {level}");
        }
    }
}
