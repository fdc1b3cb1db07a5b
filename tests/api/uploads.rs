//! Uploads: what is stored, and the response.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{BOUNDARY, Client, Form, Gateway, Setup, World, authorization, crc64, noise};

fn png() -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n".as_slice(), &noise(70_000, 1)].concat()
}

/// The only stored object, whose content must be `bytes`.
fn only_object(world: &World, bytes: &[u8]) -> Value {
    let objects = world.objects();
    assert_eq!(objects.len(), 1, "{objects:?}");
    let key = objects[0]["key"].as_str().expect("a key");
    assert!(world.object(key) == bytes, "{key} holds other bytes");
    objects[0].clone()
}

#[test]
fn a_first_upload_with_default_settings_is_downloaded_by_its_url() {
    let data = tempfile::tempdir().expect("a folder");
    let variables = BTreeMap::from([
        ("GATEWAY__SERVER__BIND".to_owned(), "127.0.0.1:0".to_owned()),
        ("GATEWAY__SANDBOX__DATA".to_owned(), data.path().display().to_string()),
    ]);
    let mut gateway = Gateway::start(&[], &variables, data.path());
    let base = |gateway: &Gateway| format!("http://{}", gateway.address);
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl").arg("-sS").args(arguments).output().expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let file = data.path().join("x.png");
    std::fs::write(&file, png()).expect("a file");

    let page = String::from_utf8(curl(&[&format!("{}/", base(&gateway))])).expect("text");
    assert!(page.contains("type=\"file\""));
    let form = format!("file=@{}", file.display());
    let response = curl(&["-F", &form, &format!("{}/v1/files", base(&gateway))]);
    let response: Value = serde_json::from_slice(&response).expect("JSON");
    let url = response["url"].as_str().expect("a URL").to_owned();
    assert!(curl(&["-L", &url]) == png());
    let kind = curl(&["-L", "-o", "/dev/null", "-w", "%{content_type}", &url]);
    assert_eq!(kind, b"image/png");

    gateway = {
        drop(gateway);
        Gateway::start(&[], &variables, data.path())
    };
    let path = response["files"][0]["path"].as_str().expect("a path");
    assert!(curl(&["-L", &format!("{}/v1/files/{path}", base(&gateway))]) == png());
}

#[test]
fn a_file_is_downloaded_unchanged() {
    let world = Setup::new().start();
    let response = world.post(&Form::new().file("file", "x.PNG", "image/png", &png()));
    let file = response.stored();
    assert_eq!(response.header("location"), response.json()["url"].as_str());
    assert_eq!(response.json()["url"], response.json()["location"]);
    assert_eq!(file["url"], response.json()["url"]);
    assert_eq!(file["size"], png().len());
    assert_eq!(file["name"], "x.PNG");
    assert_eq!(file["content_type"], "image/png");
    assert_eq!(file["verified"], true);
    assert_eq!(file["crc64"], crc64(&png()));
    let path = file["path"].as_str().expect("a path");
    assert!(path.starts_with("uploads/20") && path.ends_with(".png"), "{path}");
    assert!(file["file_id"].as_str().expect("an id").ends_with(&format!("/{path}")));
    only_object(&world, &png());
    let (bytes, kind) = world.download(file["url"].as_str().expect("a URL"));
    assert!(bytes == png());
    assert_eq!(kind, "image/png");
}

#[test]
fn cos_gets_its_fields_in_its_order() {
    let world = Setup::new().start();
    let path = "文档/报告 最终版.pdf";
    world
        .post(&Form::new().field("path", path).file("file", "x", "application/pdf", b"%PDF"))
        .stored();
    let object = only_object(&world, b"%PDF");
    let fields: Vec<_> =
        object["fields"].as_array().expect("fields").iter().map(|field| &field[0]).collect();
    let order = ["key", "Signature", "x-cos-security-token", "x-cos-meta-fileid", "Content-Type"];
    assert_eq!(json!(fields), json!(order));
    assert_eq!(object["fields"][0][1], path);
    assert_eq!(object["fields"][4][1], "application/pdf");
    assert_eq!(object["fileid_ok"], true);
    assert_eq!(object["file_name"], "file");

    let world = Setup::new().set("cos.send_content_type", false).start();
    world.post(&Form::new().file("file", "x.pdf", "application/pdf", b"%PDF")).stored();
    assert_eq!(only_object(&world, b"%PDF")["fields"].as_array().map(Vec::len), Some(4));
}

