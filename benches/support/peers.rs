//! The measured peers: the gateway (by forms and by COS's API), no relay at all (`direct`), and what is installed of nginx,
//! HAProxy, and relays in Node and in Go. The bench starts each with its own configuration and the same number of workers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::BoxError;
use super::load::Target;
use super::process::Tree;
use super::relays::{build_go_relay, install_node_relay};
use super::request::KEY;
use super::upstream::Upstream;

/// The time within which a peer must listen.
const START: Duration = Duration::from_secs(20);

/// A peer to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Transport,
    /// The gateway's binary, which sends forms.
    Gateway(PathBuf),
    /// The gateway's binary, which uses COS's API.
    GatewayApi(PathBuf),
    /// With this `client_body_buffer_size`, or nginx's default.
    Nginx(Option<&'static str>),
    Haproxy,
    /// The folder the relay was installed in.
    Node(PathBuf),
    /// Its binary.
    Go(PathBuf),
}

/// A scenario's configuration of its peers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    pub workers: usize,
    /// HTTPS to COS.
    pub https: bool,
    /// Milliseconds that WeChat takes for a link call.
    pub link_delay: u64,
    /// `upload.replay_window`, if not the default.
    pub window: Option<&'static str>,
    /// `wechat.warm_links`, if not the default.
    pub warm_links: Option<&'static str>,
    /// Client connections and uploads that are accepted at once, if not 10,000 and 4,096.
    pub at_once: Option<(usize, usize)>,
}

/// The peers that are installed on this machine, with their versions.
pub struct Field {
    pub peers: Vec<Peer>,
    pub versions: BTreeMap<String, String>,
}

impl Field {
    /// Looks for the peers; `binaries` are gateways. Files that the peers need are put into `folder`.
    pub fn survey(binaries: &[(String, PathBuf)], folder: &Path) -> Self {
        let peer = |name: &str, kind| Peer { name: name.to_owned(), kind };
        let mut peers = vec![peer("direct", Kind::Transport)];
        let mut versions = BTreeMap::new();
        for (name, path) in binaries {
            peers.push(peer(name, Kind::Gateway(path.clone())));
            peers.push(peer(&format!("{name}-api"), Kind::GatewayApi(path.clone())));
        }
        if let Some(version) = version("nginx", "-v") {
            versions.insert("nginx".to_owned(), version);
            peers.push(peer("nginx", Kind::Nginx(Some("256k"))));
            peers.push(peer("nginx-default", Kind::Nginx(None)));
        }
        if let Some(version) = version("haproxy", "-v") {
            versions.insert("haproxy".to_owned(), version);
            peers.push(peer("haproxy", Kind::Haproxy));
        }
        if let Some(version) = version("node", "--version") {
            match install_node_relay(folder) {
                Ok(installed) => {
                    versions.insert("node".to_owned(), version);
                    peers.push(peer("node", Kind::Node(installed)));
                }
                Err(error) => eprintln!("no Node relay: {error}"),
            }
        }
        if let Some(version) = version("go", "version") {
            match build_go_relay(folder) {
                Ok(binary) => {
                    versions.insert("go".to_owned(), version);
                    peers.push(peer("go", Kind::Go(binary)));
                }
                Err(error) => eprintln!("no Go relay: {error}"),
            }
        }
        Self { peers, versions }
    }
}

fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
}

/// A running peer; it is stopped when this is dropped.
pub struct Running {
    child: Option<Child>,
    pub target: Target,
    pub tree: Tree,
}

