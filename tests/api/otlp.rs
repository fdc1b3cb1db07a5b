//! Traces: the spans of requests as a collector of OpenTelemetry gets them, decoded strictly, and what the other servers
//! and the log know of the same trace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::forward_auth::AuthServer;
use crate::harness::{Form, Response, Setup, World, authorization, noise, wait_until};
use crate::hooks::{Receiver, SECRET};
use crate::logs::lines_of;
use crate::recorder::Recorder;
use crate::resumable::{self, OCTETS, TUS};
use crate::tickets::{self, ticket};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";
const HEADERS: &str = "x-collector-key=a%20secret%2C%20for%20the%20collector";

/// A collector that records what it is sent.
pub struct Collector(pub Recorder);

impl Collector {
    pub fn start() -> Self {
        Self(Recorder::start())
    }

    /// Settings that export to it.
    pub fn set(&self, setup: Setup) -> Setup {
        let endpoint = format!("http://{}", self.0.address);
        setup.set("telemetry.otlp_endpoint", endpoint).set("telemetry.otlp_headers", HEADERS)
    }

    /// The spans of each request to it.
    pub fn batches(&self) -> Vec<Vec<Span>> {
        self.0.received().iter().map(|request| decode(&request.body)).collect()
    }

    /// All spans, once the gateway has stopped.
    pub fn spans_after(&self, world: &mut World) -> Vec<Span> {
        world.gateway.signal("TERM");
        assert!(world.gateway.ended().success());
        self.batches().concat()
    }
}

/// A decoded span.
#[derive(Debug, Clone)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: Option<String>,
    pub name: String,
    is_server: bool,
    has_remote_parent: bool,
    begun: u128,
    ended: u128,
    attributes: BTreeMap<String, Value>,
    is_error: bool,
}

impl Span {
    pub fn of(&self, attribute: &str) -> Value {
        self.attributes.get(attribute).cloned().unwrap_or_default()
    }
}

/// The members of an object, each of which must be among `known`.
fn members<'a>(object: &'a Value, known: &[&str]) -> &'a serde_json::Map<String, Value> {
    let members = object.as_object().unwrap_or_else(|| panic!("no object: {object}"));
    assert!(members.keys().all(|name| known.contains(&name.as_str())), "{object}");
    members
}

fn only(list: &Value) -> &Value {
    let [one] = &list.as_array().expect("a list")[..] else { panic!("not one: {list}") };
    one
}

/// An id, as JSON has it in OTLP: lower-case hex, not base64 as elsewhere in Protobuf's JSON.
fn id(value: &Value, digits: usize) -> String {
    let text = value.as_str().expect("a text");
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    assert!(text.len() == digits && text.chars().all(is_hex), "{text}");
    assert!(text.chars().any(|c| c != '0'), "{text}");
    text.to_owned()
}

/// 64 bits, as Protobuf's JSON has them: a string of digits.
fn number(value: &Value) -> u128 {
    value.as_str().and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{value}"))
}

fn attributes(list: &Value) -> BTreeMap<String, Value> {
    let pairs = list.as_array().expect("a list").iter().map(|pair| {
        members(pair, &["key", "value"]);
        let value = match &pair["value"] {
            value if value["stringValue"].is_string() => value["stringValue"].clone(),
            value => json!(u64::try_from(number(&value["intValue"])).expect("64 bits")),
        };
        assert_eq!(members(&pair["value"], &["stringValue", "intValue"]).len(), 1);
        (pair["key"].as_str().expect("a text").to_owned(), value)
    });
    let pairs: Vec<_> = pairs.collect();
    let attributes: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(attributes.len(), pairs.len(), "twice: {list}");
    attributes
}

