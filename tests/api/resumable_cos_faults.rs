//! Resumable uploads while COS fails: the offset that is told is never more than what is stored, and the upload goes on.

use std::time::Duration;

use actix_web::rt::System;
use futures::future::join_all;
use serde_json::{Value, json};
use tcb_upload_gateway::cos::api::resumable::{AppendError, Completed, Progress, StoredFile};
use tcb_upload_gateway::cos::error::CosError;
use tcb_upload_gateway::cos::upstream::Timeouts;
use tcb_upload_gateway::cos::verdict::VerifiedBy;

use crate::cos_api_sandbox::{KEY, start};
use crate::harness::noise;
use crate::resumable_cos::{PART, Replica, assert_no_others, assert_stored, is_source, source};

/// COS takes too long soon.
const SHORT: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    write: Duration::from_millis(300),
    response: Duration::from_millis(300),
};

const MEMORY: u64 = 64 << 20;

/// `fault` at `stage`, with further members.
fn rule(stage: &str, fault: &str, more: &Value) -> Value {
    let mut rule = json!({"stage": stage, "fault": fault});
    let members = rule.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
    rule
}

#[test]
fn an_offset_is_never_the_length_before_the_object_is_there() {
    let faults = [
        ("reset_before", json!({})),
        ("reset_within", json!({"after": 10, "store": false})),
        ("stall", json!({})),
        ("close", json!({})),
        ("garbage", json!({})),
        ("error_200", json!({})),
        ("status", json!({"status": 500})),
        ("status", json!({"status": 403, "code": "AccessDenied"})),
        // The object is complete, and only the response is lost.
        ("status", json!({"status": 500, "store": true})),
        ("close", json!({"store": true})),
    ];
    for (fault, more) in &faults {
        let lengths = [500_000, PART, 2 * PART, 2 * PART + 9];
        System::new().block_on(async {
            let uploads = lengths.map(async |length| {
                let cos = start(|_| {});
                let content = noise(length, 1);
                let replica = Replica::with(&cos, SHORT, MEMORY);
                let upload = replica.create(Some(length as u64)).await;
                replica.send(&upload, &content, length / 3).await;
                cos.faults(&json!([rule("complete", fault, more)]));
                let appended = replica.send(&upload, &content, length).await;
                let is_lost = appended.stored.is_some();
                if is_lost {
                    // A further attempt has found that the first one succeeded.
                    assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
                } else {
                    assert!(matches!(appended.error, Some(AppendError::Cos(_))), "{appended:?}");
                    assert!(appended.offset < length as u64, "{appended:?}");
                    assert!(appended.offset >= (length / 3) as u64, "{appended:?}");
                }
                cos.faults(&json!([]));
                if matches!(replica.progress(&upload).await, Progress::Stored(_)) {
                    assert!(cos.object(KEY).as_deref() == Some(&content[..]));
                    let executes = *fault == "reset_within" || more["store"] == true;
                    assert!(is_lost || executes, "{fault} {more}");
                    return;
                }
                assert!(!is_lost && cos.object(KEY).is_none(), "{fault} {more}");
                assert_eq!(replica.offset(&upload).await, appended.offset, "{fault} {more}");
                let appended = replica.send(&upload, &content, length).await;
                // The CRC of the parts before is known from a tail only.
                let by = appended.stored.as_ref().and_then(|file| file.verified_by);
                assert_stored(&cos, &appended, &content, by);
            });
            join_all(uploads).await;
        });
    }
}

/// The client's last request has failed, and asks for the offset after the object was completed all the same.
#[test]
fn an_object_that_was_completed_unnoticed_is_found() {
    for times in [1, 4] {
        let cos = start(|_| {});
        let content = noise(PART + 1, 2);
        System::new().block_on(async {
            let replica = Replica::with(&cos, SHORT, MEMORY);
            let upload = replica.create(Some(content.len() as u64)).await;
            // All that would find it fail, too.
            let lost = json!({"status": 500, "store": true, "times": 1});
            let more = json!({"status": 500, "times": times - 1});
            let head = json!({"status": 403, "code": "AccessDenied", "path": KEY, "times": 1});
            cos.faults(&json!([
                rule("complete", "status", &lost),
                rule("complete", "status", &more),
                rule("head", "status", &head),
            ]));
            let appended = replica.send(&upload, &content, content.len()).await;
            assert!(appended.error.is_some() && appended.offset < content.len() as u64);
            let file = StoredFile {
                size: content.len() as u64,
                crc64: crate::harness::crc64(&content).parse().ok(),
                verified_by: None,
            };
            cos.faults(&json!([]));
            // Nothing has followed yet, until it is closed.
            for is_closed in [false, true] {
                let stored = Progress::Stored(Completed { file: file.clone(), is_closed });
                assert_eq!(replica.progress(&upload).await, stored);
                replica.resumable().close(&upload.id).await;
            }
            assert!(cos.object(KEY).as_deref() == Some(&content[..]));
        });
    }
}

