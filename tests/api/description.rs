//! The API's description: that it matches the gateway's behaviour, and that its pages load nothing from other hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tcb_upload_gateway::http::problem::Code;
use tempfile::TempDir;

use crate::harness::{Client, Form, Gateway, Response, Setup};

const KEY: &str = "key-for-the-description";

/// Every code with its status: what clients and dashboards were built on. A line may be added, none may change.
const CODES: [(&str, u16); 50] = [
    ("malformed_form", 400),
    ("no_file", 400),
    ("field_after_file", 400),
    ("file_not_last", 400),
    ("truncated_body", 400),
    ("length_mismatch", 400),
    ("invalid_path", 400),
    ("invalid_request", 400),
    ("unauthenticated", 401),
    ("not_allowed", 403),
    ("path_not_allowed", 403),
    ("origin_not_allowed", 403),
    ("file_not_found", 404),
    ("upload_not_found", 404),
    ("not_found", 404),
    ("method_not_allowed", 405),
    ("offset_mismatch", 409),
    ("tus_version", 412),
    ("client_stalled", 408),
    ("client_too_slow", 408),
    ("upload_too_slow", 408),
    ("length_required", 411),
    ("file_too_large", 413),
    ("too_many_files", 413),
    ("fields_too_large", 413),
    ("total_quota_exceeded", 413),
    ("not_multipart", 415),
    ("not_offset_stream", 415),
    ("type_not_allowed", 415),
    ("encoding_not_supported", 415),
    ("refused_by_hook", 422),
    ("superseded", 423),
    ("offset_unavailable", 423),
    ("rate_limited", 429),
    ("daily_quota_exceeded", 429),
    ("checksum_mismatch", 460),
    ("internal", 500),
    ("wechat_refused", 502),
    ("wechat_unreachable", 502),
    ("link_not_allowed", 502),
    ("cos_refused", 502),
    ("cos_unreachable", 502),
    ("integrity_mismatch", 502),
    ("overloaded", 503),
    ("upload_interrupted", 503),
    ("draining", 503),
    ("credential_unavailable", 503),
    ("cos_busy", 503),
    ("wechat_timeout", 504),
    ("cos_timeout", 504),
];

/// Codes of `/v1/uploads`, which the protocol describes: tus 1.0.
const OF_TUS: [&str; 8] = [
    "upload_not_found",
    "offset_mismatch",
    "tus_version",
    "not_offset_stream",
    "superseded",
    "offset_unavailable",
    "checksum_mismatch",
    "upload_interrupted",
];

/// The examples' calls in an order in which they work: a file is there before it is asked for, and goes last.
const ORDER: [&str; 27] = [
    "upload_raw",
    "upload",
    "upload_link",
    "mint_ticket",
    "stable_links",
    "file",
    "file_head",
    "download_links",
    "tcb_uploadfile",
    "tcb_batchdownloadfile",
    "sample",
    "delete_files",
    "upload_raw",
    "tcb_batchdeletefile",
    "upload_raw",
    "delete_file",
    "upload_raw",
    "revert",
    "ueditor",
    "cgi_token",
    "cgi_stable_token",
    "health",
    "health_head",
    "ready",
    "ready_head",
    "metrics",
    "description",
];

/// A gateway in its sandbox, started as a reader of the description would start it.
struct Sandbox {
    gateway: Gateway,
    _data: TempDir,
}

impl Sandbox {
    fn start(settings: &[(&str, &str)]) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let objects = data.path().join("objects").display().to_string();
        let own = [("GATEWAY__SERVER__BIND", "127.0.0.1:0"), ("GATEWAY__SANDBOX__DATA", &objects)];
        let all = own.iter().chain(settings);
        let variables: BTreeMap<_, _> =
            all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { gateway: Gateway::start(&[], &variables, data.path()), _data: data }
    }

    fn get(&self, path: &str) -> Response {
        self.call("GET", path, &[], b"")
    }

    fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        call(&self.gateway, method, path, headers, body)
    }

    fn description(&self) -> Value {
        let response = self.get("/openapi.json");
        assert_eq!(
            (response.status, response.header("content-type")),
            (200, Some("application/json"))
        );
        response.json()
    }
}

fn call(
    gateway: &Gateway,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut client = Client::connect(gateway.address);
    client.send_request(method, path, headers, body);
    if method == "HEAD" {
        let (status, headers) = client.response_head().expect("a response");
        return Response { status, headers, body: Vec::new() };
    }
    client.response()
}

