//! HTTP/1.1 connections to one origin: names are resolved, certificates verified, redirects not followed. Knows nothing
//! of uploads.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::BoxError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// In bytes; the description of the API is the largest response that is read whole.
const MAX_RESPONSE: usize = 4 << 20;

/// A request's body, whose length is in the request's head.
pub type Body = Either<Full<Bytes>, StreamBody<Runs>>;
type Runs = futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, io::Error>>>;

/// A body of these bytes, one run after the other.
pub fn body(mut runs: Vec<Bytes>) -> Body {
    if runs.len() < 2 {
        return Either::Left(Full::new(runs.pop().unwrap_or_default()));
    }
    let frames: Vec<_> = runs.into_iter().map(|run| Ok(Frame::data(run))).collect();
    Either::Right(StreamBody::new(futures::stream::iter(frames)))
}

/// Why there is no response.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectionError {
    /// Nothing was sent.
    #[error("cannot reach {host}: {cause}")]
    Unreachable { host: String, cause: String },
    /// The request may have been processed.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The request may have been processed.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
    #[error("{0} is neither an http nor an https URL with a host")]
    Url(Uri),
}

/// How long it took to open a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Opened {
    pub dns: Duration,
    pub tcp: Duration,
    pub tls: Option<Duration>,
}

/// A response that was read whole.
#[derive(Debug)]
pub struct Whole {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// TLS by the system's roots, or Mozilla's where it has none, and those of `ca`.
pub fn tls(ca: Option<&Path>) -> Result<Arc<ClientConfig>, BoxError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(file) = ca {
        let failed = |cause: String| format!("--ca {}: {cause}", file.display());
        let own =
            CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let own = own.map_err(|error| failed(error.to_string()))?;
        if own.is_empty() {
            return Err(failed("no certificate in it".to_owned()).into());
        }
        for certificate in own {
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// One connection at a time to an origin, opened when it is needed.
pub struct Client {
    tls: Arc<ClientConfig>,
    is_tls: bool,
    host: String,
    port: u16,
    authority: HeaderValue,
    /// From a request's first byte to its response's last one.
    timeout: Duration,
    idle: Option<SendRequest<Body>>,
    /// The latest connection.
    pub opened: Opened,
    /// How many connections were opened.
    pub connections: u64,
}

impl Client {
    /// For the origin of `url`. Opens no connection.
    pub fn new(
        url: &Uri,
        tls: Arc<ClientConfig>,
        timeout: Duration,
    ) -> Result<Self, ConnectionError> {
        let invalid = || ConnectionError::Url(url.clone());
        let authority = url.authority().ok_or_else(invalid)?;
        let is_tls = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        Ok(Self {
            tls,
            is_tls,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            authority: HeaderValue::try_from(authority.as_str()).map_err(|_| invalid())?,
            timeout,
            idle: None,
            opened: Opened::default(),
            connections: 0,
        })
    }

    /// A client for another origin, with the same TLS.
    pub fn to(&self, url: &Uri) -> Result<Self, ConnectionError> {
        Self::new(url, self.tls.clone(), self.timeout)
    }

    /// A client for the same origin, without a connection.
    pub fn another(&self) -> Self {
        Self {
            tls: self.tls.clone(),
            is_tls: self.is_tls,
            host: self.host.clone(),
            port: self.port,
            authority: self.authority.clone(),
            timeout: self.timeout,
            idle: None,
            opened: Opened::default(),
            connections: 0,
        }
    }

    /// Opens a connection if there is none.
    pub async fn open(&mut self) -> Result<(), ConnectionError> {
        let (sender, _) = self.sender().await?;
        self.idle = Some(sender);
        Ok(())
    }

    /// Sends a request, and reads its response whole.
    pub async fn exchange(&mut self, request: Request<Body>) -> Result<Whole, ConnectionError> {
        let limit = self.timeout;
        let exchange = async {
            let (head, body) = self.begin(request).await?.into_parts();
            let body = Limited::new(body, MAX_RESPONSE).collect().await;
            let body = body.map_err(|error| ConnectionError::Broken(error.to_string()));
            Ok((head, body?.to_bytes()))
        };
        match timeout(limit, exchange).await {
            Ok(Ok((head, body))) => {
                Ok(Whole { status: head.status.as_u16(), headers: head.headers, body })
            }
            Ok(Err(error)) => {
                self.idle = None;
                Err(error)
            }
            Err(_) => {
                self.idle = None;
                Err(ConnectionError::TimedOut(limit))
            }
        }
    }

    /// Sends a request; the response's body is still to be read.
    async fn begin(
        &mut self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, ConnectionError> {
        request.headers_mut().insert(HOST, self.authority.clone());
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static("tcb-upload-gateway-bench"));
        loop {
            let (mut sender, is_new) = self.sender().await?;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.idle = Some(sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    // The server has closed the idle connection, and nothing was sent.
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(ConnectionError::Broken(with_cause(error.error()))),
                },
            }
        }
    }

    /// The idle connection if it is still open, or a new one; whether it is new.
    async fn sender(&mut self) -> Result<(SendRequest<Body>, bool), ConnectionError> {
        if let Some(mut sender) = self.idle.take()
            && sender.ready().await.is_ok()
        {
            return Ok((sender, false));
        }
        let sender = match timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(connected) => connected.map_err(|cause| self.unreachable(cause.to_string()))?,
            Err(_) => return Err(self.unreachable(format!("not within {CONNECT_TIMEOUT:?}"))),
        };
        self.connections += 1;
        Ok((sender, true))
    }

    async fn connect(&mut self) -> io::Result<SendRequest<Body>> {
        let began = Instant::now();
        let addresses: Vec<_> =
            tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect();
        let dns = began.elapsed();
        let stream = TcpStream::connect(addresses.as_slice()).await?;
        stream.set_nodelay(true)?;
        let tcp = began.elapsed() - dns;
        self.opened = Opened { dns, tcp, tls: None };
        if !self.is_tls {
            return sender_on(stream).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let began = Instant::now();
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        self.opened.tls = Some(began.elapsed());
        sender_on(stream).await
    }

    fn unreachable(&self, cause: String) -> ConnectionError {
        ConnectionError::Unreachable { host: format!("{}:{}", self.host, self.port), cause }
    }
}

async fn sender_on<S>(stream: S) -> io::Result<SendRequest<Body>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // An error of the connection is also an error of its request.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn with_cause(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
