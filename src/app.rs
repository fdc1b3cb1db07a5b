//! Composition: the one place that knows every stage. Binds first, tells the port, runs later.

use std::future::ready;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_cors::Cors;
use actix_server::ServerBuilder;
use actix_web::dev::Server;
use actix_web::http::header::HeaderValue;
use actix_web::middleware::from_fn;
use actix_web::{App as Actix, guard, web};
use tokio::net::TcpSocket;
use tokio_util::task::TaskTracker;

use crate::cos::target::AllowedHosts;
use crate::cos::upstream::{Timeouts, Upstream};
use crate::descriptors;
use crate::guard::auth::Guard;
use crate::guard::forwarded::Proxies;
use crate::guard::idempotency::Idempotency;
use crate::guard::limits::Limits;
use crate::guard::links::Links;
use crate::guard::origin::Origins;
use crate::guard::ticket::KeyFault;
use crate::http::connections::{Room, SPARE, Shedding};
use crate::http::listener::Crowd;
use crate::http::problem::Code;
use crate::http::{
    self, Shared, Worker, console, docs, files, links, ops, tcb, trace, ueditor, upload,
};
use crate::key::Template;
use crate::memory::Budget;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::settings::{Credential as CredentialMode, Settings};
use crate::shutdown::{self, Patience, Signals};
use crate::wechat::access::Access;
use crate::wechat::api::{self, Wechat};
use crate::wechat::credential::{self, Authorizer, Credential, Forced, Grant};
use crate::wechat::direct::Direct;
use crate::wechat::file::TokenFile;
use crate::wechat::replicas::Replicas;
use crate::wechat::token::Tokens;

