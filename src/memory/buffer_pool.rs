//! Buffers that bodies are read into: each worker has its own, and uses the one that was given back last, which the
//! processor still has in its cache. The larger they are the fewer there are; where all are in use, smaller ones do.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::io::ReadBuf;

/// Buffers of one size.
struct Size {
    bytes: usize,
    /// That one worker has in use at most: beyond, uploads are many, and memory counts for more than reads.
    in_use: usize,
    /// Kept for later.
    kept: usize,
}

/// From large to small. A body of 512 MiB costs half in reads of 1 MiB of what it does in reads of 256 KiB, since whoever
/// sends and whoever receives is woken less often, and so are we; 2 MiB gain nothing (`benches/runs/NOTES.md`). The
/// smallest holds what icons and previews of photos fit into, 64 KiB, and the heads before it.
const SIZES: [Size; 3] = [
    Size { bytes: 1024 * 1024, in_use: 8, kept: 8 },
    Size { bytes: 256 * 1024, in_use: 32, kept: 16 },
    Size { bytes: 72 * 1024, in_use: usize::MAX, kept: 64 },
];

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool { shelves: [SizeClass::EMPTY; SIZES.len()], in_use: BTreeMap::new() })
    };
}

/// A worker's buffers.
struct Pool {
    shelves: [SizeClass; SIZES.len()],
    /// Where those in use begin, and how long they are.
    in_use: BTreeMap<usize, usize>,
}

/// Its buffers of one size.
struct SizeClass {
    free: Vec<Box<[u8]>>,
    in_use: usize,
}

impl SizeClass {
    const EMPTY: Self = Self { free: Vec::new(), in_use: 0 };
}

/// A buffer, given back when it is dropped.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    /// Its place in [`SIZES`].
    size: usize,
}

impl Buffer {
    /// One to read `most` bytes into, or fewer at a time.
    pub(crate) fn take(most: u64) -> Self {
        POOL.with_borrow_mut(|Pool { shelves, in_use }| {
            // A larger one than needed is not taken: what is read would use but a part of it.
            let fits = |index: usize| {
                let smaller = SIZES.get(index + 1).map_or(0, |size| size.bytes as u64);
                most > smaller && shelves[index].in_use < SIZES[index].in_use
            };
            let size = (0..SIZES.len()).find(|index| fits(*index)).unwrap_or(SIZES.len() - 1);
            let shelf = &mut shelves[size];
            shelf.in_use += 1;
            let bytes = shelf.free.pop().unwrap_or_else(|| vec![0; SIZES[size].bytes].into());
            in_use.insert(bytes.as_ptr().addr(), bytes.len());
            Self { bytes, filled: 0, size }
        })
    }

    /// To be read into: `most` bytes, or what it holds.
    pub(crate) fn unfilled(&mut self, most: usize) -> ReadBuf<'_> {
        let room = self.bytes.len().min(most);
        ReadBuf::new(&mut self.bytes[..room])
    }

    /// Its first `filled` bytes.
    pub(crate) fn freeze(mut self, filled: usize) -> Bytes {
        self.filled = filled;
        Bytes::from_owner(self)
    }
}

/// How long the buffer is that `bytes` are a part of, and that is not used again while they are there; `None` where they
/// are of none of this worker's.
pub(crate) fn pooled_capacity_of(bytes: &[u8]) -> Option<usize> {
    let at = bytes.as_ptr().addr();
    POOL.with_borrow(|pool| {
        let (start, length) = pool.in_use.range(..=at).next_back()?;
        (at < start + length).then_some(*length)
    })
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
            let Pool { shelves, in_use } = &mut *pool.borrow_mut();
            in_use.remove(&bytes.as_ptr().addr());
            let shelf = &mut shelves[self.size];
            shelf.in_use = shelf.in_use.saturating_sub(1);
            if shelf.free.len() < SIZES[self.size].kept {
                shelf.free.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back() {
        let first = Buffer::take(1 << 30);
        let at = first.bytes.as_ptr();
        drop(first.freeze(10));
        assert_eq!(Buffer::take(1 << 30).bytes.as_ptr(), at);
    }

    #[test]
    fn what_is_in_a_buffer_is_known() {
        let whole = Buffer::take(1 << 30).freeze(10);
        assert_eq!(pooled_capacity_of(&whole.slice(9..)), Some(1024 * 1024));
        assert_eq!(pooled_capacity_of(b"elsewhere"), None);
        let elsewhere = Bytes::copy_from_slice(&whole);
        drop(whole);
        assert_eq!(pooled_capacity_of(&elsewhere), None);
    }

    #[test]
    fn large_buffers_are_few() {
        let [large, medium, small] = SIZES;
        let mut expected = vec![large.bytes; large.in_use];
        expected.extend(vec![medium.bytes; medium.in_use]);
        expected.push(small.bytes);
        for _ in 0..2 {
            let all: Vec<_> = expected.iter().map(|_| Buffer::take(1 << 30)).collect();
            assert_eq!(all.iter().map(|buffer| buffer.bytes.len()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_buffer_is_as_large_as_what_is_left() {
        for (most, bytes) in [(10, 72), (72 << 10, 72), (73 << 10, 256), (257 << 10, 1024)] {
            assert_eq!(Buffer::take(most).bytes.len(), bytes << 10, "{most}");
        }
    }
}
