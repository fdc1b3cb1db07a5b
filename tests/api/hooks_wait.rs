//! `hooks.wait`: what each client is told, in its own format, of a file that the back end refused or said nothing about.

use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Form, Response, World, authorization, wait_until};
use crate::hooks::{Receiver, count};
use crate::measured::{metrics, value};
use crate::profiles::{PROFILES, post, understood};
use crate::recorder::response;
use crate::resumable;

const REASON: &str = "the album is full";

/// The milliseconds of `hook` in `Server-Timing`.
fn hook_time(response: &Response) -> f64 {
    let times = response.header("server-timing").expect("times");
    let hook = times.split(", ").find_map(|time| time.strip_prefix("hook;dur="));
    hook.expect("the time of the hook").parse().expect("milliseconds")
}

fn waiting(receiver: &Receiver, timeout: &str) -> World {
    receiver.setup().set("hooks.wait", "true").set("hooks.timeout", timeout).start()
}

#[test]
fn every_client_shows_why_the_back_end_refused_its_file_and_nothing_is_stored() {
    let receiver = Receiver::start();
    receiver.respond_with(response("422 No", &json!({ "detail": REASON }).to_string()));
    let world = waiting(&receiver, "10s");
    for (at, profile) in PROFILES.into_iter().enumerate() {
        let refused = post(&world, profile, b"content");
        let shown = understood(profile, &refused).expect_err("it is refused");
        match profile {
            "tinymce" => assert_eq!(shown, "HTTP Error: 422"),
            // It reads the whole text.
            "text" => assert_eq!(shown, format!("refused_by_hook: {REASON}\n")),
            _ => assert_eq!(shown, REASON, "{profile}"),
        }
        // The editors that need a 2xx to read a message have the code in it.
        if !["text", "filepond"].contains(&profile) {
            let body = refused.json();
            let problem = if body["code"] == "refused_by_hook" { &body } else { &body["problem"] };
            assert_eq!(problem["code"], "refused_by_hook", "{profile}: {body}");
        }
        assert_eq!(receiver.calls(), at + 1, "{profile}");
        world.assert_nothing_stored();
    }
    let refused = world.post_to("/v1/files?reply=hook", &crate::hooks::form("x.txt", b"x"));
    assert_eq!(refused.problem(422, "refused_by_hook")["detail"], REASON);
    world.assert_nothing_stored();
    assert_eq!(count(&world, "file.stored", "refused"), PROFILES.len() as u64 + 1);
}

#[test]
fn files_count_once_and_only_those_that_the_back_end_did_not_refuse() {
    for by_api in [false, true] {
        let receiver = Receiver::start();
        let setup = receiver.setup().set("hooks.wait", "true").set("hooks.timeout", "20s");
        let setup = if by_api { setup.by_api().set("cos.api.abort_after", "0s") } else { setup };
        let world = setup.start();
        let total = |metric: &str| value(&metrics(&world), metric);
        let uploads =
            |result: &str| total(&format!("gateway_uploads_total{{result=\"{result}\"}}"));
        receiver.respond_with(response("403 No", ""));
        let url = resumable::create(&world, 1000, &[("path", "refused.txt")]);
        resumable::patch(&world, &url, 0, &[b'x'; 1000]).problem(422, "refused_by_hook");
        assert_eq!((uploads("refused_by_hook"), uploads("stored")), (1.0, 0.0));
        assert_eq!(total("gateway_upload_bytes_total"), 0.0);
        assert_eq!(total("gateway_resumable_total{event=\"stored\"}"), 0.0);
        // A client that is gone before the back end responds.
        let (respond, responds) = mpsc::channel::<()>();
        let responds = Mutex::new(responds);
        receiver.respond(move |_| {
            let _ = responds.lock().unwrap().recv();
            Some(response("204 No Content", ""))
        });
        let mut client = world.client();
        client.send_request("PUT", "/v1/files/gone.txt", &[authorization()], b"content");
        wait_until("the back end is asked", || receiver.calls() == 2);
        client.reset();
        let log = world.gateway.log_with("its client was gone before it had a response");
        assert!(log.contains("\"object\":\"gone.txt\""), "{log}");
        drop(respond);
        assert_eq!((uploads("truncated_body"), uploads("stored")), (0.0, 1.0));
        assert_eq!(total("gateway_upload_bytes_total"), 7.0);
        assert_eq!(world.object("gone.txt"), b"content");
    }
}

