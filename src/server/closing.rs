//! Closing a listening socket without losing connections: those that it has queued are accepted first.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use tokio::time::sleep;

/// How long the connections that are queued take to be accepted and to get to their workers, also on a busy machine.
/// Shorter than the second after which a client repeats an attempt that was ignored.
const ACCEPTING: Duration = Duration::from_millis(500);

/// Waits until the queue of `listener` is empty for good, so that closing it resets no connection. New attempts are
/// ignored: the operating system of the client repeats them after a second, and is refused once the socket is closed, so
/// that a proxy tries the next gateway.
pub async fn ignore_attempts(listener: &TcpListener) {
    if let Err(error) = ignore_syn(listener) {
        tracing::debug!(%error, "connections that arrive while the listening socket is closed may be reset");
    }
    sleep(ACCEPTING).await;
}

/// Lets the kernel drop segments that begin a connection.
#[cfg(target_os = "linux")]
fn ignore_syn(listener: &TcpListener) -> io::Result<()> {
    use socket2::{SockFilter, SockRef};

    // Instructions of a classic BPF (linux/filter.h), which the kernel runs from the TCP header on: `BPF_LD | BPF_B |
    // BPF_ABS`, `BPF_JMP | BPF_JSET | BPF_K`, `BPF_RET | BPF_K`.
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const DROP: u32 = 0;
    const PASS: u32 = u32::MAX;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, DROP),
        SockFilter::new(RETURN, 0, 0, PASS),
    ])
}

#[cfg(not(target_os = "linux"))]
fn ignore_syn(_: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
