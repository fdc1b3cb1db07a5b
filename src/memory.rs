//! Bytes of files that are kept in memory (replay windows, held parts), and what they cost.
//!
//! Everything kept is copied into blocks of our own: a slice of a read buffer would pin the whole buffer (32 MiB of
//! one-byte chunks kept as slices was measured at 1.2 GiB), and what it pins cannot be known. So the charge is the
//! blocks' capacity, which is what the process really holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

/// Blocks grow from this to [`LARGEST_BLOCK`], so that a small file does not pay for a large one.
const FIRST_BLOCK: usize = 8 * 1024;
const LARGEST_BLOCK: usize = 64 * 1024;

/// How many bytes all uploads together may keep; shared by every worker.
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

    /// Bytes charged at the moment.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn charge(&self, bytes: u64) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|total| *total <= self.limit)
            })
            .is_ok()
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The budget has no room for what was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// Bytes kept in order, charged to a [`Budget`] by capacity until they are dropped.
#[derive(Debug)]
pub struct Blocks {
    budget: Arc<Budget>,
    charged: u64,
    /// What all of it will be, as far as it is known.
    expected: usize,
    len: usize,
    full: Vec<Bytes>,
    tail: BytesMut,
}

impl Blocks {
    /// Keeps nothing yet and costs nothing.
    pub fn new(budget: Arc<Budget>) -> Self {
        let (full, tail) = (Vec::new(), BytesMut::new());
        Self { budget, charged: 0, expected: 0, len: 0, full, tail }
    }

    /// Says that `bytes` in all are to come: a small file gets one block of its size instead of several that grow.
    pub fn expect(&mut self, bytes: u64) {
        self.expected = usize::try_from(bytes).unwrap_or(usize::MAX);
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `bytes` behind what is kept already; with [`NoRoom`] a part of them may have been kept.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), NoRoom> {
        while !bytes.is_empty() {
            let room = self.tail.capacity() - self.tail.len();
            if room == 0 {
                self.grow(bytes.len())?;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.tail.put_slice(now);
            self.len += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// The `index`-th run of kept bytes, `None` past the last one. Cheap: a reference, no copy.
    pub fn run(&mut self, index: usize) -> Option<Bytes> {
        if !self.tail.is_empty() {
            self.full.push(self.tail.split().freeze());
        }
        self.full.get(index).cloned()
    }

    /// Forgets what is kept and gives its room back.
    pub fn clear(&mut self) {
        self.full = Vec::new();
        self.tail = BytesMut::new();
        self.len = 0;
        self.budget.release(std::mem::take(&mut self.charged));
    }

    fn grow(&mut self, wanted: usize) -> Result<(), NoRoom> {
        let doubled = if self.charged == 0 { FIRST_BLOCK } else { self.charged as usize };
        let capacity = match self.expected.saturating_sub(self.len) {
            0 => doubled.max(wanted).clamp(FIRST_BLOCK, LARGEST_BLOCK),
            left => left.min(LARGEST_BLOCK),
        };
        if !self.budget.charge(capacity as u64) {
            return Err(NoRoom);
        }
        self.charged += capacity as u64;
        if !self.tail.is_empty() {
            self.full.push(self.tail.split().freeze());
        }
        self.tail = BytesMut::with_capacity(capacity);
        Ok(())
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.budget.release(self.charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(blocks: &mut Blocks) -> Vec<u8> {
        let mut all = Vec::new();
        let mut index = 0;
        while let Some(run) = blocks.run(index) {
            all.extend_from_slice(&run);
            index += 1;
        }
        all
    }

    #[test]
    fn one_byte_pieces_cost_their_blocks_and_come_back_in_order() {
        let budget = Budget::new(1 << 20);
        let mut blocks = Blocks::new(budget.clone());
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        for byte in &bytes {
            blocks.push(std::slice::from_ref(byte)).unwrap();
        }
        assert_eq!(joined(&mut blocks), bytes);
        assert_eq!(blocks.len(), bytes.len());
        assert!(budget.used() >= 200_000 && budget.used() <= 200_000 + LARGEST_BLOCK as u64);
        drop(blocks);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_the_room_comes_back() {
        let budget = Budget::new(10 * 1024);
        let mut blocks = Blocks::new(budget.clone());
        assert_eq!(blocks.push(&[7; 9000]), Ok(()));
        assert_eq!(blocks.push(&[7; 9000]), Err(NoRoom));
        blocks.clear();
        assert_eq!(budget.used(), 0);
        assert!(blocks.is_empty());
    }
}
