//! The gateway's requests to WeChat and COS, byte for byte, as recorded by a fake server; and how the gateway reads the
//! responses of such a server.

use std::io;
use std::net::TcpListener;

use serde_json::json;

use crate::harness::{Client, Form, Gateway, Response, authorization, crc64, noise};
use crate::stand_in::{
    BUCKET, FILE_ID, SIGNATURE, STORED, Upstream, gateway, link, ok, token, url,
};

/// Uploads one file with `content` in one of several ways.
fn send(gateway: &Gateway, way: &str, content: &[u8]) -> Response {
    let mut client = Client::connect(gateway.address);
    let field = if way == "brackets" { "f[]" } else { "f" };
    let form = Form::new().field("path", "a/中 x.png").file(field, "x", "image/png", content);
    let kind = form.content_type();
    let headers = [authorization(), ("content-type", &kind)];
    let target = "/v1/files/a/%E4%B8%AD%20x.png";
    match way {
        "form" | "brackets" => {
            client.send_request("POST", "/v1/files", &headers, &form.bytes());
        }
        "form without a last line break" => {
            client.send_request("POST", "/v1/files", &headers, &form.ending(""));
        }
        "chunked form" => {
            let chunked = [&headers[..], &[("transfer-encoding", "chunked")]].concat();
            client.send_head("POST", "/v1/files", &chunked);
            client.send_chunk(&form.bytes());
            client.send(b"0\r\n\r\n");
        }
        "raw" => client.send_request("PUT", target, &[authorization()], content),
        "chunked raw" => {
            let chunked = [authorization(), ("transfer-encoding", "chunked")];
            client.send_head("PUT", target, &chunked);
            if !content.is_empty() {
                client.send_chunk(content);
            }
            client.send(b"0\r\n\r\n");
        }
        other => panic!("no such way: {other}"),
    }
    client.response()
}

const WAYS: [&str; 6] =
    ["form", "form without a last line break", "brackets", "chunked form", "raw", "chunked raw"];

/// Splits a form at its delimiters: each part's head and content, and the bytes after the last delimiter.
fn taken_apart<'b>(body: &'b [u8], boundary: &str) -> (Vec<(&'b str, &'b [u8])>, &'b [u8]) {
    let delimiter = format!("\r\n--{boundary}");
    assert!(body.starts_with(&delimiter.as_bytes()[2..]), "it begins with its delimiter");
    let mut rest = &body[delimiter.len() - 2..];
    let mut parts = Vec::new();
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let head = memchr::memmem::find(part, b"\r\n\r\n").expect("a head");
        let content = &part[head + 4..];
        let end = memchr::memmem::find(content, delimiter.as_bytes()).expect("its end");
        parts.push((std::str::from_utf8(&part[..head]).expect("text"), &content[..end]));
        rest = &content[end + delimiter.len()..];
    }
    (parts, rest.strip_prefix(b"--").expect("the closing delimiter"))
}

