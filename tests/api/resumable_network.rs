//! Resumable uploads over a network that breaks: everything is stored, little is sent again, and memory stays bounded.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::cutting_proxy::{CUTS, CuttingProxy, Gaps, Plan, Record};
use crate::harness::{Setup, World, authorization, noise, wait_until};
use crate::measured::{metrics, value};
use crate::resumable::{MIB, OCTETS, TUS, assert_stored, create, offset, patch, request, setup};
use crate::resumable_client::Uploader;
use crate::resumable_forms::with_spool;
use crate::threads::SetAtEnd;

/// Of a large file.
pub const LARGE: usize = if cfg!(debug_assertions) { 40 * MIB } else { 300 * MIB };

/// A cut after 1 to 8 MiB, again and again.
pub fn cut_often(seed: u64) -> Plan {
    Plan { seed, least: MIB as u64, most: 8 * MIB as u64, cuts: usize::MAX }
}

/// What a cut may cost: bytes that are sent again.
const LITTLE: u64 = 2 * MIB as u64;

pub fn assert_little_was_sent_again(name: &str, record: &Record, size: usize, took: Instant) {
    let most = record.resent.iter().copied().max().unwrap_or_default();
    let all: u64 = record.resent.iter().sum();
    println!(
        "{name}: {} MiB in {:?}, {} cuts, sent again: {} KiB in all, {} KiB at most for one",
        size / MIB,
        took.elapsed(),
        record.cuts.len(),
        all >> 10,
        most >> 10
    );
    assert!(most <= LITTLE, "{record:?}");
    assert_eq!(record.bytes, size as u64 + all, "{record:?}");
    assert!(record.cuts.len() >= size / (8 * MIB) && record.cuts.len() >= 4, "{record:?}");
}

#[test]
fn a_large_file_survives_cuts_of_each_kind() {
    let world = setup().set("upload.max_file_size", "1GiB").start();
    let content = noise(LARGE, 1);
    for (name, piece) in [("one request", usize::MAX), ("pieces of 5 MiB", 5 * MIB)] {
        let proxy = CuttingProxy::start(world.gateway.address, cut_often(2));
        let url = create(&world, content.len(), &[("path", name)]);
        let began = Instant::now();
        let uploader = Uploader { piece, ..Uploader::new(proxy.address, url.clone()) };
        let sent = uploader.upload(&content);
        // 409: all bytes of a request that was cut had come when the offset was asked for, and it was read afterwards.
        assert!(sent.refusals.iter().all(|(status, _)| [409, 503].contains(status)), "{sent:?}");
        assert_little_was_sent_again(name, &proxy.records()[&url], content.len(), began);
        assert_stored(&world, name, &content);
        let path = name.replace(' ', "%20");
        world.call("DELETE", &format!("/v1/files/{path}"), &serde_json::Value::Null);
    }
}

/// Clients of tus try again after 5xx, 409 and 423: a proxy may pass the response to such a request on.
#[test]
fn a_request_that_ends_early_is_told_so_in_a_way_that_clients_try_again() {
    let world = setup().set("upload.idle_timeout", "1s").start();
    let content = noise(2 * MIB, 6);
    for (name, sent, is_closed) in [
        ("closed at once", 10, true),
        ("closed within a part", MIB / 2, true),
        ("closed after a part", MIB + 7, true),
        ("silent at once", 10, false),
        ("silent within a part", MIB / 2, false),
        ("silent after a part", MIB + 7, false),
    ] {
        let url = create(&world, content.len(), &[("path", name)]);
        let length = content.len().to_string();
        let headers = [
            authorization(),
            TUS,
            OCTETS,
            ("upload-offset", "0"),
            ("content-length", length.as_str()),
        ];
        let mut client = world.client();
        client.send_head("PATCH", &url, &headers);
        client.send(&content[..sent]);
        if is_closed {
            client.finish();
        }
        let response = client.response();
        response.problem(503, "upload_interrupted");
        assert_eq!(response.header("retry-after"), Some("1"), "{name}");
        let at = offset(&world, &url);
        assert_eq!(at, sent, "{name}");
        assert_eq!(patch(&world, &url, at, &content[at..]).status, 204, "{name}");
        assert!(world.object(name) == content, "{name}");
    }
}

/// As in `http/resumable/body.rs`: a request that is to end may pause for less than this.
const REST_IDLE: Duration = Duration::from_millis(100);

