//! Builds the gateway from its settings: binds the port first, then connects every stage, and serves later.

mod cos_api;
mod error;
mod file_stamps;
mod metrics;
mod reload;
mod sandbox;
mod snapshot;
mod spool;
mod state;
mod sweep;
mod traces;
mod upstreams;
mod warm_links;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_server::ServerBuilder;
use actix_web::App as Actix;
use actix_web::dev::{Server, Service};
use actix_web::middleware::from_fn;
use futures::future::{Either, ready};
use tokio::net::TcpSocket;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::guard::auth::Guard;
use crate::hooks::delivery::Delivery;
use crate::http::middleware::{origin, request};
use crate::http::{problem, routes};
use crate::metrics::Metrics;
use crate::metrics::routes::OTHER;
use crate::net::redis::RedisServer;
use crate::server::connection_limit::{SPARE, WorkerLimits};
use crate::server::fd_limit;
use crate::server::listener::{self, ConnectionLimits};
use crate::server::load_shed_log::LoadShedLog;
use crate::settings::{Settings, Source};
use crate::shutdown::{self, ShutdownTimeouts, Signals, Stages};

pub use error::AppError;
pub use file_stamps::FileStamps;
use reload::Reloader;
pub(crate) use sandbox::{Sandbox, with_sandbox};
use snapshot::{Snapshot, WorkerSnapshot};
use traces::Export;
pub(crate) use upstreams::Upstreams;

/// Connections waiting to be accepted, over all workers.
const BACKLOG: u32 = 2048;

/// A gateway that is bound and not yet running.
pub struct App {
    address: SocketAddr,
    server: Server,
    /// A duplicate of the server's.
    listener: TcpListener,
    stages: Stages,
    timeouts: ShutdownTimeouts,
    signals: Signals,
    /// Asks for a reload of the settings. By default it would end the process: a closing terminal sends it.
    hangup: Signal,
    reloader: Reloader,
    delivery: Option<Rc<Delivery>>,
    export: Export,
    /// The sandbox runs until it is dropped.
    _sandbox: Option<Sandbox>,
}

