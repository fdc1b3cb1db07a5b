//! Resumable uploads: tus 1.0 at `/v1/uploads`. All state is in COS and in the upload's URL.
//!
//! - `create`, `append`, `status`: the calls; `upload`: the upload that a URL names; `sealed_url`: that URL
//! - `protocol`: the headers; `checksum`: `Upload-Checksum`
//! - `sessions`: one request at a time sends bytes of an upload

pub mod append;
mod checksum;
pub mod create;
mod protocol;
pub mod sealed_url;
pub mod sessions;
pub mod status;
mod upload;

pub use protocol::{TUS_RESUMABLE, TUS_VERSION, VERSION};
