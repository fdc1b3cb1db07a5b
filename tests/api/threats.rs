//! Attacks from outside, and that each has no effect. SECURITY.md lists them.

use serde_json::json;

use crate::harness::{BOUNDARY, Form, Response, Setup, World, authorization};
use crate::policy::{GIF, PNG};
use crate::tickets::{send, small};

fn put(world: &World, target: &str) -> Response {
    let mut client = world.client();
    client.send_request("PUT", target, &[authorization()], b"x");
    client.response()
}

/// Every stored object is in the folder, under a normalised path.
fn assert_all_within(world: &World, folder: &str) {
    for object in world.objects() {
        let key = object["key"].as_str().expect("a key");
        assert!(key.starts_with(folder), "{key}");
        let odd = |segment: &str| matches!(segment, "" | "." | "..");
        assert!(!key.split('/').any(odd) && !key.contains(['\\', '%', '\0']), "{key}");
    }
}

#[test]
fn no_encoding_of_dots_and_slashes_leaves_the_folder() {
    let world = Setup::new().set("auth.keys.panel.prefix", "panel").start();
    for climb in [
        "../",
        "%2e%2e/",
        "..%2f",
        "%2e%2e%2f",
        "%2E%2E%2F",
        "..%5c",
        "%252e%252e%252f",
        "..%252f",
        "%c0%ae%c0%ae/",
        "..%c0%af",
        "%e0%80%ae%e0%80%ae/",
        "%u002e%u002e/",
        "..%00/",
        "....//",
        "..;/",
        ".%2e/",
        "%ef%bc%8e%ef%bc%8e/",
        "..%ef%bc%8f",
        "..%e2%88%95",
        "./../",
        "%2e/%2e%2e/",
        "..%0a/",
        "..%09/",
        "%2f..%2f",
    ] {
        for target in [
            format!("/v1/files/panel/{climb}stolen.txt"),
            format!("/v1/files/panel/a/{climb}{climb}stolen.txt"),
            format!("/v1/files/{climb}stolen.txt"),
            format!("/v1/files/panel{climb}stolen.txt"),
        ] {
            let response = put(&world, &target);
            assert!(matches!(response.status, 201 | 400 | 403), "{target}: {}", response.text());
        }
        for name in ["path", "dir"] {
            let target = format!("/v1/files?{name}=panel/{climb}{climb}stolen.txt");
            let response = world.post_to(&target, &small());
            assert!(matches!(response.status, 201 | 400 | 403), "{target}: {}", response.text());
        }
        // As a form's field and as a file name, which are not percent-encoded.
        let plain = percent_encoding::percent_decode_str(climb).decode_utf8_lossy().into_owned();
        for text in [climb, &plain] {
            if text.contains(['\0', '\n']) {
                continue;
            }
            let form = Form::new().field("path", &format!("panel/{text}stolen.txt"));
            let response = world.post(&form.file("f", "x", "text/plain", b"x"));
            assert!(matches!(response.status, 201 | 400 | 403), "{text}: {}", response.text());
            world
                .post(&Form::new().file("f", &format!("{text}{text}x.txt"), "text/plain", b"x"))
                .stored();
        }
        // Nor can anything outside be read or deleted.
        let mut client = world.client();
        let target = format!("/v1/files/panel/{climb}x");
        client.send_request("DELETE", &target, &[authorization()], b"");
        let response = client.response();
        assert!(matches!(response.status, 204 | 400 | 403 | 404), "{target}: {}", response.text());
    }
    assert_all_within(&world, "panel/");
}

/// The fields of the form sent to COS, apart from the file.
fn fields_at_cos(world: &World) -> Vec<(String, String)> {
    let objects = world.objects();
    let fields = objects.last().expect("an object")["fields"].as_array().expect("fields").clone();
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    fields.iter().map(|field| (text(&field[0]), text(&field[1]))).collect()
}

