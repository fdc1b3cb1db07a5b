//! Requests as real clients send them, apart from the form itself: chunks of files, queries, header values, URLs,
//! digests. Valid requests store what the client meant; the others are refused with a reason.
//!
//! | `cases.md` | test |
//! |---|---|
//! | A 4, pieces | `a_chunk_of_a_file_is_never_stored_as_the_whole`, `curl_that_resumes_is_told_to_send_the_whole_file`, `a_file_in_one_chunk_is_whole` |
//! | A 4, a form as a raw body | `a_form_is_not_stored_as_a_file` |
//! | A 5 | `a_parameter_that_is_not_utf_8_is_refused`, `every_call_reads_its_query_strictly`, `parameters_are_decoded_once` |
//! | A 11, types | `a_generic_type_is_replaced_by_the_extension_s`, `a_type_is_stored_by_its_standard_name`, `an_invalid_type_never_reaches_cos` |
//! | A 11, encodings | `identity_in_any_spelling_is_accepted` |
//! | also wanted: the trailing slash | `a_trailing_slash_changes_nothing` |
//! | also wanted: origins | `pages_of_hybrid_apps_can_be_listed`, `an_origin_is_compared_as_browsers_and_proxies_write_it` |
//! | also wanted: digests | `a_body_with_another_digest_is_not_stored`, `a_body_with_a_matching_digest_is_stored`, `an_invalid_digest_is_refused_before_the_body` |
//! | also wanted: SIGHUP | `reload::keys_limits_and_origins_change_and_a_running_upload_keeps_its_own` |
//! | B lesser: `max_files: 0` | `a_ticket_with_max_files_0_stores_nothing` |
//! | `client_paths` in the refusal | `a_refused_path_names_the_setting` |

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::harness::{Client, Form, Response, Setup, World, authorization, noise};
use crate::tickets;

const PNG: &[u8] = crate::policy::PNG;

fn small() -> Form {
    Form::new().file("file", "photo.png", "image/png", PNG)
}

fn put(world: &World, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut client = world.client();
    client.send_request("PUT", target, &[&[authorization()], headers].concat(), body);
    client.response()
}

/// Posts a form with further headers.
fn post(world: &World, target: &str, headers: &[(&str, &str)], form: &Form) -> Response {
    let mut client = world.client();
    let kind = form.content_type();
    let own = [authorization(), ("content-type", kind.as_str())];
    client.send_request("POST", target, &[&own, headers].concat(), &form.bytes());
    client.response()
}

fn get(world: &World, target: &str) -> Response {
    world.call_with("GET", target, &[authorization()], "")
}

fn detail(problem: &Value) -> &str {
    problem["detail"].as_str().expect("a text")
}

/// The `Content-Type` field that COS was sent for an object.
fn type_at_cos(world: &World, key: &str) -> String {
    let objects = world.objects();
    let object = objects.iter().find(|object| object["key"] == key).expect("the object");
    let fields = object["fields"].as_array().expect("fields");
    let kind = fields.iter().find(|field| field[0] == "Content-Type").expect("its type");
    kind[1].as_str().expect("a text").to_owned()
}

