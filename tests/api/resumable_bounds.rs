//! What uploads that never continue cost: they are bounded by the client's rate, and deleted by the sweep. The gateway
//! retains nothing of them.

use std::collections::BTreeSet;
use std::time::Duration;

use actix_web::rt::System;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tcb_upload_gateway::cos::api::client::{Client as CosClient, ObjectFields};
use tcb_upload_gateway::cos::api::getauth::GetAuth;
use tcb_upload_gateway::cos::api::keys::Keys;
use tcb_upload_gateway::cos::api::sweep;
use tcb_upload_gateway::net::http_client::base_url::BaseUrl;

use crate::cos_api::{TIMEOUTS, client_at};
use crate::deploy::{Proxy, texts};
use crate::harness::{Client, Gateway, Response, World, authorization, noise, wait_until};
use crate::measured::{metrics, value};
use crate::resumable::{
    MIB, OCTETS, TUS, assert_stored, create, metadata, offset, patch, path_of, request, send, setup,
};

/// More than COS lists at once.
const CREATIONS: usize = 1_100;
/// KiB that the allocator may retain of so many requests.
const SLACK: u64 = 8 << 10;

/// Deletes helper objects that are older than `age`, as the gateway's sweep does; returns how many there were.
pub fn sweep_helpers(world: &World, age: Duration) -> usize {
    let swept = async |client: &CosClient| sweep::sweep_helpers(client, age).await;
    at_cos(world, swept).expect("it is swept")
}

/// Calls COS as the gateway does.
fn at_cos<T>(world: &World, call: impl AsyncFnOnce(&CosClient) -> T) -> T {
    let url = BaseUrl::parse(&format!("{}/_/cos/getauth", world.sandbox.wechat_url()));
    let keys = Keys::GetAuth(GetAuth::new(url.expect("a URL"), Duration::from_secs(5)));
    System::new().block_on(async {
        let client = client_at(world.sandbox.cos_addr(), keys, TIMEOUTS);
        call(&client).await
    })
}

/// A gateway whose sweep aborts everything, and has done so.
pub fn sweep_uploads(world: &World) -> Gateway {
    let mut variables = world.variables().clone();
    variables.insert("GATEWAY__COS__API__ABORT_AFTER".to_owned(), "1ms".to_owned());
    let gateway = Gateway::start(&["--profile", "production"], &variables, world.folder());
    wait_until("all uploads are aborted", || world.multipart_uploads().is_empty());
    gateway
}

fn helpers(world: &World) -> usize {
    let is_helper =
        |object: &&Value| object["key"].as_str().is_some_and(|key| key.starts_with(".resumable/"));
    world.objects().iter().filter(is_helper).count()
}

#[test]
fn a_thousand_creations_without_a_byte_leave_nothing_in_the_gateway() {
    let world = setup().set("resumable.keys", "a-key-of-at-least-thirty-two-bytes").start();
    let create_some = |from: usize, count: usize| {
        let mut client = world.client();
        let urls = (from..from + count).map(|index| {
            let metadata = metadata(&[("path", &format!("{index}.bin"))]);
            let headers = [
                authorization(),
                TUS,
                ("upload-length", "1000000"),
                ("upload-metadata", metadata.as_str()),
            ];
            client.send_request("POST", "/v1/uploads", &headers, b"");
            let response = client.response();
            assert_eq!(response.status, 201, "{}", response.text());
            path_of(&response)
        });
        urls.collect::<Vec<_>>()
    };
    let warm = 100;
    create_some(0, warm);
    let before = world.gateway.memory("VmRSS");
    let urls = create_some(warm, CREATIONS - warm);
    let after = world.gateway.memory("VmRSS");
    println!(
        "{CREATIONS} creations: RSS {before} KiB after the first {warm}, {after} KiB after all"
    );
    assert!(after < before + SLACK, "{before} KiB, {after} KiB");
    assert_eq!(value(&metrics(&world), "gateway_memory_budget_bytes") as u64, 0);
    assert_eq!(world.multipart_uploads().len(), CREATIONS);
    assert!(world.objects().is_empty(), "an upload without a byte has no helper object");

    let _sweeping = sweep_uploads(&world);
    for url in [&urls[0], urls.last().expect("a URL")] {
        assert_eq!(request(&world, "HEAD", url, &[], b"").status, 404);
        patch(&world, url, 0, b"late").problem(404, "upload_not_found");
    }
    assert!(sweep_helpers(&world, Duration::ZERO) <= 2, "those of the late requests");
    world.assert_nothing_stored();
}

/// A client's `rate` bounds its uploads; a stranger creates none.
#[test]
fn creations_are_limited_as_other_requests_are() {
    let world = setup().set("auth.keys.panel.rate", "20/h").start();
    let create = |headers: &[(&str, &str)]| {
        let headers = [headers, &[TUS, ("upload-length", "1000")]].concat();
        send(world.client(), "POST", "/v1/uploads", &headers, b"")
    };
    for _ in 0..5 {
        create(&[]).problem(401, "unauthenticated");
        create(&[("authorization", "Bearer guessed")]).problem(401, "unauthenticated");
    }
    assert!(world.multipart_uploads().is_empty());
    let responses: Vec<_> = (0..30).map(|_| create(&[authorization()])).collect();
    let (created, refused) = responses.split_at(20);
    assert!(created.iter().all(|response| response.status == 201));
    for response in refused {
        response.problem(429, "rate_limited");
        assert!(response.header("retry-after").is_some());
    }
    assert_eq!(world.multipart_uploads().len(), 20);
}