#[test]
fn names_of_all_kinds() {
    let world = Setup::new().start();
    let head = |rest: &[u8]| {
        [b"Content-Disposition: form-data; name=\"file\"; ".as_slice(), rest].concat()
    };
    for (disposition, name, kind) in [
        (head("filename=\"报告 最终 版.pdf\"".as_bytes()), "报告 最终 版.pdf", "application/pdf"),
        (head(b"filename=\"\xb1\xa8\xb8\xe6.doc\""), "报告.doc", "application/msword"),
        (head(b"filename=\"C:\\Users\\me\\a b.gif\""), "a b.gif", "image/gif"),
        (head(b"filename=\"a%22b.txt\""), "a\"b.txt", "text/plain"),
        (head(b"filename=\"x\"; filename*=UTF-8''%E6%8A%A5.webp"), "报.webp", "image/webp"),
        (head(b"filename=plain"), "plain", "application/octet-stream"),
    ] {
        let file = world.post(&Form::new().part(&disposition, b"content")).stored();
        assert_eq!(file["name"], name);
        assert_eq!(file["content_type"], kind);
        let extension = name.rsplit_once('.').map_or(String::new(), |(_, ext)| format!(".{ext}"));
        let path = file["path"].as_str().expect("a path");
        assert!(path.ends_with(&extension) && path.is_ascii(), "{path}");
    }
}

#[test]
fn an_empty_file_is_a_file_and_an_empty_input_is_none() {
    let world = Setup::new().start();
    let file = world.post(&Form::new().file("file", "empty.txt", "text/plain", b"")).stored();
    assert_eq!(file["size"], 0);
    only_object(&world, b"");

    let world = Setup::new().start();
    let octets = "application/octet-stream";
    let form = Form::new().file("a", "x.txt", "text/plain", b"x").file("b", "", octets, b"");
    assert_eq!(world.post(&form).stored()["name"], "x.txt");
    only_object(&world, b"x");
    let form = Form::new().file("b", "", octets, b"").file("a", "x.txt", "text/plain", b"x");
    assert_eq!(world.post(&form).stored()["name"], "x.txt");
    world.post(&Form::new().file("a", "", octets, b"")).problem(400, "no_file");
    world.post(&Form::new().field("a", "b")).problem(400, "no_file");
    world.post(&Form::new()).problem(400, "no_file");
    assert_eq!(world.objects().len(), 2);
}

#[test]
fn several_files_in_one_form() {
    let world = Setup::new().start();
    let large = noise(5 << 20, 3);
    for fields in [["files[]", "files[]"], ["file[0]", "file[1]"]] {
        let form = Form::new().file(fields[0], "a.bin", "application/x-a", &large).file(
            fields[1],
            "b.bin",
            "application/x-b",
            &large[1..],
        );
        let response = world.post(&form);
        assert_eq!(response.status, 201, "{}", response.text());
        assert_eq!(response.header("location"), None);
        let files = response.json()["files"].clone();
        assert_eq!(files[0]["crc64"], crc64(&large));
        assert_eq!(files[1]["crc64"], crc64(&large[1..]));
        assert_eq!(response.json()["url"], files[0]["url"]);
    }
    // If both parts have the same plain name, both are stored, provided that the first fits the replay window.
    let form =
        Form::new().file("a", "a", "text/plain", b"one").file("b", "b", "text/plain", &large);
    let response = world.post(&form);
    assert_eq!(response.status, 201, "{}", response.text());
    assert_eq!(world.objects().len(), 6);
    let form =
        Form::new().file("a", "a", "text/plain", &large).file("b", "b", "text/plain", b"two");
    let world = Setup::new().set("upload.replay_window_max", "256KiB").start();
    world.post(&form).problem(400, "file_not_last");
    let response = world.post_to("/v1/files?multiple=1", &form);
    assert_eq!(response.status, 201, "{}", response.text());
    assert_eq!(world.objects().len(), 2);
}

