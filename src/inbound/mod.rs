//! What a client sends: a form or a raw body, read without keeping the file.
//!
//! Knows the pieces the relay takes ([`crate::file_stream::FileEvent`]), nothing of links, tokens or HTTP statuses.

pub mod body;
pub mod boundary;
pub mod chunking;
pub mod digest;
pub mod disposition;
pub mod encoding;
pub mod error;
mod fields;
pub mod form;
pub mod head;
pub mod hold;
pub mod limit;
pub mod raw;
pub mod scan;
pub mod sniff;
mod stray;
mod text;
