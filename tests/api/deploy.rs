//! config/deploy/nginx.conf as it stands, but for addresses, in front of a gateway. The rest of config/deploy/ is checked
//! by tests/deploy.py.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};

use tempfile::TempDir;

use crate::harness::{Client, Form, Setup, World, authorization, crc64, noise, wait_until};

/// nginx, in a process of its own.
struct Proxy {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Proxy {
    fn start(world: &World) -> Self {
        // A port that was free a moment ago: nginx does not tell which one it got.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = folder.path().display().to_string();
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut text =
            std::fs::read_to_string(project.join("config/deploy/nginx.conf")).expect("the file");
        for (from, to) in [
            ("listen 8080", format!("listen {address}")),
            ("http://$gateways:8080", format!("http://{}", world.gateway.address)),
            ("/tmp/", format!("{own}/")),
        ] {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, &to);
        }
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, text).expect("it is written");
        let mut command = Command::new("nginx");
        command.args(["-p", &own, "-g", "daemon off;", "-c"]).arg(file);
        let child = command.spawn().expect("nginx starts");
        wait_until("nginx listens", || TcpStream::connect(address).is_ok());
        Self { child, address, _folder: folder }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Not killed: its workers would stay.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

#[test]
fn behind_nginx_a_pausing_sender_s_bytes_are_at_cos_while_it_pauses() {
    let world = Setup::new().start();
    let proxy = Proxy::start(&world);
    let content = noise(8 << 20, 1);
    let half = content.len() / 2;
    let length = content.len().to_string();
    let mut client = Client::connect(proxy.address);
    client.send_head("PUT", "/v1/files/half", &[authorization(), ("content-length", &length)]);
    client.send(&content[..half]);
    let seen = world.control("GET", &format!("wait?key=half&received={half}&timeout_ms=2000"), "");
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert!(world.objects().is_empty());
    client.send(&content[half..]);
    let stored = client.reply().stored();
    assert_eq!(stored["crc64"], crc64(&content));
    // What clients are told is nginx's address.
    assert_eq!(stored["url"], "http://gateway.test/v1/files/half");
}

#[test]
fn behind_nginx_a_file_that_is_too_large_is_refused_by_the_gateway_in_its_own_words() {
    let world = Setup::new().set("upload.max_file_size", "1MiB").start();
    let proxy = Proxy::start(&world);
    let form = Form::new().file("file", "large.bin", "text/plain", &noise(30 << 20, 2));
    let mut client = Client::connect(proxy.address);
    let kind = form.content_type();
    let headers = [authorization(), ("content-type", kind.as_str())];
    client.send_request("POST", "/v1/files", &headers, &form.bytes());
    client.reply().problem(413, "file_too_large");
    world.assert_nothing_stored();

    let mut client = Client::connect(proxy.address);
    client.send_request("GET", "/metrics", &[], b"");
    assert_eq!(client.reply().status, 404, "figures are for inside");
}
