//! Who may do what, decided before a byte of a body is read.

pub mod auth;
pub mod limits;
pub mod origin;
pub mod policy;
