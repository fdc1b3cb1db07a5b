//! Requests as real client libraries send them, with their deviations from the specifications.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Client, Form, Setup, World, authorization, crc64, noise};

const NAME: &str = "Content-Disposition: form-data; name=";

fn post(world: &World, headers: &[(&str, &str)], form: &Form) -> crate::harness::Response {
    let mut client = world.client();
    let kind = form.content_type();
    let headers = [headers, &[authorization(), ("content-type", &kind)]].concat();
    client.send_request("POST", "/v1/files", &headers, &form.bytes());
    client.response()
}

fn only_crc(world: &World) -> String {
    let objects = world.objects();
    assert_eq!(objects.len(), 1, "{objects:?}");
    objects[0]["crc64"].as_str().expect("a CRC").to_owned()
}

/// curl and PHP wait for `100 Continue` before they send a large body.
#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let world = Setup::new().start();
    let content = noise(3 << 20, 1);
    let form = Form::new().file("file", "x.bin", "text/plain", &content);
    let (kind, form) = (form.content_type(), form.bytes());

    for (method, target, kind, body) in [
        ("POST", "/v1/files", kind.as_str(), &form),
        ("PUT", "/v1/files/own.bin", "text/plain", &content),
    ] {
        let length = body.len().to_string();
        let headers = [("content-type", kind), ("content-length", &length)];
        let expecting = [&headers[..], &[("expect", "100-continue")]].concat();
        let mut client = world.client();
        client.send_head(method, target, &[&expecting[..], &[authorization()]].concat());
        assert_eq!(client.response_head().expect("a head"), (100, Vec::new()));
        client.send(body);
        assert_eq!(client.response().stored()["crc64"], crc64(&content));

        // An unauthenticated client gets its refusal before it sends the body.
        let mut client = world.client();
        client.send_head(method, target, &expecting);
        client.response().problem(401, "unauthenticated");
    }
    assert_eq!(world.objects().len(), 2);
}

/// The JDK's client offers an upgrade to h2c on every request.
#[test]
fn an_offer_to_upgrade_is_ignored() {
    let world = Setup::new().start();
    let offer = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    ];
    let content = noise(1 << 20, 2);
    let form = Form::new().file("file", "x.bin", "text/plain", &content);
    assert_eq!(post(&world, &offer, &form).stored()["crc64"], crc64(&content));
    assert_eq!(only_crc(&world), crc64(&content));
}

#[test]
fn http_1_0_is_served() {
    let world = Setup::new().start();
    let content = noise(100_000, 3);
    let (name, key) = authorization();
    let head = format!(
        "PUT /v1/files/old.bin HTTP/1.0\r\n{name}: {key}\r\ncontent-length: {}\r\n\r\n",
        content.len()
    );
    let mut client = world.client();
    client.send(head.as_bytes());
    client.send(&content);
    assert_eq!(client.response().stored()["crc64"], crc64(&content));
    assert_eq!(
        client.try_response().expect_err("it is closed").kind(),
        std::io::ErrorKind::UnexpectedEof
    );
    assert_eq!(only_crc(&world), crc64(&content));
}

/// OkHttp sends a Content-Length with each part, fields included, and orders a part's headers differently.
#[test]
fn parts_with_lengths_of_their_own() {
    let world = Setup::new().start();
    let content = noise(2 << 20, 4);
    let field = format!("{NAME}\"path\"\r\nContent-Transfer-Encoding: binary\r\nContent-Length: 9");
    let file = format!(
        "{NAME}\"file\"; filename=\"x.bin\"\r\nContent-Type: text/x-mine; charset=utf-8\r\n\
         Content-Length: {}",
        content.len()
    );
    let form = Form::new().part(field.as_bytes(), b"ok/http.x").part(file.as_bytes(), &content);
    let file = post(&world, &[], &form).stored();
    assert_eq!(file["path"], "ok/http.x");
    assert_eq!(file["content_type"], "text/x-mine; charset=utf-8");
    assert_eq!(only_crc(&world), crc64(&content));
}