/// One call of the description.
struct Operation<'a> {
    path: &'a str,
    method: String,
    id: &'a str,
    value: &'a Value,
}

fn operations(description: &Value) -> Vec<Operation<'_>> {
    let paths = description["paths"].as_object().expect("paths");
    let calls = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("methods").iter();
        methods.map(move |(method, value)| Operation {
            path,
            method: method.to_uppercase(),
            id: value["operationId"].as_str().expect("an id"),
            value,
        })
    });
    calls.collect()
}

#[test]
fn every_code_is_pinned_and_described() {
    let codes: Vec<_> =
        Code::ALL.iter().map(|code| (code.name(), code.status().as_u16())).collect();
    assert_eq!(codes, CODES);

    let description = Sandbox::start(&[]).description();
    let described = description["components"]["schemas"]["Code"]["enum"].as_array();
    let names = Code::ALL.iter().map(|code| Value::from(code.name()));
    assert_eq!(described, Some(&names.collect()));
}

#[test]
fn every_code_stands_in_the_description_of_a_call_under_its_status() {
    let description = Sandbox::start(&[]).description();
    let operations = operations(&description);
    for code in Code::ALL.iter().filter(|code| !OF_TUS.contains(&code.name())) {
        let (status, line) = (code.status().as_str().to_owned(), format!("`{}`: ", code.name()));
        let told = operations.iter().any(|operation| {
            let text = &operation.value["responses"][&status]["description"];
            text.as_str().is_some_and(|text| text.contains(&line))
        });
        assert!(told, "{} is no call's failure: name it in openapi/failures.rs", code.name());
    }
    for operation in &operations {
        let named = operation.value["responses"].as_object().expect("responses").iter();
        for (status, response) in named.filter(|(status, _)| status.as_str() >= "400") {
            let text = response["description"].as_str().expect("a text");
            for line in text.lines() {
                let name = line.split('`').nth(1).expect("a code");
                let code = CODES.iter().find(|(known, _)| *known == name);
                assert_eq!(code.map(|(_, status)| status.to_string()).as_ref(), Some(status));
            }
        }
    }
}

#[test]
fn each_address_takes_the_methods_described_and_no_other() {
    let sandbox = Sandbox::start(&[]);
    let description = sandbox.description();
    for (path, item) in description["paths"].as_object().expect("paths") {
        let address = match path.as_str() {
            "/" => "/?cloudid=x".to_owned(),
            "/v1/files" => "/v1/files?action=config".to_owned(),
            path => path.replace("{path}", "a.txt"),
        };
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"] {
            let response = sandbox.call(method, &address, &[], b"");
            let described = item.get(method.to_lowercase()).is_some();
            // In the sandbox the console lives there, too.
            if path == "/" && !described {
                continue;
            }
            let as_wechat = path.starts_with("/tcb/") || path.starts_with("/cgi-bin/");
            if as_wechat && !described {
                assert_eq!(response.status, 200, "{method} {path}");
                if method != "HEAD" {
                    let errcode = response.json()["errcode"].as_i64();
                    assert!(matches!(errcode, Some(43001 | 43002)), "{method} {path}");
                }
                continue;
            }
            assert_eq!(response.status != 405, described, "{method} {path}: {}", response.status);
            if !described {
                let mut allowed: Vec<_> =
                    response.header("allow").expect("the methods").split(", ").collect();
                allowed.sort_unstable();
                let mut methods: Vec<_> =
                    item.as_object().expect("methods").keys().map(|m| m.to_uppercase()).collect();
                methods.sort_unstable();
                assert_eq!(allowed, methods, "{method} {path}");
            }
        }
    }
}

#[test]
fn each_example_gets_the_reply_described() {
    let digest = hex::encode(Sha256::digest(KEY));
    let sandbox = Sandbox::start(&[
        ("GATEWAY__AUTH__KEYS__PANEL__SHA256", &digest),
        ("GATEWAY__AUTH__JWT__ALGORITHM", "HS256"),
        ("GATEWAY__AUTH__JWT__KEY", crate::tickets::SECRET),
    ]);
    let description = sandbox.description();
    let operations = operations(&description);
    let all: BTreeSet<_> = operations.iter().map(|operation| operation.id).collect();
    assert_eq!(all, ORDER.into_iter().collect(), "the calls that have an example");
    for id in ORDER {
        let operation = operations.iter().find(|operation| operation.id == id).expect(id);
        let (status, example) = success(operation);
        let response = send(&sandbox, operation);
        assert_eq!(response.status.to_string(), status, "{id}: {}", response.text());
        if let Some(example) = example {
            alike(id, example, &response.json());
        }
    }
}

