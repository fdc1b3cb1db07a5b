//! What an upload costs the gateway when its peers never sleep: clients, WeChat and COS are one thread that polls all of
//! its sockets without a pause, on a processor of its own. A write to a peer that sleeps on the same machine wakes its
//! processor, which a remote peer does not cost; here it costs nothing either.
//!
//! ```sh
//! cargo bench --bench awake -- --binary before=/tmp/before --binary after=/tmp/after --rounds 9
//! ```
//!
//! Linux with `taskset` and two processors: the gateway's one worker has the last of them, the peers the first.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use memchr::memmem;
use request::{Content, KEY, Request, Shape};
use sha2::{Digest, Sha256};

use crate::process::Tree;

#[expect(dead_code, reason = "the load test uses all of it")]
#[path = "support/process.rs"]
mod process;
#[expect(dead_code, reason = "the load test uses all of it")]
#[path = "support/request.rs"]
mod request;

/// Uploads over peers that never sleep, by one or several builds of the gateway.
#[derive(Parser)]
struct Arguments {
    /// A build of the gateway: NAME=PATH
    #[arg(long, value_name = "NAME=PATH", required = true)]
    binary: Vec<String>,
    /// Rounds; the builds alternate within each
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Seconds of each build in a round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Uploads at once
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Bytes of each file
    #[arg(long, default_value_t = 65_536)]
    size: u64,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

type BoxError = Box<dyn std::error::Error>;

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    pin_to_first()?;
    let mut peers = Peers::new()?;
    let request = Request::upload(Shape::Form, Content::Random, arguments.size);
    let request = request.runs.concat();
    let mut gateways = Vec::new();
    for binary in &arguments.binary {
        let (name, path) = binary.split_once('=').ok_or("--binary takes NAME=PATH")?;
        gateways.push((name.to_owned(), Gateway::start(&fs::canonicalize(path)?, peers.address)?));
    }
    let mut costs: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..arguments.rounds {
        for step in 0..gateways.len() {
            let (name, gateway) = &gateways[(round + step) % gateways.len()];
            let mut clients = (0..arguments.connections)
                .map(|_| Client::connect(gateway.address))
                .collect::<io::Result<Vec<_>>>()?;
            // Connections, token and buffers are there before anything is measured.
            peers.run(&mut clients, &request, Duration::from_millis(300))?;
            let before = gateway.cpu();
            let uploads =
                peers.run(&mut clients, &request, Duration::from_secs_f64(arguments.seconds))?;
            let cost = (gateway.cpu() - before) / uploads as f64 * 1e6;
            println!(
                "round {} of {} · {name}: {uploads} uploads, {cost:.1} µs of CPU each",
                round + 1,
                arguments.rounds
            );
            costs.entry(name.clone()).or_default().push(cost);
        }
    }
    let first = &costs[&gateways[0].0];
    for (name, own) in &costs {
        let ratios = own.iter().zip(first).map(|(own, first)| own / first).collect();
        println!(
            "{name}: median {:.1} µs, {:.3} of {}",
            median(own.clone()),
            median(ratios),
            gateways[0].0
        );
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn pin_to_first() -> Result<(), BoxError> {
    let own = std::process::id().to_string();
    let done =
        Command::new("taskset").args(["-p", "-c", "0", &own]).stdout(Stdio::null()).status()?;
    if done.success() { Ok(()) } else { Err("taskset cannot pin this process".into()) }
}

struct Gateway {
    child: Child,
    address: SocketAddr,
}

impl Gateway {
    fn start(binary: &PathBuf, upstream: SocketAddr) -> Result<Self, BoxError> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        // Not of this process, which is pinned to the first.
        let last = fs::read_to_string("/sys/devices/system/cpu/online")?;
        let last = last.trim().rsplit(['-', ',']).next().unwrap_or("1").to_owned();
        let mut command = Command::new("taskset");
        command.args(["-c", &last]).arg(binary).args(["--profile", "production"]).env_clear();
        for (name, value) in [
            ("SERVER__BIND", address.to_string()),
            ("SERVER__WORKERS", "1".to_owned()),
            ("WECHAT__BASE_URL", format!("http://{upstream}")),
            ("WECHAT__ENV", "bench".to_owned()),
            ("WECHAT__APPID", "wx0000000000000000".to_owned()),
            ("WECHAT__SECRET", "secret-of-the-load-test".to_owned()),
            ("COS__ALLOWED_HOSTS", upstream.to_string()),
            ("COS__ALLOW_HTTP", "true".to_owned()),
            ("AUTH__KEYS__BENCH__SHA256", hex::encode(Sha256::digest(KEY))),
        ] {
            command.env(format!("GATEWAY__{name}"), value);
        }
        // A log line for each request is written, as in production.
        let log = fs::File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("awake.log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let gateway = Self { child, address };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(format!("{} does not listen", binary.display()).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(gateway)
    }

    /// CPU seconds so far; `taskset` becomes the gateway.
    fn cpu(&self) -> f64 {
        Tree::of(self.child.id()).cpu()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One HTTP/1.1 message that is being received.
#[derive(Default)]
struct Incoming {
    head: Vec<u8>,
    /// Bytes of the body still to come, once the head is complete.
    left: Option<usize>,
}

impl Incoming {
    /// Takes what came; gives the message, head and what came with it, once it is complete.
    fn take(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        match &mut self.left {
            Some(left) => *left = left.saturating_sub(bytes.len()),
            None => {
                self.head.extend_from_slice(bytes);
                let end = memmem::find(&self.head, b"\r\n\r\n")? + 4;
                let text = String::from_utf8_lossy(&self.head[..end]).to_ascii_lowercase();
                let length =
                    text.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
                let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                self.left = Some(length.saturating_sub(self.head.len() - end));
            }
        }
        (self.left == Some(0)).then(|| std::mem::take(self).head)
    }
}

fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}

/// A client's connection: one upload after the other.
struct Client {
    stream: TcpStream,
    sent: usize,
    incoming: Incoming,
}

impl Client {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, sent: 0, incoming: Incoming::default() })
    }

