//! Bytes of files that are kept in memory (replay windows, held parts), and what they cost.
//!
//! What fills most of the buffer that it was read into is kept as it is; everything else is copied into blocks of our
//! own, since a slice pins the whole buffer (32 MiB of one-byte chunks kept as slices was measured at 1.2 GiB). The
//! charge is the buffers' and blocks' capacity, which is what the process really holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

use super::buffer_pool;

/// ReplayBuffer grow from this to [`LARGEST_BLOCK`], so that a small file does not pay for a large one.
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
}

/// How many times what is free one client may hold.
const SHARE: u64 = 3;

/// One client's use of a [`Budget`]: at most [`SHARE`] times what it leaves free. Alone, a client can hold three
/// quarters; two that take all they can hold three sevenths each; and however many they are, something is left for the
/// next one.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    used: AtomicU64,
}

impl Share {
    /// Of a client that holds nothing yet.
    pub fn new(budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { budget, used: AtomicU64::new(0) })
    }

    /// A client's uploads run on several workers: together they may pass its share by what two of them take at once.
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

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes charged to a [`Share`], given back when dropped.
#[derive(Debug)]
pub struct Charge {
    share: Arc<Share>,
    bytes: u64,
}

impl Charge {
    /// Of nothing yet.
    pub fn new(share: Arc<Share>) -> Self {
        Self { share, bytes: 0 }
    }

    /// Charges so many bytes more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if !self.share.charge(bytes as u64) {
            return Err(NoRoom);
        }
        self.bytes += bytes as u64;
        Ok(())
    }

    fn clear(&mut self) {
        self.share.release(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The budget has no room for what was to be kept, or none for this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// Bytes kept in order, charged to a client's [`Share`] by capacity until they are dropped.
#[derive(Debug)]
pub struct ReplayBuffer {
    charge: Charge,
    /// In blocks.
    copied: usize,
    len: usize,
    full: Vec<Bytes>,
    tail: BytesMut,
}

impl ReplayBuffer {
    /// Keeps nothing yet and costs nothing.
    pub fn new(share: Arc<Share>) -> Self {
        let (full, tail) = (Vec::new(), BytesMut::new());
        Self { charge: Charge::new(share), copied: 0, len: 0, full, tail }
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps `bytes` behind what is kept already; with [`NoRoom`] a part of them may have been kept.
    pub fn push(&mut self, bytes: &Bytes) -> Result<(), NoRoom> {
        match buffer_pool::pooled_capacity_of(bytes) {
            Some(buffer) if bytes.len() > buffer / 2 => {
                self.charge.grow(buffer)?;
                self.seal();
                self.len += bytes.len();
                self.full.push(bytes.clone());
                Ok(())
            }
            _ => self.copy(bytes),
        }
    }

    fn copy(&mut self, mut bytes: &[u8]) -> Result<(), NoRoom> {
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
        self.seal();
        self.full.get(index).cloned()
    }

    /// Forgets what is kept and gives its room back.
    pub fn clear(&mut self) {
        self.full = Vec::new();
        self.tail = BytesMut::new();
        (self.len, self.copied) = (0, 0);
        self.charge.clear();
    }

    /// As much again as is copied already.
    fn grow(&mut self, wanted: usize) -> Result<(), NoRoom> {
        let capacity = self.copied.max(wanted).clamp(FIRST_BLOCK, LARGEST_BLOCK);
        self.charge.grow(capacity)?;
        self.copied += capacity;
        self.seal();
        self.tail = BytesMut::with_capacity(capacity);
        Ok(())
    }

    /// Ends the block that is being filled; what room it has left is still to be filled.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.full.push(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::buffer_pool::Buffer;
    use super::*;

    fn joined(blocks: &mut ReplayBuffer) -> Vec<u8> {
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
        let mut blocks = ReplayBuffer::new(Share::new(budget.clone()));
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        for byte in &bytes {
            blocks.push(&Bytes::copy_from_slice(&[*byte])).unwrap();
        }
        assert_eq!(joined(&mut blocks), bytes);
        assert_eq!(blocks.len(), bytes.len());
        assert!(budget.used() >= 200_000 && budget.used() <= 200_000 + LARGEST_BLOCK as u64);
        drop(blocks);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn no_client_holds_more_than_three_times_what_it_leaves_free() {
        const BLOCK: Bytes = Bytes::from_static(&[7; LARGEST_BLOCK]);
        let budget = Budget::new(4 << 20);
        let mut clients: Vec<ReplayBuffer> = Vec::new();
        // How much one more client gets that takes all it can.
        let mut greedy = || {
            let mut blocks = ReplayBuffer::new(Share::new(budget.clone()));
            while blocks.push(&BLOCK).is_ok() {}
            clients.push(blocks);
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
    fn what_does_not_fit_is_refused_and_the_room_comes_back() {
        let budget = Budget::new(16 * 1024);
        let mut blocks = ReplayBuffer::new(Share::new(budget.clone()));
        assert_eq!(blocks.push(&Bytes::from_static(&[7; 9000])), Ok(()));
        assert_eq!(blocks.push(&Bytes::from_static(&[7; 9000])), Err(NoRoom));
        blocks.clear();
        assert_eq!(budget.used(), 0);
        assert!(blocks.is_empty());
    }
    #[test]
    fn a_full_buffer_is_kept_as_it_is() {
        let budget = Budget::new(1 << 20);
        let mut blocks = ReplayBuffer::new(Share::new(budget.clone()));
        let mut buffer = Buffer::take(64 << 10);
        buffer.unfilled(72 << 10).initialize_unfilled().fill(7);
        let read = buffer.freeze(72 << 10);
        blocks.push(&Bytes::from_static(&[1; 10])).unwrap();
        blocks.push(&read.slice(..40_000)).unwrap();
        blocks.push(&read.slice(40_000..)).unwrap();
        assert_eq!(joined(&mut blocks), [&[1; 10][..], &read].concat());
        assert_eq!(blocks.run(1).unwrap().as_ptr(), read.as_ptr());
        let copied = 8192 + 33_728 - (8192 - 10);
        assert_eq!(budget.used(), copied + (72 << 10));
        drop(blocks);
        assert_eq!(budget.used(), 0);
    }
}
