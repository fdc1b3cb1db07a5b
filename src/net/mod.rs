//! What connections are made of, on either side: TLS set-up, the HTTP/1.1 client for upstreams, Redis, deadlines, pauses
//! after failures, what a server says that refuses something, and the header that names a trace.

pub mod backoff;
pub mod deadline;
pub mod http_client;
pub mod redis;
pub mod redis_map;
pub mod refusal;
pub mod tls;
pub mod trace_context;
