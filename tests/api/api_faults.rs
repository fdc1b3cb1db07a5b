//! Faults of COS's own API, of the keys for it and of the file ids: for each, the response that the client gets, what is
//! stored, and that no multipart upload stays open.
//!
//! `cargo test --test api api_faults::the_matrix -- --nocapture` prints the matrix.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::faults::{
    BAD_CRC, COS_BROKEN, COS_HUGE, Column, DENIED, LARGE_SIZE, MATRIX, Matrix, NO_BUCKET,
    NO_TIMELY_VERDICT, NO_TOKEN, NO_VERDICT, Row, SIZES, SLOW_DOWN, STORED, Told, UNVERIFIED, Way,
    closed, content_crc, in_parallel, open_uploads, rule, run, storage_fault, stored, upload,
};
use crate::harness::{Setup, World};

/// The first part is as large as a file that is sent as a whole may be; then there are 22 of 1 MiB.
const FIRST_PART: usize = 8 << 20;

const COLUMNS: &[Column] = &[
    Column { title: SIZES[0].0, size: 0, file: "put", bytes: SIZES[0].1 },
    Column { title: SIZES[1].0, size: 1, file: "put", bytes: SIZES[1].1 },
    Column { title: "30 MiB, first part", size: 2, file: "part part=1", bytes: FIRST_PART },
    Column { title: "30 MiB, part 12", size: 2, file: "part part=12", bytes: 1 << 20 },
    Column { title: "30 MiB, last part", size: 2, file: "part part=30", bytes: 1 << 20 },
];

const EXPIRED: Told = ["502 cos_refused ExpiredToken"; 3];
const TOO_SLOW: Told = ["408 upload_too_slow UserNetworkTooSlow"; 3];
const NO_CRC: Told = [UNVERIFIED, UNVERIFIED, "201"];