impl App {
    /// Binds and builds everything; connections are accepted once it runs. Needs a running actix system. `settings` were
    /// loaded from `source`, which is read again on SIGHUP and when a file differs from `applied`: from its stamp before
    /// it was read.
    pub fn build(
        settings: Settings,
        source: Source,
        mut applied: FileStamps,
    ) -> Result<Self, AppError> {
        let loaded = settings.clone();
        applied.set_files(source.file.iter().cloned().chain(loaded.files()));
        let (settings, sandbox) = with_sandbox(settings)?;
        problem::set_errors_url(&settings.server.errors_url);
        let (listener, address) = listen(settings.server.bind)?;
        let metrics = settings.metrics.bind.map(listen).transpose()?.map(|(listener, _)| listener);
        let scheme = if settings.server.tls.is_some() { "https" } else { "http" };
        let (delay, grace) = (settings.server.shutdown_delay, settings.server.shutdown_grace);
        let stages = Stages::default();
        let (signals, hangup) = (Signals::listen()?, signal(SignalKind::hangup())?);
        let upstreams = Upstreams::new(&settings, &stages.requests)?;
        let delivery = upstreams.hooks().map(|hooks| Rc::new(Delivery::start(hooks)));
        let tls = settings.server.tls.as_ref().map(crate::net::tls::server).transpose()?;
        let tls = tls.map(watch::Sender::new);
        let uploads = spool::open(&settings)?;
        let state = state::new(settings, &upstreams, uploads, &stages)?;
        let export = Export::start(&state.settings, &upstreams, state.tracer.as_ref())?;
        let snapshots = watch::Sender::new(Snapshot { shared: Arc::new(state), upstreams });
        let duplicate = listener.try_clone()?;
        let server =
            serve(&snapshots, listener, metrics, tls.as_ref().map(watch::Sender::subscribe))?;
        let reloader = Reloader {
            source,
            started: loaded.clone(),
            loaded,
            applied,
            snapshots,
            tls,
            delivery: delivery.clone(),
        };
        tracing::info!("listening on {scheme}://{address}");
        let timeouts = ShutdownTimeouts { delay, grace };
        Ok(Self {
            address,
            server,
            listener: duplicate,
            stages,
            timeouts,
            signals,
            hangup,
            reloader,
            delivery,
            export,
            _sandbox: sandbox,
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until a signal; running requests then have `server.shutdown_grace` to finish.
    pub async fn run_until_stopped(self) -> Result<(), AppError> {
        let Self { server, listener, stages, timeouts, signals, delivery, export, .. } = self;
        let _sandbox = self._sandbox;
        actix_web::rt::spawn(self.reloader.run(self.hangup));
        let last = async {
            let hooks = async {
                if let Some(delivery) = &delivery {
                    delivery.finish().await;
                }
            };
            tokio::join!(hooks, export.finish());
        };
        let ended = shutdown::serve(server, listener, &stages, timeouts, signals, last).await;
        if let Some(delivery) = &delivery {
            delivery.log_undelivered();
        }
        ended?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Reads the files that `settings` name, as [`App::build`] does.
pub fn check(settings: &Settings) -> Result<(), AppError> {
    Guard::new(settings, None)?;
    settings.server.tls.as_ref().map(crate::net::tls::server).transpose()?;
    RedisServer::new(&settings.redis)?;
    Ok(())
}

/// Checks that the gateway on the address of `settings` answers `/healthz`; with TLS, that it accepts connections.
pub fn probe(settings: &Settings) -> io::Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let mut address = settings.server.bind;
    if address.ip().is_unspecified() {
        let local =
            if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(local);
    }
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    if settings.server.tls.is_some() {
        return Ok(());
    }
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if status == *b"HTTP/1.1 200" {
        Ok(())
    } else {
        Err(io::Error::other("/healthz did not answer 200"))
    }
}

/// Listens, and says on which address.
fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), AppError> {
    let listening = bind(address).and_then(|listener| {
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    });
    listening.map_err(|cause| AppError::Bind { address, cause })
}

/// A listener with a queue of [`BACKLOG`]: the standard library's is 128, and the connections of a larger burst are reset.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Otherwise a restarted gateway finds its port taken.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

fn serve(
    snapshots: &watch::Sender<Snapshot>,
    listener: TcpListener,
    metrics_listener: Option<TcpListener>,
    server_tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
) -> Result<Server, AppError> {
    let Snapshot { shared, upstreams } = snapshots.borrow().clone();
    let settings = &shared.settings;
    let (workers, grace) = (settings.server.workers, settings.server.shutdown_grace);
    let connection_limits = connection_limits(settings, &shared.metrics);
    let spool_limit = shared.uploads.folder().map_or(0, |_| settings.resumable.spool_limit);
    shared.metrics.limits(settings.upload.memory_budget as u64, spool_limit);

    if let Some(listener) = metrics_listener {
        metrics::serve(listener, shared.clone())?;
    }
    sweep::start(&upstreams, shared.clone());
    warm_links::start(&upstreams, &shared);
    upstreams.start_jwks(None);
    spool::start(shared.uploads.clone(), shared.shutdown.clone());
    actix_web::rt::spawn(shared.quotas.clone().maintain());

    let newest = snapshots.subscribe();
    let app = move || {
        let snapshot = WorkerSnapshot::new(newest.clone());
        let (cors, worker) = (snapshot.clone(), snapshot.worker());
        let shared = &worker.shared;
        Actix::new()
            // Of requests that no route has.
            .app_data(shared.metrics.route(OTHER, ""))
            .configure(|config| drop(routes::add_all(config, &shared.settings, &shared.metrics)))
            .wrap_fn(|mut request, service| {
                routes::trim_slash(&mut request);
                match origin::check(&request) {
                    Ok(()) => Either::Left(service.call(request)),
                    Err(problem) => Either::Right(ready(Ok(request.error_response(problem)))),
                }
            })
            .wrap(routes::cors(move |origin| cors.lists_origin(origin)))
            .wrap(from_fn(request::track))
            .wrap_fn(move |mut request, service| {
                snapshot.attach(&mut request);
                service.call(request)
            })
    };
    let server = ServerBuilder::default()
        .workers(workers)
        .disable_signals()
        // Not before the gateway's own deadline.
        .shutdown_timeout(grace.as_secs().saturating_add(60));
    Ok(listener::serve(server, listener, server_tls, connection_limits, app)?)
}

/// As many connections as the settings and the limit of file descriptors allow, and as many requests as the descriptors
/// left over suffice for: where both would use up all, each has half of them, and requests always have a quarter.
fn connection_limits(settings: &Settings, metrics: &Arc<Metrics>) -> ConnectionLimits {
    let (workers, uploads) = (settings.server.workers, settings.upload.max_concurrent);
    // To WeChat and COS; with the sandbox the other ends of both, too.
    let per_request = if settings.sandbox.enabled { 4 } else { 2 };
    let limit = fd_limit::raise_nofile_limit().unwrap_or(usize::MAX);
    let free = limit.saturating_sub(fd_limit::RESERVE + workers * SPARE);
    let for_uploads = uploads.saturating_mul(per_request).clamp(free / 4, free / 2);
    let connections = settings.server.max_connections.min(free - for_uploads);
    let requests = (free - connections) / per_request;
    if requests < uploads.min(connections) {
        tracing::warn!(
            "the limit of {limit} file descriptors suffices for {requests} uploads at once, fewer than \
             upload.max_concurrent"
        );
    }
    let per_worker = |all: usize| (all / workers).max(1);
    let limits = WorkerLimits {
        connections: per_worker(connections),
        requests: per_worker(requests),
        write_timeout: settings.server.write_timeout,
    };
    ConnectionLimits { per_worker: limits, load_shed_log: LoadShedLog::new(metrics.clone()) }
}
