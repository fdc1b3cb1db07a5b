//! The clients of resumable uploads, run as the guide has them: over connections that break, and refused.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{KEY, Setup, World, authorization, noise, wait_until};
use crate::pages::page;
use crate::readme::{CLIENTS, Client, of_ours, said};

const MIB: usize = 1 << 20;
const SIZE: usize = 12 * MIB + 5;
const LIMIT: &str = "16MiB";
const CUTS: usize = 3;

fn clients() -> Vec<Client> {
    let venv = format!("{CLIENTS}/venv/bin/python");
    let guide = page("clients-resumable");
    let mini = guide.code("Mini program: wx.request");
    let node = &["node", "upload.mjs"];
    vec![
        Client::new("tus-js-client", "upload.mjs", node, guide.code("tus-js-client in Node")),
        Client::new("tuspy", "upload.py", &[&venv, "upload.py"], guide.code("Python: tuspy")),
        Client::new("curl", "upload.sh", &["sh", "upload.sh"], guide.code("curl, step by step")),
        Client::new("wx.request", "upload.mjs", node, of_ours("wx.js") + &mini),
        // Documented alike.
        Client::new(
            "uni.request",
            "upload.mjs",
            node,
            of_ours("wx.js") + "const uni = wx;\n" + &mini.replace("wx.", "uni."),
        ),
    ]
}

fn setup() -> Setup {
    Setup::new()
        .by_api()
        .set("cos.api.abort_after", "0s")
        .set("upload.max_file_size", LIMIT)
        .set("upload.path_template", "{dir}/{uuid}{ext}")
}

/// Runs `check` for all clients side by side: most of the time, they wait before they try again.
fn side_by_side(check: impl Fn(&Client) + Sync) {
    std::thread::scope(|scope| {
        let clients = clients();
        let running: Vec<_> = clients
            .into_iter()
            .map(|client| {
                let check = &check;
                scope.spawn(move || check(&client))
            })
            .collect();
        running.into_iter().for_each(|client| client.join().expect("every client passes"));
    });
}

fn assert_stored(world: &World, name: &str, output: &Output, content: &[u8]) {
    assert!(output.status.success(), "{name}: {}", said(output));
    let url = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(url.contains("/v1/files/reports/") && url.ends_with(".png"), "{name}: {url}");
    let (bytes, kind) = world.download(&url);
    assert!(bytes == content, "{name}");
    assert_eq!(kind, "image/png", "{name}");
}

/// A network that breaks: it ends a connection after so many bytes from the client, for the first ones that send as
/// many. The request after that is answered by a proxy that does not reach the gateway.
struct BadNetwork {
    address: SocketAddr,
    /// Bytes from the client.
    sent: Arc<AtomicU64>,
    cuts: Arc<AtomicUsize>,
}

impl BadNetwork {
    fn start(gateway: SocketAddr, cuts: usize, after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let sent = Arc::new(AtomicU64::new(0));
        let cuts = Arc::new(AtomicUsize::new(cuts));
        let unreachable = Arc::new(AtomicUsize::new(0));
        let network = Self { address, sent: sent.clone(), cuts: cuts.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                let (sent, cuts, unreachable) = (sent.clone(), cuts.clone(), unreachable.clone());
                std::thread::spawn(move || {
                    let once = |value: usize| value.checked_sub(1);
                    if unreachable.fetch_update(Ordering::SeqCst, Ordering::SeqCst, once).is_ok() {
                        return bad_gateway(client);
                    }
                    let server = TcpStream::connect(gateway).expect("the gateway");
                    let (responses, to_client) =
                        (server.try_clone().unwrap(), client.try_clone().unwrap());
                    std::thread::spawn(move || forward(responses, to_client, |_| true));
                    let mut passed = 0;
                    forward(client, server, |bytes| {
                        sent.fetch_add(bytes as u64, Ordering::SeqCst);
                        passed += bytes as u64;
                        let is_cut = passed >= after
                            && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, once).is_ok();
                        unreachable.fetch_add(usize::from(is_cut), Ordering::SeqCst);
                        !is_cut
                    });
                });
            }
        });
        network
    }
}

