//! `upload`: uploads files to a running gateway as any other client does; for scripts, and for testing a deployment.
//!
//! Standard output is for programs (one line per stored file); everything else goes to standard error.

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

/// The endpoint's path after the gateway's base URL.
const FILES: &str = "/v1/files";
/// Concurrent uploads; about as many as in a browser.
const CONCURRENCY: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time without progress. The gateway itself waits no longer than this for COS.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// In bytes.
const CHUNK_SIZE: usize = 64 * 1024;
/// In bytes.
const MAX_RESPONSE: usize = 1024 * 1024;

#[derive(Debug, Args)]
pub struct UploadArgs {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The gateway's URL
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", env = "GATEWAY_URL")]
    to: Uri,
    /// A folder for the stored files
    #[arg(long)]
    dir: Option<String>,
    /// The API key or ticket; the environment variable is safer, since other users can see the list of processes
    #[arg(long, env = "GATEWAY_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print each stored file as a line of JSON (file_id, path, url, crc64, ...) instead of its URL
    #[arg(long)]
    json: bool,
}

/// Why a file was not stored.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("{0}")]
    File(#[from] io::Error),
    #[error("{0} is not a gateway's URL: it must begin with http:// or https://")]
    Url(Uri),
    #[error("the key contains characters that are not allowed in a header")]
    Key,
    #[error("TLS: {0}")]
    Tls(#[from] tls::TlsError),
    #[error("cannot reach {host}: {cause}")]
    Unreachable { host: String, cause: String },
    #[error("the connection to the gateway broke: {0}")]
    Broken(String),
    #[error("no data was transferred for {STALL_TIMEOUT:?}")]
    Stalled,
    #[error("{code}: {detail} (request {request_id})")]
    Refused { code: String, detail: String, request_id: String },
    #[error("{status} from {host}, which does not respond like a gateway")]
    NotAGateway { status: u16, host: String },
}

/// Uploads the files and prints a summary; the exit code is 0 if every file was stored, otherwise 1.
pub fn run(args: &UploadArgs) -> ExitCode {
    let started = Instant::now();
    let bars = MultiProgress::new();
    let results = actix_web::rt::System::new().block_on(async {
        let files = args.files.iter().map(|file| upload(args, file, &bars));
        let mut uploads = stream::iter(files).buffered(CONCURRENCY);
        let mut results = Vec::new();
        while let Some(result) = uploads.next().await {
            bars.suspend(|| print(args, &args.files[results.len()], &result));
            results.push(result);
        }
        results
    });
    let stored: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    let bytes: u64 = stored.iter().filter_map(|file| file["size"].as_u64()).sum();
    let seconds = started.elapsed().as_secs_f64();
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

fn print(args: &UploadArgs, file: &Path, result: &Result<Value, UploadError>) {
    match result {
        Ok(stored) if args.json => println!("{stored}"),
        Ok(stored) => println!("{}", stored["url"].as_str().unwrap_or_default()),
        Err(error) => eprintln!("{}: {error}", file.display()),
    }
}

/// Uploads one file; returns its entry in the gateway's response.
async fn upload(
    args: &UploadArgs,
    path: &Path,
    bars: &MultiProgress,
) -> Result<Value, UploadError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file").into());
    }
    let bar = bars.add(bar(metadata.len(), &name));
    let form = Form::new(&name, metadata.len());
    let request = request(args, &form)?;
    let uri = request.uri().to_owned();
    let last_progress = Rc::new(Cell::new(Instant::now()));
    let body = form.body(file, bar.clone(), last_progress.clone());
    let response = connect_and_send(&uri, request.map(|()| body), &last_progress).await;
    bar.finish_and_clear();
    stored_file(response?, uri.authority().map_or("", |authority| authority.as_str()))
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
        // Escaped as in browsers (HTML, multipart/form-data encoding algorithm).
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

    /// The request announces the file's length, so only that much of a file that grows during the upload is sent, and
    /// one that shrinks fails the upload.
    fn body(
        self,
        file: File,
        bar: ProgressBar,
        last_progress: Rc<Cell<Instant>>,
    ) -> impl hyper::body::Body<Data = Bytes, Error = io::Error> + 'static {
        let content = stream::try_unfold(file.take(self.size), move |mut file| {
            let (bar, last_progress) = (bar.clone(), last_progress.clone());
            async move {
                last_progress.set(Instant::now());
                let mut chunk = vec![0; CHUNK_SIZE];
                // Blocking: reads of local files are fast enough not to delay the other uploads.
                let read = file.read(&mut chunk)?;
                chunk.truncate(read);
                bar.inc(read as u64);
                Ok((read > 0).then(|| (Bytes::from(chunk), file)))
            }
        });
        let chunks = stream::iter([Ok(Bytes::from(self.head))])
            .chain(content)
            .chain(stream::iter([Ok(Bytes::from(self.tail))]));
        StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data)))
    }
}