/// Browsers repeat a request by themselves when its connection breaks, and send all of it before they read a response. The
/// first one, whose client is not known to be gone, is given seconds for what it has sent.
#[test]
fn a_repeated_request_is_refused_before_the_first_has_ended() {
    let (with_spool, _folder) = with_spool();
    for (way, setup) in [("memory", Setup::new()), ("spool", with_spool), ("COS", setup())] {
        let world = setup.start();
        // On a machine that is busy with other things, a sender may pause.
        let is_seen = (0..20).any(|attempt| {
            let path = format!("repeated-{attempt}");
            repeat_while_the_first_sends(&world, way, &path)
        });
        assert!(is_seen, "{way}: the first request paused each time");
    }
}

/// Returns whether the first request never paused: otherwise it may have ended before, which shows nothing.
fn repeat_while_the_first_sends(world: &World, way: &str, path: &str) -> bool {
    let content = noise(4 * MIB, 7);
    let url = create(world, content.len(), &[("path", path)]);
    let length = content.len().to_string();
    let begin = || {
        let headers =
            [authorization(), TUS, OCTETS, ("upload-offset", "0"), ("content-length", &length)];
        let mut client = world.client();
        client.send_head("PATCH", &url, &headers);
        client
    };
    let mut first = begin();
    let mut sent = 2 * MIB;
    first.send(&content[..sent]);
    let looked = || request(world, "GET", &url, &[], b"").json()["offset"].as_u64();
    wait_until("some bytes are stored", || looked() > Some(0));
    let is_refused = AtomicBool::new(false);
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut repeated = begin();
            let began = Instant::now();
            let response = repeated.response();
            is_refused.store(true, Ordering::Relaxed);
            response.problem(409, "offset_mismatch");
            assert!(began.elapsed() < Duration::from_secs(2), "{way}: {:?}", began.elapsed());
        });
        // A request that has ended takes nothing more.
        while !is_refused.load(Ordering::Relaxed)
            && first.try_send(&content[sent..sent + 1000]).is_ok()
        {
            sent += 1000;
            longest = longest.max(last.elapsed());
            last = Instant::now();
            std::thread::sleep(Duration::from_millis(10));
        }
        longest = longest.max(last.elapsed());
    });
    // Half of it, because a clock is read later than bytes are sent.
    if longest >= REST_IDLE / 2 {
        assert_eq!(request(world, "DELETE", &url, &[], b"").status, 204, "{way}");
        return false;
    }
    assert_eq!(offset(world, &url), sent, "{way}");
    first.response().problem(423, "superseded");
    assert_eq!(patch(world, &url, sent, &content[sent..]).status, 204, "{way}");
    assert_stored(world, path, &content);
    true
}

/// What such a request sends is lost: it is not read for long.
#[test]
fn a_request_at_a_wrong_offset_soon_cannot_send() {
    let world = setup().start();
    let length = 64 * MIB;
    let url = create(&world, length, &[("path", "wrong")]);
    let mut client = world.client();
    SockRef::from(&client.sender()).set_send_buffer_size(64 << 10).expect("an option");
    let rest = (length - 1).to_string();
    let headers = [authorization(), TUS, OCTETS, ("upload-offset", "1"), ("content-length", &rest)];
    client.send_head("PATCH", &url, &headers);
    let piece = vec![0; 64 << 10];
    let sent = (1..length / piece.len()).find(|_| client.try_send(&piece).is_err());
    let sent = sent.expect("it ends") * piece.len();
    assert!(sent < 2 * MIB, "{sent}");
}

fn metric(world: &World, name: &str) -> u64 {
    value(&metrics(world), name) as u64
}

const UPLOADS: usize = 50;
const CUTS_OF_EACH: usize = 10;

