//! The log and the audit log, as an operator reads them: flat lines, traces, and what each client did.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::forward_auth::AuthServer;
use crate::harness::{Form, KEY, Response, Setup, World, authorization, noise, wait_until};
use crate::hooks::Receiver;
use crate::measured::{metrics, value};
use crate::pages::page;
use crate::recorder::response;
use crate::resumable;
use crate::tickets::{self, ticket};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: (&str, &str) =
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
const HOOK_SECRET: &str = "whsec_dGhlLWtleS1vZi10aGUtaG9va3Mtb2YtdGhlLXRlc3Rz";

fn lines(log: &str) -> Vec<Value> {
    let line =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    log.lines().map(line).collect()
}

/// The lines of a request, once its last one is written.
pub fn lines_of(world: &World, id: &str) -> Vec<Value> {
    let of = || {
        let lines = lines(&world.gateway.log()).into_iter();
        lines.filter(|line| line["request_id"] == id).collect::<Vec<_>>()
    };
    wait_until("the request has its line", || of().iter().any(|line| !line["status"].is_null()));
    of()
}

fn put(world: &World, path: &str, headers: &[(&str, &str)], content: &[u8]) -> Response {
    let mut client = world.client();
    client.send_request("PUT", &format!("/v1/files/{path}"), headers, content);
    client.response()
}

fn own(id: &'static str) -> [(&'static str, &'static str); 2] {
    [authorization(), ("x-request-id", id)]
}

