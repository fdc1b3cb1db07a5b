//! Middleware and what it uses: one concern per file.

pub mod access_log;
pub mod h2_limits;
pub mod idempotency;
pub mod origin;
pub mod request;
pub mod request_body;
pub mod request_id;
pub mod server_timing;
