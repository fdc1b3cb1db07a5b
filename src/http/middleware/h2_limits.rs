//! Limits that the h2 library leaves to its user: streams of one connection at once, and the size of a request's head.

use actix_web::dev::ServiceRequest;
use actix_web::http::Version;

use crate::http::problem::{Code, Problem};
use crate::server::connection_limit::ConnectionHandle;

/// Requests at once; browsers take 100 for granted and send no more than 256. One more is refused.
const REQUESTS: usize = 256;
/// From here on a connection is a flood, and ended.
const FLOOD: usize = 1024;
/// A request's head, as over HTTP/1: its fields, and its bytes.
const FIELDS: usize = 96;
const HEAD: usize = 32 * 1024;

/// Refuses what no honest client sends; the worst of it with the end of the connection.
pub fn admit(request: &ServiceRequest, handle: &ConnectionHandle) -> Result<(), Problem> {
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    if handle.requests() > REQUESTS {
        if handle.requests() > FLOOD {
            handle.abort();
        }
        return Err(Problem::crowded("this connection has too many requests running already"));
    }
    handle.flood_detector().used_request();
    let headers = request.headers();
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() > FIELDS || fields + request.path().len() + request.query_string().len() > HEAD
    {
        handle.abort();
        let detail = format!("a request's head has at most {FIELDS} fields and {HEAD} bytes");
        return Err(Problem::new(Code::FieldsTooLarge, detail));
    }
    Ok(())
}