/// The spans of an `ExportTraceServiceRequest`.
pub fn decode(body: &[u8]) -> Vec<Span> {
    let body: Value = serde_json::from_slice(body).expect("JSON");
    members(&body, &["resourceSpans"]);
    let resource_spans = only(&body["resourceSpans"]);
    members(resource_spans, &["resource", "scopeSpans"]);
    members(&resource_spans["resource"], &["attributes"]);
    let resource = attributes(&resource_spans["resource"]["attributes"]);
    assert_eq!(resource["service.name"], "tcb-upload-gateway");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert!(resource["service.instance.id"].is_string());
    let scope_spans = only(&resource_spans["scopeSpans"]);
    members(scope_spans, &["scope", "spans"]);
    members(&scope_spans["scope"], &["name", "version"]);
    let spans = scope_spans["spans"].as_array().expect("a list");
    assert!(!spans.is_empty());
    spans.iter().map(span).collect()
}

fn span(span: &Value) -> Span {
    let known = [
        "traceId",
        "spanId",
        "parentSpanId",
        "flags",
        "name",
        "kind",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "attributes",
        "status",
    ];
    let members_of = members(span, &known);
    let flags = span["flags"].as_u64().expect("a number");
    assert_eq!(flags & !0x200, 0x101, "sampled, and whether the parent is remote is known");
    let kind = span["kind"].as_u64().expect("a number");
    assert!(kind == 1 || kind == 2, "{kind}");
    Span {
        trace: id(&span["traceId"], 32),
        id: id(&span["spanId"], 16),
        parent: members_of.get("parentSpanId").map(|parent| id(parent, 16)),
        name: span["name"].as_str().expect("a text").to_owned(),
        is_server: kind == 2,
        has_remote_parent: flags & 0x200 != 0,
        begun: number(&span["startTimeUnixNano"]),
        ended: number(&span["endTimeUnixNano"]),
        attributes: attributes(&span["attributes"]),
        is_error: members_of.get("status").is_some_and(|status| {
            assert_eq!(*status, json!({ "code": 2 }));
            true
        }),
    }
}

/// The span of a request.
fn server<'a>(spans: &'a [Span], request_id: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.of("gateway.request_id") == request_id);
    let span = found.next().unwrap_or_else(|| panic!("no span of {request_id}: {spans:#?}"));
    assert!(found.next().is_none() && span.is_server, "{span:?}");
    assert_eq!(span.has_remote_parent, span.parent.is_some());
    span
}

/// The stages of a request, by name. They must lie within it.
fn stages<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    let stages = spans.iter().filter(|span| span.parent.as_ref() == Some(&parent.id));
    let stages: Vec<_> = stages.collect();
    for stage in &stages {
        assert_eq!((&stage.trace, stage.is_server), (&parent.trace, false));
        assert!(!stage.has_remote_parent);
        let times = [parent.begun, stage.begun, stage.ended, parent.ended];
        assert!(times.is_sorted(), "{stage:?} is not within {parent:?}");
    }
    stages
}

fn names(spans: &[&Span]) -> Vec<String> {
    let mut spans: Vec<_> = spans.to_vec();
    spans.sort_by_key(|span| span.begun);
    spans.iter().map(|span| span.of("upload.stage").as_str().expect("a stage").to_owned()).collect()
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos()
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE_ID}-{CLIENT_SPAN}-{flags}")
}

fn put(world: &World, path: &str, headers: &[(&str, &str)], content: &[u8]) -> Response {
    let mut client = world.client();
    client.send_request("PUT", &format!("/v1/files/{path}"), headers, content);
    client.response()
}

/// The value of `traceparent` in a request's head, if it has one.
fn sent(head: &str) -> Option<&str> {
    head.lines().find_map(|line| line.strip_prefix("traceparent: "))
}