#[test]
fn a_chunk_of_a_file_is_never_stored_as_the_whole() {
    let world = Setup::new().start();
    let pieces: [(&str, &str); 13] = [
        ("content-range", "bytes 795-1589/1590"),
        ("Content-Range", "bytes 0-9/10"),
        ("content-range", "bytes 0-11/*"),
        ("content-range", "bytes */1590"),
        ("x-content-range", "bytes 0-51200/511920"),
        ("upload-offset", "0"),
        ("upload-offset", "500000"),
        ("upload-complete", "?0"),
        ("upload-incomplete", "?1"),
        ("upload-length", "100000000"),
        ("oc-chunked", "1"),
        ("content-type", "application/offset+octet-stream"),
        ("content-type", "Application/Partial-Upload; v=1"),
    ];
    for (name, value) in pieces {
        let response = put(&world, "/v1/files/x.png", &[(name, value)], b"tenth part");
        let problem = response.problem(400, "invalid_request");
        let told = detail(&problem);
        assert!(told.contains(&name.to_lowercase()), "{name}: {told}");
        assert!(told.contains("a piece of a file") && told.contains("curl: without -C"), "{told}");
        if !name.eq_ignore_ascii_case("content-type") {
            post(&world, "/v1/files", &[(name, value)], &small()).problem(400, "invalid_request");
        }
    }
    let queries = [
        "name=x.png&chunk=1&chunks=3",
        "dzchunkindex=0&dztotalchunkcount=4",
        "resumableChunkNumber=1&resumableTotalChunks=2",
        "flowChunkNumber=2&flowTotalChunks=2",
        "qqpartindex=0&qqtotalparts=9",
        "partNumber=1&uploadId=abc",
    ];
    for query in queries {
        let target = format!("/v1/files/x.png?{query}");
        let problem = put(&world, &target, &[], b"a piece").problem(400, "invalid_request");
        assert!(detail(&problem).contains("chunk"), "{problem}");
        post(&world, &format!("/v1/files?{query}"), &[], &small()).problem(400, "invalid_request");
    }
    // A raw body by POST, as some widgets send it.
    let mut client = world.client();
    let headers =
        [authorization(), ("content-range", "bytes 0-9/20"), ("content-type", "image/png")];
    client.send_request("POST", "/v1/files", &headers, b"first half");
    client.response().problem(400, "invalid_request");
    // The refusal does not wait for the body, and only an authenticated client gets it.
    let mut client = world.client();
    let headers = [("content-range", "bytes 0-9/20"), ("content-length", "100000000")];
    client.send_head("PUT", "/v1/files/x.png", &[&[authorization()], &headers[..]].concat());
    client.response().problem(400, "invalid_request");
    let mut client = world.client();
    client.send_head("PUT", "/v1/files/x.png", &headers);
    client.response().problem(401, "unauthenticated");
    world.assert_nothing_stored();
    assert_eq!(world.count("uploadfile"), 0, "no link was asked for");
}

#[test]
fn a_file_in_one_chunk_is_whole() {
    let world = Setup::new().start();
    for (number, (query, headers)) in [
        ("?chunk=0&chunks=1", vec![]),
        ("?flowChunkNumber=1&flowTotalChunks=1", vec![]),
        ("", vec![("upload-complete", "?1"), ("upload-length", "5")]),
        ("", vec![("upload-incomplete", "?0")]),
        ("", vec![("range", "bytes=0-4")]),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/v1/files/{number}.txt{query}");
        put(&world, &path, &headers, b"whole").stored();
        assert_eq!(world.object(&format!("{number}.txt")), b"whole");
    }
}

#[test]
fn curl_that_resumes_is_told_to_send_the_whole_file() {
    let world = Setup::new().start();
    let file = world.folder().join("half.bin");
    std::fs::write(&file, noise(1590, 1)).expect("a file");
    let (file, key) = (file.display().to_string(), format!("authorization: {}", authorization().1));
    let target = format!("http://{}/v1/files/half.bin", world.gateway.address);
    let output = Command::new("curl")
        .args(["-sS", "-H", &key, "-C", "795", "-T", &file, &target])
        .output()
        .expect("curl");
    let problem: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&problem["status"], &problem["code"]), (&json!(400), &json!("invalid_request")));
    assert!(detail(&problem).contains("content-range: bytes 795-1589/1590"), "{problem}");
    world.assert_nothing_stored();
}