/// Connections waiting to be accepted, over all workers.
const BACKLOG: u32 = 2048;
/// Calls to WeChat that one worker makes at once.
const WECHAT_CONNECTIONS: usize = 256;

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("cannot listen on {address}: {cause}")]
    Bind { address: SocketAddr, cause: io::Error },
    #[error("{0}")]
    Tickets(#[from] KeyFault),
    #[error("TLS: {0}")]
    Tls(#[from] crate::tls::TlsError),
    #[error("the sandbox: {0}")]
    Sandbox(io::Error),
    #[error("this build has no sandbox; set sandbox.enabled=false and the wechat.* credentials")]
    NoSandbox,
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("redis.url: {0}")]
    Redis(#[from] redis::RedisError),
    #[error("{0}")]
    Run(#[from] io::Error),
}

/// A gateway that is bound and not yet running.
pub struct App {
    address: SocketAddr,
    server: Server,
    requests: TaskTracker,
    patience: Patience,
    signals: Signals,
    /// Runs as long as it is kept.
    _sandbox: Option<Sandbox>,
}

impl App {
    /// Binds and builds everything; connections are accepted once it runs. Needs a running actix system.
    pub fn build(settings: Settings) -> Result<Self, AppError> {
        let (settings, sandbox) = with_sandbox(settings)?;
        let bind = |cause| AppError::Bind { address: settings.server.bind, cause };
        let listener = listen(settings.server.bind).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let scheme = if settings.server.tls.is_some() { "https" } else { "http" };
        let (delay, grace) = (settings.server.shutdown_delay, settings.server.shutdown_grace);
        let (requests, signals) = (TaskTracker::new(), Signals::listen()?);
        let server = serve(settings, listener, requests.clone())?;
        tracing::info!("listening on {scheme}://{address}");
        let patience = Patience { delay, grace };
        Ok(Self { address, server, requests, patience, signals, _sandbox: sandbox })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until a signal; running uploads are given `server.shutdown_grace`.
    pub async fn run_until_stopped(self) -> Result<(), AppError> {
        shutdown::serve(self.server, &self.requests, self.patience, self.signals).await?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Reads the files that `settings` name, as serving would.
pub fn check(settings: &Settings) -> Result<(), AppError> {
    Guard::new(settings)?;
    settings.server.tls.as_ref().map(crate::tls::server).transpose()?;
    Ok(())
}

/// Asks the gateway that listens where `settings` say whether it is alive. With TLS, whether it accepts connections.
pub fn probe(settings: &Settings) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut address = settings.server.bind;
    if address.ip().is_unspecified() {
        let local =
            if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(local);
    }
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    if settings.server.tls.is_some() {
        return Ok(());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if status == *b"HTTP/1.1 200" { Ok(()) } else { Err(io::Error::other("it is not healthy")) }
}

/// The standard library's own way waits for 128 connections at most, and a burst of clients finds itself reset.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart finds its port free.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// The ways to WeChat and COS that the settings describe; each thread has its own connections.
#[derive(Clone)]
pub(crate) struct Upstreams {
    tls: Arc<rustls::ClientConfig>,
    wechat: Arc<api::Shared>,
    timeouts: Timeouts,
    pub metrics: Arc<Metrics>,
}

impl Upstreams {
    pub fn new(settings: &Settings) -> Result<Self, AppError> {
        let tls = crate::tls::client()?;
        let metrics = Arc::new(Metrics::new(Code::ALL.iter().map(|code| code.name()))?);
        let wechat = wechat(settings, &metrics)?;
        let timeouts = Timeouts {
            connect: settings.cos.connect_timeout,
            write: settings.cos.write_timeout,
            reply: settings.cos.reply_timeout,
        };
        Ok(Self { tls, wechat, timeouts, metrics })
    }

    pub fn http(&self, settings: &Settings) -> awc::Client {
        wechat_client(settings, &self.tls)
    }

    pub fn wechat(&self, settings: &Settings) -> Wechat {
        let pool = Pool::new(self.tls.clone(), settings.wechat.connect_timeout);
        Wechat::new(self.http(settings), Direct::new(pool), self.wechat.clone())
    }

    /// How we are let in to WeChat.
    pub fn access(&self) -> &Access {
        self.wechat.access()
    }

    pub fn cos(&self) -> Rc<Upstream> {
        Upstream::new(self.tls.clone(), self.timeouts)
    }
}

fn serve(
    settings: Settings,
    listener: TcpListener,
    requests: TaskTracker,
) -> Result<Server, AppError> {
    let upstreams = Upstreams::new(&settings)?;
    let server_tls = settings.server.tls.as_ref().map(crate::tls::server).transpose()?;
    let (workers, grace) = (settings.server.workers, settings.server.shutdown_grace);
    let crowd = crowd(&settings, &upstreams.metrics);
    let shared = Arc::new(Shared {
        guard: Guard::new(&settings)?,
        origins: Origins::new(&settings.cors.origins, settings.server.public_url.as_deref()),
        allowed_hosts: AllowedHosts::new(&settings.cos.allowed_hosts, settings.cos.allow_http),
        template: Template::new(&settings.upload.path_template),
        budget: Budget::new(settings.upload.memory_budget as u64),
        limits: Limits::new(&settings),
        links: Links::new(&settings.links),
        proxies: Proxies::new(&settings.server.trusted_proxies),
        idempotency: Idempotency::new(&settings),
        requests,
        metrics: upstreams.metrics.clone(),
        wechat: upstreams.wechat.clone(),
        settings,
    });

    let app = move || {
        let worker = Worker {
            shared: shared.clone(),
            wechat: upstreams.wechat(&shared.settings),
            upstream: upstreams.cos(),
        };
        Actix::new()
            .app_data(web::Data::new(worker))
            .configure(|routes| drop(addresses(routes, &shared.settings)))
            .wrap(from_fn(trace::origins))
            .wrap(cors(&shared))
            .wrap(from_fn(trace::requests))
    };
    let server = ServerBuilder::default()
        .workers(workers)
        .disable_signals()
        .shutdown_timeout(grace.as_secs());
    Ok(http::listener::serve(server, listener, server_tls, crowd, app)?)
}

/// As many connections as the settings and the limit of file descriptors allow, and as many requests on them as then
/// find the descriptors they need.
fn crowd(settings: &Settings, metrics: &Arc<Metrics>) -> Crowd {
    let (workers, uploads) = (settings.server.workers, settings.upload.max_concurrent);
    // To WeChat and COS; in the sandbox, their own ends, too.
    let upstream = if settings.sandbox.enabled { 4 } else { 2 };
    let limit = descriptors::raise().unwrap_or(usize::MAX);
    let free = limit.saturating_sub(descriptors::RESERVE + workers * SPARE);
    let connections = settings.server.max_connections.min(free / 2);
    let requests = (free - connections) / upstream;
    if requests < uploads.min(connections) {
        tracing::warn!(
            "the limit of {limit} file descriptors leaves room for {requests} uploads at once, fewer than \
             upload.max_concurrent"
        );
    }
    let share = |all: usize| (all / workers).max(1);
    let room = Room { connections: share(connections), requests: share(requests) };
    Crowd { room, shedding: Shedding::new(metrics.clone()) }
}

/// Every address there is; gives each with its methods, for the test that compares them with their description.
fn addresses(
    routes: &mut web::ServiceConfig,
    settings: &Settings,
) -> Vec<(&'static str, &'static str)> {
    let mut known = Vec::new();
    let mut resource = |path: &'static str, methods: &'static str| {
        known.push((path, methods));
        let refuse = web::to(move || ready(ops::method_not_allowed(methods)));
        web::resource(path).default_service(refuse)
    };
    routes
        .service(
            resource("/v1/files", "GET, POST, DELETE")
                .route(web::post().to(upload::form))
                .route(web::delete().to(files::revert))
                .route(web::get().to(ueditor::ask)),
        )
        .service(
            resource("/v1/files/{path:.*}", "GET, HEAD, PUT, DELETE")
                .route(web::put().to(upload::raw))
                .route(web::get().to(files::redirect))
                .route(web::head().to(files::redirect))
                .route(web::delete().to(files::delete)),
        )
        .service(resource("/v1/download-links", "POST").route(web::post().to(links::download)))
        .service(resource("/v1/delete", "POST").route(web::post().to(links::delete)))
        .service(resource("/v1/upload-links", "POST").route(web::post().to(links::upload)))
        // Every method: WeChat answers a wrong one in its own way.
        .service(resource("/tcb/uploadfile", "POST").to(tcb::upload_file))
        .service(resource("/tcb/batchdownloadfile", "POST").to(tcb::batch_download_file))
        .service(resource("/tcb/batchdeletefile", "POST").to(tcb::batch_delete_file))
        .service(resource("/cgi-bin/token", "GET").to(tcb::token))
        .service(resource("/cgi-bin/stable_token", "POST").to(tcb::stable_token))
        .service(
            resource("/", "GET")
                .guard(guard::Get())
                .guard(guard::fn_guard(tcb::names_a_file))
                .to(tcb::sample),
        )
        .service(resource("/metrics", "GET").route(web::get().to(ops::metrics)))
        .service(
            resource("/healthz", "GET, HEAD")
                .route(web::get().to(ops::health))
                .route(web::head().to(ops::health)),
        )
        .service(
            resource("/readyz", "GET, HEAD")
                .route(web::get().to(ops::ready))
                .route(web::head().to(ops::ready)),
        )
        .service(resource("/openapi.json", "GET").route(web::get().to(docs::description)))
        .service(resource("/docs", "GET").route(web::get().to(docs::pages)))
        .service(resource("/docs/{file:.*}", "GET").route(web::get().to(docs::page)));
    if settings.console.enabled {
        let mut page = |path: &'static str| {
            resource(path, "GET, HEAD")
                .route(web::get().to(console::page))
                .route(web::head().to(console::page))
        };
        if settings.sandbox.enabled {
            routes.service(page("/"));
        }
        routes
            .service(page("/console"))
            .service(resource("/console/", "GET").route(web::get().to(console::without_slash)))
            .service(resource("/console/{file}", "GET").route(web::get().to(console::file)));
    }
    routes.default_service(web::to(ops::not_found));
    known
}

/// Pages of listed origins may send whatever headers their widgets add: upload widgets differ in little else.
fn cors(shared: &Arc<Shared>) -> Cors {
    let shared = shared.clone();
    Cors::default()
        .allowed_origin_fn(move |origin: &HeaderValue, _| shared.origins.lists(origin.as_bytes()))
        .allowed_methods(["GET", "HEAD", "POST", "PUT", "DELETE"])
        .allow_any_header()
        .supports_credentials()
        .expose_headers([
            "idempotent-replayed",
            "location",
            "retry-after",
            "server-timing",
            "x-request-id",
        ])
        // The longest that browsers honour.
        .max_age(7200)
}

fn wechat(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Arc<api::Shared>, AppError> {
    let wechat = &settings.wechat;
    let app = || credential::App { appid: wechat.appid.clone(), secret: wechat.secret.clone() };
    let grant = match wechat.credential {
        CredentialMode::Secret => Some(Grant::Secret(app())),
        CredentialMode::Stable => Some(Grant::Stable(app(), Forced::default())),
        CredentialMode::Authorizer => Some(Grant::Authorizer(Authorizer {
            component_appid: wechat.authorizer.component_appid.clone(),
            authorizer_appid: wechat.authorizer.authorizer_appid.clone(),
            component_token: TokenFile::new(&wechat.authorizer.component_token_file),
            refresh_token: wechat.authorizer.refresh_token.clone(),
            newest: None.into(),
        })),
        CredentialMode::Cloudbase | CredentialMode::Open => None,
    };
    let access = match grant {
        Some(grant) => {
            let base_url = wechat.base_url.clone();
            let credential = Credential { grant, base_url, timeout: wechat.timeout };
            let url = settings.redis.url.as_ref();
            let replicas =
                url.map(|url| Replicas::new(url, &credential, metrics.clone())).transpose()?;
            Access::Fetched(Tokens::new(credential, replicas, metrics.clone()))
        }
        None if wechat.credential == CredentialMode::Open => Access::Open,
        None => Access::File(TokenFile::new(&wechat.cloudbase_token_file)),
    };
    let prefix = wechat.file_id_prefix.as_ref().map(|prefix| format!("{prefix}/"));
    Ok(api::Shared::new(
        wechat.base_url.clone(),
        wechat.env.clone(),
        wechat.timeout,
        access,
        prefix,
        metrics.clone(),
    ))
}

fn wechat_client(settings: &Settings, tls: &Arc<rustls::ClientConfig>) -> awc::Client {
    let connector = awc::Connector::new()
        .rustls_0_23(tls.clone())
        .timeout(settings.wechat.connect_timeout)
        .limit(WECHAT_CONNECTIONS);
    awc::Client::builder()
        .connector(connector)
        .disable_redirects()
        .timeout(settings.wechat.timeout)
        .finish()
}

#[cfg(feature = "sandbox")]
pub(crate) type Sandbox = crate::sandbox::Sandbox;
/// There is none in this build.
#[cfg(not(feature = "sandbox"))]
pub(crate) type Sandbox = std::convert::Infallible;

#[cfg(not(feature = "sandbox"))]
pub(crate) fn with_sandbox(settings: Settings) -> Result<(Settings, Option<Sandbox>), AppError> {
    if settings.sandbox.enabled { Err(AppError::NoSandbox) } else { Ok((settings, None)) }
}

/// Starts the sandbox where it is on, and points the settings at it.
#[cfg(feature = "sandbox")]
pub(crate) fn with_sandbox(
    mut settings: Settings,
) -> Result<(Settings, Option<Sandbox>), AppError> {
    use crate::sandbox::Options;

    if !settings.sandbox.enabled {
        return Ok((settings, None));
    }
    let mut options = Options {
        wechat: (Ipv4Addr::LOCALHOST, settings.sandbox.wechat_port).into(),
        cos: (Ipv4Addr::LOCALHOST, settings.sandbox.cos_port).into(),
        token_life: settings.sandbox.token_life,
        token_overlap: settings.sandbox.token_overlap,
        link_life: settings.sandbox.link_life,
        ..Options::default()
    };
    if let Some(data) = &settings.sandbox.data {
        options.data.clone_from(data);
    }
    settings.wechat.env.clone_from(&options.env);
    settings.wechat.appid.clone_from(&options.appid);
    settings.wechat.secret = options.secret.clone().into();
    let data = options.data.display().to_string();
    // Each mode works as it would outside, the files of the platforms among the sandbox's own.
    let token = |name: &str| -> io::Result<(String, std::path::PathBuf)> {
        let (token, file) = (format!("{:032x}", rand::random::<u128>()), options.data.join(name));
        std::fs::create_dir_all(&options.data)?;
        std::fs::write(&file, &token)?;
        Ok((token, file))
    };
    match settings.wechat.credential {
        CredentialMode::Secret | CredentialMode::Stable => {}
        CredentialMode::Open => options.open = true,
        CredentialMode::Cloudbase => {
            let (token, file) = token("cloudbase_access_token").map_err(AppError::Sandbox)?;
            (options.cloudbase_token, settings.wechat.cloudbase_token_file) = (Some(token), file);
        }
        CredentialMode::Authorizer => {
            let (token, file) = token("component_access_token").map_err(AppError::Sandbox)?;
            let authorizer = &mut settings.wechat.authorizer;
            (options.component_token, authorizer.component_token_file) = (Some(token), file);
            authorizer.component_appid.clone_from(&options.component_appid);
            authorizer.authorizer_appid.clone_from(&options.appid);
            authorizer.refresh_token = options.refresh_token.clone().into();
        }
    }
    let sandbox = Sandbox::start(options).map_err(AppError::Sandbox)?;
    settings.wechat.base_url = sandbox.wechat_url();
    settings.cos.allowed_hosts = vec![sandbox.cos_addr().to_string()];
    settings.cos.allow_http = true;
    tracing::info!(
        "sandbox: WeChat on {}, COS on http://{}, objects in {data}",
        sandbox.wechat_url(),
        sandbox.cos_addr()
    );
    Ok((settings, Some(sandbox)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Pages for people are not described, and the console's file at `/` is where the PHP sample's call is.
    fn is_page(path: &str) -> bool {
        ["/console", "/docs"].iter().any(|page| {
            path.strip_prefix(page).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    #[test]
    fn the_description_has_every_address_and_no_other() {
        let mut known = Vec::new();
        let settings =
            Settings::from_layers(None, None, Default::default()).expect("the sandbox's");
        let _app = Actix::new().configure(|routes| known = addresses(routes, &settings));
        let served: BTreeSet<_> = known
            .iter()
            .filter(|(path, _)| !is_page(path))
            .flat_map(|(path, methods)| {
                methods.split(", ").map(|method| format!("{method} {}", path.replace(":.*", "")))
            })
            .filter(|operation| operation != "HEAD /")
            .collect();
        let described: BTreeSet<_> = docs::document()
            .paths
            .paths
            .iter()
            .flat_map(|(path, item)| {
                let operations = [
                    ("GET", &item.get),
                    ("HEAD", &item.head),
                    ("POST", &item.post),
                    ("PUT", &item.put),
                    ("DELETE", &item.delete),
                    ("OPTIONS", &item.options),
                    ("PATCH", &item.patch),
                    ("TRACE", &item.trace),
                ];
                let operations =
                    operations.into_iter().filter(|(_, operation)| operation.is_some());
                operations.map(move |(method, _)| format!("{method} {path}"))
            })
            .collect();
        assert_eq!(served, described);
    }
}
