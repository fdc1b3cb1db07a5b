//! Authentication, permissions, limits and allowed types: all that is decided before a byte of a body is read, and what
//! a file's first bytes must confirm.
//!
//! - `auth`, `ticket`: credentials; `jwks`: the keys of tickets that an issuer publishes; `forward_auth`: the owner's auth
//!   server decides where a request has none; `minting`, `receipts`: what the gateway signs; `policy`: what a client may
//!   do; `limits`: rates, slots, memory
//! - `origin`: pages that may call; `forwarded`: what trusted proxies report; `links`: signed URLs of files
//! - `types`: media types, the declared and the real; `idempotency`: repeated uploads

pub mod auth;
pub mod forward_auth;
pub mod forwarded;
pub mod idempotency;
pub mod jwks;
pub mod limits;
pub mod links;
pub mod minting;
pub mod origin;
pub mod policy;
pub mod receipts;
pub mod ticket;
pub mod types;