/// The status of a call that succeeds, with an example of its reply; or without one, where it has none.
fn success<'a>(operation: &'a Operation<'_>) -> (&'a str, Option<&'a Value>) {
    let responses = operation.value["responses"].as_object().expect("responses").iter();
    let mut good = responses
        .filter(|(status, _)| status.as_str() < "400")
        .map(|(status, response)| {
            let contents = response["content"].as_object().into_iter().flat_map(Map::values);
            (
                status.as_str(),
                contents.filter_map(|content| content.get("example")).next(),
                response,
            )
        })
        .collect::<Vec<_>>();
    good.sort_by_key(|(_, example, response)| {
        (example.is_none(), response.get("content").is_some())
    });
    (good[0].0, good[0].1)
}

/// Sends a call's example.
fn send(sandbox: &Sandbox, operation: &Operation<'_>) -> Response {
    let encoded = |value: &Value| {
        let text = value.as_str().expect("a text");
        utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
    };
    let (mut address, mut query) = (operation.path.to_owned(), Vec::new());
    for parameter in operation.value["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().expect("a name");
        match parameter.get("example") {
            Some(value) if parameter["in"] == "path" => {
                address = address.replace(&format!("{{{name}}}"), &encoded(value));
            }
            Some(value) => query.push(format!("{name}={}", encoded(value))),
            None => assert_ne!(parameter["required"], true, "{}: {name}", operation.id),
        }
    }
    if !query.is_empty() {
        address = format!("{address}?{}", query.join("&"));
    }
    let contents = operation.value["requestBody"]["content"].as_object();
    let Some((kind, content)) = contents.and_then(|contents| contents.iter().next()) else {
        return sandbox.call(&operation.method, &address, &[], b"");
    };
    let example = content.get("example").expect("an example");
    let (kind, body) = match kind.as_str() {
        "multipart/form-data" => {
            let form = form(example);
            (form.content_type(), form.bytes())
        }
        "application/json" => (kind.clone(), example.to_string().into_bytes()),
        _ => (kind.clone(), example.as_str().expect("a text").as_bytes().to_vec()),
    };
    let bearer = format!("Bearer {KEY}");
    let mut headers = vec![("content-type", kind.as_str())];
    if operation.id == "mint_ticket" {
        // Only keys may.
        headers.push(("authorization", &bearer));
    }
    sandbox.call(&operation.method, &address, &headers, &body)
}

/// The form of an example; the file is last.
fn form(example: &Value) -> Form {
    let fields = example.as_object().expect("fields").iter().filter(|(name, _)| *name != "file");
    let form = fields
        .fold(Form::new(), |form, (name, value)| form.field(name, value.as_str().expect("a text")));
    let file = example["file"].as_str().expect("a file");
    form.file("file", "hello.txt", "text/plain", file.as_bytes())
}

/// That `got` is what `described` says, but for what is another one each time: addresses, ids, times.
fn alike(place: &str, described: &Value, got: &Value) {
    match (described, got) {
        (Value::Object(described), Value::Object(got)) => {
            let keys = |map: &Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
            assert_eq!(keys(described), keys(got), "{place}");
            for (key, value) in described {
                alike(&format!("{place}.{key}"), value, &got[key]);
            }
        }
        (Value::Array(described), Value::Array(got)) => {
            assert_eq!(described.len(), got.len(), "{place}");
            for (index, (described, got)) in described.iter().zip(got).enumerate() {
                alike(&format!("{place}[{index}]"), described, got);
            }
        }
        (Value::String(described), Value::String(got)) if !place.ends_with("crc64") => {
            match described.split_once('…') {
                Some((beginning, _)) => {
                    assert!(masked(got).starts_with(&masked(beginning)), "{place}: {got}");
                }
                None => assert_eq!(masked(described), masked(got), "{place}"),
            }
        }
        _ => assert_eq!(described, got, "{place}"),
    }
}

/// Numbers and identifiers as one sign each.
fn masked(text: &str) -> String {
    let text = text.replace("gateway.test", "127.0.0.1:8080");
    let mut masked = String::new();
    for character in text.chars() {
        match character {
            '0'..='9' | 'a'..='f' if masked.ends_with('#') => {}
            '0'..='9' | 'a'..='f' => masked.push('#'),
            other => masked.push(other),
        }
    }
    masked
}

