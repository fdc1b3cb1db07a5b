//! Resumable uploads by forms: the gateway keeps what it has received, in memory or in its spool.

use serde_json::json;

use crate::harness::{Response, Setup, World, authorization, noise, wait_until};
use crate::resumable::{
    OCTETS, TUS, assert_stored, create, metadata, number, offset, patch, path_of, request, send,
};

const MIB: usize = 1 << 20;
const SEALING_KEY: &str = "a-key-of-at-least-thirty-two-bytes";

/// With a spool in a folder of its own.
pub fn with_spool() -> (Setup, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("spool").display().to_string();
    let setup = Setup::new().set("resumable.spool", &path).set("resumable.keys", SEALING_KEY);
    (setup, folder)
}

/// The names of the files in a spool, and the bytes in them.
pub fn spooled(folder: &tempfile::TempDir) -> (Vec<String>, u64) {
    let (mut names, mut bytes) = (Vec::new(), 0);
    for entry in std::fs::read_dir(folder.path().join("spool")).expect("the spool") {
        let entry = entry.expect("a file");
        let name = entry.file_name().into_string().expect("a name");
        if name != "lock" {
            bytes += entry.metadata().map_or(0, |metadata| metadata.len());
            names.push(name);
        }
    }
    (names, bytes)
}

pub fn try_create(world: &World, length: usize, path: &str) -> Response {
    let (length, metadata) = (length.to_string(), metadata(&[("path", path)]));
    let headers = [("upload-length", length.as_str()), ("upload-metadata", &metadata)];
    request(world, "POST", "/v1/uploads", &headers, b"")
}

#[test]
fn a_file_in_pieces_of_any_size() {
    let (setup, folder) = with_spool();
    for world in [Setup::new().start(), setup.start()] {
        for (name, length, piece) in
            [("one", 20 * MIB + 5, 4 * MIB), ("small", 10_000, 4_000), ("a byte", 1, 1)]
        {
            let content = noise(length, 1);
            let url = create(&world, length, &[("path", name), ("filename", "a.bin")]);
            let mut at = 0;
            while at < length {
                let end = (at + piece).min(length);
                let response = patch(&world, &url, at, &content[at..end]);
                assert_eq!(response.status, 204, "{name} at {at}: {}", response.text());
                assert_eq!(number(&response, "upload-offset"), end);
                assert_eq!(response.header("x-file-id").is_some(), end == length, "{name} at {at}");
                assert!(response.header("upload-expires").is_some());
                assert_eq!(offset(&world, &url), end);
                at = end;
            }
            assert_stored(&world, name, &content);
            let got = request(&world, "GET", &url, &[], b"");
            assert_eq!(got.status, 302, "{}", got.text());
            assert!(world.download(got.header("location").expect("a URL")).0 == content);
            // Told again, where the response was lost.
            let again = patch(&world, &url, length, b"");
            assert_eq!((again.status, number(&again, "upload-offset")), (204, length));
            let accept = [("accept", "application/json")];
            let reply = request(&world, "GET", &url, &accept, b"").json();
            let file = &reply["files"][0];
            assert_eq!((&file["size"], &file["verified"]), (&json!(length), &json!(true)));
            world.call("DELETE", &format!("/v1/files/{}", name.replace(' ', "%20")), &json!(null));
        }
    }
    assert_eq!(spooled(&folder).0, [""; 0]);
}

#[test]
fn bytes_in_the_creation_and_an_empty_file() {
    let world = Setup::new().start();
    let content = noise(MIB, 2);
    let length = content.len().to_string();
    let path = metadata(&[("path", "with-upload")]);
    let headers = [("upload-length", length.as_str()), ("upload-metadata", &path), OCTETS];
    let response = request(&world, "POST", "/v1/uploads", &headers, &content);
    assert_eq!((response.status, number(&response, "upload-offset")), (201, content.len()));
    assert!(response.header("x-file-id").is_some());
    assert_stored(&world, "with-upload", &content);
    let empty = try_create(&world, 0, "empty");
    assert_eq!((empty.status, number(&empty, "upload-offset")), (201, 0));
    assert!(empty.header("x-file-id").is_some());
    assert_eq!(offset(&world, &path_of(&empty)), 0);
    assert!(world.object("empty").is_empty());
}