/// What uploads leave behind that were given up within a part, and after it.
#[test]
fn helper_objects_of_uploads_that_were_given_up_are_deleted_once_they_are_old() {
    let world = setup().set("resumable.keys", "a-key-of-at-least-thirty-two-bytes").start();
    let content = noise(3 * MIB, 1);
    let url = create(&world, content.len(), &[("path", "stored")]);
    assert_eq!(patch(&world, &url, 0, &content).status, 204);
    assert_stored(&world, "stored", &content);
    for (index, size) in [10, MIB - 1, MIB, 2 * MIB + 5].into_iter().enumerate() {
        let url = create(&world, content.len(), &[("path", &format!("given up/{index}"))]);
        assert_eq!(patch(&world, &url, 0, &content[..size]).status, 204);
    }
    let going_on = create(&world, content.len(), &[("path", "going on")]);
    assert_eq!(patch(&world, &going_on, 0, &content[..100]).status, 204);
    let all = helpers(&world);
    assert!((6..=10).contains(&all), "{all}");
    // The default of resumable.expire_after.
    assert_eq!(sweep_helpers(&world, Duration::from_secs(24 * 3600)), 0);
    assert_eq!(offset(&world, &going_on), 100);
    let all = helpers(&world);
    assert_eq!(sweep_helpers(&world, Duration::ZERO), all);
    let _sweeping = sweep_uploads(&world);
    assert_stored(&world, "stored", &content);
}

/// A bucket may have had such files before the gateway.
#[test]
fn files_of_others_in_the_gateway_s_folder_are_not_swept() {
    let world = setup().start();
    let id = "0123456789abcdef0123456789abcdef";
    let theirs = [
        ".resumable/notes.txt".to_owned(),
        ".resumable/lease".to_owned(),
        format!(".resumable/{id}"),
        format!(".resumable/{id}/lease.bak"),
        format!(".resumable/{id}/2026/tail"),
        format!(".resumable/{}/tail", id.to_uppercase()),
        format!(".resumable/{}/tail", &id[1..]),
    ];
    let ours = ["lease", "tail"].map(|name| format!(".resumable/{id}/{name}"));
    for key in theirs.iter().chain(&ours) {
        let put = async |cos: &CosClient| cos.put(key, ObjectFields::default(), b"x").await;
        at_cos(&world, put).expect("it is stored");
    }
    assert_eq!(sweep_helpers(&world, Duration::ZERO), ours.len());
    let left: BTreeSet<_> = world
        .objects()
        .iter()
        .filter_map(|object| Some(object["key"].as_str()?.to_owned()))
        .collect();
    assert_eq!(left, BTreeSet::from(theirs));
}

fn create_with(gateway: std::net::SocketAddr, metadata: &str) -> Response {
    let headers =
        [authorization(), TUS, ("upload-length", "1000000"), ("upload-metadata", metadata)];
    send(Client::connect(gateway), "POST", "/v1/uploads", &headers, b"")
}

/// The longest path and the longest metadata fit in a URL that nginx takes.
#[test]
fn the_longest_url_works_behind_nginx_and_a_longer_one_is_refused() {
    let world = setup().start();
    let [text, _] = texts();
    let proxy = Proxy::start(&world, text);
    let path = format!("{}.bin", "p".repeat(846));
    let rest = 2048 - metadata(&[("path", &path)]).len() - ",filename ".len();
    let name = STANDARD.encode("n".repeat(rest / 4 * 3));
    let longest = format!("{},filename {name}", metadata(&[("path", &path)]));
    assert!((2044..=2048).contains(&longest.len()), "{}", longest.len());
    let response = create_with(proxy.address, &longest);
    assert_eq!(response.status, 201, "{}", response.text());
    let url = path_of(&response);
    println!("the longest URL: {} bytes", url.len());
    let headers = [authorization(), TUS, OCTETS, ("upload-offset", "0")];
    let response = send(Client::connect(proxy.address), "PATCH", &url, &headers, b"some bytes");
    assert_eq!(response.status, 204, "{}", response.text());
    let state = send(Client::connect(proxy.address), "HEAD", &url, &headers[..2], b"");
    assert_eq!((state.status, state.header("upload-metadata")), (200, Some(longest.as_str())));
    assert_eq!(request(&world, "DELETE", &url, &[], b"").status, 204);

    // One byte more; and names that take more space in the URL than in the request.
    create_with(world.gateway.address, &format!("{longest}AAAAA")).problem(413, "fields_too_large");
    for byte in [0x01, 0xff] {
        let name = STANDARD.encode(vec![byte; 1500]);
        let response = create_with(world.gateway.address, &format!("filename {name}"));
        response.problem(413, "fields_too_large");
    }
    assert!(world.multipart_uploads().is_empty(), "nothing is left of what was refused");
    assert_eq!(sweep_helpers(&world, Duration::ZERO), 0);
    world.assert_nothing_stored();
}
