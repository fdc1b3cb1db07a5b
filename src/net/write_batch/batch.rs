//! Whether writes are batched, and when a task that has read may write.

use std::cell::Cell;
use std::task::{Context, Poll};

/// With so many uploads on a worker nobody is waited for: there is little to gain, and one at a time would take longer.
pub(super) const FEW: usize = 4;

thread_local! {
    static UPLOADS: Cell<usize> = const { Cell::new(0) };
}

/// One upload that this worker is busy with, until it is dropped.
pub struct BusyUpload(());

impl BusyUpload {
    /// It begins.
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

/// Whether there is anybody to go together with.
pub fn batching_enabled() -> bool {
    UPLOADS.get() > FEW
}

/// One connection's place in the turn.
#[derive(Debug, Default)]
pub(super) struct BatchGate {
    has_read: bool,
    /// It has let the others go first, and not written since.
    has_waited: bool,
}

impl BatchGate {
    /// Something was read.
    pub(super) fn read(&mut self) {
        self.has_read = true;
    }

    /// Ready to write: at once where nothing was read since the last time, otherwise behind all that are ready now. Only
    /// once: who sends without a pause, and is read before each write, must not keep an answer from going out.
    pub(super) fn poll_write(&mut self, cx: &Context<'_>) -> Poll<()> {
        let has_read = std::mem::take(&mut self.has_read);
        self.has_waited = has_read && !self.has_waited && batching_enabled();
        if !self.has_waited {
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
    fn where_several_upload_what_was_read_is_answered_after_the_others() {
        let cx = Context::from_waker(Waker::noop());
        let mut turn = BatchGate::default();
        let few: Vec<_> = (0..FEW).map(|_| BusyUpload::begin()).collect();
        turn.read();
        assert_eq!(turn.poll_write(&cx), Poll::Ready(()));
        let one_more = BusyUpload::begin();
        turn.read();
        turn.read();
        assert_eq!(turn.poll_write(&cx), Poll::Pending);
        assert_eq!(turn.poll_write(&cx), Poll::Ready(()));
        assert_eq!(turn.poll_write(&cx), Poll::Ready(()));
        // One who is read before each write.
        turn.read();
        assert_eq!(turn.poll_write(&cx), Poll::Pending);
        turn.read();
        assert_eq!(turn.poll_write(&cx), Poll::Ready(()));
        turn.read();
        assert_eq!(turn.poll_write(&cx), Poll::Pending);
        drop(one_more);
        turn.read();
        assert_eq!(turn.poll_write(&cx), Poll::Ready(()));
        drop(few);
        assert_eq!(UPLOADS.get(), 0);
    }
}