#[test]
fn cos_gets_the_fields_in_order_then_the_file_and_nothing_more() {
    let upstream = Upstream::start();
    let (gateway, _folder) = gateway(&upstream, &[]);
    let mut boundaries = Vec::new();
    for length in [0, 1, 5, 100_000, 600_000] {
        let content = noise(length, 1);
        for way in WAYS {
            upstream.forget();
            let file = send(&gateway, way, &content).stored();
            assert_eq!(file["verified"], false, "COS has named no CRC");
            assert_eq!(file["crc64"], crc64(&content), "{way}");
            assert_eq!(file["file_id"], "cloud://env.7465-bucket-125/a/中 x.png");

            let posts = upstream.seen(BUCKET);
            assert_eq!(posts.len(), 1, "{way}");
            let post = &posts[0];
            assert_eq!(post.method, "POST");
            assert_eq!(post.target, format!("{BUCKET}/a%2F%E4%B8%AD%20x%2Epng?x=%2f"), "as given");
            assert_eq!(post.header("host"), Some(upstream.address.to_string().as_str()));
            assert_eq!(post.header("transfer-encoding"), None);
            assert_eq!(post.header("expect"), None);
            assert_eq!(post.header("authorization"), None);
            let kind = post.header("content-type").expect("a type");
            let boundary = kind.strip_prefix("multipart/form-data; boundary=").expect("a boundary");
            assert!(boundary.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{kind}");
            boundaries.push(boundary.to_owned());

            let (parts, rest) = taken_apart(&post.body, boundary);
            let fields = [
                ("key", "a/中 x.png"),
                ("Signature", SIGNATURE),
                ("x-cos-security-token", "security+token/=="),
                ("x-cos-meta-fileid", FILE_ID),
                ("Content-Type", "image/png"),
            ];
            assert_eq!(parts.len(), fields.len() + 1, "{way}");
            for ((head, value), (name, expected)) in parts.iter().zip(fields) {
                let expected_head = format!("Content-Disposition: form-data; name=\"{name}\"");
                assert_eq!((*head, *value), (expected_head.as_str(), expected.as_bytes()), "{way}");
            }
            let (head, sent) = parts[5];
            assert!(head.contains("name=\"file\"; filename=\"") && head.is_ascii(), "{head}");
            assert!(sent == content, "{way}: other bytes");
            assert!(matches!(rest, b"" | b"\r\n"), "{way}: {rest:?} behind the form");
        }
    }
    let uploads = boundaries.len();
    boundaries.sort();
    boundaries.dedup();
    assert_eq!(boundaries.len(), uploads, "a boundary that can be guessed");
}

#[test]
fn calls_to_wechat_match_the_documents() {
    let upstream = Upstream::start();
    let (gateway, _folder) = gateway(&upstream, &[("GATEWAY__TELEMETRY__LOG", "debug")]);
    send(&gateway, "form", b"one").stored();
    send(&gateway, "raw", b"two").stored();

    let tokens = upstream.seen("/cgi-bin/");
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        (tokens[0].method.as_str(), tokens[0].target.as_str()),
        ("POST", "/cgi-bin/stable_token")
    );
    let mut asked = tokens[0].json();
    // Omitted, it is false.
    assert!(!asked["force_refresh"].as_bool().unwrap_or(false));
    asked.as_object_mut().expect("an object").remove("force_refresh");
    let expected =
        json!({"grant_type": "client_credential", "appid": "wx12", "secret": "0123456789"});
    assert_eq!(asked, expected);

    let links = upstream.seen("/tcb/");
    assert_eq!(links.len(), 2);
    for link in &links {
        assert_eq!(link.method, "POST");
        assert_eq!(link.json(), json!({"env": "env", "path": "a/中 x.png"}));
        let query = link.target.strip_prefix("/tcb/uploadfile?access_token=").expect("a token");
        let query = query.replace('+', "%20");
        let decoded = percent_encoding::percent_decode_str(&query).decode_utf8().expect("text");
        assert_eq!(decoded, token());
        assert_eq!(link.header("content-type"), Some("application/json"));
    }
    assert!(!gateway.log().contains("to+k/e"));
}

#[test]
fn what_counts_as_stored() {
    let upstream = Upstream::start();
    let (gateway, _folder) = gateway(&upstream, &[]);
    let content = noise(300_000, 2);
    let right = format!("x-cos-hash-crc64ecma: {}\r\n", crc64(&content));
    let with = |status: &str, headers: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}")
    };
    let answer = "<PostResponse><Location>x</Location><Bucket>b</Bucket></PostResponse>";
    for (response, verified) in [
        (String::from_utf8_lossy(STORED).into_owned(), false),
        (format!("HTTP/1.1 204 No Content\r\n{right}\r\n"), true),
        (with("200 OK", &right, ""), true),
        (with("201 Created", &right.to_uppercase(), answer), true),
        (with("200 OK", "", ""), false),
        (format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n{right}\r\n"), true),
        (format!("HTTP/1.1 200 OK\r\n{right}connection: close\r\n\r\n"), true),
        (format!("HTTP/1.1 200 OK\r\n{right}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"), true),
    ] {
        for way in WAYS {
            upstream.respond_with(BUCKET, response.clone());
            upstream.forget();
            let file = send(&gateway, way, &content).stored();
            assert_eq!(file["verified"], verified, "{response}");
            assert_eq!(file["crc64"], crc64(&content));
            assert_eq!(upstream.seen(BUCKET).len(), 1, "{response}");
        }
    }
    let error = "<?xml version='1.0' encoding='utf-8' ?>\n<Error>\n<Code>AccessDenied</Code>\n\
        <Message>no</Message>\n<RequestId>r</RequestId></Error>";
    let elsewhere = format!("location: http://{}/elsewhere\r\n", upstream.address);
    for (response, code, deleted) in [
        (with("200 OK", &right, error), "cos_refused", 0),
        (with("403 Forbidden", "", error), "cos_refused", 0),
        (with("307 Temporary Redirect", &elsewhere, ""), "cos_refused", 0),
        (with("302 Found", &elsewhere, ""), "cos_refused", 0),
        (with("204 No Content", "x-cos-hash-crc64ecma: 1\r\n", ""), "integrity_mismatch", 1),
        (with("200 OK", "x-cos-hash-crc64ecma: nonsense\r\n", ""), "integrity_mismatch", 1),
    ] {
        for way in WAYS {
            upstream.respond_with(BUCKET, response.clone());
            upstream.forget();
            let problem = send(&gateway, way, &content).problem(502, code);
            if response.contains("<Error>") {
                assert_eq!(problem["cos_code"], "AccessDenied", "{response}");
            }
            assert_eq!(upstream.seen("/elsewhere").len(), 0);
            assert_eq!(upstream.seen("/tcb/batchdeletefile").len(), deleted, "{response}");
        }
    }
}

