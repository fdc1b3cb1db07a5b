//! tus 1.0, sentence by sentence: the table of docs/en/testing.md names a test for each one that binds a server, and
//! those that no other file needs are here.

use std::collections::BTreeSet;

use crate::harness::{Client, Response, World, authorization, noise, wait_until};
use crate::pages::read;
use crate::resumable::{
    MIB, OCTETS, TUS, create, metadata, number, offset, patch, path_of, request, send, setup,
};
use crate::tickets::now;

/// Tests that a page's table names, in its order.
fn named(page: &str) -> Vec<String> {
    let text = read(page.to_owned()).text;
    let (_, section) = text.split_once("\n## tus 1.0\n").expect("the section");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains("::"));
    let tests = rows.flat_map(|row| row.rsplit('|').nth(1).expect("a cell").split(", "));
    tests.map(|test| test.trim().trim_matches('`').to_owned()).collect()
}

#[test]
fn each_sentence_of_the_protocol_has_its_test() {
    let tests = named("docs/en/testing.md");
    assert_eq!(tests, named("docs/zh/testing.md"));
    assert!(tests.len() > 50, "{}", tests.len());
    for test in &tests {
        let (file, name) = test.split_once("::").expect("file::test");
        let source = read(format!("tests/api/{file}.rs")).text;
        assert!(source.contains(&format!("#[test]\nfn {name}()")), "no such test: {test}");
    }
    // And each test here is in the table.
    let own = include_str!("resumable_protocol.rs");
    let own = own.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split_once("()"));
    let tests: BTreeSet<_> = tests.iter().map(String::as_str).collect();
    for (name, _) in own.filter(|(name, _)| *name != "each_sentence_of_the_protocol_has_its_test") {
        assert!(tests.contains(format!("resumable_protocol::{name}").as_str()), "{name}");
    }
}

/// A date as in `Upload-Expires`, in Unix time.
fn date(response: &Response, name: &str) -> i64 {
    let value = response.header(name).unwrap_or_else(|| panic!("no {name}: {response:?}"));
    let time = jiff::fmt::rfc2822::parse(value).expect("a date");
    assert!(value.ends_with(" GMT") && value.len() == 29, "{value}");
    time.timestamp().as_second()
}

fn new_upload(world: &World, headers: &[(&str, &str)]) -> Response {
    request(world, "POST", "/v1/uploads", headers, b"")
}

#[test]
fn every_response_but_to_options_names_the_version() {
    let world = setup().start();
    let url = create(&world, 100, &[("path", "version")]);
    let stranger = |method: &str, target: &str| send(world.client(), method, target, &[TUS], b"");
    for response in [
        new_upload(&world, &[("upload-length", "1")]),
        new_upload(&world, &[]),
        request(&world, "HEAD", &url, &[], b""),
        request(&world, "GET", &url, &[], b""),
        request(&world, "HEAD", "/v1/uploads/unknown", &[], b""),
        request(&world, "PUT", &url, &[], b""),
        patch(&world, &url, 7, b"x"),
        patch(&world, &url, 0, b"x"),
        stranger("POST", "/v1/uploads"),
        stranger("HEAD", &url),
        stranger("PATCH", &url),
        stranger("DELETE", &url),
        request(&world, "DELETE", &url, &[], b""),
    ] {
        assert_eq!(response.header("tus-resumable"), Some("1.0.0"), "{response:?}");
    }
}

#[test]
fn a_request_of_another_version_is_not_processed() {
    let world = setup().start();
    let url = create(&world, 5, &[("path", "versions")]);
    let refused = |method: &str, target: &str, headers: &[(&str, &str)]| {
        let headers = [headers, &[authorization(), ("tus-resumable", "0.2.2")]].concat();
        let response = send(world.client(), method, target, &headers, b"");
        assert_eq!((response.status, response.header("tus-version")), (412, Some("1.0.0")));
    };
    let uploads = world.multipart_uploads().len();
    refused("POST", "/v1/uploads", &[("upload-length", "5")]);
    refused("HEAD", &url, &[]);
    refused("PATCH", &url, &[("upload-offset", "0"), OCTETS]);
    refused("DELETE", &url, &[]);
    assert_eq!((world.multipart_uploads().len(), offset(&world, &url)), (uploads, 0));
}