/// FilePond sends its metadata as a field of the same name before the file.
#[test]
fn a_field_may_have_the_name_of_the_file() {
    let world = Setup::new().start();
    let form = Form::new().field("filepond", "{\"crop\":1}").file(
        "filepond",
        "x.txt",
        "text/plain",
        b"content",
    );
    assert_eq!(post(&world, &[], &form).stored()["name"], "x.txt");
    assert_eq!(only_crc(&world), crc64(b"content"));
}

/// A part `file` without a filename is a file if it has a content type. Text that a page appended by mistake in place
/// of a `File` has none.
#[test]
fn a_part_called_file_is_one_without_a_name_where_it_has_a_type() {
    let world = Setup::new().start();
    for text in ["undefined", "null", "[object FileList]", "C:\\fakepath\\photo.png", ""] {
        let form = Form::new().field("file", text);
        post(&world, &[], &form).problem(400, "no_file");
    }
    world.assert_nothing_stored();
    let head = format!("{NAME}\"file\"\r\nContent-Type: application/octet-stream");
    let form = Form::new().part(head.as_bytes(), b"content");
    let file = post(&world, &[], &form).stored();
    assert_eq!((file["name"].clone(), file["size"].clone()), (json!(""), json!(7)));
    assert_eq!(only_crc(&world), crc64(b"content"));
}

/// aiohttp percent-encodes the whole name. In a name that is only partly encoded, a `%41` is literal.
#[test]
fn names_that_were_encoded_by_their_client() {
    let world = Setup::new().start();
    for (sent, name) in [
        ("%E6%8A%A5%20%E5%91%8A.txt", "报 告.txt"),
        ("100%41 (报).txt", "100%41 (报).txt"),
        ("a%22b c.txt", "a\"b c.txt"),
        ("../../etc/x.txt", "x.txt"),
        ("..", ".."),
        ("a;b=c.txt", "a;b=c.txt"),
    ] {
        let form = Form::new().file("f", sent, "text/plain", b"x");
        let file = post(&world, &[], &form).stored();
        assert_eq!(file["name"], name, "{sent}");
        let path = file["path"].as_str().expect("a path");
        assert!(path.starts_with("uploads/20") && !path.contains(".."), "{path}");
    }
}

/// Header names are case-insensitive, in the request's head and in each part's.
#[test]
fn headers_in_any_case() {
    let world = Setup::new().start();
    let part = b"CONTENT-disposition: Form-Data; NAME=\"f\"; FileName=\"x.gif\"\r\ncontent-TYPE: image/gif";
    let form = Form::new().part(part, b"GIF89a");
    let kind = form.content_type().replace("multipart/form-data", "Multipart/Form-Data");
    let mut client = world.client();
    let headers = [("AUTHORIZATION", authorization().1), ("Content-TYPE", kind.as_str())];
    client.send_request("POST", "/v1/files", &headers, &form.bytes());
    let file = client.response().stored();
    assert_eq!(
        (file["name"].clone(), file["content_type"].clone()),
        (json!("x.gif"), json!("image/gif"))
    );
}

/// A content type must not be able to break out of its field in the form sent to COS.
#[test]
fn odd_types_do_no_harm() {
    let world = Setup::new().start();
    for kind in
        ["nonsense", "", "text/html; charset=\"a\\\"b\"", "a/b; c=\"\u{4e2d}\"", "*/*", "image/"]
    {
        let form = Form::new().file("f", "x.png", kind, b"content");
        let response = post(&world, &[], &form);
        assert!(matches!(response.status, 201 | 400), "{kind}: {}", response.text());
        if response.status == 201 {
            let kind = response.stored()["content_type"].as_str().expect("a type").to_owned();
            assert!(kind.contains('/') && kind.is_ascii(), "{kind}");
        }
    }
    for object in world.objects() {
        assert_eq!(object["size"], 7, "{object}");
        assert_eq!(object["fields"].as_array().map(Vec::len), Some(5), "{object}");
    }
}