#[test]
fn an_upload_s_span_is_the_parent_of_its_stages_and_of_what_the_owner_s_servers_do() {
    let (auth, hooks, collector) = (AuthServer::start(), Receiver::start(), Collector::start());
    let setup = auth
        .setup()
        .set("hooks.stored_url", format!("http://{}/events", hooks.address()))
        .set("hooks.secret", SECRET)
        .set("hooks.wait", "true")
        .set("auth.forward_cache", "0s");
    let mut world = collector.set(setup).start();
    let before = now();
    let context = traceparent("01");
    let session = ("cookie", "session=alice");
    for (id, more) in [("with", Some(("traceparent", context.as_str()))), ("without", None)] {
        let mut headers = vec![session, ("x-request-id", id)];
        headers.extend(more);
        put(&world, "traced.bin", &headers, &noise(50_000, 1)).stored();
    }
    let lines = ["with", "without"].map(|id| lines_of(&world, id));
    let spans = collector.spans_after(&mut world);
    let after = now();

    let (events, asked) = (hooks.received(), auth.received());
    assert_eq!((events.len(), asked.len()), (2, 2));
    for (at, id) in ["with", "without"].into_iter().enumerate() {
        let span = server(&spans, id);
        assert!(before <= span.begun && span.begun < span.ended && span.ended <= after);
        assert_eq!(span.name, "PUT /v1/files/{path:.*}");
        for (attribute, value) in [
            ("http.request.method", json!("PUT")),
            ("http.route", json!("/v1/files/{path:.*}")),
            ("http.response.status_code", json!(201)),
            ("gateway.client", json!("alice")),
            ("upload.bytes", json!(50_000)),
            ("upload.attempts", json!(1)),
            ("error.type", Value::Null),
        ] {
            assert_eq!(span.of(attribute), value, "{attribute}: {span:?}");
        }
        assert!(!span.is_error && span.of("upload.road").is_string());
        let stages = names(&stages(&spans, span));
        // A whole file by COS's API has no verdict of its own.
        let whole = if span.of("upload.road") == "form" { Some("verdict") } else { None };
        let expected = ["link", "send"].into_iter().chain(whole).chain(["hook"]);
        assert_eq!(stages, expected.collect::<Vec<_>>());
        // The same trace everywhere, and the gateway's span is the parent.
        let own = format!("00-{}-{}-01", span.trace, span.id);
        assert_eq!(sent(&events[at].head), Some(own.as_str()));
        assert_eq!(sent(&asked[at]), Some(own.as_str()));
        assert!(lines[at].iter().all(|line| line["trace_id"] == span.trace), "{:?}", lines[at]);
    }
    let [with, without] = ["with", "without"].map(|id| server(&spans, id));
    assert_eq!((with.trace.as_str(), with.parent.as_deref()), (TRACE_ID, Some(CLIENT_SPAN)));
    assert_ne!(without.trace, TRACE_ID);
    assert_eq!(without.parent, None);
    let ids: BTreeSet<_> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), spans.len());

    let request = &collector.0.received()[0];
    assert!(request.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("x-collector-key"), "a secret, for the collector");
}

#[test]
fn the_client_s_sampled_flag_decides_and_otherwise_the_ratio() {
    let (hooks, collector) = (Receiver::start(), Collector::start());
    let setup = hooks.setup().set("hooks.wait", "true").set("telemetry.otlp_ratio", 0);
    let mut world = collector.set(setup).start();
    let (sampled, other) = (traceparent("01"), traceparent("00"));
    for (id, context) in [("sampled", sampled.as_str()), ("other", &other), ("bad", "00-0-0-01")] {
        let headers = [authorization(), ("x-request-id", id), ("traceparent", context)];
        put(&world, "x.bin", &headers, b"x").stored();
    }
    put(&world, "x.bin", &[authorization(), ("x-request-id", "none")], b"x").stored();
    assert!(lines_of(&world, "none").iter().all(|line| line["trace_id"].is_null()));
    let spans = collector.spans_after(&mut world);
    let requests: Vec<_> = spans.iter().filter(|span| span.is_server).collect();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let span = server(&spans, "sampled");
    let events = hooks.received();
    let passed_on: Vec<_> = events.iter().map(|event| sent(&event.head)).collect();
    let own = format!("00-{TRACE_ID}-{}-01", span.id);
    assert_eq!(passed_on, [Some(own.as_str()), Some(other.as_str()), None, None]);
}

