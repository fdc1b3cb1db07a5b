//! Resumable uploads by COS's API: a file that arrives in several requests, on any gateway. All state is in COS, so a
//! gateway that ends loses nothing, and any other one goes on.
//!
//! Part n of the multipart upload has the bytes from (n - 1) × P to n × P of the file, whichever session sends it; only
//! the file's last part is shorter. What a session leaves of the next part is an object of its own, the tail. One session
//! writes at a time: the one that the lease names, which is another small object. Neither helper object has a file id, so
//! WeChat never serves them.
//!
//! The lease stays until what is to follow a completed upload was done ([`Resumable::close`]): a gateway that finds the
//! object and the lease does not know that the one which has completed it has come so far.
//!
//! - `upload`: an upload, and what operations need; `session`: where an upload is, and which session may write;
//!   `lease`, `tail`: the two helper objects
//! - `append`: sends what a session receives; `finish`: completes the object and verifies it

mod append;
mod finish;
mod lease;
mod session;
mod tail;
mod upload;

pub use finish::{delete_helpers, is_helper};
pub use session::{Opened, Session};
pub use upload::{
    AppendError, Appended, Completed, HELPER_PREFIX, Progress, Resumable, ResumableUpload,
    StoredFile,
};
