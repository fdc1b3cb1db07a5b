//! What a request contains: its client's credential, its query, its JSON body, and the files that it names.

pub mod client;
pub mod file_ref;
pub mod file_url;
pub mod json;
pub mod preconditions;
pub mod query;
pub mod schemas;
pub mod variant;