#[test]
fn a_form_is_not_stored_as_a_file() {
    let world = Setup::new().start();
    let form = small();
    let own = form.content_type();
    for kind in [
        own.as_str(),
        "multipart/form-data",
        "Multipart/Form-Data; boundary=\"x\"",
        "MULTIPART/FORM-DATA;boundary=x; charset=utf-8",
        "multipart/mixed; boundary=x",
        "multipart/related; type=\"application/json\"; boundary=x",
    ] {
        let response = put(&world, "/v1/files/x.png", &[("content-type", kind)], &form.bytes());
        let problem = response.problem(415, "type_not_allowed");
        assert!(detail(&problem).contains("POST the form to /v1/files"), "{kind}: {problem}");
        // Refused before a byte of the body is sent.
        let mut client = world.client();
        let headers = [authorization(), ("content-type", kind), ("content-length", "99999999")];
        client.send_head("PUT", "/v1/files/x.png", &headers);
        client.response().problem(415, "type_not_allowed");
    }
    // A second Content-Type header.
    let two = [("content-type", "image/png"), ("content-type", own.as_str())];
    put(&world, "/v1/files/x.png", &two, &form.bytes()).problem(415, "type_not_allowed");
    world.assert_nothing_stored();
}

#[test]
fn a_parameter_that_is_not_utf_8_is_refused() {
    let world = Setup::new().start();
    for (value, cause) in [
        ("%D6%D0", "not UTF-8"),
        ("a/%B1%A8%B8%E6", "not UTF-8"),
        ("%E4%B8", "not UTF-8"),
        ("a%C0%AFb", "not UTF-8"),
        ("%ED%A0%80", "not UTF-8"),
        ("%FF", "not UTF-8"),
        ("100%", "%25"),
        ("%zz", "%25"),
        ("%4", "%25"),
        ("%u4E2D%u6587", "escape()"),
        ("a%00b", "control character"),
        ("a%0Ab", "control character"),
    ] {
        for name in ["dir", "path"] {
            let target = format!("/v1/files?{name}={value}");
            let problem = post(&world, &target, &[], &small()).problem(400, "invalid_path");
            let told = detail(&problem);
            assert!(told.contains(cause) && told.contains(&format!("`{name}`")), "{value}: {told}");
        }
        for name in ["reply", "multiple", "ticket"] {
            let target = format!("/v1/files?{name}={value}");
            let response = post(&world, &target, &[], &small());
            // A well encoded credential with a control character is a wrong one.
            if name == "ticket" && cause == "control character" {
                response.problem(401, "unauthenticated");
                continue;
            }
            let problem = response.problem(400, "invalid_request");
            assert!(detail(&problem).contains(cause), "{value}: {problem}");
        }
        // The same for a URL's path.
        let problem =
            put(&world, &format!("/v1/files/{value}"), &[], b"x").problem(400, "invalid_path");
        assert!(detail(&problem).contains(cause), "{value}: {problem}");
    }
    for query in
        ["path=a.png&path=b.png", "dir=a&dir=a", "dir=a&%64ir=b", "reply=text&reply=default"]
    {
        let target = format!("/v1/files?{query}");
        let problem = post(&world, &target, &[], &small()).problem(400, "invalid_request");
        assert!(detail(&problem).contains("repeated"), "{problem}");
    }
    world.assert_nothing_stored();
}

#[test]
fn parameters_are_decoded_once() {
    let world = Setup::new().start();
    let stored_at = |query: &str| {
        let file = post(&world, &format!("/v1/files?{query}"), &[], &small()).stored();
        file["path"].as_str().expect("a path").to_owned()
    };
    assert_eq!(stored_at("path=a+b%2Bc%20d.png"), "a b+c d.png");
    assert_eq!(stored_at("path=%E4%B8%AD/%e6%96%87.png"), "中/文.png");
    assert!(stored_at("dir=%E4%B8%AD%E6%96%87").contains("/中文/"));
    // Unknown parameters are ignored, whatever their value.
    assert_eq!(stored_at("utm=%D6%D0&%D6=1&100%&_=1&_=2&path=mine.png"), "mine.png");
}

