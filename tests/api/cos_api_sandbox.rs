//! The client of COS's own API against the strict sandbox: what is stored, listed and removed.

use std::sync::Arc;
use std::time::Duration;

use actix_web::rt::System;
use serde_json::{Value, json};
use tcb_upload_gateway::cos::api::client::{Client, ObjectFields};
use tcb_upload_gateway::cos::api::credentials::Credentials;
use tcb_upload_gateway::cos::api::file_id;
use tcb_upload_gateway::cos::api::getauth::GetAuth;
use tcb_upload_gateway::cos::api::keys::Keys;
use tcb_upload_gateway::cos::api::response::Stored;
use tcb_upload_gateway::cos::error::CosError;
use tcb_upload_gateway::cos::upstream::Timeouts;
use tcb_upload_gateway::net::http_client::base_url::BaseUrl;
use tcb_upload_gateway::sandbox::{Options, Sandbox};
use tempfile::TempDir;

use crate::cos_api::{TIMEOUTS, client_at, connections, send_content};
use crate::harness::{self, crc64, noise};

const ID: &str = "AKIDtests";
const SECRET: &str = "secret-key-of-the-tests";
const BUCKET: &str = "7361-sandbox-1a2b3c-1250000000";
pub const KEY: &str = "a/中 b+c%25&=?#'()~.png";
const PART: usize = 1 << 20;

pub struct Cos {
    sandbox: Sandbox,
    _data: TempDir,
}

pub fn start(change: impl FnOnce(&mut Options)) -> Cos {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut options = Options {
        data: data.path().join("objects"),
        secret_id: Some(ID.to_owned()),
        secret_key: Some(SECRET.to_owned()),
        ..Options::default()
    };
    change(&mut options);
    Cos { sandbox: Sandbox::start(options).expect("the sandbox starts"), _data: data }
}

impl Cos {
    fn url(&self, path: &str) -> BaseUrl {
        let url = format!("http://{}{path}", self.sandbox.wechat_addr());
        BaseUrl::parse(&url).expect("a URL")
    }

    fn temporary_keys(&self) -> Keys {
        Keys::GetAuth(GetAuth::new(self.url("/_/cos/getauth"), Duration::from_secs(5)))
    }

    fn client(&self, keys: Keys) -> Client {
        self.client_with(keys, TIMEOUTS)
    }

    pub fn client_with(&self, keys: Keys, timeouts: Timeouts) -> Client {
        client_at(self.sandbox.cos_addr(), keys, timeouts)
    }

    fn wechat(&self, method: &str, target: &str, body: &str) -> harness::Response {
        let mut client = harness::Client::connect(self.sandbox.wechat_addr());
        client.send_request(method, target, &[], body.as_bytes());
        client.response()
    }

    pub fn faults(&self, rules: &Value) {
        assert!(self.wechat("PUT", "/_sandbox/faults", &rules.to_string()).json().is_array());
    }

    pub fn state(&self) -> Value {
        self.wechat("GET", "/_sandbox/wait?idle=1", "");
        self.wechat("GET", "/_sandbox/state", "").json()
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        let encoded =
            percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC);
        let response = self.wechat("GET", &format!("/_sandbox/object?key={encoded}"), "");
        (response.status == 200).then_some(response.body)
    }
}

pub fn owner() -> Keys {
    Keys::Static(Arc::new(Credentials::new(ID, SECRET, None).expect("keys")))
}

async fn part(client: &Client, id: &str, number: u32, content: &[u8]) -> Result<Stored, CosError> {
    let credentials = client.credentials().await?;
    let head = client.part_head(&credentials, KEY, id, number, content.len() as u64)?;
    send_content(client, &head, content).await
}

