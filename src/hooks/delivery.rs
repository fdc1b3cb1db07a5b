//! The delivery of queued events: at least once, in no particular order, for up to a day.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::Outcome;
use super::queue::Attempt;
use super::queue::{Claimed, MAX_CLAIMED};
use super::sender::HookSender;
use super::stream::{COUNT, EventStream, RENEWAL};

/// Events that are sent at the same time.
const MAX_CONCURRENT: usize = 16;
/// How old an event may become.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// How often the stream is asked for events that other gateways have added.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Where all places are taken by events that have failed, so many of them are exchanged for others at each
/// [`POLL_INTERVAL`]: each is tried sometimes, about as often as those with a place, and the back end is not flooded.
const EXCHANGED: usize = 10;
const HOUR: Duration = Duration::from_secs(3600);

/// The running delivery.
pub struct Delivery {
    hooks: Rc<Current>,
    stopping: CancellationToken,
    stopped: CancellationToken,
}

/// The sender of each next attempt: a reload replaces it. All of them have the same queue and stream.
struct Current(RefCell<HookSender>);

impl Current {
    fn get(&self) -> HookSender {
        self.0.borrow().clone()
    }
}

impl Delivery {
    /// Must be called on a thread of the actix system.
    pub fn start(hooks: HookSender) -> Self {
        let (stopping, stopped) = (CancellationToken::new(), CancellationToken::new());
        if hooks.state.stream.is_some() {
            actix_web::rt::spawn(take_from_stream(hooks.clone(), stopping.clone()));
        }
        let hooks = Rc::new(Current(RefCell::new(hooks)));
        let running = deliver_until(hooks.clone(), stopping.clone());
        let on_stop = stopped.clone();
        actix_web::rt::spawn(async move {
            running.await;
            on_stop.cancel();
        });
        Self { hooks, stopping, stopped }
    }

    /// Sends with `hooks` from now on: another URL, key or time limit, and the same queue.
    pub fn replace(&self, hooks: HookSender) {
        self.hooks.0.replace(hooks);
    }

    /// Tries every event once more, also those that are not due. The caller limits the time.
    pub async fn finish(&self) {
        self.stopping.cancel();
        self.stopped.cancelled().await;
    }

    /// Logs what was not delivered; the last thing to be done.
    pub fn log_undelivered(&self) {
        self.hooks.get().state.log_undelivered();
    }
}

async fn deliver_until(hooks: Rc<Current>, stopping: CancellationToken) {
    let state = hooks.get().state;
    let queue = &state.queue;
    let mut running = FuturesUnordered::new();
    loop {
        let is_last = stopping.is_cancelled();
        let mut next_due = Instant::now() + HOUR;
        let changed = queue.changed.notified();
        while running.len() < MAX_CONCURRENT {
            match queue.take_due(is_last) {
                Ok(attempt) => running.push(attempt_once(hooks.get(), attempt, is_last)),
                Err(deadline) => {
                    next_due = deadline.unwrap_or(next_due);
                    break;
                }
            }
        }
        if is_last && running.is_empty() {
            return;
        }
        if state.stream.is_none() {
            state.metrics.hooks_queued(queue.len());
        }
        tokio::select! {
            Some(()) = running.next() => {}
            () = sleep_until(next_due), if running.len() < MAX_CONCURRENT => {}
            () = changed => {}
            () = stopping.cancelled(), if !is_last => {}
        }
    }
}

