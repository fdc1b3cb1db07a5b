//! What a request says: its client, its JSON, its query, the files it names.

pub mod client;
pub mod file_ref;
pub mod file_url;
pub mod json;
pub mod query;
pub mod schemas;
