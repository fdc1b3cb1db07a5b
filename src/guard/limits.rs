//! How many uploads may run at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Every place is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} uploads are running already")]
pub struct Overloaded(pub usize);

/// The places for uploads, shared by all workers.
#[derive(Debug)]
pub struct Slots {
    max: usize,
    taken: AtomicUsize,
}

/// A taken place; given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Slots>);

impl Slots {
    /// `max` uploads at once.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: AtomicUsize::new(0) })
    }

    /// Takes a place.
    pub fn take(self: &Arc<Self>) -> Result<Slot, Overloaded> {
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < self.max).then_some(taken + 1)
            })
            .map(|_| Slot(self.clone()))
            .map_err(|_| Overloaded(self.max))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
