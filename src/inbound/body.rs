//! A request's body as a stream of chunks: counts the bytes read, and limits how long the client may send nothing or little.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use bytes::Bytes;
use futures::Stream;
use tokio::time::Instant;

use super::arrival::Arrival;
use super::error::InboundError;
use super::min_rate::MinRate;
use crate::net::deadline::DeadlineTimer;

/// A request's body. A byte is counted when its chunk is returned.
pub struct Body {
    payload: Payload,
    read: u64,
    idle_timeout: Duration,
    /// With when the bytes that are waited for have arrived. `None`: the client may be as slow as it is.
    min_rate: Option<(MinRate, Arc<Arrival>)>,
    /// Since when the client has sent nothing while a byte is asked for.
    idle_since: Option<Instant>,
    timer: DeadlineTimer,
}

impl Body {
    /// `idle_timeout` is how long the client may send nothing while a byte is asked for; the whole body has no time limit.
    pub fn new(payload: Payload, idle_timeout: Duration) -> Self {
        let timer = DeadlineTimer::default();
        Self { payload, read: 0, idle_timeout, min_rate: None, idle_since: None, timer }
    }

    /// With a least rate in bytes per second, over the last seconds in which the gateway waited for the client.
    pub fn with_min_rate(mut self, bytes_per_second: Option<u64>) -> Self {
        self.min_rate = bytes_per_second.map(|rate| (MinRate::new(rate), Arc::default()));
        self
    }

    /// Bytes returned so far.
    pub fn offset(&self) -> u64 {
        self.read
    }

    /// The next chunk, never empty; `None` at the body's valid end.
    pub fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, InboundError>> {
        let arrived = self.min_rate.as_ref().and_then(|(_, arrival)| arrival.take());
        loop {
            match self.poll_payload(cx) {
                Poll::Ready(Some(Ok(chunk))) if chunk.is_empty() => continue,
                Poll::Ready(Some(Ok(chunk))) => {
                    let since = self.idle_since.take();
                    if let Some((min_rate, _)) = &mut self.min_rate {
                        let waited = since.map_or(Duration::ZERO, |since| {
                            arrived.unwrap_or_else(Instant::now).saturating_duration_since(since)
                        });
                        min_rate.sent(chunk.len(), waited);
                    }
                    self.read += chunk.len() as u64;
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(truncated(&error))),
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Pending => {
                    let since = *self.idle_since.get_or_insert_with(Instant::now);
                    let (limit, error) = self.limit();
                    ready!(self.timer.poll(cx, since + limit));
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    fn poll_payload(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        let payload = Pin::new(&mut self.payload);
        match &self.min_rate {
            None => payload.poll_next(cx),
            Some((_, arrival)) => {
                let waker = arrival.waker(cx.waker());
                payload.poll_next(&mut Context::from_waker(&waker))
            }
        }
    }

    /// How long the client may now be waited for, and what it is after that.
    fn limit(&self) -> (Duration, InboundError) {
        if let Some((min_rate, _)) = &self.min_rate
            && let Some(limit) = min_rate.limit().filter(|limit| *limit < self.idle_timeout)
        {
            return (limit, InboundError::TooSlow(min_rate.bytes_per_second()));
        }
        (self.idle_timeout, InboundError::Stalled(self.idle_timeout))
    }
}

/// The body's length from the request's Content-Length; `None` for chunked bodies and for h2 requests without one.
pub fn announced_length(headers: &HeaderMap) -> Option<u64> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Refuses a compressed body: the file's length cannot be known from it, and COS would store it compressed.
pub fn refuse_encoding(headers: &HeaderMap) -> Result<(), InboundError> {
    // The header is a list and may come in several lines (RFC 9110 8.4). `identity` should not be sent; it is ignored.
    let mut codings = headers
        .get_all(CONTENT_ENCODING)
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    let encoded =
        codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
    match encoded {
        None => Ok(()),
        Some(coding) => Err(InboundError::Encoding(String::from_utf8_lossy(coding).into_owned())),
    }
}

/// Every early end of a body (a reset, a close, broken chunk framing) leaves a truncated file.
fn truncated(error: &PayloadError) -> InboundError {
    tracing::debug!(%error, "request body ended early");
    InboundError::Truncated
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use futures::{FutureExt, StreamExt};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    type Sender = UnboundedSender<Result<Bytes, PayloadError>>;

    fn body() -> (Sender, Body) {
        let (sender, payload) = unbounded();
        let payload = Payload::Stream { payload: payload.boxed_local() };
        (sender, Body::new(payload, 60 * SECOND).with_min_rate(Some(1000)))
    }

    /// `None`: pending.
    fn next(body: &mut Body) -> Option<Result<Option<Bytes>, InboundError>> {
        poll_fn(|cx| body.poll_chunk(cx)).now_or_never()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_read_late_have_not_come_late() {
        let (sender, mut body) = body();
        let send = |body: &mut Body| {
            assert!(next(body).is_none());
            sender.unbounded_send(Ok(Bytes::from_static(b"x"))).expect("it reads");
        };
        for _ in 0..20 {
            send(&mut body);
            tokio::time::advance(4 * SECOND).await;
            assert!(matches!(next(&mut body), Some(Ok(Some(_)))));
        }
        // Its own time counts as before.
        for _ in 0..2 {
            assert!(next(&mut body).is_none());
            tokio::time::advance(4 * SECOND).await;
            send(&mut body);
            assert!(matches!(next(&mut body), Some(Ok(Some(_)))));
        }
        assert!(next(&mut body).is_none());
        tokio::time::advance(3 * SECOND).await;
        assert!(matches!(next(&mut body), Some(Err(InboundError::TooSlow(1000)))));
    }
}
