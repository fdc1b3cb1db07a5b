//! The load generator: blocking sockets, a thread for each connection; every response is read to its end and checked.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use memchr::memmem;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::request::{Content, Request, Shape};
use super::upstream::content_length;

/// The socket timeout; an upload that takes longer counts as an error.
pub const SOCKET_TIMEOUT: Duration = Duration::from_secs(60);
/// Large enough for a whole small upload, so that sending one takes one system call.
pub const SEND_BUFFER: usize = 512 * 1024;
/// A connection's thread stops after this many errors.
pub const ERRORS: u64 = 20;
/// A slow upload is sent in this many pieces.
const PIECES: usize = 16;

/// How uploads are sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Plan {
    /// Each connection sends one upload after the other for `seconds`.
    Closed { connections: usize, seconds: f64 },
    /// Each connection sends `each` uploads.
    Counted { connections: usize, each: u64 },
    /// Uploads are scheduled at a fixed rate, independent of earlier ones. An upload without a free connection waits,
    /// and its wait counts: there is no coordinated omission.
    Open { connections: usize, rate: f64, seconds: f64 },
    /// Each connection sends one upload in pieces over `seconds`; none is finished before all have begun. Meanwhile,
    /// `idle` connections, each after a small upload, send nothing; in the end, each sends another one.
    Slow { connections: usize, idle: usize, seconds: f64 },
}

impl Plan {
    pub fn connections(&self) -> usize {
        match *self {
            Self::Closed { connections, .. }
            | Self::Counted { connections, .. }
            | Self::Open { connections, .. }
            | Self::Slow { connections, .. } => connections,
        }
    }
}

/// The server under load.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
    /// Whether the response must contain the files' CRC.
    pub proof: bool,
}

/// The result of a run.
pub struct Outcome {
    pub uploads: u64,
    /// Of connections that are idle otherwise; they are no part of the other figures.
    pub idle_uploads: u64,
    pub errors: u64,
    pub first_error: Option<String>,
    pub seconds: f64,
    /// In nanoseconds.
    pub latency: Histogram<u64>,
}

/// A histogram for latencies in nanoseconds, from a microsecond to an hour.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("bounds that are in order")
}

impl Outcome {
    pub fn new() -> Self {
        Self {
            uploads: 0,
            idle_uploads: 0,
            errors: 0,
            first_error: None,
            seconds: 0.0,
            latency: histogram(),
        }
    }

    /// The outcome of a run that could not begin.
    pub fn failed(reason: &str) -> Self {
        Self { errors: 1, first_error: Some(reason.to_owned()), ..Self::new() }
    }

