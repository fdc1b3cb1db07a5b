//! Who may do what, and how much of it, decided before a byte of a body is read.

pub mod auth;
pub mod forwarded;
pub mod idempotency;
pub mod limits;
pub mod links;
pub mod origin;
pub mod policy;
pub mod ticket;
pub mod types;
