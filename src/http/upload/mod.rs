//! Uploads: the stages in order.

pub mod handler;
pub mod partial;
pub mod request;
pub mod transfer;
