//! What may be stored: types by declaration, name and content; sizes and numbers of files for each client.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::harness::{Form, Response, Setup, World, authorization, noise};

pub const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR";
pub const GIF: &[u8] = b"GIF89a\x01\x00\x01\x00";
const PDF: &[u8] = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n";
const HTML: &[u8] = b"<!DOCTYPE html><script>alert(1)</script>";
const SVG: &[u8] =
    b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>";

fn file(name: &str, kind: &str, content: &[u8]) -> Form {
    Form::new().file("file", name, kind, content)
}

fn put(world: &World, path: &str, kind: Option<&str>, content: &[u8]) -> Response {
    let mut headers = vec![authorization()];
    headers.extend(kind.map(|kind| ("content-type", kind)));
    let mut client = world.client();
    client.send_request("PUT", &format!("/v1/files/{path}"), &headers, content);
    client.response()
}

/// The `Content-Type` field sent to COS for the object.
fn type_at_cos(world: &World, key: &str) -> String {
    let objects = world.objects();
    let object = objects.iter().find(|object| object["key"] == key).expect("the object");
    let fields = object["fields"].as_array().expect("fields");
    let kind = fields.iter().find(|field| field[0] == "Content-Type").expect("its type");
    kind[1].as_str().expect("a text").to_owned()
}

#[test]
fn only_listed_types_are_taken() {
    let world =
        Setup::new().set("upload.allowed_types", "image/*,application/pdf,text/csv").start();
    let docx = noise(64, 1);
    for (what, form) in [
        ("declared", file("x.png", "text/plain", PNG)),
        ("declared, without an extension", file("x", "application/zip", b"PK\x03\x04")),
        ("called", file("x.exe", "image/png", PNG)),
        ("called like a page", file("x.html", "image/png", PNG)),
        ("called like a page in capitals", file("x.HTML", "image/png", PNG)),
        ("contained: a page", file("x.png", "image/png", HTML)),
        ("contained: a page behind blanks", file("x.png", "image/png", b"\n\n <HTML>")),
        ("contained: SVG", file("x.png", "image/png", SVG)),
        ("contained: an archive", file("x.png", "image/png", b"PK\x03\x04........")),
        ("contained: a program", file("x.pdf", "application/pdf", b"\x7fELF\x02\x01\x01\x00")),
        ("contained: nothing known", file("x.png", "image/png", b"text")),
        ("contained: noise", file("x.png", "image/png", &docx)),
        ("empty", file("x.png", "image/png", b"")),
        ("a table that is a page", file("x.csv", "text/csv", HTML)),
        ("SVG, which is not named", file("x.svg", "image/svg+xml", SVG)),
        ("no type and no name", file("x", "application/octet-stream", PNG)),
        (
            "no type at all",
            Form::new().part(b"Content-Disposition: form-data; name=\"file\"; filename=x", PNG),
        ),
        ("a type that is none", file("x.bin", "nonsense", PNG)),
    ] {
        let response = world.post(&form);
        assert_eq!(response.status, 415, "{what}: {}", response.text());
        response.problem(415, "type_not_allowed");
    }
    for (path, kind, content) in [
        ("x.html", Some("image/png"), PNG),
        ("x.png", Some("text/html"), PNG),
        ("x.png", Some("image/png"), HTML),
        ("x.png", None, HTML),
        ("x", None, PNG),
    ] {
        put(&world, path, kind, content).problem(415, "type_not_allowed");
    }
    // The extension of the object's path counts as well as the file name's.
    let renamed = Form::new().field("path", "a/x.html").file("f", "x.png", "image/png", PNG);
    world.post(&renamed).problem(415, "type_not_allowed");
    world.assert_nothing_stored();
    assert_eq!(world.count("uploadfile"), 0, "no link was asked for");

    for (name, kind, content) in [
        ("x.png", "image/png", PNG),
        ("x.PNG", "IMAGE/PNG", PNG),
        ("x.png", "application/octet-stream", PNG),
        ("x", "image/png", PNG),
        ("x.gif", "image/gif", GIF),
        ("x.pdf", "application/pdf", PDF),
        ("x.csv", "text/csv", b"BM,a table that begins like a bitmap\n"),
        ("x.csv", "text/csv", b""),
    ] {
        let response = world.post(&file(name, kind, content));
        assert_eq!(response.status, 201, "{name} {kind}: {}", response.text());
    }
    put(&world, "x.png", None, PNG).stored();
    put(&world, "y.png", Some("image/png"), PNG).stored();
    assert_eq!(world.objects().len(), 10);
}

