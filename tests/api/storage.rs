//! Endpoints for many files at once: download links, deletes, and upload links for clients that post to COS directly.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Client, Form, Response, Setup, World, authorization, fetch, noise, wait_until,
};
use crate::stand_in::{self, Upstream, ok};

/// Stores `content` under `path` and gives the file's id.
fn store(world: &World, path: &str, content: &[u8]) -> String {
    let mut client = world.client();
    client.send_request("PUT", &format!("/v1/files/{path}"), &[authorization()], content);
    client.response().stored()["file_id"].as_str().expect("an id").to_owned()
}

fn links(world: &World, body: &Value) -> Vec<Value> {
    let response = world.call("POST", "/v1/download-links", body);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["files"].as_array().expect("a list").clone()
}

fn delete(world: &World, files: &[String]) -> Vec<Value> {
    let response = world.call("POST", "/v1/delete", &json!({ "files": files }));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["files"].as_array().expect("a list").clone()
}

fn url(file: &Value) -> &str {
    file["url"].as_str().unwrap_or_else(|| panic!("no link: {file}"))
}

fn get(world: &World, target: &str) -> Response {
    world.call_with("GET", target, &[], "")
}

#[test]
fn a_hundred_and_twenty_files_are_stored_linked_and_deleted() {
    let world = Setup::new().start();
    let contents: Vec<_> = (0..120).map(|n| noise(n * 997 % 50_000, n as u64)).collect();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let stored = contents.iter().enumerate().map(|(n, content)| {
            let world = &world;
            scope.spawn(move || store(world, &format!("many/{n:03}.bin"), content))
        });
        let stored: Vec<_> = stored.collect();
        stored.into_iter().map(|thread| thread.join().expect("stored")).collect()
    });

    let asked =
        json!({ "files": ids.iter().map(|id| json!({ "file_id": id })).collect::<Vec<_>>() });
    let files = links(&world, &asked);
    assert_eq!(world.count("batchdownloadfile"), 3);
    assert_eq!(files.len(), 120);
    for (n, file) in files.iter().enumerate() {
        assert_eq!(file["file_id"], ids[n], "in the order asked");
        assert_eq!(file["path"], format!("many/{n:03}.bin"));
        assert!(fetch(url(file)).0 == contents[n], "{file} leads to other bytes");
    }

    // Again, by path and one at a time: all from the cache.
    let by_path: Vec<_> = (0..120).map(|n| json!({ "path": format!("many/{n:03}.bin") })).collect();
    assert_eq!(links(&world, &json!({ "files": by_path })), files);
    assert_eq!(get(&world, "/v1/files/many/007.bin").header("location"), Some(url(&files[7])));
    assert_eq!(world.count("batchdownloadfile"), 3);

    let deleted = delete(&world, &ids);
    assert_eq!(world.count("batchdeletefile"), 3);
    for (n, file) in deleted.iter().enumerate() {
        let path = format!("many/{n:03}.bin");
        assert_eq!(*file, json!({ "file_id": ids[n], "path": path, "deleted": true }));
    }
    assert_eq!(world.objects(), Vec::<Value>::new());
    // Deleting the files removed their links from the cache.
    for file in links(&world, &asked) {
        assert_eq!(file["error"]["code"], "file_not_found", "{file}");
    }
    assert_eq!(world.count("batchdownloadfile"), 6);
}

#[test]
fn links_are_in_request_order_and_each_file_is_requested_once() {
    let world = Setup::new().start();
    let (a, b) = (store(&world, "a", b"a"), store(&world, "b", b"b"));
    let asked = json!({ "files": [
        { "file_id": b }, { "path": "a" }, { "path": "none" }, { "file_id": b }, { "path": "b", "file_id": b }, a, "a",
    ]});
    let files = links(&world, &asked);
    let paths: Vec<_> = files.iter().map(|file| file["path"].as_str().expect("a path")).collect();
    assert_eq!(paths, ["b", "a", "none", "b", "b", "a", "a"]);
    for (file, content) in files.iter().zip(["b", "a", "", "b", "b", "a", "a"]) {
        if content.is_empty() {
            assert_eq!(file["error"]["code"], "file_not_found");
            assert_eq!(file["error"]["status"], 404);
            let detail = file["error"]["detail"].as_str().expect("a text");
            assert!(
                detail.contains("x-cos-meta-fileid") && detail.contains("sent again"),
                "{detail}"
            );
        } else {
            assert_eq!(fetch(url(file)).0, content.as_bytes());
        }
    }
    assert_eq!(world.count("batchdownloadfile"), 1);
    assert_eq!(world.state()["refused"].as_array().map(Vec::len), Some(0), "{}", world.state());
}

