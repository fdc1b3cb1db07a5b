//! Response profiles: what each editor and widget reads on success and on failure, according to its source code.

use serde_json::{Value, json};

use crate::harness::{Client, Form, Response, Setup, World, authorization, noise};

/// One file in the form that its client sends: the part's name, and the fields before and after it.
pub fn form(profile: &str, content: &[u8]) -> Form {
    let file = |form: Form, field: &str| form.file(field, "照片.png", "image/png", content);
    match profile {
        "wangeditor" => file(Form::new(), "wangeditor-uploaded-image"),
        "ckeditor" => file(Form::new(), "upload"),
        "editorjs" => file(Form::new(), "image").field("caption", "behind"),
        "vditor" => file(Form::new(), "file[]"),
        "ueditor" => file(Form::new(), "upfile").field("type", "ajax"),
        "filepond" => file(Form::new().field("filepond", "{}"), "filepond"),
        _ => file(Form::new(), "file"),
    }
}

/// What a client reads from a response: the picture's URL, or the error text that it shows to its user.
pub fn understood(profile: &str, response: &Response) -> Result<String, String> {
    let is_success = (200..300).contains(&response.status);
    let text = |value: &Value| value.as_str().unwrap_or("nothing").to_owned();
    match profile {
        // It reads `errno` only if the status is 2xx.
        "wangeditor" if !is_success => Err("nothing".to_owned()),
        "wangeditor" => match response.json() {
            body if body["errno"] == 0 => Ok(text(&body["data"]["url"])),
            body => Err(text(&body["message"])),
        },
        "tinymce" if !is_success => Err(format!("HTTP Error: {}", response.status)),
        "tinymce" => Ok(text(&response.json()["location"])),
        // It ignores the status.
        "ckeditor" => match response.json() {
            body if body["error"].is_null() => Ok(text(&body["url"])),
            body => Err(text(&body["error"]["message"])),
        },
        "editorjs" if !is_success => Err(text(&response.json()["message"])),
        "editorjs" => match response.json() {
            body if body["success"] == 1 => Ok(text(&body["file"]["url"])),
            _ => Err("nothing".to_owned()),
        },
        "vditor" if !is_success => Err(response.text()),
        "vditor" => {
            let body = response.json();
            assert!(body["data"]["errFiles"].is_array(), "{body}");
            let stored = body["data"]["succMap"].as_object().expect("a map");
            match stored.values().next() {
                Some(url) if body["code"] == 0 => Ok(text(url)),
                _ => Err(text(&body["msg"])),
            }
        }
        "ueditor" if !is_success => Err("nothing".to_owned()),
        "ueditor" => match response.json() {
            body if body["state"] == "SUCCESS" => Ok(text(&body["url"])),
            body => Err(text(&body["state"])),
        },
        "filepond" | "text" if !is_success => Err(response.text()),
        "filepond" | "text" => Ok(response.text()),
        "dropzone" if !is_success => {
            assert_eq!(response.header("content-type"), Some("application/json"));
            Err(text(&response.json()["error"]))
        }
        "dropzone" | "default" if is_success => Ok(text(&response.json()["url"])),
        _ => Err(text(&response.json()["detail"])),
    }
}

pub const PROFILES: [&str; 10] = [
    "default",
    "wangeditor",
    "tinymce",
    "ckeditor",
    "editorjs",
    "vditor",
    "ueditor",
    "filepond",
    "dropzone",
    "text",
];

pub fn post(world: &World, profile: &str, content: &[u8]) -> Response {
    world.post_to(&format!("/v1/files?reply={profile}"), &form(profile, content))
}

#[test]
fn every_client_finds_its_file() {
    let world = Setup::new().start();
    for (at, profile) in PROFILES.into_iter().enumerate() {
        let content = noise(200_000, at as u64);
        let response = post(&world, profile, &content);
        let url =
            understood(profile, &response).unwrap_or_else(|shown| panic!("{profile}: {shown}"));
        if profile == "filepond" {
            assert!(url.starts_with("cloud://"), "{url}");
            continue;
        }
        let (bytes, kind) = world.download(url.trim_end());
        assert!(bytes == content && kind == "image/png", "{profile}");
    }
    assert_eq!(world.objects().len(), PROFILES.len());
}

