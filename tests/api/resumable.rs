//! Resumable uploads: what clients of tus 1.0 send and are told, and what is stored.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tcb_upload_gateway::http::resumable::sealed_url::SealingKeys;

use crate::harness::{Client, Response, Setup, World, authorization, noise, wait_until};
use crate::tickets;

pub const MIB: usize = 1 << 20;
pub const TUS: (&str, &str) = ("tus-resumable", "1.0.0");
pub const OCTETS: (&str, &str) = ("content-type", "application/offset+octet-stream");

pub fn setup() -> Setup {
    Setup::new().by_api().set("cos.api.abort_after", "0s")
}

pub fn request(
    world: &World,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let headers = [headers, &[authorization(), TUS]].concat();
    send(world.client(), method, target, &headers, body)
}

pub fn send(
    mut client: Client,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    client.send_request(method, target, headers, body);
    if method == "HEAD" {
        let (status, headers) = client.response_head().expect("a response");
        return Response { status, headers, body: Vec::new() };
    }
    client.response()
}

pub fn metadata(pairs: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{name} {}", STANDARD.encode(value));
    pairs.iter().map(pair).collect::<Vec<_>>().join(",")
}

/// Creates an upload; returns its URL's path.
pub fn create(world: &World, length: usize, pairs: &[(&str, &str)]) -> String {
    let (length, metadata) = (length.to_string(), metadata(pairs));
    let headers = [("upload-length", length.as_str()), ("upload-metadata", &metadata)];
    let response = request(world, "POST", "/v1/uploads", &headers, b"");
    assert_eq!(response.status, 201, "{}", response.text());
    path_of(&response)
}

pub fn path_of(response: &Response) -> String {
    let location = response.header("location").expect("a Location");
    location[location.find("/v1/uploads/").expect("the path")..].to_owned()
}

pub fn patch(world: &World, url: &str, offset: usize, body: &[u8]) -> Response {
    let offset = offset.to_string();
    request(world, "PATCH", url, &[("upload-offset", &offset), OCTETS], body)
}

pub fn number(response: &Response, name: &str) -> usize {
    let value = response.header(name).unwrap_or_else(|| panic!("no {name}: {response:?}"));
    value.parse().expect("a number")
}

pub fn offset(world: &World, url: &str) -> usize {
    let response = request(world, "HEAD", url, &[], b"");
    assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")));
    number(&response, "upload-offset")
}

/// Asserts that one object is stored, the file, and nothing else is left at COS.
pub fn assert_stored(world: &World, key: &str, content: &[u8]) {
    assert!(world.object(key) == content, "{key} has other bytes");
    wait_until("helper objects are deleted", || world.objects().len() == 1);
    assert!(world.multipart_uploads().is_empty());
}

#[test]
fn a_file_in_pieces_of_any_size() {
    let world = setup().start();
    for (name, length, piece) in [
        ("one", 3 * MIB + 5, 4 * MIB),
        ("small", 10_000, 4_000),
        ("tusk it", 3 * MIB, 500_000),
        ("parts", 4 * MIB, MIB),
        ("more", 5 * MIB + 1, 3 * MIB / 2),
        ("a byte", 1, 1),
    ] {
        let content = noise(length, 1);
        let url = create(&world, length, &[("path", name), ("filename", "a.bin")]);
        let mut at = 0;
        while at < length {
            let end = (at + piece).min(length);
            let response = patch(&world, &url, at, &content[at..end]);
            assert_eq!(response.status, 204, "{name} at {at}: {}", response.text());
            assert_eq!(
                (number(&response, "upload-offset"), response.header("tus-resumable")),
                (end, Some("1.0.0"))
            );
            assert_eq!(response.header("x-file-id").is_some(), end == length, "{name} at {at}");
            assert_eq!(offset(&world, &url), end);
            at = end;
        }
        assert_stored(&world, name, &content);
        let (content_now, kind) = {
            let response = request(&world, "GET", &url, &[], b"");
            assert_eq!(response.status, 302, "{}", response.text());
            world.download(response.header("location").expect("a URL"))
        };
        assert!(content_now == content);
        assert_eq!(kind, "application/octet-stream");
        // Told again, where the response was lost.
        let again = patch(&world, &url, length, b"");
        assert_eq!(
            (again.status, number(&again, "upload-offset")),
            (204, length),
            "{}",
            again.text()
        );
        world.call("DELETE", &format!("/v1/files/{}", name.replace(' ', "%20")), &json!(null));
        assert_eq!(request(&world, "HEAD", &url, &[], b"").status, 404);
    }
}