fn request(args: &UploadArgs, form: &Form) -> Result<Request<()>, UploadError> {
    let invalid_url = || UploadError::Url(args.to.clone());
    let authority = args.to.authority().ok_or_else(invalid_url)?;
    let base = args.to.path().trim_end_matches('/').trim_end_matches(FILES);
    let mut uri = format!("{}://{authority}{base}{FILES}?reply=default", scheme(&args.to)?);
    if let Some(dir) = &args.dir {
        uri.push_str(&format!("&dir={}", utf8_percent_encode(dir, NON_ALPHANUMERIC)));
    }
    let mut request = Request::post(uri)
        .header(HOST, authority.as_str())
        .header(CONTENT_TYPE, format!("multipart/form-data; boundary={}", form.boundary))
        .header(CONTENT_LENGTH, form.len())
        .body(())
        .map_err(|_| invalid_url())?;
    if let Some(key) = &args.key {
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
        _ => Err(UploadError::Url(uri.clone())),
    }
}

/// Connects to the gateway and sends the request; returns the status and body of the response.
async fn connect_and_send<B>(
    uri: &Uri,
    request: Request<B>,
    last_progress: &Cell<Instant>,
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
    let timed_out = || unreachable(format!("no response within {CONNECT_TIMEOUT:?}"));
    let stream = timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| timed_out())?;
    let stream = stream.map_err(|cause| unreachable(cause.to_string()))?;
    if !is_tls {
        return send(stream, request, last_progress).await;
    }
    let name =
        ServerName::try_from(host.clone()).map_err(|cause| unreachable(cause.to_string()))?;
    let handshake = TlsConnector::from(tls::client()?).connect(name, stream);
    let stream = timeout(CONNECT_TIMEOUT, handshake).await.map_err(|_| timed_out())?;
    let stream = stream.map_err(|cause| unreachable(cause.to_string()))?;
    send(stream, request, last_progress).await
}

async fn send<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<B>,
    last_progress: &Cell<Instant>,
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
    // An error of the connection is also an error of the request.
    let connection = actix_web::rt::spawn(async move { drop(connection.await) });
    let exchange = pin!(async {
        let response: Response<Incoming> = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        let body = body.map_err(|error| UploadError::Broken(error.to_string()))?;
        Ok((status, body.to_bytes()))
    });
    let stalled = pin!(async {
        while last_progress.get().elapsed() < STALL_TIMEOUT {
            sleep(STALL_TIMEOUT - last_progress.get().elapsed()).await;
        }
    });
    let response = match select(exchange, stalled).await {
        Either::Left((response, _)) => response,
        Either::Right(_) => Err(UploadError::Stalled),
    };
    // The response may arrive before the whole form is sent; the rest is then not sent.
    connection.abort();
    response
}

/// The file's entry in the gateway's response.
fn stored_file((status, body): (u16, Bytes), host: &str) -> Result<Value, UploadError> {
    let not_a_gateway = || UploadError::NotAGateway { status, host: host.to_owned() };
    let mut response: Value = serde_json::from_slice(&body).map_err(|_| not_a_gateway())?;
    if status == 201 && response["files"][0]["file_id"].is_string() {
        return Ok(response["files"][0].take());
    }
    let text = |name: &str| response[name].as_str().map(ToOwned::to_owned);
    Err(UploadError::Refused {
        code: text("code").ok_or_else(not_a_gateway)?,
        detail: text("detail").ok_or_else(not_a_gateway)?,
        request_id: text("request_id").unwrap_or_default(),
    })
}
