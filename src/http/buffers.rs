//! Buffers that bodies are read into: each worker has its own, and uses the one that was given back last, which the
//! processor still has in its cache. Large ones are few; where they are all in use, small ones do.

use std::cell::RefCell;

use bytes::Bytes;
use tokio::io::ReadBuf;

/// One read of this much costs a quarter of what four do.
const LARGE: usize = 256 * 1024;
/// What most photos of a phone's preview and icons fit into.
const SMALL: usize = 64 * 1024;
/// Large buffers that one worker has in use at most: beyond, uploads are many, and memory counts for more than reads.
const LARGE_IN_USE: usize = 32;
/// Buffers of each size that are kept for later.
const KEPT: usize = 16;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::new()) };
}

struct Pool {
    large: Vec<Box<[u8]>>,
    small: Vec<Box<[u8]>>,
    large_in_use: usize,
}

impl Pool {
    const fn new() -> Self {
        Self { large: Vec::new(), small: Vec::new(), large_in_use: 0 }
    }
}

/// A buffer, given back when it is dropped.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Buffer {
    /// One to read at most `most` bytes into, or fewer.
    pub(super) fn take(most: u64) -> Self {
        let bytes = POOL.with_borrow_mut(|pool| {
            if most > SMALL as u64 && pool.large_in_use < LARGE_IN_USE {
                pool.large_in_use += 1;
                pool.large.pop().unwrap_or_else(|| vec![0; LARGE].into())
            } else {
                pool.small.pop().unwrap_or_else(|| vec![0; SMALL].into())
            }
        });
        Self { bytes, filled: 0 }
    }

    /// To be read into, at most `most` bytes.
    pub(super) fn unfilled(&mut self, most: u64) -> ReadBuf<'_> {
        let room = self.bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        ReadBuf::new(&mut self.bytes[..room])
    }

    /// Its first `filled` bytes.
    pub(super) fn freeze(mut self, filled: usize) -> Bytes {
        self.filled = filled;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A worker that ends has no pool any more.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            let kept = if bytes.len() == LARGE {
                pool.large_in_use = pool.large_in_use.saturating_sub(1);
                &mut pool.large
            } else {
                &mut pool.small
            };
            if kept.len() < KEPT {
                kept.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_large_ones_are_few() {
        let first = Buffer::take(1 << 20);
        let at = first.bytes.as_ptr();
        drop(first.freeze(10));
        let all: Vec<_> = (0..LARGE_IN_USE + 1).map(|_| Buffer::take(1 << 20)).collect();
        assert_eq!(all[0].bytes.as_ptr(), at);
        assert_eq!(all[LARGE_IN_USE - 1].bytes.len(), LARGE);
        assert_eq!(all[LARGE_IN_USE].bytes.len(), SMALL);
        drop(all);
        assert_eq!(Buffer::take(1 << 20).bytes.len(), LARGE);
        assert_eq!(Buffer::take(10).bytes.len(), SMALL);
    }
}
