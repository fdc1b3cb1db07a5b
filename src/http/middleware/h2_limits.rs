//! HTTP/2 limits that the h2 library does not enforce: concurrent requests on one connection, and the size of a
//! request's head.

use actix_web::dev::ServiceRequest;
use actix_web::http::Version;

use crate::http::problem::{Code, Problem};
use crate::server::connection_limit::ConnectionHandle;

/// Concurrent requests on one connection; further ones are refused. Browsers rely on 100 and send at most 256.
const MAX_REQUESTS: usize = 256;
/// A connection with more concurrent requests than this is a flood and is closed.
const FLOOD_REQUESTS: usize = 1024;
/// Fields of a request's head, as over HTTP/1.
const MAX_FIELDS: usize = 96;
/// Bytes of a request's head, as over HTTP/1.
const MAX_HEAD: usize = 32 * 1024;

/// Refuses a request beyond these limits. Closes the connection at [`FLOOD_REQUESTS`] and on an oversized head: no
/// well-behaved client sends either.
pub fn check(request: &ServiceRequest, handle: &ConnectionHandle) -> Result<(), Problem> {
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    if handle.requests() > MAX_REQUESTS {
        if handle.requests() > FLOOD_REQUESTS {
            handle.abort();
        }
        return Err(Problem::overloaded("this connection has too many requests running already"));
    }
    handle.flood_detector().used_request();
    let headers = request.headers();
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = request.path().len() + request.query_string().len();
    if headers.len() > MAX_FIELDS || fields + target > MAX_HEAD {
        handle.abort();
        let detail =
            format!("a request's head has at most {MAX_FIELDS} fields and {MAX_HEAD} bytes");
        return Err(Problem::new(Code::FieldsTooLarge, detail));
    }
    Ok(())
}
