//! Resumable uploads against the strict sandbox: a file that arrives in pieces, over several replicas.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::rt::System;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde_json::json;
use tcb_upload_gateway::cos::api::client::{Client, ObjectFields};
use tcb_upload_gateway::cos::api::resumable::{
    AppendError, Appended, Completed, HELPER_PREFIX, Opened, Progress, Resumable, ResumableUpload,
    Session, StoredFile, delete_helpers,
};
use tcb_upload_gateway::cos::error::CosError;
use tcb_upload_gateway::cos::upstream::{Timeouts, Upstream};
use tcb_upload_gateway::cos::verdict::{Verification, VerifiedBy};
use tcb_upload_gateway::file_stream::{FileEnd, FileEvent, Source};
use tcb_upload_gateway::memory::budget::{Budget, Share};

use crate::cos_api::{TIMEOUTS, connections};
use crate::cos_api_sandbox::{Cos, KEY, owner, start};
use crate::harness::{crc64, noise};

pub const PART: usize = 1 << 20;

/// One gateway of several, with connections of its own.
pub struct Replica {
    pub client: Rc<Client>,
    upstream: Upstream,
    pub share: Arc<Share>,
}

impl Replica {
    pub fn new(cos: &Cos) -> Self {
        Self::with(cos, TIMEOUTS, 64 << 20)
    }

    /// `memory` in bytes.
    pub fn with(cos: &Cos, timeouts: Timeouts, memory: u64) -> Self {
        let upstream = Upstream::over(connections(timeouts), timeouts);
        let client = cos.client_with(owner(), timeouts);
        Self { client: Rc::new(client), upstream, share: Share::new(Budget::new(memory)) }
    }

    pub fn resumable(&self) -> Resumable<'_> {
        let (client, upstream) = (self.client.clone(), &self.upstream);
        Resumable { client, upstream, verify: Verification::Response, observe: &|_| {} }
    }

    /// An upload of [`KEY`].
    pub async fn create(&self, length: Option<u64>) -> ResumableUpload {
        let id = fastrand::u128(..).to_be_bytes();
        let metadata = [("x-cos-meta-other", "1")];
        let fields = ObjectFields {
            content_type: Some("image/png"),
            metadata: &metadata,
            ..ObjectFields::default()
        };
        let upload_id = self.resumable().create(KEY, &id, fields, length).await.expect("an upload");
        ResumableUpload { key: KEY.to_owned(), upload_id, id, part_size: PART as u64, length }
    }

    pub async fn open(&self, upload: &ResumableUpload, length: Option<u64>) -> Session {
        match self.resumable().open(upload, length, &self.share).await.expect("a session") {
            Opened::Session(session) => session,
            Opened::Stored(file) => panic!("it is stored: {file:?}"),
            Opened::Gone => panic!("it is gone"),
        }
    }

    /// As the gateway, closes the upload once its file is stored.
    pub async fn append(
        &self,
        upload: &ResumableUpload,
        session: Session,
        source: Source,
        body: Option<u64>,
    ) -> Appended {
        let appended =
            self.resumable().append(upload, session, source, body, self.share.clone()).await;
        if appended.stored.is_some() {
            self.resumable().close(&upload.id).await;
        }
        appended
    }

    /// Sends up to `most` bytes of `content` from where the upload is.
    pub async fn send(&self, upload: &ResumableUpload, content: &[u8], most: usize) -> Appended {
        let session = self.open(upload, None).await;
        let rest = &content[session.offset() as usize..];
        let body = &rest[..rest.len().min(most)];
        self.append(upload, session, source(body, None), Some(body.len() as u64)).await
    }

    pub async fn progress(&self, upload: &ResumableUpload) -> Progress {
        self.resumable().progress(upload, true).await.expect("the progress")
    }

    /// The offset of an upload that is not complete.
    pub async fn offset(&self, upload: &ResumableUpload) -> u64 {
        match self.progress(upload).await {
            Progress::Open { offset, length } => {
                assert!(length.is_none_or(|length| offset < length), "{offset} of {length:?}");
                offset
            }
            other => panic!("{other:?}"),
        }
    }
}