#[test]
fn an_invalid_name_fails_only_its_own_file() {
    let world = Setup::new().start();
    let a = store(&world, "a", b"a");
    let files = links(
        &world,
        &json!({ "files": [
            {}, { "path": "/a" }, { "path": "../a" }, { "file_id": "cloud://x" }, "",
            { "file_id": a, "path": "b" }, { "file_id": "cloud://other.bucket/a" }, { "path": "a" },
        ]}),
    );
    let codes: Vec<_> = files.iter().map(|file| file["error"]["code"].as_str()).collect();
    let (request, path) = (Some("invalid_request"), Some("invalid_path"));
    assert_eq!(codes, [request, path, path, path, path, request, path, None], "{files:?}");
    assert_eq!(files[6]["error"]["errcode"], -501007);
    assert_eq!(files[1]["path"], "/a", "as it was given");
    assert_eq!(fetch(url(&files[7])).0, b"a");
}

#[test]
fn links_have_the_requested_lifetime_and_are_cached_until_shortly_before_expiry() {
    let world = Setup::new().start();
    store(&world, "a", b"a");
    let link = |max_age: Value| {
        let body = json!({ "files": ["a"], "max_age": max_age });
        let file = links(&world, &body)[0].clone();
        let expires: jiff::Timestamp =
            file["expires_at"].as_str().expect("a time").parse().expect("RFC 3339");
        (url(&file).to_owned(), expires.as_second() - jiff::Timestamp::now().as_second())
    };
    for (max_age, expected) in [(json!(600), 600), (json!(86_400), 86_400), (Value::Null, 7200)] {
        let (first, left) = link(max_age.clone());
        assert!((expected - 5..=expected).contains(&left), "{left} s left of {expected}");
        assert_eq!(link(max_age).0, first, "from the cache");
    }
    assert_eq!(world.count("batchdownloadfile"), 3, "one for each life");
    // A file's own `expires_in` overrides the request's.
    let body = json!({ "files": [{ "path": "a", "max_age": 600 }], "max_age": 5 });
    links(&world, &body);
    assert_eq!(world.count("batchdownloadfile"), 3);

    let short = || links(&world, &json!({ "files": ["a"], "max_age": 2 }));
    short();
    let began = Instant::now();
    wait_until("the link is asked for again", || {
        short();
        world.count("batchdownloadfile") == 5
    });
    let kept = began.elapsed();
    assert!((Duration::from_millis(1000)..Duration::from_secs(5)).contains(&kept), "{kept:?}");
}

#[test]
fn a_failure_is_not_cached_and_affects_only_its_own_files() {
    let world = Setup::new().start();
    let ids: Vec<_> = (0..60).map(|n| store(&world, &format!("f{n:02}"), b"x")).collect();
    let asked = json!({ "files": ids });
    // The second call of two.
    world.faults(
        &json!([{"stage": "download", "fault": "errcode", "errcode": -501000, "path": "/f59"}]),
    );
    let files = links(&world, &asked);
    for (n, file) in files.iter().enumerate() {
        match n {
            0..50 => assert!(file["url"].is_string(), "{file}"),
            _ => assert_eq!(
                (&file["error"]["code"], &file["error"]["errcode"]),
                (&json!("wechat_refused"), &json!(-501000))
            ),
        }
    }
    world.control("DELETE", "faults", "");
    assert!(links(&world, &asked).iter().all(|file| file["url"].is_string()));
    // Two calls, then one for the ten files that had failed.
    assert_eq!(world.count("batchdownloadfile"), 3);

    // If no file succeeds, the request fails as a whole.
    world.faults(&json!([{"stage": "delete", "fault": "errcode", "errcode": 85088, "errmsg": "no qbase privilege"}]));
    let problem = world.call("POST", "/v1/delete", &asked).problem(502, "wechat_refused");
    assert_eq!(problem["errcode"], 85088);
    assert!(
        problem["detail"].as_str().expect("a text").contains("cloud.weixin.qq.com"),
        "{problem}"
    );
    assert_eq!(world.objects().len(), 60);
}