    /// Whether an upload has been answered.
    fn step(&mut self, request: &[u8], buffer: &mut [u8]) -> Result<bool, BoxError> {
        if self.sent < request.len() {
            let written = would_block(self.stream.write(&request[self.sent..]))?;
            self.sent += written.unwrap_or(0);
            return Ok(false);
        }
        let Some(read) = would_block(self.stream.read(buffer))? else {
            return Ok(false);
        };
        if read == 0 {
            return Err("the gateway closed a connection".into());
        }
        let Some(response) = self.incoming.take(&buffer[..read]) else {
            return Ok(false);
        };
        if !response.starts_with(b"HTTP/1.1 201") {
            return Err(String::from_utf8_lossy(&response).into_owned().into());
        }
        self.sent = 0;
        Ok(true)
    }
}

/// WeChat and COS at one address, and the clients' loop.
struct Peers {
    listener: TcpListener,
    address: SocketAddr,
    connections: Vec<(TcpStream, Incoming)>,
    buffer: Vec<u8>,
}

impl Peers {
    fn new() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, connections: Vec::new(), buffer: vec![0; 256 * 1024] })
    }

    /// Uploads in so much time.
    fn run(
        &mut self,
        clients: &mut [Client],
        request: &[u8],
        time: Duration,
    ) -> Result<u64, BoxError> {
        let end = Instant::now() + time;
        let mut uploads = 0;
        while Instant::now() < end {
            for client in clients.iter_mut() {
                uploads += u64::from(client.step(request, &mut self.buffer)?);
            }
            self.serve()?;
        }
        Ok(uploads)
    }

    fn serve(&mut self) -> Result<(), BoxError> {
        while let Some((stream, _)) = would_block(self.listener.accept())? {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            self.connections.push((stream, Incoming::default()));
        }
        let (buffer, address) = (&mut self.buffer, self.address);
        let mut failed = None;
        self.connections.retain_mut(|(stream, incoming)| match would_block(stream.read(buffer)) {
            Ok(None) => true,
            // Pooled connections are closed when they have been idle for long.
            Ok(Some(0)) | Err(_) => false,
            Ok(Some(read)) => {
                if let Some(request) = incoming.take(&buffer[..read]) {
                    // A response fits the socket's buffer.
                    failed = stream.write_all(&response(&request, address)).err().or(failed.take());
                }
                true
            }
        });
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// What WeChat or COS answers.
fn response(request: &[u8], address: SocketAddr) -> Vec<u8> {
    // Only of the head: the conversion of a random file would take longer than its upload.
    let head = memmem::find(request, b"\r\n").unwrap_or(request.len());
    let text = if request.starts_with(b"POST /tcb/") { request } else { &request[..head] };
    let text = String::from_utf8_lossy(text);
    let target = text.split(' ').nth(1).unwrap_or_default();
    let json = if target.starts_with("/tcb/uploadfile") {
        let path = text
            .split("\"path\":\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap_or_default();
        format!(
            "{{\"errcode\":0,\"errmsg\":\"ok\",\"token\":\"{}\",\"authorization\":\"{}\",\"cos_file_id\":\"{}\",\
             \"url\":\"http://{address}/bench/{path}\",\"file_id\":\"cloud://bench.bench/{path}\"}}",
            "t".repeat(1200),
            "a".repeat(300),
            "f".repeat(250)
        )
    } else if target.starts_with("/cgi-bin/") {
        format!("{{\"access_token\":\"{}\",\"expires_in\":7200}}", "t".repeat(200))
    } else {
        return b"HTTP/1.1 204 No Content\r\nETag: \"ee8de918d05640145b18f70f4c3aa602\"\r\n\r\n"
            .to_vec();
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
        json.len()
    )
    .into_bytes()
}
