//! `Idempotency-Key`: an upload that is repeated under the same key gets the response of the first one.

use actix_web::body::MessageBody;
use actix_web::http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;

use crate::guard::idempotency::{Claim, IdempotencyGuard, RetainedResponse};
use crate::guard::policy::Client;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// What a PUT says of its file. The length of a form depends on its boundary, too, which a repeat may have anew.
static OF_BODY: [HeaderName; 4] = [
    CONTENT_LENGTH,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];
/// What the creation of a resumable upload says of the file.
static OF_UPLOAD: [HeaderName; 2] =
    [HeaderName::from_static("upload-length"), HeaderName::from_static("upload-metadata")];
/// Bytes.
const MAX_KEY: usize = 255;

/// What to do with a request, by its key.
pub enum KeyCheck {
    /// Serve the request. If it has a key, [`record`] takes the guard and the response.
    Proceed(Option<IdempotencyGuard>),
    /// Send this response, which an earlier request under the same key got.
    Replay(HttpResponse),
}

/// Checks the request's key. Waits while another request under the same key is running.
pub async fn check(
    request: &HttpRequest,
    worker: &Worker,
    client: &Client,
) -> Result<KeyCheck, Problem> {
    match request.headers().get(&KEY) {
        None => Ok(KeyCheck::Proceed(None)),
        // Boxed: otherwise the future of every upload would contain it.
        Some(key) => Box::pin(claim(request, worker, client, key)).await,
    }
}

async fn claim(
    request: &HttpRequest,
    worker: &Worker,
    client: &Client,
    key: &HeaderValue,
) -> Result<KeyCheck, Problem> {
    let is_valid = |key: &&str| {
        (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let key = key.to_str().ok().filter(is_valid).ok_or_else(|| {
        let detail = format!(
            "an Idempotency-Key is 1 to {MAX_KEY} printable ASCII characters without spaces"
        );
        Problem::new(Code::InvalidRequest, detail)
    })?;
    // A repeat may carry a new ticket, as it may have a new form boundary.
    let query = request.query_string().split('&');
    let query = query.filter(|pair| !pair.is_empty() && !pair.starts_with("ticket="));
    let mut parts = vec![request.method().as_str(), request.path()];
    parts.extend(query);
    let of_file: &[HeaderName] = match *request.method() {
        Method::PUT => &OF_BODY,
        _ => &OF_UPLOAD,
    };
    parts.extend(of_file.iter().filter_map(|name| request.headers().get(name)?.to_str().ok()));
    match worker.shared.idempotency.claim(client, key, &parts).await {
        Claim::First(claim) => Ok(KeyCheck::Proceed(Some(claim))),
        Claim::Completed(answer) => Ok(KeyCheck::Replay(replayed(&answer))),
        Claim::Mismatch => Err(Problem::new(
            Code::InvalidRequest,
            "this Idempotency-Key was used for another request within the last 10 minutes",
        )),
    }
}

/// Records a response for repeats of its request.
pub fn record(claim: IdempotencyGuard, response: HttpResponse) -> HttpResponse {
    let (head, body) = response.into_parts();
    match body.try_into_bytes() {
        Ok(body) => {
            // The headers that belong to one request (its id, its timing, CORS) are added later, by middleware.
            let headers = head.headers().iter();
            claim.complete(RetainedResponse {
                status: head.status().as_u16(),
                headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
                // A copy: a body that was written in steps may have twice the capacity that it needs.
                body: Bytes::copy_from_slice(&body),
            });
            head.set_body(body).map_into_boxed_body()
        }
        Err(body) => head.set_body(body),
    }
}

fn replayed(recorded: &RetainedResponse) -> HttpResponse {
    let status = StatusCode::from_u16(recorded.status).unwrap_or(StatusCode::OK);
    let mut response = HttpResponse::build(status);
    for header in &recorded.headers {
        response.append_header(header.clone());
    }
    response.insert_header((REPLAYED, "true")).body(recorded.body.clone())
}