/// Refused before the body, after its first bytes, and by COS: each client shows an error text and never a success.
#[test]
fn every_client_shows_what_went_wrong() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    world.faults(
        &json!([{"stage": "cos", "fault": "status", "status": 403, "code": "AccessDenied"}]),
    );
    for profile in PROFILES {
        let target = format!("/v1/files?reply={profile}");
        let small = form(profile, b"small");
        let mut client = world.client();
        client.send_request(
            "POST",
            &target,
            &[("content-type", &small.content_type())],
            &small.bytes(),
        );
        let by_us = client.response();
        let too_large = world.post_to(&target, &form(profile, &noise(2 << 20, 1)));
        let by_cos = world.post_to(&target, &small);
        for (response, status, words) in [
            (by_us, 401, "no key was given"),
            (too_large, 413, "larger than"),
            (by_cos, 502, "403"),
        ] {
            let shown = understood(profile, &response).expect_err(profile);
            // TinyMCE shows only the status.
            let words = if profile == "tinymce" { "HTTP Error" } else { words };
            assert!(shown.contains(words), "{profile}: {shown}");
            let in_disguise = matches!(profile, "wangeditor" | "vditor" | "ueditor");
            assert_eq!(response.status, if in_disguise { 200 } else { status }, "{profile}");
        }
    }
    world.assert_nothing_stored();
    // For errors sent as HTTP 200 the log has the real code.
    world.gateway.log_with("\"code\":\"cos_refused\"");
}

/// These clients show only a network error if their request is not read to its end.
#[test]
fn an_error_sent_as_http_200_waits_for_the_whole_body() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let content = noise(24 << 20, 2);
    for profile in ["wangeditor", "vditor", "ueditor"] {
        let form = form(profile, &content);
        let (kind, body) = (form.content_type(), form.bytes());
        let length = body.len().to_string();
        for key in [&[authorization()][..], &[]] {
            let mut client = world.client();
            let headers = [("content-type", kind.as_str()), ("content-length", &length)];
            client.send_head(
                "POST",
                &format!("/v1/files?reply={profile}"),
                &[&headers[..], key].concat(),
            );
            // The client sends slowly; the gateway reads every byte although it has sent the response.
            for piece in body.chunks(1 << 20) {
                client.send(piece);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let response = client.response();
            assert_eq!(response.status, 200);
            understood(profile, &response).expect_err("it was refused");
        }
    }
    world.assert_nothing_stored();
}

/// Browsers drop a 2xx response if the request was not read to its end, so an error sent as HTTP 200 needs a longer
/// lingering timeout than `server.lingering_timeout`.
#[test]
fn an_error_sent_as_http_200_lingers_longer() {
    let world = Setup::new()
        .set("upload.max_file_size", "1MiB")
        .set("server.lingering_timeout", "1s")
        .start();
    let content = noise(24 << 20, 7);
    let send = |profile: &str| {
        let form = form(profile, &content);
        let (kind, body) = (form.content_type(), form.bytes());
        let length = body.len().to_string();
        let headers =
            [authorization(), ("content-type", kind.as_str()), ("content-length", &length)];
        let mut client = world.client();
        client.send_head("POST", &format!("/v1/files?reply={profile}"), &headers);
        for piece in body.chunks(1 << 20) {
            client.try_send(piece)?;
            std::thread::sleep(std::time::Duration::from_millis(120));
        }
        client.try_response()
    };
    let began = std::time::Instant::now();
    let response = send("wangeditor").expect("every byte is read, and so is the response");
    assert!(began.elapsed().as_secs_f64() > 2.0);
    understood("wangeditor", &response).expect_err("it was refused");
    // With an error status the timeout is that of the setting.
    send("default").expect_err("it is cut off");
}