/// After a refusal the gateway either closes the connection or reads the next request on it; it never takes the rest of
/// the refused body for a request.
#[test]
fn after_a_refusal_the_connection_is_usable_or_closed() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let small = Form::new().file("f", "x", "text/plain", b"small");
    let kind = small.content_type();
    let large = Form::new().file("f", "x", "text/plain", &noise(3 << 20, 5)).bytes();
    let junk = small.ending("junk");
    let later = Form::new().file("f", "x", "text/plain", b"x").field("path", "late").bytes();
    let with_key = [authorization(), ("content-type", kind.as_str())];
    let mut stored = 0;
    for (headers, body) in [
        (&with_key[..], &large),
        (&with_key, &junk),
        (&with_key, &later),
        (&with_key[1..], &large),
        (&with_key[1..], &junk),
    ] {
        let mut client: Client = world.client();
        client.send_request("POST", "/v1/files", headers, body);
        let refused = client.response();
        assert!((400..500).contains(&refused.status), "{}", refused.text());
        let (name, key) = authorization();
        let next = small.bytes();
        let head = format!(
            "POST /v1/files HTTP/1.1\r\nhost: gateway.test\r\n{name}: {key}\r\n\
             content-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            next.len()
        );
        let sent = client.try_send(head.as_bytes()).and_then(|()| client.try_send(&next));
        match sent.and_then(|()| client.try_response()) {
            Ok(response) => {
                response.stored();
                stored += 1;
            }
            Err(error) => assert_eq!(refused.header("connection"), Some("close"), "{error}"),
        }
        assert_eq!(world.objects().len(), stored);
    }
}

#[test]
fn curl_s_ways_to_send_a_file() {
    let world = Setup::new().start();
    let folder = tempfile::tempdir().expect("a folder");
    let content = noise(5 << 20, 6);
    let path = folder.path().join("中文 名.bin");
    std::fs::write(&path, &content).expect("a file");
    let path = path.display().to_string();
    let base = format!("http://{}/v1/files", world.gateway.address);
    let key = format!("authorization: {}", authorization().1);
    let form = format!("f=@{path};type=text/x-mine");
    let (raw, streamed) = (format!("{base}/raw.bin"), format!("{base}/streamed.bin"));
    for (arguments, name) in [
        (&["-F", &form, &base][..], "中文 名.bin"),
        (&["-H", "Transfer-Encoding: chunked", "-F", &form, &base], "中文 名.bin"),
        (&["-H", "Expect: 100-continue", "-F", &form, &base], "中文 名.bin"),
        (&["-F", "path=named/by field.bin", "-F", &form, &base], "中文 名.bin"),
        (&["-T", &path, &raw], "raw.bin"),
        (&["-T", "-", &streamed], "streamed.bin"),
        (&["-X", "PUT", "--data-binary", &format!("@{path}"), &raw], "raw.bin"),
    ] {
        let output = Command::new("curl")
            .args(["-sS", "-H", &key])
            .args(arguments)
            .stdin(Stdio::from(std::fs::File::open(&path).expect("the file")))
            .output()
            .expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let response: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let file = &response["files"][0];
        assert_eq!((&file["name"], &file["crc64"]), (&json!(name), &json!(crc64(&content))));
    }
    assert!(world.object("named/by field.bin") == content);
    assert!(world.object("raw.bin") == content);
    assert!(world.object("streamed.bin") == content);
}

