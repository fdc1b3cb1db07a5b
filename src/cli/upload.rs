//! `upload`: files to a running gateway, as any client sends them; for scripts, and for trying a deployment.
//!
//! What is printed to standard output is for programs (one line a file), everything else goes to standard error.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::future::{Either, select};
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::net::tls;

/// Where it goes below the gateway's address.
const FILES: &str = "/v1/files";
/// Files under way at the same time, as browsers do it.
const AT_ONCE: usize = 4;
const CONNECT: Duration = Duration::from_secs(10);
/// The gateway itself waits no longer for COS.
const SILENCE: Duration = Duration::from_secs(120);
const PIECE: usize = 64 * 1024;
const REPLY_LIMIT: usize = 1024 * 1024;

#[derive(Debug, Args)]
pub struct Upload {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The gateway's address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", env = "GATEWAY_URL")]
    to: Uri,
    /// A folder for the stored files
    #[arg(long)]
    dir: Option<String>,
    /// The API key or ticket; better through the environment, which other users of the machine cannot see
    #[arg(long, env = "GATEWAY_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print each stored file as a line of JSON (file_id, path, url, crc64, ...) instead of its address
    #[arg(long)]
    json: bool,
}

/// Why a file is not stored, in words.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("{0} is not a gateway's address: it begins with http:// or https://")]
    Address(Uri),
    #[error("the key has characters that no key has")]
    Key,
    #[error("TLS: {0}")]
    Tls(#[from] tls::TlsError),
    #[error("cannot reach {host}: {cause}")]
    Unreachable { host: String, cause: String },
    #[error("the connection to the gateway broke: {0}")]
    Broken(String),
    #[error("nothing has moved for {SILENCE:?}")]
    Silence,
    #[error("{code}: {detail} (request {request_id})")]
    Refused { code: String, detail: String, request_id: String },
    #[error("{status} from {host}, which does not answer like a gateway")]
    NoGateway { status: u16, host: String },
}

/// Uploads, and says how it went: 0 when every file is stored, 1 otherwise.
pub fn run(upload: &Upload) -> ExitCode {
    let began = Instant::now();
    let bars = MultiProgress::new();
    let results = actix_web::rt::System::new().block_on(async {
        let files = upload.files.iter().map(|file| send(upload, file, &bars));
        let mut sent = stream::iter(files).buffered(AT_ONCE);
        let mut results = Vec::new();
        while let Some(result) = sent.next().await {
            bars.suspend(|| tell(upload, &upload.files[results.len()], &result));
            results.push(result);
        }
        results
    });
    let stored: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    let bytes: u64 = stored.iter().filter_map(|file| file["size"].as_u64()).sum();
    let seconds = began.elapsed().as_secs_f64();
    let failed = results.len() - stored.len();
    eprintln!(
        "{} of {} files stored, {} in {seconds:.1} s ({}/s)",
        stored.len(),
        results.len(),
        HumanBytes(bytes),
        HumanBytes((bytes as f64 / seconds) as u64),
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(upload: &Upload, file: &Path, result: &Result<Value, UploadError>) {
    match result {
        Ok(stored) if upload.json => println!("{stored}"),
        Ok(stored) => println!("{}", stored["url"].as_str().unwrap_or_default()),
        Err(failure) => eprintln!("{}: {failure}", file.display()),
    }
}

/// One file; gives what the gateway says of it.
async fn send(upload: &Upload, path: &Path, bars: &MultiProgress) -> Result<Value, UploadError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file").into());
    }
    let bar = bars.add(bar(metadata.len(), &name));
    let form = Form::new(&name, metadata.len());
    let request = request(upload, &form)?;
    let host = request.uri().to_owned();
    let moved = Rc::new(Cell::new(Instant::now()));
    let body = form.body(file, bar.clone(), moved.clone());
    let answer = exchange(&host, request.map(|()| body), &moved).await;
    bar.finish_and_clear();
    verdict(answer?, host.authority().map_or("", |authority| authority.as_str()))
}

