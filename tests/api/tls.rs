//! TLS to the upstreams with a private root, and TLS from clients with h2 and HTTP/1.1.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tcb_upload_gateway::sandbox::{Options, Sandbox};

use crate::harness::{Form, KEY, Setup, command, crc64, noise};

/// A self-signed certificate for loopback that is not marked as a CA, as private roots often are.
pub struct Certificate {
    folder: tempfile::TempDir,
    der: CertificateDer<'static>,
    server: Arc<ServerConfig>,
}

impl Certificate {
    pub fn new() -> Self {
        Self::of(for_loopback())
    }

    fn of(parameters: CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        let made = parameters.self_signed(&key).expect("a certificate");
        Self::with(&made, &key)
    }

    fn with(made: &rcgen::Certificate, signing_key: &KeyPair) -> Self {
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], key)
            .expect("a configuration");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("cert.pem"), made.pem()).expect("a file");
        std::fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).expect("a file");
        Self { folder, der: made.der().clone(), server: Arc::new(server) }
    }

    /// A certificate signed by a private root, and that root in PEM.
    pub fn from_a_root() -> (Self, String) {
        let mut root = CertificateParams::new(Vec::new()).expect("parameters");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_key = KeyPair::generate().expect("a key");
        let root_cert = root.self_signed(&root_key).expect("a certificate");
        let key = KeyPair::generate().expect("a key");
        let made = for_loopback().signed_by(&key, &Issuer::new(root, root_key));
        (Self::with(&made.expect("a certificate"), &key), root_cert.pem())
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A gateway that serves clients with this certificate.
    pub fn shown(&self, setup: Setup) -> Setup {
        setup
            .set("server.tls.cert", self.file("cert.pem").display())
            .set("server.tls.key", self.file("key.pem").display())
    }

    /// A client's TLS configuration that trusts this certificate and offers `protocol` by ALPN.
    pub fn client(&self, protocol: &str) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.into()];
        tls
    }
}

fn for_loopback() -> CertificateParams {
    CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("parameters")
}

fn behind_tls(certificate: &Certificate, trusted: &Path) -> Setup {
    let server = certificate.server.clone();
    Setup::new()
        .sandbox(|options| {
            options.wechat_tls = Some(server.clone());
            options.cos_tls = Some(server);
            options.cos_host = Some("localhost".to_owned());
        })
        .set("cos.allow_http", false)
        .variable("SSL_CERT_FILE", trusted.display())
}

#[test]
fn a_private_root_is_trusted_by_its_file() {
    let certificate = Certificate::new();
    let world = behind_tls(&certificate, &certificate.file("cert.pem")).start();
    let content = noise(3 << 20, 1);
    let file = world.post(&Form::new().file("file", "x", "text/plain", &content)).stored();
    assert_eq!(file["crc64"], crc64(&content));
    assert_eq!(file["verified"], true);
}

#[test]
fn an_unknown_certificate_is_not_trusted() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let world = behind_tls(&certificate, &other.file("cert.pem")).start();
    let response = world.post(&Form::new().file("file", "x", "text/plain", b"x"));
    response.problem(503, "credential_unavailable");
}

#[test]
fn a_private_root_among_others_is_trusted() {
    let (certificate, root) = Certificate::from_a_root();
    let other = std::fs::read_to_string(Certificate::new().file("cert.pem")).expect("a file");
    let bundle = certificate.file("bundle.pem");
    std::fs::write(&bundle, format!("# Roots\n{other}\n\n# Ours\n{root}")).expect("a file");
    let world = behind_tls(&certificate, &bundle).start();
    let file = world.post(&Form::new().file("file", "x", "text/plain", b"content")).stored();
    assert_eq!(file["verified"], true);
}

/// WeChat's certificate is trusted, COS's is not.
#[test]
fn a_cos_with_an_untrusted_certificate_gets_nothing() {
    let mut expired = for_loopback();
    expired.not_after = date_time_ymd(2020, 1, 1);
    let elsewhere = CertificateParams::new(["cos.example.com".to_owned()]).expect("parameters");
    let unknown = Certificate::new();
    for (case, certificate, trusted) in [
        ("unknown", &unknown, &Certificate::new()),
        ("expired", &Certificate::of(expired), &unknown),
        ("of another host", &Certificate::of(elsewhere), &unknown),
    ] {
        let trusted = if case == "unknown" { trusted } else { certificate };
        let server = certificate.server.clone();
        let world = Setup::new()
            .sandbox(|options| {
                options.cos_tls = Some(server);
                options.cos_host = Some("localhost".to_owned());
            })
            .variable("SSL_CERT_FILE", trusted.file("cert.pem").display())
            .start();
        for size in [1, 1 << 20] {
            let form = Form::new().file("file", "x", "text/plain", &noise(size, 1));
            let problem = world.post(&form).problem(502, "cos_unreachable");
            assert!(problem["detail"].as_str().is_some_and(|text| !text.is_empty()), "{case}");
        }
        assert_eq!(world.count("post_object"), 0, "{case}");
        world.assert_nothing_stored();
    }
}

/// A proxy that forwards the first connection and answers each later one with bytes that are not TLS.
fn one_good_connection(upstream: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (client, _) = listener.accept().expect("a connection");
        let server = TcpStream::connect(upstream).expect("it accepts");
        for (mut from, mut to) in [
            (client.try_clone().expect("a socket"), server.try_clone().expect("a socket")),
            (server, client),
        ] {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = (&stream).write_all(b"this is no handshake\r\n");
        }
    });
    address
}

