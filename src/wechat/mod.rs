//! The client of WeChat's API: access tokens, upload links, download links, deletions.
//!
//! Knows nothing of clients, forms or connections to COS.
//!
//! - `api`: the `/tcb` calls, with authentication, a time limit and retries
//! - `deletion`: the call that deletes files
//! - `auth`: how calls authenticate; `token`: access tokens (`cache`: the one in use, `fetch`: how one is fetched,
//!   `redis`: the one shared by several gateways, `file`: one that the platform writes into a file)
//! - `by_file`: the results of a call for several files
//! - `links`: the cache of download links; `shared_links`: the one of all gateways, in Redis
//! - `redis_probe`: whether Redis can be used
//! - `warm_links`: upload links that are asked for in advance; `call_quota`: how long to wait when a call's quota is used up
//! - `transport`: HTTP requests and responses of all these calls
//! - `response`: from an HTTP response to a result; `response_body`: the JSON with its error code; `lenient`: JSON
//!   values that WeChat writes in more than one form; `wire`: the JSON objects and the classes of error codes
//! - `error`: how a call fails; `error_hints`: what to change, per error code

pub mod api;
pub mod auth;
mod by_file;
mod call_quota;
mod deletion;
pub mod error;
pub mod error_hints;
mod lenient;
pub mod links;
pub mod redis_probe;
mod response;
mod response_body;
mod shared_links;
pub mod token;
pub mod transport;
pub mod warm_links;
pub mod wire;