#[test]
fn every_call_reads_its_query_strictly() {
    let world = Setup::new()
        .set("links.access", "signed")
        .set("links.signing_keys", crate::shared::SIGNING_KEY);
    let world = world.start();
    put(&world, "/v1/files/x.txt?reply=%D6", &[], b"x").problem(400, "invalid_request");
    get(&world, "/v1/files/x.txt?expires=1&signature=%FF").problem(400, "invalid_request");
    get(&world, "/v1/files/x.txt?expires=1&expires=2&signature=a").problem(400, "invalid_request");
    get(&world, "/v1/files?action=%D6").problem(400, "invalid_request");
    get(&world, "/v1/files?action=config&callback=%zz").problem(400, "invalid_request");
    let revert = [authorization()];
    world
        .call_with("DELETE", "/v1/files?reply=%u0041", &revert, "x")
        .problem(400, "invalid_request");
    world.call_with("DELETE", "/v1/files/x?ticket=%D6", &[], "").problem(400, "invalid_request");
    // The same for a file's path in a JSON body.
    let mut client = world.client();
    client.send_request("DELETE", "/v1/files", &revert, b"\xd6\xd0.png");
    let problem = client.response().problem(400, "invalid_path");
    assert!(detail(&problem).contains("not UTF-8"), "{problem}");
    // WeChat's own endpoints respond in WeChat's format.
    for target in [
        "/cgi-bin/token?grant_type=client_credential&appid=a&secret=%D6%D0",
        "/cgi-bin/token?grant_type=client_credential&appid=a&secret=a&secret=b",
        "/?cloudid=%D6%D0",
        "/?cloudid=a&cloudid=b",
    ] {
        let response = get(&world, target);
        assert_eq!(
            (response.status, &response.json()["errcode"]),
            (200, &json!(40097)),
            "{target}"
        );
    }
    let response = world.call("POST", "/tcb/uploadfile?access_token=%D6", &json!({"path": "x"}));
    assert_eq!(response.json()["errcode"], 40097, "{}", response.text());
    world.assert_nothing_stored();
    // A byte order mark before JSON is accepted.
    let response = world.call_with(
        "POST",
        "/v1/upload-links",
        &[authorization()],
        "\u{feff}{\"path\": \"x.txt\"}",
    );
    assert_eq!((response.status, &response.json()["path"]), (200, &json!("x.txt")));
}

#[test]
fn a_generic_type_is_replaced_by_the_extension_s() {
    let world = Setup::new().start();
    for (number, kind) in [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=UTF-8",
        "Application/X-WWW-Form-Urlencoded;charset=utf-8",
        "binary/octet-stream",
        "application/octet-stream; charset=binary",
        "application/binary",
        "application/force-download",
        "application/x-download",
        "application/download",
        "application/x-unknown",
        "content/unknown",
        "*/*",
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("{number}.png");
        let target = format!("/v1/files/{key}");
        let file = put(&world, &target, &[("content-type", kind)], PNG).stored();
        assert_eq!(file["content_type"], "image/png", "{kind}");
        assert_eq!(type_at_cos(&world, &key), "image/png", "{kind}");
        let form = Form::new().field("path", &key).file("f", "blob", kind, PNG);
        assert_eq!(world.post(&form).stored()["content_type"], "image/png", "{kind}");
        let unnamed = put(&world, &format!("/v1/files/{number}"), &[("content-type", kind)], PNG);
        assert_eq!(unnamed.stored()["content_type"], "application/octet-stream", "{kind}");
    }
    // A part of a form may have the type of a form.
    let kind = "multipart/mixed";
    let object =
        world.call("POST", "/v1/upload-links", &json!({"path": "x.png", "content_type": kind}));
    let fields = object.json()["fields"].clone();
    assert!(fields.to_string().contains("image/png"), "{fields}");
}

