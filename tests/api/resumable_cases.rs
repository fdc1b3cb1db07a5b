//! Resumable uploads together with what the gateway has for other uploads: idempotency, verification, limits, failures.

use serde_json::{Value, json};

use crate::harness::{Response, Setup, World, authorization, noise, wait_until};
use crate::resumable::{
    MIB, OCTETS, TUS, create, metadata, number, offset, patch, path_of, request, send, setup,
};
use crate::tickets;

/// By forms, and by COS's API.
fn roads() -> [Setup; 2] {
    [Setup::new(), setup()]
}

fn get(world: &World, url: &str) -> Response {
    request(world, "GET", url, &[("accept", "application/json")], b"")
}

/// Its file, as the response of a finished upload has it.
fn stored_file(world: &World, url: &str) -> Value {
    let response = get(world, url);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["files"][0].clone()
}

#[test]
fn bytes_beyond_the_end_are_refused() {
    for setup in roads() {
        let world = setup.start();
        // An empty file.
        let path = metadata(&[("path", "empty")]);
        let headers = [("upload-length", "0"), ("upload-metadata", path.as_str()), OCTETS];
        let mismatch = |response: &Response| response.problem(400, "length_mismatch");
        mismatch(&request(&world, "POST", "/v1/uploads", &headers, b"xyz"));
        let chunked = [&headers[..], &[("transfer-encoding", "chunked")]].concat();
        let mut client = world.client();
        client.send_head("POST", "/v1/uploads", &[&chunked[..], &[authorization(), TUS]].concat());
        client.send_chunk(b"xyz");
        client.finish();
        mismatch(&client.response());
        world.assert_nothing_stored();
        let empty = path_of(&request(&world, "POST", "/v1/uploads", &headers, b""));
        // One that is begun, by a body of unknown length.
        let begun = create(&world, 1000, &[("path", "begun")]);
        assert_eq!(patch(&world, &begun, 0, &[7; 600]).status, 204);
        let mut client = world.client();
        let headers = [("upload-offset", "600"), ("transfer-encoding", "chunked"), OCTETS];
        client.send_head("PATCH", &begun, &[&headers[..], &[authorization(), TUS]].concat());
        client.send_chunk(&[7; 401]);
        client.finish();
        let problem = mismatch(&client.response());
        assert_eq!(problem["detail"], "1000 bytes were declared, but 1001 were received");
        assert_eq!(offset(&world, &begun), 600);
        assert_eq!(request(&world, "DELETE", &begun, &[], b"").status, 204);
        // One that is complete.
        let content = noise(1000, 1);
        let whole = create(&world, content.len(), &[("path", "whole")]);
        assert_eq!(patch(&world, &whole, 0, &content).status, 204);
        for (url, length) in [(&empty, 0), (&whole, content.len())] {
            mismatch(&patch(&world, url, length, b"more"));
            // Nothing more, as a client sends it that had no response.
            assert_eq!(patch(&world, url, length, b"").status, 204);
            assert_eq!(offset(&world, url), length);
        }
        assert_eq!(world.object("whole"), content);
    }
}

#[test]
fn paths_that_are_not_text_and_pieces_to_be_put_together_are_refused() {
    for setup in roads() {
        let world = setup.start();
        let created = |headers: &[(&str, &str)]| {
            let headers = [&[("upload-length", "5")], headers].concat();
            request(&world, "POST", "/v1/uploads", &headers, b"")
        };
        // `a/\xff.txt`, `\xd6\xd0`
        for naming in ["path YS//LnR4dA==", "dir 1tA="] {
            created(&[("upload-metadata", naming)]).problem(400, "invalid_path");
        }
        let own = metadata(&[("path", ".resumable/x")]);
        created(&[("upload-metadata", &own)]).problem(400, "invalid_path");
        assert_eq!(created(&[("upload-metadata", "filename 1tA=")]).status, 201);
        for piece in ["partial", "final;/v1/uploads/a /v1/uploads/b"] {
            created(&[("upload-concat", piece)]).problem(400, "invalid_request");
        }
    }
}

