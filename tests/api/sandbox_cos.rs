//! The sandbox's API of COS over sockets, with requests that are signed here: what is stored, what is refused, and that a
//! refusal stores nothing.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use tcb_upload_gateway::sandbox::{Options, Sandbox};
use tempfile::TempDir;

use crate::harness::{Client, Response, Setup, crc64, noise};

const ID: &str = "AKIDtests";
const SECRET: &str = "secret-key-of-the-tests";
pub const BUCKET: &str = "7361-sandbox-1a2b3c-1250000000";
const MIB: usize = 1 << 20;

pub struct Cos {
    pub sandbox: Sandbox,
    data: TempDir,
}

pub fn start(change: impl FnOnce(&mut Options)) -> Cos {
    let data = tempfile::tempdir().expect("a temporary folder");
    let sandbox = start_in(&data, change);
    Cos { sandbox, data }
}

fn start_in(data: &TempDir, change: impl FnOnce(&mut Options)) -> Sandbox {
    let mut options = Options {
        data: data.path().join("objects"),
        secret_id: Some(ID.to_owned()),
        secret_key: Some(SECRET.to_owned()),
        ..Options::default()
    };
    change(&mut options);
    Sandbox::start(options).expect("the sandbox starts")
}

impl Cos {
    /// A call to the sandbox's WeChat, or one of its control calls.
    fn wechat(&self, method: &str, target: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut client = Client::connect(self.sandbox.wechat_addr());
        client.send_request(method, target, &[], body.as_bytes());
        client.response().json()
    }

    pub fn state(&self) -> Value {
        self.wechat("GET", "/_sandbox/wait?idle=1", &Value::Null);
        self.wechat("GET", "/_sandbox/state", &Value::Null)
    }

    pub fn faults(&self, rules: &Value) {
        assert!(self.wechat("PUT", "/_sandbox/faults", rules).is_array());
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        let key = encoded(key);
        let mut client = Client::connect(self.sandbox.wechat_addr());
        client.send_request("GET", &format!("/_sandbox/object?key={key}"), &[], b"");
        let response = client.response();
        (response.status == 200).then_some(response.body)
    }

    /// Nothing is stored and nothing is unfinished.
    pub fn assert_empty(&self, what: &str) {
        let state = self.state();
        assert_eq!(state["objects"], json!([]), "{what}");
        assert_eq!(state["multipart_uploads"], json!([]), "{what}");
        assert_eq!(
            std::fs::read_dir(self.data.path().join("objects")).unwrap().count(),
            0,
            "{what}"
        );
    }

    pub fn send(&self, call: &Call) -> Response {
        call.send(self.sandbox.cos_addr(), &Keys::owner())
    }

    pub fn initiate(&self, key: &str) -> String {
        let response = self.send(&Call::new("POST", key).parameter("uploads", ""));
        assert_eq!(response.status, 200, "{}", response.text());
        element(&response.text(), "UploadId").expect("an UploadId")
    }

    /// Uploads a part and returns its ETag.
    fn part(&self, key: &str, id: &str, number: u32, content: &[u8]) -> String {
        let response = self.send(&part(key, id, number, content));
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("x-cos-hash-crc64ecma"), Some(&*crc64(content)));
        response.header("etag").expect("an ETag").to_owned()
    }
}

fn part(key: &str, id: &str, number: u32, content: &[u8]) -> Call {
    let call = Call::new("PUT", key).parameter("partNumber", &number.to_string());
    call.parameter("uploadId", id).body(content)
}

fn complete(key: &str, id: &str, parts: &[(u32, &str)]) -> Call {
    let parts = parts.iter().map(|(number, etag)| {
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
    });
    let list: String = parts.collect();
    let text = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    Call::new("POST", key).parameter("uploadId", id).body(text.as_bytes())
}

/// The text of the first element with this name.
pub fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0.to_owned())
}

pub fn code(response: &Response) -> (u16, String) {
    (response.status, element(&response.text(), "Code").unwrap_or_default())
}

fn md5(bytes: &[u8]) -> String {
    hex::encode(md5::Md5::digest(bytes))
}

fn encoded(text: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encoding::utf8_percent_encode(text, PLAIN).to_string()
}

#[derive(Clone)]
pub struct Keys {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
    /// Seconds from now.
    valid: (i64, i64),
}

impl Keys {
    pub fn owner() -> Keys {
        Keys { id: ID.to_owned(), secret: SECRET.to_owned(), token: None, valid: (-60, 600) }
    }

    pub fn temporary(sandbox: &Sandbox) -> Keys {
        let mut client = Client::connect(sandbox.wechat_addr());
        client.send_request("GET", "/_/cos/getauth", &[], b"");
        let keys = client.response().json();
        let text = |name: &str| keys[name].as_str().expect("a text").to_owned();
        Keys {
            id: text("TmpSecretId"),
            secret: text("TmpSecretKey"),
            token: Some(text("Token")),
            valid: (-60, 600),
        }
    }

