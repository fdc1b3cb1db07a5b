//! tus-js-client#557: an upload must not be told to be complete before it is. Whatever COS does when the parts are put
//! together, the offset is the file's length only if the file is stored, and a later `PATCH` ends well.

use serde_json::{Value, json};

use crate::harness::{Response, World, noise, wait_until};
use crate::resumable::{MIB, create, number, patch, request, setup};

/// Each kind of fault that the sandbox has at this stage.
fn faults() -> Vec<Value> {
    [
        json!({"fault": "reset_before"}),
        json!({"fault": "reset_within", "after": 10, "store": false}),
        json!({"fault": "reset_within", "after": 10}),
        json!({"fault": "stall"}),
        json!({"fault": "slow", "bytes_per_second": 1000}),
        json!({"fault": "delay", "ms": 300}),
        json!({"fault": "delay", "ms": 1000}),
        json!({"fault": "status", "status": 400, "code": "MalformedXML"}),
        json!({"fault": "status", "status": 403, "code": "AccessDenied"}),
        json!({"fault": "status", "status": 404, "code": "NoSuchUpload"}),
        json!({"fault": "status", "status": 500}),
        json!({"fault": "status", "status": 503, "code": "SlowDown"}),
        json!({"fault": "status", "status": 500, "store": true}),
        json!({"fault": "error_200"}),
        json!({"fault": "garbage"}),
        json!({"fault": "huge"}),
        json!({"fault": "close"}),
        json!({"fault": "close", "store": true}),
        json!({"fault": "wrong_crc"}),
        json!({"fault": "no_crc"}),
        json!({"fault": "wrong_etag"}),
        json!({"fault": "expire_keys"}),
        json!({"fault": "close_idle"}),
    ]
    .into_iter()
    .map(|mut rule| {
        rule["stage"] = json!("complete");
        rule
    })
    .collect()
}

fn is_stored(world: &World, key: &str, content: &[u8]) -> bool {
    let is_there = world.objects().iter().any(|object| object["key"] == key);
    assert!(!is_there || world.object(key) == content, "{key} has other bytes");
    is_there
}

/// Asks for the offset; asserts that it is the length only if the file is stored. `None`: the upload is gone.
fn checked_offset(world: &World, url: &str, key: &str, content: &[u8]) -> Option<usize> {
    let response = request(world, "HEAD", url, &[], b"");
    if response.status == 404 {
        assert!(!is_stored(world, key, content), "{key}: stored, and told to be gone");
        return None;
    }
    assert_eq!(response.status, 200, "{key}: {response:?}");
    let offset = number(&response, "upload-offset");
    assert!(offset <= content.len());
    assert!(offset < content.len() || is_stored(world, key, content), "{key}: told too early");
    Some(offset)
}

fn assert_told_truly(world: &World, response: &Response, key: &str, content: &[u8]) {
    match response.status {
        204 => {
            assert_eq!(number(response, "upload-offset"), content.len(), "{key}");
            assert!(is_stored(world, key, content), "{key}: told too early");
        }
        // The status of which clients of tus try again.
        status => assert!(status == 423 || status >= 500, "{key}: {}", response.text()),
    }
}

fn survives(rule: &Value) {
    let world = setup().set("cos.reply_timeout", "500ms").start();
    let lengths = [2 * MIB + 9, 500_000, 2 * MIB];
    // Each attempt takes as long as COS may.
    let is_slow = rule["fault"] == "stall" || rule["ms"] == 1000;
    for length in &lengths[..if is_slow { 1 } else { 3 }] {
        let length = *length;
        let key = format!("{length}");
        let content = noise(length, length as u64);
        let url = create(&world, length, &[("path", &key)]);
        world.faults(&json!([rule]));
        let told = std::thread::scope(|scope| {
            let sending = scope.spawn(|| patch(&world, &url, 0, &content));
            wait_until("COS is told to complete the file, or will not be", || {
                world.count("complete") > 0 || sending.is_finished()
            });
            // At any time, also while that hangs. It ends the request, if that is not complete.
            checked_offset(&world, &url, &key, &content);
            sending.join().expect("a response")
        });
        assert_told_truly(&world, &told, &key, &content);
        let at = checked_offset(&world, &url, &key, &content);
        if let Some(at) = at.filter(|at| *at < length) {
            // As a client does that tries again at once.
            let again = patch(&world, &url, at, &content[at..]);
            assert_told_truly(&world, &again, &key, &content);
        }
        world.control("DELETE", "faults", "");
        match checked_offset(&world, &url, &key, &content) {
            Some(at) => {
                let response = patch(&world, &url, at, &content[at..]);
                assert_eq!(response.status, 204, "{rule}: {}", response.text());
                assert!(is_stored(&world, &key, &content), "{rule}");
            }
            // Its bytes were wrong, by COS's checksum: they are deleted.
            None => assert_eq!(rule["fault"], "wrong_crc", "{rule}"),
        }
        assert!(world.multipart_uploads().is_empty(), "{rule}");
        world.control("POST", "reset", "");
    }
}

#[test]
fn an_upload_is_told_to_be_complete_only_if_it_is_whatever_cos_does() {
    let faults = faults();
    // As many at once as keep the processes of a small machine busy.
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(rule) =
                    faults.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    let began = std::time::Instant::now();
                    survives(rule);
                    println!("{rule}: {:?}", began.elapsed());
                }
            });
        }
    });
}
