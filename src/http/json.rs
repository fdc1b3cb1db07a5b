//! JSON bodies of requests: read whole within a bound, and what is wrong with one told as a problem. And how a time
//! stands in a reply.

use std::future::poll_fn;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::problem::{Code, Problem};
use crate::inbound::InboundError;
use crate::inbound::body::{Body, refuse_encoding};

/// For a thousand file ids of the longest kind.
pub const LONG: usize = 4 * 1024 * 1024;
/// For one file's id, or a few parameters.
pub const SHORT: usize = 16 * 1024;

/// The whole body, of at most `limit` bytes; `idle` is how long its sender may be silent.
pub async fn bytes(
    request: &HttpRequest,
    payload: Payload,
    idle: Duration,
    limit: usize,
) -> Result<Bytes, Problem> {
    refuse_encoding(request.headers())?;
    let mut body = Body::new(payload.into_inner(), idle);
    let mut whole = BytesMut::new();
    while let Some(chunk) = poll_fn(|cx| body.poll_chunk(cx)).await.map_err(truncated)? {
        if whole.len() + chunk.len() > limit {
            let detail = format!("a request of JSON is at most {limit} bytes long");
            return Err(Problem::new(Code::FieldsTooLarge, detail));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// The body as a value.
pub async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    idle: Duration,
) -> Result<T, Problem> {
    let bytes = bytes(request, payload, idle, LONG).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::new(
            Code::InvalidRequest,
            format!("the body is not the JSON that is asked for: {error}"),
        )
    })
}

/// Nothing is stored here, so nothing is said of it.
fn truncated(error: InboundError) -> Problem {
    match error {
        InboundError::Truncated => Problem::new(Code::TruncatedBody, error.to_string()),
        error => error.into(),
    }
}

/// RFC 3339 in UTC, to the second.
pub fn timestamp(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}
