//! Forms as real clients write them, and the reasons given when a form is refused.
//!
//! | deviation, by kind | tests |
//! |---|---|
//! | 1 a first part lost in silence | [`a_form_may_begin_with_white_space`] [`a_preamble_is_skipped`] [`a_misplaced_boundary_is_refused`] [`no_part_is_read_as_content_of_the_one_before`] [`white_space_after_a_boundary_is_accepted`] |
//! | 2 transfer encodings | [`a_file_in_a_transfer_encoding_is_refused`] [`curl_s_encoders_and_lists_of_files`] [`an_identity_transfer_encoding_is_accepted`] [`a_field_in_a_transfer_encoding_is_decoded`] |
//! | 3 text taken for a file | [`text_in_place_of_a_file_is_refused`] [`a_part_file_with_a_type_is_a_file`] |
//! | 4 a piece of a file | [`a_chunk_of_a_file_is_refused`] [`a_file_in_one_chunk_is_stored`] [`a_content_range_is_refused`] |
//! | 6 part heads | [`a_part_s_multipart_type_is_ignored`] [`folded_lines_are_unfolded`] [`an_invalid_part_head_is_named`] |
//! | 7 the request's Content-Type | [`boundaries_as_senders_write_them`] [`a_content_type_without_a_usable_boundary`] [`several_content_types`] |
//! | 8 epilogue | [`white_space_may_follow_the_form`] [`white_space_is_accepted_after_a_large_file`] [`anything_else_after_the_form_is_refused`] |
//! | 9 file names | [`names_that_mail_libraries_encode`] [`any_extended_name_makes_a_file`] [`names_contain_no_invisible_characters`] [`field_names_are_decoded`] |
//! | 12 a boundary that is never found | [`a_boundary_that_does_not_occur`] [`an_empty_body_is_refused_as_empty`] |
//! | 13 texts | [`lf_line_ends_are_explained`] [`a_missing_file_name_is_explained`] [`escaped_line_breaks_are_explained`] [`a_form_that_is_not_closed`] |
//! | B 3 parts without a name | [`parts_without_a_name_are_refused_early`] |

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{BOUNDARY, Client, Form, Response, Setup, World, authorization, crc64, noise};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and \r\n--not-a-boundary \n\n more";
const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"photo.png\"\r\nContent-Type: image/png";

/// Posts `body` unchanged.
fn send(world: &World, kind: &str, body: &[u8]) -> Response {
    let mut client = world.client();
    client.send_request("POST", "/v1/files", &[authorization(), ("content-type", kind)], body);
    client.response()
}

/// The same without a length, in chunks of `size` bytes.
fn send_chunked(world: &World, kind: &str, body: &[u8], size: usize) -> Response {
    let mut client = world.client();
    let headers = [authorization(), ("content-type", kind), ("transfer-encoding", "chunked")];
    client.send_head("POST", "/v1/files", &headers);
    body.chunks(size).for_each(|piece| client.send_chunk(piece));
    client.send(b"0\r\n\r\n");
    client.response()
}

/// Posts `body` with the boundary `b`.
fn send_b(world: &World, body: &[u8]) -> Response {
    send(world, "multipart/form-data; boundary=b", body)
}

/// A form with the boundary `b`: `lead`, then the parts (each a head and a content), then the closing delimiter.
fn form_b(lead: &str, parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = lead.as_bytes().to_vec();
    for (head, content) in parts {
        for piece in [b"--b\r\n", head.as_bytes(), b"\r\n\r\n", content, b"\r\n"] {
            body.extend_from_slice(piece);
        }
    }
    body.extend_from_slice(b"--b--\r\n");
    body
}

fn field(name: &str) -> String {
    format!("Content-Disposition: form-data; name=\"{name}\"")
}

/// Asserts that the file was stored unchanged in the folder `album`.
fn assert_in_album(world: &World, response: &Response, what: &str) {
    assert_eq!(response.status, 201, "{what}: {}", response.text());
    let file = response.stored();
    assert_eq!(
        (&file["crc64"], &file["name"]),
        (&crc64(PNG).into(), &"photo.png".into()),
        "{what}"
    );
    let path = file["path"].as_str().expect("a path");
    assert!(path.contains("/album/"), "{what}: {path}");
    assert!(world.object(path) == PNG, "{what}");
}

/// Asserts a refusal whose `detail` contains all of `words`.
fn assert_refused(
    response: &Response,
    status: u16,
    code: &str,
    words: &[&str],
    what: &str,
) -> Value {
    assert_eq!(response.status, status, "{what}: {}", response.text());
    let problem = response.problem(status, code);
    let detail = problem["detail"].as_str().expect("a text");
    for word in words {
        assert!(detail.contains(word), "{what}: no `{word}` in: {detail}");
    }
    problem
}

/// A form whose first part is `dir`.
fn album() -> Vec<(String, Vec<u8>)> {
    vec![(field("dir"), b"album".to_vec()), (FILE.to_owned(), PNG.to_vec())]
}

fn album_b(lead: &str) -> Vec<u8> {
    let parts = album();
    let parts: Vec<_> = parts.iter().map(|(head, content)| (head.as_str(), &content[..])).collect();
    form_b(lead, &parts)
}

// 1 A first part that would be lost silently.

#[test]
fn a_form_may_begin_with_white_space() {
    let world = Setup::new().start();
    let leads = [
        "",
        "\n",
        "\r",
        "\r\n",
        "\r\n\r\n",
        "\n\n\n",
        " ",
        "\t \t",
        "\u{feff}",
        "\u{feff}\r\n",
        "\r\n\u{feff}",
        " \r\n\t\n\u{feff} \r",
    ];
    for lead in leads {
        let body = album_b(lead);
        assert_in_album(&world, &send_b(&world, &body), &format!("behind {lead:?}"));
        for size in [1, 2, 3, 7] {
            let response = send_chunked(&world, "multipart/form-data; boundary=b", &body, size);
            assert_in_album(&world, &response, &format!("behind {lead:?}, in pieces of {size}"));
        }
    }
    // Large enough that its length is assumed.
    let large = noise(700_000, 1);
    for lead in leads {
        let body = form_b(lead, &[(&field("dir"), b"album"), (FILE, &large)]);
        assert_eq!(send_b(&world, &body).stored()["crc64"], crc64(&large), "behind {lead:?}");
    }
}

