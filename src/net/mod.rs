//! Connections to other services: TLS set-up, the HTTP/1.1 client, write batching.

pub mod http_client;
pub mod tls;
pub mod write_batch;