#[test]
fn a_request_names_at_most_a_thousand_files() {
    let world = Setup::new().start();
    let names =
        |count: usize| json!({ "files": (0..count).map(|n| format!("f{n}")).collect::<Vec<_>>() });
    for target in ["/v1/download-links", "/v1/delete"] {
        let call = |body: &Value| world.call("POST", target, body);
        call(&names(1001)).problem(413, "too_many_files");
        call(&names(0)).problem(400, "invalid_request");
        call(&json!({})).problem(400, "invalid_request");
        call(&json!({ "files": "a" })).problem(400, "invalid_request");
        let problem = call(&json!({ "files": [1] })).problem(400, "invalid_request");
        let detail = problem["detail"].as_str().expect("a text");
        assert!(detail.contains("a file is its id or its path"), "{detail}");
        let misspelt = json!({ "files": [{ "path": "a", "maxAge": 60 }] });
        call(&misspelt).problem(400, "invalid_request");
        call(&json!({ "files": ["a"], "fiels": [] })).problem(400, "invalid_request");
        let not_json = world.call_with("POST", target, &[authorization()], "{files:");
        not_json.problem(400, "invalid_request");
        let response = call(&names(1000));
        assert_eq!(response.json()["files"].as_array().map(Vec::len), Some(1000));
    }
    for max_age in [json!(0), json!(-1), json!("1"), json!(1u64 << 40)] {
        let body = json!({ "files": ["a"], "max_age": max_age });
        world.call("POST", "/v1/download-links", &body).problem(400, "invalid_request");
    }
    assert_eq!((world.count("batchdownloadfile"), world.count("batchdeletefile")), (20, 20));
}

#[test]
fn deletes_are_idempotent() {
    let world = Setup::new().start();
    let id = store(&world, "a", b"a");
    store(&world, "b", b"b");
    let expected = json!({ "file_id": id, "path": "a", "deleted": true });
    for _ in 0..2 {
        assert_eq!(
            delete(&world, &["a".to_owned(), id.clone()]),
            [expected.clone(), expected.clone()]
        );
    }
    assert_eq!(get(&world, "/v1/files/b").status, 302);
    for _ in 0..2 {
        let response = world.call("DELETE", "/v1/files/b", &Value::Null);
        assert_eq!((response.status, response.body.len()), (204, 0));
        assert_eq!(world.objects(), Vec::<Value>::new());
        get(&world, "/v1/files/b").problem(404, "file_not_found");
    }
    world.call("DELETE", "/v1/files/a//b", &Value::Null).problem(400, "invalid_path");
}