#[test]
fn a_preamble_is_skipped() {
    let world = Setup::new().start();
    for lead in [
        "a text\r\n",
        "This is a message in MIME format.\r\n\r\n",
        "-\r\n",
        "\u{feff}text\r\nmore\r\n",
    ] {
        assert_in_album(&world, &send_b(&world, &album_b(lead)), lead);
    }
    let most = format!("{}\r\n", "a ".repeat(8_000));
    assert_in_album(&world, &send_b(&world, &album_b(&most)), "16,000 bytes of it");
}

#[test]
fn a_misplaced_boundary_is_refused() {
    let world = Setup::new().start();
    for (lead, words) in [
        ("text\n", &["LF"][..]),
        ("text\r\nmore\n", &["LF"]),
        ("text", &["after other text"]),
        ("text ", &["after other text"]),
        ("text\r\n ", &["after other text"]),
        ("text\r", &["after other text"]),
        ("\0", &["after other text"]),
        ("\r\n-", &["after other text"]),
        // A part with another boundary than the header's.
        (
            "b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\nx\r\n",
            &["part stands before"],
        ),
        (
            "--B\r\ncontent-disposition: form-data; name=\"path\"\r\n\r\nx\r\n",
            &["part stands before"],
        ),
        (
            "-b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\nx\r\n",
            &["part stands before"],
        ),
    ] {
        let response = send_b(&world, &album_b(lead));
        assert_refused(&response, 400, "malformed_form", words, &format!("behind {lead:?}"));
    }
    world.assert_nothing_stored();
}

#[test]
fn no_part_is_read_as_content_of_the_one_before() {
    let world = Setup::new().start();
    let (dir, note) = (field("dir"), field("note"));
    for (first, glue) in [(&note, "\n"), (&note, ""), (&note, "\r"), (&note, " "), (&dir, "\n")] {
        let head = format!("--b\r\n{first}\r\n\r\nvalue{glue}");
        let rest = album_b("");
        let body = [head.as_bytes(), &rest].concat();
        let cause = if glue == "\n" { "LF" } else { "after other text" };
        let response = send_b(&world, &body);
        assert_refused(&response, 400, "malformed_form", &[cause], &format!("glued by {glue:?}"));
    }
    // After a file, where the preceding bytes could belong to the file.
    let file = form_b("", &[(FILE, PNG)]);
    let file = &file[..file.len() - "\r\n--b--\r\n".len()];
    for (glue, cause) in [("\n", "LF"), ("", "after other text")] {
        for name in ["dir", "note"] {
            let rest = form_b("", &[(&field(name), b"album")]);
            let body = [file, glue.as_bytes(), &rest].concat();
            let what = format!("{name} glued by {glue:?}");
            assert_refused(&send_b(&world, &body), 400, "malformed_form", &[cause], &what);
        }
    }
    // A second file, of any size.
    for size in [1, 3_000, 300_000] {
        let (one, two) = (noise(size, 1), noise(size, 2));
        let first = form_b("", &[(FILE, &one)]);
        let first = &first[..first.len() - "\r\n--b--\r\n".len()];
        for (glue, cause) in [("\n", "LF"), ("", "after other text")] {
            let body = [first, glue.as_bytes(), &form_b("", &[(FILE, &two)])].concat();
            let what = format!("two files of {size} glued by {glue:?}");
            assert_refused(&send_b(&world, &body), 400, "malformed_form", &[cause], &what);
            let response = send_chunked(&world, "multipart/form-data; boundary=b", &body, 777);
            assert_refused(&response, 400, "malformed_form", &[cause], &what);
        }
    }
    // A part head that ends in LF LF does not end before the next part.
    let body = format!("--b\r\n{note}\n\nvalue\r\n{}", String::from_utf8_lossy(&album_b("")));
    assert_refused(&send_b(&world, body.as_bytes()), 400, "malformed_form", &["LF"], "LF LF");
    let body = format!("--b\r\n{note}\r\n{}", String::from_utf8_lossy(&album_b("")));
    let words = ["part 1", "boundary stands within its headers"];
    assert_refused(
        &send_b(&world, body.as_bytes()),
        400,
        "malformed_form",
        &words,
        "no blank line",
    );
    world.assert_nothing_stored();
}

#[test]
fn white_space_after_a_boundary_is_accepted() {
    let world = Setup::new().start();
    for padding in [" ", "\t", "   \t  ", &" ".repeat(200)] {
        let delimiter = format!("--b{padding}\r\n");
        let start =
            format!("{delimiter}{}\r\n\r\nalbum\r\n{delimiter}{FILE}\r\n\r\n", field("dir"));
        let body = [start.as_bytes(), PNG, b"\r\n--b--", padding.as_bytes(), b"\r\n"].concat();
        assert_in_album(&world, &send_b(&world, &body), &format!("{padding:?}"));
    }
    for padding in [" x", "x", "\u{b}", &" ".repeat(300)] {
        let body = format!("--b{padding}\r\n{FILE}\r\n\r\nx\r\n--b--\r\n");
        let response = send_b(&world, body.as_bytes());
        assert_refused(&response, 400, "malformed_form", &["boundary is followed by"], padding);
    }
}

// 2 Transfer encodings.

