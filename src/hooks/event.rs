//! What the back end is sent: `file.stored` and `file.deleted`, as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::net::trace_context::TraceContext;
use crate::settings::HookField;

/// A stored file.
#[derive(Debug, Clone)]
pub struct StoredFile {
    /// The same for every request of one upload, and for no other upload.
    pub upload_id: String,
    /// `cloud://…`
    pub file_id: String,
    pub path: String,
    /// The file's name at the client; may be empty.
    pub name: String,
    /// In bytes.
    pub size: u64,
    pub content_type: String,
    /// CRC-64/XZ of its bytes, where it is known.
    pub crc64: Option<u64>,
    /// Whether COS reported the same CRC-64.
    pub verified: bool,
    pub by: Actor,
    /// What the client told of the file besides; bounded by the handler that read it.
    pub metadata: BTreeMap<String, String>,
    /// The stable URL.
    pub url: String,
    /// Of the request that stored it.
    pub trace: Option<TraceContext>,
}

/// A deleted file.
#[derive(Debug, Clone)]
pub struct DeletedFile {
    /// `cloud://…`
    pub file_id: String,
    pub path: String,
    pub by: Actor,
    /// Of the request that deleted it.
    pub trace: Option<TraceContext>,
}

/// The client whose request stored or deleted the file.
#[derive(Debug, Clone)]
pub struct Actor {
    /// Its name, as in logs.
    pub client: String,
    /// A ticket's `sub`, or a mini program user's openid.
    pub sub: Option<String>,
}

/// An event as it is sent, apart from the headers of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `webhook-id`: equal for the same event, however often it is sent. Has no `.`.
    pub id: String,
    pub event: EventType,
    /// JSON. Signed as it is, so it is never serialized again.
    pub body: Bytes,
    /// When the event occurred, to the millisecond.
    pub created: Timestamp,
    /// The `traceparent` that its requests have. Not a part of the event.
    pub trace: Option<TraceContext>,
}

/// `type` in the JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    FileStored,
    FileDeleted,
}

impl EventType {
    pub const ALL: [Self; 2] = [Self::FileStored, Self::FileDeleted];

    pub fn name(self) -> &'static str {
        match self {
            Self::FileStored => "file.stored",
            Self::FileDeleted => "file.deleted",
        }
    }
}

#[derive(Serialize)]
struct Envelope<T> {
    r#type: &'static str,
    timestamp: String,
    data: T,
}

#[derive(Serialize)]
struct StoredData<'a> {
    upload_id: &'a str,
    file_id: &'a str,
    path: &'a str,
    name: &'a str,
    size: u64,
    content_type: &'a str,
    // A string, because it does not fit a JavaScript number.
    #[serde(skip_serializing_if = "Option::is_none")]
    crc64: Option<String>,
    verified: bool,
    #[serde(flatten)]
    by: ActorData<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
}

#[derive(Serialize)]
struct DeletedData<'a> {
    file_id: &'a str,
    path: &'a str,
    #[serde(flatten)]
    by: ActorData<'a>,
}

#[derive(Serialize)]
struct ActorData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    /// `null`: the client is no user. Absent: not included.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<Option<&'a str>>,
}

impl Actor {
    fn data(&self, include: &[HookField]) -> ActorData<'_> {
        ActorData {
            client: include.contains(&HookField::Client).then_some(&self.client),
            sub: include.contains(&HookField::Sub).then_some(self.sub.as_deref()),
        }
    }
}

impl Message {
    /// `file.stored`. Its id derives from the upload and the stored bytes: an upload that is repeated under its
    /// `Idempotency-Key` at another replica has the same one, and other bytes at the same path have another.
    pub fn stored(file: &StoredFile, include: &[HookField]) -> Self {
        let mut hash = Sha256::new();
        for part in [&file.upload_id, &file.file_id] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(file.size.to_be_bytes());
        hash.update(file.crc64.unwrap_or_default().to_be_bytes());
        let id = format!("msg_{}", hex::encode(&hash.finalize()[..16]));
        let has = |field| include.contains(&field);
        let data = StoredData {
            upload_id: &file.upload_id,
            file_id: &file.file_id,
            path: &file.path,
            name: &file.name,
            size: file.size,
            content_type: &file.content_type,
            crc64: file.crc64.map(|crc64| crc64.to_string()),
            verified: file.verified,
            by: file.by.data(include),
            metadata: has(HookField::Metadata).then_some(&file.metadata),
            url: has(HookField::Url).then_some(&file.url),
        };
        Self::new(id, EventType::FileStored, data, file.trace)
    }

    /// `file.deleted`. Each deletion is an event of its own.
    pub fn deleted(file: &DeletedFile, include: &[HookField]) -> Self {
        let id = format!("msg_{}", uuid::Uuid::now_v7().simple());
        let by = file.by.data(include);
        let data = DeletedData { file_id: &file.file_id, path: &file.path, by };
        Self::new(id, EventType::FileDeleted, data, file.trace)
    }

    fn new(
        id: String,
        event: EventType,
        data: impl Serialize,
        trace: Option<TraceContext>,
    ) -> Self {
        let created = Timestamp::now();
        // To the millisecond, which is what a queue in Redis stores.
        let created = Timestamp::from_millisecond(created.as_millisecond()).unwrap_or(created);
        let envelope = Envelope { r#type: event.name(), timestamp: created.to_string(), data };
        // Only strings, numbers and maps with string keys: it cannot fail.
        let body = serde_json::to_vec(&envelope).unwrap_or_default();
        Self { id, event, body: body.into(), created, trace }
    }

    /// Time since the event.
    pub fn age(&self) -> Duration {
        Timestamp::now().duration_since(self.created).try_into().unwrap_or_default()
    }

    /// What is logged where the event cannot be delivered: complete enough to be sent by hand. A signed URL is logged
    /// without its signature.
    pub fn for_log(&self) -> String {
        let Ok(mut body) = serde_json::from_slice::<Value>(&self.body) else {
            return String::new();
        };
        if let Some(url) = body.pointer_mut("/data/url")
            && let Some(text) = url.as_str()
        {
            *url = text.split('?').next().unwrap_or_default().into();
        }
        body.to_string()
    }
}