/// What a gateway with this road supports, and what it refuses.
#[test]
fn limits_are_told() {
    let max_size = |world: &World, key: &str| {
        let response = request(world, "OPTIONS", "/v1/uploads", &[], b"");
        let extensions = response.header("tus-extension").expect("the extensions").to_owned();
        assert!(!extensions.contains("defer-length"), "{extensions}");
        let size = number(&response, "tus-max-size");
        try_create(world, size + 1, key).problem(413, "file_too_large");
        let created = try_create(world, size, key);
        assert_eq!(created.status, 201, "{}", created.text());
        let deferred = [("upload-defer-length", "1")];
        request(world, "POST", "/v1/uploads", &deferred, b"").problem(400, "invalid_request");
        size
    };
    let world = Setup::new().set("upload.max_buffered_file", "3MiB").start();
    assert_eq!(max_size(&world, "memory"), 3 * MIB);
    let (setup, _folder) = with_spool();
    let world = setup.set("resumable.spool_limit", "20MiB").start();
    assert_eq!(max_size(&world, "spool"), 15 * MIB);
    // A quarter of what the first client leaves is left for another; this one is the same client.
    try_create(&world, 2 * MIB, "no room").problem(503, "overloaded");
}

/// Memory is bounded: what all uploads reserve is a quarter of the budget, of which a client has three quarters.
#[test]
fn memory_is_reserved_for_whole_files() {
    let world = Setup::new().set("upload.memory_budget", "64MiB").start();
    let content = noise(4 * MIB, 3);
    let urls: Vec<_> =
        (0..3).map(|n| create(&world, 4 * MIB, &[("path", &n.to_string())])).collect();
    let refused = try_create(&world, 1, "3");
    assert!(refused.header("retry-after").is_some());
    refused.problem(503, "overloaded");
    // One that is given up makes room.
    assert_eq!(request(&world, "DELETE", &urls[0], &[], b"").status, 204);
    assert_eq!(request(&world, "HEAD", &urls[0], &[], b"").status, 404);
    let url = create(&world, 4 * MIB, &[("path", "3")]);
    assert_eq!(patch(&world, &url, 0, &content).status, 204);
    assert_eq!(patch(&world, &urls[1], 0, &content[..MIB]).status, 204);
    assert_eq!(patch(&world, &urls[1], MIB, &content[MIB..]).status, 204);
    assert!(world.object("1") == content && world.object("3") == content);
}

/// Killed in the middle of a request, drained, and killed when all bytes are there: the next process goes on.
#[test]
fn the_spool_outlives_the_gateway() {
    let (setup, folder) = with_spool();
    let mut world = setup.start();
    let content = noise(20 * MIB, 4);
    let url = create(&world, content.len(), &[("path", "restarted")]);
    let mut at = 0;
    for (until, signal) in [(6 * MIB, "KILL"), (13 * MIB, "TERM"), (19 * MIB, "KILL")] {
        let start = at.to_string();
        let mut client = world.client();
        let rest = (content.len() - at).to_string();
        let headers =
            [authorization(), TUS, OCTETS, ("upload-offset", &start), ("content-length", &rest)];
        client.send_head("PATCH", &url, &headers);
        client.send(&content[at..until]);
        wait_until("the bytes are in the spool", || spooled(&folder).1 as usize + MIB >= until);
        world.gateway.signal(signal);
        world.gateway.ended();
        world.restart();
        at = offset(&world, &url);
        assert!(at <= until && at + 2 * MIB >= until, "{at} of {until}");
    }
    // COS fails until this gateway is killed, too: the offset is less than the length.
    world.faults(&json!([{"stage": "cos", "fault": "status", "status": 503}]));
    patch(&world, &url, at, &content[at..]).problem(503, "cos_busy");
    world.gateway.signal("KILL");
    world.gateway.ended();
    world.restart();
    world.control("DELETE", "faults", "");
    at = offset(&world, &url);
    assert_eq!(at, content.len() - 1);
    assert_eq!(patch(&world, &url, at, &content[at..]).status, 204);
    assert_stored(&world, "restarted", &content);
    assert_eq!(spooled(&folder).0, [""; 0]);
}

/// COS refuses, fails, stalls or resets: the client hears of it, nothing is stored, and the last byte is enough to try
/// again. What may pass is tried again without the client.
#[test]
fn no_offset_runs_ahead_of_cos() {
    let (setup, _folder) = with_spool();
    let setups = [Setup::new(), setup];
    for world in setups.map(|setup| setup.set("cos.reply_timeout", "1s").start()) {
        for (index, rule) in [
            json!({"fault": "status", "status": 500}),
            json!({"fault": "status", "status": 403}),
            json!({"fault": "reset_within", "after": 1000}),
            json!({"fault": "stall"}),
            json!({"fault": "wrong_crc"}),
        ]
        .into_iter()
        .enumerate()
        {
            let content = noise(2 * MIB + 3, index as u64);
            let key = format!("ahead-{index}");
            let url = create(&world, content.len(), &[("path", &key)]);
            let mut stage = rule.clone();
            stage["stage"] = json!("cos");
            world.faults(&json!([stage]));
            let response = patch(&world, &url, 0, &content);
            assert!(response.status >= 500, "{rule}: {}", response.text());
            let at = offset(&world, &url);
            assert_eq!(at, content.len() - 1, "{rule}");
            let state = request(&world, "GET", &url, &[], b"").json();
            assert_eq!(state["offset"], json!(at), "{rule}: {state}");
            assert!(world.objects().iter().all(|object| object["key"] != key.as_str()), "{rule}");
            world.control("DELETE", "faults", "");
            let response = patch(&world, &url, at, &content[at..]);
            assert_eq!(response.status, 204, "{rule}: {}", response.text());
            assert!(world.object(&key) == content, "{rule}");
        }
        // Twice, then it works: the client does not notice.
        let content = noise(2 * MIB, 9);
        let url = create(&world, content.len(), &[("path", "again")]);
        world.faults(&json!([{"stage": "cos", "fault": "status", "status": 503, "times": 2}]));
        assert_eq!(patch(&world, &url, 0, &content).status, 204);
        assert!(world.object("again") == content);
    }
}

