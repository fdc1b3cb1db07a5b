//! The upstream of the bench, in a separate process: WeChat's link call and a COS that discards uploads. It is as cheap
//! per upload as possible, so that it is never the bottleneck: a thread for each connection, no allocation per upload,
//! and unencrypted bodies are discarded inside the kernel without a copy.

use std::io::{self, BufRead, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use memchr::memmem;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConnection, StreamOwned};
use socket2::{Domain, SockRef, Socket, Type};

use super::BoxError;

/// With this flag `recv(2)` discards TCP's bytes without copying them (Linux).
const MSG_TRUNC: i32 = 0x20;
/// With this flag it waits for all of them.
const MSG_WAITALL: i32 = 0x100;

/// Lengths of the fields in real links.
const SIGNATURE: usize = 340;
const SECURITY_TOKEN: usize = 900;
const FILE_ID: usize = 220;

/// The argument with which this binary runs as the upstream.
pub const ARGUMENT: &str = "upstream";

/// A running upstream.
pub struct Upstream {
    child: Child,
    pub wechat: SocketAddr,
    pub cos: SocketAddr,
    pub cos_tls: SocketAddr,
}

/// The numbers of requests that the upstream has received.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub links: u64,
    pub uploads: u64,
}

impl Upstream {
    /// Starts this binary again as the upstream, with the certificate in `folder`.
    pub fn start(folder: &Path) -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        io::BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let mut ports = line.split_whitespace().map(str::parse::<SocketAddr>);
        let mut next = || ports.next().ok_or("the upstream did not start").map(Result::ok);
        let (wechat, cos, cos_tls) = (next()?, next()?, next()?);
        let (Some(wechat), Some(cos), Some(cos_tls)) = (wechat, cos, cos_tls) else {
            return Err("the upstream's addresses cannot be read".into());
        };
        Ok(Self { child, wechat, cos, cos_tls })
    }

    /// `wechat.base_url` for links to COS over HTTP or HTTPS, each returned after `delay` milliseconds.
    pub fn wechat_url(&self, https: bool, delay: u64) -> String {
        format!("http://{}/{}/{delay}", self.wechat, if https { "https" } else { "http" })
    }

    pub fn cos(&self, https: bool) -> SocketAddr {
        if https { self.cos_tls } else { self.cos }
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn counts(&self) -> Result<Counts, BoxError> {
        let mut stream = TcpStream::connect(self.wechat)?;
        stream.write_all(b"GET /counts HTTP/1.1\r\nconnection: close\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let body = response.rsplit("\r\n").next().unwrap_or_default();
        let mut numbers = body.split(' ').map(|number| number.parse().unwrap_or_default());
        let mut next = || numbers.next().unwrap_or_default();
        Ok(Counts { links: next(), uploads: next() })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Seen {
    links: AtomicU64,
    uploads: AtomicU64,
}

/// Runs as the upstream until the bench exits.
pub fn run(folder: &Path) -> Result<(), BoxError> {
    let seen = Arc::new(Seen::default());
    let (wechat, cos, cos_tls) = (listen()?, listen()?, listen()?);
    let addresses = [&wechat, &cos, &cos_tls].map(TcpListener::local_addr);
    let [Ok(wechat_at), Ok(cos_at), Ok(cos_tls_at)] = addresses else {
        return Err("no address".into());
    };
    println!("{wechat_at} {cos_at} {cos_tls_at}");

    let links = Arc::new(Links::new(cos_at, cos_tls_at));
    let shared = seen.clone();
    accept(wechat, move |stream| serve_wechat(stream, &links, &shared));
    let shared = seen.clone();
    accept(cos, move |stream| serve_cos(Conn::Plain(stream), &shared));
    let tls = Arc::new(tls(folder)?);
    accept(cos_tls, move |stream| {
        let session = ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
        serve_cos(Conn::Tls(Box::new(StreamOwned::new(session, stream))), &seen)
    });
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn accept(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) {
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            let spawned = thread::Builder::new().stack_size(128 * 1024).spawn(move || {
                let _ = stream.set_nodelay(true);
                // Errors of a connection, such as a peer that closes it, are ignored.
                let _ = serve(stream);
            });
            drop(spawned);
        }
    });
}

fn tls(folder: &Path) -> Result<rustls::ServerConfig, BoxError> {
    let chain =
        CertificateDer::pem_file_iter(folder.join("cert.pem"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?)
}

/// A request's body length, and how much of the body arrived with its head.
struct Head {
    length: usize,
    begun: usize,
}

/// Reads one request's head into `buffer`; `None` when the peer closes between requests.
fn head(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<Head>> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return if filled == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        filled += read;
        if let Some(end) = memmem::find(&buffer[..filled], b"\r\n\r\n") {
            let length = content_length(&buffer[..end]).unwrap_or(0);
            return Ok(Some(Head { length, begun: filled - end - 4 }));
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        let named = name.eq_ignore_ascii_case(NAME);
        std::str::from_utf8(value).ok().filter(|_| named)?.trim().parse().ok()
    })
}

/// A connection to COS.
enum Conn {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Read for Conn {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Conn {
    /// Reads `left` bytes and discards them. Without TLS nothing is written to `nowhere`: only its length is used.
    fn discard(&mut self, mut left: usize, nowhere: &mut [MaybeUninit<u8>]) -> io::Result<()> {
        while left > 0 {
            let taken = match self {
                Self::Plain(stream) => {
                    let most = left.min(nowhere.len());
                    let flags = MSG_TRUNC | MSG_WAITALL;
                    SockRef::from(&*stream).recv_with_flags(&mut nowhere[..most], flags)?
                }
                Self::Tls(stream) => {
                    let there = stream.fill_buf()?.len().min(left);
                    stream.consume(there);
                    there
                }
            };
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= taken;
        }
        Ok(())
    }

    fn answer(&mut self, response: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(response),
            Self::Tls(stream) => stream.write_all(response).and_then(|()| stream.flush()),
        }
    }
}

fn serve_cos(mut conn: Conn, seen: &Seen) -> io::Result<()> {
    const STORED: &[u8] =
        b"HTTP/1.1 204 No Content\r\nx-cos-request-id: NWE5ZDNkMzRfYjI4NTNfMTA\r\n\
        ETag: \"ee8de918d05640145b18f70f4c3aa602\"\r\n\r\n";
    let mut buffer = vec![0; 16 * 1024];
    let mut nowhere = Vec::<u8>::with_capacity(1024 * 1024);
    while let Some(head) = head(&mut conn, &mut buffer)? {
        let call = ApiCall::of(&buffer);
        conn.discard(head.length - head.begun.min(head.length), nowhere.spare_capacity_mut())?;
        if !matches!(call, ApiCall::Initiate | ApiCall::Part | ApiCall::Other) {
            seen.uploads.fetch_add(1, Ordering::Relaxed);
        }
        match call.response() {
            Some(response) => conn.answer(response.as_bytes())?,
            None => conn.answer(STORED)?,
        }
    }
    Ok(())
}

/// A request to COS: a form, or a call of COS's API.
enum ApiCall {
    Form,
    Put,
    Initiate,
    Part,
    Complete,
    /// What the gateway asks for at its start.
    Other,
}

impl ApiCall {
    /// By the request line.
    fn of(head: &[u8]) -> Self {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let has = |text: &[u8]| memmem::find(line, text).is_some();
        match line.first() {
            Some(b'P') if has(b"?partNumber=") => Self::Part,
            Some(b'P') if has(b"?uploads") => Self::Initiate,
            Some(b'P') if has(b"?uploadId=") => Self::Complete,
            Some(b'P') if line.starts_with(b"PUT") => Self::Put,
            Some(b'P') => Self::Form,
            _ => Self::Other,
        }
    }

    /// `None`: as to a form.
    fn response(&self) -> Option<String> {
        let root = match self {
            Self::Form => return None,
            Self::Put | Self::Part => {
                let etag = "ETag: \"ee8de918d05640145b18f70f4c3aa602\"";
                return Some(format!("HTTP/1.1 200 OK\r\n{etag}\r\nContent-Length: 0\r\n\r\n"));
            }
            Self::Initiate => "InitiateMultipartUploadResult",
            Self::Complete => "CompleteMultipartUploadResult",
            Self::Other => "ListMultipartUploadsResult",
        };
        let body = format!("<{root}><UploadId>1</UploadId><ETag>\"e-1\"</ETag></{root}>");
        Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }
}

/// The parts of a link call's response before and after the path.
struct Links {
    bases: [String; 2],
    before: String,
    after: String,
}

impl Links {
    fn new(cos: SocketAddr, cos_tls: SocketAddr) -> Self {
        // By IP address, so that no name look-up is measured.
        let bases = [format!("http://{cos}"), format!("https://{cos_tls}")];
        let filler = |length| "q-sign-algorithm=sha1&q-ak=".chars().cycle().take(length);
        let before = format!(
            "{{\"errcode\":0,\"errmsg\":\"ok\",\"token\":\"{}\",\"authorization\":\"{}\",\"cos_file_id\":\"{}\"",
            filler(SECURITY_TOKEN).collect::<String>(),
            filler(SIGNATURE).collect::<String>(),
            filler(FILE_ID).collect::<String>(),
        );
        Self { bases, before, after: "bench.6265-bench-1250000000".to_owned() }
    }

    /// The response's JSON for `path`.
    fn response(&self, https: bool, path: &str) -> String {
        let (before, bucket) = (&self.before, &self.after);
        let base = &self.bases[usize::from(https)];
        format!(
            "{before},\"url\":\"{base}/6265-bench-1250000000/{path}\",\"file_id\":\"cloud://{bucket}/{path}\"}}"
        )
    }
}

fn serve_wechat(mut stream: TcpStream, links: &Links, seen: &Seen) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    while let Some(Head { length, begun }) = head(&mut stream, &mut buffer)? {
        let start = memmem::find(&buffer, b"\r\n\r\n").unwrap_or(0) + 4;
        if start + length > buffer.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if begun < length {
            stream.read_exact(&mut buffer[start + begun..start + length])?;
        }
        let request = std::str::from_utf8(&buffer[..start + length]).map_err(io::Error::other)?;
        // `/https/30/tcb/uploadfile?access_token=…`
        let target = request.split(' ').nth(1).unwrap_or_default();
        let mut steps = target.trim_start_matches('/').splitn(3, '/');
        let scheme = steps.next().unwrap_or_default();
        let delay = steps.next().and_then(|delay| delay.parse().ok()).unwrap_or(0);
        let call = steps.next().unwrap_or_default();
        let body = if scheme == "counts" {
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            format!("{} {}", count(&seen.links), count(&seen.uploads))
        } else if call.starts_with("tcb/uploadfile") {
            let path = request[start..].split("\"path\":\"").nth(1).unwrap_or_default();
            let path = path.split('"').next().unwrap_or_default();
            let response = links.response(scheme == "https", path);
            seen.links.fetch_add(1, Ordering::Relaxed);
            if delay > 0 {
                thread::sleep(Duration::from_millis(delay));
            }
            response
        } else if call.starts_with("cgi-bin/") {
            format!("{{\"access_token\":\"{}\",\"expires_in\":7200}}", "t".repeat(200))
        } else {
            "{\"errcode\":40066,\"errmsg\":\"invalid url\"}".to_owned()
        };
        let last = request[..start].contains("connection: close");
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(response.as_bytes())?;
        if last {
            return Ok(());
        }
    }
    Ok(())
}
