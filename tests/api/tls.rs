//! TLS on both sides: upstream with a private root, towards clients with h2 and HTTP/1.1.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::harness::{Form, Setup, crc64, noise};

/// A certificate for loopback that signs itself and is no authority, as private roots often are.
pub struct Certificate {
    folder: tempfile::TempDir,
    der: CertificateDer<'static>,
    server: Arc<ServerConfig>,
}

impl Certificate {
    pub fn new() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a configuration");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("a file");
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())
            .expect("a file");
        let der = made.cert.der().clone();
        Self { folder, der, server: Arc::new(server) }
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
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
    let reply = world.post(&Form::new().file("file", "x", "text/plain", b"x"));
    reply.problem(503, "credential_unavailable");
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
fn clients_come_over_h2_and_http_1_1() {
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
        let (reply, line) = output.rsplit_once('\n').expect("two lines");
        assert_eq!(line, format!("{version} 201"), "{reply}");
        let reply: Value = serde_json::from_str(reply).expect("JSON");
        assert_eq!(reply["files"][0]["crc64"], crc64(&content));
        let address = reply["url"].as_str().expect("an address");
        assert!(address.starts_with(&format!("{url}/")), "{address}");
    }
    // A sender that is refused while it sends reads why, and its socket has no error.
    for option in ["--http2", "--http1.1"] {
        let slow = ["--limit-rate", "8M", option, "-F", &form, &url];
        let began = std::time::Instant::now();
        let reply: Value = serde_json::from_str(&curl(&certificate, &slow)).expect("JSON");
        assert_eq!(reply["code"], "unauthenticated");
        assert!(began.elapsed().as_secs() < 5);
    }
}
