//! Connections of both sides: accept, TLS, one request after another, and how each connection ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::conn::{Conn, Flow, Socket, first_of};
use super::http::{Broken, Head, Response};
use super::world::World;
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
    world: Rc<World>,
    side: Side,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
) {
    let tls = tls.map(TlsAcceptor::from);
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                if side.is_cos() {
                    world.record.count("cos_connections");
                    if world.faults.borrow_mut().refuses(true) {
                        let _ = tcp.set_zero_linger();
                        continue;
                    }
                }
                tokio::task::spawn_local(connection(world.clone(), side, tcp, tls.clone()));
            }
            Err(error) => {
                // Out of file descriptors, most likely: accepting again at once would spin.
                tracing::warn!(%error, "the sandbox could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(world: Rc<World>, side: Side, tcp: TcpStream, tls: Option<TlsAcceptor>) {
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
    match requests(&world, side, &mut conn).await {
        Ok(Flow::Reset) => conn.reset(),
        Ok(_) => conn.finish_writing().await,
        Err(Broken::BadRequest(message)) => {
            let name = if side.is_cos() { "cos" } else { "wechat" };
            world.record.refuse(name, None, "BadRequest", message);
            conn.close_next();
            let _ = conn.send(Response::text(400, format!("{message}\n"))).await;
            conn.finish_writing().await;
        }
        Err(error) => tracing::debug!(%error, "a connection to the sandbox broke"),
    }
}

async fn requests(world: &Rc<World>, side: Side, conn: &mut Conn) -> Result<Flow, Broken> {
    // Control calls are no traffic: their connections are neither counted nor refused.
    let mut counted = side.is_cos();
    let mut idle_may_drop = false;
    loop {
        let head = if idle_may_drop {
            match first_of(conn.head(), world.idle(side.is_cos()).notified()).await {
                Some(head) => head?,
                None => return Ok(Flow::Reset),
            }
        } else {
            conn.head().await?
        };
        let Some(head) = head else {
            return Ok(Flow::Close);
        };
        let is_control = !side.is_cos() && head.path.starts_with(control::PREFIX);
        if !counted && !is_control {
            counted = true;
            world.record.count("wechat_connections");
            if world.faults.borrow_mut().refuses(false) {
                return Ok(Flow::Reset);
            }
        }
        idle_may_drop = !is_control;
        let flow = dispatch(world, side, conn, &head, is_control).await?;
        if flow != Flow::Next {
            return Ok(flow);
        }
    }
}

async fn dispatch(
    world: &Rc<World>,
    side: Side,
    conn: &mut Conn,
    head: &Head,
    is_control: bool,
) -> Result<Flow, Broken> {
    match side {
        Side::Cos => cos::handle(world, conn, head).await,
        Side::WeChat if is_control => control::handle(world, conn, head).await,
        Side::WeChat => wechat::handle(world, conn, head).await,
    }
}