#[test]
fn wechat_s_redirects_are_not_followed() {
    let upstream = Upstream::start();
    let (gateway, _folder) = gateway(&upstream, &[]);
    let elsewhere = |status: &str| {
        let location = format!("http://{}/elsewhere", upstream.address);
        format!("HTTP/1.1 {status}\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
    };
    for status in ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        upstream.respond_with("/tcb/uploadfile", elsewhere(status));
        send(&gateway, "form", b"x").problem(502, "wechat_unreachable");
    }
    assert_eq!(upstream.seen("/elsewhere").len(), 0);
    assert_eq!(upstream.seen(BUCKET).len(), 0);
}

/// A forged response of WeChat must not make the gateway post files and signatures to another host.
#[test]
fn a_link_to_a_host_that_is_not_listed_gets_nothing() {
    let upstream = Upstream::start();
    let other_host = TcpListener::bind("127.0.0.1:0").expect("a socket");
    other_host.set_nonblocking(true).expect("an option");
    let (other, known) = (other_host.local_addr().expect("an address"), upstream.address);
    let (gateway, _folder) = gateway(&upstream, &[]);
    let port = other.port();
    for url in [
        format!("http://{other}/b/k"),
        format!("http://localhost:{port}/b/k"),
        format!("http://{known}@{other}/b/k"),
        format!("http://user:password@{known}/b/k"),
        format!("http://[::ffff:127.0.0.1]:{port}/b/k"),
        format!("http://2130706433:{port}/b/k"),
        format!("//{other}/b/k"),
        format!("ftp://{known}/b/k"),
        "file:///etc/passwd".to_owned(),
        "/b/k".to_owned(),
        String::new(),
    ] {
        upstream.respond_with("/tcb/uploadfile", ok(&link(&url, "a/中 x.png")));
        for way in WAYS {
            let problem = send(&gateway, way, &noise(400_000, 3)).problem(502, "link_not_allowed");
            let detail = problem["detail"].as_str().expect("a text");
            assert!(!detail.contains("password"), "{detail}");
        }
    }
    let error = other_host.accept().expect_err("no connection is made");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(upstream.seen(BUCKET).len(), 0);

    // Nor does a link for another path than the requested one, or for another file id.
    let path = "a/中 x.png";
    let own = |path: &str| url(&known.to_string(), path);
    for forged in [
        link(&own("a/other.png"), path),
        link(&own(path), "a/other.png"),
        link(&own(&format!("b/{path}")), path),
        link(&own(path), &format!("b/{path}")),
        link(&own(path).replace("?x", "/..?x"), path),
        link(&own(path).replace(&format!("{BUCKET}/"), "/?/"), path),
        link(&format!("http://{known}{BUCKET}/a"), path),
    ] {
        upstream.respond_with("/tcb/uploadfile", ok(&forged));
        for way in WAYS {
            let problem = send(&gateway, way, b"x").problem(502, "link_not_allowed");
            let detail = problem["detail"].as_str().expect("a text");
            assert!(detail.contains("the path that was asked for"), "{forged}: {detail}");
        }
        assert_eq!(upstream.seen(BUCKET).len(), 0, "{forged}");
        // Nor is it given to the client.
        let mut client = Client::connect(gateway.address);
        let response = client.post_json("/v1/upload-links", &json!({ "path": path }));
        response.problem(502, "link_not_allowed");
        let response = client.post_json("/tcb/uploadfile", &json!({ "path": path }));
        assert_eq!(response.json()["errcode"], -1, "{}", response.text());
    }
    // The bucket may be in the path or in the host, as in COS's URLs.
    for url in [format!("http://{known}/a/%E4%B8%AD%20x.png"), own(path)] {
        upstream.respond_with("/tcb/uploadfile", ok(&link(&url, path)));
        upstream.respond_with("/a/", STORED);
        send(&gateway, "form", b"x").stored();
    }
    upstream.forget();

    // Nor may a value break out of its part of the form and begin another.
    for name in ["authorization", "token", "cos_file_id"] {
        let mut forged = link(&url(&known.to_string(), "a/中 x.png"), "a/中 x.png");
        forged[name] = json!("x\r\n--gateway\r\nContent-Disposition: form-data; name=\"key\"");
        upstream.respond_with("/tcb/uploadfile", ok(&forged));
        let response = send(&gateway, "form", b"x");
        assert_eq!(response.status, 502, "{}", response.text());
        assert_eq!(upstream.seen(BUCKET).len(), 0);
    }
}
