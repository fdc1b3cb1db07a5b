//! Strict local versions of WeChat's storage API and of Tencent COS, each on its own socket. Imports nothing from the
//! gateway, so that a mistake in the gateway's parsing or verification is not repeated here.
//!
//! - `server`: accepts connections; `conn`, `http`: read requests and send responses
//! - `wechat`, `wechat_cos`, `errcode`: WeChat's calls, with `token` (access tokens) and `link` (upload and download
//!   links)
//! - `cos`: the operations of COS: `post_object` (with `form`, `part_head`, `fields`, `sign`), `get_object`
//!   (with `picture`, `picture_geometry`), `cos_response`, `upload_clock`; `cos_api`: the operations of its API, with `keys`
//! - `store`: the objects; `multipart`: the unfinished multipart uploads; `crc64`; `record`: what has happened; `state`:
//!   everything that the two sides share
//! - `fault`: faults on demand; `control`: the control calls

mod conn;
mod control;
mod cos;
mod cos_api;
mod cos_response;
mod crc64;
mod errcode;
mod fault;
mod fields;
mod form;
mod get_object;
mod http;
mod keys;
mod link;
mod multipart;
mod part_head;
mod picture;
mod picture_geometry;
mod post_object;
mod record;
mod server;
mod sign;
mod state;
mod store;
mod token;
mod upload_clock;
mod wechat;
mod wechat_cos;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, oneshot};

use server::Side;

pub struct Options {
    /// The folder of the objects, which stay there when the sandbox stops.
    pub data: PathBuf,
    /// Port 0: any free port. The same holds for `cos`.
    pub wechat: SocketAddr,
    pub cos: SocketAddr,
    pub env: String,
    pub bucket: String,
    pub appid: String,
    pub secret: String,
    /// The third-party platform that `appid` has authorized; its refresh token is `refresh_token`.
    pub component_appid: String,
    pub refresh_token: String,
    /// The token of WeChat cloud hosting; `component_token` is the third-party platform's. `None`: no token is valid.
    pub cloudbase_token: Option<String>,
    pub component_token: Option<String>,
    /// Calls need no token, as behind the open interface service.
    pub open: bool,
    pub token_life: Duration,
    pub token_overlap: Duration,
    pub link_life: Duration,
    pub wechat_tls: Option<Arc<rustls::ServerConfig>>,
    pub cos_tls: Option<Arc<rustls::ServerConfig>>,
    /// The host name in upload and download links, instead of the COS socket's IP address; the port stays the same.
    pub cos_host: Option<String>,
    /// The longest time from the head of an upload to the last byte of its body; `None`: no limit.
    pub upload_limit: Option<Duration>,
    /// Whether the response to a form has `x-cos-hash-crc64ecma`, which the documentation (14690) does not promise.
    pub post_crc: bool,
    /// The owner's keys for the API of COS, which sign upload links as well. `None`: derived from `secret`.
    pub secret_id: Option<String>,
    pub secret_key: Option<String>,
    /// The life of the keys of `/_/cos/getauth`, in whole seconds.
    pub temporary_key_life: Duration,
    /// Stores lengths and checksums only; what is read are zeros. For tests with more bytes than the disk should take.
    pub discard: bool,
}

impl Default for Options {
    fn default() -> Options {
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Options {
            data: std::env::temp_dir().join("tcb-upload-gateway-sandbox"),
            wechat: loopback,
            cos: loopback,
            env: "sandbox-1a2b3c".to_owned(),
            bucket: "7361-sandbox-1a2b3c-1250000000".to_owned(),
            appid: "wx0000000000sandbox".to_owned(),
            // Valid only in the sandbox.
            secret: "00000000000000000000000000sandbox".to_owned(),
            component_appid: "wx0000000platform".to_owned(),
            refresh_token: "refreshtoken@@@of-the-sandbox".to_owned(),
            cloudbase_token: None,
            component_token: None,
            open: false,
            token_life: Duration::from_secs(7200),
            token_overlap: Duration::from_secs(300),
            link_life: Duration::from_secs(900),
            wechat_tls: None,
            cos_tls: None,
            cos_host: None,
            upload_limit: None,
            post_crc: true,
            secret_id: None,
            secret_key: None,
            temporary_key_life: Duration::from_secs(30 * 60),
            discard: false,
        }
    }
}