/// Of a stage that only a file in parts passes.
const fn in_parts(told: Told) -> Told {
    ["201", "201", told[2]]
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("file", "reset before", "FILE reset_before", NO_VERDICT),
    ("file", "reset before once", "FILE reset_before times=1", STORED),
    ("file", "reset within", "FILE reset_within after=HALF", NO_VERDICT),
    ("file", "reset within once", "FILE reset_within after=HALF times=1", STORED),
    ("file", "stall", "FILE stall", NO_TIMELY_VERDICT),
    ("file", "stall once", "FILE stall times=1", STORED),
    ("file", "stall within", "FILE stall after=HALF", NO_TIMELY_VERDICT),
    ("file", "stall within once", "FILE stall after=HALF times=1", STORED),
    ("file", "slow", "FILE slow bytes_per_second=RATE", STORED),
    ("file", "wrong status", "FILE status status=404", NO_BUCKET),
    ("file", "garbage", "FILE garbage", NO_VERDICT),
    ("file", "garbage once", "FILE garbage times=1", STORED),
    ("file", "huge refusal", "FILE huge bytes=8000000 status=403", COS_HUGE),
    ("file", "huge success", "FILE huge bytes=8000000 status=200", NO_VERDICT),
    ("file", "close", "FILE close", NO_VERDICT),
    ("file", "close once", "FILE close times=1", STORED),
    ("file", "early 403", "FILE early status=403 after=HALF", DENIED),
    ("file", "early 403, reset", "FILE early status=403 after=HALF then=reset", DENIED),
    ("file", "early 503 once", "FILE early status=503 after=HALF times=1", STORED),
    ("file", "403", "FILE status status=403", DENIED),
    ("file", "500", "FILE status status=500", COS_BROKEN),
    ("file", "500 once", "FILE status status=500 times=1", STORED),
    ("file", "503", "FILE status status=503", SLOW_DOWN),
    ("file", "503 once", "FILE status status=503 times=1", STORED),
    ("file", "wrong CRC", "FILE wrong_crc", BAD_CRC),
    ("file", "wrong CRC once", "FILE wrong_crc times=1", STORED),
    ("file", "no CRC", "FILE no_crc", NO_CRC),
    ("file", "wrong ETag", "FILE wrong_etag", STORED),
    ("file", "wrong ETag once", "FILE wrong_etag times=1", STORED),
    ("file", "too slow", "FILE too_slow", TOO_SLOW),
    ("file", "too slow once", "FILE too_slow times=1", STORED),
    ("file", "keys expired", "FILE expire_keys", EXPIRED),
    ("file", "keys expired once", "FILE expire_keys times=1", STORED),
    ("file", "response lost once", "FILE close store=true times=1", STORED),
    ("file", "response late once", "FILE stall store=true times=1", STORED),
    ("file", "500, stored, once", "FILE status status=500 store=true times=1", STORED),

    ("part", "refuse", "put refuse", NO_VERDICT),
    ("part", "refuse once", "put refuse times=1", STORED),
    ("part", "pooled closed", "put close_idle", STORED),
    ("part", "pooled reset", "put refuse times=0", STORED),
    ("part", "closed after part", "part close_idle part=12", STORED),
    ("part", "success too early", "part early_2xx after=1000 part=12", in_parts(NO_VERDICT)),
    ("part", "no CRC at all", "part no_crc", STORED),
    ("part", "wrong ETags", "part wrong_etag", STORED),

    ("initiate", "reset before", "initiate reset_before", in_parts(NO_VERDICT)),
    ("initiate", "reset before once", "initiate reset_before times=1", STORED),
    ("initiate", "stall", "initiate stall", in_parts(NO_TIMELY_VERDICT)),
    ("initiate", "stall once", "initiate stall times=1", STORED),
    ("initiate", "slow", "initiate slow bytes_per_second=2000", STORED),
    ("initiate", "wrong status", "initiate status status=404", in_parts(NO_BUCKET)),
    ("initiate", "garbage", "initiate garbage", in_parts(NO_VERDICT)),
    ("initiate", "garbage once", "initiate garbage times=1", STORED),
    ("initiate", "close", "initiate close", in_parts(NO_VERDICT)),
    ("initiate", "close once", "initiate close times=1", STORED),
    ("initiate", "403", "initiate status status=403", in_parts(DENIED)),
    ("initiate", "500", "initiate status status=500", in_parts(COS_BROKEN)),
    ("initiate", "500 once", "initiate status status=500 times=1", STORED),
    ("initiate", "503", "initiate status status=503", in_parts(SLOW_DOWN)),
    ("initiate", "503 once", "initiate status status=503 times=1", STORED),
    ("initiate", "keys expired", "initiate expire_keys", in_parts(EXPIRED)),
    ("initiate", "keys expired once", "initiate expire_keys times=1", STORED),

    ("complete", "reset before", "complete reset_before", in_parts(NO_VERDICT)),
    ("complete", "reset before once", "complete reset_before times=1", STORED),
    ("complete", "stall", "complete stall", in_parts(NO_TIMELY_VERDICT)),
    ("complete", "stall once", "complete stall times=1", STORED),
    ("complete", "slow", "complete slow bytes_per_second=2000", STORED),
    ("complete", "wrong status", "complete status status=404", in_parts(NO_BUCKET)),
    ("complete", "garbage", "complete garbage", in_parts(NO_VERDICT)),
    ("complete", "garbage once", "complete garbage times=1", STORED),
    ("complete", "close", "complete close", in_parts(NO_VERDICT)),
    ("complete", "close once", "complete close times=1", STORED),
    ("complete", "403", "complete status status=403", in_parts(DENIED)),
    ("complete", "500", "complete status status=500", in_parts(COS_BROKEN)),
    ("complete", "500 once", "complete status status=500 times=1", STORED),
    ("complete", "503", "complete status status=503", in_parts(SLOW_DOWN)),
    ("complete", "503 once", "complete status status=503 times=1", STORED),
    ("complete", "error in a 200", "complete error_200", in_parts(COS_BROKEN)),
    ("complete", "error in a 200 once", "complete error_200 times=1", STORED),
    ("complete", "wrong CRC", "complete wrong_crc", in_parts(BAD_CRC)),
    ("complete", "wrong CRC once", "complete wrong_crc times=1", in_parts(BAD_CRC)),
    ("complete", "no CRC", "complete no_crc", STORED),
    ("complete", "wrong ETag", "complete wrong_etag", STORED),
    ("complete", "keys expired", "complete expire_keys", in_parts(EXPIRED)),
    ("complete", "keys expired once", "complete expire_keys times=1", STORED),
    ("complete", "response lost once", "complete close store=true times=1", STORED),
    ("complete", "response cut once", "complete reset_within after=20 times=1", STORED),
    ("complete", "response late once", "complete stall store=true times=1", STORED),
    ("complete", "500, stored, once", "complete status status=500 store=true times=1", STORED),

    ("getauth", "reset before", "getauth reset_before", NO_TOKEN),
    ("getauth", "reset before once", "getauth reset_before times=1", STORED),
    ("getauth", "reset within", "getauth reset_within after=20", NO_TOKEN),
    ("getauth", "reset within once", "getauth reset_within after=20 times=1", STORED),
    ("getauth", "stall", "getauth stall", NO_TOKEN),
    ("getauth", "slow", "getauth slow bytes_per_second=4000", STORED),
    ("getauth", "wrong status", "getauth status status=404", NO_TOKEN),
    ("getauth", "garbage", "getauth garbage", NO_TOKEN),
    ("getauth", "garbage once", "getauth garbage times=1", STORED),
    ("getauth", "huge", "getauth huge bytes=8000000", NO_TOKEN),
    ("getauth", "close", "getauth close", NO_TOKEN),
    ("getauth", "close once", "getauth close times=1", STORED),
    ("getauth", "refused", "getauth errcode errcode=41001", NO_TOKEN),
    ("getauth", "500 once", "getauth status status=500 times=1", STORED),
    ("getauth", "503", "getauth status status=503", NO_TOKEN),

    ("metaid", "reset before", "metaid reset_before", NO_VERDICT),
    ("metaid", "reset before once", "metaid reset_before times=1", STORED),
    ("metaid", "stall", "metaid stall", NO_TIMELY_VERDICT),
    ("metaid", "stall once", "metaid stall times=1", STORED),
    ("metaid", "garbage", "metaid garbage", NO_VERDICT),
    ("metaid", "garbage once", "metaid garbage times=1", STORED),
    ("metaid", "refused", "metaid errcode errcode=-601001", NO_VERDICT),
    ("metaid", "refused once", "metaid errcode errcode=-601001 times=1", STORED),
    ("metaid", "500 once", "metaid status status=500 times=1", STORED),
];