#[test]
fn requests_without_permission_are_refused() {
    use sha2::Digest;
    let hash = |key: &str| hex::encode(sha2::Sha256::digest(key));
    let world = Setup::new()
        .set("auth.keys.reader.sha256", hash("reader"))
        .set("auth.keys.reader.can", "download")
        .set("auth.keys.team.sha256", hash("team"))
        .set("auth.keys.team.prefix", "team/")
        .start();
    let (ours, theirs) = (store(&world, "team/a", b"a"), store(&world, "b", b"b"));
    let call = |key: &str, method: &str, target: &str, body: &Value| {
        let key = format!("Bearer {key}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        world.call_with(method, target, &[("authorization", &key)], &body)
    };
    let (files, path) = (json!({ "files": [ours, theirs, "b"] }), json!({ "path": "x" }));
    for (method, target, body) in [
        ("POST", "/v1/download-links", &files),
        ("POST", "/v1/delete", &files),
        ("POST", "/v1/upload-links", &path),
        ("DELETE", "/v1/files/b", &Value::Null),
    ] {
        call("nobody", method, target, body).problem(401, "unauthenticated");
        if target != "/v1/download-links" {
            call("reader", method, target, body).problem(403, "not_allowed");
        }
    }
    let links = call("reader", "POST", "/v1/download-links", &files).json();
    assert!(links["files"].as_array().expect("a list").iter().all(|file| file["url"].is_string()));

    // The prefix applies to file ids as to paths.
    for target in ["/v1/download-links", "/v1/delete"] {
        let files = call("team", "POST", target, &files).json()["files"].clone();
        assert_eq!(files[0]["error"], Value::Null, "{files}");
        for other in [1, 2] {
            assert_eq!(files[other]["error"]["code"], "path_not_allowed", "{files}");
        }
        for escape in ["team/../b", "team//b", "team/./../b", "team/..\\b"] {
            let prefix = theirs.strip_suffix("b").expect("its path");
            let body = json!({ "files": [format!("{prefix}{escape}")] });
            let files = call("team", "POST", target, &body).json()["files"].clone();
            assert_eq!(files[0]["error"]["code"], "path_not_allowed", "{files}");
        }
    }
    call("team", "DELETE", "/v1/files/b", &Value::Null).problem(403, "path_not_allowed");
    call("team", "POST", "/v1/upload-links", &path).problem(403, "path_not_allowed");
    let keys: Vec<_> = world.objects().iter().map(|object| object["key"].clone()).collect();
    assert_eq!(keys, ["b"], "only what the team may delete is gone");
}

/// Lists in all formats: objects (as the vendor's examples show), strings (as its tables say), ids under other names or
/// missing.
#[test]
fn wechat_s_lists_are_read_in_every_spelling() {
    let upstream = Upstream::start();
    let (gateway, _folder) =
        stand_in::gateway(&upstream, &[("GATEWAY__WECHAT__FILE_ID_PREFIX", "cloud://e.b")]);
    let call = |target: &str| {
        let mut client = Client::connect(gateway.address);
        let files =
            client.post_json(target, &json!({ "files": ["one", "two"] })).json()["files"].clone();
        files.as_array().unwrap_or_else(|| panic!("no list: {files}")).clone()
    };
    let (one, two) = ("cloud://e.b/one", "cloud://e.b/two");
    let gone = json!("STORAGE_FILE_NONEXIST");
    for list in [
        json!([one, two]),
        json!([]),
        json!([{"fileid": one, "status": 0, "errmsg": "ok"}, {"fileid": two, "status": 0}]),
        json!([{"files": two, "status": 0}, {"file_id": one, "status": 0}]),
        json!([{"status": 0}, {}]),
        json!([{"fileid": one, "status": -503003, "errmsg": gone}, {"fileid": two, "status": -1, "errmsg": gone}]),
    ] {
        upstream.respond_with(
            "/tcb/batchdeletefile",
            ok(&json!({ "errcode": 0, "errmsg": "ok", "delete_list": list })),
        );
        let files = call("/v1/delete");
        assert!(files.iter().all(|file| file["deleted"] == true), "{list}: {files:?}");
    }
    let failed =
        json!([{"fileid": one, "status": 0}, {"fileid": two, "status": -501007, "errmsg": "no"}]);
    upstream
        .respond_with("/tcb/batchdeletefile", ok(&json!({ "errcode": 0, "delete_list": failed })));
    let files = call("/v1/delete");
    assert_eq!(
        (&files[0]["deleted"], &files[1]["error"]["errcode"]),
        (&json!(true), &json!(-501007))
    );
    upstream.respond_with(
        "/tcb/batchdeletefile",
        ok(&json!({ "errcode": 0, "delete_list": [{"fileid": "x"}] })),
    );
    assert_eq!(
        Client::connect(gateway.address)
            .post_json("/v1/delete", &json!({"files": ["one", "two"]}))
            .status,
        502,
        "nothing was said of any of them"
    );

    let item = |key: &str, id: &str| json!({key: id, "download_url": format!("https://h/{id}"), "status": 0});
    for list in [
        [item("fileid", one), item("fileid", two)],
        [item("files", one), item("files", two)],
        [item("file_id", two), item("file_id", one)],
    ] {
        upstream.respond_with(
            "/tcb/batchdownloadfile",
            ok(&json!({ "errcode": 0, "file_list": list })),
        );
        let files = call("/v1/download-links");
        for (file, id) in files.iter().zip([one, two]) {
            assert_eq!(file["url"], format!("https://h/{id}"), "{list:?}");
        }
        // The next links must not come from the cache.
        upstream
            .respond_with("/tcb/batchdeletefile", ok(&json!({ "errcode": 0, "delete_list": [] })));
        assert_eq!(call("/v1/delete").len(), 2);
    }
    for wrong in ["", "javascript:alert(1)", "https://h/\r\nset-cookie: x"] {
        let item = |id: &str| json!({"fileid": id, "download_url": wrong, "status": 0});
        upstream.respond_with(
            "/tcb/batchdownloadfile",
            ok(&json!({ "errcode": 0, "file_list": [item(one), item(two)] })),
        );
        let response = Client::connect(gateway.address)
            .post_json("/v1/download-links", &json!({ "files": ["one", "two"] }));
        response.problem(502, "wechat_unreachable");
    }
}

/// A client with an upload link posts to COS using only the response's fields.
#[test]
fn an_upload_link_is_enough_for_curl() {
    let world = Setup::new().start();
    let content = noise(300_000, 9);
    let local = world.folder().join("local.png");
    std::fs::write(&local, &content).expect("a file");
    for (asked, path, kind) in [
        (json!({ "path": "links/图 1.png" }), Some("links/图 1.png"), "image/png"),
        (json!({ "path": "x", "content_type": "text/x-mine" }), Some("x"), "text/x-mine"),
        (json!({ "name": "照片.PNG", "dir": "album" }), None, "image/png"),
        (json!({}), None, "application/octet-stream"),
    ] {
        let before = jiff::Timestamp::now().as_second();
        let response = world.call("POST", "/v1/upload-links", &asked);
        assert_eq!(response.status, 200, "{}", response.text());
        let link = response.json();
        let text = |name: &str| link[name].as_str().unwrap_or_else(|| panic!("{name}: {link}"));
        let given = text("path").to_owned();
        match path {
            Some(path) => assert_eq!(given, path),
            None => assert!(given.starts_with("uploads/20"), "{given}"),
        }
        assert!(given.contains("album") != asked["dir"].is_null(), "{given}");
        let fields = link["fields"].as_array().expect("a list");
        let names: Vec<_> = fields.iter().map(|field| field[0].as_str().expect("a name")).collect();
        assert_eq!(
            names,
            ["key", "Signature", "x-cos-security-token", "x-cos-meta-fileid", "Content-Type"]
        );
        let signed: BTreeMap<_, _> = fields[1][1]
            .as_str()
            .expect("it")
            .split('&')
            .filter_map(|p| p.split_once('='))
            .collect();
        let end: i64 =
            signed["q-sign-time"].split(';').nth(1).expect("an end").parse().expect("a number");
        let expires: jiff::Timestamp = text("expires_at").parse().expect("RFC 3339");
        assert_eq!(expires.as_second(), end);
        assert!((before + 890..=before + 910).contains(&end), "{end} at {before}");

        let mut curl = Command::new("curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", text("method")]);
        for field in fields {
            let (name, value) = (field[0].as_str().expect("it"), field[1].as_str().expect("it"));
            curl.arg("--form-string").arg(format!("{name}={value}"));
        }
        curl.arg("-F").arg(format!("{}=@{}", text("file_field"), local.display())).arg(text("url"));
        let output = curl.output().expect("curl");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "204", "{output:?}");

        assert!(world.object(&given) == content);
        let file = links(&world, &json!({ "files": [text("file_id")] }))[0].clone();
        let (bytes, type_) = fetch(url(&file));
        assert!(bytes == content, "what was stored can be had");
        assert_eq!(type_, kind);
    }
    world.call("POST", "/v1/upload-links", &json!({ "path": "/x" })).problem(400, "invalid_path");
    world.call("POST", "/v1/upload-links", &json!({ "paht": "x" })).problem(400, "invalid_request");
    world.faults(
        &json!([{"stage": "link", "fault": "foreign_host", "url": "https://evil.example.com/b/k"}]),
    );
    world
        .call("POST", "/v1/upload-links", &json!({ "path": "x" }))
        .problem(502, "link_not_allowed");
}

