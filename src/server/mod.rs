//! The side towards clients, below HTTP's handlers: accepting connections, limiting and closing them, reading HTTP/1
//! requests off the socket. Knows nothing of `http/`.
//!
//! - `listener`: accepts, TLS, HTTP/1 or h2; `client_stream`: the socket, below TLS
//! - `closing`: closes the listening socket without losing what it has queued
//! - `connection_limit`, `load_shed_log`, `fd_limit`: how many connections there may be, and which is closed first
//! - `h1`: what HTTP/1 reads of it, heads and bodies; `h2_stream`: what h2 reads; `h2_flood`: frames that carry nothing

pub mod client_stream;
pub mod closing;
pub mod connection_limit;
pub mod fd_limit;
pub mod h1;
pub mod h2_flood;
pub mod h2_stream;
pub mod listener;
pub mod load_shed_log;
