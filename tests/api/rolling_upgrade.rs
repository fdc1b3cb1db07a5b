//! A rolling upgrade: three gateways behind config/deploy/nginx.conf are stopped and replaced one after another while
//! clients upload, and no upload fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::deploy::{Proxy, texts};
use crate::harness::{
    Client, Form, Gateway, Setup, World, authorization, crc64, noise, wait_until,
};
use crate::resumable::{self, MIB, TUS, metadata, path_of};
use crate::resumable_client::Uploader;
use crate::threads::SetAtEnd;

const GATEWAYS: usize = 3;
/// Each gateway is replaced so often.
const ROUNDS: usize = 2;
/// Clients of each kind.
const CLIENTS: usize = 2;
/// One that takes about a second, so that every gateway has uploads when it is stopped.
const SLOW: (usize, Duration) = (16, Duration::from_millis(60));
const FAST: (usize, Duration) = (1, Duration::ZERO);
/// Bytes a second. A request of a resumable upload lasts longer than a round takes, so that its gateway is stopped.
const RESUMABLE_RATE: usize = MIB;
const RESUMABLE_SIZE: usize = 12 * MIB;

/// What a client was told about its uploads: the path of each stored file, and its seed and length.
type Told = Vec<(String, u64, usize)>;

fn start(world: &World, bind: &str) -> Gateway {
    let mut variables: BTreeMap<_, _> = world.variables().clone();
    variables.insert("GATEWAY__SERVER__BIND".to_owned(), bind.to_owned());
    Gateway::start(&["--profile", "production"], &variables, world.folder())
}

fn uploads_in_flight(gateway: &Gateway) -> f64 {
    let mut client = Client::connect(gateway.address);
    client.send_request("GET", "/metrics", &[], b"");
    let text = client.response().text();
    let line = text.lines().find_map(|line| line.strip_prefix("gateway_uploads_in_flight "));
    line.and_then(|figure| figure.parse().ok()).expect("the figure")
}

/// Uploads one file after another until `over`, each once: a failure is not repeated.
fn upload(
    proxy: SocketAddr,
    name: &str,
    number: u64,
    (pieces, pause): (usize, Duration),
    over: &AtomicBool,
) -> Told {
    let mut told = Vec::new();
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let (seed, length) = (number << 32 | round, 1 + (round as usize * 77_003) % (MIB / 2));
        let (path, content) = (format!("{name}-{round}"), noise(length, seed));
        let form = Form::new().field("path", &path).file("file", "x.bin", "text/plain", &content);
        let (kind, form) = (form.content_type(), form.bytes());
        let target = format!("/v1/files/{path}");
        let mut client = Client::connect(proxy);
        let (body, is_chunked) = match round % 3 {
            0 => (&form, false),
            more => (&content, more == 1),
        };
        let length = body.len().to_string();
        let framing = if is_chunked {
            ("transfer-encoding", "chunked")
        } else {
            ("content-length", length.as_str())
        };
        if round % 3 == 0 {
            let headers = [authorization(), ("content-type", kind.as_str()), framing];
            client.send_head("POST", "/v1/files", &headers);
        } else {
            client.send_head("PUT", &target, &[authorization(), framing]);
        }
        for piece in body.chunks(body.len().div_ceil(pieces)) {
            if is_chunked {
                client.send_chunk(piece);
            } else {
                client.send(piece);
            }
            thread::sleep(pause);
        }
        if is_chunked {
            client.send(b"0\r\n\r\n");
        }
        let response = client.response();
        assert_eq!(response.status, 201, "{path}: {}", response.text());
        assert_eq!(response.stored()["crc64"], crc64(&content), "{path}");
        told.push((path, seed, content.len()));
    }
    told
}

