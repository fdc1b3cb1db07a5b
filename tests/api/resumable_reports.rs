//! What follows a stored resumable upload happens once, whichever gateway does it: also where the one that has completed the
//! file did not learn it, or waits for the back end, or where the client has gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, Response, Setup, World, authorization, noise, wait_until};
use crate::hooks::{Received, Receiver};
use crate::recorder::response;
use crate::replicas::Redis;
use crate::resumable::{MIB, OCTETS, TUS, create, number, patch, path_of, request, send};
use crate::threads::Barrier;
use crate::tickets;

const KEYS: &str = "a-key-of-at-least-thirty-two-bytes";

fn setup(receiver: &Receiver) -> Setup {
    receiver.setup().by_api().set("cos.api.abort_after", "0s").set("resumable.keys", KEYS)
}

fn at(
    gateway: &Gateway,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let headers = [headers, &[authorization(), TUS]].concat();
    send(Client::connect(gateway.address), method, url, &headers, body)
}

/// COS completes each upload, and says that it has failed.
fn lose_verdicts(world: &World) {
    world.faults(&json!([{"stage": "complete", "fault": "status", "status": 500, "store": true}]));
}

fn assert_no_helpers(world: &World) {
    let is_helper =
        |object: &Value| object["key"].as_str().is_some_and(|key| key.starts_with(".resumable/"));
    wait_until("helper objects are deleted", || !world.objects().iter().any(is_helper));
}

#[test]
fn a_file_whose_verdict_was_lost_is_reported_by_the_next_request() {
    let receiver = Receiver::start();
    let world = setup(&receiver).set("telemetry.audit", "stdout").start();
    let other = world.another();
    let content = noise(MIB + 7, 1);
    type Ask<'a> = &'a dyn Fn(&str) -> Response;
    // It tells that the upload is complete, and leaves the report to the next one.
    let ends =
        |url: &str| request(&world, "DELETE", url, &[], b"").problem(405, "method_not_allowed");
    let asks: [(&str, u16, Ask<'_>); 5] = [
        ("HEAD", 200, &|url| request(&world, "HEAD", url, &[], b"")),
        ("GET", 302, &|url| request(&world, "GET", url, &[], b"")),
        ("PATCH", 204, &|url| patch(&world, url, content.len(), b"")),
        ("HEAD after DELETE", 200, &|url| {
            ends(url);
            request(&world, "HEAD", url, &[], b"")
        }),
        ("another gateway", 200, &|url| at(&other, "HEAD", url, &[], b"")),
    ];
    for (count, (name, status, ask)) in (1..).zip(asks) {
        let url = create(&world, content.len(), &[("path", name)]);
        lose_verdicts(&world);
        let told = patch(&world, &url, 0, &content);
        assert!(told.status >= 500, "{name}: {}", told.text());
        world.control("DELETE", "faults", "");
        assert!(world.object(name) == content, "{name}");
        assert_eq!(receiver.calls(), count - 1, "{name}");
        for _ in 0..2 {
            let response = ask(&url);
            assert_eq!(response.status, status, "{name}: {}", response.text());
            let events = receiver.wait_for(count);
            assert_eq!((events.len(), &events[count - 1].data()["path"]), (count, &json!(name)));
        }
        assert_no_helpers(&world);
        assert_eq!(request(&world, "HEAD", &url, &[], b"").status, 200);
        assert_eq!(receiver.calls(), count, "{name}");
    }
    let ids: BTreeSet<_> = receiver.received().iter().map(|event| event.id().to_owned()).collect();
    assert_eq!(ids.len(), 5);
    let stored = |gateway: &Gateway| gateway.log().matches(r#""event":"stored""#).count();
    wait_until("the audit log has them", || (stored(&world.gateway), stored(&other)) == (4, 1));
}

/// What one gateway has counted another one does not count again.
#[test]
fn a_file_that_two_gateways_report_counts_once_for_its_quota() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let address = receiver.address();
    let world = tickets::setup()
        .by_api()
        .set("cos.api.abort_after", "0s")
        .set("resumable.keys", KEYS)
        .set("redis.url", redis.url())
        .set("hooks.stored_url", format!("http://{address}/events"))
        .set("hooks.secret", crate::hooks::SECRET)
        .set("auth.jwt.quota", "users")
        .set("quota.users.bytes_per_day", "1000")
        .start();
    let user = ("authorization", &*format!("Bearer {}", tickets::ticket(json!({"sub": "ann"}))));
    let ask =
        |gateway: &Gateway, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]| {
            let headers = [headers, &[user, TUS]].concat();
            send(Client::connect(gateway.address), method, url, &headers, body)
        };
    let created = ask(&world.gateway, "POST", "/v1/uploads", &[("upload-length", "600")], b"");
    assert_eq!(created.status, 201, "{}", created.text());
    let url = path_of(&created);
    // The first gateway reports the file, but cannot say so: its helper objects stay.
    world.faults(
        &json!([{"stage": "delete_object", "fault": "status", "status": 403, "code": "AccessDenied"}]),
    );
    let first = [("upload-offset", "0"), OCTETS];
    let told = ask(&world.gateway, "PATCH", &url, &first, &noise(600, 1));
    assert_eq!(told.status, 204, "{}", told.text());
    world.control("DELETE", "faults", "");
    let other = world.another();
    assert_eq!(ask(&other, "HEAD", &url, &[], b"").status, 200);
    let events = receiver.wait_for(2);
    // The back end finds the repetition by the id.
    assert_eq!(events[0].id(), events[1].id());
    let length = [("upload-length", "400")];
    let created = ask(&world.gateway, "POST", "/v1/uploads", &length, b"");
    assert_eq!(created.status, 201, "600 bytes are counted once: {}", created.text());
    assert_no_helpers(&world);
}

