//! Write batching. When a worker wakes up, many of its connections usually have something to read, and what each one
//! reads makes it write. A write wakes a process on the other side, and waking a sleeping process costs an interrupt on
//! its processor. So a connection that has read something writes only after all connections that were ready with it
//! have read: their writes then follow each other, and a process that the first write wakes finds the others, too.
//!
//! Short writes are queued, and one task sends the queues of all connections. Before a long write the task that has
//! read is polled once more. This pays where several uploads run (`benches/runs/NOTES.md`).

pub mod batch;
mod stream;

pub use batch::{BusyUpload, batching_enabled};
pub use stream::Stream;
