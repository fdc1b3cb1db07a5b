//! Observability: metrics, log lines, and `Server-Timing`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Form, Response, Setup, World, authorization, noise};
use crate::resumable;

pub fn metrics(world: &World) -> String {
    let response = world.call_with("GET", "/metrics", &[], "");
    assert_eq!(response.status, 200);
    assert!(
        response
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4"))
    );
    response.text()
}

/// The value of a metric, named with its labels.
pub fn value(text: &str, metric: &str) -> f64 {
    let found =
        text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {metric} in:\n{text}"))
}

fn file(content: &[u8]) -> Form {
    Form::new().file("file", "x.bin", "text/plain", content)
}

#[test]
fn everything_that_happens_is_counted() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let count = |metric: &str| value(&metrics(&world), metric);
    assert_eq!(count("gateway_uploads_total{result=\"stored\"}"), 0.0, "there from the start");
    assert_eq!(count("gateway_uploads_total{result=\"cos_refused\"}"), 0.0);

    world.post(&file(&noise(300_000, 1))).stored();
    world.post(&file(b"x")).stored();
    world.post(&file(&noise(2 << 20, 1))).problem(413, "file_too_large");
    world.call_with("POST", "/v1/files", &[], "").problem(401, "unauthenticated");
    world.faults(&json!([{"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied", "times": 1}]));
    world.post(&file(b"x")).problem(502, "cos_refused");
    world.faults(&json!([{"stage": "cos", "fault": "status", "status": 503, "code": "SlowDown", "times": 1}]));
    world.post(&file(b"x")).stored();
    world.faults(&json!([{"stage": "link", "fault": "errcode", "errcode": -1, "times": 1}]));
    world.post(&file(b"x")).stored();
    world.control("POST", "tokens/revoke", "");
    world.post(&file(b"x")).stored();
    let two = Form::new().file("f[]", "a", "text/plain", b"a").file("f[]", "b", "text/plain", b"b");
    assert_eq!(world.post(&two).status, 201);

    let text = metrics(&world);
    let count = |metric: &str| value(&text, metric);
    assert_eq!(count("gateway_uploads_total{result=\"stored\"}"), 7.0);
    for code in ["file_too_large", "unauthenticated", "cos_refused"] {
        assert_eq!(count(&format!("gateway_uploads_total{{result=\"{code}\"}}")), 1.0, "{code}");
    }
    assert_eq!(count("gateway_upload_bytes_total"), 300_006.0);
    assert_eq!(count("gateway_uploads_in_flight"), 0.0);
    assert_eq!(count("gateway_replays_total{cause=\"busy\"}"), 1.0);
    assert_eq!(count("gateway_cos_responses_total{class=\"2xx\"}"), 7.0);
    assert_eq!(count("gateway_cos_responses_total{class=\"4xx\"}"), 1.0);
    assert_eq!(count("gateway_cos_responses_total{class=\"5xx\"}"), 1.0);
    let calls = |class: &str| {
        count(&format!(
            "gateway_wechat_requests_total{{call=\"uploadfile\",errcode_class=\"{class}\"}}"
        ))
    };
    assert_eq!((calls("ok"), calls("busy"), calls("bad_token")), (8.0, 1.0, 1.0));
    assert_eq!(count("gateway_token_refreshes_total{result=\"fetched\"}"), 2.0);
    assert!(count("gateway_token_age_seconds") < 60.0);
    for (stage, least) in [("link", 8.0), ("send", 9.0), ("verdict", 8.0)] {
        assert!(
            count(&format!("gateway_upload_seconds_count{{stage=\"{stage}\"}}")) >= least,
            "{stage}\n{text}"
        );
    }
    assert_eq!(count("gateway_memory_budget_bytes"), 0.0);
    assert!(count("process_resident_memory_bytes") > 1e6 && count("process_open_fds") > 5.0);
}