    /// The seven parameters of a signature (doc 7778).
    fn sign(
        &self,
        method: &str,
        path: &str,
        parameters: &[(String, String)],
        headers: &[(String, String)],
    ) -> Vec<(&'static str, String)> {
        let hmac = |key: &str, text: &str| {
            let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("any key");
            mac.update(text.as_bytes());
            hex::encode(mac.finalize().into_bytes())
        };
        let list = |pairs: &[(String, String)]| {
            let mut pairs: Vec<_> = pairs
                .iter()
                .map(|(name, value)| (encoded(name).to_lowercase(), encoded(value)))
                .collect();
            pairs.sort();
            let names: Vec<_> = pairs.iter().map(|(name, _)| name.clone()).collect();
            let joined: Vec<_> =
                pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            (names.join(";"), joined.join("&"))
        };
        let ((parameter_names, parameters), (header_names, headers)) =
            (list(parameters), list(headers));
        let http = format!("{}\n{path}\n{parameters}\n{headers}\n", method.to_lowercase());
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
        let time = format!("{};{}", now + self.valid.0, now + self.valid.1);
        let digest = hex::encode(Sha1::digest(http.as_bytes()));
        let signature = hmac(&hmac(&self.secret, &time), &format!("sha1\n{time}\n{digest}\n"));
        vec![
            ("q-sign-algorithm", "sha1".to_owned()),
            ("q-ak", self.id.clone()),
            ("q-sign-time", time.clone()),
            ("q-key-time", time),
            ("q-header-list", header_names),
            ("q-url-param-list", parameter_names),
            ("q-signature", signature),
        ]
    }
}

#[derive(Clone)]
pub struct Call {
    method: &'static str,
    key: String,
    host: Option<&'static str>,
    path_style: bool,
    parameters: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
    signed_in_query: bool,
    /// Changes the signed request, so that its signature is wrong.
    tamper: fn(&mut String),
}

impl Call {
    pub fn new(method: &'static str, key: &str) -> Call {
        Call {
            method,
            key: key.to_owned(),
            host: None,
            path_style: false,
            parameters: Vec::new(),
            headers: Vec::new(),
            body: Vec::new(),
            chunked: false,
            signed_in_query: false,
            tamper: |_| {},
        }
    }

    pub fn parameter(mut self, name: &str, value: &str) -> Call {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: &[u8]) -> Call {
        self.body = body.to_vec();
        self
    }

    fn tampered(mut self, tamper: fn(&mut String)) -> Call {
        self.tamper = tamper;
        self
    }

    /// The request's head; the body follows it.
    fn head(&self, cos: SocketAddr, keys: &Keys) -> String {
        let path = match self.path_style {
            true => format!("/{BUCKET}/{}", self.key),
            false => format!("/{}", self.key),
        };
        let host = self.host.map_or_else(|| cos.to_string(), str::to_owned);
        let mut headers = self.headers.clone();
        headers.push(("host".to_owned(), host));
        if self.chunked {
            headers.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
        } else if matches!(self.method, "PUT" | "POST") {
            headers.push(("content-length".to_owned(), self.body.len().to_string()));
        }
        if let Some(token) = keys.token.as_ref().filter(|_| !self.signed_in_query) {
            headers.push(("x-cos-security-token".to_owned(), token.clone()));
        }
        let mut signature = keys.sign(self.method, &path, &self.parameters, &headers);
        let mut query: Vec<_> = self
            .parameters
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
            .collect();
        if self.signed_in_query {
            if let Some(token) = &keys.token {
                signature.push(("x-cos-security-token", token.clone()));
            }
            query
                .extend(signature.iter().map(|(name, value)| format!("{name}={}", encoded(value))));
        } else {
            let text: Vec<_> =
                signature.iter().map(|(name, value)| format!("{name}={value}")).collect();
            headers.push(("authorization".to_owned(), text.join("&")));
        }
        let target = encoded(&path).replace("%2F", "/");
        let mut head = format!("{} {target}?{} HTTP/1.1\r\n", self.method, query.join("&"));
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        (self.tamper)(&mut head);
        head
    }

    fn send(&self, cos: SocketAddr, keys: &Keys) -> Response {
        self.try_send(cos, keys).expect("a response")
    }

    fn try_send(&self, cos: SocketAddr, keys: &Keys) -> std::io::Result<Response> {
        let mut client = Client::connect(cos);
        client.send(self.head(cos, keys).as_bytes());
        let chunked;
        let body = if self.chunked {
            chunked = in_chunks(&self.body);
            &chunked
        } else {
            &self.body
        };
        // A fault may have closed the connection.
        let _ = client.try_send(body);
        if self.method == "HEAD" {
            let (status, headers) = client.response_head()?;
            return Ok(Response { status, headers, body: Vec::new() });
        }
        client.try_response()
    }
}

