//! What applies to every request, one concern per file. `request` and `origin` are the middleware functions; the other
//! files are used by them, or by upload handlers (`idempotency`, `server_timing`).

pub mod access_log;
pub mod h2_limits;
pub mod idempotency;
pub mod origin;
pub mod request;
pub mod request_body;
pub mod request_context;
pub mod request_id;
pub mod request_span;
pub mod server_timing;
