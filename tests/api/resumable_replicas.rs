//! Resumable uploads by several gateways behind nginx, which share nothing but their settings, and are killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::deploy::{Proxy, texts};
use crate::harness::{Gateway, World, noise};
use crate::resumable::{MIB, create, setup};
use crate::resumable_bounds::{sweep_helpers, sweep_uploads};
use crate::resumable_client::Uploader;

const GATEWAYS: usize = 3;
const UPLOADS: usize = 20;
const SIZE: usize = if cfg!(debug_assertions) { 20 * MIB } else { 100 * MIB };
/// Between two kills, so that each kind of request is hit.
const INTERVAL: Duration =
    if cfg!(debug_assertions) { Duration::from_secs(1) } else { Duration::from_secs(2) };

fn start(world: &World, bind: &str) -> Gateway {
    let mut variables: BTreeMap<_, _> = world.variables().clone();
    variables.insert("GATEWAY__SERVER__BIND".to_owned(), bind.to_owned());
    Gateway::start(&["--profile", "production"], &variables, world.folder())
}

/// All files are stored byte for byte, and nothing else is left after the next sweep.
#[test]
fn gateways_that_are_killed_lose_no_upload() {
    // Nothing is aborted while uploads run.
    let world = setup()
        .set("cos.api.abort_after", "24h")
        .set("resumable.keys", "a-key-of-at-least-thirty-two-bytes")
        .start();
    let mut gateways: Vec<_> = (0..GATEWAYS).map(|_| start(&world, "127.0.0.1:0")).collect();
    let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
    let [_, text] = texts();
    let proxy = Proxy::before(&addresses, text);
    let content = noise(SIZE + UPLOADS, 1);
    let of = |index: usize| &content[index..index + SIZE];
    let uploaders: Vec<_> = (0..UPLOADS)
        .map(|index| {
            let url = create(&world, SIZE, &[("path", &index.to_string())]);
            // One request, and pieces of a size that is not that of parts.
            let piece = if index % 2 == 0 { usize::MAX } else { 5 * MIB - 1 };
            Uploader { piece, ..Uploader::new(proxy.address, url) }
        })
        .collect();
    let began = Instant::now();
    let stored = AtomicUsize::new(0);
    let (mut kills, mut requests, mut refused) = (0, 0, BTreeMap::<u16, usize>::new());
    std::thread::scope(|scope| {
        let stored = &stored;
        let running: Vec<_> = uploaders
            .iter()
            .enumerate()
            .map(|(index, uploader)| {
                scope.spawn(move || {
                    let sent = uploader.upload(of(index));
                    stored.fetch_add(1, Ordering::Relaxed);
                    sent
                })
            })
            .collect();
        while !running.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(INTERVAL);
            let next = kills % GATEWAYS;
            gateways[next].signal("KILL");
            gateways[next].ended();
            gateways[next] = start(&world, &addresses[next].to_string());
            kills += 1;
        }
        for sent in running {
            let sent = sent.join().expect("it is stored");
            requests += sent.requests;
            for (status, _) in sent.refusals {
                *refused.entry(status).or_default() += 1;
            }
        }
    });
    println!(
        "{UPLOADS} uploads of {} MiB by {GATEWAYS} gateways behind nginx: {:?}, {kills} kills, {requests} requests, \
         responses but 200 and 204: {refused:?}",
        SIZE / MIB,
        began.elapsed()
    );
    assert!(
        kills >= GATEWAYS && requests as usize > UPLOADS * (SIZE / (5 * MIB)) / 2,
        "{kills} {requests}"
    );
    // Neither is an upload unknown to any gateway, nor is anything refused that would be final.
    assert!(refused.keys().all(|status| matches!(status, 409 | 423 | 500..)), "{refused:?}");
    for index in 0..UPLOADS {
        assert!(world.object(&index.to_string()) == of(index), "{index}");
    }
    // An upload that is given up.
    create(&world, SIZE, &[("path", "given up")]);
    let _sweeping = sweep_uploads(&world);
    // A gateway that was killed just after it has completed an object leaves helper objects.
    println!("{} helper objects were left", sweep_helpers(&world, Duration::ZERO));
    let keys: Vec<_> = world.objects().iter().map(|object| object["key"].to_string()).collect();
    assert_eq!(keys.len(), UPLOADS, "{keys:?}");
}
