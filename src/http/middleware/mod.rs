//! What every request passes on its way to a handler, and every response on its way back: one concern a file.

pub mod h2_limits;
pub mod idempotency;
pub mod request;
pub mod request_body;
pub mod server_timing;