#[test]
fn no_field_of_cos_s_form_can_be_injected() {
    let evil = [
        ("key", "stolen"),
        ("acl", "public-read-write"),
        ("success_action_redirect", "https://evil.example.org/"),
        ("x-cos-meta-fileid", "forged"),
        ("Content-Type", "text/html"),
        ("x-cos-storage-class", "ARCHIVE"),
        ("Signature", "forged"),
    ];
    let part = |name: &str, value: &str, boundary: &str| {
        format!(
            "\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}"
        )
    };
    let mut smuggled = String::from("bytes");
    for (name, value) in evil {
        for boundary in ["gateway", "gateway-00000000000000000000000000000000", "----other", ""] {
            smuggled.push_str(&part(name, value, boundary));
        }
    }
    smuggled.push_str("\r\n--gateway--\r\n");

    let fields_before =
        |form: Form| evil.iter().fold(form, |form, (name, value)| form.field(name, value));
    let injected = "x\"\r\nContent-Disposition: form-data; name=\"key\"; filename=\"y";
    let world = Setup::new().start();
    for (what, form) in [
        ("inside the file", Form::new().file("f", "x.bin", "text/plain", smuggled.as_bytes())),
        ("as fields", fields_before(Form::new()).file("f", "x.bin", "text/plain", b"x")),
        ("as the file's field", Form::new().file("key", "x.bin", "text/plain", b"x")),
        ("in the file's name", {
            let name = "x%0d%0aContent-Disposition: form-data; name=%22key%22%0d%0a%0d%0astolen";
            Form::new().file("f", name, "text/plain", b"x")
        }),
        ("in the type", {
            let kind = "text/plain\r\nContent-Disposition: form-data; name=\"acl\"; filename=\"y\"";
            Form::new().file("f", "x.bin", kind, b"x")
        }),
        ("in the head", Form::new().file("f", injected, "text/plain", b"x")),
        ("behind a bare line feed", Form::new().file("f", "x.bin", "text/plain\n\nacl", b"x")),
    ] {
        let before = world.objects().len();
        let response = world.post(&form);
        if response.status != 201 {
            assert_eq!(response.status, 400, "{what}: {}", response.text());
            assert_eq!(world.objects().len(), before, "{what}");
            continue;
        }
        let path = response.stored()["path"].as_str().expect("a path").to_owned();
        let objects = world.objects();
        assert_eq!(objects.len(), before + 1, "{what}: one object");
        let object = objects.iter().find(|object| object["key"] == path.as_str()).expect("it");
        let fields = object["fields"].as_array().expect("fields");
        let names: Vec<_> = fields.iter().map(|field| field[0].as_str().expect("a name")).collect();
        let own = ["key", "Signature", "x-cos-security-token", "x-cos-meta-fileid", "Content-Type"];
        assert_eq!(names, own, "{what}");
        assert_eq!(fields[0][1], path.as_str(), "{what}");
        assert_ne!(fields[3][1], "forged", "{what}");
        assert!(path.starts_with("uploads/"), "{what}: {path}");
    }
    // The bytes that looked like a form are stored as the file.
    let form = Form::new().field("path", "same").file("f", "x", "text/plain", smuggled.as_bytes());
    world.post(&form).stored();
    assert_eq!(world.object("same"), smuggled.as_bytes());
}

#[test]
fn cos_expands_nothing_in_a_key() {
    let world = Setup::new().set("upload.path_template", "t/{dir}/{name}{ext}").start();
    for dollar in ["${filename}", "$filename", "a/${filename}", "a$b"] {
        let form = Form::new().field("path", dollar).file("f", "evil/../x", "text/plain", b"x");
        world.post(&form).problem(400, "invalid_path");
        let form = Form::new().field("dir", dollar).file("f", "x", "text/plain", b"x");
        world.post(&form).problem(400, "invalid_path");
    }
    put(&world, "/v1/files/%24%7Bfilename%7D").problem(400, "invalid_path");
    put(&world, "/v1/files/$x").problem(400, "invalid_path");
    world.assert_nothing_stored();
    let named = Form::new().file("f", "${filename}.txt", "text/plain", b"x");
    let path = world.post(&named).stored()["path"].as_str().expect("a path").to_owned();
    assert!(path.starts_with("t/") && !path.contains(['$', '{', '}']), "{path}");
    assert_eq!(fields_at_cos(&world)[0].1, path);
}