#[test]
fn what_fails_once_is_done_again() {
    let faults = [
        ("status", json!({"status": 503})),
        ("reset_before", json!({})),
        ("close", json!({})),
        ("stall", json!({})),
    ];
    let stages = [
        ("part", ""),
        ("put", "lease"),
        ("put", "tail"),
        ("object", "lease"),
        ("object", "tail"),
        ("head", "tail"),
        ("list_parts", ""),
        ("complete", ""),
    ];
    System::new().block_on(async {
        let uploads = faults.iter().map(async |(fault, more)| {
            let cos = start(|_| {});
            let content = noise(2 * PART + 9, 3);
            let replica = Replica::with(&cos, SHORT, MEMORY);
            for (stage, path) in stages {
                let mut once = rule(stage, fault, more);
                once["times"] = json!(1);
                once["path"] = json!(path);
                let upload = replica.create(Some(content.len() as u64)).await;
                replica.send(&upload, &content, 1000).await;
                cos.faults(&json!([once]));
                let appended = replica.send(&upload, &content, PART + 10).await;
                assert!(appended.error.is_none(), "{fault} at {stage} {path}: {appended:?}");
                assert_eq!(replica.offset(&upload).await, (PART + 1010) as u64);
                let appended = replica.send(&upload, &content, content.len()).await;
                assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
            }
        });
        join_all(uploads).await;
    });
}

#[test]
fn a_part_that_fails_once_is_sent_again() {
    for (fault, more) in [
        ("reset_within", json!({"after": 300_000})),
        ("wrong_crc", json!({})),
        ("too_slow", json!({})),
        ("early", json!({"status": 500, "after": 1000})),
        ("stall", json!({"after": 1000})),
    ] {
        for part in [1, 2, 3] {
            let cos = start(|_| {});
            let content = noise(2 * PART + 400_000, 4);
            System::new().block_on(async {
                let replica = Replica::with(&cos, SHORT, MEMORY);
                let mut once = rule("part", fault, &more);
                once["times"] = json!(1);
                once["part"] = json!(part);
                cos.faults(&json!([once]));
                let upload = replica.create(Some(content.len() as u64)).await;
                let appended = replica.send(&upload, &content, content.len()).await;
                assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
            });
        }
    }
}

/// The parts before it count, those after it do not, and neither does the part itself if COS has it with other bytes.
#[test]
fn a_part_that_cannot_be_sent_ends_the_session() {
    for (fault, more) in [
        ("status", json!({"status": 503})),
        ("status", json!({"status": 403, "code": "AccessDenied"})),
        ("wrong_crc", json!({})),
        ("reset_before", json!({})),
    ] {
        System::new().block_on(async {
            let uploads = [1, 2, 3, 4].map(async |part| {
                let cos = start(|_| {});
                let content = noise(3 * PART + 400_000, 5);
                let replica = Replica::with(&cos, SHORT, MEMORY);
                // The request that makes a part with wrong bytes not count is not affected.
                let mut always = rule("part", fault, &more);
                always["part"] = json!(part);
                always["times"] =
                    json!(if fault == "status" && more["status"] == 403 { 1 } else { 4 });
                cos.faults(&json!([always]));
                let upload = replica.create(Some(content.len() as u64)).await;
                let appended = replica.send(&upload, &content, content.len()).await;
                assert!(matches!(appended.error, Some(AppendError::Cos(_))), "{appended:?}");
                let full = (part as u64 - 1) * PART as u64;
                assert_eq!((appended.offset, appended.stored), (full, None), "{fault} {part}");
                cos.faults(&json!([]));
                assert_eq!(replica.offset(&upload).await, full, "{fault} {part}");
                let appended = replica.send(&upload, &content, content.len()).await;
                assert!(appended.error.is_none(), "{:?}", appended.error);
                assert!(cos.object(KEY).as_deref() == Some(&content[..]));
                assert_no_others(&cos, &[KEY]);
            });
            join_all(uploads).await;
        });
    }
}