/// Two parts an upload at most are buffered: `cos.api.part_size` has its default, 1 MiB.
#[test]
fn fifty_uploads_with_ten_cuts_each_stay_within_two_parts_an_upload() {
    let world = setup().start();
    // More than the cuts take: 10 times 700 KiB at most.
    let content = noise(8 * MIB + UPLOADS, 3);
    let of = |index: usize| &content[index..index + 8 * MIB];
    let plan = Plan { seed: 4, least: 300 << 10, most: 700 << 10, cuts: CUTS_OF_EACH };
    let proxy = CuttingProxy::start(world.gateway.address, plan);
    let upload = |name: &str, content: &[u8], piece: usize| {
        let url = create(&world, content.len(), &[("path", name)]);
        Uploader { piece, ..Uploader::new(proxy.address, url) }.upload(content);
    };
    upload("warm", of(0), usize::MAX);
    let idle = world.gateway.memory("VmRSS");
    let (over, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let _end = SetAtEnd(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let used = metric(&world, "gateway_memory_budget_bytes");
                most.fetch_max(used, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let upload = &upload;
        let uploads: Vec<_> = (0..UPLOADS)
            .map(|index| {
                let piece = if index % 2 == 0 { usize::MAX } else { 600 << 10 };
                scope.spawn(move || upload(&index.to_string(), of(index), piece))
            })
            .collect();
        uploads.into_iter().for_each(|upload| upload.join().expect("it is stored"));
    });
    let (most, peak) = (most.into_inner(), world.gateway.memory("VmHWM"));
    let records = proxy.records();
    let resent: u64 = records.values().flat_map(|record| &record.resent).sum();
    println!(
        "{UPLOADS} uploads of 8 MiB with {CUTS_OF_EACH} cuts each: {:?}; sent again {} KiB a cut; budget used {} MiB \
         at most; RSS idle {idle} KiB, peak {peak} KiB",
        began.elapsed(),
        (resent >> 10) / (records.len() * CUTS_OF_EACH) as u64,
        most >> 20
    );
    for record in records.values() {
        assert_eq!(record.cuts.len(), CUTS_OF_EACH, "{record:?}");
        assert!(record.resent.iter().all(|bytes| *bytes <= 2 * MIB as u64), "{record:?}");
    }
    assert!(CUTS.iter().all(|cut| records.values().any(|record| record.cuts.contains(cut))));
    let allowed = (2 * UPLOADS * MIB) as u64;
    assert!(most <= allowed, "{most}");
    // Besides, each has buffers of two connections, and the allocator's share grows with the machine's load.
    let buffers = (UPLOADS * MIB) as u64;
    assert!(peak <= idle + ((allowed + buffers) >> 10), "idle {idle} KiB, peak {peak} KiB");
    wait_until("memory is released", || metric(&world, "gateway_memory_budget_bytes") == 0);
    for index in 0..UPLOADS {
        assert!(world.object(&index.to_string()) == of(index), "{index}");
    }
    wait_until("helper objects are deleted", || world.objects().len() == UPLOADS + 1);
    assert!(world.multipart_uploads().is_empty());
}

/// All times of a phone's hour are divided by this.
const HASTE: u32 = 20;

/// 200 MiB at 400 KB/s, with gaps of 60 s in the network every two minutes, while COS takes no part for longer than 200 s.
#[test]
#[ignore = "it takes 40 s"]
fn a_phone_s_hour() {
    let scaled = |seconds: u32| Duration::from_secs(seconds.into()) / HASTE;
    let world = setup()
        .set("upload.max_file_size", "1GiB")
        .set("upload.idle_timeout", format!("{}ms", scaled(30).as_millis()))
        .sandbox(|options| options.upload_limit = Some(scaled(200)))
        .start();
    let content = noise(200 * MIB, 8);
    let url = create(&world, content.len(), &[("path", "phone")]);
    let gaps = Gaps { every: scaled(120), last: scaled(60) };
    let proxy = CuttingProxy::with_gaps(world.gateway.address, gaps);
    let began = Instant::now();
    let rate = 400_000 * HASTE as usize;
    let sent = Uploader { rate, ..Uploader::new(proxy.address, url.clone()) }.upload(&content);
    let record = proxy.records().remove(&url).expect("its record");
    println!(
        "a phone's hour, {HASTE} times as fast: {:?}, {} requests, refused: {:?}, sent again: {:?} bytes",
        began.elapsed(),
        sent.requests,
        sent.refusals.iter().map(|(status, _)| *status).collect::<Vec<_>>(),
        record.resent
    );
    assert!(began.elapsed() > scaled(524 + 4 * 60), "{:?}", began.elapsed());
    let goes_on = |status: u16| status == 409 || status >= 500;
    assert!(sent.requests > 3 && sent.refusals.iter().all(|(status, _)| goes_on(*status)));
    assert!(record.resent.iter().all(|bytes| *bytes <= 2 * MIB as u64), "{record:?}");
    assert_stored(&world, "phone", &content);
}