#[test]
fn a_line_is_flat_and_tells_what_an_upload_took() {
    let world = Setup::new().start();
    world.faults(&json!([{"stage": "cos", "fault": "status", "status": 503, "code": "SlowDown", "times": 1}]));
    put(&world, "a/b.bin", &own("stored"), &noise(5000, 1)).stored();
    world.control("DELETE", "faults", "");
    let form =
        Form::new().file("f[]", "x.txt", "text/plain", b"1").file("f[]", "y", "text/plain", b"22");
    let kind = form.content_type();
    let headers = [authorization(), ("x-request-id", "two"), ("content-type", kind.as_str())];
    tickets::send(&world, "POST", "/v1/files?dir=d", &headers[..2], &form);
    let wrong = [("authorization", "Bearer wrong"), ("x-request-id", "bad")];
    put(&world, "a/b.bin?ticket=secret", &wrong, b"").problem(401, "unauthenticated");

    let line = lines_of(&world, "stored").pop().expect("a line");
    for line in lines(&world.gateway.log()) {
        let fields = line.as_object().expect("an object");
        assert!(fields.values().all(|value| !value.is_object() && !value.is_array()), "{line}");
        let first: Vec<_> =
            ["time", "level"].iter().filter(|name| fields.contains_key(**name)).collect();
        assert_eq!(first.len(), 2, "{line}");
    }
    for (field, value) in [
        ("level", json!("INFO")),
        ("client", json!("panel")),
        ("remote", json!("127.0.0.1")),
        ("method", json!("PUT")),
        ("route", json!("/v1/files/{path:.*}")),
        ("status", json!(201)),
        ("bytes", json!(5000)),
        ("object", json!("a/b.bin")),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    let road = if std::env::var("COS_VIA").is_ok_and(|via| via == "api") { "api" } else { "form" };
    assert_eq!(line["road"], road);
    assert_eq!(line["attempts"], if road == "form" { 2 } else { 1 }, "{line}");
    let took = line["took_ms"].as_f64().expect("a number");
    for stage in ["link_ms", "send_ms", "verdict_ms"] {
        assert!(line[stage].as_f64().is_some_and(|part| part <= took), "{stage}: {line}");
    }
    assert_eq!(line["code"], Value::Null);
    let two = lines_of(&world, "two").pop().expect("a line");
    assert_eq!((&two["bytes"], &two["files"]), (&json!(3), &json!(2)), "{two}");
    let bad = lines_of(&world, "bad").pop().expect("a line");
    assert_eq!(bad["code"], "unauthenticated", "{bad}");
}

#[test]
fn a_line_for_people_has_the_same_fields() {
    let world = Setup::new().set("telemetry.format", "text").start();
    put(&world, "a%22b.bin", &own("refused"), b"x").problem(400, "invalid_path");
    put(&world, "a/b.bin", &own("stored"), &noise(5000, 1)).stored();
    let log = world.gateway.log_with("bytes=5000");
    let line = log.lines().find(|line| line.contains("bytes=5000")).expect("the line");
    let fields = line.split_once(" INFO request{request_id=\"stored\"}: ").expect("the request").1;
    let road = if std::env::var("COS_VIA").is_ok_and(|via| via == "api") { "api" } else { "form" };
    let begin = "client=\"panel\" remote=127.0.0.1 method=\"PUT\" route=\"/v1/files/{path:.*}\" \
                 path=\"/v1/files/a/b.bin\" status=201 took_ms=";
    assert!(fields.starts_with(begin), "{line}");
    let object = format!(" bytes=5000 object=\"a/b.bin\" road=\"{road}\" attempts=1 ");
    assert!(fields.contains(&object), "{line}");
    assert!(log.contains("detail=\"the path contains `\\\"`"), "{log}");
    // Of these lines, warnings alone.
    let filter = "info,tcb_upload_gateway::http::middleware::access_log=warn";
    let quiet = Setup::new().set("telemetry.log", filter).start();
    put(&quiet, "a.bin", &own("stored"), b"x").stored();
    quiet.faults(
        &json!([{"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied"}]),
    );
    put(&quiet, "a.bin", &own("refused"), b"x").problem(502, "cos_refused");
    let line = lines_of(&quiet, "refused").pop().expect("a line");
    assert_eq!((&line["level"], &line["code"]), (&json!("WARN"), &json!("cos_refused")), "{line}");
    assert!(!quiet.gateway.log().contains("\"status\":201"), "{}", quiet.gateway.log());
}

/// The client goes away while WeChat is asked for the link.
#[test]
fn what_was_never_sent_has_no_attempt() {
    let world = Setup::new().set("cos.via", "form").start();
    world.faults(&json!([{"stage": "link", "fault": "delay", "ms": 1000}]));
    let mut client = world.client();
    let headers = [authorization(), ("x-request-id", "broken"), ("content-length", "10")];
    client.send_head("PUT", "/v1/files/x.txt", &headers);
    client.send(b"12345");
    wait_until("WeChat is asked", || world.count("uploadfile") == 1);
    client.finish();
    let line = lines_of(&world, "broken").pop().expect("a line");
    assert!(line["link_ms"].is_number(), "{line}");
    for field in ["attempts", "send_ms", "verdict_ms"] {
        assert_eq!(line[field], Value::Null, "{field}: {line}");
    }
    let sent = "gateway_upload_seconds_count{stage=\"send\"}";
    assert_eq!(value(&metrics(&world), sent), 0.0);
    assert_eq!(world.count("cos"), 0);
}

#[test]
fn a_resumable_upload_s_last_request_has_its_bytes() {
    let world = Setup::new().start();
    let url = crate::resumable::create(&world, 10, &[("path", "r.txt")]);
    let mut client = world.client();
    let [version, length] = [("tus-resumable", "1.0.0"), ("upload-offset", "0")];
    let headers =
        [authorization(), version, length, crate::resumable::OCTETS, ("x-request-id", "last")];
    client.send_request("PATCH", &url, &headers, &[7; 10]);
    assert_eq!(client.response().status, 204);
    let line = lines_of(&world, "last").into_iter().find(|line| !line["status"].is_null());
    let line = line.expect("a line");
    assert_eq!((&line["bytes"], &line["object"]), (&json!(10), &json!("r.txt")), "{line}");
    assert_eq!(line["route"], "/v1/uploads/{id}");
    assert!(!line.to_string().contains(&url["/v1/uploads/".len()..]), "{line}");
}

#[test]
fn probes_are_logged_at_debug() {
    for (level, logged) in [("info", false), ("debug", true)] {
        let world = Setup::new().set("telemetry.log", level).start();
        for path in ["/healthz", "/readyz", "/metrics"] {
            world.call_with("GET", path, &[("x-request-id", "probe")], "");
        }
        world.call_with("GET", "/v1/files/none", &own("after"), "");
        lines_of(&world, "after");
        let probes =
            |world: &World| world.gateway.log().matches("\"request_id\":\"probe\"").count();
        wait_until("each probe has its line", || !logged || probes(&world) >= 3);
        let lines = lines(&world.gateway.log());
        // A probe may begin to fetch a token, which has lines of its own.
        let probes =
            lines.iter().filter(|line| line["request_id"] == "probe" && !line["status"].is_null());
        let levels: BTreeSet<_> = probes.map(|line| line["level"].to_string()).collect();
        assert_eq!(levels, logged.then(|| "\"DEBUG\"".to_owned()).into_iter().collect(), "{level}");
    }
}

#[test]
fn a_client_s_trace_is_in_its_lines_and_in_what_the_owner_s_servers_are_sent() {
    let (server, receiver) = (AuthServer::start(), Receiver::start());
    let world = server
        .setup()
        .set("hooks.stored_url", format!("http://{}/events", receiver.address()))
        .set("hooks.secret", HOOK_SECRET)
        .start();
    world.faults(
        &json!([{"stage": "link", "fault": "errcode", "errcode": -1, "errmsg": "x", "times": 1}]),
    );
    let session = ("cookie", "session=alice");
    put(&world, "traced", &[session, TRACEPARENT, ("x-request-id", "traced")], b"x").stored();
    let traced = lines_of(&world, "traced");
    assert!(traced.iter().all(|line| line["trace_id"] == TRACE_ID), "{traced:?}");
    // The call to WeChat was repeated.
    assert!(traced.iter().any(|line| line["message"] == "trying again"), "{traced:?}");
    let sent = format!("traceparent: {}\r\n", TRACEPARENT.1);
    let event = receiver.wait_for(1).remove(0);
    assert!(event.head.contains(&sent), "{}", event.head);
    assert_eq!(server.received().len(), 1);
    assert!(server.received()[0].contains(&sent), "{:?}", server.received());
    // COS and WeChat do not know it.
    assert!(!world.state().to_string().contains(TRACE_ID), "{}", world.state());

    // The auth server's decision is cached whatever the trace is, and what is not valid is nowhere.
    let other = TRACEPARENT.1.replace("4bf9", "5bf9");
    for (id, value) in [("other", other.as_str()), ("invalid", "00-0-0-01")] {
        put(&world, "traced", &[session, ("traceparent", value), ("x-request-id", id)], b"x")
            .stored();
    }
    assert_eq!(server.received().len(), 1);
    // Events are delivered side by side: the later one may come first.
    let events = receiver.wait_for(3);
    let has = |text: &str| events[1..].iter().filter(|event| event.head.contains(text)).count();
    assert_eq!((has(&other), has("traceparent")), (1, 1), "{events:?}");
    assert!(lines_of(&world, "invalid").iter().all(|line| line["trace_id"].is_null()));
}

fn audit_of(path: &Path) -> Vec<Value> {
    lines(&std::fs::read_to_string(path).expect("the audit log"))
}

#[test]
fn the_audit_log_has_who_did_what() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let world = tickets::setup()
        .set("auth.keys.panel.can", "upload, download, delete, link, mint")
        .set("auth.jwt.quota", "users")
        .set("quota.users.bytes_per_day", "100")
        .set("telemetry.audit", path.display())
        // It does not depend on the log's level.
        .set("telemetry.log", "error,tcb_upload_gateway::app=info")
        .start();
    let user = ticket(json!({"sub": "ann"}));
    let bearer = format!("Bearer {user}");
    let by_user = |id| [("authorization", bearer.as_str()), ("x-request-id", id), TRACEPARENT];
    let stored = put(&world, "ann/1.txt", &by_user("stored"), &[1; 60]).stored();
    put(&world, "ann/2.txt", &by_user("quota"), &[1; 60]).problem(429, "daily_quota_exceeded");
    world.call_with("POST", "/v1/tickets", &by_user("policy"), "{}").problem(403, "not_allowed");
    put(&world, "x?ticket=forged", &[("x-request-id", "auth")], b"")
        .problem(401, "unauthenticated");
    let minted = world.call_with("POST", "/v1/tickets", &own("minted"), "{\"sub\":\"bob\"}");
    world.call_with("POST", "/v1/upload-links", &own("link"), "{\"path\":\"direct\"}");
    world.call_with("DELETE", "/v1/files/ann/1.txt", &own("deleted"), "");
    world.call_with("GET", "/v1/files/none", &own("no refusal"), "");

    wait_until("all is written", || audit_of(&path).len() >= 7);
    let mut records = BTreeMap::new();
    for mut record in audit_of(&path) {
        assert_eq!(record["target"], "audit");
        assert!(record["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{record}");
        let fields = record.as_object_mut().expect("an object");
        fields.retain(|name, _| !["time", "target"].contains(&name.as_str()));
        let id = fields.remove("request_id").expect("an id").as_str().expect("a text").to_owned();
        assert!(records.insert(id, record).is_none());
    }
    let (remote, sub) = ("127.0.0.1", "ann");
    let file_id = &stored["file_id"];
    let direct = &records["link"]["file_id"];
    assert!(direct.as_str().is_some_and(|id| id.ends_with("/direct")), "{direct}");
    let expected = json!({
        "stored": {"event": "stored", "client": "ann", "sub": sub, "remote": remote, "trace_id": TRACE_ID,
            "object": "ann/1.txt", "file_id": file_id, "size": 60},
        "quota": {"event": "refused", "client": "ann", "sub": sub, "remote": remote, "trace_id": TRACE_ID,
            "method": "PUT", "route": "/v1/files/{path:.*}", "code": "daily_quota_exceeded"},
        "policy": {"event": "refused", "client": "ann", "sub": sub, "remote": remote, "trace_id": TRACE_ID,
            "method": "POST", "route": "/v1/tickets", "code": "not_allowed"},
        "auth": {"event": "refused", "remote": remote, "method": "PUT", "route": "/v1/files/{path:.*}",
            "code": "unauthenticated"},
        "minted": {"event": "minted", "client": "panel", "remote": remote, "minted": "ticket",
            "minted_for": "bob"},
        "link": {"event": "minted", "client": "panel", "remote": remote, "minted": "upload_link",
            "object": "direct", "file_id": direct},
        "deleted": {"event": "deleted", "client": "panel", "remote": remote, "object": "ann/1.txt",
            "file_id": file_id},
    });
    assert_eq!(json!(records), expected);
    let text = std::fs::read_to_string(&path).expect("the audit log");
    let new = minted.json()["ticket"].as_str().expect("a ticket").to_owned();
    for secret in [KEY, &user, &new, "forged", tickets::SECRET, "q-sign"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// One for each of a form's files, with the file's own path, if it was refused after that was known.
#[test]
fn each_refused_file_of_a_form_has_its_audit_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let receiver = Receiver::start();
    receiver.respond(|event| {
        let is_refused = event.data()["name"] == "refused.jpg";
        Some(response(if is_refused { "422 No" } else { "200 OK" }, "{}"))
    });
    let world = receiver
        .setup()
        .set("hooks.wait", "true")
        .set("upload.allowed_types", "image/*")
        .set("upload.max_file_size", "1KiB")
        .set("telemetry.audit", path.display())
        .start();
    let jpeg = |length: usize| [b"\xff\xd8\xff\xe0".as_slice(), &noise(length, 1)].concat();
    let form = Form::new()
        .file("f[]", "a.jpg", "image/jpeg", &jpeg(100))
        .file("f[]", "b.exe", "application/octet-stream", b"MZ")
        .file("f[]", "refused.jpg", "image/jpeg", &jpeg(100))
        .file("f[]", "large.jpg", "image/jpeg", &jpeg(2000))
        .file("f[]", "c.jpg", "image/jpeg", &jpeg(100));
    let (kind, body) = (form.content_type(), form.bytes());
    let headers = [authorization(), ("content-type", kind.as_str()), ("x-request-id", "form")];
    let mut client = world.client();
    client.send_request("POST", "/v1/files", &headers, &body);
    let files = client.response().json()["files"].clone();
    let paths: Vec<_> = (0..5).map(|n| files[n]["path"].clone()).collect();
    lines_of(&world, "form");
    let records = audit_of(&path)
        .into_iter()
        .map(|record| (record["event"].clone(), record["code"].clone(), record["object"].clone()));
    let records: Vec<_> = records.collect();
    let of = |event: &str, code: Value, n: usize| (json!(event), code, paths[n].clone());
    let expected = [
        of("stored", Value::Null, 0),
        of("refused", json!("type_not_allowed"), 1),
        of("stored", Value::Null, 2),
        of("refused", json!("refused_by_hook"), 2),
        of("refused", json!("file_too_large"), 3),
        of("stored", Value::Null, 4),
    ];
    assert_eq!(records, expected);
    assert!(paths[1].is_null() && paths[2].is_string(), "{paths:?}");

    // A single file's is not written twice, whatever the response's format is; a raw body has its path.
    for (id, reply, code) in [("one", "default", 422), ("editor", "wangeditor", 200)] {
        let form = Form::new().file("f", "refused.jpg", "image/jpeg", &jpeg(100));
        let headers = [authorization(), ("content-type", kind.as_str()), ("x-request-id", id)];
        let target = format!("/v1/files?path=x/y.jpg&reply={reply}");
        client.send_request("POST", &target, &headers, &form.bytes());
        assert_eq!(client.response().status, code);
        lines_of(&world, id);
    }
    put(&world, "refused.jpg", &own("raw"), &jpeg(100)).problem(422, "refused_by_hook");
    // Written with the request's own line, and after it.
    let is_raw = |record: &Value| record["event"] == "refused" && record["request_id"] == "raw";
    wait_until("it is recorded", || audit_of(&path).iter().any(is_raw));
    let refused = audit_of(&path).into_iter().filter(|record| record["event"] == "refused");
    let refused: Vec<_> = refused
        .skip(3)
        .map(|record| (record["request_id"].clone(), record["object"].clone()))
        .collect();
    let of = |id: &str, object: &str| (json!(id), json!(object));
    assert_eq!(refused, [of("one", "x/y.jpg"), of("editor", "x/y.jpg"), of("raw", "refused.jpg")]);
}

/// As access lines, records of refused strangers have a bound.
#[test]
fn a_flood_of_strangers_leaves_few_audit_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.log");
    let world = Setup::new().set("telemetry.audit", path.display()).start();
    let began = std::time::Instant::now();
    let mut client = world.client();
    for _ in 0..20 {
        client.send(
            "GET /v1/files/flood?ticket=wrong HTTP/1.1\r\nhost: a\r\n\r\n".repeat(50).as_bytes(),
        );
        (0..50).for_each(|_| assert_eq!(client.response().status, 401));
    }
    // One worker has served the connection; its first and last second are partial.
    let most = 100 * (began.elapsed().as_secs() as usize + 2);
    put(&world, "after", &own("after"), b"x").stored();
    wait_until("it is recorded", || audit_of(&path).iter().any(|line| line["event"] == "stored"));
    let refused = audit_of(&path).iter().filter(|line| line["event"] == "refused").count();
    assert!((1..=most).contains(&refused), "{refused}, at most {most}");
}

#[test]
fn the_audit_log_may_be_on_standard_output_and_must_be_writable() {
    let world = Setup::new().set("telemetry.audit", "stdout").start();
    put(&world, "a", &own("one"), b"x").stored();
    let log = world.gateway.log_with("\"target\":\"audit\"");
    let audit = lines(&log).into_iter().filter(|line| line["target"] == "audit");
    assert_eq!(audit.map(|line| line["event"].clone()).collect::<Vec<_>>(), ["stored"]);
    let world = Setup::new().start();
    put(&world, "a", &own("one"), b"x").stored();
    lines_of(&world, "one");
    assert!(!world.gateway.log().contains("\"audit\""));
}

/// The commands of the guide, over the log of a run, give what the run did.
#[test]
fn the_guide_s_commands_find_what_was_slow_what_failed_and_who_stored() {
    let world = tickets::setup().start();
    let bearer = format!("Bearer {}", ticket(json!({"sub": "ann"})));
    put(&world, "fast", &own("fast"), &noise(1000, 1)).stored();
    put(&world, "by-ann", &[("authorization", &bearer)], &noise(300, 2)).stored();
    for _ in 0..2 {
        put(&world, "x", &[("authorization", "Bearer wrong")], b"x")
            .problem(401, "unauthenticated");
    }
    world.faults(&json!([{"stage": "cos", "fault": "delay", "ms": 400}]));
    put(&world, "slow", &own("slow"), &noise(2000, 3)).stored();
    world.control("DELETE", "faults", "");
    put(&world, "traced", &[authorization(), TRACEPARENT], b"x").stored();
    wait_until("all is logged", || {
        lines(&world.gateway.log()).iter().filter(|line| !line["status"].is_null()).count() >= 6
    });
    let log = world.gateway.log();

    // By serde_json, as any collector would.
    let lines = lines(&log);
    let stored = lines.iter().filter(|line| !line["bytes"].is_null());
    let slowest = stored.clone().max_by(|a, b| {
        let took = |line: &Value| line["took_ms"].as_f64().expect("a number");
        took(a).total_cmp(&took(b))
    });
    assert_eq!(slowest.expect("one")["object"], "slow");
    let mut bytes = BTreeMap::new();
    for line in stored {
        let client = line["client"].as_str().expect("a client");
        *bytes.entry(client).or_insert(0) += line["bytes"].as_u64().expect("a number");
    }
    assert_eq!(bytes, BTreeMap::from([("ann", 300), ("panel", 3001)]));

    let text = answers_of_the_guide(&log);
    let first = text.lines().next().expect("a line");
    assert!(first.contains("slow") && first.contains("verdict"), "{text}");
    for told in ["2\tunauthenticated", "3001\tpanel", "300\tann"] {
        assert!(text.lines().any(|line| line == told), "{told}:\n{text}");
    }
    let traced = text.lines().filter(|line| line.contains(TRACE_ID)).count();
    assert_eq!(traced, 1, "{text}");
}

/// What the guide's commands print for a log.
pub fn answers_of_the_guide(log: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("gateway.log"), log).expect("the log");
    let blocks = page("operations").open_blocks("sh");
    let blocks = blocks.iter().filter(|block| block.starts_with("# The ten slowest"));
    let commands = blocks.map(String::as_str).collect::<Vec<_>>().concat();
    let output = Command::new("bash").arg("-ec").arg(&commands).current_dir(folder.path()).output();
    let output = output.expect("bash runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn what_clients_send_is_cut_and_no_upload_urls_are_logged() {
    let world = resumable::setup().start();
    let method = "X".repeat(8000);
    let refused = world.call_with(&method, "/v1/files", &[("origin", "https://else.example")], "");
    assert_eq!(refused.status, 403, "{}", refused.text());
    let id = refused.header("x-request-id").expect("an id").to_owned();
    let [line] = &lines_of(&world, &id)[..] else { panic!("one line") };
    assert_eq!(line["method"].as_str().map(str::len), Some(1024));

    let url = resumable::create(&world, 5, &[]);
    let sealed = url.rsplit('/').next().expect("a segment").to_owned();
    for spelling in ["/v1/%75ploads/", "//v1/uploads/", "/./v1/uploads/"] {
        let target = format!("{spelling}{sealed}");
        let response = resumable::request(&world, "GET", &target, &[], b"");
        lines_of(&world, response.header("x-request-id").expect("an id"));
    }
    assert!(!world.gateway.log().contains(&sealed), "{}", world.gateway.log());
}
