//! Stored files by their stable address.

use std::time::Instant;

use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};

use super::problem::{Code, Problem};
use super::{Worker, address};
use crate::key::Key;

/// Browsers may keep a redirect this long at most, in seconds: a file that is replaced should show soon.
const LONGEST_CACHED: u64 = 300;

/// `GET` and `HEAD /v1/files/{path}`: 302 to a temporary address.
pub async fn redirect(
    request: HttpRequest,
    worker: web::Data<Worker>,
) -> Result<HttpResponse, Problem> {
    let key = Key::parse(&address::path(&request)?)?;
    let link = worker.wechat.download_link(key.as_str()).await?.ok_or_else(|| {
        Problem::new(
            Code::FileNotFound,
            format!(
                "`{key}` does not exist, or was stored without its x-cos-meta-fileid: such a file can never be \
                 downloaded, only deleted and sent again"
            ),
        )
    })?;
    let left = link.usable_until.saturating_duration_since(Instant::now()).as_secs();
    Ok(HttpResponse::Found()
        .insert_header((LOCATION, link.url))
        .insert_header((CACHE_CONTROL, format!("private, max-age={}", left.min(LONGEST_CACHED))))
        .finish())
}