#[test]
fn a_type_is_stored_by_its_standard_name() {
    let world = Setup::new().start();
    for (number, (kind, standard)) in [
        ("image/jpg", "image/jpeg"),
        ("IMAGE/PJPEG", "image/jpeg"),
        ("image/x-png", "image/png"),
        ("application/x-zip-compressed", "application/zip"),
        ("audio/x-wav", "audio/wav"),
        ("audio/mp3", "audio/mpeg"),
        ("video/x-m4v", "video/mp4"),
        ("text/x-csv; charset=GBK", "text/csv; charset=gbk"),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("{number}");
        let target = format!("/v1/files/{key}");
        let file = put(&world, &target, &[("content-type", kind)], b"\x00\x01").stored();
        assert_eq!(
            file["content_type"].as_str().map(str::to_ascii_lowercase).as_deref(),
            Some(standard)
        );
        let field = type_at_cos(&world, &key);
        assert_eq!(field.to_ascii_lowercase(), standard, "{kind}");
        let form = Form::new().field("path", &key).file("f", "f", kind, b"\x00\x01");
        let told = world.post(&form).stored()["content_type"].as_str().map(str::to_ascii_lowercase);
        assert_eq!(told.as_deref(), Some(standard), "{kind}");
    }
    // RFC 9110 5.6.6: white space around semicolons, and empty parameters.
    for kind in ["image/png ;charset=x", "image/png;", "image/png ; ; a=b", "image/png;\ta=\"b;c\""]
    {
        put(&world, "/v1/files/blanks", &[("content-type", kind)], PNG).stored();
        assert!(type_at_cos(&world, "blanks").starts_with("image/png"), "{kind}");
    }
}

#[test]
fn an_invalid_type_never_reaches_cos() {
    let world = Setup::new().start();
    for (number, headers) in [
        vec![("content-type", "image")],
        vec![("content-type", "image/")],
        vec![("content-type", "")],
        vec![("content-type", "undefined")],
        vec![("content-type", "image/gif; charset")],
        vec![("content-type", "image/gif, text/plain")],
        vec![("content-type", "image/gif,text/plain")],
        vec![("content-type", "\"image/gif\"")],
        vec![("content-type", "image/gif; a=\"b")],
        vec![("content-type", "图/片")],
        vec![("content-type", "image/gif"), ("content-type", "text/plain")],
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("{number}.png");
        put(&world, &format!("/v1/files/{key}"), &headers, PNG).stored();
        assert_eq!(type_at_cos(&world, &key), "image/png", "{headers:?}");
        assert_eq!(world.object(&key), PNG);
    }
    let long = format!("image/{}", "x".repeat(4000));
    put(&world, "/v1/files/long.png", &[("content-type", &long)], PNG).stored();
    assert_eq!(type_at_cos(&world, "long.png"), "image/png");
}

#[test]
fn identity_in_any_spelling_is_accepted() {
    let world = Setup::new().start();
    let encoded = |value: &str| [("content-encoding".to_owned(), value.to_owned())];
    for value in ["identity", "Identity", "IDENTITY", "", "identity, identity", " identity ,", ","]
    {
        let header = encoded(value);
        let header: Vec<_> = header.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        put(&world, "/v1/files/x.txt", &header, b"x").stored();
        post(&world, "/v1/files", &header, &small()).stored();
        let response = world.call_with(
            "POST",
            "/v1/download-links",
            &[authorization(), header[0]],
            "{\"files\": [\"x.txt\"]}",
        );
        assert_eq!(response.status, 200, "{value}: {}", response.text());
    }
    let stored = world.objects().len();
    for value in [
        "gzip",
        "GZIP",
        "identity, gzip",
        "gzip, identity",
        "aws-chunked",
        "deflate",
        "br",
        "base64",
    ] {
        let response = put(&world, "/v1/files/y.txt", &[("content-encoding", value)], b"y");
        response.problem(415, "encoding_not_supported");
        let header = [("content-encoding", value)];
        post(&world, "/v1/files", &header, &small()).problem(415, "encoding_not_supported");
    }
    let lines = [("content-encoding", "identity"), ("content-encoding", "gzip")];
    put(&world, "/v1/files/y.txt", &lines, b"y").problem(415, "encoding_not_supported");
    assert_eq!(world.objects().len(), stored);
}

