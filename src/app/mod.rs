//! Builds the gateway from its settings: binds the port first, then connects every stage, and serves later.

mod cos_api;
mod error;
mod sandbox;
mod spool;
mod sweep;
mod upstreams;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use actix_server::ServerBuilder;
use actix_web::dev::{Server, Service};
use actix_web::middleware::from_fn;
use actix_web::{App as Actix, web};
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cos::target::AllowedHosts;
use crate::guard::auth::Guard;
use crate::guard::forwarded::TrustedProxies;
use crate::guard::idempotency::Idempotency;
use crate::guard::limits::Limits;
use crate::guard::links::LinkPolicy;
use crate::guard::origin::Origins;
use crate::guard::receipts::ReceiptSigner;
use crate::hooks::delivery::Delivery;
use crate::http::extract::json;
use crate::http::middleware::{origin, request};
use crate::http::resumable::sealed_url::SealingKeys;
use crate::http::state::{AppState, Worker};
use crate::http::{problem, routes};
use crate::key::Template;
use crate::memory::budget::Budget;
use crate::metrics::Metrics;
use crate::quota::quotas::Quotas;
use crate::server::connection_limit::{SPARE, WorkerLimits};
use crate::server::fd_limit;
use crate::server::listener::{self, ConnectionLimits};
use crate::server::load_shed_log::LoadShedLog;
use crate::settings::Settings;
use crate::shutdown::{self, ShutdownTimeouts, Signals};

pub use error::AppError;
pub(crate) use sandbox::{Sandbox, with_sandbox};
pub(crate) use upstreams::Upstreams;

/// Connections waiting to be accepted, over all workers.
const BACKLOG: u32 = 2048;

/// A gateway that is bound and not yet running.
pub struct App {
    address: SocketAddr,
    server: Server,
    requests: TaskTracker,
    shutdown: CancellationToken,
    timeouts: ShutdownTimeouts,
    signals: Signals,
    delivery: Option<Delivery>,
    /// The sandbox runs until it is dropped.
    _sandbox: Option<Sandbox>,
}

impl App {
    /// Binds and builds everything; connections are accepted once it runs. Needs a running actix system.
    pub fn build(settings: Settings) -> Result<Self, AppError> {
        let (settings, sandbox) = with_sandbox(settings)?;
        problem::set_errors_url(&settings.server.errors_url);
        let bind = |cause| AppError::Bind { address: settings.server.bind, cause };
        let listener = listen(settings.server.bind).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let scheme = if settings.server.tls.is_some() { "https" } else { "http" };
        let (delay, grace) = (settings.server.shutdown_delay, settings.server.shutdown_grace);
        let (requests, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let signals = Signals::listen()?;
        let upstreams = Upstreams::new(&settings)?;
        let delivery = upstreams.hooks().map(Delivery::start);
        let server = serve(settings, upstreams, listener, requests.clone(), shutdown.clone())?;
        tracing::info!("listening on {scheme}://{address}");
        let timeouts = ShutdownTimeouts { delay, grace };
        Ok(Self {
            address,
            server,
            requests,
            shutdown,
            timeouts,
            signals,
            delivery,
            _sandbox: sandbox,
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until a signal; running requests then have `server.shutdown_grace` to finish.
    pub async fn run_until_stopped(self) -> Result<(), AppError> {
        let Self { server, requests, shutdown, timeouts, signals, delivery, _sandbox, .. } = self;
        let hooks = async {
            if let Some(delivery) = &delivery {
                delivery.finish().await;
            }
        };
        let ended = shutdown::serve(server, &requests, &shutdown, timeouts, signals, hooks).await;
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
    Guard::new(settings)?;
    settings.server.tls.as_ref().map(crate::net::tls::server).transpose()?;
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

/// Listens with a queue of [`BACKLOG`]: the standard library's is 128, and the connections of a larger burst are reset.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Otherwise a restarted gateway finds its port taken.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

fn serve(
    settings: Settings,
    upstreams: Upstreams,
    listener: TcpListener,
    requests: TaskTracker,
    shutdown: CancellationToken,
) -> Result<Server, AppError> {
    let server_tls = settings.server.tls.as_ref().map(crate::net::tls::server).transpose()?;
    let (workers, grace) = (settings.server.workers, settings.server.shutdown_grace);
    let connection_limits = connection_limits(&settings, &upstreams.metrics);
    let budget = Budget::new(settings.upload.memory_budget as u64);
    let uploads = spool::open(&settings)?;
    let quotas = Arc::new(Quotas::new(&settings, upstreams.metrics.clone(), requests.clone())?);
    let shared = Arc::new(AppState {
        guard: Guard::new(&settings)?,
        origins: Origins::new(&settings.cors.origins, settings.server.public_url.as_deref()),
        allowed_hosts: AllowedHosts::new(&settings.cos.allowed_hosts, settings.cos.allow_http),
        template: Template::new(&settings.upload.path_template),
        limits: Limits::new(&settings, budget.clone()),
        budget,
        quotas: quotas.clone(),
        json_budget: Budget::new(json::TOTAL_LIMIT),
        links: LinkPolicy::new(&settings.links),
        receipts: settings.receipts.key.as_ref().map(ReceiptSigner::new),
        proxies: TrustedProxies::new(&settings.server.trusted_proxies),
        idempotency: Idempotency::new(&settings),
        sealing_keys: SealingKeys::new(&settings.resumable.keys),
        upload_sessions: Arc::default(),
        uploads: uploads.clone(),
        requests,
        shutdown,
        metrics: upstreams.metrics.clone(),
        wechat: upstreams.wechat.clone(),
        settings,
    });

    sweep::start(&upstreams, shared.clone());
    spool::start(uploads, shared.shutdown.clone());
    actix_web::rt::spawn(quotas.maintain());

    let app = move || {
        let worker = Worker {
            shared: shared.clone(),
            wechat: upstreams.wechat(&shared.settings),
            upstream: upstreams.cos(),
            api: upstreams.api(),
            hooks: upstreams.hooks(),
            auth_server: upstreams.auth_server(),
        };
        Actix::new()
            .app_data(web::Data::new(worker))
            .configure(|config| drop(routes::add_all(config, &shared.settings)))
            .wrap_fn(|mut request, service| {
                routes::trim_slash(&mut request);
                service.call(request)
            })
            .wrap(from_fn(origin::check))
            .wrap(routes::cors(&shared))
            .wrap(from_fn(request::track))
    };
    let server = ServerBuilder::default()
        .workers(workers)
        .disable_signals()
        .shutdown_timeout(grace.as_secs());
    Ok(listener::serve(server, listener, server_tls, connection_limits, app)?)
}

/// As many connections as the settings and the limit of file descriptors allow, and as many requests as the descriptors
/// left over suffice for.
fn connection_limits(settings: &Settings, metrics: &Arc<Metrics>) -> ConnectionLimits {
    let (workers, uploads) = (settings.server.workers, settings.upload.max_concurrent);
    // To WeChat and COS; with the sandbox the other ends of both, too.
    let per_request = if settings.sandbox.enabled { 4 } else { 2 };
    let limit = fd_limit::raise_nofile_limit().unwrap_or(usize::MAX);
    let free = limit.saturating_sub(fd_limit::RESERVE + workers * SPARE);
    let connections = settings.server.max_connections.min(free / 2);
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
