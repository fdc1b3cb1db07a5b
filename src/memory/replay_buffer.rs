//! Bytes of files that are buffered in memory (replay windows, parts of unknown length), charged to the budget.
//!
//! Bytes that fill most of the buffer they were read into stay in that buffer. All others are copied into blocks, since
//! a slice pins its whole buffer (32 MiB of one-byte chunks, buffered as slices, were measured at 1.2 GiB). The charge
//! is the capacity of the buffers and blocks: what the process really uses.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::budget::{BudgetExceeded, Charge, Share};
use super::buffer_pool;

/// Blocks grow from this size to [`LARGEST_BLOCK`], so that a small file is not charged for a large one.
const FIRST_BLOCK: usize = 8 * 1024;
const LARGEST_BLOCK: usize = 64 * 1024;

/// Buffered bytes in order, charged to a client's [`Share`] by capacity until this is dropped.
#[derive(Debug)]
pub struct ReplayBuffer {
    charge: Charge,
    /// Capacity of all blocks.
    blocks: usize,
    len: usize,
    full: Vec<Bytes>,
    /// The block that is being filled.
    tail: BytesMut,
}

impl ReplayBuffer {
    /// An empty buffer costs nothing.
    pub fn new(share: Arc<Share>) -> Self {
        let (full, tail) = (Vec::new(), BytesMut::new());
        Self { charge: Charge::new(share), blocks: 0, len: 0, full, tail }
    }

