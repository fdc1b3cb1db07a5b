//! The sandbox's COS, as public clients meet it: which forms are stored, which are refused, its clock and its faults.
//! Requests are sent to the sandbox directly, except in the last test; each test checks the response and what is stored.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tcb_upload_gateway::sandbox::{Options, Sandbox};

use crate::harness::{Client, Form, Response, Setup, crc64, noise};

/// A sandbox without a gateway.
struct Cos {
    sandbox: Sandbox,
    bucket: String,
    token: String,
    _data: tempfile::TempDir,
}

impl Cos {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut options = Options { data: data.path().join("objects"), ..Options::default() };
        change(&mut options);
        let app = json!({
            "grant_type": "client_credential", "appid": options.appid, "secret": options.secret,
        });
        let bucket = options.bucket.clone();
        let sandbox = Sandbox::start(options).expect("the sandbox starts");
        let token = call(&sandbox, "POST", "/cgi-bin/stable_token", &app).json()["access_token"]
            .as_str()
            .expect("a token")
            .to_owned();
        Self { sandbox, bucket, token, _data: data }
    }

    fn tcb(&self, name: &str, mut body: Value) -> Value {
        body["env"] = json!(Options::default().env);
        let target = format!("/tcb/{name}?access_token={}", self.token);
        call(&self.sandbox, "POST", &target, &body).json()
    }

    /// The fields of a link for `path`, in the documented order, and its file id.
    fn link(&self, path: &str) -> (Vec<(&'static str, String)>, String) {
        let link = self.tcb("uploadfile", json!({"path": path}));
        let text = |name: &str| link[name].as_str().expect("a text").to_owned();
        let fields = vec![
            ("key", path.to_owned()),
            ("Signature", text("authorization")),
            ("x-cos-security-token", text("token")),
            ("x-cos-meta-fileid", text("cos_file_id")),
        ];
        (fields, text("file_id"))
    }

    fn client(&self) -> Client {
        Client::connect(self.sandbox.cos_addr())
    }

    fn post(&self, path: &str, form: &Form) -> Response {
        self.post_on(&mut self.client(), path, form)
    }

    fn post_on(&self, client: &mut Client, path: &str, form: &Form) -> Response {
        let target = format!("/{}/{path}", self.bucket);
        let kind = form.content_type();
        client.send_request("POST", &target, &[("content-type", &kind)], &form.bytes());
        client.response()
    }

    fn faults(&self, rules: &Value) {
        let response = call(&self.sandbox, "PUT", "/_sandbox/faults", rules);
        assert_eq!(response.status, 200, "{}", response.text());
    }

    fn objects(&self) -> Vec<Value> {
        call(&self.sandbox, "GET", "/_sandbox/wait?idle=1", &Value::Null);
        let state = call(&self.sandbox, "GET", "/_sandbox/state", &Value::Null).json();
        state["objects"].as_array().expect("a list").clone()
    }

    fn object(&self, key: &str) -> Vec<u8> {
        let target = format!("/_sandbox/object?key={key}");
        let response = call(&self.sandbox, "GET", &target, &Value::Null);
        assert_eq!(response.status, 200, "{key}");
        response.body
    }

    /// The download of a file id by a temporary URL, or its status where there is no URL.
    fn download(&self, file_id: &str) -> Result<Response, i64> {
        let list = json!({"file_list": [{"fileid": file_id, "max_age": 60}]});
        let file = self.tcb("batchdownloadfile", list)["file_list"][0].clone();
        if file["status"] != 0 {
            return Err(file["status"].as_i64().expect("a status"));
        }
        let url = file["download_url"].as_str().expect("a URL");
        let (authority, target) =
            url.strip_prefix("http://").and_then(|url| url.split_once('/')).expect("an http URL");
        let mut client = Client::connect(authority.parse::<SocketAddr>().expect("an address"));
        client.send_request("GET", &format!("/{target}"), &[], b"");
        Ok(client.response())
    }
}

fn call(sandbox: &Sandbox, method: &str, target: &str, body: &Value) -> Response {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut client = Client::connect(sandbox.wechat_addr());
    client.send_request(method, target, &[], body.as_bytes());
    client.response()
}