/// `content` in chunks as they come from a socket, then its end or an error.
pub fn source(content: &[u8], error: Option<&'static str>) -> Source {
    let chunks: Vec<_> =
        content.chunks(30_000).map(|c| Ok(FileEvent::Content(Bytes::copy_from_slice(c)))).collect();
    let end = match error {
        Some(error) => Err(error.into()),
        None => Ok(FileEvent::End(FileEnd { last: true, epilogue: Bytes::new() })),
    };
    Box::pin(stream::iter(chunks).chain(stream::iter([end])))
}

fn closed(file: StoredFile) -> Progress {
    Progress::Stored(Completed { file, is_closed: true })
}

/// Nothing is stored but the file.
pub fn assert_stored(cos: &Cos, appended: &Appended, content: &[u8], by: Option<VerifiedBy>) {
    assert!(appended.error.is_none(), "{:?}", appended.error);
    let crc64 = crc64(content).parse().ok();
    let file = StoredFile { size: content.len() as u64, crc64, verified_by: by };
    assert_eq!((appended.offset, &appended.stored), (content.len() as u64, &Some(file)));
    assert!(cos.object(KEY).as_deref() == Some(content), "other bytes are stored");
    assert_no_others(cos, &[KEY]);
}

/// The bucket has these objects, and no upload that is not completed.
pub fn assert_no_others(cos: &Cos, keys: &[&str]) {
    let state = cos.state();
    let objects = state["objects"].as_array().expect("objects");
    assert!(objects.iter().map(|object| &object["key"]).eq(keys), "{objects:?}");
    assert_eq!(state["multipart_uploads"], json!([]));
}

pub fn is_source(appended: &Appended) -> bool {
    matches!(appended.error, Some(AppendError::Cos(CosError::Source(_))))
}

#[test]
fn a_file_of_any_length_is_stored_by_one_session() {
    let cos = start(|_| {});
    System::new().block_on(async {
        let replica = Replica::new(&cos);
        for length in [1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 12_345] {
            let content = noise(length, 1);
            let upload = replica.create(Some(length as u64)).await;
            assert_eq!(replica.offset(&upload).await, 0);
            let appended = replica.send(&upload, &content, length).await;
            assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
            let file = appended.stored.map(|file| StoredFile { verified_by: None, ..file });
            assert_eq!(Some(replica.progress(&upload).await), file.map(closed));
            let object = replica.client.head(KEY).await.expect("a response").expect("an object");
            assert_eq!(object.content_type.as_deref(), Some("image/png"));
            assert_eq!(object.metadata("x-cos-meta-other"), Some("1"));
            // Another upload of the same key replaces the object: this one is gone.
            replica.create(Some(0)).await;
            assert_eq!(replica.progress(&upload).await, Progress::Gone);
            let opened = replica.resumable().open(&upload, None, &replica.share).await;
            assert!(matches!(opened, Ok(Opened::Gone)));
        }
    });
}

#[test]
fn an_empty_file_is_stored_at_its_creation() {
    let cos = start(|_| {});
    System::new().block_on(async {
        let replica = Replica::new(&cos);
        let upload = replica.create(Some(0)).await;
        assert_eq!(cos.object(KEY).as_deref(), Some(&b""[..]));
        let file = StoredFile { size: 0, crc64: Some(0), verified_by: None };
        assert_eq!(replica.progress(&upload).await, closed(file.clone()));
        let opened = replica.resumable().open(&upload, None, &replica.share).await;
        assert!(matches!(opened, Ok(Opened::Stored(found)) if found.file == file));
        replica.resumable().terminate(&upload).await.expect("nothing is left to end");
        assert_eq!(cos.object(KEY).as_deref(), Some(&b""[..]));

        // It turns out to be empty only at its end.
        for (length, is_declared_before) in [(0, false), (0, true)] {
            let upload = replica.create(None).await;
            if is_declared_before {
                drop(replica.open(&upload, Some(length)).await);
                // The offset would be the length: the length is to be declared again.
                let open = Progress::Open { offset: 0, length: None };
                assert_eq!(replica.progress(&upload).await, open);
            }
            let session = replica.open(&upload, Some(length)).await;
            let appended = replica.append(&upload, session, source(b"", None), Some(0)).await;
            assert_stored(&cos, &appended, b"", Some(VerifiedBy::Reply));
        }
    });
}