/// A request that hangs is ended by a later one; a look does not end it; types are those of the content.
#[test]
fn requests_of_one_upload() {
    let (setup, folder) = with_spool();
    for world in [Setup::new().start(), setup.start()] {
        let content = noise(3 * MIB, 5);
        let url = create(&world, content.len(), &[("path", "hanging"), ("filename", "a.bin")]);
        let length = content.len().to_string();
        let mut hanging = world.client();
        let headers =
            [authorization(), TUS, OCTETS, ("upload-offset", "0"), ("content-length", &length)];
        hanging.send_head("PATCH", &url, &headers);
        hanging.send(&content[..2 * MIB]);
        let looked = || request(&world, "GET", &url, &[], b"").json()["offset"].as_u64();
        wait_until("the bytes are received", || looked() == Some(2 * MIB as u64));
        assert_eq!(offset(&world, &url), 2 * MIB);
        hanging.response().problem(423, "superseded");
        patch(&world, &url, 5, b"12345").problem(409, "offset_mismatch");
        patch(&world, &url, 2 * MIB, &[0; MIB + 1]).problem(400, "length_mismatch");
        assert_eq!(patch(&world, &url, 2 * MIB, &content[2 * MIB..]).status, 204);
        assert_stored(&world, "hanging", &content);
        // Ended: nothing is left of it.
        let url = create(&world, 10, &[("path", "ended")]);
        assert_eq!(patch(&world, &url, 0, b"12345").status, 204);
        assert_eq!(request(&world, "DELETE", &url, &[], b"").status, 204);
        patch(&world, &url, 5, b"12345").problem(404, "upload_not_found");
    }
    assert_eq!(spooled(&folder).0, [""; 0]);
}

/// A client that cancels too late is not told that its file is gone: by forms, by COS's API, and while the form is sent.
#[test]
fn the_end_of_a_complete_upload_is_refused_and_its_file_stays() {
    let by_forms = Setup::new().start();
    for world in [&by_forms, &crate::resumable::setup().start()] {
        let content = noise(MIB, 3);
        let url = create(world, content.len(), &[("path", "complete")]);
        assert_eq!(patch(world, &url, 0, &content).status, 204);
        for override_method in [false, true] {
            let refused = match override_method {
                false => request(world, "DELETE", &url, &[], b""),
                true => request(world, "POST", &url, &[("x-http-method-override", "DELETE")], b""),
            };
            let problem = refused.problem(405, "method_not_allowed");
            assert!(problem["detail"].as_str().is_some_and(|text| text.contains("/v1/files")));
            assert_eq!(refused.header("allow"), Some("GET, HEAD, PATCH"));
            assert_eq!(offset(world, &url), MIB);
            assert_stored(world, "complete", &content);
        }
        let metrics = crate::measured::metrics(world);
        let terminated = r#"gateway_resumable_total{event="terminated"}"#;
        assert_eq!(crate::measured::value(&metrics, terminated), 0.0);
        // Once the file is deleted, its upload may be ended where that can be known.
        assert_eq!(world.call("DELETE", "/v1/files/complete", &json!(null)).status, 204);
    }
    let world = &by_forms;
    let content = noise(MIB, 4);
    let url = create(world, content.len(), &[("path", "too late")]);
    world.faults(&json!([{"stage": "cos", "fault": "delay", "ms": 1000}]));
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| patch(world, &url, 0, &content));
        wait_until("the form is sent", || !world.objects().is_empty());
        request(world, "DELETE", &url, &[], b"").problem(405, "method_not_allowed");
        assert_eq!(sending.join().expect("a response").status, 204);
    });
    assert!(world.object("too late") == content);
    assert_eq!(offset(world, &url), MIB);
}