#[test]
fn bytes_in_the_creation_and_an_empty_file() {
    let world = setup().start();
    let content = noise(2 * MIB, 2);
    let length = content.len().to_string();
    let path = metadata(&[("path", "with-upload")]);
    let headers = [("upload-length", length.as_str()), ("upload-metadata", &path), OCTETS];
    let response = request(&world, "POST", "/v1/uploads", &headers, &content);
    assert_eq!(
        (response.status, number(&response, "upload-offset")),
        (201, 2 * MIB),
        "{}",
        response.text()
    );
    assert_stored(&world, "with-upload", &content);
    world.call("DELETE", "/v1/files/with-upload", &json!(null));

    let path = metadata(&[("path", "begun")]);
    let headers = [("upload-length", length.as_str()), ("upload-metadata", &path), OCTETS];
    let response = request(&world, "POST", "/v1/uploads", &headers, &content[..1000]);
    assert_eq!((response.status, number(&response, "upload-offset")), (201, 1000));
    assert_eq!(patch(&world, &path_of(&response), 1000, &content[1000..]).status, 204);
    assert_stored(&world, "begun", &content);
    world.call("DELETE", "/v1/files/begun", &json!(null));

    let url = create(&world, 0, &[("path", "empty")]);
    assert_stored(&world, "empty", b"");
    assert_eq!(offset(&world, &url), 0);
}

#[test]
fn a_length_that_is_told_late() {
    let world = setup().start();
    let content = noise(MIB + 7, 3);
    let path = metadata(&[("path", "late")]);
    let headers = [("upload-defer-length", "1"), ("upload-metadata", path.as_str())];
    let url = path_of(&request(&world, "POST", "/v1/uploads", &headers, b""));
    assert_eq!(patch(&world, &url, 0, &content[..MIB / 2]).status, 204);
    let state = request(&world, "HEAD", &url, &[], b"");
    assert_eq!(
        (state.header("upload-defer-length"), state.header("upload-length")),
        (Some("1"), None)
    );
    let length = content.len().to_string();
    let told = [("upload-offset", "524288"), ("upload-length", length.as_str()), OCTETS];
    assert_eq!(request(&world, "PATCH", &url, &told, &content[MIB / 2..MIB]).status, 204);
    assert_eq!(number(&request(&world, "HEAD", &url, &[], b""), "upload-length"), content.len());
    let other = [("upload-offset", "1048576"), ("upload-length", "1048577"), OCTETS];
    request(&world, "PATCH", &url, &other, b"x").problem(400, "invalid_request");
    assert_eq!(patch(&world, &url, MIB, &content[MIB..]).status, 204);
    assert_stored(&world, "late", &content);
}

/// The connection breaks in the middle of a request: at most what was on its way is sent again.
#[test]
fn interrupted_requests_lose_little() {
    let world = setup().start();
    let content = noise(20 * MIB, 4);
    let url = create(&world, content.len(), &[("path", "cut")]);
    let (mut at, mut cuts) = (0, 0);
    while at < content.len() {
        let mut client = world.client();
        let (start, rest) = (at.to_string(), (content.len() - at).to_string());
        let headers =
            [authorization(), TUS, OCTETS, ("upload-offset", &start), ("content-length", &rest)];
        client.send_head("PATCH", &url, &headers);
        let until = (at + 3 * MIB + 12_345).min(content.len());
        client.send(&content[at..until]);
        if until == content.len() {
            assert_eq!(client.response().status, 204);
            break;
        }
        cuts += 1;
        // A reset discards what the gateway has not read yet.
        let parts = (until / MIB) as u64;
        wait_until("full parts are stored", || world.count("upload_part") >= parts);
        match cuts % 3 {
            0 => client.reset(),
            1 => client.finish(),
            _ => drop(client),
        }
        let now = offset(&world, &url);
        assert!(now <= until && now + 2 * MIB >= until, "{now} of {until}");
        at = now;
    }
    assert!(cuts > 4);
    assert_stored(&world, "cut", &content);
}

