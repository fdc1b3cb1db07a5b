//! Sessions of a resumable upload that meet: a later one ends an earlier one, on whichever replica it is.

use std::time::Duration;

use actix_web::rt::System;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tcb_upload_gateway::cos::api::resumable::{
    AppendError, HELPER_PREFIX, Opened, ResumableUpload,
};
use tcb_upload_gateway::cos::error::CosError;
use tcb_upload_gateway::cos::verdict::VerifiedBy;
use tcb_upload_gateway::file_stream::{FileEnd, FileEvent, Source};
use tokio::sync::mpsc;

use crate::cos_api::TIMEOUTS;
use crate::cos_api_sandbox::{Cos, KEY, start};
use crate::harness::noise;
use crate::resumable_cos::{PART, Replica, assert_no_others, assert_stored, source};

/// A client that sends when the test says so; dropped, it has sent everything.
type Sender = mpsc::UnboundedSender<Bytes>;

fn controlled() -> (Sender, Source) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let events = stream::unfold(Some(receiver), async |receiver| {
        let mut receiver = receiver?;
        Some(match receiver.recv().await {
            Some(bytes) => (Ok(FileEvent::Content(bytes)), Some(receiver)),
            None => (Ok(FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() })), None),
        })
    });
    (sender, Box::pin(events))
}

fn send(sender: &Sender, content: &[u8]) {
    sender.send(Bytes::copy_from_slice(content)).expect("the session reads");
}

