//! The budget of memory that uploads share: a limit for the whole process, and for each client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes all uploads together may buffer; shared by every worker.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// `limit` in bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// Whether less than a quarter is used.
    fn has_slack(&self) -> bool {
        self.used() < self.limit / 4
    }

    /// Bytes charged at the moment.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A client may use at most this many times the bytes that are free.
const SHARE: u64 = 3;

/// One client's use of a [`Budget`]: at most [`SHARE`] times the bytes it leaves free. A client alone can use three
/// quarters; two that take all they can, three sevenths each. However many clients there are, some bytes are left for
/// the next one.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    used: AtomicU64,
}

impl Share {
    /// The share of a client that uses nothing yet.
    pub fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget, used: AtomicU64::new(0) })
    }

    /// A client's uploads run on several workers: together they may exceed its share by what two of them charge at
    /// once.
    fn charge(&self, bytes: u64) -> bool {
        let own = self.used.load(Ordering::Relaxed).saturating_add(bytes);
        let charged = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let total = used.checked_add(bytes)?;
            let free = self.budget.limit.checked_sub(total)?;
            (own <= free.saturating_mul(SHARE)).then_some(total)
        });
        if charged.is_ok() {
            self.used.fetch_add(bytes, Ordering::Relaxed);
        }
        charged.is_ok()
    }

    /// Whether less than a quarter of the budget is used, by all clients together.
    pub fn has_slack(&self) -> bool {
        self.budget.has_slack()
    }

    /// Whether so many bytes more could be charged now.
    fn has_room_for(&self, bytes: u64) -> bool {
        let own = self.used.load(Ordering::Relaxed).saturating_add(bytes);
        let total = self.budget.used().saturating_add(bytes);
        let free = self.budget.limit.checked_sub(total);
        free.is_some_and(|free| own <= free.saturating_mul(SHARE))
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes charged to a [`Share`], released when this is dropped.
#[derive(Debug)]
pub struct Charge {
    share: Arc<Share>,
    bytes: u64,
}

impl Charge {
    /// Of no bytes yet.
    pub fn new(share: Arc<Share>) -> Self {
        Self { share, bytes: 0 }
    }

    /// Charges so many bytes more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        if !self.share.charge(bytes as u64) {
            return Err(BudgetExceeded);
        }
        self.bytes += bytes as u64;
        Ok(())
    }

    /// Whether so many bytes more could be charged now; others may charge them before.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.share.has_room_for(bytes as u64)
    }

    /// Whether less than a quarter of the budget is used, by all clients together.
    pub fn has_slack(&self) -> bool {
        self.share.has_slack()
    }

    /// Releases all bytes.
    pub fn clear(&mut self) {
        self.share.release(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The budget, or the client's share of it, has too few bytes free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetExceeded;
