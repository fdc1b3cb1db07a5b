//! Whether writes are batched, and when a connection that has read something may write.

use std::cell::Cell;
use std::task::{Context, Poll};

/// With at most this many uploads on a worker nothing is batched: there is little to gain, and a single upload would take
/// longer.
pub(super) const MAX_UNBATCHED_UPLOADS: usize = 4;

thread_local! {
    static UPLOADS: Cell<usize> = const { Cell::new(0) };
}

/// An upload that this worker is busy with, counted until this is dropped.
pub struct BusyUpload(());

impl BusyUpload {
    /// Counts one more upload.
    pub fn begin() -> Self {
        UPLOADS.set(UPLOADS.get() + 1);
        Self(())
    }
}

impl Drop for BusyUpload {
    fn drop(&mut self) {
        UPLOADS.set(UPLOADS.get() - 1);
    }
}

/// Whether batching is on.
pub fn batching_enabled() -> bool {
    UPLOADS.get() > MAX_UNBATCHED_UPLOADS
}

/// Delays one connection's writes.
#[derive(Debug, Default)]
pub(super) struct BatchGate {
    has_read: bool,
    /// The write was delayed once, and has not happened since.
    has_yielded: bool,
}

impl BatchGate {
    /// The connection has read something.
    pub(super) fn read(&mut self) {
        self.has_read = true;
    }

    /// Ready when the connection may write: at once if it has read nothing since its last write, otherwise after all
    /// tasks that are ready now. It is delayed only once: a peer that sends without a pause, and is read before every
    /// write, must not delay the writes for ever.
    pub(super) fn poll_write(&mut self, cx: &Context<'_>) -> Poll<()> {
        let has_read = std::mem::take(&mut self.has_read);
        self.has_yielded = has_read && !self.has_yielded && batching_enabled();
        if !self.has_yielded {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn with_several_uploads_a_write_after_a_read_is_delayed_once() {
        let cx = Context::from_waker(Waker::noop());
        let mut gate = BatchGate::default();
        let few: Vec<_> = (0..MAX_UNBATCHED_UPLOADS).map(|_| BusyUpload::begin()).collect();
        gate.read();
        assert_eq!(gate.poll_write(&cx), Poll::Ready(()));
        let one_more = BusyUpload::begin();
        gate.read();
        gate.read();
        assert_eq!(gate.poll_write(&cx), Poll::Pending);
        assert_eq!(gate.poll_write(&cx), Poll::Ready(()));
        assert_eq!(gate.poll_write(&cx), Poll::Ready(()));
        // A connection that is read before every write.
        gate.read();
        assert_eq!(gate.poll_write(&cx), Poll::Pending);
        gate.read();
        assert_eq!(gate.poll_write(&cx), Poll::Ready(()));
        gate.read();
        assert_eq!(gate.poll_write(&cx), Poll::Pending);
        drop(one_more);
        gate.read();
        assert_eq!(gate.poll_write(&cx), Poll::Ready(()));
        drop(few);
        assert_eq!(UPLOADS.get(), 0);
    }
}
