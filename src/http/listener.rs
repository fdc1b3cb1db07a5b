//! From an accepted TCP stream to HTTP: TLS where it is on, and sockets read on demand.
//!
//! What actix-web's `HttpServer` does, with a connection type of our own below it.

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
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::demand::{Meter, Metered};

/// Longer than the usual load balancer keeps its own side, so that it never writes to a connection we just closed.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// For a request's head, and for a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// After a connection's last reply, for what the client still sends.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves what `app` makes, once on every worker of `server`.
pub fn serve<F, I, S, B>(
    server: ServerBuilder,
    listener: TcpListener,
    tls: Option<rustls::ServerConfig>,
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
    let draining = server.graceful_shutdown_signal();
    let server = match tls {
        None => server.listen("http", listener, move || {
            fn_service(|stream: TcpStream| ready(Ok(plain(stream))))
                .and_then(http(app(), draining.clone()))
        })?,
        Some(mut tls) => {
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            server.listen("https", listener, move || {
                let acceptor = acceptor.clone();
                fn_service(move |stream: TcpStream| encrypted(acceptor.clone(), stream))
                    .and_then(http(app(), draining.clone()))
            })?
        }
    };
    Ok(server.run())
}

type Connection<S> = (Metered<S>, Protocol, Option<SocketAddr>);

fn plain(stream: TcpStream) -> Connection<TcpStream> {
    let peer = stream.peer_addr().ok();
    (Metered::new(stream), Protocol::Http1, peer)
}

async fn encrypted(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> Result<Connection<TlsStream<TcpStream>>, DispatchError> {
    let peer = stream.peer_addr().ok();
    let stream = timeout(HEAD_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| DispatchError::Io(io::ErrorKind::TimedOut.into()))??;
    Ok(match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => (Metered::unlimited(stream), Protocol::Http2, peer),
        _ => (Metered::new(stream), Protocol::Http1, peer),
    })
}

/// HTTP over a connection. The connection's meter is where a request can find it; h2 has flow control of its own.
fn http<C, I, S, B>(
    app: I,
    draining: GracefulShutdownSignal,
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
            let draining = draining.clone();
            async move { draining.notified().await }
        })
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .on_connect_ext(|connection: &Metered<C>, data| {
            data.insert::<Rc<Meter>>(connection.meter());
        })
        .finish(map_config(app, |()| AppConfig::default()))
}
