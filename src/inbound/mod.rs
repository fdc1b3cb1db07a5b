//! Reads what a client sends, a form or a raw body, without storing the file.
//!
//! Its output is a stream of [`crate::file_stream::FileEvent`]s. It knows nothing of upload links, tokens or HTTP
//! statuses.
//!
//! - `body`: the request's body, its Content-Length and its idle timeout; `min_rate`, `arrival`: how slow its client may be;
//!   `raw`, `limit`, `digest`: a body that is a file
//! - `boundary`, `scan`, `delimiter_line`, `misplaced_boundary`: a form's delimiters
//! - `form`: a form's parts in order; `head`, `disposition`, `encoding`, `actix_field`: their headers; `fields`,
//!   `chunking`: the fields before a file
//! - `buffer`: files of unknown length; `sniff`: a file's first bytes
//! - `error`: the stage's error; `text`: a client's bytes in messages

mod actix_field;
mod arrival;
pub mod body;
pub mod boundary;
pub mod buffer;
pub mod chunking;
mod delimiter_line;
pub mod digest;
pub mod disposition;
pub mod encoding;
pub mod error;
mod fields;
pub mod form;
pub mod head;
pub mod limit;
mod min_rate;
mod misplaced_boundary;
pub mod raw;
pub mod scan;
pub mod sniff;
mod text;
