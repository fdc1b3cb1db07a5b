//! Quotas at the edge of the API: what requests reserve, what refused clients are told, and the headers that tell what is
//! left (draft-ietf-httpapi-ratelimit-headers-10).

use std::fmt::Write;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};

use crate::guard::policy::Client;
use crate::http::problem::{Code, Problem};
use crate::http::state::Worker;
use crate::quota::amount::{Amount, DAY, Limit, Refusal, Usage, Wanted};
use crate::quota::quotas::Lifetime;
use crate::quota::reservation::Reservation;
use crate::settings::Quota;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// In seconds. Other uploads of the client have reserved the rest of its quota.
const RETRY_AFTER_OTHERS: u64 = 10;

/// The values of `RateLimit-Policy` and `RateLimit`, in the request's extensions until the response is made.
#[derive(Clone)]
pub struct RateLimitHeaders {
    policy: HeaderValue,
    left: HeaderValue,
}

impl RateLimitHeaders {
    fn new(quota: &Quota, usage: &Usage) -> Option<Self> {
        let (mut policy, mut left) = (String::new(), String::new());
        for limit in usage.limits(quota) {
            let separator = if policy.is_empty() { "" } else { ", " };
            // The default unit is requests; there is none for files.
            let unit = if limit.of_bytes { ";qu=\"content-bytes\"" } else { "" };
            // Writing to a String cannot fail.
            let _ = write!(policy, "{separator}\"{}\";q={}{unit}", limit.name, limit.max);
            let _ = write!(left, "{separator}\"{}\";r={}", limit.name, limit.left());
            if limit.is_daily {
                let _ = write!(policy, ";w={DAY}");
                let _ = write!(left, ";t={}", usage.resets_in);
            }
        }
        let (policy, left) =
            (HeaderValue::try_from(policy).ok()?, HeaderValue::try_from(left).ok()?);
        Some(Self { policy, left })
    }

    pub fn add_to(self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY, self.policy);
        headers.insert(RATE_LIMIT, self.left);
    }
}

/// What a body of `length` bytes stores that is one file, whose size is at most `max`.
pub fn one_file(length: Option<u64>, max: u64) -> Wanted {
    let files = 1;
    Wanted {
        least: Amount { bytes: length.unwrap_or(1), files },
        most: Amount { bytes: length.unwrap_or(max).min(max), files },
    }
}

/// What a form of `length` bytes may store. At least `length` less `overhead` are files.
pub fn form(length: Option<u64>, overhead: u64, max_size: u64, max_files: usize) -> Wanted {
    let files = max_files as u64;
    let most = max_size.saturating_mul(files);
    let least = length.unwrap_or_default().saturating_sub(overhead).max(1);
    Wanted {
        least: Amount { bytes: least, files: 1 },
        most: Amount { bytes: length.unwrap_or(most).min(most).max(least), files },
    }
}

/// Reserves a part of the client's quota; `None`: it has none.
pub async fn reserve(
    request: &HttpRequest,
    worker: &Worker,
    client: &Client,
    wanted: Wanted,
    lifetime: Lifetime,
) -> Result<Option<Reservation>, Problem> {
    let Some(quota) = &client.quota else { return Ok(None) };
    let subject = client.quota_subject(quota);
    match Reservation::new(&worker.shared.quotas, quota, subject, wanted, lifetime).await {
        Ok(reservation) => {
            show(request, quota, &reservation.usage());
            Ok(Some(reservation))
        }
        Err((refusal, usage)) => {
            show(request, quota, &usage);
            Err(problem(refusal, &usage))
        }
    }
}

/// Ends a reservation. The response tells what is left.
pub async fn conclude(request: &HttpRequest, reservation: Reservation) {
    let quota = reservation.quota().clone();
    let usage = reservation.conclude().await;
    show(request, &quota, &usage);
}

/// Ends the reservation of a resumable upload, of which so many bytes are stored; `None`: it is not stored. `is_repeated`:
/// another gateway may have done so before; it is then counted only if the reservation is still there.
pub async fn conclude_resumable(
    worker: &Worker,
    client: &Client,
    id: &[u8; 16],
    stored: Option<u64>,
    is_repeated: bool,
) {
    if let Some(quota) = &client.quota {
        let subject = client.quota_subject(quota).into();
        let stored = stored.map_or(Amount::NONE, |bytes| Amount { bytes, files: 1 });
        worker.shared.quotas.conclude(quota, &subject, id, stored, is_repeated).await;
    }
}

/// The problem of a request that would store more than was granted to it.
pub fn exceeded(reservation: &Reservation, more: Amount) -> Problem {
    let (refusal, usage) = reservation.refusal(more);
    problem(refusal, &usage)
}

fn show(request: &HttpRequest, quota: &Quota, usage: &Usage) {
    if let Some(headers) = RateLimitHeaders::new(quota, usage) {
        request.extensions_mut().insert(headers);
    }
}

fn problem(refusal: Refusal, usage: &Usage) -> Problem {
    let of = |limit: &Limit| {
        let unit = if limit.of_bytes { "bytes" } else { "files" };
        format!("{} {unit}", limit.max)
    };
    match refusal {
        Refusal::LargerThanDay(limit) => {
            let detail = format!("the quota allows {} a day, and this is more", of(&limit));
            Problem::new(Code::FileTooLarge, detail)
        }
        Refusal::Total(limit) => {
            let detail = format!(
                "the quota allows {} in all, of which {} are used; this is more than is left",
                of(&limit),
                limit.used
            );
            Problem::new(Code::TotalQuotaExceeded, detail)
        }
        Refusal::Day(limit) => {
            let detail = format!(
                "the quota allows {} a day, of which {} are used; this is more than is left today",
                of(&limit),
                limit.used
            );
            Problem::new(Code::DailyQuotaExceeded, detail).retry_after(usage.resets_in)
        }
        Refusal::Reserved => {
            let detail = "other uploads of this client that are not complete have reserved the rest of its quota; try \
                          again when they are complete";
            Problem::new(Code::RateLimited, detail).retry_after(RETRY_AFTER_OTHERS)
        }
        Refusal::Full => Problem::overloaded("there are too many clients, or uploads, to count"),
    }
}