fn form(fields: &[(&str, String)], content: &[u8]) -> Form {
    let form = fields.iter().fold(Form::new(), |form, (name, value)| form.field(name, value));
    form.file("file", "f.bin", "application/octet-stream", content)
}

fn assert_refused(response: &Response, status: u16, code: &str, what: &str) {
    let text = response.text();
    assert_eq!(response.status, status, "{what}: {text}");
    assert!(text.contains(&format!("<Code>{code}</Code>")), "{what}: {text}");
}

/// Moves the fields into the order of these names; each may be spelt in another case.
fn ordered(
    fields: &[(&'static str, String)],
    names: &[&'static str],
) -> Vec<(&'static str, String)> {
    let value = |name: &str| {
        let field = fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        field.map_or_else(|| "200".to_owned(), |(_, value)| value.clone())
    };
    names.iter().map(|name| (*name, value(name))).collect()
}

#[test]
fn forms_of_public_clients_are_stored_and_their_fields_recorded_in_order() {
    let cos = Cos::start();
    let orders: [(&str, u16, &[&str]); 5] = [
        ("documented", 204, &["key", "Signature", "x-cos-security-token", "x-cos-meta-fileid"]),
        ("tcb-admin-node", 204, &["Signature", "x-cos-security-token", "x-cos-meta-fileid", "key"]),
        (
            "cloudbase js-sdk",
            200,
            &[
                "key",
                "signature",
                "x-cos-meta-fileid",
                "success_action_status",
                "x-cos-security-token",
            ],
        ),
        ("reversed", 204, &["x-cos-meta-fileid", "x-cos-security-token", "Signature", "key"]),
        (
            "other case",
            200,
            &[
                "SUCCESS_ACTION_STATUS",
                "X-Cos-Meta-Fileid",
                "X-Cos-Security-Token",
                "KEY",
                "signature",
            ],
        ),
    ];
    for (at, (name, status, order)) in orders.into_iter().enumerate() {
        for named_parts in [false, true] {
            let path = format!("forms/{at}-{named_parts}");
            let content = noise(70_000 + at, at as u64);
            let (fields, file_id) = cos.link(&path);
            let fields = ordered(&fields, order);
            let sent = if named_parts {
                let form = fields.iter().fold(Form::new(), |form, (name, value)| {
                    form.file(name, name, "text/plain", value.as_bytes())
                });
                form.file("file", "x", "text/plain", &content)
            } else {
                form(&fields, &content)
            };
            let response = cos.post(&path, &sent);
            assert_eq!(response.status, status, "{name}: {}", response.text());
            assert_eq!(response.header("x-cos-hash-crc64ecma"), Some(crc64(&content).as_str()));

            let objects = cos.objects();
            let object = objects.iter().find(|object| object["key"] == path).expect("it is stored");
            let recorded: Vec<_> =
                object["fields"].as_array().expect("fields").iter().map(|f| &f[0]).collect();
            assert_eq!(recorded, order, "{name}");
            let downloaded = cos.download(&file_id).expect("a URL");
            assert!(downloaded.body == content, "{name}: other bytes");
        }
    }
}

#[test]
fn a_form_whose_file_comes_before_its_fields_is_refused_and_nothing_is_stored() {
    let cos = Cos::start();
    for size in [0, 10, 3_000_000] {
        for before in 0..3 {
            let (fields, _) = cos.link("first");
            let content = noise(size, 1);
            let sent = form(&fields[..before], &content);
            let sent = fields[before..].iter().fold(sent, |form, (n, v)| form.field(n, v));
            let what = format!("{size} bytes after {before} fields");
            assert_refused(&cos.post("first", &sent), 400, "MalformedPOSTRequest", &what);
            assert_eq!(cos.objects(), [] as [Value; 0], "{what}");
        }
    }
    // The required fields come first, but another one follows the file.
    let (fields, _) = cos.link("first");
    let sent = form(&fields[..3], b"content").field("x-cos-meta-fileid", &fields[3].1);
    assert_refused(&cos.post("first", &sent), 400, "MalformedPOSTRequest", "a late file id");
    assert_eq!(cos.objects(), [] as [Value; 0]);
}

#[test]
fn a_signature_must_be_there_be_right_and_belong_to_the_path() {
    let cos = Cos::start();
    let (fields, _) = cos.link("signed");
    let (other, _) = cos.link("other");
    let with = |at: usize, value: &str| {
        let mut fields = fields.clone();
        fields[at].1 = value.to_owned();
        fields
    };
    let without = [&fields[..1], &fields[2..]].concat();
    let denied = "SignatureDoesNotMatch";
    for (what, fields, status, code) in [
        ("no signature", without, 400, "MalformedPOSTRequest"),
        ("a wrong signature", with(1, "q-sign-algorithm=sha1"), 403, denied),
        ("another path's signature", with(1, &other[1].1), 403, denied),
        ("another path's token", with(2, &other[2].1), 403, "InvalidAccessKeyId"),
        ("another path's file id", with(3, &other[3].1), 400, "InvalidArgument"),
    ] {
        assert_refused(&cos.post("signed", &form(&fields, b"x")), status, code, what);
        assert_eq!(cos.objects(), [] as [Value; 0], "{what}");
    }
}

#[test]
fn success_action_status_chooses_the_status_and_201_has_a_body() {
    let cos = Cos::start();
    for (asked, status) in [
        (Some("200"), 200),
        (Some("201"), 201),
        (Some("204"), 204),
        (Some("302"), 204),
        (None, 204),
    ] {
        let path = format!("status/a&b-{}", asked.unwrap_or_default());
        let (mut fields, _) = cos.link(&path);
        if let Some(asked) = asked {
            fields.insert(1, ("success_action_status", asked.to_owned()));
        }
        let response = cos.post(&path, &form(&fields, b"content"));
        assert_eq!(response.status, status, "{asked:?}");
        assert_eq!(cos.object(&path.replace('&', "%26")), b"content");
        if status == 201 {
            assert_eq!(response.header("content-type"), Some("application/xml"));
            let xml = response.text();
            let location = response.header("location").expect("a location").replace('&', "&amp;");
            let etag = response.header("etag").expect("an ETag");
            for element in [
                format!("<Location>{location}</Location>"),
                format!("<Bucket>{}</Bucket>", cos.bucket),
                "<Key>status/a&amp;b-201</Key>".to_owned(),
                format!("<ETag>{etag}</ETag>"),
            ] {
                assert!(xml.contains(&element), "{element}: {xml}");
            }
        } else {
            assert_eq!(response.text(), "");
        }
    }
}

#[test]
fn optional_fields_are_stored_and_become_headers_of_the_download() {
    let cos = Cos::start();
    let optional = [
        ("Content-Type", "text/plain"),
        ("Content-Disposition", "attachment; filename=\"a.txt\""),
        ("Cache-Control", "max-age=60"),
        ("Expires", "Thu, 01 Dec 2033 16:00:00 GMT"),
        ("x-cos-storage-class", "STANDARD_IA"),
        ("x-cos-meta-colour", "red"),
    ];
    for (path, first) in [("optional/first", true), ("optional/last", false)] {
        let (fields, file_id) = cos.link(path);
        let optional = optional.map(|(name, value)| (name, value.to_owned()));
        let all = if first {
            [&optional[..], &fields].concat()
        } else {
            [&fields[..], &optional].concat()
        };
        assert_eq!(cos.post(path, &form(&all, b"text")).status, 204);
        let objects = cos.objects();
        let object = objects.iter().find(|object| object["key"] == path).expect("it is stored");
        for (name, value) in &optional {
            let recorded = object["fields"].as_array().expect("fields");
            assert!(recorded.contains(&json!([name, value])), "{name}: {object}");
        }
        let download = cos.download(&file_id).expect("a URL");
        assert_eq!(download.body, b"text");
        for (name, value) in &optional[..4] {
            assert_eq!(download.header(&name.to_lowercase()), Some(value.as_str()), "{name}");
        }
    }
    // Without a type an object is saved by browsers; a Content-Disposition of its own stays the only one.
    let (mut fields, file_id) = cos.link("inline");
    fields.push(("Content-Disposition", "inline".to_owned()));
    assert_eq!(cos.post("inline", &form(&fields, b"text")).status, 204);
    let download = cos.download(&file_id).expect("a URL");
    let dispositions = download.headers.iter().filter(|(name, _)| name == "content-disposition");
    assert_eq!(dispositions.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["inline"]);

    for name in ["Content-Type", "Content-Disposition", "Cache-Control"] {
        let (mut fields, _) = cos.link("control");
        fields.push((name, "a\nb".to_owned()));
        assert_refused(&cos.post("control", &form(&fields, b"x")), 400, "InvalidArgument", name);
    }
    assert!(cos.objects().iter().all(|object| object["key"] != "control"));
}

#[test]
fn without_its_file_id_an_object_is_stored_but_cannot_be_downloaded() {
    let cos = Cos::start();
    for path in ["a", "b/c.txt", "目录/d"] {
        let (fields, file_id) = cos.link(path);
        let encoded: String = path.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(cos.post(&encoded, &form(&fields[..3], b"content")).status, 204);
        assert_eq!(cos.object(&encoded), b"content");
        assert_eq!(cos.download(&file_id).err(), Some(-503003), "{path}");
        let deleted = cos.tcb("batchdeletefile", json!({"fileid_list": [file_id]}));
        assert_eq!(deleted["delete_list"][0]["status"], 0);
    }
    assert_eq!(cos.objects(), [] as [Value; 0]);
}

/// Sends a form with a pause before its byte `at`, and returns the response. Meanwhile there must be none.
fn post_with_pause(cos: &Cos, path: &str, form: &Form, at: usize, pause: Duration) -> Response {
    let body = form.bytes();
    let (kind, length) = (form.content_type(), body.len().to_string());
    let mut client = cos.client();
    let headers = [("content-type", kind.as_str()), ("content-length", length.as_str())];
    client.send_head("POST", &format!("/{}/{path}", cos.bucket), &headers);
    client.send(&body[..at]);
    std::thread::sleep(pause);
    client.send(&body[at..]);
    client.response()
}

#[test]
fn an_upload_over_the_limit_of_time_is_refused_after_its_last_byte() {
    const LIMIT: Duration = Duration::from_secs(2);
    let cos = Cos::with(|options| options.upload_limit = Some(LIMIT));
    let pause = LIMIT + Duration::from_millis(100);
    let content = noise(300_000, 1);
    let sent = |path: &str| form(&cos.link(path).0, &content);
    // Before the body, in the middle of the file, before the form's last byte.
    let whole = sent("slow/0").bytes().len();
    std::thread::scope(|scope| {
        for (number, at) in [0, whole / 2, whole - 1].into_iter().enumerate() {
            let (cos, path) = (&cos, format!("slow/{number}"));
            let sent = sent(&path);
            scope.spawn(move || {
                let response = post_with_pause(cos, &path, &sent, at, pause);
                let what = format!("a pause before byte {at}");
                assert_refused(&response, 400, "UserNetworkTooSlow", &what);
                assert_eq!(response.header("connection"), None, "{what}: the whole body was read");
            });
        }
    });
    assert_eq!(cos.objects(), [] as [Value; 0]);

    // On one connection the time starts with each request.
    let mut client = cos.client();
    for path in ["fast/0", "fast/1", "fast/2"] {
        assert_eq!(cos.post_on(&mut client, path, &sent(path)).status, 204);
        std::thread::sleep(LIMIT / 2);
    }
    assert_eq!(cos.objects().len(), 3);
}

#[test]
fn the_fault_too_slow_reads_the_whole_form_and_stores_nothing() {
    let cos = Cos::start();
    for (path, size) in [("empty", 0), ("small", 10), ("large", 3_000_000)] {
        cos.faults(&json!([{"stage": "cos", "fault": "too_slow", "times": 1, "path": path}]));
        let mut client = cos.client();
        let content = noise(size, 1);
        let response = cos.post_on(&mut client, path, &form(&cos.link(path).0, &content));
        assert_refused(&response, 400, "UserNetworkTooSlow", path);
        assert_eq!(response.header("connection"), None, "{path}: the whole body was read");
        assert_eq!(cos.objects(), [] as [Value; 0], "{path}");
        // The same connection can be used again, and the next attempt is stored.
        let response = cos.post_on(&mut client, path, &form(&cos.link(path).0, &content));
        assert_eq!(response.status, 204, "{path}");
        assert!(cos.object(path) == content, "{path}");
        call(&cos.sandbox, "POST", "/_sandbox/reset", &Value::Null);
    }
}

#[test]
fn the_fault_truncate_stores_the_first_bytes_and_claims_success() {
    let cos = Cos::start();
    let content = noise(200_000, 1);
    for (after, crc) in [(0, Some(true)), (1, None), (150_000, Some(true)), (199_999, Some(false))]
    {
        let mut rule = json!({"stage": "cos", "fault": "truncate", "after": after});
        if let Some(crc) = crc {
            rule["crc"] = json!(crc);
        }
        cos.faults(&json!([rule]));
        let (fields, file_id) = cos.link("truncated");
        let response = cos.post("truncated", &form(&fields, &content));
        assert_eq!(response.status, 204, "{rule}");
        let stored = &content[..after];
        let expected = (crc == Some(true)).then(|| crc64(stored));
        assert_eq!(response.header("x-cos-hash-crc64ecma"), expected.as_deref(), "{rule}");
        assert!(cos.object("truncated") == stored, "{rule}");
        assert_eq!(cos.download(&file_id).expect("a URL").body.len(), after, "{rule}");
    }
}

#[test]
fn under_the_fault_truncate_a_small_file_that_stands_first_is_stored_in_part() {
    let cos = Cos::start();
    cos.faults(&json!([{"stage": "cos", "fault": "truncate", "after": 1000}]));
    for (path, size, before) in [("first", 5000, 0), ("second", 1001, 1), ("third", 900, 2)] {
        let content = noise(size, 1);
        let (fields, _) = cos.link(path);
        let sent = form(&fields[..before], &content);
        let sent =
            fields[before..].iter().fold(sent, |form, (name, value)| form.field(name, value));
        assert_eq!(cos.post(path, &sent).status, 204, "{path}");
        assert!(cos.object(path) == content[..size.min(1000)], "{path}");
    }
    assert_eq!(cos.objects().len(), 3);

    // A large file is refused all the same, and a signature is needed wherever it stands.
    let (fields, _) = cos.link("fourth");
    let late = |content: &[u8], fields: &[(&str, String)]| {
        fields.iter().fold(form(&[], content), |form, (name, value)| form.field(name, value))
    };
    let large = late(&noise(3_000_000, 2), &fields);
    assert_refused(&cos.post("fourth", &large), 400, "MalformedPOSTRequest", "a large file");
    let unsigned = late(b"content", &fields[..1]);
    assert_refused(&cos.post("fourth", &unsigned), 400, "MalformedPOSTRequest", "no signature");
    let mut wrong = fields.clone();
    wrong[1].1.push('0');
    let wrong = late(b"content", &wrong);
    assert_refused(&cos.post("fourth", &wrong), 403, "SignatureDoesNotMatch", "a wrong signature");
    assert_eq!(cos.objects().len(), 3);
}

#[test]
fn the_crc_of_a_form_s_response_can_be_left_out() {
    for post_crc in [true, false] {
        let cos = Cos::with(|options| options.post_crc = post_crc);
        for (path, status) in [("a", "200"), ("b", "201"), ("c", "204")] {
            let (mut fields, _) = cos.link(path);
            fields.push(("success_action_status", status.to_owned()));
            let response = cos.post(path, &form(&fields, b"content"));
            assert_eq!(response.status.to_string(), status);
            let expected = post_crc.then(|| crc64(b"content"));
            assert_eq!(response.header("x-cos-hash-crc64ecma"), expected.as_deref(), "{status}");
            assert_eq!(cos.object(path), b"content");
        }
    }
}

#[test]
fn the_gateway_notices_a_truncated_object_by_its_crc_and_deletes_it() {
    let world = Setup::new().start();
    for (size, after) in [(1, 0), (70_000, 69_999), (3_000_000, 1_000_000)] {
        world.faults(&json!([{"stage": "cos", "fault": "truncate", "after": after, "crc": true}]));
        let content = noise(size, 1);
        let response = world.post(&Form::new().file("file", "x.bin", "", &content));
        response.problem(502, "integrity_mismatch");
        world.assert_nothing_stored();
        // Without a CRC in the response it cannot notice, and does not claim to have verified the file.
        world.faults(&json!([{"stage": "cos", "fault": "truncate", "after": after, "times": 1}]));
        let file = world.post(&Form::new().file("file", "x.bin", "", &content)).stored();
        assert_eq!(file["verified"], false, "{file}");
        assert!(world.object(file["path"].as_str().expect("a path")) == content[..after]);
        world.control("POST", "reset", "");
    }
}