/// Pages that make a form of the description send its fields in the order they are listed in.
#[test]
fn the_forms_fields_are_described_before_its_file() {
    let text = Sandbox::start(&[]).get("/openapi.json").text();
    let form = &text[text.find(r#""UploadForm":{"#).expect("the form")..];
    let place = |name: &str| form.find(&format!(r#""{name}":{{"#)).expect("a field");
    assert!(place("dir") < place("file") && place("path") < place("file"));
}

#[test]
fn the_pages_come_from_the_binary_alone_in_production_too() {
    let world = Setup::new().start();
    let get = |path: &str| call(&world.gateway, "GET", path, &[], b"");
    assert_eq!(get("/openapi.json").status, 200);
    let moved = get("/docs");
    assert_eq!((moved.status, moved.header("location")), (308, Some("docs/")));
    let index = get("/docs/");
    assert_eq!(index.header("content-type"), Some("text/html"));
    let policy = index.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    let text = plain(&index);
    assert!(!text.contains("://"), "{text}");
    let is_file = |text: &&str| {
        let path = text.split('?').next().unwrap_or_default();
        [".js", ".css", ".png"].iter().any(|ending| path.ends_with(ending))
    };
    let files = text.split('"').filter(is_file);
    let files: Vec<_> = files.map(|name| name.trim_start_matches("./").to_owned()).collect();
    assert_eq!(files.len(), 8, "{files:?}");
    for file in files {
        let response = get(&format!("/docs/{file}"));
        assert_eq!(response.status, 200, "{file}");
        assert_eq!(response.header("content-security-policy"), Some(policy));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    }
    let script = plain(&get("/docs/swagger-initializer.js"));
    assert!(script.contains(r#""../openapi.json?lang=en""#) && !script.contains("://"), "{script}");
    assert_eq!(get("/docs/other").status, 404);
}

/// A reply's text, unpacked.
fn plain(response: &Response) -> String {
    if response.header("content-encoding") != Some("gzip") {
        return response.text();
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("text.gz");
    std::fs::write(&file, &response.body).expect("it is written");
    let output = Command::new("gzip").args(["-dc"]).arg(file).output().expect("gzip");
    String::from_utf8(output.stdout).expect("a text")
}

/// Sends what a schema allows and what it forbids, and compares each reply with the description.
#[test]
#[ignore = "needs schemathesis, which tests/run installs"]
fn schemathesis_finds_nothing_to_object_to() {
    let hash = hex::encode(Sha256::digest(KEY));
    let sandbox = Sandbox::start(&[
        ("GATEWAY__AUTH__ANONYMOUS", "false"),
        ("GATEWAY__AUTH__KEYS__TEST__SHA256", &hash),
        ("GATEWAY__AUTH__JWT__ALGORITHM", "HS256"),
        ("GATEWAY__AUTH__JWT__KEY", crate::tickets::SECRET),
    ]);
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tool = |name: &str| Command::new(project.join("target/python/bin").join(name));
    let url = format!("http://{}", sandbox.gateway.address);
    let folder = tempfile::tempdir().expect("a temporary folder");
    for language in ["en", "zh"] {
        let file = folder.path().join(format!("{language}.json"));
        let description = sandbox.get(&format!("/openapi.json?lang={language}"));
        std::fs::write(&file, description.body).expect("it is written");
        let status = tool("openapi-spec-validator").args(["--schema", "3.1"]).arg(&file).status();
        assert!(status.expect("openapi-spec-validator runs").success(), "{language}");
    }

    let status = tool("schemathesis")
        .arg("--config-file")
        .arg(project.join("tests/schemathesis.toml"))
        .args(["run", &format!("{url}/openapi.json"), "--url", &url])
        .args(["--header", &format!("Authorization: Bearer {KEY}"), "--max-examples", "25"])
        .current_dir(folder.path())
        .status();
    assert!(status.expect("schemathesis runs").success(), "{}", sandbox.gateway.log());
    // Calls of WeChat's own API with a path or an environment that WeChat refuses, and the summary of access-log lines
    // that are left out: unauthenticated requests are sent, too.
    let expected = |line: &&str| {
        line.contains(r#" path="/tcb/"#) && line.contains("wechat_refused")
            || line.contains("their lines are left out")
    };
    let log = sandbox.gateway.log();
    let trouble: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
        .filter(|line| !expected(line))
        .collect();
    assert!(trouble.is_empty(), "{trouble:#?}");
}