/// A running sandbox. Dropping it stops its thread and closes its connections.
pub struct Sandbox {
    wechat: SocketAddr,
    cos: SocketAddr,
    wechat_scheme: &'static str,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts a thread that serves both sockets. When this returns, they are bound and the folder is read.
    pub fn start(options: Options) -> io::Result<Sandbox> {
        let wechat_scheme = scheme(options.wechat_tls.is_some());
        let (stop, stopped) = oneshot::channel();
        let (ready, bound) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || run(options, &ready, stopped))?;
        let (wechat, cos) =
            bound.recv().map_err(|_| io::Error::other("the sandbox's thread ended"))??;
        Ok(Sandbox { wechat, cos, wechat_scheme, stop: Some(stop), thread: Some(thread) })
    }

    pub fn wechat_addr(&self) -> SocketAddr {
        self.wechat
    }

    pub fn cos_addr(&self) -> SocketAddr {
        self.cos
    }

    /// The value for the gateway's `wechat.base_url`.
    pub fn wechat_url(&self) -> String {
        format!("{}://{}", self.wechat_scheme, self.wechat)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Bound = io::Result<(SocketAddr, SocketAddr)>;

fn run(options: Options, ready: &mpsc::Sender<Bound>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        match open(options) {
            Ok(addresses) => {
                let _ = ready.send(Ok(addresses));
                let _ = stopped.await;
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    });
}

fn open(options: Options) -> Bound {
    let store = store::Store::open(&options.data, options.discard)?;
    let multipart = multipart::MultipartStore::open(&options.data, options.discard)?;
    let wechat = bind(options.wechat)?;
    let cos = bind(options.cos)?;
    let addresses = (wechat.local_addr()?, cos.local_addr()?);
    let host = match &options.cos_host {
        Some(name) => format!("{name}:{}", addresses.1.port()),
        None => addresses.1.to_string(),
    };
    let base = format!("{}://{host}", scheme(options.cos_tls.is_some()));
    let mut tokens = token::Tokens::new(options.token_life, options.token_overlap);
    tokens.cloudbase = options.cloudbase_token;
    tokens.component = options.component_token;
    tokens.refresh = Some(options.refresh_token);
    tokens.open = options.open;
    let (env, bucket, secret) = (&options.env, &options.bucket, &options.secret);
    let links = link::Links::new(base, env, bucket, options.link_life, secret)
        .with_keys(options.secret_id, options.secret_key);
    let sandbox = Rc::new(state::SandboxState {
        keys: RefCell::new(keys::Keys::new(links.keys(), options.temporary_key_life)),
        links,
        env: options.env,
        bucket: options.bucket,
        appid: options.appid,
        secret: options.secret,
        component_appid: options.component_appid,
        upload_limit: options.upload_limit,
        post_crc: options.post_crc,
        tokens: RefCell::new(tokens),
        store: RefCell::new(store),
        multipart: RefCell::new(multipart),
        faults: RefCell::default(),
        record: Rc::default(),
        drop_idle_wechat: Notify::new(),
        drop_idle_cos: Notify::new(),
        faults_cleared: Notify::new(),
    });
    tokio::task::spawn_local(server::serve(
        sandbox.clone(),
        Side::WeChat,
        wechat,
        options.wechat_tls,
    ));
    tokio::task::spawn_local(server::serve(sandbox, Side::Cos, cos, options.cos_tls));
    Ok(addresses)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    // Every accepted connection inherits it: the kernel must not buffer megabytes while reading is slow or stopped.
    socket.set_recv_buffer_size(256 * 1024)?;
    socket.bind(address)?;
    socket.listen(1024)
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}