/// A request that hangs is ended by HEAD, or by another PATCH, and what it has sent counts.
#[test]
fn a_request_that_hangs_is_ended_by_a_later_one() {
    let world = setup().start();
    let content = noise(3 * MIB, 5);
    let url = create(&world, content.len(), &[("path", "hanging")]);
    let length = content.len().to_string();
    let mut hanging = world.client();
    let headers =
        [authorization(), TUS, OCTETS, ("upload-offset", "0"), ("content-length", &length)];
    hanging.send_head("PATCH", &url, &headers);
    hanging.send(&content[..MIB + 1000]);
    wait_until("a part arrives", || world.count("upload_part") > 0);
    // GET only looks.
    let state = request(&world, "GET", &url, &[], b"").json();
    assert_eq!((&state["length"], &state["path"]), (&json!(content.len()), &json!("hanging")));
    hanging.send(&content[MIB + 1000..2 * MIB + 1000]);
    wait_until("another part arrives", || world.count("upload_part") > 1);
    let now = offset(&world, &url);
    assert!((2 * MIB..=2 * MIB + 1000).contains(&now), "{now}");
    hanging.response().problem(423, "superseded");
    assert_eq!(patch(&world, &url, now, &content[now..]).status, 204);
    assert_stored(&world, "hanging", &content);
    // Lines of the log name the upload, and not its URL.
    let log = world.gateway.log();
    assert!(!log.contains(&url["/v1/uploads/".len()..]), "{log}");
    let ids = log.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["upload"].as_str().map(ToOwned::to_owned)
    });
    let ids: Vec<_> = ids.collect();
    // Of the creation, GET, HEAD, two PATCHes, and the file that is stored.
    assert!(ids.len() >= 6 && ids.iter().all(|id| *id == ids[0]), "{log}");
}

#[test]
fn requests_that_are_refused() {
    let world = setup().start();
    let url = create(&world, 100, &[("path", "strict")]);
    let refused = |response: Response, status, code| {
        assert_eq!(response.header("tus-resumable"), Some("1.0.0"));
        response.problem(status, code);
    };
    let ten = &[0_u8; 10][..];
    refused(patch(&world, &url, 5, ten), 409, "offset_mismatch");
    refused(request(&world, "PATCH", &url, &[OCTETS], ten), 400, "invalid_request");
    refused(
        request(&world, "PATCH", &url, &[("upload-offset", "-1"), OCTETS], ten),
        400,
        "invalid_request",
    );
    refused(
        request(&world, "PATCH", &url, &[("upload-offset", "0")], ten),
        415,
        "not_offset_stream",
    );
    refused(patch(&world, &url, 0, &[0; 101]), 400, "length_mismatch");
    let other_length = [("upload-offset", "0"), ("upload-length", "99"), OCTETS];
    refused(request(&world, "PATCH", &url, &other_length, ten), 400, "invalid_request");
    let without_version = [authorization(), ("upload-offset", "0"), OCTETS];
    refused(send(world.client(), "PATCH", &url, &without_version, ten), 412, "tus_version");
    let old = [authorization(), ("tus-resumable", "0.2.2"), ("upload-length", "1")];
    let response = send(world.client(), "POST", "/v1/uploads", &old, b"");
    assert_eq!(response.header("tus-version"), Some("1.0.0"));
    response.problem(412, "tus_version");
    for headers in [
        &[][..],
        &[("upload-length", "x")],
        &[("upload-length", "1"), ("upload-defer-length", "1")],
    ] {
        refused(request(&world, "POST", "/v1/uploads", headers, b""), 400, "invalid_request");
    }
    refused(
        request(&world, "POST", "/v1/uploads", &[("upload-length", "9000000000")], b""),
        413,
        "file_too_large",
    );
    assert_eq!(offset(&world, &url), 0);

    // A changed URL, and an unknown one.
    let mut changed = url.clone().into_bytes();
    let last = changed.len() - 5;
    changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
    for unknown in [String::from_utf8(changed).expect("ASCII"), "/v1/uploads/x".to_owned()] {
        refused(patch(&world, &unknown, 0, ten), 404, "upload_not_found");
    }
    let hidden = request(&world, "HEAD", "/v1/uploads/x", &[], b"");
    assert_eq!(hidden.status, 404);
    world.call("DELETE", &url, &json!(null)).problem(412, "tus_version");
    assert_eq!(request(&world, "DELETE", &url, &[], b"").status, 204);
    refused(patch(&world, &url, 0, ten), 404, "upload_not_found");
    assert!(world.multipart_uploads().is_empty());
    world.assert_nothing_stored();
}

