//! The upstream of the bench, in a separate process: WeChat (`wechat`) and a COS that discards uploads. It is as cheap
//! per upload as possible, so that it is never the bottleneck: a thread for each connection, no allocation per upload,
//! and unencrypted bodies are discarded inside the kernel without a copy.

use std::borrow::Cow;
use std::fs;
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
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConnection, StreamOwned};
use socket2::{Domain, SockRef, Socket, Type};

use super::BoxError;
use super::wechat::Links;

/// With this flag `recv(2)` discards TCP's bytes without copying them (Linux).
const MSG_TRUNC: i32 = 0x20;
/// With this flag it waits for all of them.
const MSG_WAITALL: i32 = 0x100;

/// The argument with which this binary runs as the upstream.
pub const ARGUMENT: &str = "upstream";

/// A running upstream.
pub struct Upstream {
    /// None if it is a thread of this process.
    child: Option<Child>,
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
        Ok(Self { child: Some(child), wechat, cos, cos_tls })
    }

    /// An upstream in this process that listens at the addresses of WeChat, COS, and COS with TLS.
    pub fn here([wechat, cos, cos_tls]: [SocketAddr; 3]) -> Self {
        Self { child: None, wechat, cos, cos_tls }
    }

    /// `wechat.base_url` for links to COS over HTTP or HTTPS, each returned after `delay` milliseconds.
    pub fn wechat_url(&self, https: bool, delay: u64) -> String {
        format!("http://{}/{}/{delay}", self.wechat, if https { "https" } else { "http" })
    }

    pub fn cos(&self, https: bool) -> SocketAddr {
        if https { self.cos_tls } else { self.cos }
    }

    pub fn process(&self) -> u32 {
        self.child.as_ref().map_or_else(std::process::id, Child::id)
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
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[derive(Default)]
pub struct Seen {
    pub links: AtomicU64,
    pub uploads: AtomicU64,
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

pub fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Writes the certificate of COS and its key. It is self-signed and not marked as a CA (CA:FALSE), as private roots often
/// are.
pub fn write_certificate(folder: &Path) -> Result<(), BoxError> {
    let key = KeyPair::generate()?;
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names)?.self_signed(&key)?;
    fs::write(folder.join("cert.pem"), certificate.pem())?;
    fs::write(folder.join("key.pem"), key.serialize_pem())?;
    Ok(())
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

pub fn tls(folder: &Path) -> Result<rustls::ServerConfig, BoxError> {
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

pub fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        let named = name.eq_ignore_ascii_case(NAME);
        std::str::from_utf8(value).ok().filter(|_| named)?.trim().parse().ok()
    })
}

/// A connection to COS.
pub enum Conn {
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
    /// Reads up to `most` bytes, all of them where the socket blocks, and discards them; gives how many. Without TLS
    /// nothing is written to `nowhere`: only its length is used.
    pub fn discard(&mut self, most: usize, nowhere: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        let taken = match self {
            Self::Plain(stream) => {
                let most = most.min(nowhere.len());
                let flags = MSG_TRUNC | MSG_WAITALL;
                SockRef::from(&*stream).recv_with_flags(&mut nowhere[..most], flags)?
            }
            Self::Tls(stream) => {
                let there = stream.fill_buf()?.len().min(most);
                stream.consume(there);
                there
            }
        };
        if taken == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(taken) }
    }

    pub fn answer(&mut self, response: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(response),
            Self::Tls(stream) => stream.write_all(response).and_then(|()| stream.flush()),
        }
    }
}

fn serve_cos(mut conn: Conn, seen: &Seen) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut nowhere = Vec::<u8>::with_capacity(1024 * 1024);
    while let Some(head) = head(&mut conn, &mut buffer)? {
        let call = ApiCall::of(&buffer);
        let mut left = head.length - head.begun.min(head.length);
        while left > 0 {
            left -= conn.discard(left, nowhere.spare_capacity_mut())?;
        }
        conn.answer(&call.response(seen))?;
    }
    Ok(())
}

/// A request to COS: a form, or a call of COS's API.
pub enum ApiCall {
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
    pub fn of(head: &[u8]) -> Self {
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

    /// What is sent after the request's last byte; counts the objects that are complete then.
    pub fn response(&self, seen: &Seen) -> Cow<'static, [u8]> {
        const STORED: &[u8] =
            b"HTTP/1.1 204 No Content\r\nx-cos-request-id: NWE5ZDNkMzRfYjI4NTNfMTA\r\n\
            ETag: \"ee8de918d05640145b18f70f4c3aa602\"\r\n\r\n";
        if !matches!(self, Self::Initiate | Self::Part | Self::Other) {
            seen.uploads.fetch_add(1, Ordering::Relaxed);
        }
        let root = match self {
            Self::Form => return STORED.into(),
            Self::Put | Self::Part => {
                let etag = "ETag: \"ee8de918d05640145b18f70f4c3aa602\"";
                let response = format!("HTTP/1.1 200 OK\r\n{etag}\r\nContent-Length: 0\r\n\r\n");
                return response.into_bytes().into();
            }
            Self::Initiate => "InitiateMultipartUploadResult",
            Self::Complete => "CompleteMultipartUploadResult",
            Self::Other => "ListMultipartUploadsResult",
        };
        let body = format!("<{root}><UploadId>1</UploadId><ETag>\"e-1\"</ETag></{root}>");
        let length = body.len();
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        response.into_bytes().into()
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
        let answer = links.answer(&buffer[..start + length], start, seen)?;
        if answer.delay > 0 {
            thread::sleep(Duration::from_millis(answer.delay));
        }
        stream.write_all(answer.response.as_bytes())?;
        if answer.is_last {
            return Ok(());
        }
    }
    Ok(())
}