#[test]
fn a_creation_that_is_repeated_under_its_key_is_one_upload() {
    for setup in roads() {
        let world = setup.start();
        let content = noise(MIB + 5, 1);
        let length = content.len().to_string();
        let created = |key: &str, path: &str, body: &[u8]| {
            let path = metadata(&[("path", path)]);
            let mut headers = vec![
                ("idempotency-key", key),
                ("upload-length", length.as_str()),
                ("upload-metadata", path.as_str()),
            ];
            headers.extend(if body.is_empty() { None } else { Some(OCTETS) });
            let response = request(&world, "POST", "/v1/uploads", &headers, body);
            assert_eq!(response.status, 201, "{}", response.text());
            response
        };
        let is_replayed = |response: &Response| response.header("idempotent-replayed").is_some();
        let first = created("one", "pieces", b"");
        let url = path_of(&first);
        assert_eq!(patch(&world, &url, 0, &content[..1000]).status, 204);
        let again = created("one", "pieces", b"");
        assert!(!is_replayed(&first) && is_replayed(&again));
        assert_eq!(path_of(&again), url);
        assert_eq!(offset(&world, &url), 1000);
        assert_ne!(path_of(&created("two", "another", b"")), url);
        // The key is that of another file.
        for (length, path) in [(length.as_str(), "other"), ("5", "pieces")] {
            let path = metadata(&[("path", path)]);
            let headers =
                [("idempotency-key", "one"), ("upload-length", length), ("upload-metadata", &path)];
            let response = request(&world, "POST", "/v1/uploads", &headers, b"");
            let code = response.json()["code"].clone();
            assert_eq!((response.status, code), (400, json!("invalid_request")));
        }
        // Also once it is stored: the client is told so at its URL.
        assert_eq!(patch(&world, &url, 1000, &content[1000..]).status, 204);
        assert_eq!(path_of(&created("one", "pieces", b"")), url);
        assert_eq!(offset(&world, &url), content.len());
        assert!(world.object("pieces") == content);
        // With its bytes.
        let first = created("three", "at once", &content);
        let again = created("three", "at once", &content);
        assert!(is_replayed(&again));
        for response in [&first, &again] {
            assert_eq!(number(response, "upload-offset"), content.len());
            assert!(response.header("x-file-id").is_some());
        }
        assert_eq!(path_of(&first), path_of(&again));
        assert!(world.object("at once") == content);
    }
}

/// COS returns no CRC-64: a HEAD request over the stored file has it.
#[test]
fn a_file_is_verified_by_a_head_request() {
    for (is_api, stages) in [(false, vec![]), (true, vec!["part", "complete"])] {
        for (verify, expected) in [("head", json!("head")), ("reply", Value::Null)] {
            let without_crc = match is_api {
                false => Setup::new().sandbox(|options| options.post_crc = false),
                true => setup(),
            };
            let world = without_crc.set("cos.verify", verify).start();
            let rules = stages.iter().map(|stage| json!({"stage": stage, "fault": "no_crc"}));
            world.faults(&Value::Array(rules.collect()));
            for length in [1, MIB, 2 * MIB + 7] {
                let content = noise(length, 2);
                let url = create(&world, length, &[]);
                assert_eq!(patch(&world, &url, 0, &content).status, 204);
                let file = stored_file(&world, &url);
                assert_eq!(file["verified"], json!(verify == "head"), "{verify}: {file}");
                assert_eq!(file["verified_by"], expected, "{verify}: {file}");
                assert!(world.object(file["path"].as_str().expect("a path")) == content);
            }
        }
    }
}

/// A client is told by GET what the response of an upload says.
#[test]
fn a_stored_upload_is_told_with_its_verification() {
    for setup in roads() {
        let world = setup.start();
        for length in [0, 5, MIB + 1] {
            let content = noise(length, 3);
            let url = create(&world, length, &[("filename", "a.bin")]);
            if length > 0 {
                let state = get(&world, &url);
                assert_eq!((state.status, &state.json()["offset"]), (200, &json!(0)));
                assert_eq!(patch(&world, &url, 0, &content).status, 204);
                let file = stored_file(&world, &url);
                assert_eq!(file["verified"], json!(true), "{file}");
                assert_eq!(file["verified_by"], json!("reply"), "{file}");
            }
            let file = stored_file(&world, &url);
            assert_eq!((&file["size"], &file["name"]), (&json!(length), &json!("a.bin")));
        }
    }
}