#[test]
fn methods_that_clients_cannot_send() {
    let world = setup().start();
    let content = noise(2000, 6);
    let url = create(&world, content.len(), &[("path", "override")]);
    let first = [("x-http-method-override", "PATCH"), ("upload-offset", "0"), OCTETS];
    assert_eq!(request(&world, "POST", &url, &first, &content[..1000]).status, 204);
    let state = request(&world, "POST", &url, &[("x-http-method-override", "HEAD")], b"");
    assert_eq!(number(&state, "upload-offset"), 1000);
    let rest = [("x-http-method-override", "patch"), ("upload-offset", "1000"), OCTETS];
    assert_eq!(request(&world, "POST", &url, &rest, &content[1000..]).status, 204);
    assert_stored(&world, "override", &content);
    assert_eq!(request(&world, "POST", &url, &[], b"").status, 405);
}

#[test]
fn checksums_of_requests() {
    let world = setup().start();
    let url = create(&world, 11, &[("path", "sum")]);
    let with = |sum: &str, body: &[u8]| {
        request(
            &world,
            "PATCH",
            &url,
            &[("upload-offset", "0"), ("upload-checksum", sum), OCTETS],
            body,
        )
    };
    with("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", b"hello worlds").problem(400, "length_mismatch");
    with("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", b"hello w0rld").problem(460, "checksum_mismatch");
    with("sha512 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", b"hello world").problem(400, "invalid_request");
    assert_eq!(offset(&world, &url), 0);
    assert_eq!(with("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", b"hello world").status, 204);
    assert_stored(&world, "sum", b"hello world");
}

#[test]
fn what_is_supported_is_told() {
    let world = setup().set("upload.max_file_size", "5MiB").start();
    let options = send(world.client(), "OPTIONS", "/v1/uploads", &[], b"");
    assert_eq!(options.status, 204);
    assert_eq!(options.header("tus-version"), Some("1.0.0"));
    assert_eq!(options.header("tus-max-size"), Some("5242880"));
    assert!(
        options.header("tus-extension").is_some_and(|all| all.contains("creation-with-upload"))
    );
    let world = setup().set("resumable.enabled", "false").start();
    request(&world, "POST", "/v1/uploads", &[("upload-length", "1")], b"")
        .problem(404, "not_found");
}

/// The policy is that of other uploads; another client's upload is unknown.
#[test]
fn policies_hold() {
    let setup = tickets::setup().by_api().set("cos.api.abort_after", "0s");
    let world = setup.start();
    let ticket = |claims| format!("Bearer {}", tickets::ticket(claims));
    let one = ticket(
        json!({"sub": "one", "prefix": "one/", "types": ["image/png"], "max_file_size": 1000}),
    );
    let other = ticket(json!({"sub": "other"}));
    let create = |token: &str, length: &str, pairs: &[(&str, &str)]| {
        let metadata = metadata(pairs);
        let headers = [
            ("authorization", token),
            TUS,
            ("upload-length", length),
            ("upload-metadata", &metadata),
        ];
        send(world.client(), "POST", "/v1/uploads", &headers, b"")
    };
    create(&one, "1001", &[("filename", "a.png")]).problem(413, "file_too_large");
    create(&one, "10", &[("filename", "a.exe")]).problem(415, "type_not_allowed");
    create(&one, "10", &[("filename", "a.png"), ("path", "two/a.png")])
        .problem(403, "path_not_allowed");
    // Refused for its first bytes: nothing is left of it.
    let metadata = metadata(&[("filename", "a.png")]);
    let first = [
        ("authorization", one.as_str()),
        TUS,
        OCTETS,
        ("upload-length", "10"),
        ("upload-metadata", &metadata),
    ];
    send(world.client(), "POST", "/v1/uploads", &first, b"<html>0000")
        .problem(415, "type_not_allowed");
    assert!(world.multipart_uploads().is_empty());
    world.assert_nothing_stored();
    let url = path_of(&create(&one, "10", &[("filename", "a.png")]));
    let patch = |token: &str, body: &[u8]| {
        let headers = [("authorization", token), TUS, ("upload-offset", "0"), OCTETS];
        send(world.client(), "PATCH", &url, &headers, body)
    };
    patch(&other, b"0123456789").problem(404, "upload_not_found");
    // Its first bytes are not those of an image.
    patch(&one, b"<html>0000").problem(415, "type_not_allowed");
    patch(&one, b"0123456789").problem(415, "type_not_allowed");
    assert!(world.objects().iter().all(|object| object["fileid_ok"] == false));
    // Another ticket of the same user continues.
    let again = ticket(json!({"sub": "one", "prefix": "one/"}));
    assert_eq!(patch(&again, b"\x89PNG\r\n\x1a\n00").status, 204);
    assert_eq!(world.objects().len(), 1);
}

