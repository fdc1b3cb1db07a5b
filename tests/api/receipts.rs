//! Receipts: what is signed, for which client, and in which responses.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::{Form, Response, Setup, World, authorization, crc64, noise};
use crate::resumable::{self, create, metadata};
use crate::tickets::{self, now, post, send, signed, small, ticket};

pub const RECEIPT_KEY: &str = "a-key-for-receipts-of-32-bytes-or-more";

fn setup() -> Setup {
    tickets::setup().set("receipts.key", RECEIPT_KEY)
}

/// The claims of a receipt, once its signature is found to be that of the key.
pub fn verified(receipt: &Value) -> Value {
    let text = receipt.as_str().expect("a receipt");
    let parts: Vec<_> = text.split('.').collect();
    let json = |part: &str| -> Value {
        let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    assert_eq!(json(parts[0]), json!({"typ": "JWT", "alg": "HS256"}));
    let mac = hmac_of(&format!("{}.{}", parts[0], parts[1]));
    assert_eq!(parts[2], mac, "signed with the key");
    json(parts[1])
}

fn hmac_of(text: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(RECEIPT_KEY.as_bytes()).expect("a key");
    mac.update(text.as_bytes());
    URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// That a receipt says what the response says of the file, and for whom.
fn assert_receipt(file: &Value, sub: Option<&str>) {
    let mut claims = verified(&file["receipt"]);
    let iat = claims["iat"].take().as_u64().expect("a time");
    assert!(iat <= now() && iat + 60 > now());
    let mut expected = json!({
        "file_id": file["file_id"],
        "path": file["path"],
        "size": file["size"],
        "crc64": file["crc64"],
        "iat": null,
    });
    if let Some(sub) = sub {
        expected["sub"] = sub.into();
    }
    assert_eq!(claims, expected);
}

#[test]
fn every_stored_file_has_a_receipt_for_its_user() {
    let world = setup().start();
    let alice = ticket(json!({"sub": "alice"}));
    assert_receipt(&post(&world, &alice, &small()).stored(), Some("alice"));
    // Neither a key nor a ticket without a name is a user.
    assert_receipt(&world.post(&small()).stored(), None);
    assert_receipt(&post(&world, &ticket(json!({})), &small()).stored(), None);

    // A file that failed has none.
    let several = Form::new()
        .file("f[]", "a.txt", "text/plain", b"one")
        .file("f[]", "b.txt", "text/plain", b"")
        .file("f[]", "c.txt", "text/plain", b"three");
    let narrow = ticket(json!({"sub": "bob", "max_file_size": 4}));
    let response = post(&world, &narrow, &several);
    assert_eq!(response.status, 413, "{}", response.text());
    let files = response.json()["files"].clone();
    assert_receipt(&files[0], Some("bob"));
    assert_receipt(&files[1], Some("bob"));
    assert_eq!((files[2]["error"].is_object(), files[2].get("receipt")), (true, None));

    let mut client = world.client();
    client.send_request("PUT", "/v1/files/a/raw.bin", &[authorization()], b"raw");
    let raw = client.response().stored();
    assert_eq!(verified(&raw["receipt"])["crc64"], crc64(b"raw"));
    assert_receipt(&raw, None);
}

#[test]
fn a_repeat_gets_the_first_receipt() {
    let world = setup().start();
    let post = || {
        let headers = [authorization(), ("idempotency-key", "once")];
        send(&world, "POST", "/v1/files", &headers, &small()).stored()["receipt"].clone()
    };
    assert_eq!(post(), post());
}

#[test]
fn without_a_key_there_are_no_receipts() {
    let world = tickets::setup().start();
    for response in [world.post(&small()), post(&world, &ticket(json!({"sub": "a"})), &small())] {
        assert_eq!(response.stored().get("receipt"), None);
    }
    let tinymce = world.post_to("/v1/files?reply=tinymce", &small()).json();
    assert_eq!(tinymce.get("receipt"), None);
}

#[test]
fn editors_that_read_json_have_the_receipt_beside_what_they_read() {
    let world = setup().start();
    let reply = |profile: &str| world.post_to(&format!("/v1/files?reply={profile}"), &small());
    for profile in ["tinymce", "ckeditor", "wangeditor", "editorjs"] {
        let json = reply(profile).json();
        let path = verified(&json["receipt"])["path"].as_str().expect("a path").to_owned();
        assert!(json.to_string().contains(&format!("/v1/files/{path}")), "{profile}: {json}");
    }
    // The editor saves all of `file` in its document.
    assert_eq!(reply("editorjs").json()["file"].get("receipt"), None);
    assert_receipt(&reply("dropzone").json()["files"][0], None);
    for profile in ["vditor", "ueditor", "filepond", "text"] {
        assert!(!reply(profile).text().contains("eyJ"), "{profile}");
    }
}

#[test]
fn a_resumable_upload_has_its_receipt_once_it_is_stored() {
    for setup in [setup(), setup().by_api()] {
        let world = setup.start();
        let content = noise(10_000, 1);
        let alice = format!("Bearer {}", ticket(json!({"sub": "alice"})));
        let get = |url: &str| {
            let headers = [("authorization", alice.as_str()), ("accept", "application/json")];
            world.call_with("GET", url, &headers, "")
        };
        let url = created(&world, &alice, content.len());
        assert_eq!(get(&url).json().get("files"), None, "it is not stored");
        let sent = appended(&world, &alice, &url, &content);
        assert_eq!(sent.status, 204, "{}", sent.text());
        let response = get(&url);
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let file = response.json()["files"][0].clone();
        assert_eq!((&file["size"], &file["crc64"]), (&json!(10_000), &json!(crc64(&content))));
        assert_receipt(&file, Some("alice"));

        // By a key.
        let url = create(&world, content.len(), &[("filename", "b.bin")]);
        assert_eq!(resumable::patch(&world, &url, 0, &content).status, 204);
        let headers = [authorization(), ("accept", "application/json")];
        let file = world.call_with("GET", &url, &headers, "").json()["files"][0].clone();
        assert_receipt(&file, None);
    }
}

fn created(world: &World, bearer: &str, length: usize) -> String {
    let (length, metadata) = (length.to_string(), metadata(&[("filename", "a.bin")]));
    let headers = [
        ("authorization", bearer),
        resumable::TUS,
        ("upload-length", length.as_str()),
        ("upload-metadata", &metadata),
    ];
    let response = world.call_with("POST", "/v1/uploads", &headers, "");
    assert_eq!(response.status, 201, "{}", response.text());
    let url = response.header("location").expect("a URL");
    url[url.find("/v1/").expect("a path")..].to_owned()
}

fn appended(world: &World, bearer: &str, url: &str, content: &[u8]) -> Response {
    let headers =
        [("authorization", bearer), resumable::TUS, resumable::OCTETS, ("upload-offset", "0")];
    let mut client = world.client();
    client.send_request("PATCH", url, &headers, content);
    client.response()
}

#[test]
fn a_receipt_is_no_ticket() {
    let world = setup().start();
    let receipt = world.post(&small()).stored()["receipt"].as_str().expect("a text").to_owned();
    post(&world, &receipt, &small()).problem(401, "unauthenticated");
    // Nor would it be one if it were signed with the key of tickets: it has no `exp`.
    let claims = verified(&json!(receipt));
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let forged = signed(&header, &claims, tickets::SECRET.as_bytes());
    post(&world, &forged, &small()).problem(401, "unauthenticated");
    assert_eq!(world.objects().len(), 1);
}
