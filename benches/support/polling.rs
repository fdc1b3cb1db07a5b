//! Load whose peers never sleep: clients, WeChat and COS are one thread that polls all of its sockets without a pause, on a
//! processor of its own. A write to a peer that sleeps on the same machine wakes its processor, which a remote peer does
//! not cost; here it costs nothing either. The relays have the last processor.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;
use std::time::Instant;

use memchr::memmem;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use super::BoxError;
use super::load::{self, Outcome, Plan, Target};
use super::request::Request;
use super::upstream::{self, ApiCall, Conn, Seen, Upstream};
use super::wechat::Links;

/// The most bytes of a response, of a call to WeChat, and of a head to COS.
const MESSAGE: usize = 16 * 1024;

/// The polling thread; it ends when this is dropped.
pub struct Polling {
    jobs: Sender<Job>,
    outcomes: Receiver<Outcome>,
}

struct Job {
    target: Target,
    request: Arc<Request>,
    plan: Plan,
}

impl Polling {
    /// Starts the thread on the first processor. The calling thread moves to the last one, and what it starts with it.
    /// The upstream has the certificate in `folder`.
    pub fn start(folder: &Path) -> Result<(Self, Upstream), BoxError> {
        let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
        let last = online.trim().rsplit(['-', ',']).next().unwrap_or_default();
        if last == "0" {
            return Err("a thread that polls and a relay need two processors".into());
        }
        let listeners = [upstream::listen()?, upstream::listen()?, upstream::listen()?];
        let mut addresses = Vec::new();
        for listener in &listeners {
            listener.set_nonblocking(true)?;
            addresses.push(listener.local_addr()?);
        }
        let server = Server {
            listeners,
            connections: Vec::new(),
            shared: Shared {
                links: Links::new(addresses[1], addresses[2]),
                seen: Seen::default(),
                tls: Arc::new(upstream::tls(folder)?),
            },
            nowhere: Vec::with_capacity(1024 * 1024),
        };
        let (jobs, received) = mpsc::channel();
        let (done, outcomes) = mpsc::channel();
        // A thread begins on the processors of the one that starts it.
        pin("0")?;
        thread::spawn(move || server.poll(&received, &done));
        pin(last)?;
        Ok((Self { jobs, outcomes }, Upstream::here([addresses[0], addresses[1], addresses[2]])))
    }

    /// Sends uploads as `plan` says, which is a closed or a counted one.
    pub fn run(&self, target: &Target, request: &Arc<Request>, plan: Plan) -> Outcome {
        let job = Job { target: target.clone(), request: request.clone(), plan };
        let outcome = self.jobs.send(job).ok().and_then(|()| self.outcomes.recv().ok());
        outcome.unwrap_or_else(|| Outcome::failed("the thread that polls has ended"))
    }
}

/// Moves the calling thread to a processor.
fn pin(processor: &str) -> Result<(), BoxError> {
    let thread = fs::read_link("/proc/thread-self")?;
    let thread = thread.file_name().ok_or("the thread has no number")?;
    let mut taskset = Command::new("taskset");
    taskset.args(["-p", "-c", processor]).arg(thread).stdout(Stdio::null());
    if taskset.status()?.success() { Ok(()) } else { Err("taskset cannot pin a thread".into()) }
}

/// WeChat, COS, and COS with TLS.
struct Server {
    listeners: [TcpListener; 3],
    connections: Vec<Connection>,
    shared: Shared,
    nowhere: Vec<u8>,
}

struct Shared {
    links: Links,
    seen: Seen,
    tls: Arc<ServerConfig>,
}