/// All state is in COS and in the URL: another gateway continues, also after this one was killed.
#[test]
fn any_gateway_continues() {
    let keys = "a-key-of-at-least-thirty-two-bytes";
    let mut world = setup().set("resumable.keys", keys).start();
    let content = noise(5 * MIB, 7);
    let url = create(&world, content.len(), &[("path", "replicas")]);
    assert_eq!(patch(&world, &url, 0, &content[..MIB + 10]).status, 204);
    let another = world.another();
    let headers = [authorization(), TUS, ("upload-offset", "1048586"), OCTETS];
    let part = &content[MIB + 10..3 * MIB];
    let response = send(Client::connect(another.address), "PATCH", &url, &headers, part);
    assert_eq!(response.status, 204, "{}", response.text());
    world.restart();
    let at = offset(&world, &url);
    assert_eq!(at, 3 * MIB);
    assert_eq!(patch(&world, &url, at, &content[at..]).status, 204);
    assert_stored(&world, "replicas", &content);
}

/// The offset is the file's length only once COS has the file.
#[test]
fn no_offset_runs_ahead_of_cos() {
    for rule in [
        json!({"stage": "complete", "fault": "status", "status": 500}),
        json!({"stage": "complete", "fault": "reset_before"}),
        json!({"stage": "complete", "fault": "status", "status": 403}),
        json!({"stage": "part", "fault": "status", "status": 503}),
    ] {
        let world = setup().set("cos.reply_timeout", "2s").start();
        let content = noise(2 * MIB + 3, 8);
        let url = create(&world, content.len(), &[("path", "ahead")]);
        world.faults(&json!([rule]));
        let response = patch(&world, &url, 0, &content);
        assert!(response.status >= 500, "{rule}: {}", response.text());
        let at = offset(&world, &url);
        assert!(at < content.len(), "{rule}: {at}");
        assert!(world.objects().iter().all(|object| object["key"] != "ahead"), "{rule}");
        world.control("DELETE", "faults", "");
        let response = patch(&world, &url, at, &content[at..]);
        assert_eq!(response.status, 204, "{rule} at {at}: {}", response.text());
        assert_stored(&world, "ahead", &content);
    }
}

/// A gateway that shuts down stores what it has, and says so.
#[test]
fn a_shutdown_loses_nothing() {
    let keys = "a-key-of-at-least-thirty-two-bytes";
    let mut world = setup().set("resumable.keys", keys).start();
    let content = noise(3 * MIB, 9);
    let url = create(&world, content.len(), &[("path", "drained")]);
    let length = content.len().to_string();
    let mut client = world.client();
    let headers =
        [authorization(), TUS, OCTETS, ("upload-offset", "0"), ("content-length", &length)];
    client.send_head("PATCH", &url, &headers);
    client.send(&content[..MIB + 5000]);
    wait_until("a part arrives", || world.count("upload_part") > 0);
    world.gateway.signal("TERM");
    client.response().problem(503, "draining");
    world.gateway.ended();
    world.restart();
    let at = offset(&world, &url);
    assert!(at >= MIB, "{at}");
    assert_eq!(patch(&world, &url, at, &content[at..]).status, 204);
    assert_stored(&world, "drained", &content);
}

/// An upload that has expired is gone, though its parts may still be there.
#[test]
fn uploads_expire() {
    let keys = "a-key-of-at-least-thirty-two-bytes";
    let world = setup().set("resumable.keys", keys).set("resumable.expire_after", "60s").start();
    let before = tickets::now();
    let url = create(&world, 5, &[("path", "expired")]);
    let keys = SealingKeys::new(&[keys.into()]);
    let segment = url.rsplit('/').next().expect("a segment");
    let mut upload = keys.open(segment).expect("it opens");
    assert!((before + 60..=tickets::now() + 60).contains(&(upload.expires as u64)));
    upload.expires = before as i64 - 1;
    let expired = format!("/v1/uploads/{}", keys.seal(&upload).expect("it is short"));
    patch(&world, &expired, 0, b"12345").problem(404, "upload_not_found");
    world.assert_nothing_stored();
    assert_eq!(patch(&world, &url, 0, b"12345").status, 204);
}