#[test]
fn a_tls_failure_of_a_link_call_is_reported_as_such() {
    let certificate = Certificate::new();
    let server = certificate.server.clone();
    let options = Options {
        data: certificate.file("objects"),
        wechat_tls: Some(server),
        ..Options::default()
    };
    let upstream = Sandbox::start(options).expect("a sandbox");
    let proxy = one_good_connection(upstream.wechat_addr());
    let world = Setup::new()
        .set("wechat.base_url", format!("https://localhost:{}", proxy.port()))
        .variable("SSL_CERT_FILE", certificate.file("cert.pem").display())
        .start();
    // The token call uses the first connection, which is then closed.
    let control = |call: &str| format!("{}/_sandbox/{call}", upstream.wechat_url());
    let rules = r#"[{"stage": "token", "fault": "close_idle", "times": 1}]"#;
    curl(&certificate, &["-X", "PUT", "-d", rules, &control("faults")]);
    for content in [noise(1000, 1), noise(200_000, 2), noise(30 << 20, 3)] {
        let response = world.post(&Form::new().file("file", "x", "text/plain", &content));
        response.problem(502, "wechat_unreachable");
    }
    let state: Value =
        serde_json::from_str(&curl(&certificate, &[&control("state")])).expect("JSON");
    assert_eq!((&state["counts"]["stable_token"], &state["objects"]), (&json!(1), &json!([])));
}

fn curl(certificate: &Certificate, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--cacert", &certificate.file("cert.pem").display().to_string()])
        .args(arguments)
        .output()
        .expect("curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn clients_connect_over_h2_and_http_1_1() {
    let certificate = Certificate::new();
    let world = Setup::new()
        .set("server.tls.cert", certificate.file("cert.pem").display())
        .set("server.tls.key", certificate.file("key.pem").display())
        .start();
    let content = noise(30 << 20, 2);
    let path = certificate.file("content.bin");
    std::fs::write(&path, &content).expect("a file");
    let form = format!("file=@{}", path.display());
    let url = format!("https://localhost:{}/v1/files", world.gateway.address.port());
    let key = "authorization: Bearer panel-key-for-tests";
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let all = ["-w", "\n%{http_version} %{http_code}", option, "-H", key, "-F", &form, &url];
        let output = curl(&certificate, &all);
        let (response, line) = output.rsplit_once('\n').expect("two lines");
        assert_eq!(line, format!("{version} 201"), "{response}");
        let response: Value = serde_json::from_str(response).expect("JSON");
        assert_eq!(response["files"][0]["crc64"], crc64(&content));
        let address = response["url"].as_str().expect("an address");
        assert!(address.starts_with(&format!("{url}/")), "{address}");
    }
    // A client that is refused while it sends can read the response without a socket error.
    for option in ["--http2", "--http1.1"] {
        let slow = ["--limit-rate", "8M", option, "-F", &form, &url];
        let began = std::time::Instant::now();
        let response: Value = serde_json::from_str(&curl(&certificate, &slow)).expect("JSON");
        assert_eq!(response["code"], "unauthenticated");
        assert!(began.elapsed().as_secs() < 5);
    }
}

/// An h2 request needs no Content-Length and has no `Host` header.
#[test]
fn h2_as_its_clients_use_it() {
    let certificate = Certificate::new();
    let world = Setup::new()
        .set("server.tls.cert", certificate.file("cert.pem").display())
        .set("server.tls.key", certificate.file("key.pem").display())
        .start();
    let content = noise(3 << 20, 3);
    let path = certificate.file("content.bin").display().to_string();
    std::fs::write(&path, &content).expect("a file");
    let base = format!("https://localhost:{}", world.gateway.address.port());
    let key = "authorization: Bearer panel-key-for-tests";
    let (files, put) = (format!("{base}/v1/files"), format!("{base}/v1/files/a/%E4%B8%AD.bin"));
    let form = format!("file=@{path}");
    let (own, foreign) = (format!("origin: {base}"), "origin: https://evil.example.org");
    // An empty header makes curl leave it out.
    let stream = "content-length:";
    for (arguments, code) in [
        (&["-F", &form, &files][..], None),
        (&["-F", &form, "-H", stream, &files], None),
        (&["-T", &path, &put], None),
        (&["-T", &path, "-H", stream, &put], None),
        (&["-F", &form, "-H", &own, &files], None),
        (&["-F", &form, "-H", foreign, &files], Some("origin_not_allowed")),
    ] {
        let all = [&["--http2", "-H", key], arguments].concat();
        let response: Value = serde_json::from_str(&curl(&certificate, &all)).expect("JSON");
        match code {
            None => {
                assert_eq!(
                    response["files"][0]["crc64"],
                    crc64(&content),
                    "{arguments:?} {response}"
                )
            }
            Some(code) => assert_eq!(response["code"], code, "{arguments:?} {response}"),
        }
    }
    assert!(world.object("a/中.bin") == content);
}

#[test]
fn the_upload_command_checks_the_certificate() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let world = Setup::new()
        .set("server.tls.cert", certificate.file("cert.pem").display())
        .set("server.tls.key", certificate.file("key.pem").display())
        .start();
    let folder = tempfile::tempdir().expect("a folder");
    let photo = noise(3 << 20, 4);
    std::fs::write(folder.path().join("photo.png"), &photo).expect("written");
    let upload = |trusted: &Certificate| {
        let to = format!("https://{}", world.gateway.address);
        let variables = [
            ("GATEWAY_URL", to),
            ("GATEWAY_KEY", KEY.to_owned()),
            ("SSL_CERT_FILE", trusted.file("cert.pem").display().to_string()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        command(&["upload", "photo.png", "--json"], &variables, folder.path()).output()
    };
    let output = upload(&certificate).expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let stored: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    assert_eq!(stored["crc64"], crc64(&photo));

    world.control("POST", "reset", "");
    let output = upload(&other).expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("certificate"), "{said}");
    world.assert_nothing_stored();
}