#[test]
fn promtool_accepts_the_metrics() {
    let world = Setup::new().start();
    world.post(&file(b"x")).stored();
    world.call("POST", "/v1/download-links", &json!({ "files": ["a"] }));
    let text = metrics(&world);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool; tests/run installs it");
    promtool.stdin.take().expect("its input").write_all(text.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// File names, paths, clients and request ids must not become metric labels.
#[test]
fn no_label_grows_with_traffic() {
    let world = Setup::new().start();
    let series = || metrics(&world).lines().filter(|line| !line.starts_with('#')).count();
    let once = |n: usize| {
        let form = Form::new().field("path", &format!("p{n}/x{n}.txt")).file(
            "f",
            &format!("n{n}"),
            "text/plain",
            b"x",
        );
        world.post(&form).stored();
        world.call_with("GET", &format!("/v1/files/p{n}/x{n}.txt"), &[], "");
        world.call_with(
            "GET",
            &format!("/nowhere/{n}"),
            &[("x-request-id", &format!("id-{n}"))],
            "",
        );
        world.call("DELETE", &format!("/v1/files/p{n}/x{n}.txt"), &Value::Null);
        world.call_with("POST", "/v1/files", &[("authorization", &format!("Bearer key-{n}"))], "");
    };
    once(0);
    let before = series();
    (1..30).for_each(once);
    assert_eq!(series(), before);
}

#[test]
fn each_request_has_one_line_of_json_with_its_id() {
    let world = Setup::new().set("telemetry.format", "json").start();
    let ids = ["good", "bad", "link", "tcb"];
    let id = |id: &'static str| ("x-request-id", id);
    let form = file(b"x");
    let kind = form.content_type();
    let mut client = world.client();
    let headers = [authorization(), ("content-type", kind.as_str()), id("good")];
    client.send_request("POST", "/v1/files?dir=d&x=secret-query", &headers, &form.bytes());
    let response = client.response();
    assert_eq!(response.header("x-request-id"), Some("good"));
    response.stored();
    world.faults(
        &json!([{"stage": "link", "fault": "errcode", "errcode": -1, "errmsg": "system error"}]),
    );
    let headers = [authorization(), ("content-type", kind.as_str()), id("bad")];
    client.send_request("POST", "/v1/files", &headers, &form.bytes());
    client.response().problem(502, "wechat_refused");
    world.control("DELETE", "faults", "");
    world.call_with(
        "POST",
        "/v1/download-links",
        &[authorization(), id("link")],
        "{\"files\":[\"a\"]}",
    );
    world.call_with("POST", "/tcb/uploadfile?access_token=nobody", &[id("tcb")], "{}");

    let log = world.gateway.log_with("\"request_id\":\"tcb\"");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    for id in ids {
        let own: Vec<_> = lines.iter().filter(|line| line["request_id"] == id).collect();
        let ends: Vec<_> = own.iter().filter(|line| line["method"].is_string()).collect();
        assert_eq!(ends.len(), 1, "{id}: {own:?}");
        assert!(ends[0]["status"].is_u64() && ends[0]["took_ms"].is_number(), "{:?}", ends[0]);
    }
    // Log lines of retries have the request's id, too; the failure itself is logged once.
    let bad: Vec<_> = lines.iter().filter(|line| line["request_id"] == "bad").collect();
    assert!(bad.iter().filter(|line| line["message"] == "trying again").count() == 2, "{bad:?}");
    assert_eq!(bad.iter().filter(|line| line["code"] == "wechat_refused").count(), 1, "{bad:?}");
    assert!(!log.contains("secret-query") && !log.contains("nobody"), "{log}");
}

/// The stages in `Server-Timing`, and their milliseconds.
fn timing(response: &Response) -> Vec<(String, f64)> {
    let text = response.header("server-timing").unwrap_or_else(|| panic!("none: {response:?}"));
    let stages = text.split(", ").filter_map(|stage| stage.split_once(";dur="));
    stages.map(|(name, took)| (name.to_owned(), took.parse().expect("a number"))).collect()
}

#[test]
fn server_timing_names_the_slow_stage() {
    let world = Setup::new().start();
    let slow = |stages: &[(String, f64)]| {
        let slowest = stages.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("one");
        assert!(slowest.1 >= 395.0, "{stages:?}");
        slowest.0.clone()
    };
    let response = world.post(&file(b"x"));
    let names: Vec<_> = timing(&response).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["link", "send", "verdict"]);

    world.faults(&json!([{"stage": "link", "fault": "delay", "ms": 400}]));
    assert_eq!(slow(&timing(&world.post(&file(b"x")))), "link");
    world.faults(&json!([{"stage": "cos", "fault": "delay", "ms": 400}]));
    assert_eq!(slow(&timing(&world.post(&file(b"x")))), "verdict");
    world.faults(&json!([{"stage": "cos", "fault": "slow", "bytes_per_second": 10_000_000}]));
    assert_eq!(slow(&timing(&world.post(&file(&noise(20 << 20, 1))))), "send");
    // A failed upload has the stages that it reached.
    world.faults(&json!([{"stage": "link", "fault": "errcode", "errcode": 85088}]));
    let response = world.post(&file(b"x"));
    assert_eq!(timing(&response).len(), 1);
    response.problem(502, "wechat_refused");
}

#[test]
fn server_timing_of_resumable_uploads_is_in_the_responses_that_their_log_lines_are_about() {
    let names = |response: &Response| -> Vec<String> {
        timing(response).into_iter().map(|(name, _)| name).collect()
    };
    let content = noise(3 * resumable::MIB, 1);
    let creation = [("upload-length", "3145728")];

    let world = resumable::setup().start();
    let created = resumable::request(&world, "POST", "/v1/uploads", &creation, b"");
    assert_eq!(names(&created), ["link"]);
    let url = resumable::path_of(&created);
    let sent = resumable::patch(&world, &url, 0, &content);
    assert!(names(&sent).contains(&"send".to_owned()), "{sent:?}");

    let world = Setup::new().start();
    let created = resumable::request(&world, "POST", "/v1/uploads", &creation, b"");
    assert_eq!(created.header("server-timing"), None);
    let url = resumable::path_of(&created);
    assert_eq!(resumable::patch(&world, &url, 0, &content[..1]).header("server-timing"), None);
    let sent = resumable::patch(&world, &url, 1, &content[1..]);
    assert_eq!(names(&sent), ["link", "send", "verdict"]);
}
