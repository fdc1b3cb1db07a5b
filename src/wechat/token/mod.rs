//! Access tokens: cached in the process, shared through Redis, fetched from WeChat, or read from a file.

pub mod cache;
pub mod fetch;
pub mod file;
pub mod redis;