/// A gateway that sends by the API, with short timeouts. It does not look for orphaned uploads: their keys would be
/// fetched before the first upload.
fn setup() -> Setup {
    crate::faults::setup()
        .by_api()
        .set("cos.api.abort_after", "0s")
        .set("cos.api.single_put", "1MiB")
}

fn setup_for(stage: &str) -> Setup {
    match stage {
        "metaid" => {
            let setup = setup().set("cos.api.file_ids", "metaid");
            setup.set("cos.api.bucket", "7361-sandbox-1a2b3c-1250000000")
        }
        _ => setup(),
    }
}

#[test]
fn the_matrix() {
    let links = MATRIX.iter().filter(|(stage, ..)| *stage == "link");
    run(&Matrix {
        rows: links.chain(ROWS).copied().collect(),
        columns: COLUMNS,
        setup: setup_for,
        at_start: &["getauth"],
    });
}

/// COS stores the object, but all its responses are lost. An object under a generated path is deleted, because the client
/// does not know that path.
#[test]
fn a_stored_object_whose_responses_are_lost() {
    const FAULTS: [(&str, &str); 4] = [
        ("close", "502 cos_unreachable"),
        ("garbage", "502 cos_unreachable"),
        ("status status=500", "502 cos_refused InternalError"),
        ("status status=503", "503 cos_busy SlowDown"),
    ];
    let wrong = in_parallel(FAULTS.len(), 4, |index| {
        let (fault, failure) = FAULTS[index];
        let world = setup().start();
        let mut wrong = Vec::new();
        for (stage, size) in [("put", SIZES[0].1), ("put", SIZES[1].1), ("complete", LARGE_SIZE)] {
            for (name, way) in
                [("multipart", Way::Multipart), ("raw", Way::Raw), ("generated", Way::Generated)]
            {
                let folder = format!("{name}-{size}");
                world.faults(&json!([rule(&format!("{stage} {fault} store=true"))]));
                let (told, _) = upload(&world, way, &folder, size);
                let case = format!("{stage} {fault}, {size} bytes, {name}");
                if told != failure {
                    wrong.push(format!("{case}: told {told} instead of {failure}"));
                }
                // A path named by the client is left: the client can upload again or delete it.
                let expected = if way == Way::Generated { &told } else { "201" };
                let fault = storage_fault(&world, &folder, size, expected);
                world.control("DELETE", "faults", "");
                let fault = fault.or_else(|| open_uploads(&world, &folder));
                wrong.extend(fault.map(|fault| format!("{case}: {fault}")));
            }
        }
        wrong
    });
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A file that is damaged in a part is no object yet: what was stored at its path before stays.
#[test]
fn a_failed_upload_leaves_the_object_that_was_there() {
    let world = setup().start();
    for (stage, told) in [
        ("part wrong_crc part=1", "502 integrity_mismatch"),
        ("part wrong_crc part=30", "502 integrity_mismatch"),
        ("part status status=403 part=12", "502 cos_refused AccessDenied"),
        ("complete error_200", "502 cos_refused InternalError"),
        ("complete status status=403", "502 cos_refused AccessDenied"),
    ] {
        for way in [Way::Multipart, Way::Raw] {
            let folder = format!("{}-{}", stage.replace([' ', '='], "-"), way == Way::Raw);
            let before = SIZES[1].1;
            assert_eq!(upload(&world, way, &folder, before).0, "201");
            world.faults(&json!([rule(stage)]));
            assert_eq!(upload(&world, way, &folder, LARGE_SIZE).0, told, "{stage}");
            world.control("DELETE", "faults", "");
            assert_eq!(storage_fault(&world, &folder, before, "201"), None, "{stage}");
            assert_eq!(open_uploads(&world, &folder), None, "{stage}");
        }
    }
}

/// Other bytes were stored, and the attempts that were to replace them are refused: they are deleted all the same.
#[test]
fn damaged_bytes_are_deleted_whatever_follows() {
    let world = setup().start();
    for (folder, size) in [("a", 0), ("b", 1 << 10), ("c", 200 << 10)] {
        world.faults(&json!([rule("put wrong_crc times=1"), rule("put status status=403")]));
        let path = format!("/v1/files/{folder}/x.bin");
        let body = vec![b'x'; size];
        let mut client = world.client();
        client.send_request("PUT", &path, &[crate::harness::authorization()], &body);
        client.response().problem(502, "integrity_mismatch");
        assert_eq!(stored(&world, folder), []);
    }
}

/// Keys that COS refuses are fetched again, once, and the request is signed with the new ones.
#[test]
fn refused_keys_are_fetched_again() {
    let world = setup().start();
    assert_eq!(upload(&world, Way::Raw, "first", SIZES[0].1).0, "201");
    for (index, (stage, size)) in [
        ("put", SIZES[0].1),
        ("put", SIZES[1].1),
        ("initiate", LARGE_SIZE),
        ("part part=1", LARGE_SIZE),
        ("part part=12", LARGE_SIZE),
        ("part part=30", LARGE_SIZE),
        ("complete", LARGE_SIZE),
    ]
    .into_iter()
    .enumerate()
    {
        let before = world.count("getauth");
        world.faults(&json!([rule(&format!("{stage} expire_keys times=1"))]));
        assert_eq!(upload(&world, Way::Raw, &format!("{index}"), size).0, "201", "{stage}");
        assert_eq!(world.count("getauth"), before + 1, "{stage}");
        assert_eq!(stored(&world, &format!("{index}")).len(), 1, "{stage}");
    }
}

/// The abort of a failed upload fails, too: it is repeated.
#[test]
fn an_abort_that_fails_is_repeated() {
    for fault in ["status status=503", "close", "garbage", "expire_keys", "stall"] {
        let world = setup().start();
        let rules = ["part status status=403 part=12", &format!("abort {fault} times=1")];
        world.faults(&json!(rules.map(rule)));
        let (told, _) = upload(&world, Way::Raw, "x", LARGE_SIZE);
        assert_eq!(told, "502 cos_refused AccessDenied", "{fault}");
        assert_eq!(open_uploads(&world, "x"), None, "{fault}");
        assert_eq!(storage_fault(&world, "x", LARGE_SIZE, &told), None, "{fault}");
    }
}

/// The response to Initiate is lost: the upload succeeds with another UploadId. The first one is aborted where the path is
/// generated; another client may upload to a named one, so there it is left to the sweep.
#[test]
fn an_upload_whose_id_was_lost() {
    for fault in ["close", "garbage", "stall"] {
        let world = setup().start();
        for way in [Way::Generated, Way::Raw] {
            world.faults(&json!([rule(&format!("initiate {fault} store=true times=1"))]));
            assert_eq!(upload(&world, way, "x", LARGE_SIZE).0, "201", "{fault}");
            let whole = (LARGE_SIZE as u64, content_crc(LARGE_SIZE).to_owned());
            assert!(stored(&world, "x").contains(&whole), "{fault}");
            if way == Way::Generated {
                assert_eq!(open_uploads(&world, "x"), None, "{fault}");
            } else {
                let open = world.multipart_uploads();
                assert_eq!(open.len(), 1, "{fault}");
                assert_eq!(open[0]["parts"], json!([]), "{fault}");
            }
        }
        assert_eq!((world.count("initiate"), world.count("list_uploads")), (4, 1), "{fault}");
    }
    // No response at all arrives: none of the uploads that COS began stays open.
    for (fault, expected) in [("close", "502 cos_unreachable"), ("garbage", "502 cos_unreachable")]
    {
        let world = setup().start();
        world.faults(&json!([rule(&format!("initiate {fault} store=true"))]));
        assert_eq!(upload(&world, Way::Generated, "x", LARGE_SIZE).0, expected, "{fault}");
        assert_eq!(open_uploads(&world, "x"), None, "{fault}");
        assert!(world.count("initiate") > 1 && world.count("abort") == world.count("initiate"));
        world.assert_nothing_stored();
    }
}

#[test]
fn a_bucket_that_cannot_be_reached() {
    let tls = |world: &World| format!("https://{}", world.sandbox.cos_addr());
    let other = Setup::new().start();
    for (endpoint, told) in [
        (format!("http://{}", closed()), &["502 cos_unreachable"][..]),
        (tls(&other), &["502 cos_unreachable"]),
        // Without a reachable name server, a look-up may be slow.
        ("http://cos.invalid".to_owned(), &["502 cos_unreachable", "504 cos_timeout"]),
    ] {
        let world = setup().set("cos.api.endpoint", &endpoint).start();
        for (name, size) in SIZES {
            let began = Instant::now();
            let (got, _) = upload(&world, Way::Multipart, "x", size);
            assert!(told.contains(&got.as_str()), "{endpoint}, {name}: {got}");
            assert!(began.elapsed() < Duration::from_secs(10), "{endpoint}, {name}");
        }
        world.assert_nothing_stored();
    }
}
