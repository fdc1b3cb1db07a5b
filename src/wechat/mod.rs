//! WeChat's side: credentials, access tokens, upload and download links.
//!
//! Knows nothing of clients, forms or COS connections.
//!
//! - `api`: the `/tcb` calls, with a token, in time, again where that may help
//! - `access`: what a call shows of who we are; `credential` (how a token is fetched), `token` (the one in use),
//!   `replicas` (the one in Redis), `file` (one that the platform writes)
//! - `links`: download links that are still good
//! - `wire`: requests and replies as they stand on the wire; `advice`: what an error code asks a person to do

mod answer;
pub mod api;
pub mod auth;
pub mod error;
pub mod error_hints;
mod lenient;
pub mod links;
mod reply;
pub mod token;
pub mod transport;
pub mod wire;
