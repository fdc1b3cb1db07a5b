//! `/metrics`: where it is served, the figures of requests, and what is written about each metric.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::{Client, Form, Setup, World, wait_until};
use crate::measured::{metrics, value};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn file(content: &[u8]) -> Form {
    Form::new().file("file", "x.txt", "text/plain", content)
}

/// The address of `metrics.bind`.
fn own_address(world: &World) -> SocketAddr {
    let log = world.gateway.log_with("metrics on http://");
    let rest = log.split("metrics on http://").nth(1).expect("the address");
    rest.split('/').next().expect("a path").parse().expect("an address")
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut client = Client::connect(address);
    client.send_request("GET", path, &[], b"");
    let response = client.response();
    (response.status, response.text())
}

#[test]
fn metrics_can_have_a_port_of_their_own() {
    let world = Setup::new().set("metrics.bind", "127.0.0.1:0").start();
    world.post(&file(b"x")).stored();
    let address = own_address(&world);
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    assert_eq!(value(&text, "gateway_uploads_total{result=\"stored\"}"), 1.0);
    for path in ["/", "/v1/files", "/healthz", "/metrics/"] {
        assert_eq!(get(address, path).0, 404, "{path} is not served there");
    }
    for path in ["/metrics", "/metrics/"] {
        assert_eq!(world.call_with("GET", path, &[], "").status, 404, "{path} is not public");
    }
}

/// Strangers that reach the port cannot keep Prometheus away for longer than a head may take.
#[test]
fn idle_connections_do_not_keep_prometheus_away() {
    let world = Setup::new().set("metrics.bind", "127.0.0.1:0").start();
    let address = own_address(&world);
    let before = world.gateway.descriptors();
    let idle: Vec<_> = (0..60).map(|_| Client::connect(address)).collect();
    wait_until("some are accepted", || world.gateway.descriptors() > before + 16);
    let accepted = world.gateway.descriptors() - before;
    assert!(accepted < 50, "{accepted} of 60 are accepted");
    assert_eq!(get(address, "/metrics").0, 200);
    drop(idle);
}

#[test]
fn requests_are_counted_by_route_method_and_class() {
    let world = Setup::new().start();
    let stored = world.post(&file(b"x")).stored();
    let path = stored["path"].as_str().expect("its path");
    world.call_with("GET", &format!("/v1/files/{path}"), &[], "");
    world.call("DELETE", &format!("/v1/files/{path}"), &Value::Null);
    world.call_with("POST", "/v1/files", &[], "").problem(401, "unauthenticated");
    world.call_with("BREW", "/v1/files", &[], "");
    world.call_with("GET", "/nowhere", &[], "");
    world.faults(
        &json!([{"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied"}]),
    );
    world.post(&file(b"x")).problem(502, "cos_refused");
    let text = metrics(&world);
    for (route, method, class, count) in [
        ("/v1/files", "POST", "2xx", 1.0),
        ("/v1/files", "POST", "4xx", 1.0),
        ("/v1/files", "POST", "5xx", 1.0),
        ("/v1/files", "other", "4xx", 1.0),
        ("/v1/files/{path:.*}", "GET", "3xx", 1.0),
        ("/v1/files/{path:.*}", "DELETE", "2xx", 1.0),
        ("other", "other", "4xx", 1.0),
        ("/v1/delete", "POST", "2xx", 0.0),
    ] {
        let name = format!(
            "gateway_requests_total{{class=\"{class}\",method=\"{method}\",route=\"{route}\"}}"
        );
        assert_eq!(value(&text, &name), count, "{name}");
    }
    let took = value(&text, "gateway_request_seconds_count{route=\"/v1/files\"}");
    assert_eq!(took, 4.0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(value(&text, &format!("gateway_build_info{{version=\"{version}\"}}")), 1.0);
}

/// The names of the gateway's metrics in a text, without the suffixes of histograms.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.match_indices("gateway_").filter_map(|(at, _)| {
        let is_start = !text[..at].ends_with(|c: char| is_name(c) || c == '-' || c == '/');
        let name = text[at..].split(|c| !is_name(c)).next()?;
        is_start.then_some(name)
    });
    let histogram = |name: &str| {
        let parts = ["_bucket", "_count", "_sum"];
        parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
    };
    words.map(histogram).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}"))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every metric that a gateway can have: with Redis, and after each kind of event.
fn served() -> BTreeSet<String> {
    let world = Setup::new().set("redis.url", "redis://127.0.0.1:1/0").start();
    world.call_with("GET", "/readyz", &[], "");
    world.faults(&json!([{"stage": "cos", "fault": "status", "status": 503, "code": "SlowDown", "times": 1}]));
    world.post(&file(b"x")).stored();
    names(&metrics(&world))
}

#[test]
fn each_metric_is_in_the_documents_and_no_other() {
    let served = served();
    for path in ["docs/en/metrics.md", "docs/zh/metrics.md"] {
        assert_eq!(names(&read(path)), served, "{path}");
    }
    for path in ["config/deploy/alerts.yaml", "config/deploy/grafana.json"] {
        let unknown: Vec<_> = names(&read(path)).difference(&served).cloned().collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
    let shown = names(&read("config/deploy/grafana.json"));
    assert_eq!(shown, served, "the dashboard shows each");
}
