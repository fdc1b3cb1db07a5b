//! When a client's bytes have arrived, which may be long before they are read.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use futures::task::AtomicWaker;
use tokio::time::Instant;

/// Wakes the task that waits for bytes, and remembers when: a task that waits for COS to take others reads them later,
/// which is not the client's time.
#[derive(Debug, Default)]
pub struct Arrival {
    task: AtomicWaker,
    at: Mutex<Option<Instant>>,
}

impl Arrival {
    /// The waker to wait with for the next bytes on behalf of `task`.
    pub fn waker(self: &Arc<Self>, task: &Waker) -> Waker {
        self.task.register(task);
        Waker::from(self.clone())
    }

    /// When the bytes arrived that were waited for; `None`: not yet.
    pub fn take(&self) -> Option<Instant> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Wake for Arrival {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.get_or_insert_with(Instant::now);
        drop(at);
        self.task.wake();
    }
}