/// curl options that would store something other than the file, and the refusal of each.
#[test]
fn curl_options_that_do_not_send_the_file_itself_are_refused() {
    let world = Setup::new().start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("photo.png");
    std::fs::write(&path, noise(3000, 12)).expect("a file");
    let path = path.display().to_string();
    let base = format!("http://{}/v1/files", world.gateway.address);
    let key = format!("authorization: {}", authorization().1);
    let (raw, file) = (format!("{base}/raw.png"), format!("file=@{path}"));
    let encoder = |name: &str| format!("{file};encoder={name}");
    let (base64, quoted) = (encoder("base64"), encoder("quoted-printable"));
    let text = format!("file=<{path}.txt");
    std::fs::write(format!("{path}.txt"), "undefined").expect("a file");
    let form = "content-type: multipart/form-data; boundary=b";
    for (arguments, status, words) in [
        (&["-C", "1000", "-T", &path, &raw][..], 400, "Content-Range"),
        (&["-C", "2999", "-T", &path, &raw], 400, "Content-Range"),
        (&["-H", "Content-Range: bytes 0-999/3000", "-F", &file, &base], 400, "Content-Range"),
        (&["-F", &base64, &base], 415, "Content-Transfer-Encoding"),
        (&["-F", &quoted, &base], 415, "Content-Transfer-Encoding"),
        (&["-F", "dir=reports", "-F", &base64, &base], 415, "Content-Transfer-Encoding"),
        // `<` sends the file's text as a field, where `@` was meant.
        (&["-F", &text, &base], 400, "filename"),
        (&["-F", "file=photo.png", &base], 400, "filename"),
        // A Content-Type given by hand replaces curl's own and lacks its boundary.
        (&["-X", "PUT", "-F", &file, &raw], 415, "POST"),
        (&["-H", form, "-T", &path, &raw], 415, "POST"),
        (&["-H", form, "-F", &file, &base], 400, "boundary"),
    ] {
        let output = Command::new("curl").args(["-sS", "-H", &key]).args(arguments).output();
        let output = output.expect("curl");
        let said = String::from_utf8_lossy(&output.stdout);
        let problem: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
        assert_eq!(problem["status"], status, "{arguments:?}: {problem}");
        let detail = problem["detail"].as_str().expect("a detail").to_lowercase();
        assert!(detail.contains(&words.to_lowercase()), "{arguments:?}: {detail}");
    }
    world.assert_nothing_stored();

    // The same file, sent as it is.
    for arguments in [
        &["-C", "0", "-T", &path, &raw][..],
        &["-F", &encoder("binary"), &base],
        &["-F", &encoder("8bit"), &base],
    ] {
        let output = Command::new("curl").args(["-sS", "-H", &key]).args(arguments).output();
        let response: Value =
            serde_json::from_slice(&output.expect("curl").stdout).expect("a response in JSON");
        assert_eq!(
            response["files"][0]["crc64"],
            crc64(&noise(3000, 12)),
            "{arguments:?}: {response}"
        );
    }
}

/// Forms of libraries and versions that tests/clients does not run, byte for byte. Each has the field `dir` and a file
/// named `报告.png`.
#[test]
fn forms_as_libraries_write_them() {
    const PART: &str = "Content-Disposition: form-data; name=";
    const WORD: &str = "=?utf-8?B?5oql5ZGKLnBuZw==?=";
    const STAR: &str = "filename*=utf-8''%E6%8A%A5%E5%91%8A.png";
    let binary = "Content-Transfer-Encoding: binary";
    let content = noise(70_000, 11);
    let length = format!("Content-Length: {}", content.len());
    let utf_8 = |name: &str| format!("{PART}\"dir\"{name}");
    for (client, field, file, epilogue) in [
        // An empty line after the last delimiter: version 2.0 (Debian), and 2.1 and later in some cases.
        (
            "Ruby multipart-post",
            utf_8(""),
            format!(
                "{PART}\"file\"; filename=\"报告.png\"\r\n{length}\r\nContent-Type: image/png\r\n{binary}"
            ),
            "\r\n\r\n",
        ),
        (
            "form-data-encoder, of got",
            utf_8(""),
            format!("{PART}\"file\"; filename=\"报告.png\"\r\nContent-Type: image/png"),
            "\r\n\r\n",
        ),
        // `@Part("dir") RequestBody` and `@Part MultipartBody.Part`, each with the type of the whole form.
        (
            "Retrofit",
            utf_8(&format!(
                "\r\n{binary}\r\nContent-Type: multipart/form-data; charset=utf-8\r\nContent-Length: 7"
            )),
            format!(
                "{PART}\"file\"; filename=\"报告.png\"\r\nContent-Type: multipart/form-data\r\n{length}"
            ),
            "\r\n",
        ),
        // The form of Retrofit's own manual, with the wildcard type of many tutorials.
        (
            "Retrofit, */*",
            utf_8(&format!(
                "\r\n{binary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 7"
            )),
            format!(
                "{PART}\"file\"; filename=\"报告.png\"\r\n{binary}\r\nContent-Type: */*\r\n{length}"
            ),
            "\r\n",
        ),
        // `MultipartFormDataContent.Add(content, name, fileName)`: names without quotes, and the file name twice.
        (
            ".NET HttpClient",
            format!("Content-Type: text/plain; charset=utf-8\r\n{PART}dir"),
            format!("Content-Type: image/png\r\n{PART}file; filename=\"{WORD}\"; {STAR}"),
            "\r\n",
        ),
        // RestSharp, and .NET code that sets `FileName` alone.
        (
            ".NET, FileName alone",
            format!("{PART}\"dir\""),
            format!(
                "{PART}\"file\"; filename=\"{WORD}\"\r\nContent-Type: application/octet-stream"
            ),
            "\r\n",
        ),
        // `MultipartEntityBuilder` in its strict and its extended mode.
        (
            "Apache HttpClient",
            utf_8(
                "\r\nContent-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit",
            ),
            format!("{PART}\"file\"; filename=\"报告.png\"\r\nContent-Type: image/png\r\n{binary}"),
            "\r\n",
        ),
        // `FormHttpMessageConverter` with a multipart charset.
        (
            "Spring RestTemplate",
            utf_8("\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: 7"),
            format!(
                "{PART}\"file\"; filename=\"=?UTF-8?Q?=E6=8A=A5=E5=91=8A.png?=\"; filename*=UTF-8''%E6%8A%A5%E5%91%8A.png\r\n\
                 Content-Type: image/png\r\n{length}"
            ),
            "\r\n",
        ),
        // Folded header lines, as mail libraries write them.
        (
            "Python email",
            format!(
                "Content-Type: text/plain; charset=\"us-ascii\"\r\nMIME-Version: 1.0\r\n{binary}\r\n{PART}\"dir\""
            ),
            format!(
                "Content-Type: image/png\r\nMIME-Version: 1.0\r\n{binary}\r\nContent-Disposition: form-data; name=\"file\";\r\n {STAR}"
            ),
            "\r\n",
        ),
    ] {
        let world = Setup::new().set("upload.path_template", "{dir}/{uuid}{ext}").start();
        let form = Form::new().part(field.as_bytes(), b"reports").part(file.as_bytes(), &content);
        let mut sender = world.client();
        let kind = form.content_type();
        let headers = [authorization(), ("content-type", kind.as_str())];
        sender.send_request("POST", "/v1/files", &headers, &form.ending(epilogue));
        let response = sender.response();
        assert_eq!(response.status, 201, "{client}: {}", response.text());
        let stored = response.stored();
        assert_eq!(stored["name"], "报告.png", "{client}");
        assert_eq!(stored["content_type"], "image/png", "{client}");
        let path = stored["path"].as_str().expect("a path");
        assert!(path.starts_with("reports/") && path.ends_with(".png"), "{client}: {path}");
        assert_eq!(only_crc(&world), crc64(&content), "{client}");
    }
}

