//! The connections of both sides: accept, TLS, one request after another, close or reset.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::conn::{AfterRequest, Conn, Socket, first_of};
use super::http::{ConnError, Head, Response};
use super::state::SandboxState;
use super::{control, cos, wechat};

const HANDSHAKE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq)]
pub enum Side {
    WeChat,
    Cos,
}

impl Side {
    fn is_cos(self) -> bool {
        self == Side::Cos
    }
}

pub async fn serve(
    sandbox: Rc<SandboxState>,
    side: Side,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
) {
    let tls = tls.map(TlsAcceptor::from);
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                if side.is_cos() {
                    sandbox.record.count("cos_connections");
                    if sandbox.faults.borrow_mut().refuse_connection(true) {
                        let _ = tcp.set_zero_linger();
                        continue;
                    }
                }
                tokio::task::spawn_local(connection(sandbox.clone(), side, tcp, tls.clone()));
            }
            Err(error) => {
                // Most likely there are no file descriptors left: accepting again at once would loop.
                tracing::warn!(%error, "the sandbox could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    sandbox: Rc<SandboxState>,
    side: Side,
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
) {
    let _ = tcp.set_nodelay(true);
    let socket = match tls {
        None => Socket::Plain(tcp),
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(tcp)).await {
            Ok(Ok(stream)) => Socket::Tls(Box::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake with the sandbox failed");
                return;
            }
            Err(_) => return,
        },
    };
    let mut conn = Conn::new(socket);
    match requests(&sandbox, side, &mut conn).await {
        Ok(AfterRequest::Reset) => conn.reset(),
        Ok(_) => conn.finish_writing().await,
        Err(ConnError::BadRequest(message)) => {
            let name = if side.is_cos() { "cos" } else { "wechat" };
            sandbox.record.record_refusal(name, None, "BadRequest", message);
            conn.disable_keep_alive();
            let _ = conn.send(Response::text(400, format!("{message}\n"))).await;
            conn.finish_writing().await;
        }
        Err(error) => tracing::debug!(%error, "a connection to the sandbox broke"),
    }
}

async fn requests(
    sandbox: &Rc<SandboxState>,
    side: Side,
    conn: &mut Conn,
) -> Result<AfterRequest, ConnError> {
    // The connections of control calls are neither counted nor refused.
    let mut counted = side.is_cos();
    let mut idle_may_drop = false;
    loop {
        let head = if idle_may_drop {
            match first_of(conn.head(), sandbox.idle(side.is_cos()).notified()).await {
                Some(head) => head?,
                None => return Ok(AfterRequest::Reset),
            }
        } else {
            conn.head().await?
        };
        let Some(head) = head else {
            return Ok(AfterRequest::Close);
        };
        let is_control = !side.is_cos() && head.path.starts_with(control::PREFIX);
        if !counted && !is_control {
            counted = true;
            sandbox.record.count("wechat_connections");
            if sandbox.faults.borrow_mut().refuse_connection(false) {
                return Ok(AfterRequest::Reset);
            }
        }
        idle_may_drop = !is_control;
        let next = dispatch(sandbox, side, conn, &head, is_control).await?;
        if next != AfterRequest::KeepAlive {
            return Ok(next);
        }
    }
}

async fn dispatch(
    sandbox: &Rc<SandboxState>,
    side: Side,
    conn: &mut Conn,
    head: &Head,
    is_control: bool,
) -> Result<AfterRequest, ConnError> {
    match side {
        Side::Cos => cos::handle(sandbox, conn, head).await,
        Side::WeChat if is_control => control::handle(sandbox, conn, head).await,
        Side::WeChat => wechat::handle(sandbox, conn, head).await,
    }
}
