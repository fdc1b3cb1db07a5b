//! `upload.content_disposition` and `upload.cache_control`: what COS stores with each file and sends with its downloads.

use serde_json::json;

use crate::harness::{Client, Form, Response, Setup, World, authorization, noise};
use crate::resumable::{create, patch};

/// Downloads a stored file; gives the response of COS.
fn downloaded(world: &World, path: &str) -> Response {
    let encoded = percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC);
    let redirect = world.call_with("GET", &format!("/v1/files/{encoded}"), &[], "");
    assert_eq!(redirect.status, 302, "{}", redirect.text());
    let url = redirect.header("location").expect("a URL").strip_prefix("http://").expect("http");
    let (authority, path) = url.split_once('/').expect("a path");
    let mut client = Client::connect(authority.parse().expect("an address"));
    client.send_request("GET", &format!("/{path}"), &[], b"");
    client.response()
}

fn named(name: &str) -> Form {
    Form::new().file("file", name, "text/plain", b"content")
}

fn headers(response: &Response) -> (Option<&str>, Option<&str>) {
    (response.header("content-disposition"), response.header("cache-control"))
}

const CACHE: &str = "public, max-age=31536000";

fn setup(disposition: &str) -> Setup {
    Setup::new().set("upload.content_disposition", disposition).set("upload.cache_control", CACHE)
}

#[test]
fn downloads_have_the_original_name() {
    for setup in [setup("attachment"), setup("attachment").by_api()] {
        let world = setup.start();
        for (name, expected) in [
            ("a b.txt", "attachment; filename=\"a b.txt\""),
            (
                "海边.txt",
                "attachment; filename=\"__.txt\"; filename*=UTF-8''%E6%B5%B7%E8%BE%B9.txt",
            ),
            ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
        ] {
            let stored = world.post(&named(name)).stored();
            let response = downloaded(&world, stored["path"].as_str().expect("a path"));
            assert_eq!(headers(&response), (Some(expected), Some(CACHE)), "{name}");
            assert_eq!(response.body, b"content");
        }
        // A raw body is called as its path's last name.
        let mut client = world.client();
        client.send_request("PUT", "/v1/files/a/raw.bin", &[authorization()], b"raw");
        client.response().stored();
        let expected = "attachment; filename=\"raw.bin\"";
        assert_eq!(headers(&downloaded(&world, "a/raw.bin")), (Some(expected), Some(CACHE)));
    }
}

#[test]
fn resumable_uploads_and_files_in_parts_have_them_too() {
    for setup in [setup("inline"), setup("inline").by_api().set("cos.api.single_put", "0")] {
        let world = setup.start();
        for (path, length) in [("r.bin", 3_000_000), ("empty.bin", 0)] {
            let url = create(&world, length, &[("path", path), ("filename", "照.bin")]);
            if length > 0 {
                assert_eq!(patch(&world, &url, 0, &noise(length, 1)).status, 204);
            }
            let expected = "inline; filename=\"_.bin\"; filename*=UTF-8''%E7%85%A7.bin";
            assert_eq!(headers(&downloaded(&world, path)), (Some(expected), Some(CACHE)), "{path}");
        }
        let large =
            Form::new().field("path", "p.bin").file("f", "p.bin", "a/b", &noise(3_000_000, 2));
        world.post(&large).stored();
        let expected = "inline; filename=\"p.bin\"";
        assert_eq!(headers(&downloaded(&world, "p.bin")), (Some(expected), Some(CACHE)));
    }
}

#[test]
fn by_default_there_are_none() {
    for setup in [Setup::new(), Setup::new().by_api()] {
        let world = setup.start();
        let stored = world.post(&named("a.txt")).stored();
        let response = downloaded(&world, stored["path"].as_str().expect("a path"));
        assert_eq!(headers(&response), (None, None));
    }
}

#[test]
fn no_name_adds_a_field_or_a_header() {
    for setup in [setup("attachment"), setup("attachment").by_api()] {
        let world = setup.start();
        for name in [
            "x\"; acl=public.txt",
            "x%22%0d%0aacl: public.txt",
            "x\\\\.txt",
            "x''%0D%0A.txt",
            "${filename}.txt",
        ] {
            let name = name.replace('"', "%22");
            let stored = world.post(&named(&name)).stored();
            let response = downloaded(&world, stored["path"].as_str().expect("a path"));
            let (disposition, _) = headers(&response);
            let disposition = disposition.expect("the header");
            assert!(disposition.starts_with("attachment; filename=\""), "{disposition}");
            assert_eq!(disposition.matches('"').count(), 2, "{disposition}");
            assert!(response.headers.iter().all(|(name, _)| name != "acl"));
        }
    }
}

#[test]
fn an_upload_link_has_the_fields() {
    let world = setup("inline").start();
    let body = json!({"name": "海.png"});
    let fields = world.call("POST", "/v1/upload-links", &body).json()["fields"].clone();
    let value = |name: &str| {
        let fields = fields.as_array().expect("fields").iter();
        let mut values = fields.filter(|field| field[0] == name).map(|field| field[1].clone());
        values.next().unwrap_or_default()
    };
    assert_eq!(
        value("Content-Disposition"),
        "inline; filename=\"_.png\"; filename*=UTF-8''%E6%B5%B7.png"
    );
    assert_eq!(value("Cache-Control"), CACHE);
}