#[test]
fn any_replica_goes_on_with_small_pieces() {
    // Part and piece sizes have no common bounds, or the same ones.
    for piece in [500_000, PART, PART / 2, 2 * PART + 7] {
        let cos = start(|_| {});
        let content = noise(3 * PART + 12_345, 2);
        System::new().block_on(async {
            let replicas = [Replica::new(&cos), Replica::new(&cos), Replica::new(&cos)];
            let upload = replicas[0].create(Some(content.len() as u64)).await;
            let mut offset = 0;
            for replica in replicas.iter().cycle() {
                let appended = replica.send(&upload, &content, piece).await;
                if appended.stored.is_some() {
                    assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
                    break;
                }
                offset += piece as u64;
                assert!(appended.error.is_none(), "{:?}", appended.error);
                assert_eq!(appended.offset, offset);
                assert_eq!(replicas[0].offset(&upload).await, offset);
            }
        });
    }
}

#[test]
fn single_bytes_are_appended() {
    let cos = start(|_| {});
    let content = noise(PART + 8, 3);
    System::new().block_on(async {
        let replicas = [Replica::new(&cos), Replica::new(&cos)];
        let upload = replicas[0].create(Some(content.len() as u64)).await;
        for (index, replica) in (0..6).zip(replicas.iter().cycle()) {
            assert_eq!(replica.send(&upload, &content, 1).await.offset, index + 1);
        }
        let nearly = PART - 9;
        assert_eq!(replicas[1].send(&upload, &content, nearly).await.offset, PART as u64 - 3);
        for (index, replica) in (0..10).zip(replicas.iter().cycle()) {
            assert_eq!(replica.send(&upload, &content, 1).await.offset, PART as u64 - 2 + index);
        }
        let appended = replicas[0].send(&upload, &content, 1).await;
        assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
    });
}

#[test]
fn what_was_received_before_a_cut_is_not_sent_again() {
    let cuts = [1, PART - 1, PART, PART + 1, 2 * PART + 700_000, 3 * PART + 12_345];
    for (cut, is_announced) in cuts.into_iter().flat_map(|cut| [(cut, true), (cut, false)]) {
        let cos = start(|_| {});
        let content = noise(3 * PART + 12_345, 4);
        System::new().block_on(async {
            let (replica, other) = (Replica::new(&cos), Replica::new(&cos));
            let length = content.len() as u64;
            let upload = replica.create(Some(length)).await;
            let session = replica.open(&upload, None).await;
            let cut_source = source(&content[..cut], Some("the client is gone"));
            let body = is_announced.then_some(length);
            let appended = replica.append(&upload, session, cut_source, body).await;
            assert!(is_source(&appended) && appended.stored.is_none(), "{appended:?}");
            // The last byte is sent again, even if it was received: the object is not there.
            assert_eq!(appended.offset, (cut as u64).min(length - 1));
            assert_eq!(other.offset(&upload).await, appended.offset);
            assert_eq!(cos.object(KEY), None);
            let appended = other.send(&upload, &content, content.len()).await;
            assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
        });
    }
}