/// Waits until COS has so many parts.
async fn wait_for_parts(replica: &Replica, upload: &ResumableUpload, count: usize) {
    loop {
        let parts = replica.client.list_all_parts(&upload.key, &upload.upload_id).await;
        if parts.is_ok_and(|parts| parts.len() == count) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn writes(cos: &Cos) -> (Value, Value) {
    let counts = &cos.state()["counts"];
    (counts["upload_part"].clone(), counts["put_object"].clone())
}

#[test]
fn a_later_session_ends_an_earlier_one() {
    // What the earlier one still receives: a rest, a part, or all of the file; the same bytes or others.
    for (more, is_same) in [
        (10, true),
        (10, false),
        (PART, true),
        (PART, false),
        (2 * PART - 5, true),
        (2 * PART - 5, false),
    ] {
        let cos = start(|_| {});
        let first = noise(3 * PART, 1);
        let second = if is_same { first.clone() } else { noise(3 * PART, 2) };
        System::new().block_on(async {
            let (replica, other) = (Replica::new(&cos), Replica::new(&cos));
            let upload = replica.create(Some(first.len() as u64)).await;
            let session = replica.open(&upload, None).await;
            let (sender, body) = controlled();
            let superseding = async {
                send(&sender, &first[..PART + 5]);
                wait_for_parts(&other, &upload, 1).await;
                let session = other.open(&upload, None).await;
                assert_eq!(session.offset(), PART as u64);
                // The earlier one has not looked at the lease for longer than it may.
                tokio::time::sleep(Duration::from_millis(1100)).await;
                let before = writes(&cos);
                send(&sender, &first[PART + 5..][..more]);
                drop(sender);
                (before, session)
            };
            let appending = replica.append(&upload, session, body, None);
            let (appended, (before, session)) = futures::join!(appending, superseding);
            assert!(matches!(appended.error, Some(AppendError::Superseded)), "{appended:?}");
            assert_eq!((appended.offset, appended.stored), (PART as u64, None));
            assert_eq!(writes(&cos), before, "it writes nothing more");

            let rest = source(&second[PART..], None);
            let appended = other.append(&upload, session, rest, None).await;
            let content = [&first[..PART], &second[PART..]].concat();
            // Without a tail, the CRC of the first part is not known to the later session.
            assert_stored(&cos, &appended, &content, None);
        });
    }
}

#[test]
fn asking_for_the_offset_ends_a_session_that_is_active() {
    let cos = start(|_| {});
    let content = noise(2 * PART, 3);
    System::new().block_on(async {
        let (replica, other) = (Replica::new(&cos), Replica::new(&cos));
        let upload = replica.create(Some(content.len() as u64)).await;
        let session = replica.open(&upload, None).await;
        let (sender, body) = controlled();
        let asking = async {
            send(&sender, &content[..PART + 5]);
            wait_for_parts(&other, &upload, 1).await;
            assert_eq!(other.offset(&upload).await, PART as u64);
            drop(sender);
        };
        let (appended, ()) = futures::join!(replica.append(&upload, session, body, None), asking);
        assert!(matches!(appended.error, Some(AppendError::Superseded)), "{appended:?}");
        assert_eq!(other.offset(&upload).await, PART as u64);

        // A session that has ended leaves nothing to end: the lease is not written.
        let appended = other.send(&upload, &content, 100).await;
        assert_eq!(appended.offset, PART as u64 + 100);
        let before = writes(&cos);
        assert_eq!(replica.offset(&upload).await, PART as u64 + 100);
        assert_eq!(writes(&cos), before);
        let appended = replica.send(&upload, &content, content.len()).await;
        assert_stored(&cos, &appended, &content, None);
    });
}

#[test]
fn sessions_of_an_upload_that_ended_are_told() {
    for is_completed in [true, false] {
        let cos = start(|_| {});
        let content = noise(PART + 50, 4);
        System::new().block_on(async {
            let (replica, other) = (Replica::new(&cos), Replica::new(&cos));
            let upload = replica.create(Some(content.len() as u64)).await;
            let session = replica.open(&upload, None).await;
            if is_completed {
                let appended = other.send(&upload, &content, content.len()).await;
                assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
            } else {
                other.resumable().terminate(&upload).await.expect("terminated");
            }
            let rest = source(&content[..], None);
            let appended = replica.append(&upload, session, rest, None).await;
            if is_completed {
                let size = appended.stored.map(|file| file.size);
                assert_eq!((appended.offset, size), (content.len() as u64, Some(PART as u64 + 50)));
            } else {
                assert!(matches!(appended.error, Some(AppendError::Superseded)), "{appended:?}");
            }
            assert_no_others(&cos, if is_completed { &[KEY] } else { &[] });
            let opened = other.resumable().open(&upload, None, &other.share).await;
            assert!(matches!(opened, Ok(Opened::Stored(_))) == is_completed);
            assert_no_others(&cos, if is_completed { &[KEY] } else { &[] });
        });
    }
}

/// A request of an earlier session arrives at COS after the same part of the later one.
#[test]
fn a_part_that_was_replaced_late_does_not_become_the_file() {
    // The part is one of the session itself, or of the one before.
    for (late, is_same) in [(2, true), (2, false), (1, false), (1, true)] {
        let cos = start(|_| {});
        let content = noise(3 * PART, 5);
        System::new().block_on(async {
            let replica = Replica::new(&cos);
            let upload = replica.create(Some(content.len() as u64)).await;
            replica.send(&upload, &content, PART + 10).await;
            let session = replica.open(&upload, None).await;
            let (sender, body) = controlled();
            let replacing = async {
                send(&sender, &content[PART + 10..2 * PART]);
                wait_for_parts(&replica, &upload, 2).await;
                let range = (late - 1) * PART..late * PART;
                let bytes = if is_same { content[range].to_vec() } else { noise(PART, 6) };
                let (key, id) = (&upload.key, &upload.upload_id);
                let replaced = replica.client.upload_part(key, id, late as u32, &bytes).await;
                replaced.expect("a part");
                send(&sender, &content[2 * PART..]);
                drop(sender);
            };
            let appending = replica.append(&upload, session, body, None);
            let (appended, ()) = futures::join!(appending, replacing);
            if is_same {
                assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
                return;
            }
            assert!(appended.error.is_some() && appended.stored.is_none(), "{appended:?}");
            // Of the second part, the tail of the session before counts.
            let offset = if late == 2 { PART as u64 + 10 } else { 0 };
            assert_eq!(appended.offset, offset);
            assert_eq!(cos.object(KEY), None);
            assert_eq!(replica.offset(&upload).await, appended.offset);
            let appended = replica.send(&upload, &content, content.len()).await;
            assert!(appended.error.is_none(), "{:?}", appended.error);
            assert!(cos.object(KEY).as_deref() == Some(&content[..]));
        });
    }
}

/// A part that another session's request has replaced between two sessions is found by the CRC of the whole file.
#[test]
fn a_file_with_wrong_bytes_is_deleted() {
    let cos = start(|_| {});
    let content = noise(2 * PART + 100, 7);
    System::new().block_on(async {
        let replica = Replica::new(&cos);
        let upload = replica.create(Some(content.len() as u64)).await;
        replica.send(&upload, &content, 2 * PART + 10).await;
        let (key, id) = (&upload.key, &upload.upload_id);
        replica.client.upload_part(key, id, 2, &noise(PART, 8)).await.expect("a part");
        let appended = replica.send(&upload, &content, content.len()).await;
        let is_integrity =
            matches!(appended.error, Some(AppendError::Cos(CosError::Integrity { .. })));
        assert!(is_integrity && appended.stored.is_none(), "{appended:?}");
        assert_eq!(cos.object(KEY), None);
    });
}

#[test]
fn parts_after_a_gap_or_of_another_size_do_not_count() {
    // Numbers and sizes of the parts that COS has, and how many count.
    let cases: [(&[(u32, usize)], usize); 6] = [
        (&[(2, PART)], 0),
        (&[(1, PART), (3, PART)], 1),
        (&[(1, PART), (2, PART - 1), (3, PART)], 1),
        (&[(1, PART + 1), (2, PART)], 0),
        (&[(1, PART), (2, PART), (3, PART), (4, 100)], 3),
        (&[(1, PART), (2, PART), (3, PART), (4, 99), (5, PART)], 3),
    ];
    for (parts, counted) in cases {
        let cos = start(|_| {});
        let content = noise(3 * PART + 100, 9);
        System::new().block_on(async {
            let replica = Replica::new(&cos);
            let upload = replica.create(Some(content.len() as u64)).await;
            let (key, id) = (&upload.key, &upload.upload_id);
            for (number, size) in parts {
                let start = (*number as usize - 1) * PART;
                let mut bytes = content[start.min(content.len())..].to_vec();
                bytes.resize(*size, 0);
                replica.client.upload_part(key, id, *number, &bytes).await.expect("a part");
            }
            assert_eq!(replica.offset(&upload).await, (counted * PART) as u64, "{parts:?}");
            let appended = replica.send(&upload, &content, content.len()).await;
            if parts.iter().all(|(number, _)| *number <= 4) {
                let by = (counted == 0).then_some(VerifiedBy::Reply);
                assert_stored(&cos, &appended, &content, by);
            } else {
                assert!(appended.error.is_none(), "{:?}", appended.error);
                assert!(cos.object(KEY).as_deref() == Some(&content[..]));
            }
        });
    }
}

#[test]
fn a_tail_that_does_not_belong_to_the_next_part_is_ignored() {
    let cos = start(|_| {});
    let content = noise(2 * PART + 100, 10);
    System::new().block_on(async {
        let replica = Replica::new(&cos);
        let upload = replica.create(Some(content.len() as u64)).await;
        replica.send(&upload, &content, 10).await;
        // A gateway that was killed has sent a part since then, but wrote no tail.
        let (key, id) = (&upload.key, &upload.upload_id);
        replica.client.upload_part(key, id, 1, &content[..PART]).await.expect("a part");
        assert_eq!(replica.offset(&upload).await, PART as u64);
        let session = replica.open(&upload, None).await;
        assert_eq!((session.offset(), session.tail().len()), (PART as u64, 0));
        let appended = replica.send(&upload, &content, content.len()).await;
        assert_stored(&cos, &appended, &content, None);

        // Its first bytes are those of the session before the offset.
        let upload = replica.create(Some(content.len() as u64)).await;
        replica.send(&upload, &content, PART + 10).await;
        let session = replica.open(&upload, None).await;
        assert_eq!(session.tail().concat(), content[PART..PART + 10]);
        // The helper objects can be read by the gateway only: without a file id, WeChat serves none of them.
        let state = cos.state();
        let objects = state["objects"].as_array().expect("objects");
        let helpers: Vec<_> = objects.iter().filter(|object| object["key"] != KEY).collect();
        assert_eq!(helpers.len(), 2);
        for object in helpers {
            assert!(object["key"].as_str().is_some_and(|key| key.starts_with(HELPER_PREFIX)));
            assert_eq!(object["fileid_ok"], json!(false));
        }
    });
}

#[test]
fn memory_that_is_used_up_loses_nothing_that_has_room() {
    let content = noise(3 * PART + 100, 11);
    // Of an announced length, parts are sent while they arrive.
    let cos = start(|_| {});
    System::new().block_on(async {
        let replica = Replica::with(&cos, TIMEOUTS, 600_000);
        let upload = replica.create(Some(content.len() as u64)).await;
        let appended = replica.send(&upload, &content, 2 * PART + 200_000).await;
        assert!(appended.error.is_none(), "{:?}", appended.error);
        assert_eq!(appended.offset, 2 * PART as u64 + 200_000);
        let appended = replica.send(&upload, &content, content.len()).await;
        assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));

        // A tail for which there is no memory.
        let upload = replica.create(Some(content.len() as u64)).await;
        replica.send(&upload, &content, PART - 1).await;
        let little = Replica::with(&cos, TIMEOUTS, 100_000);
        let opened = little.resumable().open(&upload, None, &little.share).await;
        assert!(matches!(opened, Err(CosError::OutOfMemory)));
        let ample = Replica::new(&cos);
        let appended = ample.send(&upload, &content, content.len()).await;
        assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
    });
}