#[test]
fn one_of_several_files_fails_and_the_others_are_named() {
    let world = Setup::new().start();
    world
        .faults(&json!([{"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied",
        "path": ".bad"}]));
    let form = Form::new()
        .file("files[]", "a.txt", "text/plain", b"one")
        .file("files[]", "b.bad", "text/plain", b"two")
        .file("files[]", "c.txt", "text/plain", b"three");
    let response = world.post(&form);
    assert_eq!(response.status, 502);
    let files = response.json()["files"].clone();
    assert_eq!(files[0]["size"], 3);
    assert_eq!(files[1]["error"]["code"], "cos_refused");
    assert_eq!(files[1]["error"]["cos_code"], "AccessDenied");
    assert_eq!(files[2]["size"], 5);
    assert_eq!(world.objects().len(), 2);
}

#[test]
fn fields_after_the_file() {
    let world = Setup::new().start();
    let small = || Form::new().file("file", "x.txt", "text/plain", b"small");
    let problem = world.post(&small().field("path", "a/b.txt")).problem(400, "field_after_file");
    assert!(problem["detail"].as_str().expect("a text").contains("before the file"));
    world.post(&small().field("dir", "a")).problem(400, "field_after_file");
    world.assert_nothing_stored();
    world.post(&small().field("type", "ajax")).stored();
    only_object(&world, b"small");

    let world = Setup::new().set("upload.replay_window_max", "256KiB").start();
    let large = Form::new().file("file", "x", "text/plain", &noise(5_000_000, 1));
    world.post(&large.field("type", "ajax")).problem(400, "file_not_last");
    let large = Form::new().file("file", "x", "text/plain", &noise(5_000_000, 1));
    world.post(&large.field("path", "a/b")).problem(400, "field_after_file");
    world.assert_nothing_stored();
}

#[test]
fn a_raw_body_goes_to_its_path() {
    let world = Setup::new().start();
    let bytes = noise(300_000, 2);
    let mut client = world.client();
    client.send_request("PUT", "/v1/files/raw/%E4%B8%AD%20x.png", &[authorization()], &bytes);
    let file = client.response().stored();
    assert_eq!(file["path"], "raw/中 x.png");
    assert_eq!(file["content_type"], "image/png");
    assert_eq!(file["url"], "http://gateway.test/v1/files/raw/%E4%B8%AD%20x.png");
    only_object(&world, &bytes);
    // The connection stays open.
    client.send_head(
        "PUT",
        "/v1/files/raw/%E4%B8%AD%20x.png",
        &[authorization(), ("transfer-encoding", "chunked"), ("content-type", "text/x-mine")],
    );
    client.send_chunk(&bytes[1..]);
    client.send(b"0\r\n\r\n");
    assert_eq!(client.response().stored()["content_type"], "text/x-mine");
    only_object(&world, &bytes[1..]);
}

