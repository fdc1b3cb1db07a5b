//! JSON bodies of requests: read whole within a bound and a time, and what is wrong with one told as a problem. And how a
//! time stands in a reply.

use std::future::poll_fn;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::web::Payload;
use bytes::{Buf, Bytes, BytesMut};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio::select;
use tokio::time::{sleep, timeout};

use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::inbound::body::{Body, refuse_encoding};
use crate::inbound::error::InboundError;
use crate::memory::budget::{Charge, Share};

/// For a thousand file ids of the longest kind.
pub const LONG: usize = 4 * 1024 * 1024;
/// For one file's id, or a few parameters.
pub const SHORT: usize = 16 * 1024;
/// What all bodies longer than [`SHORT`] may take together, in bytes.
pub const ALL: u64 = 64 * 1024 * 1024;
/// A body may take this long from its first byte to its last, however it is dribbled in. Unlike a file it is short.
const LONGEST: Duration = Duration::from_secs(10);
/// And this long once the gateway is told to end.
const LONGEST_AT_SHUTDOWN: Duration = Duration::from_secs(2);
/// Values in one body: a thousand files of four members each, and room. A value of two bytes takes a hundred times as much
/// once it is parsed.
const MOST_VALUES: usize = 16 * 1024;

/// Of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The whole body without a byte order mark, of at most `limit` bytes, within [`LONGEST`] and without a silence longer than
/// `upload.idle_timeout`.
pub async fn bytes(
    request: &HttpRequest,
    payload: Payload,
    worker: &Worker,
    limit: usize,
) -> Result<Bytes, Problem> {
    refuse_encoding(request.headers())?;
    let idle = worker.shared.settings.upload.idle_timeout;
    let body = Body::new(payload.into_inner(), idle);
    let charge = Charge::new(Share::new(worker.shared.json_budget.clone()));
    let shutdown = async {
        worker.shared.shutdown.cancelled().await;
        sleep(LONGEST_AT_SHUTDOWN).await;
    };
    select! {
        read = timeout(LONGEST, whole(body, charge, limit)) => read.unwrap_or_else(|_| {
            let detail = format!(
                "the body did not arrive within {} s; send it again, over a better connection or in smaller requests",
                LONGEST.as_secs()
            );
            Err(Problem::new(Code::ClientStalled, detail))
        }),
        () = shutdown => Err(Problem::draining()),
    }
}

async fn whole(mut body: Body, mut charge: Charge, limit: usize) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = poll_fn(|cx| body.poll_chunk(cx)).await.map_err(truncated)? {
        if whole.len() + chunk.len() > limit {
            let detail = format!("the body of this request is at most {limit} bytes long");
            return Err(Problem::new(Code::FieldsTooLarge, detail));
        }
        // Short ones are bounded by the number of connections.
        if whole.len() + chunk.len() > SHORT && charge.grow(chunk.len()).is_err() {
            return Err(Problem::overloaded("too many long requests are being read already"));
        }
        whole.extend_from_slice(&chunk);
    }
    if values(&whole) > MOST_VALUES {
        let detail = format!("the body holds more than {MOST_VALUES} values; name fewer files");
        return Err(Problem::new(Code::TooManyFiles, detail));
    }
    let mut whole = whole.freeze();
    // .NET and PowerShell put it before what they send as UTF-8.
    if whole.starts_with(BYTE_ORDER_MARK) {
        whole.advance(BYTE_ORDER_MARK.len());
    }
    Ok(whole)
}

/// How many values there are at most in what may be JSON: it is looked at before it is parsed.
fn values(text: &[u8]) -> usize {
    let (mut values, mut in_string, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

/// The body as a value; at most `limit` bytes.
pub async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    worker: &Worker,
    limit: usize,
) -> Result<T, Problem> {
    let bytes = bytes(request, payload, worker, limit).await?;
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

#[cfg(test)]
mod tests {
    use super::values;

    #[test]
    fn values_are_counted_outside_of_strings_only() {
        for (text, count) in [
            (r#"{"files":["a,b","[{"]}"#, 3),
            (r#"["\\",1,{"a\",b":2}]"#, 4),
            ("not JSON, at all", 1),
            ("", 0),
        ] {
            assert_eq!(values(text.as_bytes()), count, "{text}");
        }
    }
}
