//! Shutting down after a signal: which requests are still accepted, which may still finish, and for how long.

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

/// How long connections have to close once no request runs: an h2 client cannot be told to close its connection.
const CLOSING: Duration = Duration::from_secs(5);

/// How long a shutdown may take.
#[derive(Debug, Clone, Copy)]
pub struct ShutdownTimeouts {
    /// Requests are served for at least this long, so that a load balancer sees in time that the gateway is not ready.
    pub delay: Duration,
    /// Running requests have this long to finish.
    pub grace: Duration,
}

/// Serves until a signal, then until no request runs. On the signal `requests` is closed, so that new uploads are
/// refused, and `shutdown` is cancelled. Once no request runs, `last` has the rest of the time. A second signal ends the
/// process at once.
pub async fn serve(
    server: Server,
    requests: &TaskTracker,
    shutdown: &CancellationToken,
    timeouts: ShutdownTimeouts,
    mut signals: Signals,
    last: impl Future<Output = ()>,
) -> io::Result<()> {
    let handle = server.handle();
    let mut server = pin!(server);
    let signal = select! {
        ended = &mut server => return ended,
        signal = signals.next() => signal,
    };
    requests.close();
    shutdown.cancel();
    tracing::info!(signal, requests = requests.len(), "shutting down; new uploads are refused");

    let stop = async {
        let deadline = Instant::now() + timeouts.grace;
        let work = async {
            requests.wait().await;
            last.await;
        };
        let finished = async { tokio::join!(sleep(timeouts.delay), work) };
        if timeout_at(deadline, finished).await.is_err() && !requests.is_empty() {
            tracing::warn!(
                requests = requests.len(),
                "server.shutdown_grace is over; running requests are cut off"
            );
            return;
        }
        let _ = timeout(CLOSING, handle.stop(true)).await;
    };
    select! {
        ended = &mut server => ended?,
        () = stop => {}
        signal = signals.next() => {
            tracing::warn!(signal, requests = requests.len(), "second signal; running requests are cut off");
        }
    }
    Ok(())
}

/// The signals that shut the gateway down, and SIGHUP, which is only logged. By default SIGHUP would end the process: a
/// closing terminal sends it, and so do service managers that want a reload.
pub struct Signals {
    terminating: [(&'static str, Signal); 3],
    hangup: Signal,
}

impl Signals {
    /// Catches the signals: from now on none of them ends the process by default. Needs a running runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminating: [
                ("SIGTERM", signal(SignalKind::terminate())?),
                ("SIGINT", signal(SignalKind::interrupt())?),
                ("SIGQUIT", signal(SignalKind::quit())?),
            ],
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that shuts the gateway down, and returns its name. Each SIGHUP before it is logged.
    async fn next(&mut self) -> &'static str {
        poll_fn(|cx| {
            while let Poll::Ready(Some(())) = self.hangup.poll_recv(cx) {
                tracing::info!(
                    "SIGHUP: the gateway keeps running; settings are read at its start only, so restart it to change \
                     them"
                );
            }
            let mut signals = self.terminating.iter_mut();
            let received =
                signals.find_map(|(name, signal)| signal.poll_recv(cx).is_ready().then_some(*name));
            received.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
