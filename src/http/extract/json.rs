//! JSON in requests and responses: bodies are buffered up to a limit and within a time limit, and errors reported as
//! problems; timestamps are formatted.

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

/// The limit of a body with up to 1000 file ids of maximal length, in bytes.
pub const LONG_LIMIT: usize = 4 * 1024 * 1024;
/// The limit of a body with one file id or a few parameters, in bytes.
pub const SHORT_LIMIT: usize = 16 * 1024;
/// The limit of all buffered bodies longer than [`SHORT_LIMIT`] together, in bytes.
pub const TOTAL_LIMIT: u64 = 64 * 1024 * 1024;
/// The time limit of a whole body, however slowly its bytes arrive: unlike a file it is short.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit from the beginning of a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// Values in one body: more than 1000 files of four members each. A value of two bytes takes a hundred times as much
/// memory once it is parsed.
const MAX_VALUES: usize = 16 * 1024;

/// In UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Buffers the whole body, of at most `limit` bytes, without its byte order mark. It must arrive within
/// [`BODY_TIMEOUT`], with no pause longer than `upload.idle_timeout`.
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
        sleep(SHUTDOWN_TIMEOUT).await;
    };
    select! {
        read = timeout(BODY_TIMEOUT, buffer(body, charge, limit)) => read.unwrap_or_else(|_| {
            let detail = format!(
                "the body did not arrive within {} s; send it again, over a better connection or in smaller requests",
                BODY_TIMEOUT.as_secs()
            );
            Err(Problem::new(Code::ClientStalled, detail))
        }),
        () = shutdown => Err(Problem::draining()),
    }
}

async fn buffer(mut body: Body, mut charge: Charge, limit: usize) -> Result<Bytes, Problem> {
    let mut buffered = BytesMut::new();
    while let Some(chunk) = poll_fn(|cx| body.poll_chunk(cx)).await.map_err(truncated)? {
        if buffered.len() + chunk.len() > limit {
            let detail = format!("the body of this request is at most {limit} bytes long");
            return Err(Problem::new(Code::FieldsTooLarge, detail));
        }
        // Short bodies are bounded by the limit of connections.
        if buffered.len() + chunk.len() > SHORT_LIMIT && charge.grow(chunk.len()).is_err() {
            return Err(Problem::overloaded("too many long requests are being read already"));
        }
        buffered.extend_from_slice(&chunk);
    }
    if count_values(&buffered) > MAX_VALUES {
        let detail = format!("the body has more than {MAX_VALUES} values; name fewer files");
        return Err(Problem::new(Code::TooManyFiles, detail));
    }
    let mut buffered = buffered.freeze();
    // .NET and PowerShell send it before UTF-8.
    if buffered.starts_with(BYTE_ORDER_MARK) {
        buffered.advance(BYTE_ORDER_MARK.len());
    }
    Ok(buffered)
}

/// An upper bound of the number of values in a JSON text, counted before the text is parsed.
fn count_values(text: &[u8]) -> usize {
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

/// The body, which is a JSON object, as a `T`; at most `limit` bytes.
pub async fn read<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: Payload,
    worker: &Worker,
    limit: usize,
) -> Result<T, Problem> {
    let bytes = bytes(request, payload, worker, limit).await?;
    // serde would read the values of a list as members by their position.
    if bytes.trim_ascii_start().starts_with(b"[") {
        let detail = "the body is not the expected JSON: it is a list, and not an object";
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::new(Code::InvalidRequest, format!("the body is not the expected JSON: {error}"))
    })
}

/// The problem for a body that breaks off, without the usual text about stored files: requests with JSON store none.
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
    use super::count_values;

    #[test]
    fn values_are_counted_outside_strings_only() {
        for (text, count) in [
            (r#"{"files":["a,b","[{"]}"#, 3),
            (r#"["\\",1,{"a\",b":2}]"#, 4),
            ("not JSON, at all", 1),
            ("", 0),
        ] {
            assert_eq!(count_values(text.as_bytes()), count, "{text}");
        }
    }
}
