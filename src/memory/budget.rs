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

    /// Bytes that one client can charge, if no other does.
    pub fn most_of_one_client(&self) -> u64 {
        self.limit / (SHARE + 1) * SHARE
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
        self.charge_within(bytes, self.budget.limit)
    }

    /// As [`Self::charge`], if all clients together then use `most` bytes at most.
    fn charge_within(&self, bytes: u64, most: u64) -> bool {
        let own = self.used.load(Ordering::Relaxed).saturating_add(bytes);
        let charged = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let total = used.checked_add(bytes).filter(|total| *total <= most)?;
            let free = self.budget.limit.checked_sub(total)?;
            (own <= free.saturating_mul(SHARE)).then_some(total)
        });
        if charged.is_ok() {
            self.used.fetch_add(bytes, Ordering::Relaxed);
        }
        charged.is_ok()
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
    /// Of these, the ones that are reserved.
    reserved: u64,
}

impl Charge {
    /// Of no bytes yet.
    pub fn new(share: Arc<Share>) -> Self {
        Self { share, bytes: 0, reserved: 0 }
    }

    /// What it is charged to.
    pub fn share(&self) -> Arc<Share> {
        self.share.clone()
    }

    /// Charges so many bytes more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), BudgetExceeded> {
        let reserved = self.reserved.min(bytes as u64);
        let more = bytes as u64 - reserved;
        if more > 0 && !self.share.charge(more) {
            return Err(BudgetExceeded);
        }
        self.reserved -= reserved;
        self.bytes += more;
        Ok(())
    }

    /// Charges bytes for later growth, if all clients together then use a quarter of the budget at most. Without a
    /// reservation, uploads that grow at once would take memory from each other, and none would have enough.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        let reserved = self.share.charge_within(bytes as u64, self.share.budget.limit / 4);
        if reserved {
            self.bytes += bytes as u64;
            self.reserved += bytes as u64;
        }
        reserved
    }

    /// Whether so many bytes more could be charged now; others may charge them before.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.share.has_room_for(bytes as u64)
    }

    /// Releases all bytes.
    pub fn clear(&mut self) {
        self.share.release(std::mem::take(&mut self.bytes));
        self.reserved = 0;
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
