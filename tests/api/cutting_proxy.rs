//! A proxy in front of a gateway that cuts connections in the middle of the bodies of `PATCH`, and counts what clients of
//! tus send again. It reads as fast as the gateway does: what a client has sent but the proxy has not read does not count.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

const BUFFER: usize = 64 << 10;
/// How long a connection hangs before its client gives it up.
const STALL: Duration = Duration::from_millis(300);

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Both sides are closed.
    Close,
    /// Both sides are reset.
    Reset,
    /// The gateway is told of the request's end; its response is passed on.
    HalfClose,
    /// Nothing is passed on any more. The client gives up; the gateway never hears of it.
    Stall,
    /// The rest of the body is passed on, and the response is lost.
    LoseResponse,
}

/// Each upload has all of them, in this order.
pub const CUTS: [Cut; 5] = [Cut::Close, Cut::Stall, Cut::HalfClose, Cut::Reset, Cut::LoseResponse];

/// When connections are cut.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    /// Bytes of bodies between two cuts of an upload: at least, and at most.
    pub least: u64,
    pub most: u64,
    /// Cuts of an upload, at most.
    pub cuts: usize,
}

/// Times in which nothing is passed on, as if the network were away. Connections stay.
#[derive(Debug, Clone, Copy)]
pub struct Gaps {
    /// Between the beginnings of two: the first one begins after so long.
    pub every: Duration,
    pub last: Duration,
}

/// What the client of an upload has sent in bodies of `PATCH`.
#[derive(Debug, Default, Clone)]
pub struct Record {
    pub bytes: u64,
    /// The offset after the furthest byte that was read.
    end: u64,
    until_cut: u64,
    pub cuts: Vec<Cut>,
    /// How many bytes before [`end`](Self::end) were sent before the first cut (none), and after each one.
    pub resent: Vec<u64>,
}

impl Record {
    fn until(until_cut: u64) -> Self {
        Self { until_cut, resent: vec![0], ..Self::default() }
    }

    /// Counts bytes of a body that have this offset in the file.
    fn count(&mut self, offset: u64, read: u64) {
        self.bytes += read;
        self.until_cut = self.until_cut.saturating_sub(read);
        let again = self.end.min(offset + read).saturating_sub(offset);
        *self.resent.last_mut().expect("there is one before the first cut") += again;
        self.end = self.end.max(offset + read);
    }
}

type Records = Arc<Mutex<HashMap<String, Record>>>;

