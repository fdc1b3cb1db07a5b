//! The endpoints of the `/v1` API besides uploads, and those for operation.

pub mod batch;
pub mod fallback;
pub mod files;
pub mod health;
pub mod info;
pub mod links;
pub mod tickets;
pub mod ueditor_config;
pub mod upload_links;