#[test]
fn a_file_in_a_transfer_encoding_is_refused() {
    let world = Setup::new().start();
    for (line, name) in [
        ("Content-Transfer-Encoding: base64", "base64"),
        ("content-transfer-encoding:BASE64", "base64"),
        ("Content-Transfer-Encoding: quoted-printable", "quoted-printable"),
        ("Content-Transfer-Encoding: x-uuencode", "x-uuencode"),
        ("Content-Transfer-Encoding:\r\n base64", "base64"),
        ("Content-Transfer-Encoding: \"base64\"", "base64"),
    ] {
        let form = Form::new().part(format!("{FILE}\r\n{line}").as_bytes(), b"aGVsbG8=");
        let words = ["Content-Transfer-Encoding", name, "part 1"];
        assert_refused(&world.post(&form), 415, "encoding_not_supported", &words, line);
    }
    let form =
        Form::new().part(format!("{FILE}\r\nContent-Encoding: gzip").as_bytes(), b"\x1f\x8b");
    let words = ["Content-Encoding", "gzip"];
    assert_refused(&world.post(&form), 415, "encoding_not_supported", &words, "gzip");
    // Also in a second file; the first one is stored.
    let form = Form::new().file("f[]", "a.txt", "text/plain", b"a");
    let head = "Content-Disposition: form-data; name=\"f[]\"; filename=\"b\"\r\nContent-Transfer-Encoding: base64";
    let response = world.post(&form.part(head.as_bytes(), b"Yg=="));
    assert_ne!(response.status, 201, "{}", response.text());
    world.assert_nothing_stored();
}

/// The same from curl itself.
#[test]
fn curl_s_encoders_and_lists_of_files() {
    let world = Setup::new().start();
    let (photo, text) = (world.folder().join("photo.png"), world.folder().join("a.txt"));
    std::fs::write(&photo, PNG).expect("a file");
    std::fs::write(&text, "text").expect("a file");
    let (photo, text) = (photo.display().to_string(), text.display().to_string());
    let curl = |forms: &[&str]| {
        let (name, value) = authorization();
        let mut command = Command::new("curl");
        command.args(["-sS", "-H", &format!("{name}: {value}")]);
        for form in forms {
            command.args(["-F", form]);
        }
        let output = command.arg(format!("http://{}/v1/files", world.gateway.address)).output();
        let output = output.expect("curl").stdout;
        serde_json::from_slice::<Value>(&output).expect("JSON")
    };
    for encoder in ["base64", "quoted-printable"] {
        let problem = curl(&[&format!("file=@{photo};encoder={encoder}")]);
        assert_eq!(problem["code"], "encoding_not_supported", "{problem}");
        assert!(problem["detail"].as_str().expect("a text").contains(encoder), "{problem}");
    }
    let problem = curl(&[&format!("files=@{photo},{text}")]);
    assert_eq!(problem["code"], "malformed_form", "{problem}");
    assert!(problem["detail"].as_str().expect("a text").contains("multipart/mixed"), "{problem}");
    world.assert_nothing_stored();
    for encoder in ["binary", "8bit"] {
        let file = curl(&[&format!("file=@{photo};encoder={encoder}")]);
        assert_eq!(file["files"][0]["crc64"], crc64(PNG), "{file}");
    }
    let dir = "dir=album;type=text/plain;encoder=base64";
    let file = curl(&[dir, &format!("file=@{photo}")]);
    assert!(file["files"][0]["path"].as_str().expect("a path").contains("/album/"), "{file}");
}

#[test]
fn an_identity_transfer_encoding_is_accepted() {
    let world = Setup::new().start();
    for value in [
        "binary",
        "8bit",
        "7bit",
        "BINARY",
        " 8Bit ",
        "",
        "\"binary\"",
        "8-bit",
        "identity",
        "UTF-8",
    ] {
        let head = format!("{FILE}\r\nContent-Transfer-Encoding: {value}");
        let file = world.post(&Form::new().part(head.as_bytes(), PNG)).stored();
        assert_eq!(file["crc64"], crc64(PNG), "{value}");
    }
    let head = format!("{FILE}\r\nContent-Encoding: utf-8");
    world.post(&Form::new().part(head.as_bytes(), PNG)).stored();
}

#[test]
fn a_field_in_a_transfer_encoding_is_decoded() {
    let world = Setup::new().start();
    let form = |encoding: &str, value: &str| {
        let kind = "Content-Type: text/plain; charset=utf-8";
        let head = format!("{}\r\n{kind}\r\nContent-Transfer-Encoding: {encoding}", field("dir"));
        Form::new().part(head.as_bytes(), value.as_bytes()).part(FILE.as_bytes(), PNG)
    };
    for (encoding, value) in [
        ("base64", "YWxidW0="),
        ("BASE64", "YWxi\r\ndW0=\r\n"),
        ("quoted-printable", "al=62um"),
        ("Quoted-Printable", "alb=\r\num"),
        ("8bit", "album"),
        ("Binary", "album"),
    ] {
        assert_in_album(&world, &world.post(&form(encoding, value)), encoding);
    }
    let chinese = world.post(&form("quoted-printable", "=E4=B8=AD=E6=96=87")).stored();
    assert!(chinese["path"].as_str().expect("a path").contains("/中文/"), "{chinese}");
    let stored = world.objects().len();
    for (encoding, value) in [("base64", "!!"), ("base64", "YWxi="), ("quoted-printable", "=G1")] {
        let response = world.post(&form(encoding, value));
        assert_refused(
            &response,
            400,
            "malformed_form",
            &["dir", "Content-Transfer-Encoding"],
            value,
        );
    }
    assert_eq!(world.objects().len(), stored);
}

// 3 Text in place of a file.

