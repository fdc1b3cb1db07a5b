//! Stores a file in COS: the form, the relay that fills it, the connections, and COS's verdict.
//!
//! It is given a file's source and an upload link, and knows nothing of clients, tokens or HTTP responses to clients.

pub mod error;
pub mod form;
pub mod relay;
mod replayable_file;
pub mod target;
pub mod upstream;
pub mod verdict;