/// One attempt. After a last attempt that failed, the event stays in the queue, to be logged.
async fn attempt_once(hooks: HookSender, attempt: Attempt, is_last: bool) {
    let state = &hooks.state;
    let message = attempt.entry.message.clone();
    let event = message.event.name();
    let retry_after = match hooks.client.send(&message).await {
        Outcome::Accepted(_) => {
            state.metrics.hook(event, "delivered");
            return remove(&hooks, &attempt).await;
        }
        // The back end wants no more of it.
        Outcome::Refused { status: 410, .. } => {
            state.dropped(&message, "the back end responded with 410");
            return remove(&hooks, &attempt).await;
        }
        // The client was told that the file is stored, so it stays. The cause may be a fault of the back end that is
        // being mended: a wrong secret (401), a missing route (404).
        Outcome::Refused { status, .. } => {
            log_failure(&attempt, &format!("status {status}"));
            None
        }
        Outcome::Unavailable { cause, retry_after } => {
            log_failure(&attempt, &cause);
            retry_after
        }
    };
    state.metrics.hook(event, "failed");
    if message.age() > MAX_AGE {
        state.dropped(&message, "it could not be delivered for a day");
        remove(&hooks, &attempt).await;
    } else if !is_last {
        state.queue.retry(attempt, retry_after);
    }
}

/// The first failure of an event is worth a warning; the others follow from it.
fn log_failure(attempt: &Attempt, cause: &str) {
    let (id, attempts) = (&attempt.entry.message.id, attempt.entry.attempts + 1);
    match attempts {
        1 => tracing::warn!(id, cause, "a hook could not be delivered; it is retried"),
        _ => tracing::debug!(id, attempts, cause, "a hook could not be delivered; it is retried"),
    }
}

/// From Redis first: an event that cannot be removed there is sent again by another gateway.
async fn remove(hooks: &HookSender, attempt: &Attempt) {
    if let (Some(stream), Some(id)) = (&hooks.state.stream, &attempt.entry.stream_id) {
        let _ = stream.remove(id).await;
    }
    hooks.state.queue.done(attempt);
}

/// Takes events from the stream as long as there is room for them. Where events that have failed take all of it, they are
/// let go: no longer renewed, so that a gateway with room, or this one, takes them over later.
async fn take_from_stream(hooks: HookSender, stopping: CancellationToken) {
    let Some(stream) = &hooks.state.stream else { return };
    let (mut renewed, mut exchanged) = (Instant::now(), Instant::now());
    loop {
        let changed = hooks.state.queue.changed.notified();
        let mut claimed = hooks.state.queue.claimed();
        if renewed.elapsed() >= RENEWAL
            && let Ok(lost) = stream.renew(&claimed).await
        {
            renewed = Instant::now();
            hooks.state.queue.release(&lost);
            claimed.retain(|id| !lost.contains(id));
        }
        let mut is_more = false;
        let (silent, new) = room(hooks.state.queue.count_claimed(), &mut exchanged);
        if (silent, new) != (0, 0)
            && let Ok(entries) = stream.take(silent, new).await
        {
            for entry in entries {
                let id = entry.stream_id.clone().unwrap_or_default();
                // One of its own, which it could not renew in time. One without room is taken over later.
                if !claimed.contains(&id) && hooks.state.queue.add(entry).is_ok() {
                    is_more = true;
                }
            }
        }
        report_length(&hooks, stream).await;
        if is_more {
            continue;
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = sleep(POLL_INTERVAL) => {}
            () = changed => {}
        }
    }
}

/// How many events of silent gateways are taken, and how many new ones. New ones replace failed ones; of the others, only
/// [`EXCHANGED`] do.
fn room(claimed: Claimed, exchanged: &mut Instant) -> (usize, usize) {
    let places = MAX_CLAIMED.saturating_sub(claimed.all - claimed.failed);
    let free = MAX_CLAIMED.saturating_sub(claimed.all);
    let silent = match free {
        0 if exchanged.elapsed() < POLL_INTERVAL => 0,
        free => free.clamp(EXCHANGED, COUNT).min(places / 2),
    };
    if silent > 0 {
        *exchanged = Instant::now();
    }
    (silent, places - silent)
}

/// The events in the stream, and those that only this process has. While Redis is unavailable, those that this process
/// has.
async fn report_length(hooks: &HookSender, stream: &EventStream) {
    let (queue, metrics) = (&hooks.state.queue, &hooks.state.metrics);
    match stream.length().await {
        Ok(shared) => metrics.hooks_queued(queue.own() + shared),
        Err(_) => metrics.hooks_queued(queue.len()),
    }
}
