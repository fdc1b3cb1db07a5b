//! HTTP/1 in front of actix-http: heads are checked, and bodies read, before it sees either.

pub mod body_reader;
pub mod chunked;
pub mod head_scan;