#[test]
fn the_setting_is_the_default_profile() {
    let world = Setup::new().set("upload.reply", "wangeditor").start();
    assert_eq!(world.post(&form("wangeditor", b"x")).json()["errno"], 0);
    let mut client = world.client();
    client.send_request("PUT", "/v1/files/x.txt", &[authorization()], b"x");
    assert_eq!(client.response().json()["data"]["alt"], "x.txt");
    world.post_to("/v1/files?reply=default", &form("default", b"x")).stored();
    let unknown = world.post_to("/v1/files?reply=Vditor", &form("vditor", b"x"));
    let problem = unknown.problem(400, "invalid_request");
    assert!(problem["detail"].as_str().expect("a text").contains("vditor"), "{problem}");
}

#[test]
fn vditor_s_files_are_told_apart() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let (small, large) = (noise(1000, 3), noise(2 << 20, 4));
    let files = Form::new()
        .file("file[]", "image.png", "image/png", &small)
        .file("file[]", "large<1>.png", "image/png", &large)
        .file("file[]", "image.png", "image/png", &noise(2000, 5))
        .file("file[]", "a.txt", "text/plain", b"text");
    let response = world.post_to("/v1/files?reply=vditor", &files);
    let body = response.json();
    assert_eq!((response.status, &body["code"]), (200, &json!(1)), "{body}");
    // Vditor inserts the name into HTML without escaping.
    assert_eq!(body["data"]["errFiles"], json!(["large‹1›.png"]));
    assert!(body["msg"].as_str().expect("a text").contains("larger than"), "{body}");
    let stored = body["data"]["succMap"].as_object().expect("a map");
    let url = |name: &str| stored[name].as_str().expect("a URL");
    assert!(world.download(url("image.png")).0 == small);
    assert_eq!(world.download(url("image-2.png")).0.len(), 2000);
    assert_eq!(world.download(url("a.txt")).0, b"text");
    assert_eq!((stored.len(), world.objects().len()), (3, 3));
    // Vditor inserts the files in the order of the JSON text.
    let text = response.text();
    let at = |name: &str| text.find(&format!("\"{name}\":")).expect("it");
    assert!(at("image.png") < at("image-2.png") && at("image-2.png") < at("a.txt"), "{text}");
    assert_eq!(body["problem"]["code"], "file_too_large");
}

#[test]
fn one_failed_file_of_several_fails_the_response_in_every_profile() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let good = || {
        Form::new().file("file[0]", "a.txt", "text/plain", b"a").file(
            "file[1]",
            "b.txt",
            "text/plain",
            b"b",
        )
    };
    let bad = || good().file("file[2]", "c.bin", "text/plain", &noise(2 << 20, 6));
    let post =
        |profile: &str, form: &Form| world.post_to(&format!("/v1/files?reply={profile}"), form);

    let response = post("dropzone", &good());
    assert_eq!(
        (response.status, response.json()["files"].as_array().map(Vec::len)),
        (201, Some(2))
    );
    let response = post("dropzone", &bad());
    let body = response.json();
    assert!(understood("dropzone", &response).expect_err("one failed").contains("larger than"));
    assert_eq!((response.status, &body["files"][1]["name"]), (413, &json!("b.txt")));
    assert!(body["files"][1]["file_id"].is_string() && body["files"][2]["error"].is_object());

    assert_eq!(post("text", &good()).text().lines().count(), 2);
    assert_eq!(post("wangeditor", &good()).json()["data"].as_array().map(Vec::len), Some(2));
    for profile in ["text", "tinymce", "ckeditor", "editorjs", "filepond", "wangeditor", "ueditor"]
    {
        let response = post(profile, &bad());
        understood(profile, &response).expect_err("one failed");
    }
}

