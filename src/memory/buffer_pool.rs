//! The buffers that bodies are read into. Each worker has its own pool and takes the buffer that was returned last,
//! which is still in the processor's cache. There are few large buffers; where all of these are in use, smaller ones
//! are taken.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::io::ReadBuf;

/// The size of a class's buffers, and how many a worker has.
struct ClassLimits {
    /// Bytes.
    capacity: usize,
    /// In use at most, without retained ones: with more uploads than this, memory matters more than the number of reads.
    max_in_use: usize,
    /// Free ones retained at most.
    max_free: usize,
}

/// From large to small. A body of 512 MiB in reads of 1 MiB costs half the CPU of reads of 256 KiB, since the gateway
/// and the processes on both sides are woken less often; 2 MiB gain nothing (`benches/runs/NOTES.md`). The smallest
/// class is for icons and previews of photos, 64 KiB, together with the heads before them.
const CLASSES: [ClassLimits; 3] = [
    ClassLimits { capacity: 1024 * 1024, max_in_use: 8, max_free: 16 },
    ClassLimits { capacity: 256 * 1024, max_in_use: 32, max_free: 16 },
    ClassLimits { capacity: 72 * 1024, max_in_use: usize::MAX, max_free: 64 },
];

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool { classes: [SizeClass::EMPTY; CLASSES.len()], in_use: BTreeMap::new() })
    };
}

/// A worker's buffers.
struct Pool {
    classes: [SizeClass; CLASSES.len()],
    /// The buffers in use, by their start.
    in_use: BTreeMap<usize, InUse>,
}

struct InUse {
    /// Bytes.
    length: usize,
    /// Its index in [`CLASSES`].
    class: usize,
    is_retained: bool,
}

/// The buffers of one size.
struct SizeClass {
    free: Vec<Box<[u8]>>,
    in_use: usize,
}

impl SizeClass {
    const EMPTY: Self = Self { free: Vec::new(), in_use: 0 };
}

/// A buffer, returned to its pool when it is dropped.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    /// Its index in [`CLASSES`].
    class: usize,
}

impl Buffer {
    /// Takes a buffer to read `most` bytes into, or fewer at a time.
    pub(crate) fn take(most: u64) -> Self {
        POOL.with_borrow_mut(|Pool { classes, in_use }| {
            // A buffer of a larger class than needed would stay mostly unused.
            let fits = |index: usize| {
                let smaller = CLASSES.get(index + 1).map_or(0, |limits| limits.capacity as u64);
                most > smaller && classes[index].in_use < CLASSES[index].max_in_use
            };
            let class = (0..CLASSES.len()).find(|index| fits(*index)).unwrap_or(CLASSES.len() - 1);
            let SizeClass { free, in_use: count } = &mut classes[class];
            *count += 1;
            let bytes = free.pop().unwrap_or_else(|| vec![0; CLASSES[class].capacity].into());
            let entry = InUse { length: bytes.len(), class, is_retained: false };
            in_use.insert(bytes.as_ptr().addr(), entry);
            Self { bytes, filled: 0, class }
        })
    }

    /// To be read into: `most` bytes, or its capacity.
    pub(crate) fn unfilled(&mut self, most: usize) -> ReadBuf<'_> {
        let length = self.bytes.len().min(most);
        ReadBuf::new(&mut self.bytes[..length])
    }

    /// Its first `filled` bytes.
    pub(crate) fn freeze(mut self, filled: usize) -> Bytes {
        self.filled = filled;
        Bytes::from_owner(self)
    }
}

/// The capacity of the pooled buffer that `bytes` are a part of, and that they pin; `None` where they are not in a
/// buffer of this worker's pool.
pub(crate) fn pooled_capacity_of(bytes: &[u8]) -> Option<usize> {
    let at = bytes.as_ptr().addr();
    POOL.with_borrow(|pool| {
        let (start, entry) = pool.in_use.range(..=at).next_back()?;
        (at < start + entry.length).then_some(entry.length)
    })
}

/// The buffer that `bytes` are in is retained for another attempt, within the memory budget: it no longer counts as in
/// use. Otherwise the parts of a few files would leave only small buffers to read into.
pub(crate) fn set_retained(bytes: &[u8]) {
    let at = bytes.as_ptr().addr();
    POOL.with_borrow_mut(|Pool { classes, in_use }| {
        if let Some((start, entry)) = in_use.range_mut(..=at).next_back()
            && at < start + entry.length
            && !std::mem::replace(&mut entry.is_retained, true)
        {
            classes[entry.class].in_use = classes[entry.class].in_use.saturating_sub(1);
        }
    });
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that is exiting has no pool any more.
        let _ = POOL.try_with(|pool| {
            let Pool { classes, in_use } = &mut *pool.borrow_mut();
            let entry = in_use.remove(&bytes.as_ptr().addr());
            let class = &mut classes[self.class];
            if entry.is_some_and(|entry| !entry.is_retained) {
                class.in_use = class.in_use.saturating_sub(1);
            }
            if class.free.len() < CLASSES[self.class].max_free {
                class.free.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again() {
        let first = Buffer::take(1 << 30);
        let at = first.bytes.as_ptr();
        drop(first.freeze(10));
        assert_eq!(Buffer::take(1 << 30).bytes.as_ptr(), at);
    }

    #[test]
    fn bytes_in_a_pooled_buffer_are_recognized() {
        let whole = Buffer::take(1 << 30).freeze(10);
        assert_eq!(pooled_capacity_of(&whole.slice(9..)), Some(1024 * 1024));
        assert_eq!(pooled_capacity_of(b"elsewhere"), None);
        let copy = Bytes::copy_from_slice(&whole);
        drop(whole);
        assert_eq!(pooled_capacity_of(&copy), None);
    }

    #[test]
    fn large_buffers_are_few() {
        let [large, medium, small] = CLASSES;
        let mut expected = vec![large.capacity; large.max_in_use];
        expected.extend(vec![medium.capacity; medium.max_in_use]);
        expected.push(small.capacity);
        for _ in 0..2 {
            let all: Vec<_> = expected.iter().map(|_| Buffer::take(1 << 30)).collect();
            assert_eq!(all.iter().map(|buffer| buffer.bytes.len()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn retained_buffers_leave_large_ones_to_read_into() {
        let [large, ..] = CLASSES;
        let retained: Vec<_> = (0..3 * large.max_in_use)
            .map(|_| {
                let buffer = Buffer::take(1 << 30);
                assert_eq!(buffer.bytes.len(), large.capacity);
                let bytes = buffer.freeze(large.capacity);
                // The same buffer may be retained twice.
                set_retained(&bytes[1..]);
                set_retained(&bytes);
                bytes
            })
            .collect();
        drop(retained);
        set_retained(b"elsewhere");
        let in_use: Vec<_> = (0..=large.max_in_use).map(|_| Buffer::take(1 << 30)).collect();
        let smaller = in_use.iter().filter(|buffer| buffer.bytes.len() < large.capacity).count();
        assert_eq!(smaller, 1);
    }

    #[test]
    fn a_buffer_is_as_large_as_the_bytes_to_read() {
        for (most, bytes) in [(10, 72), (72 << 10, 72), (73 << 10, 256), (257 << 10, 1024)] {
            assert_eq!(Buffer::take(most).bytes.len(), bytes << 10, "{most}");
        }
    }
}