#[test]
fn a_trailing_slash_changes_nothing() {
    let world = Setup::new().start();
    let file = post(&world, "/v1/files/", &[], &small()).stored();
    let query = post(&world, "/v1/files/?path=a/b.png&reply=default", &[], &small()).stored();
    assert_eq!(query["path"], "a/b.png");
    for target in ["/v1/download-links/", "/v1/delete/"] {
        let response = world.call("POST", target, &json!({"files": [file["file_id"]]}));
        assert_eq!(response.status, 200, "{target}: {}", response.text());
        assert_eq!(response.json()["files"][0]["error"], Value::Null, "{target}");
    }
    assert_eq!(world.call("POST", "/v1/upload-links/", &json!({"path": "x"})).status, 200);
    for target in
        ["/healthz/", "/readyz/", "/metrics/", "/v1/files/?action=config", "/openapi.json/"]
    {
        assert_eq!(get(&world, target).status, 200, "{target}");
    }
    let response = world.call("POST", "/tcb/uploadfile/", &json!({"path": "x"}));
    assert_eq!(response.json()["errcode"], 0, "{}", response.text());
    let reverted = world.call_with("DELETE", "/v1/files/", &[authorization()], "a/b.png");
    assert_eq!(reverted.status, 204, "{}", reverted.text());
    // A URL whose path is missing or empty does not match another endpoint.
    put(&world, "/v1/files/", &[], b"x").problem(400, "invalid_path");
    get(&world, "/v1/files/").problem(400, "invalid_path");
    put(&world, "/v1/files/a/", &[], b"x").problem(400, "invalid_path");
    put(&world, "/v1/files", &[], b"x").problem(405, "method_not_allowed");
    let wrong = world.call("PATCH", "/v1/files/", &Value::Null);
    wrong.problem(405, "method_not_allowed");
    assert_eq!(wrong.header("allow"), Some("GET, POST, DELETE"));
    get(&world, "/v1/nothing/").problem(404, "not_found");
    assert_eq!(world.objects(), Vec::<Value>::new());
}

#[test]
fn pages_of_hybrid_apps_can_be_listed() {
    let origins = [
        "file://",
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "http://tauri.localhost",
        "https://localhost",
        "http://localhost",
        "app://.",
        "null",
    ];
    let world = Setup::new().set("cors.origins", origins.join(", ")).start();
    for origin in origins {
        let response = post(&world, "/v1/files", &[("origin", origin)], &small());
        response.stored();
        assert_eq!(response.header("access-control-allow-origin"), Some(origin));
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "authorization"),
        ];
        let response = world.call_with("OPTIONS", "/v1/files/x.png", &headers, "");
        assert!(matches!(response.status, 200 | 204), "{origin}: {response:?}");
        assert_eq!(response.header("access-control-allow-origin"), Some(origin));
    }
    let stored = world.objects().len();
    for foreign in
        ["file://host", "capacitor://other", "app://", "ionic://localhost:1", "https://x"]
    {
        post(&world, "/v1/files", &[("origin", foreign)], &small())
            .problem(403, "origin_not_allowed");
    }
    // None of them is allowed by default.
    let bare = Setup::new().start();
    for foreign in origins {
        post(&bare, "/v1/files", &[("origin", foreign)], &small())
            .problem(403, "origin_not_allowed");
    }
    bare.assert_nothing_stored();
    assert_eq!(world.objects().len(), stored);
}

#[test]
fn an_origin_is_compared_as_browsers_and_proxies_write_it() {
    let world = Setup::new().set("cors.origins", "https://Panel.example.com:443").start();
    let with = |host: &str, origin: &str| {
        let mut client = Client::connect(world.gateway.address);
        let (kind, body) = (small().content_type(), small().bytes());
        let (name, key) = authorization();
        let head = format!(
            "POST /v1/files HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\n{name}: {key}\r\n\
             content-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.send(head.as_bytes());
        client.send(&body);
        client.response()
    };
    for (host, origin) in [
        ("x", "https://panel.example.com"),
        ("x", "HTTPS://PANEL.example.com"),
        ("x", "https://panel.example.com:443"),
        ("gw.test:80", "http://gw.test"),
        ("gw.test:443", "https://gw.test"),
        ("GW.test", "http://gw.test"),
        ("gw.test:8080", "http://GW.TEST:8080"),
    ] {
        with(host, origin).stored();
    }
    let stored = world.objects().len();
    for (host, origin) in [
        ("gw.test:80", "https://gw.test"),
        ("gw.test:8080", "http://gw.test"),
        ("gw.test", "http://gw.test:8080"),
        ("gw.test", "http://gw.test.evil.org"),
        ("x", "http://panel.example.com"),
        ("x", "https://panel.example.com:80"),
    ] {
        with(host, origin).problem(403, "origin_not_allowed");
    }
    assert_eq!(world.objects().len(), stored);
}

fn md5(bytes: &[u8]) -> String {
    STANDARD.encode(md5::Md5::digest(bytes))
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)))
}

