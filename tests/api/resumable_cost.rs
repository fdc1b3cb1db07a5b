//! What resumable uploads cost beside `POST /v1/files` by COS's API: CPU and memory. It is not part of tests/run:
//!
//! ```text
//! cargo test --release --all-features --test api -- --ignored --nocapture resumable_cost::
//! ```

use crate::harness::{Client, Form, World, authorization, noise};
use crate::resumable::{MIB, OCTETS, TUS, create, setup};

const GIB: usize = 1 << 30;
const ROUNDS: usize = 5;

#[derive(Debug, Clone, Copy)]
enum Way {
    Form,
    OneRequest,
    Pieces(usize),
}

const WAYS: [Way; 3] = [Way::Form, Way::OneRequest, Way::Pieces(5 * MIB)];

/// Sends the file's bytes `from..to`; the file repeats `block`.
fn send_range(client: &mut Client, block: &[u8], from: usize, to: usize) {
    let mut at = from;
    while at < to {
        let start = at % block.len();
        let end = block.len().min(start + to - at);
        client.send(&block[start..end]);
        at += end - start;
    }
}

fn upload(world: &World, way: Way, block: &[u8]) {
    let (path, length) = ("cost", GIB);
    let piece = match way {
        Way::Form => {
            let form = Form::new().field("path", path).file("file", "x", "image/png", b"SPLIT");
            let (kind, body) = (form.content_type(), form.bytes());
            let at = body.windows(5).position(|bytes| bytes == b"SPLIT").expect("the file");
            let mut client = world.client();
            let length = (body.len() - 5 + GIB).to_string();
            let headers =
                [authorization(), ("content-type", kind.as_str()), ("content-length", &length)];
            client.send_head("POST", "/v1/files", &headers);
            client.send(&body[..at]);
            send_range(&mut client, block, 0, GIB);
            client.send(&body[at + 5..]);
            client.response().stored();
            return;
        }
        Way::OneRequest => length,
        Way::Pieces(piece) => piece,
    };
    let url = create(world, length, &[("path", path)]);
    let mut client = world.client();
    let mut at = 0;
    while at < length {
        let end = length.min(at + piece);
        let (offset, body) = (at.to_string(), (end - at).to_string());
        let headers =
            [authorization(), TUS, OCTETS, ("upload-offset", &offset), ("content-length", &body)];
        client.send_head("PATCH", &url, &headers);
        send_range(&mut client, block, at, end);
        assert_eq!(client.response().status, 204);
        at = end;
    }
}

#[test]
#[ignore = "it measures"]
fn resumable_uploads_cost_about_as_much_as_others() {
    let world = setup().set("upload.max_file_size", "2GiB").start();
    let block = noise(64 * MIB, 1);
    for round in 0..=ROUNDS {
        for way in WAYS {
            // Its peak begins anew.
            let process = format!("/proc/{}/clear_refs", world.gateway.id());
            std::fs::write(process, "5").expect("it is written");
            let (cpu, began) = (world.gateway.cpu(), std::time::Instant::now());
            upload(&world, way, &block);
            let (cpu, took) = (world.gateway.cpu() - cpu, began.elapsed());
            // The first round warms up.
            if round > 0 {
                let peak = world.gateway.memory("VmHWM");
                println!("{way:?}: {cpu:.3} CPU s/GiB, {took:.1?}, peak RSS {peak} KiB");
            }
            let deleted = world.call("DELETE", "/v1/files/cost", &serde_json::Value::Null);
            assert_eq!(deleted.status, 204);
        }
    }
}
