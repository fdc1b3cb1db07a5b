//! What clients tell of a file besides: other fields of forms and other metadata of resumable uploads, in events and in
//! receipts.

use serde_json::{Value, json};

use crate::harness::{Form, Setup, World, authorization, noise};
use crate::hooks::Receiver;
use crate::receipts::{RECEIPT_KEY, verified};
use crate::resumable::{create, metadata, patch, request};

fn with_receipts() -> Setup {
    Setup::new().set("receipts.key", RECEIPT_KEY)
}

fn file(form: Form) -> Form {
    form.file("file", "x.txt", "text/plain", b"content")
}

/// The metadata in the receipt of a form's file.
fn told(world: &World, form: &Form) -> Value {
    verified(&world.post(form).stored()["receipt"])["metadata"].clone()
}

#[test]
fn events_have_the_other_fields_of_a_form() {
    let receiver = Receiver::start();
    let world = receiver.setup().start();
    let form = Form::new()
        .field("album", "17")
        .field("dir", "photos")
        .field("标题", "海边 \"\\\n</script>")
        .field("empty", "")
        .field("album", "18")
        .file("f[]", "a.txt", "text/plain", b"a")
        .field("second", "only")
        .file("f[]", "b.txt", "text/plain", b"b");
    assert_eq!(world.post(&form).status, 201);
    assert_eq!(world.post(&file(Form::new())).status, 201);
    let mut client = world.client();
    client.send_request("PUT", "/v1/files/raw.bin", &[authorization()], b"raw");
    client.response().stored();
    let received = receiver.wait_for(4);
    let of = |name: &str| {
        let mut events = received.iter().map(crate::hooks::Received::data);
        events.find(|data| data["name"] == name).expect("an event")["metadata"].clone()
    };
    let mut expected = json!({"album": "18", "标题": "海边 \"\\\n</script>", "empty": ""});
    assert_eq!(of("a.txt"), expected);
    expected["second"] = json!("only");
    assert_eq!(of("b.txt"), expected);
    assert_eq!((of("x.txt"), of("raw.bin")), (json!({}), json!({})));
}

#[test]
fn events_have_the_other_metadata_of_a_resumable_upload() {
    let receiver = Receiver::start();
    for setup in [receiver.setup(), receiver.setup().by_api()] {
        let world = setup.set("receipts.key", RECEIPT_KEY).start();
        let before = receiver.received().len();
        let pairs = [
            ("filename", "a.bin"),
            ("name", "a.bin"),
            ("filetype", "application/x-thing"),
            ("type", "application/x-thing"),
            ("dir", "things"),
            ("album", "相册 17"),
            ("relativePath", "null"),
        ];
        let url = create(&world, 1000, &pairs);
        assert_eq!(patch(&world, &url, 0, &noise(1000, 1)).status, 204);
        let expected = json!({"album": "相册 17", "relativePath": "null"});
        let event = receiver.wait_for(before + 1).pop().expect("an event");
        assert_eq!(event.data()["metadata"], expected);
        let headers = [("accept", "application/json")];
        let stored = request(&world, "GET", &url, &headers, b"").json();
        assert_eq!(verified(&stored["files"][0]["receipt"])["metadata"], expected);
    }
}

#[test]
fn metadata_is_bounded() {
    let world = with_receipts().start();
    let numbered = |count: usize| {
        (0..count).fold(Form::new(), |form, index| form.field(&format!("f{index}"), "x"))
    };
    let named = |length: usize| Form::new().field(&"n".repeat(length), "x");
    let sized = |length: usize| Form::new().field("text", &"x".repeat(length - 4));
    for form in [numbered(33), named(129), sized(8193)] {
        world.post(&file(form)).problem(413, "fields_too_large");
    }
    world.assert_nothing_stored();
    assert_eq!(told(&world, &file(numbered(32))).as_object().map(serde_json::Map::len), Some(32));
    assert_eq!(told(&world, &file(named(128)))["n".repeat(128)], "x");
    // A receipt has up to 1 KiB of it, or none.
    assert_eq!(world.post(&file(sized(8192))).status, 201);
    assert_eq!(told(&world, &file(sized(1025))), Value::Null);
    assert_eq!(told(&world, &file(sized(1024)))["text"], "x".repeat(1020));
    assert_eq!(told(&world, &file(Form::new())), Value::Null);

    let stored = world.objects().len();
    let many: Vec<String> = (0..33).map(|index| format!("f{index}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "x")).collect();
    let long = "n".repeat(129);
    for pairs in [&many[..], &[(long.as_str(), "x")]] {
        let pairs = metadata(pairs);
        let headers = [("upload-length", "1"), ("upload-metadata", pairs.as_str())];
        request(&world, "POST", "/v1/uploads", &headers, b"").problem(413, "fields_too_large");
    }
    assert_eq!(world.objects().len(), stored);
}

/// A gateway that does not pass metadata on takes forms as before.
#[test]
fn without_events_and_receipts_fields_are_ignored() {
    let receiver = Receiver::start();
    let without = receiver.setup().set("hooks.include", "client");
    // Both run until the end: an event is queued in its gateway.
    let worlds = [Setup::new(), without].map(Setup::start);
    for world in &worlds {
        let form = Form::new().field(&"n".repeat(129), &"x".repeat(20_000));
        assert_eq!(world.post(&file(form)).status, 201);
    }
    assert_eq!(receiver.wait_for(1)[0].data().get("metadata"), None);
}

#[test]
fn a_field_that_is_no_utf8_is_told_with_replacements() {
    let world = with_receipts().start();
    let form = Form::new().part(b"Content-Disposition: form-data; name=\"gbk\"", b"a\xc4\xe3b");
    let told = told(&world, &file(form));
    assert_eq!(told["gbk"], "a\u{fffd}\u{fffd}b");
}