fn sha512(bytes: &[u8]) -> String {
    format!("sha-512=:{}:", STANDARD.encode(Sha512::digest(bytes)))
}

/// Each supported digest header, for `bytes`.
fn digests(bytes: &[u8]) -> Vec<(&'static str, String)> {
    vec![
        ("content-md5", md5(bytes)),
        ("content-digest", sha256(bytes)),
        ("repr-digest", format!("unixsum=30637, md5=:{}: , {}", md5(bytes), sha512(bytes))),
        ("Content-Digest", format!("{};v=1,", sha512(bytes))),
    ]
}

/// Uploads `body` in several writes, with a Content-Length or chunked.
fn put_in_pieces(world: &World, header: (&str, &str), body: &[u8], chunked: bool) -> Response {
    let mut client = world.client();
    let length = body.len().to_string();
    let framing =
        if chunked { ("transfer-encoding", "chunked") } else { ("content-length", &*length) };
    client.send_head("PUT", "/v1/files/x.bin", &[authorization(), header, framing]);
    for piece in body.chunks(100_000) {
        if chunked {
            client.send_chunk(piece);
        } else {
            client.send(piece);
        }
    }
    if chunked {
        client.send(b"0\r\n\r\n");
    }
    client.response()
}

#[test]
fn a_body_with_a_matching_digest_is_stored() {
    let world = Setup::new().start();
    for (seed, length) in [(1, 0), (2, 1), (3, 70_000), (4, 1 << 20)] {
        let body = noise(length, seed);
        for (name, value) in digests(&body) {
            for chunked in [false, true] {
                put_in_pieces(&world, (name, &value), &body, chunked).stored();
                assert!(world.object("x.bin") == body, "{name}");
            }
        }
    }
    // All of them in one request; and on a form, where `Content-MD5` is the form's and is not checked against the file.
    let all = digests(PNG);
    let all: Vec<_> = all.iter().map(|(name, value)| (*name, value.as_str())).collect();
    put(&world, "/v1/files/all.png", &all, PNG).stored();
    post(&world, "/v1/files", &[("content-md5", &md5(&small().bytes()))], &small()).stored();
}

#[test]
fn a_body_with_another_digest_is_not_stored() {
    for allowed in ["", "*/*"] {
        let world = Setup::new().set("upload.allowed_types", allowed).start();
        for (seed, length) in [(1, 0), (2, 1), (3, 70_000), (4, 1 << 20)] {
            let body = noise(length, seed);
            for (name, value) in digests(b"other bytes") {
                for chunked in [false, true] {
                    let response = put_in_pieces(&world, (name, &value), &body, chunked);
                    let problem = response.problem(400, "invalid_request");
                    let told = detail(&problem);
                    assert!(told.contains(&name.to_lowercase()), "{told}");
                    assert!(told.contains("nothing was stored"), "{told}");
                }
            }
        }
        // One wrong digest of several is enough.
        let both = format!("{}, md5=:{}:", sha256(b"x"), md5(b"y"));
        put(&world, "/v1/files/x", &[("content-digest", &both)], b"x")
            .problem(400, "invalid_request");
        world.assert_nothing_stored();
    }
}