fn code(error: Option<CosError>) -> String {
    match error {
        Some(CosError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_upload_in_parts_is_stored_and_deleted() {
    for is_temporary in [false, true] {
        let cos = start(|_| {});
        let content = noise(2 * PART + 12_345, 7);
        System::new().block_on(async {
            let client = cos.client(if is_temporary { cos.temporary_keys() } else { owner() });
            let limit = Duration::from_secs(5);
            let url = cos.url("/_/cos/metaid/encode");
            let id = file_id::fetch(client.pool(), &url, limit, BUCKET, KEY).await;
            let id = id.expect("a file id");
            let fields = ObjectFields {
                content_type: Some("image/png"),
                file_id: Some(&id),
                ..ObjectFields::default()
            };
            let upload = client.initiate(KEY, fields).await.expect("an upload");
            let mut etags = Vec::new();
            for (number, piece) in (1..).zip(content.chunks(PART)) {
                let stored = part(&client, &upload, number, piece).await.expect("a part");
                assert_eq!(stored.crc64, Some(crc64(piece)));
                etags.push((number, stored.etag));
            }
            // A part may be sent again.
            let again = part(&client, &upload, 2, &content[PART..2 * PART]).await;
            assert_eq!(again.expect("a part").etag, etags[1].1);

            let parts = client.list_all_parts(KEY, &upload).await.expect("parts");
            let listed: Vec<_> =
                parts.iter().map(|part| (part.number, part.etag.clone())).collect();
            assert_eq!(listed, etags);
            let sizes: Vec<_> = parts.iter().map(|part| part.size).collect();
            assert_eq!(sizes, [PART as u64, PART as u64, 12_345]);
            let page = client.list_uploads("a/", None).await.expect("uploads");
            assert_eq!((page.uploads[0].key.as_str(), page.next), (KEY, None));
            assert_eq!(page.uploads[0].upload_id, upload);
            let age = jiff::Timestamp::now() - page.uploads[0].initiated.expect("a time");
            assert!(age.get_seconds().abs() < 60, "{age}");
            assert_eq!(client.head(KEY).await.expect("a response"), None);
            assert_eq!(cos.object(KEY), None);

            let numbers = etags.iter().map(|(number, etag)| (*number, etag.as_str()));
            let stored = client.complete(KEY, &upload, numbers).await.expect("an object");
            assert_eq!(stored.crc64, Some(crc64(&content)));
            assert!(cos.object(KEY) == Some(content.clone()), "other bytes are stored");
            let info = client.head(KEY).await.expect("a response").expect("an object");
            assert_eq!((info.size, info.etag), (content.len() as u64, Some(stored.etag)));
            assert_eq!(info.crc64, Some(crc64(&content)));
            assert_eq!(info.content_type.as_deref(), Some("image/png"));
            assert_eq!(info.file_id, Some(id));

            client.delete(KEY).await.expect("deleted");
            client.delete(KEY).await.expect("deleted already");
            assert_eq!(client.head(KEY).await.expect("a response"), None);
        });
        let state = cos.state();
        assert_eq!((&state["objects"], &state["multipart_uploads"]), (&json!([]), &json!([])));
    }
}

#[test]
fn a_single_put_is_stored() {
    let cos = start(|_| {});
    System::new().block_on(async {
        let client = cos.client(cos.temporary_keys());
        let credentials = client.credentials().await.expect("keys");
        for content in [&b""[..], b"x", &noise(100_000, 3)] {
            let fields =
                ObjectFields { content_type: Some("text/plain"), ..ObjectFields::default() };
            let head = client.put_head(&credentials, KEY, fields, content.len() as u64);
            let stored = send_content(&client, &head.expect("a head"), content).await;
            assert_eq!(stored.expect("stored").crc64, Some(crc64(content)));
            assert!(cos.object(KEY).as_deref() == Some(content));
        }
    });
}

#[test]
fn an_upload_that_is_aborted_leaves_nothing() {
    let cos = start(|_| {});
    System::new().block_on(async {
        let client = cos.client(owner());
        let upload = client.initiate(KEY, ObjectFields::default()).await.expect("an upload");
        part(&client, &upload, 1, b"x").await.expect("a part");
        client.abort(KEY, &upload).await.expect("aborted");
        client.abort(KEY, &upload).await.expect("aborted already");
        assert_eq!(code(part(&client, &upload, 2, b"x").await.err()), "NoSuchUpload");
        assert_eq!(code(client.list_all_parts(KEY, &upload).await.err()), "NoSuchUpload");
        assert_eq!(code(client.complete(KEY, &upload, [(1, "\"x\"")]).await.err()), "NoSuchUpload");
    });
    let state = cos.state();
    assert_eq!((&state["objects"], &state["multipart_uploads"]), (&json!([]), &json!([])));
}

#[test]
fn a_refusal_with_a_success_status_stores_nothing() {
    let cos = start(|_| {});
    cos.faults(&json!([{"stage": "complete", "fault": "error_200", "times": 1}]));
    System::new().block_on(async {
        let client = cos.client(owner());
        let upload = client.initiate(KEY, ObjectFields::default()).await.expect("an upload");
        let etag = part(&client, &upload, 1, b"content").await.expect("a part").etag;
        let refused = client.complete(KEY, &upload, [(1, etag.as_str())]).await.err();
        assert!(matches!(refused, Some(CosError::Refused { status: 200, .. })), "{refused:?}");
        assert_eq!(cos.object(KEY), None);
        assert_eq!(
            code(client.complete(KEY, &upload, [(1, "\"other\"")]).await.err()),
            "InvalidPart"
        );
        client.complete(KEY, &upload, [(1, etag.as_str())]).await.expect("an object");
        assert_eq!(cos.object(KEY).as_deref(), Some(&b"content"[..]));
    });
}

#[test]
fn lists_are_read_page_by_page() {
    let cos = start(|_| {});
    System::new().block_on(async {
        let client = cos.client(owner());
        let upload = client.initiate(KEY, ObjectFields::default()).await.expect("an upload");
        for number in 1..=1001 {
            part(&client, &upload, number, b"x").await.expect("a part");
        }
        let parts = client.list_all_parts(KEY, &upload).await.expect("parts");
        assert!(parts.iter().map(|part| part.number).eq(1..=1001));

        for index in 0..1001 {
            // Several uploads of each key.
            let key = format!("list/<&>{:03}", index / 2);
            client.initiate(&key, ObjectFields::default()).await.expect("an upload");
        }
        let (mut listed, mut pages, mut after) = (Vec::new(), 0, None);
        loop {
            let page = client.list_uploads("list/", after.as_ref()).await.expect("uploads");
            listed.extend(page.uploads.into_iter().map(|upload| (upload.key, upload.upload_id)));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((listed.len(), pages), (1001, 2));
        assert!(listed.iter().all(|(key, _)| key.starts_with("list/<&>")));
        listed.sort();
        listed.dedup();
        assert_eq!(listed.len(), 1001);
    });
}

#[test]
fn keys_that_expire_are_replaced() {
    let cos = start(|_| {});
    System::new().block_on(async {
        let client = cos.client(cos.temporary_keys());
        for stage in ["initiate", "list_uploads", "delete_object"] {
            let before = client.credentials().await.expect("keys");
            cos.faults(&json!([{"stage": stage, "fault": "expire_keys", "times": 1}]));
            match stage {
                "initiate" => {
                    drop(client.initiate(KEY, ObjectFields::default()).await.expect(stage))
                }
                "list_uploads" => drop(client.list_uploads("", None).await.expect(stage)),
                _ => client.delete(KEY).await.expect(stage),
            }
            let after = client.credentials().await.expect("keys");
            assert_ne!(before.secret_id, after.secret_id, "{stage}");
        }
        // A request whose body is streamed is the caller's to repeat.
        let upload = client.initiate(KEY, ObjectFields::default()).await.expect("an upload");
        cos.faults(&json!([{"stage": "part", "fault": "expire_keys", "times": 1}]));
        let used = client.credentials().await.expect("keys");
        let head = client.part_head(&used, KEY, &upload, 1, 1).expect("a head");
        let error = send_content(&client, &head, b"x").await.expect_err("a refusal");
        assert!(client.reject_credentials(&used, &error).await);
        assert!(client.reject_credentials(&used, &error).await, "the keys are others already");
        part(&client, &upload, 1, b"x").await.expect("a part");
    });
}

#[test]
fn wrong_keys_are_refused() {
    let cos = start(|_| {});
    System::new().block_on(async {
        let with = |id, secret, token| {
            let credentials = Credentials::new(id, secret, token).expect("keys");
            cos.client(Keys::Static(Arc::new(credentials)))
        };
        for (client, expected) in [
            (with(ID, "other", None), "SignatureDoesNotMatch"),
            (with("AKIDother", SECRET, None), "InvalidAccessKeyId"),
            (with(ID, SECRET, Some("token")), "InvalidAccessKeyId"),
        ] {
            let fields = ObjectFields::default();
            assert_eq!(code(client.initiate(KEY, fields).await.err()), expected);
            assert_eq!(code(client.list_uploads("", None).await.err()), expected);
            assert_eq!(code(client.delete(KEY).await.err()), expected);
            let refused = client.head(KEY).await;
            assert!(matches!(refused, Err(CosError::Refused { status: 403, .. })), "{refused:?}");
        }
    });
    assert_eq!(cos.state()["multipart_uploads"], json!([]));
}

#[test]
fn a_file_id_of_another_bucket_is_not_given() {
    let cos = start(|_| {});
    System::new().block_on(async {
        let (pool, url) = (connections(TIMEOUTS), cos.url("/_/cos/metaid/encode"));
        let fetch = |bucket, key| file_id::fetch(&pool, &url, Duration::from_secs(5), bucket, key);
        fetch(BUCKET, "a/中.png").await.expect("a file id");
        for (bucket, key) in [("other", "a"), (BUCKET, "a//b"), ("", "a")] {
            let refused = fetch(bucket, key).await;
            assert!(matches!(refused, Err(CosError::Unreachable(_))), "{bucket} {key}");
        }
    });
}
