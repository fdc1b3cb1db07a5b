//! ApiAuth tokens: cached in the process, shared by Redis, fetched from WeChat, or read from a file.

pub mod cache;
pub mod fetch;
pub mod file;
pub mod redis;