#[test]
fn clients_that_may_not_name_paths_get_links_for_generated_ones() {
    let world = Setup::new().set("upload.client_paths", "false").start();
    world
        .call("POST", "/v1/upload-links", &json!({ "path": "x" }))
        .problem(403, "path_not_allowed");
    let link = world.call("POST", "/v1/upload-links", &json!({ "name": "a.txt" })).json();
    assert!(link["path"].as_str().is_some_and(|path| path.ends_with(".txt")), "{link}");
}

#[test]
fn many_readers_at_once_cost_one_call() {
    let world = Setup::new().start();
    store(&world, "hot.png", b"hot");
    // A link with another lifetime is neither shared with the others nor delays them.
    links(&world, &json!({ "files": ["hot.png"], "max_age": 600 }));
    world.faults(&json!([{"stage": "download", "fault": "delay", "ms": 300}]));
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| assert_eq!(get(&world, "/v1/files/hot.png").status, 302));
        }
    });
    assert_eq!(world.count("batchdownloadfile"), 2);
}

#[test]
fn a_replaced_file_gets_a_new_link() {
    let world = Setup::new().start();
    let id = store(&world, "a", b"one");
    let first = links(&world, &json!({ "files": [id] }));
    store(&world, "a", b"two");
    assert_eq!(fetch(url(&links(&world, &json!({ "files": [id] }))[0])).0, b"two");
    assert_eq!(world.count("batchdownloadfile"), 2, "{first:?}");
    let form = Form::new().field("path", "a").file("file", "a", "text/plain", b"three");
    world.post(&form).stored();
    assert_eq!(fetch(url(&links(&world, &json!({ "files": [id] }))[0])).0, b"three");
}