#[test]
fn an_invalid_digest_is_refused_before_the_body() {
    let world = Setup::new().start();
    let plain = sha256(b"x").replace(':', "");
    let short = format!("sha-256=:{}:", md5(b"x"));
    let differing = format!("md5=:{}:", md5(b"y"));
    let one = md5(b"x");
    for headers in [
        vec![("content-md5", "9dd4e461268c8034f5c8564e155c67a6")],
        vec![("content-md5", "not base64")],
        vec![("content-md5", "")],
        vec![("content-digest", plain.as_str())],
        vec![("content-digest", short.as_str())],
        vec![("repr-digest", "sha-256")],
        vec![("repr-digest", "=:AAAA:")],
        vec![("content-md5", one.as_str()), ("content-digest", differing.as_str())],
    ] {
        let mut client = world.client();
        let length = [authorization(), ("content-length", "100000000")];
        client.send_head("PUT", "/v1/files/x", &[&length[..], &headers].concat());
        client.response().problem(400, "invalid_request");
        put(&world, "/v1/files/x", &headers, b"x").problem(400, "invalid_request");
    }
    world.assert_nothing_stored();
}

#[test]
fn a_ticket_with_max_files_0_stores_nothing() {
    let world = tickets::setup().start();
    let none = tickets::ticket(json!({"sub": "u", "max_files": 0}));
    let bearer = format!("Bearer {none}");
    let key = [("authorization", bearer.as_str())];
    let large = Form::new().file("f", "x.bin", "a/b", &noise(2 << 20, 1));
    for form in [&small(), &large] {
        tickets::post(&world, &none, form).problem(413, "too_many_files");
    }
    for body in ["", "x"] {
        let problem =
            world.call_with("PUT", "/v1/files/x.txt", &key, body).problem(413, "too_many_files");
        assert!(detail(&problem).contains("max_files"), "{problem}");
    }
    // An upload link would let the client store a file without the gateway.
    tickets::call(&world, "POST", "/v1/upload-links", &none, &json!({"path": "x"}))
        .problem(413, "too_many_files");
    let response = tickets::call(&world, "POST", "/tcb/uploadfile", &none, &json!({"path": "x"}));
    assert_ne!(response.json()["errcode"], 0, "{}", response.text());
    world.assert_nothing_stored();
    assert_eq!(world.count("uploadfile"), 0, "no link was asked for");
    let one = tickets::ticket(json!({"sub": "u", "max_files": 1}));
    tickets::post(&world, &one, &small()).stored();
}

#[test]
fn a_refused_path_names_the_setting() {
    let world = Setup::new().set("upload.client_paths", "false").start();
    let named = Form::new().field("path", "x.png").file("f", "x.png", "image/png", PNG);
    let path = json!({"path": "x.png"});
    for response in [
        world.post(&named),
        world.post_to("/v1/files?path=x.png", &small()),
        put(&world, "/v1/files/x.png", &[], PNG),
        world.call("POST", "/v1/upload-links", &path),
    ] {
        let problem = response.problem(403, "path_not_allowed");
        let told = detail(&problem);
        for setting in
            ["upload.client_paths", "auth.keys.NAME.client_paths", "auth.jwt.client_paths"]
        {
            assert!(told.contains(setting), "{told}");
        }
    }
    let response = world.call("POST", "/tcb/uploadfile", &path).json();
    assert_eq!(response["errcode"], -501007, "{response}");
    assert!(response["errmsg"].as_str().is_some_and(|text| text.contains("upload.client_paths")));
    world.assert_nothing_stored();
}

/// A body that only the connection's close would delimit is not an empty file.
#[test]
fn a_body_without_a_length_is_not_an_empty_file() {
    let world = Setup::new().start();
    let (name, value) = authorization();
    for (version, body) in [("1.0", &b"hello"[..]), ("1.1", b"hello"), ("1.1", b""), ("1.0", b"")] {
        let mut client = world.client();
        let head = format!("PUT /v1/files/x HTTP/{version}\r\nhost: a\r\n{name}: {value}\r\n\r\n");
        client.send(&[head.as_bytes(), body].concat());
        client.response().problem(411, "length_required");
    }
    world.assert_nothing_stored();
    put(&world, "/v1/files/empty", &[], b"").stored();
    assert_eq!(world.object("empty"), b"");
}