#[test]
fn invalid_forms() {
    let world = Setup::new().start();
    let send = |kind: &str, extra: &[(&str, &str)], body: &[u8]| {
        let mut client = world.client();
        let headers = [&[authorization(), ("content-type", kind)], extra].concat();
        client.send_request("POST", "/v1/files", &headers, body);
        client.response()
    };
    let form = Form::new().file("file", "x", "text/plain", b"x");
    let kind = form.content_type();
    send("text/plain", &[], b"x").problem(415, "not_multipart");
    send("multipart/mixed; boundary=b", &[], b"x").problem(415, "not_multipart");
    send("multipart/form-data", &[], b"x").problem(400, "malformed_form");
    send(&kind, &[("content-encoding", "gzip")], &form.bytes())
        .problem(415, "encoding_not_supported");
    send(&kind, &[], b"no boundary here").problem(400, "malformed_form");
    for junk in ["junk", "\0", "\r\n--", "\r\njunk", "\r\n \r\njunk"] {
        let response = send(&kind, &[], &form.ending(junk));
        response.problem(400, "malformed_form");
    }
    world.assert_nothing_stored();
    send(&kind, &[], &form.ending("")).stored();
    send(&kind, &[], &form.ending("\r\n")).stored();
    send(&kind, &[("content-encoding", "identity")], &form.bytes()).stored();
    let preamble = [b"a preamble\r\n".as_slice(), &form.bytes()].concat();
    send(&kind, &[], &preamble).stored();
    let quoted = format!("multipart/form-data; boundary=\"{BOUNDARY}\"; charset=utf-8");
    send(&quoted, &[], &form.bytes()).stored();
}

#[test]
fn a_part_s_content_length_is_enforced_exactly() {
    let world = Setup::new().start();
    let part = |length: usize, content: &[u8]| {
        let head = format!(
            "Content-Disposition: form-data; name=\"f\"; filename=\"x\"\r\nContent-Length: {length}"
        );
        Form::new().part(head.as_bytes(), content)
    };
    let content = noise(400_000, 5);
    for declared in [0, 1, 399_999, 400_001, 900_000] {
        world.post(&part(declared, &content)).problem(400, "length_mismatch");
    }
    let nameless = "Content-Disposition: form-data; name=\"f\"; filename=\"\"\r\nContent-Length: 3";
    world.post(&Form::new().part(nameless.as_bytes(), b"four")).problem(400, "length_mismatch");
    world.assert_nothing_stored();
    // With a Content-Length on the part, a field may follow a file of any size.
    world.post(&part(content.len(), &content).field("type", "ajax")).stored();
    only_object(&world, &content);
}

#[test]
fn a_part_without_a_body_is_an_empty_file() {
    let world = Setup::new().start();
    for ending in ["--", "--\r\n"] {
        let body = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n--{BOUNDARY}{ending}"
        );
        let mut client = world.client();
        let kind = Form::new().content_type();
        let headers = [authorization(), ("content-type", kind.as_str())];
        client.send_request("POST", "/v1/files", &headers, body.as_bytes());
        assert_eq!(client.response().stored()["size"], 0);
    }
}

#[test]
fn limits_on_fields_heads_and_files() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").set("upload.max_files", 2).start();
    let file = |form: Form| form.file("file", "x", "text/plain", b"x");
    let fields = |count: usize| {
        (0..count).fold(Form::new(), |form, index| form.field(&format!("f{index}"), "v"))
    };
    world.post(&file(fields(32))).stored();
    world.post(&file(fields(33))).problem(413, "fields_too_large");
    world.post(&file(Form::new().field("f", &"v".repeat(65_000)))).stored();
    world.post(&file(Form::new().field("f", &"v".repeat(66_000)))).problem(413, "fields_too_large");
    let head = |length: usize| {
        let disposition = "Content-Disposition: form-data; name=\"f\"; filename=\"x\"\r\nX: ";
        [disposition.as_bytes(), &vec![b'x'; length]].concat()
    };
    world.post(&Form::new().part(&head(16_000), b"x")).stored();
    world.post(&Form::new().part(&head(17_000), b"x")).problem(413, "fields_too_large");

    let stored = world.objects().len();
    let exact = noise(1 << 20, 1);
    let over = noise((1 << 20) + 1, 1);
    world.post(&Form::new().file("f", "x", "text/plain", &over)).problem(413, "file_too_large");
    world.post(&Form::new().file("f[]", "x", "text/plain", &over)).problem(413, "file_too_large");
    let mut client = world.client();
    client.send_request("PUT", "/v1/files/x", &[authorization()], &over);
    client.response().problem(413, "file_too_large");
    let mut client = world.client();
    client.send_head("PUT", "/v1/files/x", &[authorization(), ("transfer-encoding", "chunked")]);
    client.send_chunk(&over);
    client.response().problem(413, "file_too_large");
    assert_eq!(world.objects().len(), stored);
    world.post(&Form::new().file("f", "x", "text/plain", &exact)).stored();
    world.post(&Form::new().file("f[]", "x", "text/plain", &exact)).stored();

    let three = (0..3).fold(Form::new(), |form, _| form.file("f[]", "x", "text/plain", b"x"));
    let response = world.post(&three);
    assert_eq!(response.status, 413);
    assert_eq!(response.json()["files"][2]["error"]["code"], "too_many_files");
    assert_eq!(response.json()["files"][1]["size"], 1);
}

