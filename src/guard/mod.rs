//! Authentication, permissions, limits and allowed types: all that is decided before a byte of a body is read, and what
//! a file's first bytes must confirm.

pub mod auth;
pub mod forwarded;
pub mod idempotency;
pub mod limits;
pub mod links;
pub mod origin;
pub mod policy;
pub mod ticket;
pub mod types;