/// The body with a chunked transfer coding.
fn in_chunks(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(10_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[test]
fn a_file_that_is_put_is_stored_with_its_headers_and_read_in_ranges() {
    let cos = start(|_| {});
    let content = noise(300_000, 1);
    for (key, chunked, path_style) in
        [("a/b 目录+.png", false, false), ("chunked", true, false), ("path/style", true, true)]
    {
        let mut put = Call::new("PUT", key)
            .header("Content-Type", "image/png")
            .header("Cache-Control", "max-age=60")
            .header("Content-Disposition", "inline; filename=\"a b.png\"")
            .header("x-cos-meta-colour", "red")
            .body(&content);
        (put.chunked, put.path_style) = (chunked, path_style);
        let response = cos.send(&put);
        assert_eq!(response.status, 200, "{}", response.text());
        let etag = format!("\"{}\"", md5(&content));
        assert_eq!(response.header("etag"), Some(&*etag));
        assert_eq!(response.header("x-cos-hash-crc64ecma"), Some(&*crc64(&content)));
        assert!(response.header("x-cos-request-id").is_some());

        let head = cos.send(&Call::new("HEAD", key));
        assert_eq!(head.status, 200);
        for (name, value) in [
            ("etag", &*etag),
            ("content-length", "300000"),
            ("content-type", "image/png"),
            ("cache-control", "max-age=60"),
            ("content-disposition", "inline; filename=\"a b.png\""),
            ("x-cos-meta-colour", "red"),
            ("x-cos-hash-crc64ecma", &*crc64(&content)),
        ] {
            assert_eq!(head.header(name), Some(value), "{name}");
        }
        assert!(head.header("last-modified").is_some_and(|date| date.ends_with(" GMT")));
        assert!(cos.send(&Call::new("GET", key)).body == content);
        let range = cos.send(&Call::new("GET", key).header("Range", "bytes=10-19"));
        assert_eq!((range.status, &range.body[..]), (206, &content[10..20]));

        for _ in 0..2 {
            assert_eq!(cos.send(&Call::new("DELETE", key)).status, 204);
        }
        assert_eq!(cos.send(&Call::new("HEAD", key)).status, 404);
        assert_eq!(code(&cos.send(&Call::new("GET", key))), (404, "NoSuchKey".to_owned()));
    }
    cos.assert_empty("deleted");
    let counts = cos.state()["counts"].clone();
    for (operation, count) in
        [("put_object", 3), ("head_object", 6), ("get_object", 9), ("delete_object", 6)]
    {
        assert_eq!(counts[operation], count, "{operation}");
    }
}

#[test]
fn a_put_that_breaks_a_rule_is_refused_and_stores_nothing() {
    let cos = start(|_| {});
    let long = "k".repeat(851);
    let put = |key: &str| Call::new("PUT", key).body(b"content");
    for (call, expected) in [
        (put("k").header("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="), (400, "BadDigest")),
        (put("k").header("Content-MD5", "nonsense"), (400, "InvalidDigest")),
        (put("k").header("x-cos-meta-fileid", "another"), (400, "InvalidArgument")),
        (put(""), (403, "AccessDenied")),
        (put(&long), (400, "KeyTooLong")),
        (
            put("k").parameter("partNumber", "1").parameter("uploadId", "none"),
            (404, "NoSuchUpload"),
        ),
        (
            put("k").tampered(|head| *head = head.replace("content-length: 7", "x-length: 7")),
            (403, "SignatureDoesNotMatch"),
        ),
    ] {
        let (status, expected) = expected;
        assert_eq!(code(&cos.send(&call)), (status, expected.to_owned()), "{}", call.key);
        cos.assert_empty(expected);
    }
    // A body of unknown length: the signature does not name the length.
    let mut client = Client::connect(cos.sandbox.cos_addr());
    let signed = Keys::owner().sign("PUT", "/k", &[], &[]);
    let signed: Vec<_> = signed.iter().map(|(name, value)| format!("{name}={value}")).collect();
    client.send_head("PUT", "/k", &[("authorization", &signed.join("&"))]);
    assert_eq!(code(&client.response()), (411, "MissingContentLength".to_owned()));
    cos.assert_empty("no length");

    let once = put("k").header("x-cos-forbid-overwrite", "true");
    assert_eq!(cos.send(&once).status, 200);
    assert_eq!(code(&cos.send(&once)), (409, "FileAlreadyExists".to_owned()));
    assert_eq!(cos.send(&put("k")).status, 200);
}

#[test]
fn every_wrong_signature_is_refused_and_stores_nothing() {
    let cos = start(|_| {});
    let address = cos.sandbox.cos_addr();
    let put = || Call::new("PUT", "目录/k").header("x-cos-meta-a", "1").body(b"content");
    let owner = Keys::owner();
    let keys = |change: fn(&mut Keys)| {
        let mut keys = Keys::owner();
        change(&mut keys);
        keys
    };
    let mut other_host = put();
    other_host.host = Some("7361-other-1250000000.cos.ap-shanghai.myqcloud.com");
    let mismatch = (403, "SignatureDoesNotMatch");
    for (what, call, keys, expected) in [
        (
            "no signature",
            put().tampered(|head| *head = head.replace("authorization:", "x:")),
            owner.clone(),
            (403, "AccessDenied"),
        ),
        ("another secret", put(), keys(|keys| keys.secret.push('x')), mismatch),
        ("an unknown id", put(), keys(|keys| keys.id.push('x')), (403, "InvalidAccessKeyId")),
        (
            "a token",
            put(),
            keys(|keys| keys.token = Some("t".to_owned())),
            (403, "InvalidAccessKeyId"),
        ),
        ("expired", put(), keys(|keys| keys.valid = (-60, -2)), (403, "AccessDenied")),
        (
            "not yet valid",
            put(),
            keys(|keys| keys.valid = (60, 600)),
            (403, "RequestTimeTooSkewed"),
        ),
        (
            "another algorithm",
            put().tampered(|head| *head = head.replace("=sha1", "=md5")),
            owner.clone(),
            mismatch,
        ),
        (
            "another key",
            put().tampered(|head| *head = head.replace("/k?", "/l?")),
            owner.clone(),
            mismatch,
        ),
        (
            "another value",
            put().tampered(|head| *head = head.replace("x-cos-meta-a: 1", "x-cos-meta-a: 2")),
            owner.clone(),
            mismatch,
        ),
        (
            "a header less",
            put().tampered(|head| *head = head.replace("x-cos-meta-a: 1\r\n", "")),
            owner.clone(),
            mismatch,
        ),
        (
            "a header more",
            put().tampered(|head| {
                *head = head.replace("x-cos-meta-a: 1", "x-cos-meta-a: 1\r\nx-cos-meta-b: 1")
            }),
            owner.clone(),
            mismatch,
        ),
        (
            "a parameter more",
            put().tampered(|head| *head = head.replace("? HTTP", "?acl HTTP")),
            owner.clone(),
            mismatch,
        ),
        (
            "an unsorted list",
            put().tampered(|head| {
                *head = head.replace("content-length;host", "host;content-length")
            }),
            owner.clone(),
            mismatch,
        ),
        (
            "upper case",
            put().tampered(|head| {
                *head = head.replace("=content-length;host", "=Content-Length;host")
            }),
            owner.clone(),
            mismatch,
        ),
        ("another bucket", other_host, owner.clone(), (404, "NoSuchBucket")),
    ] {
        let response = call.send(address, &keys);
        assert_eq!(code(&response), (expected.0, expected.1.to_owned()), "{what}");
        assert!(response.header("x-cos-request-id").is_some(), "{what}");
        cos.assert_empty(what);
    }
    // Every operation is verified, not PUT alone.
    for (method, parameters) in [
        ("POST", &["uploads"][..]),
        ("PUT", &["partNumber", "uploadId"]),
        ("POST", &["uploadId"]),
        ("DELETE", &["uploadId"]),
        ("GET", &["uploadId"]),
        ("GET", &["uploads"]),
        ("HEAD", &[]),
        ("GET", &[]),
        ("DELETE", &[]),
    ] {
        let call =
            parameters.iter().fold(Call::new(method, "k"), |call, name| call.parameter(name, "1"));
        let response = call.send(address, &keys(|keys| keys.secret.push('x')));
        assert_eq!(response.status, 403, "{method} {parameters:?}");
    }
    cos.assert_empty("every operation");
}

#[test]
fn signatures_in_parameters_and_of_a_host_without_its_port_are_right() {
    let cos = start(|_| {});
    let address = cos.sandbox.cos_addr();
    let mut put = Call::new("PUT", "k").body(b"content");
    put.signed_in_query = true;
    for keys in [Keys::owner(), Keys::temporary(&cos.sandbox)] {
        let response = put.send(address, &keys);
        assert_eq!(response.status, 200, "{}", response.text());
    }
    // The signature names the host only.
    let mut head = Call::new("HEAD", "k");
    head.host = Some("127.0.0.1");
    head.tamper = |head| *head = head.replace("host: 127.0.0.1\r\n", "host: 127.0.0.1:443\r\n");
    assert_eq!(head.send(address, &Keys::owner()).status, 200);
    head.tamper = |head| *head = head.replace("host: 127.0.0.1\r\n", "host: 127.0.0.2:443\r\n");
    assert_eq!(head.send(address, &Keys::owner()).status, 403);
}

#[test]
fn temporary_keys_need_their_token_and_expire() {
    let cos = start(|_| {});
    let address = cos.sandbox.cos_addr();
    let put = Call::new("PUT", "k").body(b"content");
    let right = Keys::temporary(&cos.sandbox);
    let other = Keys::temporary(&cos.sandbox);
    for token in [None, Some("wrong".to_owned()), other.token] {
        let keys = Keys { token, ..right.clone() };
        assert_eq!(code(&put.send(address, &keys)), (403, "InvalidAccessKeyId".to_owned()));
    }
    cos.faults(&json!([{"stage": "put", "fault": "expire_keys", "times": 1}]));
    assert_eq!(code(&put.send(address, &right)), (403, "ExpiredToken".to_owned()));
    cos.assert_empty("expired once");
    assert_eq!(put.send(address, &right).status, 200);
    // In the middle of an upload.
    let id = cos.initiate("m");
    let etag = cos.part("m", &id, 1, b"content");
    for (stage, call) in [
        ("part", part("m", &id, 2, b"content")),
        ("list_parts", Call::new("GET", "m").parameter("uploadId", &id)),
        ("complete", complete("m", &id, &[(1, &etag)])),
    ] {
        cos.faults(&json!([{"stage": stage, "fault": "expire_keys", "times": 2}]));
        assert_eq!(code(&call.send(address, &right)), (403, "ExpiredToken".to_owned()), "{stage}");
        // The owner's keys do not expire.
        assert_eq!(call.send(address, &Keys::owner()).status, 200, "{stage}");
    }

    let cos = start(|options| options.temporary_key_life = Duration::ZERO);
    let keys = Keys::temporary(&cos.sandbox);
    assert_eq!(code(&put.send(cos.sandbox.cos_addr(), &keys)), (403, "ExpiredToken".to_owned()));
    cos.assert_empty("expired");
}

#[test]
fn the_owner_s_keys_sign_upload_links_as_well() {
    let cos = start(|options| options.open = true);
    let body = json!({"env": "sandbox-1a2b3c", "path": "k"});
    let link = cos.wechat("POST", "/tcb/uploadfile", &body);
    let authorization = link["authorization"].as_str().expect("a signature");
    assert!(authorization.contains(&format!("q-ak={ID}&")), "{authorization}");
}

#[test]
fn parts_in_any_order_and_again_become_the_object_by_complete_alone() {
    let cos = start(|_| {});
    let content = noise(2 * MIB + 777, 2);
    let pieces = [&content[..MIB], &content[MIB..2 * MIB], &content[2 * MIB..]];
    let id = cos.initiate("a/b");
    let third = cos.part("a/b", &id, 3, pieces[2]);
    cos.part("a/b", &id, 1, &noise(MIB + 1, 3));
    let second = cos.part("a/b", &id, 2, pieces[1]);
    let mut again = part("a/b", &id, 1, pieces[0]);
    again.chunked = true;
    let first = cos.send(&again).header("etag").expect("an ETag").to_owned();
    assert_eq!(first, format!("\"{}\"", md5(pieces[0])));

    // Page by page.
    let list = |marker: &str| {
        let call = Call::new("GET", "a/b").parameter("uploadId", &id).parameter("max-parts", "2");
        cos.send(&call.parameter("part-number-marker", marker)).text()
    };
    let page = list("0");
    assert_eq!(element(&page, "IsTruncated").as_deref(), Some("true"));
    assert_eq!(element(&page, "NextPartNumberMarker").as_deref(), Some("2"));
    assert_eq!(page.matches("<Part>").count(), 2);
    let page = list("2");
    assert_eq!(element(&page, "IsTruncated").as_deref(), Some("false"));
    assert_eq!(element(&page, "PartNumber").as_deref(), Some("3"));
    assert_eq!(element(&page, "ETag"), Some(third.replace('"', "&quot;")));
    assert_eq!(element(&page, "Size").as_deref(), Some("777"));
    assert_eq!(cos.state()["multipart_uploads"][0]["parts"].as_array().map(Vec::len), Some(3));

    assert_eq!(cos.object("a/b"), None);
    let response = cos.send(&complete("a/b", &id, &[(1, &first), (2, &second), (3, &third)]));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("x-cos-hash-crc64ecma"), Some(&*crc64(&content)));
    let etag = element(&response.text(), "ETag").expect("an ETag");
    assert!(etag.ends_with("-3&quot;"), "{etag}");
    assert!(cos.object("a/b").as_ref() == Some(&content));
    let head = cos.send(&Call::new("HEAD", "a/b"));
    assert_eq!(head.header("etag"), Some(&*etag.replace("&quot;", "\"")));
    assert_eq!(head.header("x-cos-hash-crc64ecma"), Some(&*crc64(&content)));
    assert_eq!(cos.state()["multipart_uploads"], json!([]));
    let response = cos.send(&complete("a/b", &id, &[(1, &first)]));
    assert_eq!(code(&response), (404, "NoSuchUpload".to_owned()));
    let counts = cos.state()["counts"].clone();
    for (operation, count) in
        [("initiate", 1), ("upload_part", 4), ("list_parts", 2), ("complete", 2)]
    {
        assert_eq!(counts[operation], count, "{operation}");
    }
}

#[test]
fn a_wrong_complete_is_refused_and_an_abort_leaves_nothing() {
    let cos = start(|_| {});
    let id = cos.initiate("k");
    let first = cos.part("k", &id, 1, &noise(MIB, 1));
    let second = cos.part("k", &id, 2, &noise(MIB, 2));
    let small = cos.part("k", &id, 3, b"small");
    let fourth = cos.part("k", &id, 4, &noise(MIB, 4));
    for (parts, expected) in [
        (&[(2, &*second), (1, &*first)][..], "InvalidPartOrder"),
        (&[(1, &first), (1, &first)], "InvalidPartOrder"),
        (&[(2, &second)], "InvalidPart"),
        (&[(1, &first), (3, &small)], "InvalidPart"),
        (&[(1, &second)], "InvalidPart"),
        (&[(1, &first), (2, &second), (3, &small), (4, &fourth), (5, &first)], "InvalidPart"),
        (&[(1, &first), (2, &second), (3, &small), (4, &fourth)], "EntityTooSmall"),
        (&[], "MalformedXML"),
    ] {
        let response = cos.send(&complete("k", &id, parts));
        assert_eq!(code(&response), (400, expected.to_owned()));
        assert_eq!(cos.object("k"), None, "{expected}");
    }
    let response = cos.send(&complete("k", &id, &[]).body(b"no XML"));
    assert_eq!(code(&response), (400, "MalformedXML".to_owned()));
    for number in [0, 10_001] {
        let response = cos.send(&part("k", &id, number, b"x"));
        assert_eq!(code(&response), (400, "InvalidArgument".to_owned()));
    }
    let wrong = part("k", &id, 1, b"x").header("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    assert_eq!(code(&cos.send(&wrong)), (400, "BadDigest".to_owned()));
    // The other key's upload.
    let response = cos.send(&complete("other", &id, &[(1, &first)]));
    assert_eq!(code(&response), (404, "NoSuchUpload".to_owned()));

    let abort = Call::new("DELETE", "k").parameter("uploadId", &id);
    assert_eq!(cos.send(&abort).status, 204);
    assert_eq!(code(&cos.send(&abort)), (404, "NoSuchUpload".to_owned()));
    assert_eq!(code(&cos.send(&part("k", &id, 1, b"x"))), (404, "NoSuchUpload".to_owned()));
    cos.assert_empty("aborted");
}

#[test]
fn unfinished_uploads_are_listed_in_pages_also_after_a_restart() {
    let Cos { sandbox, data } = start(|_| {});
    let cos = Cos { sandbox, data };
    let ids: Vec<_> = ["a/1 目", "a/1 目", "a/2", "b"].map(|key| (key, cos.initiate(key))).into();
    let content = noise(1000, 1);
    let etag = cos.part("b", &ids[3].1, 1, &content);
    let Cos { sandbox, data } = cos;
    drop(sandbox);
    let cos = Cos { sandbox: start_in(&data, |_| {}), data };

    let mut found = Vec::new();
    let (mut key, mut id) = (String::new(), String::new());
    loop {
        let call = Call::new("GET", "")
            .parameter("uploads", "")
            .parameter("encoding-type", "url")
            .parameter("prefix", "a/")
            .parameter("max-uploads", "1")
            .parameter("delimiter", "")
            .parameter("key-marker", &key)
            .parameter("upload-id-marker", &id);
        let page = cos.send(&call).text();
        let listed = element(&page, "Key").expect("a key");
        let initiated = element(&page, "Initiated").expect("a time");
        assert!(initiated.parse::<jiff::Timestamp>().is_ok(), "{initiated}");
        let decoded =
            percent_encoding::percent_decode_str(&listed).decode_utf8_lossy().into_owned();
        let upload = page.split_once("<Upload>").expect("an upload").1;
        found.push((decoded.clone(), element(upload, "UploadId").expect("an id")));
        if element(&page, "IsTruncated").as_deref() == Some("false") {
            break;
        }
        key = decoded;
        assert_eq!(element(&page, "NextKeyMarker"), Some(encoded(&key)));
        id = element(&page, "NextUploadIdMarker").expect("a marker");
    }
    let expected: Vec<_> =
        ids[..3].iter().map(|(key, id)| ((*key).to_owned(), id.clone())).collect();
    assert_eq!(found, expected);
    assert_eq!(cos.send(&complete("b", &ids[3].1, &[(1, &etag)])).status, 200);
    assert!(cos.object("b") == Some(content));
}

#[test]
fn a_file_id_of_a_link_or_of_the_encoder_makes_an_object_downloadable() {
    let cos = start(|options| options.open = true);
    let link = |path: &str| {
        let body = json!({"env": "sandbox-1a2b3c", "path": path});
        cos.wechat("POST", "/tcb/uploadfile", &body)["cos_file_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    };
    let encode = |path: &str| {
        let body = json!({"openid": "", "bucket": BUCKET, "paths": [format!("/{path}"), "/other"]});
        let reply = cos.wechat("POST", "/_/cos/metaid/encode", &body);
        assert_eq!(reply["errcode"], 0, "{reply}");
        reply["respdata"]["x_cos_meta_field_strs"][0].as_str().expect("an id").to_owned()
    };
    let downloads = |key: &str| {
        let file_id = format!("cloud://sandbox-1a2b3c.{BUCKET}/{key}");
        let body =
            json!({"env": "sandbox-1a2b3c", "file_list": [{"fileid": file_id, "max_age": 60}]});
        let reply = cos.wechat("POST", "/tcb/batchdownloadfile", &body);
        let file = &reply["file_list"][0];
        match file["status"].as_i64() {
            Some(0) => Some(crate::harness::fetch(file["download_url"].as_str().expect("a URL")).0),
            _ => None,
        }
    };
    for (key, file_id) in [("a/link", link("a/link")), ("a/encoded", encode("a/encoded"))] {
        let put = Call::new("PUT", key).header("x-cos-meta-fileid", &file_id).body(b"content");
        assert_eq!(cos.send(&put).status, 200);
        assert_eq!(downloads(key).as_deref(), Some(&b"content"[..]), "{key}");
        assert_eq!(cos.send(&Call::new("HEAD", key)).header("x-cos-meta-fileid"), Some(&*file_id));
        let wrong = Call::new("PUT", "b").header("x-cos-meta-fileid", &file_id).body(b"content");
        assert_eq!(code(&cos.send(&wrong)), (400, "InvalidArgument".to_owned()));
    }
    let initiate =
        Call::new("POST", "m").parameter("uploads", "").header("x-cos-meta-fileid", &encode("m"));
    let id = element(&cos.send(&initiate).text(), "UploadId").expect("an id");
    let etag = cos.part("m", &id, 1, b"part");
    assert_eq!(cos.send(&complete("m", &id, &[(1, &etag)])).status, 200);
    assert_eq!(downloads("m").as_deref(), Some(&b"part"[..]));
    // Without a file id: stored, and only deleted.
    assert_eq!(cos.send(&Call::new("PUT", "none").body(b"x")).status, 200);
    assert_eq!(downloads("none"), None);
    for wrong in [
        json!({"bucket": BUCKET, "paths": ["/a"]}),
        json!({"openid": "", "bucket": "other", "paths": ["/a"]}),
        json!({"openid": "", "bucket": BUCKET, "paths": ["a"]}),
        json!({"openid": "", "bucket": BUCKET, "paths": []}),
    ] {
        assert_ne!(cos.wechat("POST", "/_/cos/metaid/encode", &wrong)["errcode"], 0, "{wrong}");
    }
}

#[test]
fn faults_apply_to_one_request_of_the_api_and_store_nothing() {
    let cos = start(|_| {});
    let address = cos.sandbox.cos_addr();
    let content = noise(MIB, 1);
    let id = cos.initiate("k");
    let first = cos.part("k", &id, 1, &content);
    let requests = || {
        [
            ("put", Call::new("PUT", "put").body(&content)),
            ("part", part("k", &id, 2, &content)),
            ("complete", complete("k", &id, &[(1, &first)])),
        ]
    };
    for (fault, status) in [
        (json!({"fault": "reset_before"}), None),
        (json!({"fault": "close"}), None),
        (json!({"fault": "garbage"}), None),
        (json!({"fault": "stall", "ms": 10}), None),
        (json!({"fault": "status", "status": 503}), Some(503)),
        (json!({"fault": "status", "status": 403, "code": "AccessDenied"}), Some(403)),
    ] {
        for (stage, call) in requests() {
            let mut rule = fault.clone();
            (rule["stage"], rule["times"]) = (json!(stage), json!(1));
            cos.faults(&json!([rule]));
            let response = call.try_send(address, &Keys::owner()).ok();
            assert_eq!(response.map(|response| response.status), status, "{rule}");
            assert_unchanged(&cos, &rule);
        }
    }
    let mut chunked = Call::new("PUT", "put").body(&content);
    chunked.chunked = true;
    let [put, part_again, _] = requests();
    let uploads = [put, part_again, ("put", chunked)];
    for fault in [
        json!({"fault": "reset_within", "after": 1000}),
        json!({"fault": "stall", "after": 1000, "ms": 10}),
        json!({"fault": "early", "status": 403, "after": 1000, "then": "close"}),
        json!({"fault": "early_2xx", "after": 1000}),
    ] {
        for (stage, call) in &uploads {
            let mut rule = fault.clone();
            (rule["stage"], rule["times"]) = (json!(stage), json!(1));
            cos.faults(&json!([rule]));
            let _ = call.try_send(address, &Keys::owner());
            assert_unchanged(&cos, &rule);
        }
    }
    // The response is wrong, and what is stored is right.
    let etag = md5(&content);
    for (stage, call) in &uploads {
        for fault in ["wrong_etag", "wrong_crc", "no_crc"] {
            cos.faults(&json!([{"stage": stage, "fault": fault, "times": 1}]));
            let response = call.send(address, &Keys::owner());
            let told = response.header("x-cos-hash-crc64ecma");
            assert_eq!(
                response.header("etag") == Some(&*format!("\"{etag}\"")),
                fault != "wrong_etag"
            );
            assert_eq!(told == Some(&*crc64(&content)), fault == "wrong_etag", "{fault}");
            assert_eq!(told.is_none(), fault == "no_crc");
        }
    }
    assert_eq!(cos.state()["multipart_uploads"][0]["parts"][1]["etag"], *etag);

    // A rule of one part.
    cos.faults(&json!([{"stage": "part", "fault": "status", "status": 503, "part": 2}]));
    assert_eq!(cos.send(&part("k", &id, 1, &content)).status, 200);
    assert_eq!(cos.send(&part("k", &id, 2, &content)).status, 503);
    // A success that is an error, and one whose response is lost.
    cos.faults(&json!([{"stage": "complete", "fault": "error_200", "times": 1}]));
    let response = cos.send(&complete("k", &id, &[(1, &first)]));
    assert_eq!(code(&response), (200, "InternalError".to_owned()));
    assert_eq!(cos.object("k"), None);
    cos.faults(&json!([{"stage": "complete", "fault": "close", "store": true, "times": 1}]));
    assert!(complete("k", &id, &[(1, &first)]).try_send(address, &Keys::owner()).is_err());
    cos.state();
    assert!(cos.object("k") == Some(content.clone()));

    let head = || cos.send(&Call::new("HEAD", "k"));
    let right = head();
    for (fault, name) in [
        ("wrong_etag", "etag"),
        ("wrong_crc", "x-cos-hash-crc64ecma"),
        ("no_crc", "x-cos-hash-crc64ecma"),
    ] {
        cos.faults(&json!([{"stage": "head", "fault": fault, "times": 1}]));
        assert_ne!(head().header(name), right.header(name), "{fault}");
        assert_eq!(head().header(name), right.header(name), "{fault}");
    }
    for (stage, call) in [
        ("initiate", Call::new("POST", "x").parameter("uploads", "")),
        ("head", Call::new("HEAD", "k")),
        ("object", Call::new("GET", "k")),
        ("list_uploads", Call::new("GET", "").parameter("uploads", "")),
        ("list_objects", Call::new("GET", "")),
        ("list_parts", Call::new("GET", "k").parameter("uploadId", "x")),
        ("abort", Call::new("DELETE", "k").parameter("uploadId", "x")),
        ("delete_object", Call::new("DELETE", "k")),
    ] {
        cos.faults(&json!([{"stage": stage, "fault": "status", "status": 503, "times": 1}]));
        assert_eq!(cos.send(&call).status, 503, "{stage}");
    }
    assert!(cos.object("k") == Some(content));
}

/// Part 1 is there, part 2 and both objects are not.
fn assert_unchanged(cos: &Cos, rule: &Value) {
    let state = cos.state();
    assert_eq!(state["objects"], json!([]), "{rule}");
    let parts = state["multipart_uploads"][0]["parts"].as_array().expect("parts");
    assert_eq!(parts.len(), 1, "{rule}");
}

#[test]
fn a_body_that_takes_too_long_is_refused_after_its_last_byte() {
    let cos = start(|options| options.upload_limit = Some(Duration::ZERO));
    let id = cos.initiate("k");
    let content = noise(MIB, 1);
    for call in [Call::new("PUT", "k").body(&content), part("k", &id, 1, &content)] {
        assert_eq!(code(&cos.send(&call)), (400, "UserNetworkTooSlow".to_owned()));
    }
    assert_eq!(cos.send(&Call::new("DELETE", "k").parameter("uploadId", &id)).status, 204);
    cos.assert_empty("too slow");

    let cos = start(|_| {});
    let id = cos.initiate("k");
    for (stage, call) in
        [("put", Call::new("PUT", "k").body(&content)), ("part", part("k", &id, 1, &content))]
    {
        cos.faults(&json!([{"stage": stage, "fault": "too_slow", "times": 1}]));
        assert_eq!(code(&cos.send(&call)), (400, "UserNetworkTooSlow".to_owned()));
        assert_eq!(cos.object("k"), None);
        assert_eq!(cos.state()["multipart_uploads"][0]["parts"], json!([]));
    }
}

#[test]
fn the_sandbox_of_a_gateway_tells_its_unfinished_uploads() {
    let world = Setup::new().start();
    let keys = Keys::temporary(&world.sandbox);
    let initiate = Call::new("POST", "k").parameter("uploads", "");
    let response = initiate.send(world.sandbox.cos_addr(), &keys);
    assert_eq!(response.status, 200, "{}", response.text());
    let uploads = world.multipart_uploads();
    assert_eq!(uploads.len(), 1);
    assert_eq!(uploads[0]["upload_id"].as_str(), element(&response.text(), "UploadId").as_deref());
    assert_eq!(world.count("initiate"), 1);
}

#[test]
fn discarded_content_takes_no_space_and_is_read_as_zeros() {
    let cos = start(|options| options.discard = true);
    let zeros = vec![0; 4 * MIB];
    let id = cos.initiate("m");
    let etags: Vec<_> = (1..=8).map(|number| cos.part("m", &id, number, &zeros)).collect();
    let parts: Vec<_> = (1..).zip(etags.iter().map(String::as_str)).collect();
    let response = cos.send(&complete("m", &id, &parts));
    assert_eq!(response.status, 200, "{}", response.text());
    let whole = vec![0; 32 * MIB];
    assert_eq!(response.header("x-cos-hash-crc64ecma"), Some(&*crc64(&whole)));
    let put = Call::new("PUT", "p").body(&noise(MIB, 1));
    assert_eq!(cos.send(&put).header("x-cos-hash-crc64ecma"), Some(&*crc64(&put.body)));
    assert!(cos.object("m") == Some(whole));
    assert!(cos.object("p") == Some(vec![0; MIB]));
    let files = std::fs::read_dir(cos.data.path().join("objects")).unwrap();
    let blocks = files
        .map(|file| std::os::unix::fs::MetadataExt::blocks(&file.unwrap().metadata().unwrap()));
    assert!(blocks.sum::<u64>() * 512 < MIB as u64);
}