#[test]
fn raw_bodies_of_every_kind() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let put = |headers: &[(&str, &str)], target: &str, body: &[u8]| {
        let mut client = world.client();
        client.send_request("PUT", target, &[&[authorization()], headers].concat(), body);
        client.response()
    };
    assert_eq!(put(&[], "/v1/files/empty.txt", b"").stored()["size"], 0);
    assert_eq!(world.object("empty.txt"), b"");
    let mut client = world.client();
    let chunked = [authorization(), ("transfer-encoding", "chunked")];
    client.send_head("PUT", "/v1/files/empty-too.txt", &chunked);
    client.send(b"0\r\n\r\n");
    assert_eq!(client.response().stored()["size"], 0);

    // A form belongs in a POST: stored as a raw body, the object would contain the form's delimiters and headers.
    let form = Form::new().file("f", "x", "text/plain", b"x");
    let refused = put(&[("content-type", &form.content_type())], "/v1/files/form", &form.bytes());
    assert_eq!(refused.status, 415, "{}", refused.text());
    assert!(refused.json()["detail"].as_str().is_some_and(|detail| detail.contains("POST")));

    let before = world.objects().len();
    let gzip = put(&[("content-encoding", "gzip")], "/v1/files/packed", b"x");
    gzip.problem(415, "encoding_not_supported");
    put(&[], &format!("/v1/files/{}", "a".repeat(851)), b"x").problem(400, "invalid_path");
    // Refused by its length alone, before a byte of the body is sent.
    let mut client = world.client();
    let length = [authorization(), ("content-length", "1048577")];
    client.send_head("PUT", "/v1/files/large", &length);
    client.response().problem(413, "file_too_large");
    assert_eq!(world.objects().len(), before);
    put(&[], "/v1/files/full", &noise(1 << 20, 7)).stored();
    put(&[], &format!("/v1/files/{}", "a".repeat(850)), b"x").stored();
}