/// The proxy, on a thread of its own.
pub struct CuttingProxy {
    pub address: SocketAddr,
    records: Records,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl CuttingProxy {
    pub fn start(gateway: SocketAddr, plan: Plan) -> Self {
        Self::run(gateway, plan, None)
    }

    /// Cuts nothing.
    pub fn with_gaps(gateway: SocketAddr, gaps: Gaps) -> Self {
        let plan = Plan { seed: 0, least: u64::MAX, most: u64::MAX, cuts: 0 };
        Self::run(gateway, plan, Some(gaps))
    }

    fn run(gateway: SocketAddr, plan: Plan, gaps: Option<Gaps>) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("an option");
        let address = listener.local_addr().expect("its address");
        let records = Records::default();
        let (stop, stopped) = oneshot::channel();
        let proxy_records = records.clone();
        let thread = std::thread::spawn(move || {
            let proxy = Rc::new(Proxy {
                gateway,
                plan,
                gaps: gaps.map(|gaps| (gaps, Instant::now())),
                random: RefCell::new(Rng::with_seed(plan.seed)),
                records: proxy_records,
                hanging: RefCell::default(),
            });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(LocalSet::new().run_until(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = proxy.accept(listener) => {}
                    _ = stopped => {}
                }
            }));
        });
        Self { address, records, stop: Some(stop), thread: Some(thread) }
    }

    /// What was sent, by the paths of uploads' URLs.
    pub fn records(&self) -> HashMap<String, Record> {
        self.records.lock().expect("the records").clone()
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// Of a request.
struct Head {
    bytes: Vec<u8>,
    path: String,
    /// Of a `PATCH`: where its next byte stands in the file.
    offset: Option<u64>,
    length: u64,
}

struct Proxy {
    gateway: SocketAddr,
    plan: Plan,
    /// And since when they are counted.
    gaps: Option<(Gaps, Instant)>,
    random: RefCell<Rng>,
    records: Records,
    /// Connections that were given up, which the gateway cannot know.
    hanging: RefCell<Vec<TcpStream>>,
}

impl Proxy {
    async fn accept(self: &Rc<Self>, listener: TcpListener) {
        loop {
            let (client, _) = listener.accept().await.expect("a connection");
            let proxy = self.clone();
            // Each side sees how the other one has ended.
            spawn_local(async move { drop(proxy.serve(client).await) });
        }
    }

    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        self.end_of_gap().await;
        let mut gateway = TcpStream::connect(self.gateway).await?;
        client.set_nodelay(true)?;
        gateway.set_nodelay(true)?;
        // A real path does not hold megabytes that its sender takes for sent.
        SockRef::from(&gateway).set_send_buffer_size(BUFFER)?;
        let (from_client, mut to_client) = client.split();
        let (mut from_gateway, mut to_gateway) = gateway.split();
        let mut from_client = BufReader::new(from_client);
        let cut = tokio::select! {
            cut = self.pass_requests(&mut from_client, &mut to_gateway) => cut?,
            result = tokio::io::copy(&mut from_gateway, &mut to_client) => {
                self.end_of_gap().await;
                return result.map(drop);
            }
        };
        let Some((cut, mut rest)) = cut else { return Ok(()) };
        match cut {
            Cut::Close => {}
            Cut::Reset => {
                SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
                SockRef::from(&gateway).set_linger(Some(Duration::ZERO))?;
            }
            Cut::HalfClose => {
                to_gateway.shutdown().await?;
                tokio::io::copy(&mut from_gateway, &mut to_client).await?;
            }
            Cut::Stall => {
                tokio::time::sleep(STALL).await;
                SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
                self.hanging.borrow_mut().push(gateway);
            }
            Cut::LoseResponse => {
                while rest.length > 0 {
                    self.pass(&mut rest, u64::MAX, &mut from_client, &mut to_gateway).await?;
                }
                from_gateway.read_u8().await?;
            }
        }
        Ok(())
    }

    /// Until a connection is to be cut: how, and in which request; `None`: the client has closed it.
    async fn pass_requests(
        &self,
        from: &mut (impl AsyncBufReadExt + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<Option<(Cut, Head)>> {
        while let Some(mut head) = read_head(from).await? {
            to.write_all(&head.bytes).await?;
            while head.length > 0 {
                let until_cut = self.until_cut(&head);
                if until_cut == 0 {
                    return Ok(Some((self.cut(&head), head)));
                }
                self.pass(&mut head, until_cut, from, to).await?;
            }
        }
        Ok(None)
    }

    /// Passes some bytes of a body on, `most` at most.
    async fn pass(
        &self,
        head: &mut Head,
        most: u64,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        let most = most.min(head.length).min(BUFFER as u64) as usize;
        let read = from.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end_of_gap().await;
        head.length -= read as u64;
        if let Some(offset) = &mut head.offset {
            self.with_record(&head.path, |record| record.count(*offset, read as u64));
            *offset += read as u64;
        }
        to.write_all(&buffer[..read]).await
    }

    async fn end_of_gap(&self) {
        let Some((gaps, start)) = self.gaps else { return };
        let since = start.elapsed();
        let in_period = Duration::from_nanos((since.as_nanos() % gaps.every.as_nanos()) as u64);
        if since > gaps.every && in_period < gaps.last {
            tokio::time::sleep(gaps.last - in_period).await;
        }
    }

    fn with_record<T>(&self, path: &str, run: impl FnOnce(&mut Record) -> T) -> T {
        let mut records = self.records.lock().expect("the records");
        let record =
            records.entry(path.to_owned()).or_insert_with(|| Record::until(self.distance()));
        run(record)
    }

    /// Of the next cut.
    fn distance(&self) -> u64 {
        self.random.borrow_mut().u64(self.plan.least..=self.plan.most)
    }

    fn until_cut(&self, head: &Head) -> u64 {
        match head.offset {
            Some(_) => self.with_record(&head.path, |record| {
                if record.cuts.len() < self.plan.cuts { record.until_cut } else { u64::MAX }
            }),
            None => u64::MAX,
        }
    }

    /// Counts a cut. A response can only be lost once the body was passed on: in a long body, the connection is closed.
    fn cut(&self, head: &Head) -> Cut {
        self.with_record(&head.path, |record| {
            let cut = match CUTS[record.cuts.len() % CUTS.len()] {
                Cut::LoseResponse if head.length > self.plan.most => Cut::Close,
                cut => cut,
            };
            record.cuts.push(cut);
            record.resent.push(0);
            record.until_cut = self.distance();
            cut
        })
    }
}

/// The next request's head; `None` where the client has closed its connection.
async fn read_head(from: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Head>> {
    let mut bytes = Vec::new();
    let mut lines = Vec::new();
    loop {
        let start = bytes.len();
        if from.read_until(b'\n', &mut bytes).await? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&bytes[start..]).trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut request = lines.first().map_or("", String::as_str).split(' ');
    let (method, path) = (request.next().unwrap_or_default(), request.next().unwrap_or_default());
    let number = |wanted: &str| {
        let headers = lines.iter().filter_map(|line| line.split_once(':'));
        let mut values = headers.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        values.next().and_then(|(_, value)| value.trim().parse().ok())
    };
    assert!(
        !lines.iter().any(|line| line.to_ascii_lowercase().starts_with("transfer-encoding:")),
        "bodies have a length: {lines:?}"
    );
    let offset = if method == "PATCH" { number("upload-offset") } else { None };
    let length = number("content-length").unwrap_or(0);
    Ok(Some(Head { path: path.to_owned(), offset, length, bytes }))
}
