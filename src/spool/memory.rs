//! A file in memory, in blocks that have just the capacity that was reserved for it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::SpoolError;
use super::folder::charged;
use crate::memory::budget::{Charge, Share};

/// Bytes of a block at most.
const BLOCK: usize = 64 * 1024;

/// Bytes of a file whose length is known. All of them have room, whatever others use of the memory meanwhile.
#[derive(Debug)]
pub struct MemoryFile {
    /// In bytes.
    capacity: usize,
    len: usize,
    full: Vec<Bytes>,
    /// The block that is being filled.
    last: BytesMut,
    _charges: [Charge; 2],
}

impl MemoryFile {
    /// Of no bytes yet. The `capacity` is charged to `quota`, and to `memory` if that has room for a reservation.
    pub(super) fn new(
        capacity: u64,
        quota: Arc<Share>,
        memory: Arc<Share>,
    ) -> Result<Self, SpoolError> {
        let quota = charged(quota, capacity)?;
        let capacity = usize::try_from(capacity).map_err(|_| SpoolError::Full)?;
        let mut memory = Charge::new(memory);
        if !memory.reserve(capacity) {
            return Err(SpoolError::Full);
        }
        let (full, last) = (Vec::new(), BytesMut::new());
        Ok(Self { capacity, len: 0, full, last, _charges: [quota, memory] })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends all bytes, if they fit.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), SpoolError> {
        if bytes.len() > self.capacity - self.len {
            return Err(SpoolError::Full);
        }
        while !bytes.is_empty() {
            let free = self.last.capacity() - self.last.len();
            if free == 0 {
                self.seal();
                self.last = BytesMut::with_capacity(BLOCK.min(self.capacity - self.len));
                continue;
            }
            let (now, later) = bytes.split_at(free.min(bytes.len()));
            self.last.put_slice(now);
            self.len += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Drops all bytes but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.seal();
        while self.len > len
            && let Some(last) = self.full.last_mut()
        {
            let dropped = last.len().min(self.len - len);
            last.truncate(last.len() - dropped);
            self.len -= dropped;
            if last.is_empty() {
                self.full.pop();
            }
        }
    }

    /// All bytes in order. Copies nothing.
    pub fn segments(&mut self) -> impl Iterator<Item = Bytes> + '_ {
        self.seal();
        self.full.iter().cloned()
    }

    /// Makes a segment of what was appended to the block so far; its free capacity is still to be filled.
    fn seal(&mut self) {
        if !self.last.is_empty() {
            self.full.push(self.last.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::budget::Budget;

    /// A reservation is enough for all bytes, in whatever pieces they come, though nothing else is left.
    #[test]
    fn the_last_byte_has_room() {
        let budget = Budget::new(400_000);
        let share = || Share::new(budget.clone());
        for piece in [1, 1000, 33_000, 65_536, 100_000] {
            let quota = Share::new(Budget::new(200_000));
            let mut file = MemoryFile::new(100_000, quota, share()).unwrap();
            let mut others: Vec<_> = Vec::new();
            while let Ok(charge) = charged(share(), 1000) {
                others.push(charge);
            }
            let content: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
            for bytes in content.chunks(piece) {
                file.append(bytes).unwrap();
                if piece > 1 {
                    assert_eq!(file.segments().map(|bytes| bytes.len()).sum::<usize>(), file.len());
                }
            }
            assert!(matches!(file.append(b"1"), Err(SpoolError::Full)));
            // The last byte again, as after an attempt that has failed.
            for _ in 0..3 {
                file.truncate(99_999);
                file.append(&content[99_999..]).unwrap();
            }
            assert_eq!(file.segments().collect::<Vec<_>>().concat(), content, "{piece}");
        }
        assert_eq!(budget.used(), 0);
    }
}