#[test]
fn a_request_longer_than_all_files_may_be_is_refused_before_its_body() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").set("upload.max_files", 2).start();
    let mut client = world.client();
    let kind = Form::new().content_type();
    client.send_head(
        "POST",
        "/v1/files",
        &[authorization(), ("content-type", &kind), ("content-length", "4000000")],
    );
    client.response().problem(413, "file_too_large");
}

#[test]
fn invalid_paths() {
    let world = Setup::new().start();
    for path in
        ["/a", "a//b", "a/", "../a", "a/./b", "a\\b", "a$b", "${filename}", "a%2Fb", "a#b", ""]
    {
        let form = Form::new().field("path", path).file("file", "x", "text/plain", b"x");
        world.post(&form).problem(400, "invalid_path");
    }
    for path in ["..%2fa", "a%00b", "%ff", "a//b", "a%0Ab", ""] {
        let mut client = world.client();
        client.send_request("PUT", &format!("/v1/files/{path}"), &[authorization()], b"x");
        client.response().problem(400, "invalid_path");
    }
    let form = || Form::new().field("path", "a").file("file", "x", "text/plain", b"x");
    world.post_to("/v1/files?path=b", &form()).problem(400, "invalid_request");
    world.post_to("/v1/files?reply=nothing", &form()).problem(400, "invalid_request");
    world.assert_nothing_stored();
    world.post_to("/v1/files?path=a", &form()).stored();
    let form = Form::new().file("file", "x.txt", "text/plain", b"x");
    let file = world.post_to("/v1/files?dir=%E4%B8%AD/d", &form).stored();
    assert!(file["path"].as_str().expect("a path").contains("/中/d/"), "{file}");
}

#[test]
fn a_file_stored_again_replaces_the_old_one() {
    let world = Setup::new().start();
    let form =
        |content: &[u8]| Form::new().field("path", "a.txt").file("f", "a", "text/plain", content);
    let url = world.post(&form(b"one")).stored()["url"].as_str().expect("a URL").to_owned();
    assert_eq!(world.download(&url).0, b"one");
    world.post(&form(b"two")).stored();
    assert_eq!(world.download(&url).0, b"two");
}

#[test]
fn sixty_four_uploads_at_once() {
    let world = Setup::new().start();
    std::thread::scope(|scope| {
        for index in 0..64u64 {
            let world = &world;
            scope.spawn(move || {
                let bytes = noise(200_000 + index as usize, index);
                let file =
                    world.post(&Form::new().file("file", "x", "text/plain", &bytes)).stored();
                assert_eq!(file["crc64"], crc64(&bytes));
                assert_eq!(file["verified"], true);
            });
        }
    });
    assert_eq!(world.objects().len(), 64);
}

#[test]
fn the_connection_is_reused() {
    let world = Setup::new().start();
    let mut client: Client = world.client();
    let form = Form::new().file("file", "x", "text/plain", b"x");
    let kind = form.content_type();
    for _ in 0..20 {
        let headers = [authorization(), ("content-type", kind.as_str())];
        client.send_request("POST", "/v1/files", &headers, &form.bytes());
        client.response().stored();
    }
    assert_eq!(world.count("post_object"), 20);
    assert!(world.count("cos_connections") <= 2, "{}", world.state()["counts"]);
}
