//! Client connections below the HTTP handlers: how HTTP/1 requests are taken off a socket.

pub mod client_stream;
pub mod connection_limit;
pub mod fd_limit;
pub mod h1;
pub mod h2_flood;
pub mod listener;