#[test]
fn without_an_endpoint_a_client_s_context_is_passed_on_unchanged() {
    let hooks = Receiver::start();
    let world = hooks.setup().set("hooks.wait", "true").start();
    let context = traceparent("01");
    put(&world, "x.bin", &[authorization(), ("traceparent", &context)], b"x").stored();
    assert_eq!(sent(&hooks.received()[0].head), Some(context.as_str()));
    let text = crate::measured::metrics(&world);
    for result in ["exported", "failed", "dropped"] {
        let name = format!("gateway_spans_total{{result=\"{result}\"}}");
        assert_eq!(crate::measured::value(&text, &name), 0.0);
    }
}

#[test]
fn resumable_uploads_have_stages_in_their_spans_and_lines() {
    let collector = Collector::start();
    for via in ["form", "api"] {
        let setup = Setup::new().set("cos.via", via);
        let count = collector.0.calls();
        let mut world = collector.set(setup).start();
        let url = resumable::create(&world, 10, &[("path", "r.txt")]);
        for (id, offset, bytes) in [("first", "0", &[7; 4][..]), ("last", "4", &[7; 6])] {
            let (length, own) = (("upload-offset", offset), ("x-request-id", id));
            let mut client = world.client();
            let headers = [authorization(), TUS, length, OCTETS, own];
            client.send_request("PATCH", &url, &headers, bytes);
            assert_eq!(client.response().status, 204);
        }
        let lines = ["first", "last"].map(|id| lines_of(&world, id).pop().expect("a line"));
        let spans = collector.spans_after(&mut world);
        let spans = &spans[collector.batches()[..count].concat().len()..];
        let expected: [&[&str]; 2] = match via {
            "form" => [&[], &["link", "send", "verdict"]],
            _ => [&["send"], &["send"]],
        };
        for ((id, line), expected) in ["first", "last"].into_iter().zip(lines).zip(expected) {
            let span = server(spans, id);
            assert_eq!(span.name, "PATCH /v1/uploads/{id}");
            assert_eq!(names(&stages(spans, span)), expected, "{via} {id}");
            for stage in ["link", "send", "verdict"] {
                let has_stage = line[format!("{stage}_ms")].is_number();
                assert_eq!(has_stage, expected.contains(&stage), "{via} {id}: {line}");
            }
        }
        let created = spans.iter().find(|span| span.name == "POST /v1/uploads");
        let created = created.expect("a span");
        let expected: &[&str] = if via == "api" { &["link"] } else { &[] };
        assert_eq!(names(&stages(spans, created)), expected);
        assert_eq!(server(spans, "last").of("upload.bytes"), 10);
        let segment = url.rsplit('/').next().expect("a segment");
        for request in collector.0.received() {
            let body = String::from_utf8(request.body).expect("text");
            assert!(!body.contains(segment), "{body}");
        }
    }
}

#[test]
fn a_request_of_many_files_has_128_stages_and_counts_the_rest() {
    let collector = Collector::start();
    let setup = Setup::new().set("upload.max_files", 100);
    let mut world = collector.set(setup).start();
    let form = (0..100).fold(Form::new(), |form, n| {
        form.file("files[]", &format!("{n}.txt"), "text/plain", b"content")
    });
    assert_eq!(world.post(&form).status, 201);
    let spans = collector.spans_after(&mut world);
    let span = spans.iter().find(|span| span.is_server).expect("a span");
    assert_eq!(stages(&spans, span).len(), 128);
    assert_eq!(spans.len(), 129);
    assert_eq!((span.of("upload.files"), span.of("upload.bytes")), (json!(100), json!(700)));
    // Of each file at least a link and an attempt.
    let omitted = span.of("upload.stages_omitted").as_u64().expect("a number");
    assert!((72..=172).contains(&omitted), "{omitted}");
}

