//! What connections are made of, on either side: TLS set-up, the HTTP/1.1 client for upstreams, write batching,
//! deadlines.

pub mod deadline;
pub mod http_client;
pub mod tls;
pub mod write_batch;