/// A raw body cut short, with a length and chunked, by a half-close and by a reset.
#[test]
fn a_raw_body_that_ends_early_is_never_stored() {
    let world = Setup::new().start();
    let content = noise(600_000, 8);
    let length = content.len().to_string();
    for sent in [0, 1, 1000, 262_144, 262_145, 500_000, content.len() - 1] {
        for reset in [false, true] {
            for chunked in [false, true] {
                let mut client = world.client();
                let size = if chunked {
                    ("transfer-encoding", "chunked")
                } else {
                    ("content-length", length.as_str())
                };
                client.send_head("PUT", "/v1/files/cut.bin", &[authorization(), size]);
                match (chunked, sent) {
                    (false, _) => client.send(&content[..sent]),
                    (true, 0) => {}
                    (true, _) => client.send_chunk(&content[..sent]),
                }
                if reset {
                    client.reset();
                } else {
                    client.finish();
                    if let Ok(response) = client.try_response() {
                        response.problem(400, "truncated_body");
                    }
                }
            }
        }
    }
    world.assert_nothing_stored();
    let mut client = world.client();
    client.send_request("PUT", "/v1/files/cut.bin", &[authorization()], &content);
    client.response().stored();
    assert_eq!(only_crc(&world), crc64(&content));
}

/// Every kind of boundary that RFC 2046 allows, quoted or not.
#[test]
fn boundaries_of_every_kind() {
    let world = Setup::new().start();
    let content = "\r\n--\r\n-- -- \r";
    let longest = "b".repeat(70);
    for (boundary, parameter) in [
        ("b", "b"),
        ("-", "-"),
        ("----WebKitFormBoundaryabcDEF0123456789", "----WebKitFormBoundaryabcDEF0123456789"),
        ("a'()+_,-./:=?z", "\"a'()+_,-./:=?z\""),
        ("with a space", "\"with a space\""),
        (&longest, &longest),
    ] {
        let body = format!(
            "--{boundary}\r\n{NAME}\"f\"; filename=\"x.txt\"\r\n\r\n{content}\r\n--{boundary}--\r\n"
        );
        let kind = format!("multipart/form-data; boundary={parameter}");
        let mut client = world.client();
        let headers = [authorization(), ("content-type", kind.as_str())];
        client.send_request("POST", "/v1/files", &headers, body.as_bytes());
        assert_eq!(client.response().stored()["crc64"], crc64(content.as_bytes()), "{boundary}");
    }
    for parameter in ["", "\"\"", &"b".repeat(71), "b\r\n x: y"] {
        let kind = format!("multipart/form-data; boundary={parameter}");
        let mut client = world.client();
        let headers = [authorization(), ("content-type", kind.as_str())];
        client.send_request("POST", "/v1/files", &headers, b"--b--");
        let response = client.response();
        assert!(matches!(response.status, 400 | 415), "{parameter}: {}", response.text());
    }
    assert_eq!(world.objects().len(), 6);
}

/// Two lengths in one request are the means of request smuggling past proxies.
#[test]
fn a_request_with_two_lengths_is_refused() {
    let world = Setup::new().start();
    let form = Form::new().field("path", "x").file("f", "x", "text/plain", b"content");
    let (kind, body) = (form.content_type(), form.bytes());
    let (right, short) = (body.len().to_string(), (body.len() - 9).to_string());
    let chunked = ("transfer-encoding", "chunked");
    for lengths in [
        [("content-length", right.as_str()), chunked],
        [("content-length", &short), chunked],
        [chunked, ("content-length", "0")],
        [("content-length", &right), ("content-length", &short)],
        [("transfer-encoding", "identity"), ("content-length", &short)],
    ] {
        for (method, target) in [("POST", "/v1/files"), ("PUT", "/v1/files/x")] {
            let mut client = world.client();
            let headers = [&[authorization(), ("content-type", &kind)], &lengths[..]].concat();
            client.send_head(method, target, &headers);
            assert_eq!(client.response_head().expect("a response").0, 400, "{lengths:?}");
        }
    }
    world.assert_nothing_stored();
}