    /// Counts an upload that began at `since`; whether it was a success.
    pub fn count(&mut self, result: Result<(), String>, since: Instant) -> bool {
        match result {
            Ok(()) => {
                self.uploads += 1;
                let taken = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.latency.saturating_record(taken);
                true
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(error);
                false
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.uploads += other.uploads;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        // It cannot fail: the bounds are the same.
        let _ = self.latency.add(other.latency);
    }
}

/// Sends uploads as `plan` says.
pub fn run(target: &Target, request: &Arc<Request>, plan: Plan) -> Outcome {
    if let Plan::Slow { connections, idle, seconds } = plan {
        let mut waiting = Idle::open(target, idle);
        let mut outcome = slow(target, request, connections, seconds);
        waiting.upload();
        waiting.add_to(&mut outcome);
        return outcome;
    }
    let connections = plan.connections();
    let ready = Arc::new(Barrier::new(connections + 1));
    let next = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..connections)
        .filter_map(|_| {
            let (target, request) = (target.clone(), request.clone());
            let (ready, next) = (ready.clone(), next.clone());
            let send = move || connection(&target, &request, plan, &ready, &next);
            thread::Builder::new().stack_size(256 * 1024).spawn(send).ok()
        })
        .collect();
    ready.wait();
    let began = Instant::now();
    let mut total = Outcome::new();
    for thread in threads {
        match thread.join() {
            Ok(outcome) => total.add(outcome),
            Err(_) => total.errors += 1,
        }
    }
    total.seconds = began.elapsed().as_secs_f64();
    total
}

fn connection(
    target: &Target,
    request: &Request,
    plan: Plan,
    ready: &Barrier,
    next: &AtomicU64,
) -> Outcome {
    let mut outcome = Outcome::new();
    let mut client = Client::connect(target).ok();
    ready.wait();
    let began = Instant::now();
    let mut sent = 0;
    while outcome.errors < ERRORS {
        let mut since = Instant::now();
        match plan {
            Plan::Closed { seconds, .. } if began.elapsed().as_secs_f64() >= seconds => break,
            Plan::Counted { each, .. } if sent >= each => break,
            Plan::Open { rate, seconds, .. } => {
                let offset = next.fetch_add(1, Ordering::Relaxed) as f64 / rate;
                if offset >= seconds {
                    break;
                }
                since = began + Duration::from_secs_f64(offset);
                thread::sleep(since.saturating_duration_since(Instant::now()));
            }
            _ => {}
        }
        sent += 1;
        let result = match &mut client {
            Some(client) => client.upload(request),
            None => Client::connect(target).and_then(|new| client.insert(new).upload(request)),
        };
        if !outcome.count(result.map_err(|error| error.to_string()), since) {
            client = None;
        }
    }
    outcome
}

fn slow(target: &Target, request: &Arc<Request>, connections: usize, seconds: f64) -> Outcome {
    let mut outcome = Outcome::new();
    let began = Instant::now();
    let whole = request.runs.concat();
    let mut clients: Vec<_> = (0..connections).map(|_| Client::connect(target)).collect();
    for (index, piece) in whole.chunks(whole.len().div_ceil(PIECES)).enumerate() {
        let time = began + Duration::from_secs_f64(seconds * index as f64 / PIECES as f64);
        thread::sleep(time.saturating_duration_since(Instant::now()));
        for slot in &mut clients {
            if let Ok(client) = slot
                && let Err(error) = client.stream.write_all(piece)
            {
                *slot = Err(error);
            }
        }
    }
    for client in clients {
        let result = client.and_then(|mut client| client.response(request));
        outcome.count(result.map_err(|error| error.to_string()), began);
    }
    outcome.seconds = began.elapsed().as_secs_f64();
    outcome
}

/// Connections that send a small upload at first and in the end, and are idle between.
struct Idle {
    clients: Vec<io::Result<Client>>,
    request: Request,
    uploads: u64,
}

impl Idle {
    fn open(target: &Target, count: usize) -> Self {
        let request = Request::upload(Shape::Form, Content::Random, 4096);
        let clients = (0..count).map(|_| Client::connect(target)).collect();
        let mut idle = Self { clients, request, uploads: 0 };
        idle.upload();
        idle
    }

    /// An upload on each connection that had no error.
    fn upload(&mut self) {
        for slot in &mut self.clients {
            if let Ok(client) = slot {
                match client.upload(&self.request) {
                    Ok(()) => self.uploads += 1,
                    Err(error) => *slot = Err(error),
                }
            }
        }
    }

    fn add_to(self, outcome: &mut Outcome) {
        outcome.idle_uploads += self.uploads;
        for error in self.clients.into_iter().filter_map(Result::err) {
            outcome.errors += 1;
            outcome.first_error.get_or_insert(format!("an idle connection: {error}"));
        }
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

struct Client {
    stream: Stream,
    target: Target,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(target: &Target) -> io::Result<Self> {
        let stream = TcpStream::connect(target.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
        stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
        SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER)?;
        let stream = match &target.tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                let name = ServerName::from(target.address.ip());
                let session = ClientConnection::new(tls.clone(), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(session, stream)))
            }
        };
        Ok(Self { stream, target: target.clone(), buffer: vec![0; 16 * 1024] })
    }

    fn upload(&mut self, request: &Request) -> io::Result<()> {
        for run in &request.runs {
            self.stream.write_all(run)?;
        }
        self.response(request)
    }

    /// Reads a response to its end; it must be a success.
    fn response(&mut self, request: &Request) -> io::Result<()> {
        let (mut filled, mut end) = (0, None);
        loop {
            if let Some((head, length)) = end
                && filled >= head + length
            {
                break;
            }
            if filled == self.buffer.len() {
                return Err(io::Error::other("a response of more than 16 KiB"));
            }
            let read = self.stream.read(&mut self.buffer[filled..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if end.is_none() {
                end = memmem::find(&self.buffer[..filled], b"\r\n\r\n")
                    .map(|at| (at + 4, content_length(&self.buffer[..at]).unwrap_or(0)));
            }
        }
        check(&self.buffer[..filled], &self.target, request)
    }
}

/// Whether a whole response is a success.
pub fn check(response: &[u8], target: &Target, request: &Request) -> io::Result<()> {
    let stored = response.starts_with(b"HTTP/1.1 2")
        && (!target.proof || memmem::find(response, request.proof.as_bytes()).is_some());
    if stored { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(response))) }
}