/// Parts that are larger than the smallest one: what is less than a part is the tail, which is read and written again.
#[test]
fn tails_of_large_parts() {
    let world = setup().set("cos.api.part_size", "3MiB").start();
    let content = noise(10 * MIB + 11, 4);
    let url = create(&world, content.len(), &[("path", "large parts")]);
    let ends = [MIB, 2 * MIB + 5, 3 * MIB - 1, 3 * MIB, 7 * MIB, 9 * MIB - 1, content.len()];
    let mut at = 0;
    for end in ends {
        let response = patch(&world, &url, at, &content[at..end]);
        assert_eq!(response.status, 204, "{end}: {}", response.text());
        assert_eq!(offset(&world, &url), end);
        at = end;
    }
    assert!(world.object("large parts") == content);
    wait_until("its tail is deleted", || world.objects().len() == 1);
}

/// Without memory for a part whose length is unknown, nothing is lost, and an announced one is sent as it comes.
#[test]
fn a_body_of_unknown_length_without_memory() {
    let small = setup().set("upload.memory_budget", "1MiB").set("upload.max_buffered_file", "1MiB");
    let world = small.set("upload.replay_window_max", "256KiB").start();
    for (index, length) in [MIB + 5, 2 * MIB, 3 * MIB + 1].into_iter().enumerate() {
        let content = noise(length, index as u64);
        let key = index.to_string();
        let url = create(&world, length, &[("path", &key)]);
        let mut client = world.client();
        let chunked = ("transfer-encoding", "chunked");
        let headers = [authorization(), TUS, OCTETS, ("upload-offset", "0"), chunked];
        client.send_head("PATCH", &url, &headers);
        for chunk in content.chunks(100_000) {
            let mut bytes = format!("{:x}\r\n", chunk.len()).into_bytes();
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
            if client.try_send(&bytes).is_err() {
                break;
            }
        }
        let _ = client.try_send(b"0\r\n\r\n");
        client.response().problem(503, "overloaded");
        let at = offset(&world, &url);
        assert!(at < length, "{at}");
        let response = patch(&world, &url, at, &content[at..]);
        assert_eq!(response.status, 204, "{at} of {length}: {}", response.text());
        assert!(world.object(&key) == content);
    }
}

/// COS fails while the first bytes are taken: the client has the URL, and continues.
#[test]
fn a_creation_with_bytes_outlives_a_failure_of_cos() {
    let stages: [&[&str]; 2] = [&["cos"], &["part", "complete"]];
    for (setup, stages) in roads().into_iter().zip(stages) {
        let world = setup.set("cos.reply_timeout", "1s").start();
        for (index, fault) in [
            json!({"fault": "status", "status": 503}),
            json!({"fault": "reset_before"}),
            json!({"fault": "stall"}),
        ]
        .into_iter()
        .enumerate()
        {
            let rules = stages.iter().map(|stage| {
                let mut rule = fault.clone();
                rule["stage"] = json!(stage);
                rule
            });
            world.faults(&Value::Array(rules.collect()));
            let content = noise(2 * MIB + 3, index as u64);
            let (length, key) = (content.len().to_string(), index.to_string());
            let path = metadata(&[("path", &key)]);
            let headers = [("upload-length", length.as_str()), ("upload-metadata", &path), OCTETS];
            let response = request(&world, "POST", "/v1/uploads", &headers, &content);
            assert_eq!(response.status, 201, "{fault}: {}", response.text());
            assert!(response.header("x-file-id").is_none());
            assert!(number(&response, "upload-offset") < content.len());
            let url = path_of(&response);
            world.control("DELETE", "faults", "");
            let at = offset(&world, &url);
            assert!(at < content.len(), "{fault}");
            let response = patch(&world, &url, at, &content[at..]);
            assert_eq!(response.status, 204, "{fault}: {}", response.text());
            assert!(world.object(&key) == content, "{fault}");
        }
    }
}