/// FilePond's revert: the body of its DELETE is the response of the upload.
#[test]
fn filepond_reverts_an_upload() {
    let world = Setup::new().start();
    let take_back = |headers: &[(&str, &str)], body: &str| {
        let mut client = world.client();
        client.send_request("DELETE", "/v1/files?reply=filepond", headers, body.as_bytes());
        client.response()
    };
    let ids = [1, 2].map(|seed| post(&world, "filepond", &noise(1000, seed)).text());
    let key = [authorization(), ("content-type", "text/plain;charset=UTF-8")];
    assert_eq!(take_back(&[], &ids[0]).status, 401);
    assert_eq!(world.objects().len(), 2);
    // Deleting it again succeeds.
    for _ in 0..2 {
        let response = take_back(&key, &ids[0]);
        assert_eq!((response.status, response.text().as_str()), (204, ""));
    }
    let left = world.objects();
    let path = left[0]["key"].as_str().expect("a key");
    assert!(left.len() == 1 && ids[1].ends_with(path), "{left:?}");
    for not_an_id in ["", " ", "cloud://", "../x", "cloud://a.b/"] {
        let response = take_back(&key, not_an_id);
        assert_eq!(response.status, 400, "{not_an_id}: {}", response.text());
        assert!(response.header("content-type").expect("a type").starts_with("text/plain"));
    }
    assert_eq!(take_back(&key, path).status, 204);
    world.assert_nothing_stored();
}

#[test]
fn a_file_outside_a_key_s_prefix_is_not_reverted() {
    let world = Setup::new().set("auth.keys.panel.prefix", "panel/").start();
    let id = post(&world, "filepond", b"x").text();
    let foreign = id.replace("/panel/", "/other/");
    let mut client = world.client();
    for (id, status) in [(foreign.as_str(), 403), (&id, 204)] {
        client.send_request("DELETE", "/v1/files", &[authorization()], id.as_bytes());
        assert_eq!(client.response().status, status, "{id}");
    }
}

#[test]
fn ueditor_gets_its_configuration() {
    let world = Setup::new().set("upload.max_file_size", "3MiB").start();
    let ask = |query: &str| {
        let mut client = world.client();
        client.send_request("GET", &format!("/v1/files{query}"), &[], b"");
        client.response()
    };
    let plain = ask("?reply=ueditor&action=config&noCache=1");
    assert_eq!((plain.status, plain.header("content-type")), (200, Some("application/json")));
    let config = plain.json();
    assert_eq!(config["imageMaxSize"], 3 << 20);
    assert_eq!(config["imageUrlPrefix"], "");
    let allowed = config["imageAllowFiles"].as_array().expect("a list");
    assert!(allowed.contains(&json!(".png")) && !allowed.contains(&json!(".pdf")));
    assert!(
        config["catcherLocalDomain"].as_array().expect("hosts").contains(&json!("gateway.test"))
    );
    // UEditor uses the configuration's values in its uploads.
    let field = config["imageFieldName"].as_str().expect("a name");
    let action = config["imageActionName"].as_str().expect("a name");
    let form = Form::new().file(field, "x.png", "image/png", b"x").field("type", "ajax");
    let response = world.post_to(&format!("/v1/files?reply=ueditor&action={action}"), &form);
    assert_eq!(response.json()["state"], "SUCCESS");
    // UEditor's hidden frame reads the text; as text/plain it cannot be rendered as HTML.
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));

    let script = ask("?action=config&callback=bd__editor__abc");
    assert!(script.header("content-type").expect("a type").starts_with("text/javascript"));
    let text = script.text();
    let json = text.strip_prefix("bd__editor__abc(").and_then(|text| text.strip_suffix(')'));
    assert_eq!(serde_json::from_str::<Value>(json.expect("a call")).expect("JSON"), config);
    for callback in ["alert(1)//", "%3Cscript%3E", "1a", "", "a%0A"] {
        ask(&format!("?action=config&callback={callback}")).problem(400, "invalid_request");
    }
    let list = ask("?action=listimage&start=0&size=20");
    assert!(list.json()["state"].as_str().is_some_and(|state| state != "SUCCESS"));
    ask("").problem(405, "method_not_allowed");
}

/// UEditor's hidden frame cannot read the refusal; its user has only the gateway's log.
#[test]
fn a_page_of_another_origin_is_refused_whatever_its_profile() {
    let world = Setup::new().start();
    for profile in PROFILES {
        let form = form(profile, b"x");
        let mut client: Client = world.client();
        let kind = form.content_type();
        let headers =
            [authorization(), ("content-type", kind.as_str()), ("origin", "https://evil.example")];
        client.send_request("POST", &format!("/v1/files?reply={profile}"), &headers, &form.bytes());
        client.response().problem(403, "origin_not_allowed");
    }
    world.assert_nothing_stored();
}
