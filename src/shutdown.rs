//! From the signal to end to the end: what is still taken, what may still finish, and for how long.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use actix_web::dev::Server;
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For connections to end once no request runs: those of h2 cannot be told to.
const CLOSING: Duration = Duration::from_secs(5);

/// How long it may take.
#[derive(Debug, Clone, Copy)]
pub struct ShutdownTimeouts {
    /// Requests are still answered at least this long, so that a load balancer sees in time that we are not ready.
    pub delay: Duration,
    /// Requests that run get this long.
    pub grace: Duration,
}

/// Serves until a signal, then until no request runs: `requests` is closed meanwhile, so that no upload is begun, and
/// `begun` is cancelled. A second signal ends it at once.
pub async fn serve(
    server: Server,
    requests: &TaskTracker,
    begun: &CancellationToken,
    timeouts: ShutdownTimeouts,
    mut signals: Signals,
) -> io::Result<()> {
    let handle = server.handle();
    let mut server = pin!(server);
    let signal = select! {
        ended = &mut server => return ended,
        signal = signals.next() => signal,
    };
    requests.close();
    begun.cancel();
    tracing::info!(signal, requests = requests.len(), "told to end; no upload is begun any more");

    let stop = async {
        let end = Instant::now() + timeouts.grace;
        let quiet = async { tokio::join!(sleep(timeouts.delay), requests.wait()) };
        if timeout_at(end, quiet).await.is_err() && !requests.is_empty() {
            tracing::warn!(
                requests = requests.len(),
                "the grace is over; what still runs is cut off"
            );
            return;
        }
        let _ = timeout(CLOSING, handle.stop(true)).await;
    };
    select! {
        ended = &mut server => ended?,
        () = stop => {}
        signal = signals.next() => {
            tracing::warn!(signal, requests = requests.len(), "told again; what still runs is cut off");
        }
    }
    Ok(())
}

/// The signals that a process is told to end by, and SIGHUP, which would end it by default: a terminal that closes
/// sends it, and service managers ask for a reload with it.
pub struct Signals {
    ending: [(&'static str, Signal); 3],
    hangup: Signal,
}

impl Signals {
    /// From now on none of them ends the process by itself. Needs a running runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            ending: [
                ("SIGTERM", signal(SignalKind::terminate())?),
                ("SIGINT", signal(SignalKind::interrupt())?),
                ("SIGQUIT", signal(SignalKind::quit())?),
            ],
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The name of the next signal to end. Each SIGHUP before it is logged.
    async fn next(&mut self) -> &'static str {
        poll_fn(|cx| {
            while let Poll::Ready(Some(())) = self.hangup.poll_recv(cx) {
                tracing::info!(
                    "SIGHUP: the gateway goes on; settings are read at its start only, so restart it to change them"
                );
            }
            let mut signals = self.ending.iter_mut();
            let came =
                signals.find_map(|(name, signal)| signal.poll_recv(cx).is_ready().then_some(*name));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