impl Running {
    /// Looks for the peer's processes again: nginx starts its workers after it listens.
    pub fn survey(&mut self) {
        if let Some(child) = &self.child {
            self.tree = Tree::of(child.id());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        // By SIGTERM, so that it stops its own child processes.
        let process = child.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &process]).status();
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(5) {
            if let Ok(Some(_)) = child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Peer {
    /// Whether this peer is a gateway.
    pub fn is_gateway(&self) -> bool {
        matches!(self.kind, Kind::Gateway(_) | Kind::GatewayApi(_))
    }

    /// Whether it is a gateway that uses COS's API.
    pub fn is_api(&self) -> bool {
        matches!(self.kind, Kind::GatewayApi(_))
    }

    pub fn is_direct(&self) -> bool {
        self.kind == Kind::Transport
    }

    /// Starts the peer in front of `upstream`, whose certificate is in `folder`; the peer's files go there, too.
    pub fn start(
        &self,
        scenario: &str,
        setup: Setup,
        upstream: &Upstream,
        folder: &Path,
    ) -> Result<Running, BoxError> {
        let cos = upstream.cos(setup.https);
        let address = free_address()?;
        let command = match &self.kind {
            Kind::Transport => {
                let tls = setup.https.then(|| client_tls(folder)).transpose()?;
                let target = Target { address: cos, tls, proof: false };
                return Ok(Running { child: None, target, tree: Tree::of(upstream.process()) });
            }
            Kind::Gateway(binary) => gateway(binary, address, setup, upstream, folder),
            Kind::GatewayApi(binary) => {
                let mut command = gateway(binary, address, setup, upstream, folder);
                let scheme = if setup.https { "https" } else { "http" };
                for (name, value) in [
                    ("VIA", "api"),
                    ("API__KEYS", "static"),
                    ("API__SECRET_ID", "AKID0000000000000000"),
                    ("API__SECRET_KEY", "secret-key-of-the-load-test"),
                    ("API__ENDPOINT", &format!("{scheme}://{cos}")),
                ] {
                    command.env(format!("GATEWAY__COS__{name}"), value);
                }
                command
            }
            Kind::Nginx(buffer) => nginx(*buffer, address, cos, setup, &self.name, folder)?,
            Kind::Haproxy => haproxy(address, cos, setup, folder)?,
            Kind::Node(installed) => {
                let mut command = Command::new("node");
                command.arg("relay.mjs").current_dir(installed).env("NODE_ENV", "production");
                command.env("WORKERS", setup.workers.to_string());
                relay(command, address, setup, upstream, folder)
            }
            Kind::Go(binary) => {
                let mut command = Command::new(binary);
                command.env("GOMAXPROCS", setup.workers.to_string());
                relay(command, address, setup, upstream, folder)
            }
        };
        let mut command = command;
        // Each request is logged, as in production.
        let log_file = folder.join(format!("logs/{scenario}-{}.log", self.name));
        let log = File::create(&log_file)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", self.name))?;
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(&log_file)?;
                return Err(format!("{} ended ({status}):\n{log}", self.name).into());
            }
            if began.elapsed() > START {
                let _ = child.kill();
                return Err(format!("{} does not listen", self.name).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let tree = Tree::of(child.id());
        let target = Target { address, tls: None, proof: self.is_gateway() };
        Ok(Running { child: Some(child), target, tree })
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn client_tls(folder: &Path) -> Result<Arc<ClientConfig>, BoxError> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("cert.pem"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn gateway(
    binary: &Path,
    address: SocketAddr,
    setup: Setup,
    upstream: &Upstream,
    folder: &Path,
) -> Command {
    let mut command = Command::new(binary);
    command.args(["--profile", "production"]).env_clear();
    command.env("SSL_CERT_FILE", folder.join("cert.pem"));
    let key = hex::encode(Sha256::digest(KEY));
    let wechat = upstream.wechat_url(setup.https, setup.link_delay);
    for (name, value) in [
        ("SERVER__BIND", address.to_string()),
        ("SERVER__WORKERS", setup.workers.to_string()),
        ("SERVER__PUBLIC_URL", "https://files.example.com".to_owned()),
        ("WECHAT__BASE_URL", wechat),
        ("WECHAT__ENV", "bench".to_owned()),
        ("WECHAT__APPID", "wx0000000000000000".to_owned()),
        ("WECHAT__SECRET", "secret-of-the-load-test".to_owned()),
        ("COS__ALLOWED_HOSTS", upstream.cos(setup.https).to_string()),
        ("COS__ALLOW_HTTP", (!setup.https).to_string()),
        ("UPLOAD__MAX_FILE_SIZE", "5GiB".to_owned()),
        ("UPLOAD__MAX_CONCURRENT", "4096".to_owned()),
        ("UPLOAD__CLIENT_PATHS", "true".to_owned()),
        ("AUTH__KEYS__BENCH__SHA256", key),
    ] {
        command.env(format!("GATEWAY__{name}"), value);
    }
    if let Some(window) = setup.window {
        command.env("GATEWAY__UPLOAD__REPLAY_WINDOW", window);
    }
    if let Some(links) = setup.warm_links {
        command.env("GATEWAY__WECHAT__WARM_LINKS", links);
    }
    if let Some((connections, uploads)) = setup.at_once {
        command.env("GATEWAY__SERVER__MAX_CONNECTIONS", connections.to_string());
        command.env("GATEWAY__UPLOAD__MAX_CONCURRENT", uploads.to_string());
    }
    command
}

fn nginx(
    buffer: Option<&str>,
    address: SocketAddr,
    cos: SocketAddr,
    setup: Setup,
    name: &str,
    folder: &Path,
) -> Result<Command, BoxError> {
    let home = folder.join(name);
    fs::create_dir_all(&home)?;
    let buffer = buffer.map(|size| format!("client_body_buffer_size {size};")).unwrap_or_default();
    let (scheme, tls) = if setup.https {
        let root = folder.join("cert.pem");
        let tls = format!(
            "proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on; proxy_ssl_verify on;\n\
             proxy_ssl_name localhost; proxy_ssl_trusted_certificate {};",
            root.display()
        );
        ("https", tls)
    } else {
        ("http", String::new())
    };
    let (workers, here) = (setup.workers, home.display());
    // By default nginx's workers drop root privileges, and then could not read this folder.
    let text = format!(
        "user root; daemon off; worker_processes {workers}; worker_rlimit_nofile 16384; pid {here}/pid;\n\
         error_log {here}/error.log warn;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
         access_log {here}/access.log combined;\n\
         client_max_body_size 0; client_body_timeout 60s; {buffer}\n\
         client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;\n\
         uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;\n\
         keepalive_timeout 75s; keepalive_requests 100000000;\n\
         upstream cos {{ server {cos}; keepalive 256; keepalive_requests 100000000; }}\n\
         server {{\n\
         listen {address} backlog=4096;\n\
         location / {{\n\
         proxy_pass {scheme}://cos; proxy_request_buffering off; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; {tls}\n\
         }} }} }}\n"
    );
    let file = home.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&home).arg("-e").arg(home.join("error.log")).arg("-c").arg(file);
    Ok(command)
}

fn haproxy(
    address: SocketAddr,
    cos: SocketAddr,
    setup: Setup,
    folder: &Path,
) -> Result<Command, BoxError> {
    let tls = if setup.https {
        let root = folder.join("cert.pem");
        format!("ssl verify required ca-file {} sni str(localhost)", root.display())
    } else {
        String::new()
    };
    let text = format!(
        "global\n nbthread {}\n maxconn 8192\n log stdout format raw local0\n\
         defaults\n mode http\n log global\n option httplog\n http-reuse always\n\
         timeout connect 5s\n timeout client 60s\n timeout server 60s\n timeout http-keep-alive 75s\n\
         frontend clients\n bind {address}\n default_backend cos\n\
         backend cos\n server cos {cos} {tls}\n",
        setup.workers
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

/// What the relays are told by their environment.
fn relay(
    mut command: Command,
    address: SocketAddr,
    setup: Setup,
    upstream: &Upstream,
    folder: &Path,
) -> Command {
    command
        .env("PORT", address.port().to_string())
        .env("WECHAT", upstream.wechat_url(setup.https, setup.link_delay))
        .env("CA", folder.join("cert.pem"));
    command
}