#[test]
fn every_client_finds_its_file_where_the_back_end_is_silent() {
    let receiver = Receiver::start();
    receiver.respond(|_| None);
    let world = waiting(&receiver, "300ms");
    for profile in PROFILES {
        let began = Instant::now();
        let stored = post(&world, profile, profile.as_bytes());
        assert!(began.elapsed() < Duration::from_secs(5), "{profile}: {:?}", began.elapsed());
        let url = understood(profile, &stored).unwrap_or_else(|shown| panic!("{profile}: {shown}"));
        let time = hook_time(&stored);
        assert!((250.0..3000.0).contains(&time), "{profile}: {time} ms");
        match profile {
            "filepond" => assert!(url.starts_with("cloud://"), "{url}"),
            _ => assert_eq!(world.download(url.trim_end()).0, profile.as_bytes(), "{profile}"),
        }
        if ["default", "dropzone"].contains(&profile) {
            let file = &stored.json()["files"][0];
            assert_eq!(file.get("hook"), Some(&Value::Null), "{file}");
        }
    }
    let stored = world.post_to("/v1/files?reply=hook", &crate::hooks::form("x.txt", b"x"));
    assert_eq!((stored.status, stored.json()), (201, Value::Null));
    let all = PROFILES.len() + 1;
    assert_eq!(world.objects().len(), all);
    receiver.respond_with(response("200 OK", ""));
    wait_until("all are delivered", || count(&world, "file.stored", "delivered") == all as u64);
    assert_eq!(world.objects().len(), all);
}

/// A form of several files: one is refused, and the others stay.
#[test]
fn the_back_end_refuses_one_of_several_files() {
    let receiver = Receiver::start();
    receiver.respond(|event| {
        let is_refused = event.data()["name"] == "2.txt";
        let status = if is_refused { "403 No" } else { "200 OK" };
        Some(response(status, &json!({ "message": REASON }).to_string()))
    });
    let world = waiting(&receiver, "10s");
    let form = ["1.txt", "2.txt", "3.txt"]
        .into_iter()
        .fold(Form::new(), |form, name| form.file("f[]", name, "text/plain", name.as_bytes()));
    let body = world.post_to("/v1/files?dir=d", &form).json();
    let files = body["files"].as_array().expect("a list");
    let codes: Vec<_> = files.iter().map(|file| file.pointer("/error/code").cloned()).collect();
    assert_eq!(codes.iter().flatten().collect::<Vec<_>>(), ["refused_by_hook"], "{body}");
    assert_eq!(world.objects().len(), 2);
    let body = world.post_to("/v1/files?dir=d&reply=vditor", &form).json();
    assert_eq!(body["data"]["errFiles"], json!(["2.txt"]), "{body}");
    assert_eq!(body["data"]["succMap"].as_object().expect("a map").len(), 2);
    assert_eq!(world.objects().len(), 4);
}

/// A proxy's page of an error is longer than a response may be; its status says enough.
#[test]
fn a_refusal_with_a_long_page_is_a_refusal() {
    let receiver = Receiver::start();
    let page = "<p>404</p>".repeat(20_000);
    receiver.respond_with(response("404 Not Found", &page));
    let world = waiting(&receiver, "10s");
    let problem = post(&world, "default", b"x").problem(422, "refused_by_hook");
    assert!(problem["detail"].as_str().expect("a text").contains("404"), "{problem}");
    world.assert_nothing_stored();
    assert_eq!(receiver.calls(), 1);
}