/// Forwards bytes while `goes_on`.
fn forward(mut from: TcpStream, mut to: TcpStream, mut goes_on: impl FnMut(usize) -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..bytes]).is_err() || !goes_on(bytes) {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// As nginx responds.
fn bad_gateway(mut client: TcpStream) {
    let mut request = vec![0; 64 * 1024];
    let _ = client.read(&mut request);
    let page = "<html><body><center><h1>502 Bad Gateway</h1></center></body></html>";
    let head = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\nconnection: close";
    let is_head = request.starts_with(b"HEAD ");
    let body = if is_head { "" } else { page };
    let _ = write!(client, "{head}\r\ncontent-length: {}\r\n\r\n{body}", page.len());
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn every_client_continues_after_interruptions() {
    let sent = Mutex::new(Vec::new());
    side_by_side(|client| {
        let world = setup().start();
        let content = noise(SIZE, 1);
        let network = BadNetwork::start(world.gateway.address, CUTS, (MIB + 300_000) as u64);
        let output = client.run_at(network.address, &content, KEY);
        let through = format!("http://{}", network.address);
        let own = format!("http://{}", world.gateway.address);
        let stdout = String::from_utf8_lossy(&output.stdout).replace(&through, &own).into_bytes();
        assert_stored(&world, client.name, &Output { stdout, ..output }, &content);
        assert_eq!(world.count("uploadfile"), 1, "{}: it was one upload", client.name);
        wait_until("helper objects are deleted", || world.objects().len() == 1);
        assert!(world.multipart_uploads().is_empty());
        let again = network.sent.load(Ordering::SeqCst).saturating_sub(SIZE as u64);
        sent.lock().unwrap().push((client.name, again));
        assert_eq!(network.cuts.load(Ordering::SeqCst), 0, "{}: all cuts", client.name);
        assert!(again <= (CUTS * 2 * MIB) as u64, "{}: {again}", client.name);
    });
    println!("bytes sent again, with {CUTS} cuts: {:?}", sent.lock().unwrap());
}

#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn every_client_says_why_an_upload_is_refused() {
    let small = noise(MIB, 1);
    let world = setup().start();
    let documents = setup().set("upload.allowed_types", "application/pdf").start();
    let images = setup().set("upload.allowed_types", "image/*").start();
    let full = setup().set("upload.max_concurrent", "1").set("upload.idle_timeout", "300s").start();
    let mut running = full.client();
    running.send_head("PUT", "/v1/files/running", &[authorization(), ("content-length", "2")]);
    running.send(b"x");
    wait_until("its only upload runs", || {
        full.call_with("GET", "/metrics", &[], "").text().contains("gateway_uploads_in_flight 1\n")
    });
    let failing = setup().start();
    failing.faults(&json!([
        {"stage": "put", "fault": "status", "status": 403, "code": "AccessDenied"},
        {"stage": "part", "fault": "status", "status": 403, "code": "AccessDenied"}
    ]));
    side_by_side(|client| {
        let large = noise(17 * MIB, 2);
        for (what, world, content, key, word) in [
            ("too large", &world, &large, KEY, "file_too_large"),
            ("wrong key", &world, &small, "wrong", "unauthenticated"),
            ("declared type", &documents, &small, KEY, "type_not_allowed"),
            ("first bytes", &images, &small, KEY, "type_not_allowed"),
            ("overloaded", &full, &small, KEY, "overloaded"),
            ("server error", &failing, &small, KEY, "cos_refused"),
        ] {
            let output = client.run(world, content, key);
            let told = said(&output);
            assert!(!output.status.success(), "{}, {what}: {told}", client.name);
            assert!(told.contains(word), "{}, {what}: {told}", client.name);
        }
    });
    for world in [&world, &documents] {
        world.assert_nothing_stored();
    }
    assert!(full.objects().is_empty());
    // Uploads that could be continued, with other bytes.
    for world in [&images, &failing] {
        let is_helper =
            |object: &Value| object["key"].as_str().expect("a key").starts_with(".resumable/");
        assert!(world.objects().iter().all(is_helper), "{:?}", world.objects());
    }
}

/// What a client stores about an upload serves the next run of the program.
#[test]
#[ignore = "tests/clients/install brings what it needs"]
fn the_next_run_of_a_program_continues() {
    side_by_side(|client| {
        if !["tus-js-client", "tuspy"].contains(&client.name) {
            return;
        }
        let world = setup().start();
        let content = noise(SIZE, 1);
        world.faults(&json!([
            {"stage": "part", "part": 3, "fault": "status", "status": 403, "code": "AccessDenied"}
        ]));
        let folder = client.prepare(world.gateway.address, &content);
        let run = || client.command(folder.path(), KEY).output().expect("it runs");
        let failed = run();
        assert!(!failed.status.success(), "{}: {}", client.name, said(&failed));
        world.control("DELETE", "faults", "");
        let output = run();
        assert_stored(&world, client.name, &output, &content);
        assert_eq!(world.count("uploadfile"), 1, "{}: it was one upload", client.name);
        // The third run uploads anew.
        assert_stored(&world, client.name, &run(), &content);
        assert_eq!(world.count("uploadfile"), 2, "{}", client.name);
    });
}