#[test]
fn bytes_beyond_the_length_are_refused_and_not_sent() {
    let is_mismatch = |appended: &Appended| {
        matches!(appended.error, Some(AppendError::Cos(CosError::LengthMismatch { .. })))
    };
    for length in [5, PART, PART + 5] {
        let cos = start(|_| {});
        let content = noise(2 * PART, 5);
        System::new().block_on(async {
            let replica = Replica::new(&cos);
            let upload = replica.create(Some(length as u64)).await;
            let session = replica.open(&upload, None).await;
            let body = source(&content[..length + 1], None);
            let appended = replica.append(&upload, session, body, Some(length as u64 + 1)).await;
            assert!(is_mismatch(&appended) && appended.offset == 0, "{appended:?}");
            assert_eq!(cos.state()["counts"]["upload_part"], json!(null));

            let session = replica.open(&upload, None).await;
            let appended = replica.append(&upload, session, source(&content, None), None).await;
            assert!(is_mismatch(&appended), "{appended:?}");
            let full = (length - 1) / PART * PART;
            assert_eq!((appended.offset, appended.stored), (full as u64, None));
            assert_eq!(replica.offset(&upload).await, full as u64);
            assert_eq!(cos.object(KEY), None);
            let appended = replica.send(&upload, &content[..length], length).await;
            assert!(appended.error.is_none(), "{:?}", appended.error);
            assert!(cos.object(KEY).as_deref() == Some(&content[..length]));
        });
    }
}

#[test]
fn a_length_may_be_declared_later() {
    for length in [700_000, PART, PART + 700_000, 2 * PART] {
        let content = noise(length, 6);
        for last in [0, 1, 300_000] {
            let cos = start(|_| {});
            System::new().block_on(async {
                let (replica, other) = (Replica::new(&cos), Replica::new(&cos));
                let upload = replica.create(None).await;
                let before = &content[..length - last];
                let appended = replica.send(&upload, before, length).await;
                assert_eq!((appended.offset, appended.stored), (before.len() as u64, None));
                let open = Progress::Open { offset: before.len() as u64, length: None };
                assert_eq!(other.progress(&upload).await, open);

                // A length that is too small is not taken.
                let session = other.open(&upload, Some(before.len() as u64 - 1)).await;
                assert_eq!((session.length(), session.offset()), (None, before.len() as u64));
                let session = other.open(&upload, Some(length as u64)).await;
                assert_eq!(session.length(), Some(length as u64));
                let body = source(&content[before.len()..], None);
                let appended = other.append(&upload, session, body, Some(last as u64)).await;
                assert_stored(&cos, &appended, &content, Some(VerifiedBy::Reply));
            });
        }
    }
}

#[test]
fn a_terminated_upload_leaves_nothing() {
    let cos = start(|_| {});
    let content = noise(2 * PART, 7);
    System::new().block_on(async {
        let replica = Replica::new(&cos);
        let upload = replica.create(Some(content.len() as u64)).await;
        replica.send(&upload, &content, PART + 10).await;
        let helpers = cos.state()["objects"].as_array().map(Vec::len);
        assert_eq!(helpers, Some(2));
        let session = replica.open(&upload, None).await;
        for _ in 0..2 {
            replica.resumable().terminate(&upload).await.expect("terminated");
            assert_no_others(&cos, &[]);
            assert_eq!(replica.progress(&upload).await, Progress::Gone);
        }
        // A session that was running then writes nothing more.
        let rest = source(&content[PART + 10..], None);
        let appended = replica.append(&upload, session, rest, None).await;
        assert!(matches!(appended.error, Some(AppendError::Superseded)), "{appended:?}");
        assert_eq!(appended.stored, None);
        assert_no_others(&cos, &[]);
    });
}

#[test]
fn helper_objects_of_one_upload_are_deleted() {
    let cos = start(|_| {});
    System::new().block_on(async {
        let replica = Replica::new(&cos);
        let (first, second) = (replica.create(None).await, replica.create(None).await);
        for upload in [&first, &second] {
            replica.send(upload, b"some bytes", 10).await;
        }
        delete_helpers(&replica.client, &first.id).await.expect("deleted");
        let state = cos.state();
        let objects = state["objects"].as_array().expect("objects");
        let prefix = [HELPER_PREFIX, &hex::encode(second.id), "/"].concat();
        assert_eq!(objects.len(), 2);
        for object in objects {
            assert!(object["key"].as_str().is_some_and(|key| key.starts_with(&prefix)), "{object}");
            assert_eq!(object["fileid_ok"], false);
        }
    });
}
