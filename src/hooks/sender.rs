//! What handlers call: sends an event and waits for the back end, or queues it for the delivery.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::client::{HookClient, Outcome};
use super::event::{DeletedFile, Message, StoredFile};
use super::queue::{self, Entry, Queue};
use super::stream::EventStream;
use crate::metrics::Metrics;
use crate::net::refusal::detail_of;
use crate::settings::HookField;

/// What all threads share. A reload makes another one with the same queue and stream.
pub struct HookState {
    pub include: Vec<HookField>,
    /// Whether [`HookSender::stored`] waits for the back end's response.
    pub wait: bool,
    /// Of one attempt; where [`Self::wait`] is set, of all attempts that a client waits for.
    pub timeout: Duration,
    pub queue: Arc<Queue>,
    pub stream: Option<Arc<EventStream>>,
    pub metrics: Arc<Metrics>,
}

/// One thread's way to the back end.
#[derive(Clone)]
pub struct HookSender {
    pub state: Arc<HookState>,
    pub client: HookClient,
}

/// What the back end made of a stored file.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It will be sent later.
    Queued,
    /// Accepted. `Null` if the response has no JSON.
    Accepted(Value),
    /// The back end does not want the file: the caller must delete it.
    Refused { status: u16, detail: Option<String> },
}

impl HookSender {
    /// Tells the back end of a stored file. To be called once for an upload, after COS's verdict, and run to its end: a
    /// caller whose client may disconnect must spawn it. Where `hooks.wait` is set, takes up to `hooks.timeout`; an
    /// event that the back end did not take by then is queued.
    pub async fn stored(&self, file: &StoredFile) -> Verdict {
        let message = Message::stored(file, &self.state.include);
        if !self.state.wait {
            self.enqueue(Arc::new(message)).await;
            return Verdict::Queued;
        }
        let message = Arc::new(message);
        let attempt = self.state.queue.begin(Entry::new(message.clone()));
        let verdict = self.send_while_waiting(&message).await;
        self.state.queue.done(&attempt);
        match verdict {
            Some(verdict) => verdict,
            None => {
                self.enqueue(message).await;
                Verdict::Queued
            }
        }
    }

    /// Sends an event until `hooks.timeout` is over; `None`: the back end did not take it.
    async fn send_while_waiting(&self, message: &Message) -> Option<Verdict> {
        let deadline = Instant::now() + self.state.timeout;
        let metrics = &self.state.metrics;
        let event = message.event.name();
        let mut attempts = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (cause, retry_after) = match self.client.send_within(message, left).await {
                Outcome::Accepted(body) => {
                    metrics.hook(event, "delivered");
                    return Some(Verdict::Accepted(json_of(message, &body)));
                }
                Outcome::Refused { status, body } => {
                    metrics.hook(event, "refused");
                    tracing::info!(
                        id = message.id,
                        hook_status = status,
                        "the back end refused a file"
                    );
                    return Some(Verdict::Refused { status, detail: detail_of(&body) });
                }
                Outcome::Unavailable { cause, retry_after } => (cause, retry_after),
            };
            metrics.hook(event, "failed");
            attempts += 1;
            let pause = queue::pause(attempts).max(retry_after.unwrap_or_default());
            if Instant::now() + pause >= deadline {
                tracing::warn!(id = message.id, attempts, cause, "a hook is delivered later");
                return None;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Queues the events of deleted files.
    pub async fn deleted(&self, files: &[DeletedFile]) {
        for file in files {
            self.enqueue(Arc::new(Message::deleted(file, &self.state.include))).await;
        }
    }

    async fn enqueue(&self, message: Arc<Message>) {
        let state = &self.state;
        let event = message.event.name();
        if let Some(stream) = &state.stream {
            match stream.add(&message).await {
                Ok(true) => {
                    state.metrics.hook(event, "queued");
                    // The delivery looks for it.
                    state.queue.changed.notify_waiters();
                    return;
                }
                Ok(false) => {
                    tracing::warn!(id = message.id, "the stream of hooks in Redis is full")
                }
                Err(_) => {}
            }
        }
        match state.queue.add(Entry::new(message)) {
            Ok(removed) => {
                state.metrics.hook(event, "queued");
                for failed in removed {
                    let reason = "it had failed before, and the queue in memory is full";
                    state.dropped(&failed.message, reason);
                }
            }
            Err(entry) => state.dropped(&entry.message, "the queue in memory is full"),
        }
    }
}

impl HookState {
    /// Logs an event that will not be delivered.
    pub fn dropped(&self, message: &Message, reason: &str) {
        self.metrics.hook(message.event.name(), "dropped");
        let body = message.for_log();
        tracing::error!(id = message.id, reason, body, "a hook was not delivered");
    }

    /// Logs every event that only this process is known to have, since it ends now: those of the stream, too, where
    /// Redis does not respond, since it may have lost them.
    pub fn log_undelivered(&self) {
        let has_stream = self.stream.as_ref().is_some_and(|stream| stream.is_up());
        for entry in self.queue.drain() {
            match entry.stream_id {
                None => self.dropped(&entry.message, "the gateway has stopped"),
                Some(_) if has_stream => {}
                Some(_) => {
                    self.dropped(
                        &entry.message,
                        "the gateway has stopped, and Redis is unavailable",
                    );
                }
            }
        }
    }
}

/// The response to an accepted event.
fn json_of(message: &Message, body: &[u8]) -> Value {
    if body.trim_ascii().is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(body).unwrap_or_else(|_| {
        tracing::warn!(id = message.id, "the back end's response to a hook is not JSON");
        Value::Null
    })
}
