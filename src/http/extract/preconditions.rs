//! Refuses to write under a precondition. COS's forms cannot check one, and if it were ignored, a file would be overwritten
//! or deleted that the client wants to keep (RFC 9110, 13.1).

use actix_web::http::header::{HeaderMap, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};

use crate::http::problem::{Code, Problem};

/// Fails if the request has a precondition.
pub fn refuse(headers: &HeaderMap) -> Result<(), Problem> {
    let found = [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE]
        .into_iter()
        .find(|name| headers.contains_key(name));
    found.map_or(Ok(()), |name| {
        let detail = format!(
            "the precondition `{name}` cannot be checked, and nothing was written: leave it out, and let the gateway \
             generate the path where no file may be overwritten"
        );
        Err(Problem::new(Code::InvalidRequest, detail))
    })
}