#[test]
fn text_in_place_of_a_file_is_refused() {
    let world = Setup::new().start();
    for (name, value) in [
        ("file", "undefined"),
        ("file", "null"),
        ("file", "[object Object]"),
        ("file", ""),
        ("file", "C:\\fakepath\\photo.png"),
        ("photo", "undefined"),
        ("upload", "data:image/png;base64,AAAA"),
        ("avatar", "secret-of-the-user"),
    ] {
        let form = Form::new().field("dir", "album").field("user", "5").field(name, value);
        let blamed = if name == "avatar" { "user" } else { name };
        let words = [blamed, "no filename", "appended text", "File"];
        let problem = assert_refused(&world.post(&form), 400, "no_file", &words, value);
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }
    // An empty file input gets another message.
    let form = Form::new().field("user", "5").file("f", "", "application/octet-stream", b"");
    let problem =
        assert_refused(&world.post(&form), 400, "no_file", &["empty file input"], "empty");
    assert!(!problem.to_string().contains("appended text"), "{problem}");
    world.assert_nothing_stored();
    // If the form also has a file, the text is a field.
    let form = Form::new().field("file", "undefined").file("photo", "a.txt", "text/plain", b"a");
    assert_eq!(world.post(&form).stored()["name"], "a.txt");
    assert_eq!(world.objects().len(), 1);
}

#[test]
fn a_part_file_with_a_type_is_a_file() {
    let world = Setup::new().start();
    for kind in ["image/png", "application/octet-stream", "text/plain", "multipart/form-data"] {
        let head = format!("{}\r\nContent-Type: {kind}", field("file"));
        let file = world.post(&Form::new().part(head.as_bytes(), PNG)).stored();
        assert_eq!((&file["crc64"], &file["name"]), (&crc64(PNG).into(), &"".into()), "{kind}");
    }
}

// 4 A chunk of a file.

/// The fields that chunking clients send: for one chunk of several, and for a file in one chunk.
const CHUNKING: [(&str, &str, &str, &str); 6] = [
    ("Dropzone", "dzchunkindex", "dztotalchunkcount", "chunking: false"),
    ("plupload", "chunk", "chunks", "chunk_size"),
    ("resumable.js", "resumableChunkNumber", "resumableTotalChunks", "chunkSize"),
    ("flow.js", "flowChunkNumber", "flowTotalChunks", "chunkSize"),
    ("Fine Uploader", "qqpartindex", "qqtotalparts", "chunking"),
    ("simple-uploader", "chunkNumber", "totalChunks", "chunkSize"),
];

#[test]
fn a_chunk_of_a_file_is_refused() {
    let world = Setup::new().start();
    let large = noise(900_000, 4);
    for (widget, index, total, cure) in CHUNKING {
        for (number, count) in [("0", "3"), ("1", "2"), ("2", "3")] {
            let words = ["piece of a file", widget, total, cure];
            let what = format!("{widget} {number} of {count}");
            let before =
                Form::new().field(index, number).field(total, count).part(FILE.as_bytes(), PNG);
            assert_refused(&world.post(&before), 400, "invalid_request", &words, &what);
            for content in [PNG, &large] {
                let behind = Form::new()
                    .part(FILE.as_bytes(), content)
                    .field(total, count)
                    .field(index, number);
                assert_refused(&world.post(&behind), 400, "invalid_request", &words, &what);
            }
            let target = format!("/v1/files?{index}={number}&{total}={count}");
            let form = Form::new().part(FILE.as_bytes(), PNG);
            assert_refused(&world.post_to(&target, &form), 400, "invalid_request", &words, &what);
        }
    }
    world.assert_nothing_stored();
}

#[test]
fn a_file_in_one_chunk_is_stored() {
    let world = Setup::new().start();
    for (widget, index, total, _) in CHUNKING {
        let number = if index.ends_with("Number") { "1" } else { "0" };
        let form = Form::new().field(index, number).field(total, "1").part(FILE.as_bytes(), PNG);
        assert_eq!(world.post(&form).stored()["crc64"], crc64(PNG), "{widget}");
        let form = Form::new().part(FILE.as_bytes(), PNG).field(index, number).field(total, "1");
        assert_eq!(world.post(&form).stored()["crc64"], crc64(PNG), "{widget}");
    }
}

#[test]
fn a_content_range_is_refused() {
    let world = Setup::new().start();
    let form = Form::new().part(FILE.as_bytes(), PNG);
    let kind = form.content_type();
    for range in ["bytes 0-49/100", "bytes 50-99/100", "bytes 0-49/*"] {
        let mut client = world.client();
        let headers = [authorization(), ("content-type", &kind), ("content-range", range)];
        client.send_request("POST", "/v1/files", &headers, &form.bytes());
        let words = ["content-range", "piece of a file", "switched off"];
        assert_refused(&client.response(), 400, "invalid_request", &words, range);
    }
    world.assert_nothing_stored();
}

// 6 Part heads.

#[test]
fn a_part_s_multipart_type_is_ignored() {
    let world = Setup::new().start();
    for kind in [
        "multipart/form-data",
        "Multipart/Form-Data; charset=utf-8",
        "multipart/form-data; boundary=x",
    ] {
        let dir = format!("{}\r\nContent-Type: {kind}\r\nContent-Length: 5", field("dir"));
        let file = format!(
            "Content-Disposition: form-data; name=\"photo\"; filename=\"photo.png\"\r\nContent-Type: {kind}"
        );
        let response =
            world.post(&Form::new().part(dir.as_bytes(), b"album").part(file.as_bytes(), PNG));
        assert_in_album(&world, &response, kind);
        assert_eq!(response.stored()["content_type"], "image/png");
    }
    for subtype in ["mixed", "related", "alternative"] {
        let head = format!("{}\r\nContent-Type: multipart/{subtype}; boundary=y", field("files"));
        let nested = b"--y\r\nContent-Disposition: file; filename=\"a\"\r\n\r\na\r\n--y--";
        let response = world.post(&Form::new().field("x", "y").part(head.as_bytes(), nested));
        let words = ["part 2", &format!("multipart/{subtype}"), "send each file as a part"];
        assert_refused(&response, 400, "malformed_form", &words, subtype);
    }
}

