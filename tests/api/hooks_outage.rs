//! A back end that is down while many files are uploaded through several gateways, one of which is killed: each stored
//! file is told of all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Client, Gateway, authorization, wait_until};
use crate::hooks::{self, Received, Receiver, SECRET};
use crate::replicas::Redis;

const UPLOADS: usize = 1000;
const CLIENTS: usize = 8;
/// The file at which one gateway is killed.
const KILLED_AT: usize = UPLOADS / 2;

/// Uploads a file through one gateway after the other, until one of them says that it is stored. Returns the number of
/// requests.
fn upload(gateways: &[SocketAddr], number: usize) -> usize {
    let key = format!("key-{number}");
    let mut headers = vec![authorization()];
    // A client without a key cannot know whether a broken request has stored the file.
    if is_keyed(number) {
        headers.push(("idempotency-key", &key));
    }
    for requests in 1.. {
        let gateway = gateways[(number + requests) % gateways.len()];
        let response = Client::try_connect(gateway).and_then(|mut client| {
            let content = number.to_string();
            client.try_request("PUT", &path(number), &headers, content.as_bytes())
        });
        if response.is_ok_and(|response| response.status == 201) {
            return requests;
        }
        assert!(requests < 20, "file {number} cannot be uploaded");
    }
    unreachable!()
}

/// Whether the uploads of this file are one upload for the gateways.
fn is_keyed(number: usize) -> bool {
    number.is_multiple_of(2)
}

fn path(number: usize) -> String {
    format!("/v1/files/{number}.txt")
}

/// The ids of the events by their paths, and how many there are. `webhook-id` and `upload_id` stand for each other.
fn by_path(events: &[Received]) -> BTreeMap<String, BTreeSet<String>> {
    let mut paths = BTreeMap::<_, BTreeSet<_>>::new();
    let (mut uploads, mut ids) = (BTreeMap::new(), BTreeMap::new());
    for event in events {
        assert!(event.is_signed_by(SECRET));
        let (id, data) = (event.id().to_owned(), event.data());
        let text = |name: &str| data[name].as_str().expect("a text").to_owned();
        let upload = text("upload_id");
        assert_eq!(*uploads.entry(id.clone()).or_insert_with(|| upload.clone()), upload);
        assert_eq!(*ids.entry(upload).or_insert_with(|| id.clone()), id);
        paths.entry(text("path")).or_default().insert(id);
    }
    paths
}

fn outage_of(outage: Duration, until_the_last: Duration) {
    let redis = Redis::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("an address");
    // Connections are refused until the back end is up.
    drop(listener);
    let world = hooks::setup(address).set("redis.url", redis.url()).start();
    let mut killed = world.another();
    let third = world.another();
    let addresses = [world.gateway.address, killed.address, third.address];
    let began = Instant::now();
    let (next, stored, requests) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= UPLOADS {
                        return;
                    }
                    requests.fetch_add(upload(&addresses, number), Ordering::Relaxed);
                    stored.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_until("half of the files are stored", || stored.load(Ordering::Relaxed) >= KILLED_AT);
        killed.signal("KILL");
        killed.ended();
    });
    let uploaded = began.elapsed();
    assert_eq!(world.objects().len(), UPLOADS);
    std::thread::sleep(outage.saturating_sub(began.elapsed()));

    let receiver = Receiver::on(TcpListener::bind(address).expect("the same port"));
    let up = Instant::now();
    let last = Mutex::new(up);
    let complete = || {
        let events = receiver.received();
        let paths = by_path(&events);
        *last.lock().expect("the time") = Instant::now();
        paths.len() >= UPLOADS
    };
    while !complete() {
        assert!(up.elapsed() < until_the_last, "{} paths", by_path(&receiver.received()).len());
        std::thread::sleep(Duration::from_millis(100));
    }
    let took = last.lock().expect("the time").duration_since(up);
    let queued = |gateway: &Gateway| {
        let mut client = Client::connect(gateway.address);
        client.send_request("GET", "/metrics", &[], b"");
        client.response().text().contains("gateway_hooks_queued 0\n")
    };
    wait_until("Redis has none left", || queued(&world.gateway) && queued(&third));
    let events = receiver.received();
    let paths = by_path(&events);
    let ids: BTreeSet<_> = events.iter().map(Received::id).collect();
    let memory = [&world.gateway, &third].map(|gateway| gateway.memory("VmHWM") / 1024);
    println!(
        "{UPLOADS} uploads by {} requests in {uploaded:?}; the back end down for {:?}: {} events with {} ids, the last \
         path {took:?} after it was up; memory peaks of the two gateways left: {memory:?} MiB",
        requests.load(Ordering::Relaxed),
        up.duration_since(began),
        events.len(),
        ids.len(),
    );
    for number in 0..UPLOADS {
        let of_path = &paths[&format!("{number}.txt")];
        // A repeat without a key is another upload; only the requests that the kill broke were repeated.
        assert!(of_path.len() == 1 || !is_keyed(number), "{number}: {of_path:?}");
    }
    assert!(ids.len() <= UPLOADS + CLIENTS, "{} ids", ids.len());
    for gateway in [&world.gateway, &third] {
        assert!(!gateway.log().contains("was not delivered"));
    }
}

#[test]
fn a_thousand_uploads_are_told_of_after_an_outage_in_which_a_gateway_was_killed() {
    outage_of(Duration::from_secs(5), Duration::from_secs(120));
}

/// Takes ten minutes: pauses between attempts have grown to minutes by then.
#[test]
#[ignore = "takes ten minutes"]
fn a_thousand_uploads_are_told_of_after_an_outage_of_five_minutes() {
    outage_of(Duration::from_secs(300), Duration::from_secs(660));
}