#[test]
fn only_the_api_has_spans_and_no_secret_is_in_one() {
    let collector = Collector::start();
    let setup = tickets::setup().set("console.enabled", "true");
    let mut world = collector.set(setup).start();
    let secret = ticket(json!({ "sub": "ann" }));
    let target = format!("/v1/files?ticket={secret}");
    tickets::send(&world, "POST", &target, &[("x-request-id", "ticket")], &tickets::small());
    for path in ["/healthz", "/readyz", "/metrics", "/docs/", "/openapi.json", "/console"] {
        assert!(world.call_with("GET", path, &[], "").status < 400, "{path}");
    }
    world.call_with("GET", "/nowhere/hunter2-hunter2", &[], "");
    world.call_with("GET", "/v1/nowhere/hunter2-hunter2", &[], "");
    let wrong = [("authorization", "Bearer hunter2-hunter2"), ("x-request-id", "wrong")];
    put(&world, "hunter2-hunter2", &wrong, b"").problem(401, "unauthenticated");
    world.faults(
        &json!([{"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied"},
                {"stage": "put", "fault": "status", "status": 403, "code": "AccessDenied"}]),
    );
    let own = [authorization(), ("x-request-id", "refused")];
    put(&world, "private-name.txt", &own, b"x").problem(502, "cos_refused");
    let long = "r".repeat(128);
    let long = [authorization(), ("x-request-id", long.as_str())];
    world.call_with("BREW", "/v1/files", &long, "");
    let spans = collector.spans_after(&mut world);
    let mut requests: Vec<_> = spans.iter().filter(|span| span.is_server).collect();
    requests.sort_by_key(|span| span.begun);
    let names: Vec<_> = requests.iter().map(|span| span.name.as_str()).collect();
    let put = "PUT /v1/files/{path:.*}";
    assert_eq!(names, ["POST /v1/files", put, put, "HTTP /v1/files"]);
    let errors: Vec<_> =
        requests.iter().map(|span| (span.of("error.type"), span.is_error)).collect();
    let [none, wrong, refused, brew] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(*none, (Value::Null, false));
    // The client's mistake is not the gateway's failure.
    assert_eq!(*wrong, (json!("unauthenticated"), false));
    assert_eq!(*refused, (json!("cos_refused"), true));
    assert_eq!(*brew, (json!("method_not_allowed"), false));
    assert_eq!(requests[3].of("http.request.method"), "_OTHER");
    for request in collector.0.received() {
        let body = String::from_utf8(request.body).expect("text");
        for hidden in [
            secret.as_str(),
            "eyJ",
            "hunter2",
            crate::harness::KEY,
            "private-name",
            "for the collector",
        ] {
            assert!(!body.contains(hidden), "{hidden}: {body}");
        }
    }
}

#[test]
fn an_upload_whose_client_disconnects_has_a_span() {
    let collector = Collector::start();
    let mut world = collector.set(Setup::new()).start();
    let mut client = world.client();
    client.send_head("PUT", "/v1/files/x.bin", &[authorization(), ("content-length", "100000")]);
    client.send(&noise(50_000, 1));
    wait_until("it is uploaded", || {
        crate::measured::value(&crate::measured::metrics(&world), "gateway_uploads_in_flight")
            == 1.0
    });
    client.reset();
    let name = "gateway_uploads_total{result=\"truncated_body\"}";
    wait_until("it has failed", || {
        crate::measured::value(&crate::measured::metrics(&world), name) == 1.0
    });
    let spans = collector.spans_after(&mut world);
    let span = spans.iter().find(|span| span.is_server).expect("a span");
    assert_eq!(span.name, "PUT /v1/files/{path:.*}");
    assert_eq!(span.of("error.type"), "truncated_body");
    stages(&spans, span);
}