#[test]
fn while_the_back_end_decides_no_gateway_tells_that_the_file_is_stored() {
    let receiver = Receiver::start();
    let world = setup(&receiver).set("hooks.wait", "true").start();
    let other = world.another();
    // Each event waits until the test lets it be refused.
    let decided = Arc::new(AtomicBool::new(false));
    let may_decide = decided.clone();
    receiver.respond(move |_: &Received| {
        wait_until("it may decide", || may_decide.load(Ordering::Relaxed));
        Some(response("422 No", r#"{"detail":"no room"}"#))
    });
    let content = noise(10_000, 1);
    let url = create(&world, content.len(), &[("path", "x.bin")]);
    let all_asked = Barrier::new(4);
    let ask = |gateway: &Gateway, method: &str| {
        all_asked.wait();
        let response = at(gateway, method, &url, &[], b"");
        assert!(decided.load(Ordering::Relaxed), "{method}: told too early: {response:?}");
        assert!(matches!(response.status, 404 | 422), "{method}: {response:?}");
    };
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let response = patch(&world, &url, 0, &content);
            assert!(decided.load(Ordering::Relaxed), "told too early: {}", response.text());
            response.problem(422, "refused_by_hook");
        });
        wait_until("the back end is asked", || receiver.calls() > 0);
        assert!(world.object("x.bin") == content, "COS has the file");
        let asking = [
            scope.spawn(|| ask(&world.gateway, "GET")),
            scope.spawn(|| ask(&other, "GET")),
            scope.spawn(|| ask(&other, "HEAD")),
        ];
        all_asked.wait();
        // The other gateway asks the back end, too.
        wait_until("it is asked again", || receiver.calls() > 1);
        decided.store(true, Ordering::Relaxed);
        asking.into_iter().for_each(|asked| asked.join().expect("it was told in time"));
        sending.join().expect("it was told in time");
    });
    let ids: BTreeSet<_> = receiver.received().iter().map(|event| event.id().to_owned()).collect();
    assert_eq!(ids.len(), 1, "one event, however often it is sent");
    wait_until("nothing of it is left", || world.objects().is_empty());
}

#[test]
fn while_the_back_end_decides_a_form_s_upload_is_not_told_to_be_stored() {
    let receiver = Receiver::start();
    let world = receiver.setup().set("cos.via", "form").set("hooks.wait", "true").start();
    let (decide, decided) = std::sync::mpsc::channel();
    let decided = std::sync::Mutex::new(decided);
    receiver.respond(move |_: &Received| {
        decided.lock().expect("the channel").recv().expect("the decision");
        Some(response("422 No", r#"{"detail":"no room"}"#))
    });
    let content = noise(10_000, 1);
    let url = create(&world, content.len(), &[("path", "x.bin")]);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| patch(&world, &url, 0, &content));
        wait_until("the back end is asked", || receiver.calls() > 0);
        assert!(world.object("x.bin") == content, "COS has the file");
        let state = request(&world, "GET", &url, &[], b"");
        assert_eq!(state.status, 200, "{}", state.text());
        let offset = state.json()["offset"].as_u64().expect("an offset");
        assert!(offset < content.len() as u64, "{}", state.text());
        decide.send(()).expect("the back end");
        sending.join().expect("a response").problem(422, "refused_by_hook");
    });
    request(&world, "GET", &url, &[], b"").problem(404, "upload_not_found");
}

#[test]
fn a_stored_file_whose_client_has_gone_has_a_line() {
    let receiver = Receiver::start();
    let world = setup(&receiver).start();
    let content = noise(10_000, 1);
    let url = create(&world, content.len(), &[("path", "gone.bin")]);
    world.faults(&json!([{"stage": "complete", "fault": "delay", "ms": 300}]));
    let mut client = world.client();
    let headers = [authorization(), TUS, OCTETS, ("upload-offset", "0"), ("x-request-id", "gone")];
    client.send_request("PATCH", &url, &headers, &content);
    wait_until("COS is told to complete the file", || world.count("complete") > 0);
    client.reset();
    world.gateway.log_with("its client was gone");
    assert_eq!(receiver.wait_for(1)[0].data()["path"], "gone.bin");
    let log = world.gateway.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_request: Vec<_> = lines.filter(|line| line["request_id"] == "gone").collect();
    let with_bytes: Vec<_> = of_request.iter().filter(|line| !line["bytes"].is_null()).collect();
    let [line] = &with_bytes[..] else { panic!("one line with its bytes: {of_request:?}") };
    assert_eq!((&line["bytes"], &line["object"]), (&json!(10_000), &json!("gone.bin")));
    assert_eq!((&line["level"], &line["road"]), (&json!("INFO"), &json!("api")));
    assert!(line["client"].is_string(), "{line}");
    let response = request(&world, "HEAD", &url, &[], b"");
    assert_eq!((response.status, number(&response, "upload-offset")), (200, content.len()));
    assert_eq!(receiver.calls(), 1);
}
