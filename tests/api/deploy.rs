//! nginx in front of a gateway: config/deploy/nginx.conf, and the guide's, as they stand but for addresses. The rest of
//! config/deploy/ is checked by tests/deploy.py.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};

use tempfile::TempDir;

use crate::harness::{Client, Form, Setup, World, authorization, crc64, noise, wait_until};
use crate::pages::{page, project};

/// nginx, in a process of its own.
pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    folder: TempDir,
}

/// Settings of nginx, and what in them is of another machine: what it listens on, and where the gateway is.
pub struct Text {
    text: String,
    listen: &'static str,
    upstream: &'static str,
}

/// Of several gateways, and the guide's of one.
pub fn texts() -> [Text; 2] {
    let several = std::fs::read_to_string(project().join("config/deploy/nginx.conf"));
    let one = page("deploy-nginx").open_blocks("nginx").concat();
    // As nginx.conf includes what is in conf.d; what Debian's own says of these is for root.
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path /tmp/{name};\n"));
    let one = format!(
        "pid /tmp/nginx.pid;\nevents {{}}\nhttp {{\n{}{}}}\n",
        places.concat(),
        one.replace("/var/log/nginx/", "/tmp/")
    );
    [
        Text {
            text: several.expect("the file"),
            listen: "listen 8080",
            upstream: "http://$gateways:8080",
        },
        Text { text: one, listen: "listen 80", upstream: "http://127.0.0.1:8080" },
    ]
}

impl Proxy {
    pub fn start(world: &World, text: Text) -> Self {
        Self::before(&[world.gateway.address], text)
    }

    /// In front of these gateways, in turn.
    pub fn before(gateways: &[SocketAddr], text: Text) -> Self {
        // A port that was free a moment ago: nginx does not tell which one it got.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = folder.path().display().to_string();
        let Text { mut text, listen, upstream } = text;
        let servers: String =
            gateways.iter().map(|gateway| format!("server {gateway} max_fails=0;")).collect();
        for (from, to) in [
            (listen, format!("listen {address}")),
            (upstream, "http://gateways".to_owned()),
            ("http {\n", format!("http {{\nupstream gateways {{ {servers} }}\n")),
            ("/tmp/", format!("{own}/")),
        ] {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, &to);
        }
        // What tests print is not mixed with a line for each request.
        let text = text.replace("/dev/std", &format!("{own}/std"));
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, text).expect("it is written");
        let mut command = Command::new("nginx");
        let options = format!("daemon off; error_log {own}/error.log;");
        command.args(["-p", &own, "-g", &options, "-c"]).arg(file);
        let child = command.spawn().expect("nginx starts");
        wait_until("nginx listens", || TcpStream::connect(address).is_ok());
        Self { child, address, folder }
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
    for text in texts() {
        let world = Setup::new().start();
        let proxy = Proxy::start(&world, text);
        let content = noise(8 << 20, 1);
        let half = content.len() / 2;
        let length = content.len().to_string();
        let mut client = Client::connect(proxy.address);
        client.send_head("PUT", "/v1/files/half", &[authorization(), ("content-length", &length)]);
        client.send(&content[..half]);
        let seen =
            world.control("GET", &format!("wait?key=half&received={half}&timeout_ms=2000"), "");
        assert_eq!(seen.status, 200, "{}", seen.text());
        assert!(world.objects().is_empty());
        client.send(&content[half..]);
        let stored = client.response().stored();
        assert_eq!(stored["crc64"], crc64(&content));
        // What clients are told is nginx's address.
        assert_eq!(stored["url"], "http://gateway.test/v1/files/half");
    }
}

#[test]
fn behind_nginx_a_file_that_is_too_large_is_refused_by_the_gateway_in_its_own_words() {
    for text in texts() {
        let world = Setup::new().set("upload.max_file_size", "1MiB").start();
        let proxy = Proxy::start(&world, text);
        let form = Form::new().file("file", "large.bin", "text/plain", &noise(30 << 20, 2));
        let mut client = Client::connect(proxy.address);
        let kind = form.content_type();
        let headers = [authorization(), ("content-type", kind.as_str())];
        client.send_request("POST", "/v1/files", &headers, &form.bytes());
        client.response().problem(413, "file_too_large");
        world.assert_nothing_stored();

        for path in
            ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/v1/../metrics", "/metrics?x"]
        {
            let mut client = Client::connect(proxy.address);
            client.send_request("GET", path, &[], b"");
            let response = client.response();
            assert_eq!(response.status, 404, "{path}: figures are for inside");
            assert!(response.text().contains("nginx"), "{path} reached the gateway");
        }
    }
}

#[test]
fn nginx_as_the_guide_has_it_logs_no_ticket_and_says_who_calls() {
    let world = Setup::new()
        .set("server.trusted_proxies", "127.0.0.1")
        .set("auth.address_rate", "2/h")
        .start();
    let [_, text] = texts();
    let proxy = Proxy::start(&world, text);
    // From another address than nginx's own, which is trusted.
    let call = |forwarded: &str| {
        let address = format!("http://{}/v1/files/x?ticket=secret-ticket", proxy.address);
        let output = Command::new("curl")
            .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"])
            .args(["--interface", "127.0.0.2", "--header", forwarded, &address])
            .output();
        String::from_utf8(output.expect("curl").stdout).expect("a status")
    };
    // What a client writes into X-Forwarded-For is not believed: nginx puts the address behind it.
    let statuses = ["1", "2", "3"].map(|last| call(&format!("X-Forwarded-For: 203.0.113.{last}")));
    assert_eq!(statuses, ["401", "401", "429"]);
    // A line is written behind its response.
    let log = || std::fs::read_to_string(proxy.folder.path().join("gateway.log")).expect("its log");
    wait_until("each request has its line", || log().matches("GET /v1/files/x\"").count() == 3);
    let log = log();
    assert!(!log.contains("secret-ticket"), "{log}");
}
