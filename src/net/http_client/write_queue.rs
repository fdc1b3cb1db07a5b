//! The segments of bytes that are sent in one write: a request's head, a form's head, bytes of the file, the form's
//! end.

use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Two heads, the segments of a full replay window, a chunk of the file and the form's end.
pub const SEGMENTS: usize = 9;

/// Segments in order. Copies nothing and allocates nothing.
#[derive(Debug, Default)]
pub struct WriteQueue {
    segments: [Bytes; SEGMENTS],
    /// The segments from `first` to before `end` are used.
    end: usize,
    first: usize,
    /// Bytes.
    remaining: usize,
}

impl WriteQueue {
    /// Whether no other segment fits in.
    pub fn is_full(&self) -> bool {
        self.end == SEGMENTS
    }

    /// Appends a segment. The queue must not be full.
    pub fn push(&mut self, segment: Bytes) {
        self.remaining += segment.len();
        self.segments[self.end] = segment;
        self.end += 1;
    }
}

impl Buf for WriteQueue {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        let segments = self.segments[self.first..self.end].iter();
        segments.map(|segment| &segment[..]).find(|segment| !segment.is_empty()).unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let segments =
            self.segments[self.first..self.end].iter().filter(|segment| !segment.is_empty());
        let mut used = 0;
        for (slice, segment) in slices.iter_mut().zip(segments) {
            *slice = IoSlice::new(segment);
            used += 1;
        }
        used
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "more than there is");
        self.remaining -= count;
        while count > 0 {
            let segment = &mut self.segments[self.first];
            let taken = count.min(segment.len());
            segment.advance(taken);
            count -= taken;
            if segment.is_empty() {
                // Releases the buffer of a segment that was sent.
                *segment = Bytes::new();
                self.first += 1;
            }
        }
        if self.remaining == 0 {
            (self.first, self.end) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_sent_in_order_whatever_a_write_takes() {
        for step in 1..12 {
            let mut queue = WriteQueue::default();
            for segment in ["head", "", "file", "x", "tail"] {
                queue.push(Bytes::from_static(segment.as_bytes()));
            }
            let mut out = Vec::new();
            while queue.has_remaining() {
                let mut slices = [IoSlice::new(b""); 3];
                let used = queue.chunks_vectored(&mut slices);
                let offered: Vec<u8> =
                    slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
                let taken = step.min(offered.len());
                assert!(offered.starts_with(&queue.chunk()[..taken.min(queue.chunk().len())]));
                out.extend_from_slice(&offered[..taken]);
                queue.advance(taken);
            }
            assert_eq!(out, b"headfilextail");
        }
    }
}