impl Server {
    fn poll(mut self, jobs: &Receiver<Job>, outcomes: &Sender<Outcome>) {
        loop {
            match jobs.try_recv() {
                Ok(job) => {
                    if outcomes.send(self.run(&job)).is_err() {
                        return;
                    }
                }
                Err(TryRecvError::Empty) => self.serve(),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    fn run(&mut self, job: &Job) -> Outcome {
        let mut outcome = Outcome::new();
        let mut clients: Vec<_> = (0..job.plan.connections()).map(|_| Client::new()).collect();
        let began = Instant::now();
        loop {
            let mut are_done = true;
            for client in &mut clients {
                are_done &= client.step(job, began, &mut outcome);
            }
            if are_done {
                break;
            }
            self.serve();
        }
        outcome.seconds = began.elapsed().as_secs_f64();
        outcome
    }

    /// Goes once through all sockets of the upstream.
    fn serve(&mut self) {
        let Self { listeners, connections, shared, nowhere } = self;
        for (index, listener) in listeners.iter().enumerate() {
            while let Ok((stream, _)) = listener.accept() {
                // A connection that cannot be served is closed; the relay tells of it.
                connections.extend(Connection::new(stream, index, shared).ok());
            }
        }
        connections.retain_mut(|connection| match connection.step(shared, nowhere) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        });
    }
}

/// An HTTP/1.1 message that is being received: its head, and what came of the body with it.
struct Message {
    buffer: Vec<u8>,
    filled: usize,
    /// Where the body begins, and its length.
    body: Option<(usize, usize)>,
}

impl Message {
    fn new() -> Self {
        Self { buffer: vec![0; MESSAGE], filled: 0, body: None }
    }

    /// Reads once; true when the head is complete.
    fn read(&mut self, stream: &mut impl Read) -> io::Result<bool> {
        match stream.read(&mut self.buffer[self.filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => self.filled += read,
        }
        if self.body.is_none() {
            let end = memmem::find(&self.buffer[..self.filled], b"\r\n\r\n");
            self.body = end.map(|end| {
                (end + 4, upstream::content_length(&self.buffer[..end]).unwrap_or_default())
            });
        }
        Ok(self.body.is_some())
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Bytes of the body that have not come; 0 before the head is complete.
    fn left(&self) -> usize {
        self.body.map_or(0, |(start, length)| (start + length).saturating_sub(self.filled))
    }

    fn clear(&mut self) {
        (self.filled, self.body) = (0, None);
    }
}

/// A connection to the upstream.
struct Connection {
    conn: Conn,
    is_wechat: bool,
    message: Message,
    /// The request to COS whose body is being discarded, and the bytes of it that have not come.
    discarding: Option<(ApiCall, usize)>,
}

impl Connection {
    /// `listener`: 0 is WeChat's, 1 is COS's, 2 is COS's with TLS.
    fn new(stream: TcpStream, listener: usize, shared: &Shared) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let conn = if listener == 2 {
            let session = ServerConnection::new(shared.tls.clone()).map_err(io::Error::other)?;
            Conn::Tls(Box::new(StreamOwned::new(session, stream)))
        } else {
            Conn::Plain(stream)
        };
        Ok(Self { conn, is_wechat: listener == 0, message: Message::new(), discarding: None })
    }

    /// Reads once, and responds to a request that is complete. An error: the connection is closed, or there is nothing
    /// to read (`WouldBlock`).
    fn step(&mut self, shared: &Shared, nowhere: &mut Vec<u8>) -> io::Result<()> {
        if let Some((_, left)) = &mut self.discarding {
            *left -= self.conn.discard(*left, nowhere.spare_capacity_mut())?;
        } else if !self.message.read(&mut self.conn)? {
            return Ok(());
        } else if self.is_wechat {
            if self.message.left() == 0 {
                let start = self.message.body.map_or(0, |(start, _)| start);
                let answer = shared.links.answer(self.message.bytes(), start, &shared.seen)?;
                self.message.clear();
                self.conn.answer(answer.response.as_bytes())?;
                if answer.is_last {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            return Ok(());
        } else {
            self.discarding = Some((ApiCall::of(self.message.bytes()), self.message.left()));
            self.message.clear();
        }
        if let Some((call, 0)) = &self.discarding {
            // A response fits the socket's buffer.
            self.conn.answer(&call.response(&shared.seen))?;
            self.discarding = None;
        }
        Ok(())
    }
}

/// A client: one upload after the other.
struct Client {
    stream: Option<TcpStream>,
    /// When the upload began that is on its way.
    since: Option<Instant>,
    /// What was sent of it: whole runs, and bytes of the next one.
    sent: (usize, usize),
    begun: u64,
    errors: u64,
    response: Message,
}

impl Client {
    fn new() -> Self {
        let response = Message::new();
        Self { stream: None, since: None, sent: (0, 0), begun: 0, errors: 0, response }
    }

    /// Sends or receives once; true when there is no more to do.
    fn step(&mut self, job: &Job, began: Instant, outcome: &mut Outcome) -> bool {
        let since = match self.since {
            Some(since) => since,
            None if self.errors >= load::ERRORS || self.is_last(job.plan, began) => return true,
            None => {
                self.begun += 1;
                self.sent = (0, 0);
                self.response.clear();
                *self.since.insert(Instant::now())
            }
        };
        let result = match self.exchange(job) {
            Ok(false) if since.elapsed() < load::SOCKET_TIMEOUT => return false,
            Ok(false) => Err(io::ErrorKind::TimedOut.into()),
            Ok(true) => load::check(self.response.bytes(), &job.target, &job.request),
            Err(error) => Err(error),
        };
        self.since = None;
        if !outcome.count(result.map_err(|error| error.to_string()), since) {
            self.errors += 1;
            self.stream = None;
        }
        false
    }

    fn is_last(&self, plan: Plan, began: Instant) -> bool {
        match plan {
            Plan::Closed { seconds, .. } => began.elapsed().as_secs_f64() >= seconds,
            Plan::Counted { each, .. } => self.begun >= each,
            Plan::Open { .. } | Plan::Slow { .. } => true,
        }
    }

    /// Writes or reads once; true when the whole response has come.
    fn exchange(&mut self, job: &Job) -> io::Result<bool> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(connect(&job.target)?),
        };
        let (run, at) = &mut self.sent;
        if let Some(bytes) = job.request.runs.get(*run) {
            *at += would_block(stream.write(&bytes[*at..]))?.unwrap_or(0);
            if *at == bytes.len() {
                (*run, *at) = (*run + 1, 0);
            }
            return Ok(false);
        }
        let is_head = would_block(self.response.read(stream))?.unwrap_or(false);
        Ok(is_head && self.response.left() == 0)
    }
}

fn connect(target: &Target) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target.address)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    SockRef::from(&stream).set_send_buffer_size(load::SEND_BUFFER)?;
    Ok(stream)
}

fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