#[test]
fn folded_lines_are_unfolded() {
    let world = Setup::new().start();
    for head in [
        "Content-Disposition: form-data; name=\"file\";\r\n filename=\"photo.png\"\r\nContent-Type: image/png",
        "Content-Disposition: form-data;\r\n\tname=\"file\";\r\n\tfilename=\"photo.png\"",
        "Content-Disposition:\r\n form-data; name=\"file\"; filename=\"photo.png\"\r\nContent-Type:\r\n\timage/png",
    ] {
        let form = Form::new().field("dir", "album").part(head.as_bytes(), PNG);
        let response = world.post(&form);
        assert_in_album(&world, &response, head);
        assert_eq!(response.stored()["content_type"], "image/png");
    }
}

#[test]
fn an_invalid_part_head_is_named() {
    let world = Setup::new().start();
    let good = field("x");
    for (head, words) in [
        (format!("{good}\r\nnonsense"), ["part 2", "line 2"]),
        (format!("{good}\r\nContent Type: x/y"), ["part 2", "line 2"]),
        (format!("X-A: b\r\nX-C: d\r\n: x\r\n{good}"), ["part 2", "line 3"]),
        ("Content-Type: image/png".to_owned(), ["part 2", "no Content-Disposition"]),
        ("Content-Disposition: form-data; filename=\"x\"".to_owned(), ["part 2", "no `name`"]),
        (format!("{FILE}\r\nContent-Length: many"), ["part 2", "Content-Length"]),
    ] {
        let form = Form::new().field("a", "b").part(head.as_bytes(), b"x");
        assert_refused(&world.post(&form), 400, "malformed_form", &words, &head);
    }
    let response = send_b(&world, b"--b\r\n\r\nx\r\n--b--\r\n");
    assert_refused(
        &response,
        400,
        "malformed_form",
        &["part 1", "no Content-Disposition"],
        "no head",
    );
    world.assert_nothing_stored();
}

// 7 The request's Content-Type.

