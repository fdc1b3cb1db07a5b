//! Shutting down after a signal: which requests are still accepted, which may still finish, and for how long.

use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use actix_web::dev::Server;
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::closing;

/// How long connections have to close once no request runs: an h2 client cannot be told to close its connection.
const CLOSING: Duration = Duration::from_secs(5);
/// What is done last has at least this time, which the export of spans needs: the requests may have used up the grace.
const LEAST_FOR_LAST: Duration = Duration::from_secs(2);

/// How long a shutdown may take.
#[derive(Debug, Clone, Copy)]
pub struct ShutdownTimeouts {
    /// Connections and uploads are accepted for this long, until a load balancer has seen that the gateway is not ready; at
    /// most for `grace`.
    pub delay: Duration,
    /// Running requests have this long to finish, `delay` included.
    pub grace: Duration,
}

/// The stages of a shutdown, as the rest of the gateway learns of them.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// Cancelled on the signal: `/readyz` fails, and connections are closed after their responses.
    pub draining: CancellationToken,
    /// Cancelled when no more connections are accepted: requests that can continue elsewhere end.
    pub shutdown: CancellationToken,
    /// The running requests. Closed together with `shutdown`: new uploads are refused.
    pub requests: TaskTracker,
}

/// Serves until a signal, then until no request runs. After `timeouts.delay` the server's socket, of which `listener` is
/// a duplicate, is closed. Once no request runs or `timeouts.grace` is over, `last` has the rest of that time, and at
/// least two seconds. All takes at most five seconds longer than `timeouts.grace`. A second signal ends the process at
/// once.
pub async fn serve(
    server: Server,
    listener: TcpListener,
    stages: &Stages,
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
    let Stages { draining, shutdown, requests } = stages;
    draining.cancel();
    tracing::info!(signal, requests = requests.len(), "shutting down; /readyz fails");

    let stop = async {
        let began = Instant::now();
        let deadline = began + timeouts.grace;
        sleep_until(deadline.min(began + timeouts.delay)).await;
        closing::ignore_attempts(&listener).await;
        drop(listener);
        let stopped = handle.stop(true);
        requests.close();
        shutdown.cancel();
        tracing::info!(requests = requests.len(), "no more connections are accepted");
        let is_over = timeout_at(deadline, requests.wait()).await.is_err();
        let _ = timeout_at(deadline.max(Instant::now() + LEAST_FOR_LAST), last).await;
        if is_over && !requests.is_empty() {
            tracing::warn!(
                requests = requests.len(),
                "server.shutdown_grace is over; running requests are cut off"
            );
            return;
        }
        let _ = timeout_at((Instant::now() + CLOSING).min(deadline + CLOSING), stopped).await;
    };
    let (mut stop, mut serving) = (pin!(stop), true);
    loop {
        select! {
            // The connections may all be closed before the rest is done.
            ended = &mut server, if serving => {
                ended?;
                serving = false;
            }
            () = &mut stop => return Ok(()),
            signal = signals.next() => {
                tracing::warn!(signal, requests = requests.len(), "second signal; running requests are cut off");
                return Ok(());
            }
        }
    }
}

/// The signals that shut the gateway down.
pub struct Signals {
    terminating: [(&'static str, Signal); 3],
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
        })
    }

    /// Waits for a signal that shuts the gateway down, and returns its name.
    async fn next(&mut self) -> &'static str {
        poll_fn(|cx| {
            let mut signals = self.terminating.iter_mut();
            let received =
                signals.find_map(|(name, signal)| signal.poll_recv(cx).is_ready().then_some(*name));
            received.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
