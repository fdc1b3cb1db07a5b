//! Writing together. When a worker comes back from the kernel many of its connections have something to read, and what
//! each reads makes it write. A write wakes a process on the other side, and waking one that sleeps costs an interrupt to
//! its processor. So what was read is answered only when all that were ready along with it have been read, too: the
//! answers then go out one behind the other, and whoever was woken by the first finds the rest.
//!
//! Short answers are held and sent by one task in one go; long ones take one more poll of the task that has read before it
//! writes. It pays where several do (`benches/runs/NOTES.md`).

pub mod batch;
mod stream;

pub use batch::{BusyUpload, batching_enabled};
pub use stream::Stream;