#[test]
fn boundaries_as_senders_write_them() {
    let world = Setup::new().start();
    for (kind, boundary) in [
        ("multipart/form-data; boundary=----=_Part_0_81.16", "----=_Part_0_81.16"),
        ("multipart/form-data ; boundary=x", "x"),
        ("multipart/form-data; ; boundary=x", "x"),
        ("multipart/form-data;boundary=x;", "x"),
        ("Multipart/Form-Data; Boundary=x", "x"),
        ("multipart/form-data; boundary=a:b/c,d?e'(f)", "a:b/c,d?e'(f)"),
        ("multipart/form-data; boundary=\"a b=c\"", "a b=c"),
        ("multipart/form-data; boundary=\"a\\\"b\"", "a\"b"),
        ("multipart/form-data; charset=utf-8; boundary=x; charset=utf-8", "x"),
        ("multipart/form-data, boundary=x", "x"),
        ("multipart/form-data; boundary=\"x\"; charset=\"utf-8\"", "x"),
    ] {
        let mut body = Vec::new();
        for (head, content) in album() {
            let start = format!("--{boundary}\r\n{head}\r\n\r\n");
            body.extend_from_slice(&[start.as_bytes(), &content, b"\r\n"].concat());
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        assert_in_album(&world, &send(&world, kind, &body), kind);
    }
}

#[test]
fn a_content_type_without_a_usable_boundary() {
    let world = Setup::new().start();
    let body = album_b("");
    let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
    for (kind, word) in [
        ("multipart/form-data", "no boundary"),
        ("multipart/form-data; charset=utf-8", "no boundary"),
        ("multipart/form-data;", "no boundary"),
        ("multipart/form-data; boundary=", "empty"),
        ("multipart/form-data; boundary=\"\"", "empty"),
        (&long, "71 bytes"),
        ("multipart/form-data; boundary=b; boundary=c", "differ"),
    ] {
        let words = ["boundary", "Content-Type", word, "by hand"];
        assert_refused(&send(&world, kind, &body), 400, "malformed_form", &words, kind);
    }
    for kind in
        ["application/json", "multipart/mixed; boundary=b", "multipart/formdata; boundary=b", ""]
    {
        let named = kind.split(';').next().unwrap_or_default();
        assert_refused(&send(&world, kind, &body), 415, "not_multipart", &[named], kind);
    }
    let mut client = world.client();
    client.send_request("POST", "/v1/files", &[authorization()], &body);
    assert_refused(&client.response(), 415, "not_multipart", &["no Content-Type"], "none");
    world.assert_nothing_stored();
}

#[test]
fn several_content_types() {
    let world = Setup::new().start();
    let both = |first: &str, second: &str| {
        let mut client = world.client();
        let headers = [authorization(), ("content-type", first), ("content-type", second)];
        client.send_request("POST", "/v1/files", &headers, &album_b(""));
        client.response()
    };
    let whole = "multipart/form-data; boundary=b";
    for (first, second) in [(whole, whole), ("multipart/form-data", whole), (whole, "text/plain")] {
        assert_in_album(&world, &both(first, second), first);
    }
    let response = both(whole, "multipart/form-data; boundary=c");
    assert_refused(&response, 400, "malformed_form", &["two boundaries"], "two");
}

// 8 Epilogue.

const EPILOGUES: [&str; 9] =
    ["", "\r\n", "\r\n\r\n", "\n", "\r", " ", "\t\r\n \r\n", "\n\n\n\n", "  \r\n"];

#[test]
fn white_space_may_follow_the_form() {
    let world = Setup::new().start();
    let form = Form::new().field("dir", "album").part(FILE.as_bytes(), PNG);
    let most = " ".repeat(4096);
    for epilogue in EPILOGUES.into_iter().chain([most.as_str()]) {
        let body = form.ending(epilogue);
        let what = format!("{epilogue:?}");
        assert_in_album(&world, &send(&world, &form.content_type(), &body), &what);
        assert_in_album(&world, &send_chunked(&world, &form.content_type(), &body, 5000), &what);
    }
    let own_length = format!("{FILE}\r\nContent-Length: {}", PNG.len());
    let form = Form::new().field("dir", "album").part(own_length.as_bytes(), PNG);
    for epilogue in EPILOGUES {
        let response = send(&world, &form.content_type(), &form.ending(epilogue));
        assert_in_album(&world, &response, &format!("{epilogue:?}, with the part's length"));
    }
}

#[test]
fn white_space_is_accepted_after_a_large_file() {
    for window in ["256KiB", "0"] {
        let world = Setup::new().set("upload.replay_window", window).start();
        let large = noise(800_000, 9);
        let most = "\r\n".repeat(2048);
        for content in [&large[..], &large[..10]] {
            let form = Form::new().field("path", "large").file("f", "x.bin", "x/y", content);
            for epilogue in EPILOGUES.into_iter().chain([most.as_str()]) {
                let response = send(&world, &form.content_type(), &form.ending(epilogue));
                assert_eq!(response.stored()["crc64"], crc64(content), "{epilogue:?}");
                assert!(world.object("large") == content, "{epilogue:?}");
            }
        }
        assert_eq!(world.objects().len(), 1);
    }
}

#[test]
fn anything_else_after_the_form_is_refused() {
    let world = Setup::new().start();
    let large = noise(800_000, 9);
    for content in [PNG, &large] {
        let form = Form::new().file("f", "x.bin", "x/y", content);
        let more = format!("\r\n--{BOUNDARY}--");
        for epilogue in ["x", "\r\nx", "\r\n\r\n\0", " \u{feff}", more.as_str(), "--"] {
            let response = send(&world, &form.content_type(), &form.ending(epilogue));
            let words = ["other than white space"];
            assert_refused(&response, 400, "malformed_form", &words, &format!("{epilogue:?}"));
        }
        let response = send(&world, &form.content_type(), &form.ending(&" ".repeat(4097)));
        assert_refused(&response, 400, "malformed_form", &["4 KiB of white space"], "too much");
    }
    world.assert_nothing_stored();
}

// 9 File names.

/// Uploads with this Content-Disposition; gives the file's name and the extension of the path.
fn named(world: &World, rest: &str) -> (String, String) {
    let head = format!("Content-Disposition: form-data; name=\"photo\"; {rest}");
    let response = world.post(&Form::new().part(head.as_bytes(), PNG));
    assert_eq!(response.status, 201, "{rest}: {}", response.text());
    let file = response.stored();
    let path = file["path"].as_str().expect("a path");
    let last = path.rsplit('/').next().unwrap_or_default();
    let extension = last.split_once('.').map_or("", |(_, extension)| extension).to_owned();
    (file["name"].as_str().expect("a name").to_owned(), extension)
}

#[test]
fn names_that_mail_libraries_encode() {
    let world = Setup::new().start();
    for rest in [
        "filename=\"=?utf-8?B?5Lit5paHLnBuZw==?=\"",
        "filename==?utf-8?B?5Lit5paHLnBuZw==?=",
        "filename=\"=?UTF-8?Q?=E4=B8=AD=E6=96=87.png?=\"",
        "filename=\"=?gbk?B?1tDOxC5wbmc=?=\"",
        "filename=\"=?GB2312?Q?=D6=D0=CE=C4.png?=\"",
        "filename=\"=?utf-8?B?5Lit?= =?utf-8?B?5paHLnBuZw==?=\"",
        "filename=\"=?utf-8?B?5Lit5pY=?=\r\n =?utf-8?B?hy5wbmc=?=\"",
        "filename=\"=?utf-8?B?IuS4reaWhy5wbmci?=\"",
        "filename=\"=?utf-8?Q?=E4=B8=AD?=文.png\"",
    ] {
        assert_eq!(named(&world, rest), ("中文.png".into(), "png".into()), "{rest}");
    }
    assert_eq!(named(&world, "filename=\"=?iso-8859-1?Q?=E9t=E9.png?=\"").0, "été.png");
    assert_eq!(named(&world, "filename=\"=?utf-8?B?%%%?=.png\"").1, "png");
}

#[test]
fn any_extended_name_makes_a_file() {
    let world = Setup::new().start();
    for (rest, name) in [
        ("filename*=UTF-8''%E4%B8%AD.png", "中.png"),
        ("filename*=utf-8'en'%e4%b8%ad.png", "中.png"),
        ("filename*=\"UTF-8''%E4%B8%AD.png\"", "中.png"),
        ("filename*=UTF-8%E4%B8%AD.png", "UTF-8中.png"),
        ("filename*=%E4%B8%AD.png", "中.png"),
        ("filename*=''%E4%B8%AD.png", "中.png"),
        ("filename*=UTF-8'%E4%B8%AD.png", "中.png"),
        ("filename*=UTF-8''%E4%B8%A.png", "%"),
        ("filename*=中.png", "中.png"),
        ("filename*=\"\"", ""),
        ("filename*=", ""),
        ("filename*", ""),
        ("filename=\"photo.png\"; filename*=UTF-8''", "photo.png"),
        ("filename=\"photo.png\"; filename*=\"\"", "photo.png"),
        ("filename=\"photo.png\"; filename*=UTF-8''%FF", "photo.png"),
        ("filename=\"\"; filename*=UTF-8''photo.png", "photo.png"),
        ("filename*=UTF-8''%E4%B8%AD.png; filename=\"x.png\"", "中.png"),
        ("filename*0*=UTF-8''%E4%B8; filename*1*=%AD.png", "中.png"),
    ] {
        let (got, extension) = named(&world, rest);
        // A truncated escape leaves the name undefined; the extension still counts.
        assert!(got == name || name == "%", "{rest}: {got}");
        assert_eq!(extension, if name.is_empty() { "" } else { "png" }, "{rest}");
    }
}

#[test]
fn names_contain_no_invisible_characters() {
    let world = Setup::new().start();
    for (rest, name) in [
        ("filename=\"gpj\u{202e}.png\"", "gpj.png"),
        ("filename=\"a\u{200b}b\u{2066}\u{2069}.png\u{feff}\"", "ab.png"),
        ("filename*=UTF-8''a%E2%80%AE%E2%80%8F.png", "a.png"),
        ("filename=\"=?utf-8?Q?a=E2=80=AE=00.png?=\"", "a.png"),
        ("filename=\"C:\\Users\\me\\a.png\"", "a.png"),
        ("filename*=UTF-8''C%3A%5Cme%5Ca.png", "a.png"),
        ("filename=\"5\" disk.png\"", "5\" disk.png"),
    ] {
        assert_eq!(named(&world, rest), (name.into(), "png".into()), "{rest}");
    }
}

#[test]
fn field_names_are_decoded() {
    let world = Setup::new().start();
    for dir in ["=?utf-8?B?ZGly?=", "=?UTF-8?Q?dir?=", "=?us-ascii?Q?d=69r?="] {
        let form = Form::new().field(dir, "album").part(FILE.as_bytes(), PNG);
        assert_in_album(&world, &world.post(&form), dir);
    }
    let head =
        "Content-Disposition: form-data; name=\"=?utf-8?B?ZmlsZQ==?=\"\r\nContent-Type: image/png";
    let form = Form::new().field("dir", "album").part(head.as_bytes(), PNG);
    assert_eq!(world.post(&form).stored()["crc64"], crc64(PNG));
}

// 12 A boundary that does not occur in the body.

#[test]
fn a_boundary_that_does_not_occur() {
    let world = Setup::new().start();
    let body = album_b("");
    let large = form_b("", &[(FILE, &noise(200_000, 2))]);
    for (kind, declared) in [
        ("multipart/form-data; boundary=----a", "`----a`"),
        ("multipart/form-data; boundary=undefined", "`undefined`"),
        ("multipart/form-data; boundary='b'", "`'b'`"),
        ("multipart/form-data; boundary=--b", "`--b`"),
    ] {
        for body in [&body, &large] {
            let words = [declared, "does not occur in the body", "begins with `b`", "by hand"];
            assert_refused(&send(&world, kind, body), 400, "malformed_form", &words, kind);
            let response = send_chunked(&world, kind, body, 10_000);
            assert_refused(&response, 400, "malformed_form", &words, kind);
        }
    }
    // The body's boundary has hyphens that the header's lacks.
    for hyphens in ["--", "---", "----"] {
        let boundary = format!("{hyphens}b");
        let body = String::from_utf8_lossy(&album_b("")).replace("--b", &format!("--{boundary}"));
        let words = ["`b`", "does not occur in the body", &format!("begins with `{boundary}`")];
        assert_refused(&send_b(&world, body.as_bytes()), 400, "malformed_form", &words, hyphens);
    }
    for body in ["{\"file\":1}", "file=x", "--", "-", "\r\n"] {
        let words = ["does not occur in the body"];
        assert_refused(&send_b(&world, body.as_bytes()), 400, "malformed_form", &words, body);
    }
    let response =
        send_b(&world, &noise(1 << 20, 1).iter().map(|byte| byte | 0x80).collect::<Vec<_>>());
    assert_refused(&response, 400, "malformed_form", &["does not occur in the body"], "noise");
    world.assert_nothing_stored();
}

#[test]
fn an_empty_body_is_refused_as_empty() {
    let world = Setup::new().start();
    let kind = "multipart/form-data; boundary=b";
    assert_refused(&send(&world, kind, b""), 400, "malformed_form", &["empty"], "a length of 0");
    let response = send_chunked(&world, kind, b"", 1);
    assert_refused(&response, 400, "malformed_form", &["empty"], "no chunk");
    let mut client = world.client();
    client.send_head("POST", "/v1/files", &[authorization(), ("content-type", kind)]);
    assert_refused(&client.response(), 400, "malformed_form", &["empty"], "no length");
}

// 13 Wording of refusals.

#[test]
fn lf_line_ends_are_explained() {
    let world = Setup::new().start();
    let crlf =
        format!("--b\r\n{}\r\n\r\nalbum\r\n--b\r\n{FILE}\r\n\r\nx\r\n--b--\r\n", field("dir"));
    let large = "x".repeat(400_000);
    let file = |end: &str| format!("--b\r\n{FILE}\r\n\r\n{large}{end}");
    for (what, body) in [
        ("all of them", crlf.replace("\r\n", "\n")),
        ("all but the first", format!("--b\r\n{}", crlf[5..].replace("\r\n", "\n"))),
        ("before the closing boundary", crlf.replace("\r\n--b--", "\n--b--")),
        ("before the second boundary", crlf.replace("\r\n--b\r\n", "\n--b\r\n")),
        ("behind the second boundary", crlf.replace("\r\n--b\r\n", "\r\n--b\n")),
        ("behind the head", crlf.replace("\r\n\r\n", "\n\n")),
        ("behind the file's head", crlf.replace("\r\n\r\nx", "\n\nx")),
        ("behind a large file", file("\n--b--\n")),
        ("behind a large file, and CRLF", file("\n--b--\r\n")),
    ] {
        let words = ["LF", "CRLF"];
        assert_refused(&send_b(&world, body.as_bytes()), 400, "malformed_form", &words, what);
    }
    world.assert_nothing_stored();
    // The lines of a part head may end in CRLF or LF.
    send_b(&world, crlf.replace("\r\nContent-Type", "\nContent-Type").as_bytes()).stored();
}

#[test]
fn a_missing_file_name_is_explained() {
    let world = Setup::new().start();
    let picture = noise(100_000, 1);
    for name in ["photo", "file"] {
        let response = world.post(&Form::new().part(field(name).as_bytes(), &picture));
        let words = [name, "filename is missing", "filename="];
        assert_refused(&response, 413, "fields_too_large", &words, name);
    }
    for kind in ["image/png", "video/mp4", "audio/mpeg"] {
        let head = format!("{}\r\nContent-Type: {kind}", field("photo"));
        let words = ["photo", "filename is missing"];
        let response = world.post(&Form::new().part(head.as_bytes(), &picture));
        assert_refused(&response, 413, "fields_too_large", &words, kind);
        // A small one is not dropped when the form also has a file.
        let form = Form::new().part(head.as_bytes(), PNG).part(FILE.as_bytes(), PNG);
        assert_refused(&world.post(&form), 400, "no_file", &[words[0], words[1], kind], kind);
    }
    // Nor is one that only its content shows to be a file.
    for (kind, content, told) in [
        ("", PNG, "image/png"),
        ("application/octet-stream", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "image/jpeg"),
        ("application/pdf", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3", "application/pdf"),
        ("application/x-own", b"\x00\x01\x02", "application/octet-stream"),
    ] {
        let typed = if kind.is_empty() { "" } else { "\r\nContent-Type: " };
        let head = format!("{}{typed}{kind}", field("photo"));
        let words = ["photo", "filename is missing", told];
        let alone = Form::new().part(head.as_bytes(), content);
        assert_refused(&world.post(&alone), 400, "no_file", &words, told);
        let before = Form::new().part(head.as_bytes(), content).part(FILE.as_bytes(), PNG);
        assert_refused(&world.post(&before), 400, "no_file", &words, told);
        let behind = Form::new().part(FILE.as_bytes(), PNG).part(head.as_bytes(), content);
        assert_refused(&world.post(&behind), 400, "no_file", &words, told);
    }
    world.assert_nothing_stored();
    // Text fields that begin like files, and a field with a digest.
    for value in [&b"BM hello"[..], b"GIF of the day", b"\xd6\xd0\xce\xc4", b"\x00\x01\x02\xff"] {
        let form = Form::new().part(field("note").as_bytes(), value).part(FILE.as_bytes(), PNG);
        assert_eq!(world.post(&form).stored()["crc64"], crc64(PNG), "{value:?}");
    }
}

#[test]
fn escaped_line_breaks_are_explained() {
    let world = Setup::new().start();
    let good = format!("--b\r\n{FILE}\r\n\r\ncontent\r\n--b--\r\n");
    for (body, words) in [
        (good.replace("\r\n", "\\r\\n"), ["backslash", "letters"]),
        (good.replace("\r\n", "\r"), ["CR without an LF", "RFC 2046"]),
        (good.replace("\r\n\r\n", "\r\n"), ["part 1", "empty line"]),
        (good.replace("\r\n\r\ncontent", ""), ["part 1", "empty line"]),
        (format!("--b\r\n{FILE}\r\n{}", "content\r\n".repeat(4000)), ["line 3", "empty line"]),
    ] {
        let what: String = body.chars().take(150).collect();
        assert_refused(&send_b(&world, body.as_bytes()), 400, "malformed_form", &words, &what);
    }
    world.assert_nothing_stored();
}

#[test]
fn a_form_that_is_not_closed() {
    let world = Setup::new().start();
    for end in ["", "\r\n", "\r\n--b", "\r\n--b\r\n", "\r\n--b-", "\r\n--", "\r\n--b\r\n\r\n"] {
        let body = format!("--b\r\n{FILE}\r\n\r\ncontent{end}");
        let response = send_b(&world, body.as_bytes());
        if end == "\r\n--b\r\n\r\n" {
            // A part without headers.
            assert_refused(&response, 400, "malformed_form", &["part 2"], end);
            continue;
        }
        assert_refused(
            &response,
            400,
            "truncated_body",
            &["closes the form, `--b--`"],
            &format!("{end:?}"),
        );
    }
    // The delimiter occurs, but not at the start of a line.
    let body = format!("--b\r\n{FILE}\r\n\r\ncontent--b--\r\n");
    let words = ["after other text"];
    assert_refused(&send_b(&world, body.as_bytes()), 400, "malformed_form", &words, "glued");
    world.assert_nothing_stored();
}

// B 3 Parts without a name.

/// The part that an empty file input sends.
const NAMELESS: &str = "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"\"\r\n\
     Content-Type: application/octet-stream\r\n\r\n\r\n";

#[test]
fn parts_without_a_name_are_refused_early() {
    const LENGTH: usize = 80 << 20;
    let world = Setup::new().set("server.workers", 1).start();
    let form = |count: usize| {
        let body = NAMELESS.repeat(count) + &String::from_utf8_lossy(&form_b("", &[(FILE, b"x")]));
        send_b(&world, body.as_bytes())
    };
    assert_eq!(form(32).stored()["name"], "photo.png");
    assert_refused(&form(33), 413, "fields_too_large", &["32"], "33 inputs");

    let mut client = world.client();
    let headers = [
        authorization(),
        ("content-type", "multipart/form-data; boundary=b"),
        ("content-length", &LENGTH.to_string()),
    ];
    client.send_head("POST", "/v1/files", &headers);
    let mut sender = client.sender();
    let sending = std::thread::spawn(move || {
        let many = NAMELESS.repeat(1000);
        (0..LENGTH / many.len()).all(|_| sender.write_all(many.as_bytes()).is_ok())
    });
    let mut slowest = Duration::ZERO;
    while !sending.is_finished() {
        let began = Instant::now();
        let mut asking: Client = world.client();
        asking.send_request("GET", "/healthz", &[], b"");
        assert_eq!(asking.response().status, 200);
        slowest = slowest.max(began.elapsed());
    }
    println!("80 MiB of parts without a name: /healthz took {slowest:?} at most");
    assert!(slowest < Duration::from_millis(100), "{slowest:?}");
    sending.join().expect("a sender");
    assert_refused(&client.response(), 413, "fields_too_large", &["fields"], "80 MiB");
    assert_eq!(world.objects().len(), 1);
}
