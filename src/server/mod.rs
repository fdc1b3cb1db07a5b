//! The side towards clients, below HTTP's handlers: accepting connections, limiting and closing them, reading HTTP/1
//! requests off the socket. Knows nothing of `http/`.

pub mod client_stream;
pub mod connection_limit;
pub mod fd_limit;
pub mod h1;
pub mod h2_flood;
pub mod listener;
pub mod load_shed_log;
