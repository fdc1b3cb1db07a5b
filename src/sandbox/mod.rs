//! Strict stand-ins for WeChat's storage API and Tencent COS on sockets of their own. Imports nothing of the gateway:
//! what it reads and verifies is its own work, so that no mistake can be made on both sides.
//!
//! `server` takes connections, `conn` and `http` read requests; `wechat` (with `token`, `link`) issues links, `cos` and
//! `post_object` (with `form`, `fields`, `sign`) take what is sent to them, `store` keeps it. `fault` makes any of
//! them fail on demand, `control` tells what has happened.

mod conn;
mod control;
mod cos;
mod cos_reply;
mod fault;
mod fields;
mod form;
mod get_object;
mod http;
mod link;
mod post_object;
mod record;
mod server;
mod sign;
mod store;
mod token;
mod wechat;
mod world;

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
    /// Where objects lie. They outlive the sandbox.
    pub data: PathBuf,
    /// Port 0 picks one.
    pub wechat: SocketAddr,
    pub cos: SocketAddr,
    pub env: String,
    pub bucket: String,
    pub appid: String,
    pub secret: String,
    /// The third-party platform that `appid` has authorized, and what it authorized it with.
    pub component_appid: String,
    pub refresh_token: String,
    /// The platforms' own tokens: of WeChat cloud hosting, and of the third-party platform. `None`: there is none.
    pub cloudbase_token: Option<String>,
    pub component_token: Option<String>,
    /// Calls need no token, as behind the open interface service.
    pub open: bool,
    pub token_life: Duration,
    pub token_overlap: Duration,
    pub link_life: Duration,
    pub wechat_tls: Option<Arc<rustls::ServerConfig>>,
    pub cos_tls: Option<Arc<rustls::ServerConfig>>,
    /// Host name put in upload and download links instead of the COS socket's address; the port stays.
    pub cos_host: Option<String>,
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
            // Opens nothing but this sandbox.
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
    /// Both sockets are bound and the folder is read when this returns; the serving happens on a thread of its own.
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

    /// What the gateway's `wechat.base_url` is set to.
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
    let store = store::Store::open(&options.data)?;
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
    let world = Rc::new(world::World {
        links: link::Links::new(
            base,
            &options.env,
            &options.bucket,
            options.link_life,
            &options.secret,
        ),
        env: options.env,
        bucket: options.bucket,
        appid: options.appid,
        secret: options.secret,
        component_appid: options.component_appid,
        tokens: RefCell::new(tokens),
        store: RefCell::new(store),
        faults: RefCell::default(),
        record: Rc::default(),
        drop_idle_wechat: Notify::new(),
        drop_idle_cos: Notify::new(),
        faults_lifted: Notify::new(),
    });
    tokio::task::spawn_local(server::serve(
        world.clone(),
        Side::WeChat,
        wechat,
        options.wechat_tls,
    ));
    tokio::task::spawn_local(server::serve(world, Side::Cos, cos, options.cos_tls));
    Ok(addresses)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    // Inherited by every connection: the kernel must not swallow megabytes for a reader that is slow or has stopped.
    socket.set_recv_buffer_size(256 * 1024)?;
    socket.bind(address)?;
    socket.listen(1024)
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}