/// Upload URLs of one road are unknown to the other; a gateway with another spool knows none of this one's.
#[test]
fn a_gateway_without_the_bytes_does_not_know_the_upload() {
    let (setup, folder) = with_spool();
    let mut world = setup.start();
    let url = create(&world, 10, &[("path", "here")]);
    let other = folder.path().join("other").display().to_string();
    let mut variables = world.variables().clone();
    variables.insert("GATEWAY__RESUMABLE__SPOOL".to_owned(), other);
    let another =
        crate::harness::Gateway::start(&["--profile", "production"], &variables, folder.path());
    let headers = [authorization(), TUS, ("upload-offset", "0"), OCTETS];
    let elsewhere = crate::harness::Client::connect(another.address);
    send(elsewhere, "PATCH", &url, &headers, b"0123456789").problem(404, "upload_not_found");
    drop(another);
    variables.insert("GATEWAY__COS__VIA".to_owned(), "api".to_owned());
    let by_api =
        crate::harness::Gateway::start(&["--profile", "production"], &variables, folder.path());
    let elsewhere = crate::harness::Client::connect(by_api.address);
    send(elsewhere, "PATCH", &url, &headers, b"0123456789").problem(404, "upload_not_found");
    drop(by_api);
    // Without keys of its own, a restarted gateway cannot open the URL; the file is deleted.
    assert_eq!(spooled(&folder).0.len(), 1);
    let mut without_keys = world.variables().clone();
    without_keys.remove("GATEWAY__RESUMABLE__KEYS");
    world.gateway.signal("KILL");
    world.gateway.ended();
    let _restarted =
        crate::harness::Gateway::start(&["--profile", "production"], &without_keys, folder.path());
    assert_eq!(spooled(&folder).0, [""; 0]);
}

/// One gateway uses a spool; a folder that cannot be written to is an error at start.
#[test]
fn a_spool_that_cannot_be_used_is_an_error_at_start() {
    let (setup, folder) = with_spool();
    let world = setup.start();
    let refused = |path: &str| {
        let mut variables = world.variables().clone();
        variables.insert("GATEWAY__RESUMABLE__SPOOL".to_owned(), path.to_owned());
        let mut command =
            crate::harness::command(&["--profile", "production"], &variables, folder.path());
        let output = command.output().expect("it runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let path = folder.path().join("spool").display().to_string();
    let in_use = refused(&path);
    assert!(in_use.contains("resumable.spool: another gateway uses"), "{in_use}");
    let missing = refused("/proc/spool");
    assert!(missing.contains("resumable.spool: /proc/spool"), "{missing}");
}

/// A chunked body of unknown length that is too large for memory.
#[test]
fn a_file_of_unknown_length_is_spooled() {
    let (setup, folder) = with_spool();
    let world = setup.set("upload.max_buffered_file", "1MiB").start();
    let content = noise(9 * MIB + 7, 6);
    let chunked = |path: &str, file: &[u8]| {
        let mut client = world.client();
        let target = format!("/v1/files/{path}");
        client.send_head("PUT", &target, &[authorization(), ("transfer-encoding", "chunked")]);
        file.chunks(300_000).for_each(|chunk| client.send_chunk(chunk));
        client
    };
    let mut client = chunked("unknown", &content);
    client.send(b"0\r\n\r\n");
    client.response().stored();
    assert!(world.object("unknown") == content);
    // One that breaks off leaves nothing.
    let client = chunked("broken", &content);
    drop(client);
    wait_until("it is noticed", || world.gateway.log().contains("truncated_body"));
    assert_eq!(world.objects().len(), 1);
    assert_eq!(spooled(&folder), (Vec::new(), 0));
    let metrics = crate::measured::metrics(&world);
    assert_eq!(crate::measured::value(&metrics, "gateway_spool_bytes"), 0.0);
}

/// A large file takes disk space, not memory: of the gateway while it is received, nor while it is sent.
#[test]
fn memory_does_not_grow_with_the_file() {
    let (setup, folder) = with_spool();
    let world = setup.set("upload.max_file_size", "1GiB").start();
    let pieces = if cfg!(debug_assertions) { 6 } else { 10 };
    let piece = noise(50 * MIB, 7);
    let upload = |path: &str, count: usize| {
        let url = create(&world, count * piece.len(), &[("path", path)]);
        for index in 0..count {
            let response = patch(&world, &url, index * piece.len(), &piece);
            assert_eq!(response.status, 204, "{}", response.text());
        }
    };
    upload("warm", 4);
    let before = world.gateway.memory("VmHWM");
    upload("large", pieces);
    let after = world.gateway.memory("VmHWM");
    println!(
        "{} MiB by the spool: RSS at most {before} KiB before, {after} KiB after",
        50 * pieces
    );
    assert!(after <= before + (8 << 10), "{before} KiB, {after} KiB");
    assert!(world.object("large") == piece.repeat(pieces));
    assert_eq!(spooled(&folder), (Vec::new(), 0));
}
