//! How it is verified that COS stored the bytes that were sent (`cos.verify`), by forms and by COS's API.

use serde_json::{Value, json};

use crate::harness::{Form, Setup, World, authorization, noise};

const MIB: usize = 1 << 20;

/// COS documents no CRC-64 for forms.
fn without_crc(verify: &str) -> World {
    Setup::new().sandbox(|options| options.post_crc = false).set("cos.verify", verify).start()
}

fn form(bytes: &[u8]) -> Form {
    Form::new().file("file", "photo.jpg", "image/jpeg", bytes)
}

fn verified(file: &Value) -> (bool, Option<&str>) {
    (file["verified"].as_bool().expect("a flag"), file["verified_by"].as_str())
}

#[test]
fn a_response_with_a_crc_verifies_the_file() {
    for (verify, expected) in [
        ("reply", (true, Some("reply"))),
        ("head", (true, Some("reply"))),
        ("none", (true, Some("reply"))),
    ] {
        let world = Setup::new().set("cos.verify", verify).start();
        assert_eq!(verified(&world.post(&form(b"content")).stored()), expected, "{verify}");
        let wrong = json!([{"stage": "cos", "fault": "wrong_crc", "times": 1}]);
        world.faults(&wrong);
        let response = world.post(&form(b"content"));
        if verify == "none" {
            assert_eq!(verified(&response.stored()), (false, None));
        } else {
            response.problem(502, "integrity_mismatch");
            assert_eq!(world.objects().len(), 1, "the damaged object is deleted");
        }
    }
}

#[test]
fn without_a_crc_a_form_is_verified_by_a_head_request() {
    for (verify, expected) in
        [("reply", (false, None)), ("head", (true, Some("head"))), ("none", (false, None))]
    {
        let world = without_crc(verify);
        for size in [0, 70_000, 3 * MIB] {
            let bytes = noise(size, 1);
            let file = world.post(&form(&bytes)).stored();
            assert_eq!(verified(&file), expected, "{verify}, {size}");
            assert_eq!(world.object(file["path"].as_str().expect("a path")), bytes);
        }
        // A path that was there before: its download link is a new one.
        for content in [b"one".as_slice(), b"twos", b"three"] {
            let put = world.call_with(
                "PUT",
                "/v1/files/a.txt",
                &[authorization()],
                std::str::from_utf8(content).expect("text"),
            );
            assert_eq!(verified(&put.stored()), expected);
        }
    }
}

#[test]
fn a_truncated_object_is_found_by_a_head_request() {
    let truncate = json!([{"stage": "cos", "fault": "truncate", "after": 1000, "times": 1}]);
    for bytes in [noise(1001, 1), noise(70_000, 2), noise(2 * MIB, 3)] {
        let world = without_crc("head");
        world.faults(&truncate);
        world.post(&form(&bytes)).problem(502, "integrity_mismatch");
        world.assert_nothing_stored();
        assert_eq!(verified(&world.post(&form(&bytes)).stored()), (true, Some("head")));
    }
}

#[test]
fn a_head_request_that_fails_leaves_the_file_unverified() {
    for fault in [
        json!([{"stage": "object", "fault": "status", "status": 403}]),
        json!([{"stage": "object", "fault": "reset_before"}]),
        json!([{"stage": "download", "fault": "errcode", "errcode": -501007}]),
    ] {
        let world = without_crc("head");
        world.faults(&fault);
        let file = world.post(&form(b"content")).stored();
        assert_eq!(verified(&file), (false, None), "{fault}");
        assert_eq!(world.object(file["path"].as_str().expect("a path")), b"content");
        world.gateway.log_with("could not be verified");
    }
}

#[test]
fn parts_and_objects_are_verified_by_the_api() {
    let no_crc = |stages: &[&str]| {
        let rule = |stage: &&str| json!({"stage": stage, "fault": "no_crc"});
        Value::Array(stages.iter().map(rule).collect())
    };
    let (small, large) = (noise(70_000, 1), noise(10 * MIB, 2));
    for (verify, faults, bytes, expected) in [
        ("reply", no_crc(&[]), &small, (true, Some("reply"))),
        ("reply", no_crc(&[]), &large, (true, Some("reply"))),
        ("reply", no_crc(&["put"]), &small, (false, None)),
        ("head", no_crc(&["put"]), &small, (true, Some("head"))),
        ("reply", no_crc(&["complete"]), &large, (true, Some("parts"))),
        ("reply", no_crc(&["part", "complete"]), &large, (false, None)),
        ("head", no_crc(&["part", "complete"]), &large, (true, Some("head"))),
        ("none", no_crc(&["part", "complete"]), &large, (false, None)),
    ] {
        let world = Setup::new().by_api().set("cos.verify", verify).start();
        world.faults(&faults);
        let file = world.post(&form(bytes)).stored();
        assert_eq!(verified(&file), expected, "{verify}, {faults}");
        assert!(world.object(file["path"].as_str().expect("a path")) == *bytes);
    }
}

#[test]
fn a_wrong_crc_of_a_head_request_deletes_the_object() {
    for (stages, bytes) in [
        (vec!["put"], noise(70_000, 1)),
        (vec!["part", "complete"], noise(9 * MIB, 2)),
        (vec!["part", "complete"], noise(20 * MIB, 3)),
    ] {
        let world = Setup::new().by_api().set("cos.verify", "head").start();
        let mut faults: Vec<_> =
            stages.iter().map(|stage| json!({"stage": stage, "fault": "no_crc"})).collect();
        faults.push(json!({"stage": "head", "fault": "wrong_crc"}));
        world.faults(&Value::Array(faults));
        world.post(&form(&bytes)).problem(502, "integrity_mismatch");
        world.assert_nothing_stored();
        assert!(world.multipart_uploads().is_empty());
    }
}
