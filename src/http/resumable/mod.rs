//! Resumable uploads: tus 1.0 at `/v1/uploads`. By COS's API, all state is in COS and in the upload's URL. By forms, the
//! gateway keeps what it has received until it can send the whole file.
//!
//! - `create`, `append`, `status`: the calls; `upload`: the upload that a URL names; `sealed_url`: that URL;
//!   `uploaded_file`: what it becomes
//! - `at_cos`, `at_gateway`: the two places where bytes are until the file is complete; `by_road`: one or the other
//! - `report`: what follows when the file is stored
//! - `protocol`: the headers; `checksum`: `Upload-Checksum`; `body`: what is checked of a request's bytes
//! - `sessions`: one request at a time sends bytes of an upload

pub mod append;
mod at_cos;
mod at_gateway;
mod body;
mod by_road;
mod checksum;
pub mod create;
pub mod protocol;
mod report;
pub mod sealed_url;
pub mod sessions;
pub mod status;
mod upload;
pub mod uploaded_file;

pub use protocol::{TUS_RESUMABLE, TUS_VERSION, VERSION};