fn bar(length: u64, name: &str) -> ProgressBar {
    const TEMPLATE: &str =
        "{msg:24!} {wide_bar} {bytes:>10} / {total_bytes} {bytes_per_sec:>13} {eta:>4}";
    let style = ProgressStyle::with_template(TEMPLATE);
    let bar = ProgressBar::new(length).with_message(name.to_owned());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// A form with one file, of known length.
struct Form {
    boundary: String,
    head: String,
    tail: String,
    /// Of the file.
    size: u64,
}

impl Form {
    fn new(name: &str, size: u64) -> Self {
        let boundary = format!("upload-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        // As browsers do it (HTML, multipart/form-data encoding algorithm).
        let quoted = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
        let kind = mime_guess::from_path(name).first_or_octet_stream();
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{quoted}\"\r\n\
             Content-Type: {kind}\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        Self { boundary, head, tail, size }
    }

    fn len(&self) -> u64 {
        self.size + (self.head.len() + self.tail.len()) as u64
    }

    /// A file that grows or shrinks meanwhile ends the body early or in an error: its length was announced.
    fn body(
        self,
        file: File,
        bar: ProgressBar,
        moved: Rc<Cell<Instant>>,
    ) -> impl hyper::body::Body<Data = Bytes, Error = io::Error> + 'static {
        let content = stream::try_unfold(file.take(self.size), move |mut file| {
            let (bar, moved) = (bar.clone(), moved.clone());
            async move {
                moved.set(Instant::now());
                let mut piece = vec![0; PIECE];
                // A file of this machine is there at once; no other upload waits long for it.
                let read = file.read(&mut piece)?;
                piece.truncate(read);
                bar.inc(read as u64);
                Ok((read > 0).then(|| (Bytes::from(piece), file)))
            }
        });
        let whole = stream::iter([Ok(Bytes::from(self.head))])
            .chain(content)
            .chain(stream::iter([Ok(Bytes::from(self.tail))]));
        StreamBody::new(whole.map(|piece| piece.map(Frame::data)))
    }
}

fn request(upload: &Upload, form: &Form) -> Result<Request<()>, UploadError> {
    let address = || UploadError::Address(upload.to.clone());
    let authority = upload.to.authority().ok_or_else(address)?;
    let base = upload.to.path().trim_end_matches('/').trim_end_matches(FILES);
    let mut uri = format!("{}://{authority}{base}{FILES}?reply=default", scheme(&upload.to)?);
    if let Some(dir) = &upload.dir {
        uri.push_str(&format!("&dir={}", utf8_percent_encode(dir, NON_ALPHANUMERIC)));
    }
    let mut request = Request::post(uri)
        .header(HOST, authority.as_str())
        .header(CONTENT_TYPE, format!("multipart/form-data; boundary={}", form.boundary))
        .header(CONTENT_LENGTH, form.len())
        .body(())
        .map_err(|_| address())?;
    if let Some(key) = &upload.key {
        let mut value =
            HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| UploadError::Key)?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

fn scheme(uri: &Uri) -> Result<&str, UploadError> {
    match uri.scheme_str() {
        Some(scheme @ ("http" | "https")) => Ok(scheme),
        _ => Err(UploadError::Address(uri.clone())),
    }
}

async fn exchange<B>(
    uri: &Uri,
    request: Request<B>,
    moved: &Cell<Instant>,
) -> Result<(u16, Bytes), UploadError>
where
    B: hyper::body::Body<Data = Bytes, Error = io::Error> + 'static,
{
    let is_tls = scheme(uri)? == "https";
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let unreachable =
        |cause: String| UploadError::Unreachable { host: format!("{host}:{port}"), cause };
    let connecting = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>(stream)
    };
    let late = || unreachable(format!("no answer within {CONNECT:?}"));
    let stream = timeout(CONNECT, connecting).await.map_err(|_| late())?;
    let stream = stream.map_err(|cause| unreachable(cause.to_string()))?;
    if !is_tls {
        return talk(stream, request, moved).await;
    }
    let name =
        ServerName::try_from(host.clone()).map_err(|cause| unreachable(cause.to_string()))?;
    let secured = TlsConnector::from(tls::client()?).connect(name, stream);
    let secured = timeout(CONNECT, secured).await.map_err(|_| late())?;
    talk(secured.map_err(|cause| unreachable(cause.to_string()))?, request, moved).await
}

async fn talk<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<B>,
    moved: &Cell<Instant>,
) -> Result<(u16, Bytes), UploadError>
where
    B: hyper::body::Body<Data = Bytes, Error = io::Error> + 'static,
{
    let broken = |error: hyper::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        UploadError::Broken(format!("{error}{}", cause.unwrap_or_default()))
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // How it ends is told by the exchange.
    let connection = actix_web::rt::spawn(async move { drop(connection.await) });
    let exchange = pin!(async {
        let response: Response<Incoming> = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), REPLY_LIMIT).collect().await;
        let body = body.map_err(|error| UploadError::Broken(error.to_string()))?;
        Ok((status, body.to_bytes()))
    });
    let stalled = pin!(async {
        while moved.get().elapsed() < SILENCE {
            sleep(SILENCE - moved.get().elapsed()).await;
        }
    });
    let answer = match select(exchange, stalled).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => Err(UploadError::Silence),
    };
    // A reply may come before the form is sent: then the rest is not sent any more.
    connection.abort();
    answer
}

/// What the gateway's answer says of the file.
fn verdict((status, body): (u16, Bytes), host: &str) -> Result<Value, UploadError> {
    let no_gateway = || UploadError::NoGateway { status, host: host.to_owned() };
    let mut answer: Value = serde_json::from_slice(&body).map_err(|_| no_gateway())?;
    if status == 201 && answer["files"][0]["file_id"].is_string() {
        return Ok(answer["files"][0].take());
    }
    let text = |name: &str| answer[name].as_str().map(ToOwned::to_owned);
    Err(UploadError::Refused {
        code: text("code").ok_or_else(no_gateway)?,
        detail: text("detail").ok_or_else(no_gateway)?,
        request_id: text("request_id").unwrap_or_default(),
    })
}
