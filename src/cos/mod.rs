//! Stores a file in COS: the form, the relay that fills it, the connections, and COS's verdict.
//!
//! It is given a file's source and an upload link, and knows nothing of clients, tokens or HTTP responses to clients.
//!
//! - `target`: whether an upload link may be used; `form`: the fields and delimiters around a file
//! - `attempt`: one attempt and the check of its length; `replayable_file`: what further attempts need, `pace`: the
//!   client's speed; `relay`: runs attempts
//! - `crc64`: the CRC of parts that follow each other
//! - `upstream`: the connection and its time limits; `verdict`: what COS's response says; `error`: the stage's error
//! - `head`: what the storage says of an object
//! - `api`: COS's own API, the other way to store a file

pub mod api;
mod attempt;
mod crc64;
pub mod error;
pub mod form;
mod head;
mod pace;
pub mod relay;
pub mod replayable_file;
pub mod target;
pub mod upstream;
pub mod verdict;