#[test]
fn no_request_injects_a_response_header() {
    let world = Setup::new().start();
    let clean = |response: &Response| {
        for (name, value) in &response.headers {
            let known = !["set-cookie", "x-evil", "refresh"].contains(&name.as_str());
            assert!(known && !value.contains(['\r', '\n']), "{name}: {value}");
        }
        assert!(
            !String::from_utf8_lossy(&response.body).contains("\r\nset-cookie"),
            "{}",
            response.text()
        );
    };
    let evil = "%0d%0aset-cookie:%20a=b%0d%0ax-evil:%201";
    for name in
        [format!("x{evil}.txt"), "x\rset-cookie: a=b".to_owned(), "x\u{2028}y.txt".to_owned()]
    {
        let response = world.post(&Form::new().file("f", &name, "text/plain", b"x"));
        clean(&response);
        assert_eq!(response.status, 201, "{}", response.text());
        let name = response.stored()["name"].as_str().expect("a name").to_owned();
        assert!(!name.contains(char::is_control), "{name:?}");
    }
    for target in [
        format!("/v1/files/x{evil}"),
        format!("/v1/files?path=x{evil}"),
        format!("/v1/files?dir=x{evil}"),
    ] {
        let response = if target.contains('?') {
            world.post_to(&target, &small())
        } else {
            put(&world, &target)
        };
        clean(&response);
        response.problem(400, "invalid_path");
    }
    let response = world.post_to(&format!("/v1/files?reply={evil}"), &small());
    clean(&response);
    response.problem(400, "invalid_request");
    for id in [format!("x{evil}"), "x\tset-cookie: a=b".to_owned(), "a;b=c".to_owned()] {
        let headers = [authorization(), ("x-request-id", id.as_str())];
        let response = send(&world, "POST", "/v1/files", &headers, &small());
        clean(&response);
        assert!(!response.header("x-request-id").expect("an id").contains("set-cookie"));
    }
    // Nor adds a line to the log.
    for line in world.gateway.log().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn a_forged_host_is_in_no_url() {
    let poisoned = [
        ("x-forwarded-host", "evil.example.org"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "host=evil.example.org;proto=https"),
        ("x-host", "evil.example.org"),
        ("x-original-host", "evil.example.org"),
        ("x-forwarded-server", "evil.example.org"),
    ];
    let headers = [&[authorization()], &poisoned[..]].concat();
    let world = Setup::new().set("server.public_url", "https://files.example.com").start();
    let form = small();
    let kind = form.content_type();
    for host in ["evil.example.org", "files.example.com.evil.example.org", "gateway.test"] {
        let mut client = world.client();
        let mut head =
            format!("POST /v1/files HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\n");
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", form.bytes().len()));
        client.send(head.as_bytes());
        client.send(&form.bytes());
        let response = client.response();
        response.stored();
        assert!(!response.text().contains("evil"), "{}", response.text());
        assert!(
            response.text().contains("https://files.example.com/v1/files/"),
            "{}",
            response.text()
        );
        assert!(!format!("{:?}", response.headers).contains("evil"));
    }
    // An absolute-form request target also names a host.
    let mut client = world.client();
    let target = "http://evil.example.org/v1/files";
    client.send_request("POST", target, &[authorization(), ("content-type", &kind)], &form.bytes());
    let response = client.response();
    assert!(!response.text().contains("evil"), "{}", response.text());
    // Without `server.public_url` the Host header is used, and forwarded headers only from a trusted proxy.
    let world = Setup::new().start();
    let response = send(&world, "POST", "/v1/files", &headers, &small());
    response.stored();
    assert!(!response.text().contains("evil"), "{}", response.text());
}

#[test]
fn a_polyglot_of_image_and_page_is_served_as_an_image() {
    let script = b"/*<html><body><script>alert(1)</script></body></html>*/=1;";
    let gif = [GIF, script].concat();
    let png = [PNG, b"\x00\x00\x00\rtEXt<script>alert(1)</script>"].concat();
    let html_first = [b"<html><!--".as_slice(), PNG, b"--><script>alert(1)</script>"].concat();
    let pdf = [b"%PDF-1.4\n<script>".as_slice(), script].concat();
    for allowed in ["", "image/*,application/pdf"] {
        let world = Setup::new().set("upload.allowed_types", allowed).start();
        for (name, kind, content, kept) in [
            ("x.gif", "image/gif", &gif, Some("image/gif")),
            ("x.png", "image/png", &png, Some("image/png")),
            ("x.pdf", "application/pdf", &pdf, Some("application/pdf")),
            ("x.html", "image/gif", &gif, None),
            ("x.gif", "text/html", &gif, None),
            ("x.gif.html", "image/gif", &gif, None),
            ("x.png", "image/png", &html_first, None),
            ("x", "application/octet-stream", &html_first, None),
        ] {
            let response = world.post(&Form::new().file("f", name, kind, content));
            match (kept, allowed) {
                (Some(kept), _) => {
                    assert_eq!(response.stored()["content_type"], kept, "{name} {kind}")
                }
                (None, "") => {
                    let kind = response.stored()["content_type"].clone();
                    assert_eq!(kind, "application/octet-stream", "{name}");
                }
                (None, _) => drop(response.problem(415, "type_not_allowed")),
            }
        }
    }
}

#[test]
fn a_form_of_a_million_tiny_files_is_refused_early() {
    let world = Setup::new().start();
    let part = Form::new().file("f[]", "x", "text/plain", b"x").bytes();
    let part = &part[..part.len() - BOUNDARY.len() - 6];
    let idle = world.gateway.memory("VmRSS");
    let mut client = world.client();
    let length = (part.len() * 1_000_000).to_string();
    let kind = Form::new().content_type();
    let headers = [authorization(), ("content-type", &kind), ("content-length", &length)];
    client.send_head("POST", "/v1/files", &headers);
    let _ = client.try_send(&part.repeat(1000));
    let response = client.response();
    assert_eq!(response.status, 413, "{}", response.text());
    let response = response.json();
    assert_eq!(response["files"][20]["error"]["code"], "too_many_files", "{response}");
    assert_eq!(world.objects().len(), 20, "as many as the settings allow, and each is told");
    let peak = world.gateway.memory("VmHWM");
    assert!(peak < idle + (16 << 10), "{idle} KiB, then {peak} KiB");
}

#[test]
fn a_prefix_applies_to_our_bucket_only() {
    let world = Setup::new().set("auth.keys.panel.prefix", "panel").start();
    let own = world.post(&small()).stored()["file_id"].as_str().expect("an id").to_owned();
    let foreign = own.replacen("cloud://", "cloud://other-env.", 1);
    let place =
        own.strip_prefix("cloud://").and_then(|rest| rest.split('/').next()).expect("a place");
    let other = own.replacen(place, "other-env.7465-other-1250000000", 1);
    for id in [foreign, other] {
        for call in ["download-links", "delete"] {
            let body = json!({"files": [id]}).to_string();
            let mut client = world.client();
            client.send_request(
                "POST",
                &format!("/v1/{call}"),
                &[authorization()],
                body.as_bytes(),
            );
            let response = client.response().json();
            assert_eq!(
                response["files"][0]["error"]["code"], "path_not_allowed",
                "{call} {response}"
            );
        }
        let mut client = world.client();
        let body = json!({"fileid_list": [id]}).to_string();
        client.send_request("POST", "/tcb/batchdeletefile", &[authorization()], body.as_bytes());
        assert_eq!(client.response().json()["delete_list"][0]["status"], -501007);
    }
    assert_eq!(world.objects().len(), 1);
}

/// Every test named in SECURITY.md exists.
#[test]
fn every_test_that_security_md_names_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: String| std::fs::read_to_string(root.join(&path)).expect(&path);
    let text = read("SECURITY.md".to_owned());
    let mut named = 0;
    for name in text.split('`').skip(1).step_by(2) {
        let Some((module, test)) = name.split_once("::").filter(|(module, _)| *module != "file")
        else {
            continue;
        };
        match name.strip_prefix("settings::tests::").and_then(|rest| rest.split_once("::")) {
            Some((module, test)) => {
                let source = read(format!("src/settings/tests/{module}.rs"));
                assert!(source.contains(&format!("fn {test}(")), "{name}");
            }
            None if root.join(format!("tests/api/{module}.rs")).exists() => {
                let source = read(format!("tests/api/{module}.rs"));
                assert!(source.contains(&format!("fn {test}")), "{name}");
            }
            None => {
                let path = format!("src/{}", name.replace("::", "/"));
                let is_folder = root.join(&path).join("mod.rs").exists();
                read(format!("{path}{}", if is_folder { "/mod.rs" } else { ".rs" }));
            }
        }
        named += 1;
    }
    assert!(named > 50, "{named}");
}