#[test]
fn fields_are_counted_together() {
    let world = Setup::new().start();
    let with = |count: usize, length: usize| {
        let value = "v".repeat(length);
        let fields = (0..count).fold(Form::new(), |form, _| form.field("f", &value));
        post(&world, &[], &fields.file("file", "x", "text/plain", b"x"))
    };
    with(30, 2000).stored();
    with(32, 2100).problem(413, "fields_too_large");
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn a_large_file_is_downloaded_unchanged() {
    let world = Setup::new().start();
    let content = noise(80 << 20, 9);
    let form = Form::new().file("file", "x.mp4", "video/mp4", &content);
    let file = post(&world, &[], &form).stored();
    assert_eq!(file["crc64"], crc64(&content));
    let (bytes, kind) = world.download(file["url"].as_str().expect("a URL"));
    assert!(bytes == content);
    assert_eq!(kind, "video/mp4");
}

/// A client may shut down its sending side once the request is sent, before the response.
#[test]
fn a_client_that_half_closes_gets_a_response() {
    let world = Setup::new().start();
    world.faults(&json!([{"stage": "cos", "fault": "delay", "ms": 300}]));
    for size in [1, 300_000, 5 << 20] {
        let content = noise(size, 10);
        for way in ["form", "raw", "chunked"] {
            let mut client = world.client();
            let form = Form::new().file("f", "x", "text/plain", &content);
            let kind = form.content_type();
            match way {
                "form" => {
                    let headers = [authorization(), ("content-type", kind.as_str())];
                    client.send_request("POST", "/v1/files", &headers, &form.bytes());
                }
                "raw" => client.send_request("PUT", "/v1/files/x", &[authorization()], &content),
                _ => {
                    let headers = [authorization(), ("transfer-encoding", "chunked")];
                    client.send_head("PUT", "/v1/files/x", &headers);
                    client.send_chunk(&content);
                    client.send(b"0\r\n\r\n");
                }
            }
            client.finish();
            assert_eq!(client.response().stored()["crc64"], crc64(&content), "{way}, {size} bytes");
        }
    }
}

/// From one client alone, and from 32 at once, when the worker reads each request late.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let world = Setup::new().set("server.workers", 1).start();
    let (name, key) = authorization();
    let put = |path: &str, content: &[u8]| {
        let head = format!(
            "PUT /v1/files/{path} HTTP/1.1\r\nhost: gateway.test\r\n{name}: {key}\r\n\
             content-length: {}\r\n\r\n",
            content.len()
        );
        [head.as_bytes(), content].concat()
    };
    let contents: Vec<_> = [0, 1, 70_000, 5, 1 << 20, 0, 65_000, 65_000, 300_000, 7]
        .iter()
        .enumerate()
        .map(|(index, size)| noise(*size, 20 + index as u64))
        .collect();
    let send_all = |client_number: usize| {
        let mut all = Vec::new();
        for (index, content) in contents.iter().enumerate() {
            all.extend(put(&format!("{client_number}-{index}"), content));
        }
        let mut client = world.client();
        let mut sender = client.sender();
        std::thread::scope(|scope| {
            scope.spawn(|| std::io::Write::write_all(&mut sender, &all).expect("it takes them"));
            for (index, content) in contents.iter().enumerate() {
                let file = client.response().stored();
                assert_eq!(file["path"], format!("{client_number}-{index}"));
                assert_eq!(file["crc64"], crc64(content), "{client_number}-{index}");
            }
        });
    };
    send_all(0);
    std::thread::scope(|scope| {
        (1..=32).for_each(|client_number| drop(scope.spawn(move || send_all(client_number))))
    });
    assert_eq!(world.objects().len(), 33 * contents.len());
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let world = Setup::new().start();
    let form = Form::new().field("path", "bytes").file("f", "x", "text/plain", b"\r\n--content");
    let (name, key) = authorization();
    let body = form.bytes();
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: gateway.test\r\n{name}: {key}\r\ncontent-type: {}\r\n\
         content-length: {}\r\n\r\n",
        form.content_type(),
        body.len()
    );
    let mut client = world.client();
    for _ in 0..3 {
        for byte in [head.as_bytes(), &body].concat() {
            client.send(&[byte]);
        }
        assert_eq!(client.response().stored()["path"], "bytes");
    }
    assert_eq!(only_crc(&world), crc64(b"\r\n--content"));
}
