//! The other endpoints.

pub mod batch;
pub mod fallback;
pub mod files;
pub mod health;
pub mod ueditor_config;
pub mod upload_links;
