//! Streams files from browsers and apps into WeChat CloudBase storage (Tencent COS) through one endpoint.
//!
//! # One upload
//!
//! `http::upload` calls the stages in order; each knows the data of those below it and nothing of those above:
//!
//! 1. [`guard`]: who is calling, and may they? Before a byte of the body is read.
//! 2. [`inbound`]: the form's fields, then the file's bytes as they come, with what is known of their length.
//! 3. [`key`]: the object's path, the client's own or the template's.
//! 4. [`wechat`]: an upload link for that path, by an access token that all workers share.
//! 5. [`cos`]: the form COS wants, its length announced exactly, its last delimiter sent only after the client's
//!    body has ended validly, its verdict read while it is still being sent.
//! 6. `http::reply`: the file's id and a stable address.
//!
//! WeChat's calls and the form go over connections that each worker keeps ([`pool`]).
//!
//! Nothing is buffered but a bounded window of each file's beginning ([`memory`]), so that a failed attempt can be
//! repeated.

pub mod app;
pub mod cli;
pub mod cos;
pub mod file_stream;
pub mod guard;
pub mod http;
pub mod inbound;
pub mod key;
pub mod memory;
pub mod metrics;
pub mod net;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod server;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod wechat;
