//! Multipart uploads that a killed gateway leaves behind are aborted by the next one.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Form, Setup, World, authorization, noise, wait_until};

const MIB: usize = 1 << 20;

/// A gateway with an upload whose parts have begun to arrive at COS.
fn with_open_upload(setup: Setup) -> World {
    let world = setup.by_api().start();
    let mut client = world.client();
    let (name, key) = authorization();
    let head = format!(
        "PUT /v1/files/large.bin HTTP/1.1\r\nhost: x\r\n{name}: {key}\r\ncontent-length: {}\r\n\r\n",
        40 * MIB
    );
    client.send(head.as_bytes());
    client.send(&noise(20 * MIB, 1));
    wait_until("parts arrive", || world.count("upload_part") > 1);
    world
}

/// Ends the gateway without letting it abort anything.
fn kill(world: &World) {
    let killed = Command::new("kill").args(["-9", &world.gateway.id().to_string()]).status();
    assert!(killed.expect("kill").success());
}

#[test]
fn an_upload_of_a_killed_gateway_is_aborted_by_the_next_one() {
    let mut world = with_open_upload(Setup::new().set("cos.api.abort_after", "1ms"));
    kill(&world);
    assert_eq!(world.multipart_uploads().len(), 1);
    world.restart();
    wait_until("the upload is aborted", || world.multipart_uploads().is_empty());
    wait_until("it is logged", || world.gateway.log().contains("were aborted"));
    assert_eq!(world.objects(), Vec::<Value>::new());
}

#[test]
fn a_young_upload_is_left_alone() {
    for age in ["24h", "0s", "1h"] {
        let mut world = with_open_upload(Setup::new().set("cos.api.abort_after", age));
        kill(&world);
        let listed = world.count("list_uploads");
        world.restart();
        if age != "0s" {
            wait_until("uploads are listed", || world.count("list_uploads") > listed);
        }
        assert_eq!(world.post(&Form::new().file("file", "a", "text/plain", b"a")).status, 201);
        assert_eq!(world.multipart_uploads().len(), 1, "{age}");
    }
}

#[test]
fn a_sweep_that_fails_is_logged_and_stops_nothing() {
    for fault in ["refuse", "status", "garbage"] {
        let mut world = Setup::new().by_api().set("cos.api.abort_after", "1ms").start();
        world.faults(&json!([{"stage": "list_uploads", "fault": fault, "status": 403}]));
        if fault == "refuse" {
            world.faults(&json!([{"stage": "list_uploads", "fault": "reset_before"}]));
        }
        world.restart();
        wait_until("it is logged", || world.gateway.log().contains("could not be looked for"));
        assert_eq!(world.post(&Form::new().file("file", "a", "text/plain", b"a")).status, 201);
    }
}