#[test]
fn options_tell_all_that_is_supported_whatever_version_is_asked_for() {
    let world = setup().start();
    for headers in [&[][..], &[("tus-resumable", "0.2.2")], &[authorization()]] {
        let response = send(world.client(), "OPTIONS", "/v1/uploads", headers, b"");
        assert_eq!((response.status, response.header("tus-version")), (204, Some("1.0.0")));
        assert!(number(&response, "tus-max-size") > 0);
        let algorithms = response.header("tus-checksum-algorithm").expect("algorithms");
        assert!(algorithms.split(',').any(|name| name == "sha1"), "{algorithms}");
        assert!(algorithms.bytes().all(|byte| !byte.is_ascii_uppercase() && byte.is_ascii()));
        let extensions = response.header("tus-extension").expect("extensions");
        // `concatenation` is not there: parallel uploads are not supported.
        assert_eq!(
            extensions.split(',').collect::<BTreeSet<_>>(),
            BTreeSet::from([
                "checksum",
                "creation",
                "creation-defer-length",
                "creation-with-upload",
                "expiration",
                "termination",
            ])
        );
    }
}

#[test]
fn an_unknown_upload_has_no_offset() {
    let world = setup().start();
    let ended = create(&world, 5, &[("path", "ended")]);
    assert_eq!(request(&world, "DELETE", &ended, &[], b"").status, 204);
    for url in ["/v1/uploads/unknown", &ended] {
        let response = request(&world, "HEAD", url, &[], b"");
        assert_eq!((response.status, response.header("upload-offset")), (404, None));
        let get = request(&world, "GET", url, &[], b"");
        assert_eq!((get.status, get.header("upload-offset")), (404, None));
        patch(&world, url, 0, b"12345").problem(404, "upload_not_found");
        request(&world, "DELETE", url, &[], b"");
    }
    world.assert_nothing_stored();
}

#[test]
fn the_length_and_the_metadata_are_told_as_they_were_sent() {
    let world = setup().start();
    // A name without a value, one with an empty value, and bytes that are not text.
    for raw in [
        "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential",
        "empty ,bytes /wD+",
        "a QQ==",
    ] {
        for length in [5, 0] {
            let value = length.to_string();
            let headers = [("upload-length", value.as_str()), ("upload-metadata", raw)];
            let url = path_of(&new_upload(&world, &headers));
            let response = request(&world, "HEAD", &url, &[], b"");
            assert_eq!(response.header("upload-metadata"), Some(raw));
            assert_eq!(
                (number(&response, "upload-length"), number(&response, "upload-offset")),
                (length, 0)
            );
            assert_eq!(response.header("upload-defer-length"), None);
            assert_eq!(response.header("cache-control"), Some("no-store"));
        }
    }
    for bad in ["a QQ==,a QQ==", "a,,b", "a Q", "a b c"] {
        let headers = [("upload-length", "5"), ("upload-metadata", bad)];
        new_upload(&world, &headers).problem(400, "invalid_request");
    }
}

#[test]
fn a_length_that_is_deferred_is_told_as_such_until_it_is_known() {
    let world = setup().start();
    for value in ["0", "2", "true", ""] {
        new_upload(&world, &[("upload-defer-length", value)]).problem(400, "invalid_request");
    }
    let path = metadata(&[("path", "deferred")]);
    let headers = [("upload-defer-length", "1"), ("upload-metadata", path.as_str())];
    let url = path_of(&new_upload(&world, &headers));
    for at in 0..3 {
        let state = request(&world, "HEAD", &url, &[], b"");
        assert_eq!(
            (state.header("upload-defer-length"), state.header("upload-length")),
            (Some("1"), None)
        );
        assert_eq!(number(&state, "upload-offset"), at);
        assert_eq!(patch(&world, &url, at, b"x").status, 204);
    }
    let told = [("upload-offset", "3"), ("upload-length", "4"), OCTETS];
    assert_eq!(request(&world, "PATCH", &url, &told, b"").status, 204);
    let state = request(&world, "HEAD", &url, &[], b"");
    assert_eq!(
        (state.header("upload-defer-length"), state.header("upload-length")),
        (None, Some("4"))
    );
    let changed = [("upload-offset", "3"), ("upload-length", "5"), OCTETS];
    request(&world, "PATCH", &url, &changed, b"x").problem(400, "invalid_request");
    assert_eq!(patch(&world, &url, 3, b"x").status, 204);
    assert_eq!(world.object("deferred"), b"xxxx");
}

