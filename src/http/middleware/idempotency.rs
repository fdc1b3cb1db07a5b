//! `Idempotency-Key`: an upload that is sent again gets the reply of the first.

use actix_web::body::MessageBody;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderName;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;

use crate::guard::idempotency::{Answer, Claim, IdempotencyGuard};
use crate::guard::policy::Client;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// In bytes of printable ASCII.
const LONGEST_KEY: usize = 255;

/// What a request's key says of it.
pub enum Claimed {
    /// Do it; with a key, the claim is to be ended by [`keep`].
    Go(Option<IdempotencyGuard>),
    /// It was done already.
    Replayed(HttpResponse),
}

/// Waits until nobody else does what the request's key stands for.
pub async fn begin(
    request: &HttpRequest,
    worker: &Worker,
    client: &Client,
) -> Result<Claimed, Problem> {
    let Some(value) = request.headers().get(&KEY) else {
        return Ok(Claimed::Go(None));
    };
    let sane = |key: &&str| {
        (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let key = value.to_str().ok().filter(sane).ok_or_else(|| {
        let detail =
            format!("an Idempotency-Key is 1 to {LONGEST_KEY} printable characters without blanks");
        Problem::new(Code::InvalidRequest, detail)
    })?;
    // A ticket may be a new one in a repeat, as a form's boundary is.
    let query = request.query_string().split('&');
    let query = query.filter(|pair| !pair.is_empty() && !pair.starts_with("ticket="));
    let mut parts = vec![request.method().as_str(), request.path()];
    parts.extend(query);
    match worker.shared.idempotency.begin(client, key, &parts).await {
        Claim::Granted(claim) => Ok(Claimed::Go(Some(claim))),
        Claim::Done(answer) => Ok(Claimed::Replayed(reply(&answer))),
        Claim::Other => Err(Problem::new(
            Code::InvalidRequest,
            "this Idempotency-Key was used for another request within the last 10 minutes",
        )),
    }
}

/// Keeps a reply for repeats.
pub fn keep(claim: IdempotencyGuard, reply: HttpResponse) -> HttpResponse {
    let (head, body) = reply.into_parts();
    match body.try_into_bytes() {
        Ok(body) => {
            // All of them: the request's own (its id, its timing, CORS) are added further out.
            let headers = head.headers().iter();
            claim.done(Answer {
                status: head.status().as_u16(),
                headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
                // A copy: a body that was written piece by piece may have twice its room.
                body: Bytes::copy_from_slice(&body),
            });
            head.set_body(body).map_into_boxed_body()
        }
        Err(body) => head.set_body(body),
    }
}

fn reply(answer: &Answer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut reply = HttpResponse::build(status);
    for header in &answer.headers {
        reply.append_header(header.clone());
    }
    reply.insert_header((REPLAYED, "true")).body(answer.body.clone())
}
