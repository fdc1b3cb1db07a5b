//! Spans in the JSON encoding of OTLP: ids in hex, 64-bit numbers as strings, enums as numbers.

use serde::Serialize;
use uuid::Uuid;

use crate::metrics::Stage;
use crate::net::trace_context::TraceContext;
use crate::telemetry::spans::{RequestSpans, StageSpan};

const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `SPAN_KIND_INTERNAL`
const INTERNAL: u8 = 1;
/// `SPAN_KIND_SERVER`
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`
const ERROR: u8 = 2;
/// In `flags`: whether the parent is in another process is known, and it is.
const PARENT_IS_KNOWN: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// What the process is known by.
pub struct Resource {
    instance: String,
}

impl Resource {
    pub fn new() -> Self {
        Self { instance: Uuid::now_v7().to_string() }
    }
}

/// `ExportTraceServiceRequest`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Attributes<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Attributes<'a> {
    attributes: Vec<Attribute<'a>>,
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<Span<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<String>,
    flags: u32,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct Status {
    code: u8,
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: AnyValue<'a>,
}

#[derive(Serialize)]
enum AnyValue<'a> {
    #[serde(rename = "stringValue")]
    Text(&'a str),
    #[serde(rename = "intValue")]
    Number(String),
}

fn text<'a>(key: &'static str, value: &'a str) -> Attribute<'a> {
    Attribute { key, value: AnyValue::Text(value) }
}

fn number(key: &'static str, value: impl Into<u64>) -> Attribute<'static> {
    Attribute { key, value: AnyValue::Number(value.into().to_string()) }
}

/// The body of a request with the spans of `batch`.
pub fn request(resource: &Resource, batch: &[RequestSpans]) -> Vec<u8> {
    let attributes = vec![
        text("service.name", NAME),
        text("service.version", VERSION),
        text("service.instance.id", &resource.instance),
    ];
    let spans = batch.iter().flat_map(|request| {
        let stages = request.stages.iter().map(|stage| stage_span(request.context, *stage));
        [server_span(request)].into_iter().chain(stages)
    });
    let scope = Scope { name: NAME, version: VERSION };
    let scope_spans = [ScopeSpans { scope, spans: spans.collect() }];
    let resource_spans = [ResourceSpans { resource: Attributes { attributes }, scope_spans }];
    // Neither maps with other keys than texts nor values that fail are in it.
    serde_json::to_vec(&Request { resource_spans }).unwrap_or_default()
}

/// Named and described by the conventions for servers of HTTP.
fn server_span(request: &RequestSpans) -> Span<'_> {
    let RequestSpans { context, method, route, .. } = request;
    let name_of_method = if *method == "_OTHER" { "HTTP" } else { *method };
    let mut attributes = vec![
        text("http.request.method", method),
        text("http.route", route),
        text("gateway.request_id", &request.request_id),
    ];
    attributes.extend(request.status.map(|status| number("http.response.status_code", status)));
    attributes.extend(request.error.map(|code| text("error.type", code)));
    attributes.extend(request.client.as_deref().map(|client| text("gateway.client", client)));
    attributes.extend(request.road.map(|road| text("upload.road", road)));
    attributes.extend(request.attempts.map(|attempts| number("upload.attempts", attempts)));
    attributes.extend(request.bytes.map(|bytes| number("upload.bytes", bytes)));
    attributes.extend(request.files.map(|files| number("upload.files", files)));
    let omitted = Some(request.stages_omitted).filter(|omitted| *omitted > 0);
    attributes.extend(omitted.map(|omitted| number("upload.stages_omitted", omitted)));
    let remote = if request.parent_id.is_some() { PARENT_IS_REMOTE } else { 0 };
    Span {
        trace_id: context.trace_id_text(),
        span_id: span_id(context.parent_id),
        parent_span_id: request.parent_id.map(span_id),
        flags: u32::from(context.flags) | PARENT_IS_KNOWN | remote,
        name: format!("{name_of_method} {route}"),
        kind: SERVER,
        start_time_unix_nano: request.begun.to_string(),
        end_time_unix_nano: request.ended.to_string(),
        attributes,
        status: request.is_failure.then_some(Status { code: ERROR }),
    }
}

fn stage_span(context: TraceContext, stage: StageSpan) -> Span<'static> {
    let StageSpan { id, stage, begun, ended } = stage;
    let name = match stage {
        Stage::Link => "upload link",
        Stage::Send => "send to COS",
        Stage::Verdict => "verdict of COS",
        Stage::Hook => "hook",
    };
    Span {
        trace_id: context.trace_id_text(),
        span_id: span_id(id),
        parent_span_id: Some(span_id(context.parent_id)),
        flags: u32::from(context.flags) | PARENT_IS_KNOWN,
        name: name.to_owned(),
        kind: INTERNAL,
        start_time_unix_nano: begun.to_string(),
        end_time_unix_nano: ended.to_string(),
        attributes: vec![text("upload.stage", stage.name())],
        status: None,
    }
}

fn span_id(id: u64) -> String {
    format!("{id:016x}")
}
