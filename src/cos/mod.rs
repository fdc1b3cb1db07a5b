//! Stores a file in COS: the form, the relay that fills it, the connections, and COS's verdict.
//!
//! It is given a file's source and an upload link, and knows nothing of clients, tokens or HTTP responses to clients.
//!
//! - `target`: whether an upload link may be used; `form`: the fields and delimiters around a file
//! - `replayable_file`: the form of one attempt and the check of its length; `relay`: one attempt
//! - `upstream`: the connection and its time limits; `verdict`: what COS's response says; `error`: the stage's error

pub mod error;
pub mod form;
pub mod relay;
mod replayable_file;
pub mod target;
pub mod upstream;
pub mod verdict;