/// Uploads one file after another by tus until `over`. Returns also how often a request did not send all of its bytes.
fn upload_by_tus(proxy: SocketAddr, name: &str, number: u64, over: &AtomicBool) -> (Told, usize) {
    let (mut told, mut interruptions) = (Vec::new(), 0);
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let (path, seed) = (format!("{name}-{round}"), number << 32 | round);
        let content = noise(RESUMABLE_SIZE, seed);
        let (length, about) = (content.len().to_string(), metadata(&[("path", &path)]));
        let headers =
            [authorization(), TUS, ("upload-length", &length), ("upload-metadata", &about)];
        let mut client = Client::connect(proxy);
        client.send_request("POST", "/v1/uploads", &headers, b"");
        let created = client.response();
        assert_eq!(created.status, 201, "{path}: {}", created.text());
        let url = path_of(&created);
        let uploader = Uploader { rate: RESUMABLE_RATE, ..Uploader::new(proxy, url) };
        let sent = uploader.upload(&content);
        // A client of tus goes on after these.
        let goes_on = |status: &u16| matches!(status, 409 | 423 | 503);
        assert!(sent.refusals.iter().all(|(status, _)| goes_on(status)), "{path}: {sent:?}");
        interruptions += sent.requests as usize - 1;
        told.push((path, seed, content.len()));
    }
    (told, interruptions)
}

/// Replaces every gateway, each [`ROUNDS`] times, while `setup`'s clients upload. Returns how often uploads by tus were
/// interrupted.
fn upgrade(setup: Setup, with_tus: bool) -> usize {
    let world = setup.start();
    let mut gateways: Vec<_> = (0..GATEWAYS).map(|_| start(&world, "127.0.0.1:0")).collect();
    let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
    let [text, _] = texts();
    let proxy = Proxy::before(&addresses, text);
    let address = proxy.address;
    let (over, numbers) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    let number = || numbers.fetch_add(1, Ordering::Relaxed) as u64;
    let began = Instant::now();
    let (mut told, mut interruptions) = (Told::new(), 0);
    thread::scope(|scope| {
        let ordinary: Vec<_> = [("slow", SLOW), ("fast", FAST)]
            .into_iter()
            .flat_map(|kind| [kind; 2 * CLIENTS])
            .map(|(kind, pace)| {
                let number = number();
                scope
                    .spawn(move || upload(address, &format!("{kind}-{number}"), number, pace, over))
            })
            .collect();
        let resumable: Vec<_> = (0..if with_tus { CLIENTS } else { 0 })
            .map(|_| {
                let number = number();
                scope.spawn(move || upload_by_tus(address, &format!("tus-{number}"), number, over))
            })
            .collect();
        let end = SetAtEnd(over);
        let any_failed = || ordinary.iter().any(ScopedJoinHandle::is_finished);
        for index in (0..ROUNDS).flat_map(|_| 0..GATEWAYS) {
            let gateway = &mut gateways[index];
            wait_until("it has uploads", || any_failed() || uploads_in_flight(gateway) > 0.0);
            gateway.signal("TERM");
            assert_eq!(gateway.ended().code(), Some(0), "{}", gateway.log());
            let log = gateway.log();
            assert!(!log.contains("cut off"), "{log}");
            *gateway = start(&world, &addresses[index].to_string());
        }
        drop(end);
        for client in ordinary {
            told.extend(client.join().expect("every upload is stored"));
        }
        for client in resumable {
            let (stored, interrupted) = client.join().expect("every upload is stored");
            told.extend(stored);
            interruptions += interrupted;
        }
    });
    println!(
        "{} uploads while {GATEWAYS} gateways behind nginx were replaced {ROUNDS} times, in {:.1?}; 0 failed, uploads \
         by tus were interrupted {interruptions} times",
        told.len(),
        began.elapsed()
    );
    for (path, seed, length) in &told {
        assert!(world.object(path) == noise(*length, *seed), "{path}");
    }
    let is_file = |key: &str| !key.starts_with(".resumable/");
    let objects = world.objects();
    let stored = objects.iter().filter_map(|object| object["key"].as_str());
    assert_eq!(stored.filter(|key| is_file(key)).count(), told.len(), "nothing else is stored");
    interruptions
}

#[test]
fn no_upload_by_forms_fails_while_gateways_are_replaced() {
    upgrade(Setup::new().set("cos.via", "form"), false);
}

#[test]
fn no_upload_by_the_api_fails_while_gateways_are_replaced_and_tus_goes_on() {
    let setup = resumable::setup()
        .set("cos.api.abort_after", "24h")
        .set("resumable.keys", "a-key-of-at-least-thirty-two-bytes");
    assert!(upgrade(setup, true) > 0, "no upload was interrupted");
}