    /// Bytes buffered.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is buffered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether so many bytes more would fit into the budget now.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.charge.has_room_for(bytes)
    }

    /// Reserves memory for so many bytes more, while memory is free.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        self.charge.reserve(bytes)
    }

    /// Appends `bytes`; with [`BudgetExceeded`] a part of them may have been appended.
    pub fn push(&mut self, bytes: &Bytes) -> Result<(), BudgetExceeded> {
        match buffer_pool::pooled_capacity_of(bytes) {
            Some(capacity) if bytes.len() > capacity / 2 => {
                self.charge.grow(capacity)?;
                self.seal();
                self.len += bytes.len();
                buffer_pool::set_retained(bytes);
                self.full.push(bytes.clone());
                Ok(())
            }
            _ => self.copy(bytes),
        }
    }

    fn copy(&mut self, mut bytes: &[u8]) -> Result<(), BudgetExceeded> {
        while !bytes.is_empty() {
            let free = self.tail.capacity() - self.tail.len();
            if free == 0 {
                self.add_block(bytes.len())?;
                continue;
            }
            let (now, later) = bytes.split_at(free.min(bytes.len()));
            self.tail.put_slice(now);
            self.len += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Whether [`Self::segment`] has an `index`-th segment.
    pub fn has_segment(&self, index: usize) -> bool {
        index < self.full.len() + usize::from(!self.tail.is_empty())
    }

    /// The `index`-th segment of the bytes, `None` past the last one. Copies nothing.
    pub fn segment(&mut self, index: usize) -> Option<Bytes> {
        self.seal();
        self.full.get(index).cloned()
    }

    /// All bytes, with their charge; nothing is left.
    pub fn take(&mut self) -> Self {
        let empty = Self::new(self.charge.share());
        std::mem::replace(self, empty)
    }

    /// All bytes in order. They stay charged until the iterator is dropped.
    pub fn into_segments(mut self) -> impl Iterator<Item = Bytes> {
        (0..).map_while(move |index| self.segment(index))
    }

    /// Drops all bytes and releases their charge.
    pub fn clear(&mut self) {
        self.full = Vec::new();
        self.tail = BytesMut::new();
        (self.len, self.blocks) = (0, 0);
        self.charge.clear();
    }

    /// Adds a block as large as all blocks before it, within the bounds.
    fn add_block(&mut self, wanted: usize) -> Result<(), BudgetExceeded> {
        let capacity = self.blocks.max(wanted).clamp(FIRST_BLOCK, LARGEST_BLOCK);
        self.charge.grow(capacity)?;
        self.blocks += capacity;
        self.seal();
        self.tail = BytesMut::with_capacity(capacity);
        Ok(())
    }

    /// Makes a segment of what was appended to the block so far; its free capacity is still to be filled.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.full.push(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::budget::Budget;
    use crate::memory::buffer_pool::Buffer;

    fn joined(buffer: &mut ReplayBuffer) -> Vec<u8> {
        let mut all = Vec::new();
        let mut index = 0;
        while let Some(segment) = buffer.segment(index) {
            all.extend_from_slice(&segment);
            index += 1;
        }
        all
    }

    #[test]
    fn one_byte_chunks_are_charged_by_block_and_stay_in_order() {
        let budget = Budget::new(1 << 20);
        let mut buffer = ReplayBuffer::new(Share::new(budget.clone()));
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        for byte in &bytes {
            buffer.push(&Bytes::copy_from_slice(&[*byte])).unwrap();
        }
        assert_eq!(joined(&mut buffer), bytes);
        assert_eq!(buffer.len(), bytes.len());
        assert!(budget.used() >= 200_000 && budget.used() <= 200_000 + LARGEST_BLOCK as u64);
        drop(buffer);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn no_client_uses_more_than_three_times_what_it_leaves_free() {
        const BLOCK: Bytes = Bytes::from_static(&[7; LARGEST_BLOCK]);
        let budget = Budget::new(4 << 20);
        let mut clients: Vec<ReplayBuffer> = Vec::new();
        // How much another client gets that takes all it can.
        let mut greedy = || {
            let mut buffer = ReplayBuffer::new(Share::new(budget.clone()));
            while buffer.push(&BLOCK).is_ok() {}
            clients.push(buffer);
            clients.last().map(ReplayBuffer::len).unwrap_or_default()
        };
        assert_eq!(greedy(), 3 << 20);
        assert_eq!(greedy(), 3 << 18);
        assert_eq!(greedy(), 3 << 16);
        let mut small = ReplayBuffer::new(Share::new(budget.clone()));
        assert_eq!(small.push(&Bytes::from_static(&[7; 100])), Ok(()));
        drop((clients, small));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_quarter_of_the_budget_can_be_reserved() {
        let budget = Budget::new(4 << 20);
        let share = Share::new(budget.clone());
        let mut first = ReplayBuffer::new(share.clone());
        let mut second = ReplayBuffer::new(share);
        assert!(first.reserve(700_000));
        assert!(!second.reserve(700_000));
        assert_eq!(budget.used(), 700_000);
        first.push(&Bytes::from(vec![7; 600_000])).unwrap();
        assert_eq!(budget.used(), 700_000);
        // Beyond the reservation it is charged as any other.
        first.push(&Bytes::from(vec![7; 600_000])).unwrap();
        assert!(budget.used() >= 1_200_000);
        first.clear();
        assert_eq!(budget.used(), 0);
        assert!(second.reserve(1 << 20));
    }

    #[test]
    fn bytes_beyond_the_budget_are_refused_and_the_charge_is_released() {
        let budget = Budget::new(16 * 1024);
        let mut buffer = ReplayBuffer::new(Share::new(budget.clone()));
        assert_eq!(buffer.push(&Bytes::from_static(&[7; 9000])), Ok(()));
        assert_eq!(buffer.push(&Bytes::from_static(&[7; 9000])), Err(BudgetExceeded));
        buffer.clear();
        assert_eq!(budget.used(), 0);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_well_filled_pooled_buffer_is_not_copied() {
        let budget = Budget::new(1 << 20);
        let mut buffer = ReplayBuffer::new(Share::new(budget.clone()));
        let mut pooled = Buffer::take(64 << 10);
        pooled.unfilled(72 << 10).initialize_unfilled().fill(7);
        let read = pooled.freeze(72 << 10);
        buffer.push(&Bytes::from_static(&[1; 10])).unwrap();
        buffer.push(&read.slice(..40_000)).unwrap();
        buffer.push(&read.slice(40_000..)).unwrap();
        assert_eq!(joined(&mut buffer), [&[1; 10][..], &read].concat());
        assert_eq!(buffer.segment(1).unwrap().as_ptr(), read.as_ptr());
        let copied = 8192 + 33_728 - (8192 - 10);
        assert_eq!(budget.used(), copied + (72 << 10));
        drop(buffer);
        assert_eq!(budget.used(), 0);
    }
}
