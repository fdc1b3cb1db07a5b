//! The client of COS's own API: requests signed with keys, instead of forms with a link's signature (`cos.via`).
//!
//! - `keys`: where the `credentials` come from, the settings or `getauth`; `sign`: the `Authorization` header
//! - `endpoint`: where a bucket is; `request`: a request's signed head; `response`: what a response says
//! - `client`: small calls as a whole, heads and verdicts of the requests whose bodies are streamed; `multipart`: the
//!   calls of a multipart upload; `objects`: the list of objects; `xml`: the documents that these send and receive
//! - `upload`: stores one file, with `file_parts` (the file, divided), `sending_parts`, `sent_part`, `pending` (an
//!   upload that is not completed) and `retry`
//! - `resumable`: stores a file that arrives in several requests
//! - `sweep`: aborts uploads that were left behind
//! - `road`: what a worker has of all this
//! - `with_link`: requests with an upload link's signature instead of keys
//! - `file_id`: `x-cos-meta-fileid`, by the call of cloud hosting

pub mod client;
pub mod credentials;
pub mod endpoint;
pub mod file_id;
pub mod file_parts;
pub mod getauth;
pub mod keys;
pub mod multipart;
mod objects;
mod pending;
mod request;
pub mod response;
pub mod resumable;
mod retry;
pub mod road;
mod sending_parts;
pub mod sent_part;
mod sign;
pub mod sweep;
pub mod upload;
pub mod with_link;
mod xml;