#[test]
fn a_declared_type_is_refused_before_the_body() {
    let world = Setup::new().set("upload.allowed_types", "image/*").start();
    let mut client = world.client();
    let headers = [authorization(), ("content-type", "text/html"), ("content-length", "100000000")];
    client.send_head("PUT", "/v1/files/x.html", &headers);
    client.response().problem(415, "type_not_allowed");
}

#[test]
fn a_type_is_detected_however_the_first_bytes_are_split() {
    let world = Setup::new().set("upload.allowed_types", "image/png").start();
    for (content, status) in [(PNG, 201), (HTML, 415)] {
        let mut client = world.client();
        let headers =
            [authorization(), ("transfer-encoding", "chunked"), ("content-type", "image/png")];
        client.send_head("PUT", "/v1/files/x.png", &headers);
        for byte in content {
            client.send_chunk(std::slice::from_ref(byte));
        }
        client.send(b"0\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status, status, "{}", response.text());
    }
    assert_eq!(world.object("x.png"), PNG);
    // The bytes read for detection are part of the stored file.
    let large = [PNG, &noise(300_000, 1)].concat();
    let path = Form::new().field("path", "large.png").file("f", "x.png", "image/png", &large);
    world.post(&path).stored();
    assert!(world.object("large.png") == large);
}

#[test]
fn one_refused_file_of_several_does_not_affect_the_others() {
    let world = Setup::new().set("upload.allowed_types", "image/*").start();
    let form = Form::new()
        .file("f[]", "a.png", "image/png", PNG)
        .file("f[]", "b.html", "text/html", HTML)
        .file("f[]", "c.png", "image/png", HTML)
        .file("f[]", "d.gif", "image/gif", GIF);
    let response = world.post(&form);
    assert_eq!(response.status, 415, "{}", response.text());
    let response = response.json();
    for (index, code) in
        [(0, None), (1, Some("type_not_allowed")), (2, Some("type_not_allowed")), (3, None)]
    {
        assert_eq!(response["files"][index]["error"]["code"].as_str(), code, "{response}");
    }
    assert_eq!(world.objects().len(), 2);
}

/// Without `upload.allowed_types` every type is accepted, but content that a browser would run is stored as binary.
#[test]
fn active_content_is_stored_as_binary() {
    let world = Setup::new().start();
    let mut index = 0;
    let mut stored_as = |name: &str, kind: &str, content: &[u8]| {
        index += 1;
        let folder = format!("{index}");
        let form = Form::new().field("path", &format!("{folder}/{name}"));
        let form = if kind.is_empty() {
            let head =
                format!("Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"");
            form.part(head.as_bytes(), content)
        } else {
            form.file("file", name, kind, content)
        };
        let key = format!("{folder}/{name}");
        let told = world.post(&form).stored();
        let kind = type_at_cos(&world, &key);
        assert_eq!(told["content_type"], kind.as_str(), "the client is told");
        assert_eq!(world.object(&key), content);
        let (_, served) = world.download(told["url"].as_str().expect("a url"));
        assert_eq!(served, kind);
        kind
    };
    for (name, kind, content) in [
        ("x.html", "text/html", HTML),
        ("x.html", "", HTML),
        ("x.htm", "application/octet-stream", HTML),
        ("x.xhtml", "", HTML),
        ("x.html", "image/png", PNG),
        ("x.html", "image/png", HTML),
        ("x.html", "text/plain", HTML),
        ("x.png", "text/html", PNG),
        ("x.png", "image/png", HTML),
        ("x.png", "image/png", SVG),
        ("x.jpg", "image/jpeg", b"\xef\xbb\xbf  <!-- x --><script>".as_slice()),
        ("x", "application/pdf", HTML),
        ("x", "text/html;charset=utf-8", b"text"),
        ("x", "TEXT/HTML", b"text"),
        ("x", "application/xhtml+xml", b"text"),
        ("x.svg", "image/svg+xml", SVG),
        ("x.svg", "", SVG),
        ("x.svgz", "", b"\x1f\x8b"),
        ("x.xml", "application/xml", b"<?xml version='1.0'?><a/>"),
        ("x.xml", "text/xml", b"text"),
        ("x.atom", "application/atom+xml", b"text"),
        ("x.js", "text/javascript", b"alert(1)"),
        ("x.mjs", "", b"alert(1)"),
        ("x", "application/x-javascript", b"alert(1)"),
        ("x.swf", "application/x-shockwave-flash", b"FWS"),
        ("x.mht", "message/rfc822", b"text"),
        // Browsers detect the content of these types themselves.
        ("x", "*/*", HTML),
        ("x", "unknown/unknown", HTML),
        ("x", "application/unknown", HTML),
        ("x", "", HTML),
    ] {
        assert_eq!(stored_as(name, kind, content), "application/octet-stream", "{name} {kind}");
    }
    for (name, kind, content, kept) in [
        ("x.png", "image/png", PNG, "image/png"),
        ("x.png", "", PNG, "image/png"),
        ("x.pdf", "application/pdf", PDF, "application/pdf"),
        ("x.txt", "text/plain; charset=utf-8", HTML, "text/plain; charset=utf-8"),
        ("x.md", "text/markdown", b"<p align=center>".as_slice(), "text/markdown"),
        ("x.css", "text/css", b"a{}", "text/css"),
        ("x.json", "application/json", b"{}", "application/json"),
        // Of several types in one header a browser uses the last.
        ("x", "image/png; a=\",text/html\"", PNG, "image/png"),
    ] {
        assert_eq!(stored_as(name, kind, content), kept, "{name} {kind}");
    }
}

#[test]
fn active_types_allowed_by_name_are_stored_with_their_type() {
    let world = Setup::new().set("upload.allowed_types", "image/*,image/svg+xml,text/html").start();
    let svg = Form::new().field("path", "x.svg").file("f", "x.svg", "image/svg+xml", SVG);
    world.post(&svg).stored();
    assert_eq!(type_at_cos(&world, "x.svg"), "image/svg+xml");
    let html = Form::new().field("path", "x.html").file("f", "x.html", "text/html", HTML);
    world.post(&html).stored();
    assert_eq!(type_at_cos(&world, "x.html"), "text/html");
    // A type is accepted only if the content agrees with it.
    world.post(&file("x.svg", "image/svg+xml", HTML)).problem(415, "type_not_allowed");
    world.post(&file("x.png", "image/png", SVG)).problem(415, "type_not_allowed");
    world.post(&file("x.js", "text/javascript", b"x")).problem(415, "type_not_allowed");
    assert_eq!(world.objects().len(), 2);
}

#[test]
fn a_key_s_limits_apply_in_addition_to_the_gateway_s() {
    let world = Setup::new()
        .set("upload.allowed_types", "image/*,text/plain")
        .set("upload.max_file_size", "1KiB")
        .set("auth.keys.small.sha256", hex::encode(Sha256::digest("small's")))
        .set("auth.keys.small.types", "image/png,application/pdf")
        .set("auth.keys.small.max_file_size", 100)
        .set("auth.keys.small.max_files", 2)
        .set("auth.keys.large.sha256", hex::encode(Sha256::digest("large's")))
        .set("auth.keys.large.max_file_size", "1GiB")
        .start();
    let post = |key: &str, target: &str, form: &Form| {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        crate::tickets::send(&world, "POST", target, &headers, form)
    };
    let png = |length: usize| [PNG, &vec![0; length - PNG.len()]].concat();
    post("small's", "/v1/files", &file("x.png", "image/png", &png(100))).stored();
    post("small's", "/v1/files", &file("x.png", "image/png", &png(101)))
        .problem(413, "file_too_large");
    for (name, kind, content) in [
        ("x.txt", "text/plain", b"x".as_slice()),
        ("x.pdf", "application/pdf", PDF),
        ("x.gif", "image/gif", GIF),
    ] {
        post("small's", "/v1/files", &file(name, kind, content)).problem(415, "type_not_allowed");
    }
    let mut three = Form::new();
    for name in ["a.png", "b.png", "c.png"] {
        three = three.file("f[]", name, "image/png", PNG);
    }
    let response = post("small's", "/v1/files", &three);
    assert_eq!(response.status, 413, "{}", response.text());
    let response = response.json();
    assert_eq!(response["files"][2]["error"]["code"], "too_many_files", "{response}");
    assert_eq!(response["files"][1]["error"], Value::Null, "{response}");

    post("large's", "/v1/files", &file("x.txt", "text/plain", &[b'x'; 1024])).stored();
    post("large's", "/v1/files", &file("x.txt", "text/plain", &[b'x'; 1025]))
        .problem(413, "file_too_large");
    assert_eq!(world.objects().len(), 4);
}