/// A file that is refused for its first bytes is refused before any of them is kept.
#[test]
fn the_right_bytes_after_wrong_ones() {
    for setup in [tickets::setup(), tickets::setup().by_api()] {
        let world = setup.start();
        let ticket = tickets::ticket(json!({"sub": "one", "types": ["image/png"]}));
        let token = format!("Bearer {ticket}");
        let call = |method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]| {
            let headers = [headers, &[("authorization", token.as_str()), TUS]].concat();
            send(world.client(), method, target, &headers, body)
        };
        let name = metadata(&[("filename", "a.png")]);
        let headers = [("upload-length", "5000"), ("upload-metadata", name.as_str())];
        let url = path_of(&call("POST", "/v1/uploads", &headers, b""));
        let bytes = |start: &[u8]| {
            let mut bytes = start.to_vec();
            bytes.resize(5000, b'0');
            bytes
        };
        let at_start = [("upload-offset", "0"), OCTETS];
        for wrong in [&b"<html>"[..], b"%PDF-1.7", b"GIF89a"] {
            call("PATCH", &url, &at_start, &bytes(wrong)).problem(415, "type_not_allowed");
            let at = call("HEAD", &url, &[], b"");
            assert_eq!((at.status, number(&at, "upload-offset")), (200, 0));
        }
        assert_eq!(call("PATCH", &url, &at_start, &bytes(b"\x89PNG\r\n\x1a\n")).status, 204);
        let at = call("HEAD", &url, &[], b"");
        assert_eq!(number(&at, "upload-offset"), 5000);
    }
}

/// A HEAD that is refused for what may pass must not make clients begin anew: 423, and when to ask again.
#[test]
fn an_offset_that_cannot_be_told_now_is_not_a_lost_upload() {
    let world = setup().set("cos.reply_timeout", "500ms").start();
    let content = noise(MIB + 5, 6);
    let url = create(&world, content.len(), &[("path", "later")]);
    assert_eq!(patch(&world, &url, 0, &content[..MIB]).status, 204);
    for fault in [
        json!({"fault": "status", "status": 503, "code": "SlowDown"}),
        json!({"fault": "status", "status": 500}),
        json!({"fault": "reset_before"}),
        json!({"fault": "stall"}),
    ] {
        let rules = ["list_parts", "object", "head"].map(|stage| {
            let mut rule = fault.clone();
            rule["stage"] = json!(stage);
            rule
        });
        world.faults(&json!(rules));
        let head = request(&world, "HEAD", &url, &[], b"");
        assert_eq!(head.status, 423, "{fault}: {head:?}");
        assert!(head.header("retry-after").is_some(), "{fault}");
        let overridden = [("x-http-method-override", "HEAD")];
        let response = request(&world, "POST", &url, &overridden, b"");
        response.problem(423, "offset_unavailable");
        world.control("DELETE", "faults", "");
        assert_eq!(offset(&world, &url), MIB, "{fault}");
    }
    assert_eq!(patch(&world, &url, MIB, &content[MIB..]).status, 204);
    assert!(world.object("later") == content);
}

/// A client that asks too often is told by HEAD in the same way.
#[test]
fn a_rate_that_is_exceeded_is_not_a_lost_upload() {
    for setup in roads() {
        let world = setup.set("auth.keys.panel.rate", "5/h").start();
        let url = create(&world, 5, &[("path", "often")]);
        for _ in 0..4 {
            assert_eq!(offset(&world, &url), 0);
        }
        for _ in 0..3 {
            let head = request(&world, "HEAD", &url, &[], b"");
            assert_eq!(head.status, 423, "{head:?}");
            assert!(head.header("retry-after").is_some());
        }
        patch(&world, &url, 0, b"12345").problem(429, "rate_limited");
        get(&world, &url).problem(429, "rate_limited");
    }
}