/// The file is deleted while a link call for it is in flight: its link must not be cached.
#[test]
fn a_link_in_flight_during_a_delete_is_not_cached() {
    let world = Setup::new().start();
    store(&world, "a", b"a");
    world.faults(&json!([{"stage": "download", "fault": "delay", "ms": 500, "times": 1}]));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| get(&world, "/v1/files/a"));
        wait_until("the link is asked for", || world.count("batchdownloadfile") == 1);
        assert_eq!(world.call("DELETE", "/v1/files/a", &Value::Null).status, 204);
        assert_eq!(
            reader.join().expect("a response").status,
            302,
            "it was there when it was asked"
        );
    });
    get(&world, "/v1/files/a").problem(404, "file_not_found");
}

/// Concurrent requests share one probe that resolves paths, and its failure fails all of them at once.
#[test]
fn concurrent_first_readers_share_one_probe_and_its_failure() {
    let mut world = Setup::new().set("wechat.timeout", "500ms").start();
    store(&world, "a", b"a");
    world.restart();
    let probes = world.count("uploadfile");
    let readers = |expected: u16| {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..30 {
                scope.spawn(|| assert_eq!(get(&world, "/v1/files/a").status, expected));
            }
        });
        began.elapsed()
    };
    world.faults(&json!([{"stage": "link", "fault": "stall"}]));
    let took = readers(504);
    assert!(took < Duration::from_secs(3), "{took:?}");
    world.control("DELETE", "faults", "");
    let before = world.count("uploadfile");
    assert!(before - probes <= 3, "{} probes", before - probes);
    readers(302);
    assert_eq!(world.count("uploadfile") - before, 1);
}

#[test]
fn nothing_is_written_under_a_precondition_or_in_the_gateways_own_folder() {
    for setup in [Setup::new(), Setup::new().by_api()] {
        let world = setup.start();
        let put = |path: &str, header: &[(&str, &str)]| {
            let headers = [&[authorization()], header].concat();
            world.call_with("PUT", &format!("/v1/files/{path}"), &headers, "new")
        };
        put("a.txt", &[]).stored();
        let before = world.objects();
        for header in [
            ("if-none-match", "*"),
            ("if-match", "\"none\""),
            ("if-unmodified-since", "Mon, 01 Jan 2001 00:00:00 GMT"),
        ] {
            put("a.txt", &[header]).problem(400, "invalid_request");
            let headers = [authorization(), header];
            let deleted = world.call_with("DELETE", "/v1/files/a.txt", &headers, "");
            deleted.problem(400, "invalid_request");
        }
        for path in [".resumable/x", ".resumable/0123/lease", "%2eresumable/x"] {
            put(path, &[]).problem(400, "invalid_path");
        }
        assert_eq!(world.objects(), before);
        put(".resumable.txt", &[]).stored();
    }
}