#[test]
fn when_an_upload_expires_is_told_at_its_creation_and_with_each_offset() {
    let world = setup().set("resumable.expire_after", "2h").start();
    let before = now() as i64;
    let headers = [("upload-length", "3"), ("upload-metadata", "path ZXhwaXJlcw==")];
    let created = new_upload(&world, &headers);
    let url = path_of(&created);
    let expires = date(&created, "upload-expires");
    assert!((before + 7200..=now() as i64 + 7200).contains(&expires));
    assert_eq!(date(&request(&world, "HEAD", &url, &[], b""), "upload-expires"), expires);
    for at in 0..3 {
        let response = patch(&world, &url, at, b"x");
        assert_eq!((response.status, date(&response, "upload-expires")), (204, expires));
    }
}

#[test]
fn a_refused_checksum_discards_the_bytes_whatever_the_algorithm() {
    let world = setup().start();
    let url = create(&world, 22, &[("path", "checksums")]);
    let with = |at: &str, checksum: &str| {
        let headers = [("upload-offset", at), ("upload-checksum", checksum), OCTETS];
        request(&world, "PATCH", &url, &headers, b"hello world")
    };
    for (checksum, status, code) in [
        ("sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=", 460, "checksum_mismatch"),
        ("md5 AAAAAAAAAAAAAAAAAAAAAA==", 460, "checksum_mismatch"),
        ("crc32 DUoRhA==", 460, "checksum_mismatch"),
        ("sha256 QQ==", 400, "invalid_request"),
        ("SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", 400, "invalid_request"),
        ("sha1", 400, "invalid_request"),
    ] {
        with("0", checksum).problem(status, code);
        assert_eq!(offset(&world, &url), 0, "{checksum}");
    }
    assert_eq!(with("0", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").status, 204);
    assert_eq!(with("11", "md5 XrY7u+Ae7tCTyyK7j1rNww==").status, 204);
    assert_eq!(world.object("checksums"), b"hello worldhello world");
}

#[test]
fn a_creation_that_expects_to_be_told_is_refused_before_its_first_bytes() {
    let world = setup().set("upload.max_file_size", "5MiB").start();
    for (length, status) in [("9000000000", 413), ("2000000", 201)] {
        let content = noise(2_000_000, 1);
        let mut client = world.client();
        let headers = [
            authorization(),
            TUS,
            OCTETS,
            ("upload-length", length),
            ("upload-metadata", "path ZXhwZWN0"),
            ("expect", "100-continue"),
            ("content-length", "2000000"),
        ];
        client.send_head("POST", "/v1/uploads", &headers);
        let (told, _) = client.response_head().expect("a response");
        if status == 201 {
            assert_eq!(told, 100);
            client.send(&content);
            let response = client.response();
            assert_eq!((response.status, number(&response, "upload-offset")), (201, 2_000_000));
            assert!(world.object("expect") == content);
        } else {
            assert_eq!(told, status);
        }
    }
}

/// A timeout closes the connection, and what has arrived by then is stored.
#[test]
fn a_request_that_stalls_is_ended_with_its_connection() {
    let world = setup().set("upload.idle_timeout", "1s").start();
    let content = noise(2 * MIB, 2);
    let url = create(&world, content.len(), &[("path", "stalled")]);
    let length = content.len().to_string();
    let mut client = Client::connect(world.gateway.address);
    let headers =
        [authorization(), TUS, OCTETS, ("upload-offset", "0"), ("content-length", &length)];
    client.send_head("PATCH", &url, &headers);
    client.send(&content[..MIB + 1]);
    client.response().problem(503, "upload_interrupted");
    wait_until("it is closed", || client_is_closed(&client));
    assert_eq!(offset(&world, &url), MIB + 1);
}

fn client_is_closed(client: &Client) -> bool {
    use std::io::Read;
    let mut socket = client.sender();
    // The gateway has sent its response, so only its end is left to be read.
    matches!(socket.read(&mut [0]), Ok(0) | Err(_))
}
