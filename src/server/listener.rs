//! From an accepted TCP stream to HTTP: TLS where it is on, then HTTP/1 or h2 with the timeouts of a connection.
//!
//! Does what actix-web's `HttpServer` does, with connection types of the gateway's own below it ([`ReaderIo`],
//! [`H2Stream`]).

use std::fmt;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request};
use actix_server::{GracefulShutdownSignal, Server, ServerBuilder};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_service, map_config,
};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::client_stream::ClientTcpStream;
use super::connection_limit::{ConnectionHandle, Connections, SPARE, WorkerLimits};
use super::h1::body_reader::BodyReader;
use super::h1::reader_io::ReaderIo;
use super::h2_stream::H2Stream;
use super::load_shed_log::LoadShedLog;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For what an h2 client sends first. HTTP/1 has a shorter limit, from [`ReaderIo`], for the first byte and the first
/// head together; there a late head is refused with a response.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle time between requests over HTTP/1, and between the PINGs that check an h2 client. Longer than usual load
/// balancers keep an idle connection, so that they never send a request over a connection that was just closed.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// After a connection's last response, for what the client still sends.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The limits of connections, and the log of connections over them.
#[derive(Clone)]
pub struct ConnectionLimits {
    pub per_worker: WorkerLimits,
    pub load_shed_log: Arc<LoadShedLog>,
}

impl ConnectionLimits {
    /// The connections of the worker that this is called on. Once the server begins to stop, idle ones are closed every
    /// 200 ms: an h2 connection would not close otherwise.
    fn worker_connections(&self, stopping: GracefulShutdownSignal) -> Rc<Connections> {
        const INTERVAL: Duration = Duration::from_millis(200);
        let connections = Connections::new(self.per_worker, self.load_shed_log.clone());
        let closing = connections.clone();
        actix_web::rt::spawn(async move {
            stopping.notified().await;
            loop {
                closing.close_idle();
                sleep(INTERVAL).await;
            }
        });
        connections
    }
}

/// Serves the application that `app` builds once on every worker of `server`. A new connection gets the newest `tls`.
pub fn serve<F, I, S, B>(
    server: ServerBuilder,
    listener: TcpListener,
    tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
    connection_limits: ConnectionLimits,
    app: F,
) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
        > + 'static,
    S::InitError: fmt::Debug,
    S::Service: 'static,
    S::Future: 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let stopping = server.graceful_shutdown_signal();
    let server =
        server.max_concurrent_connections(connection_limits.per_worker.connections + SPARE);
    let server = match tls {
        None => server.listen("http", listener, move || {
            let connections = connection_limits.worker_connections(stopping.clone());
            fn_service(move |stream: TcpStream| {
                ready(Ok(plain(ClientTcpStream::new(stream, connections.admit()))))
            })
            .and_then(http(app(), stopping.clone()))
        })?,
        Some(tls) => server.listen("https", listener, move || {
            let (tls, connections) =
                (tls.clone(), connection_limits.worker_connections(stopping.clone()));
            fn_service(move |stream: TcpStream| {
                let acceptor = TlsAcceptor::from(tls.borrow().clone());
                encrypted(acceptor, ClientTcpStream::new(stream, connections.admit()))
            })
            .and_then(http(app(), stopping.clone()))
        })?,
    };
    Ok(server.run())
}

/// What HTTP reads and writes: HTTP/1 or h2.
type HttpStream<S> = Either<ReaderIo<S>, H2Stream<S>>;

type Connection<S> = (HttpStream<S>, Protocol, Option<SocketAddr>);

fn plain(stream: ClientTcpStream) -> Connection<ClientTcpStream> {
    let (peer, handle) = (stream.peer(), stream.handle().clone());
    (Either::Left(ReaderIo::new(stream, handle)), Protocol::Http1, peer)
}

async fn encrypted(
    acceptor: TlsAcceptor,
    stream: ClientTcpStream,
) -> Result<Connection<TlsStream<ClientTcpStream>>, DispatchError> {
    let (peer, handle) = (stream.peer(), stream.handle().clone());
    stream.set_nodelay();
    let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| DispatchError::Io(io::ErrorKind::TimedOut.into()))??;
    Ok(match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => (Either::Right(H2Stream::new(stream, handle)), Protocol::Http2, peer),
        _ => (Either::Left(ReaderIo::new(stream, handle)), Protocol::Http1, peer),
    })
}

/// HTTP over a connection. Its requests find the connection's [`ConnectionHandle`], and over HTTP/1 its [`BodyReader`],
/// in their connection data.
fn http<C, I, S, B>(
    app: I,
    stopping: GracefulShutdownSignal,
) -> impl ServiceFactory<Connection<C>, Config = (), Response = (), Error = DispatchError, InitError = ()>
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
        > + 'static,
    S::InitError: fmt::Debug,
    S::Service: 'static,
    S::Future: 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let app = app.into_factory().map_err(|error| error.error_response());
    HttpService::build()
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        })
        .client_request_timeout(PREFACE_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .on_connect_ext(|connection: &HttpStream<C>, data| match connection {
            Either::Left(http1) => {
                data.insert::<Rc<BodyReader>>(http1.body_reader());
                data.insert::<Rc<ConnectionHandle>>(http1.handle().clone());
            }
            Either::Right(h2) => {
                data.insert::<Rc<ConnectionHandle>>(h2.handle().clone());
            }
        })
        .finish(map_config(app, |()| AppConfig::default()))
}