/// A success before the part's last byte, whose ETag COS does not know: the part does not count.
#[test]
fn a_part_that_cos_does_not_have_is_sent_again() {
    for part in [1, 2, 3] {
        let cos = start(|_| {});
        let content = noise(2 * PART + 400_000, 8);
        System::new().block_on(async {
            let replica = Replica::with(&cos, SHORT, MEMORY);
            let wrong = json!({"part": part, "times": 1});
            cos.faults(&json!([rule("part", "wrong_etag", &wrong)]));
            let upload = replica.create(Some(content.len() as u64)).await;
            let appended = replica.send(&upload, &content, content.len()).await;
            assert!(
                matches!(&appended.error, Some(AppendError::Cos(CosError::Refused { code, .. }))
                if code == "InvalidPart"),
                "{appended:?}"
            );
            assert_eq!((appended.offset, cos.object(KEY)), ((part - 1) * PART as u64, None));
            assert_eq!(replica.offset(&upload).await, appended.offset);
            let appended = replica.send(&upload, &content, content.len()).await;
            assert!(appended.error.is_none(), "{:?}", appended.error);
            assert!(cos.object(KEY).as_deref() == Some(&content[..]));
        });
    }
}

#[test]
fn a_tail_that_cannot_be_written_is_not_told() {
    for (fault, more) in
        [("status", json!({"status": 503})), ("wrong_crc", json!({})), ("reset_before", json!({}))]
    {
        let cos = start(|_| {});
        let content = noise(2 * PART, 6);
        System::new().block_on(async {
            let replica = Replica::with(&cos, SHORT, MEMORY);
            let upload = replica.create(Some(content.len() as u64)).await;
            assert_eq!(replica.send(&upload, &content, 100).await.offset, 100);
            let mut always = rule("put", fault, &more);
            always["path"] = json!("tail");
            cos.faults(&json!([always]));
            let appended = replica.send(&upload, &content, 200).await;
            assert!(matches!(appended.error, Some(AppendError::Cos(_))), "{appended:?}");
            // With wrong bytes, it is deleted; otherwise that of the session before is still there.
            let offset = if fault == "wrong_crc" { 0 } else { 100 };
            assert!(appended.offset <= 100, "{appended:?}");
            assert_eq!(replica.offset(&upload).await, offset);

            // The source's own error is told where both fail.
            let session = replica.open(&upload, None).await;
            let rest = source(&content[offset as usize..PART + 5], Some("the client is gone"));
            let appended = replica.append(&upload, session, rest, None).await;
            assert!(is_source(&appended), "{appended:?}");
            assert_eq!(appended.offset, PART as u64);
            cos.faults(&json!([]));
            let appended = replica.send(&upload, &content, content.len()).await;
            assert!(appended.error.is_none(), "{:?}", appended.error);
            assert!(cos.object(KEY).as_deref() == Some(&content[..]));
        });
    }
}

#[test]
fn a_tail_with_damaged_bytes_is_deleted() {
    let cos = start(|_| {});
    let content = noise(PART, 7);
    System::new().block_on(async {
        let replica = Replica::new(&cos);
        let upload = replica.create(Some(content.len() as u64)).await;
        assert_eq!(replica.send(&upload, &content, 100_000).await.offset, 100_000);
        // What HEAD says of it does not agree with what is read.
        cos.faults(&json!([rule("head", "wrong_crc", &json!({"path": "tail"}))]));
        let session = replica.open(&upload, None).await;
        assert_eq!((session.offset(), session.tail().len()), (0, 0));
        cos.faults(&json!([]));
        assert_eq!(replica.offset(&upload).await, 0);
        let appended = replica.send(&upload, &content, PART).await;
        assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
    });
}

#[test]
fn an_upload_that_cos_does_not_answer_for_is_an_error_and_not_gone() {
    for stage in ["list_parts", "object", "put", "head"] {
        let cos = start(|_| {});
        System::new().block_on(async {
            let replica = Replica::with(&cos, SHORT, MEMORY);
            let upload = replica.create(Some(100)).await;
            replica.send(&upload, &[7; 100], 10).await;
            drop(replica.open(&upload, None).await);
            cos.faults(&json!([rule(stage, "status", &json!({"status": 503}))]));
            let progress = replica.resumable().progress(&upload, true).await;
            let opened = replica.resumable().open(&upload, None, &replica.share).await;
            assert!(matches!(progress, Err(CosError::Refused { status: 503, .. })), "{progress:?}");
            assert!(matches!(opened, Err(CosError::Refused { status: 503, .. })), "{stage}");
            cos.faults(&json!([]));
            assert_eq!(replica.offset(&upload).await, 10);
        });
    }
}
