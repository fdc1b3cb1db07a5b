//! What the gateway keeps of uploads by forms, when requests end in other ways than they should.

use serde_json::json;

use crate::harness::{Client, Setup, World, authorization, noise, wait_until, within};
use crate::measured::{metrics, value};
use crate::resumable::{
    MIB, OCTETS, TUS, create, metadata, number, offset, patch, path_of, request, setup,
};
use crate::resumable_forms::{spooled, try_create, with_spool};

/// A request whose body has no announced length.
fn chunked(world: &World, url: &str, content: &[u8]) -> Client {
    let mut client = world.client();
    let chunked = ("transfer-encoding", "chunked");
    let headers = [authorization(), TUS, OCTETS, ("upload-offset", "0"), chunked];
    client.send_head("PATCH", url, &headers);
    content.chunks(100_000).for_each(|chunk| client.send_chunk(chunk));
    client
}

/// All bytes of the file have come, and the request fails nevertheless: the next byte goes where the offset says.
#[test]
fn a_request_that_fails_after_the_last_byte_can_be_continued() {
    let (with_spool, _folder) = with_spool();
    for (way, setup) in [("memory", Setup::new()), ("spool", with_spool), ("COS", setup())] {
        let world = setup.start();
        for (name, length) in [("cut", MIB + 5), ("superseded", 2 * MIB), ("a byte more", 70_000)] {
            let content = noise(length, 1);
            let url = create(&world, length, &[("path", name)]);
            let mut client = chunked(&world, &url, &content);
            match name {
                "cut" => client.finish(),
                "a byte more" => client.send_chunk(b"1"),
                _ => {}
            }
            if name == "superseded" {
                let looked = || request(&world, "GET", &url, &[], b"").json()["offset"].as_u64();
                wait_until("some bytes are received", || looked() > Some(0));
                assert!(offset(&world, &url) >= MIB, "{way}");
            }
            match name {
                "cut" => client.response().problem(503, "upload_interrupted"),
                "superseded" => client.response().problem(423, "superseded"),
                _ => client.response().problem(400, "length_mismatch"),
            };
            let at = offset(&world, &url);
            assert!(at < length, "{way}, {name}: {at}");
            let response = patch(&world, &url, at, &content[at..]);
            assert_eq!(response.status, 204, "{way}, {name}: {}", response.text());
            assert!(world.object(name) == content, "{way}, {name}");
        }
    }
}

/// A client that breaks off while it creates an upload does not learn its URL: nothing is kept of it.
#[test]
fn a_creation_that_breaks_off_leaves_nothing() {
    let (with_spool, folder) = with_spool();
    let content = noise(2 * MIB, 2);
    let length = content.len().to_string();
    for (way, setup) in [("memory", Setup::new()), ("spool", with_spool), ("COS", setup())] {
        let world = setup.set("upload.idle_timeout", "1s").start();
        let begin = |name: &str| {
            let path = metadata(&[("path", name)]);
            let headers = [
                authorization(),
                TUS,
                OCTETS,
                ("upload-length", length.as_str()),
                ("content-length", length.as_str()),
                ("upload-metadata", path.as_str()),
            ];
            let mut client = world.client();
            client.send_head("POST", "/v1/uploads", &headers);
            client.send(&content[..MIB + 10]);
            client
        };
        begin("closed").finish();
        let mut half_closed = begin("half-closed");
        half_closed.finish();
        half_closed.response().problem(503, "upload_interrupted");
        begin("reset").reset();
        let is_nothing_left = || {
            (way != "spool" || spooled(&folder).0.is_empty())
                && world.multipart_uploads().is_empty()
                && value(&metrics(&world), "gateway_memory_budget_bytes") == 0.0
        };
        wait_until(way, is_nothing_left);
        // One that only stops is told where to continue.
        let mut silent = begin("silent");
        let response = silent.response();
        assert_eq!((response.status, number(&response, "upload-offset")), (201, 0), "{way}");
        let url = path_of(&response);
        let at = offset(&world, &url);
        assert_eq!(at, MIB + 10, "{way}");
        assert_eq!(patch(&world, &url, at, &content[at..]).status, 204, "{way}");
        assert!(world.object("silent") == content, "{way}");
    }
}

/// The client of a DELETE goes while an earlier request still waits for COS.
#[test]
fn an_upload_is_deleted_though_its_client_does_not_wait() {
    let (with_spool, folder) = with_spool();
    let world = with_spool.set("cos.reply_timeout", "1s").start();
    for (index, length) in [MIB, 3 * MIB, 100].into_iter().enumerate() {
        let content = noise(length, index as u64);
        let url = create(&world, length, &[("path", &index.to_string())]);
        world.faults(&json!([{"stage": "cos", "fault": "stall"}]));
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| patch(&world, &url, 0, &content));
            wait_until("all bytes are there", || spooled(&folder).1 == length as u64);
            let mut client = world.client();
            client.send_head("DELETE", &url, &[authorization(), TUS, ("content-length", "0")]);
            wait_until("it is deleted", || request(&world, "GET", &url, &[], b"").status == 404);
            client.reset();
            sending.join().expect("a response");
        });
        world.control("DELETE", "faults", "");
        wait_until("nothing is left", || spooled(&folder).0.is_empty());
        assert_eq!(request(&world, "HEAD", &url, &[], b"").status, 404);
        world.assert_nothing_stored();
    }
    assert_eq!(value(&metrics(&world), "gateway_spool_bytes"), 0.0);
}

/// The disk is smaller than `resumable.spool_limit` says: that is told as what may pass, and what is there stays.
#[test]
fn a_disk_that_is_full_loses_nothing() {
    // Only root can mount a small file system.
    let is_root = std::process::Command::new("unshare").args(["-m", "true"]).status();
    if !is_root.is_ok_and(|status| status.success()) {
        return println!("skipped: a file system cannot be mounted here");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a small disk");
    std::fs::create_dir(&path).expect("a folder");
    let path = path.display().to_string();
    let script = "mount -t tmpfs -o size=3m tmpfs \"$SPOOL\" && exec \"$0\" \"$@\"";
    let world = Setup::new()
        .set("resumable.spool", &path)
        .variable("SPOOL", &path)
        .within(move |command| {
            let runner = ["/usr/bin/env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
            let runner = [&runner[..], &["unshare", "-m", "/bin/sh", "-c", script]].concat();
            within(command, &runner, command.get_program())
        })
        .start();
    let content = noise(5 * MIB, 3);
    let small = create(&world, MIB, &[("path", "small")]);
    assert_eq!(patch(&world, &small, 0, &content[..MIB / 2]).status, 204);
    let url = create(&world, content.len(), &[("path", "large")]);
    for _ in 0..3 {
        let at = offset(&world, &url);
        let refused = patch(&world, &url, at, &content[at..]);
        assert!(refused.header("retry-after").is_some());
        refused.problem(503, "overloaded");
        let at = offset(&world, &url);
        assert!((MIB..=5 * MIB / 2).contains(&at), "{at}");
    }
    let refused = patch(&world, &small, MIB / 2, &content[MIB / 2..MIB]);
    refused.problem(503, "overloaded");
    // One that is given up makes room for the other.
    assert_eq!(request(&world, "DELETE", &url, &[], b"").status, 204);
    let at = offset(&world, &small);
    assert!(at >= MIB / 2, "{at}");
    assert_eq!(patch(&world, &small, at, &content[at..MIB]).status, 204);
    assert!(world.object("small") == content[..MIB]);
    assert_eq!(try_create(&world, MIB, "another").status, 201);
}
