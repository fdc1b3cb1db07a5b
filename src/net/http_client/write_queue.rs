//! Runs of bytes that go out in one write: a request's head, a form's, what is there of the file, the form's tail.

use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Two heads, the runs of a full replay window, a piece and a tail.
pub const RUNS: usize = 9;

/// Some runs in order. Copies nothing and allocates nothing.
#[derive(Debug, Default)]
pub struct WriteQueue {
    runs: [Bytes; RUNS],
    /// Those from `first` up to here are used.
    end: usize,
    first: usize,
    remaining: usize,
}

impl WriteQueue {
    /// Whether no other run finds room.
    pub fn is_full(&self) -> bool {
        self.end == RUNS
    }

    /// Appends a run; there must be room.
    pub fn push(&mut self, run: Bytes) {
        self.remaining += run.len();
        self.runs[self.end] = run;
        self.end += 1;
    }
}

impl Buf for WriteQueue {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        let runs = self.runs[self.first..self.end].iter();
        runs.map(|run| &run[..]).find(|run| !run.is_empty()).unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let runs = self.runs[self.first..self.end].iter().filter(|run| !run.is_empty());
        let mut used = 0;
        for (slice, run) in slices.iter_mut().zip(runs) {
            *slice = IoSlice::new(run);
            used += 1;
        }
        used
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "more than there is");
        self.remaining -= count;
        while count > 0 {
            let run = &mut self.runs[self.first];
            let taken = count.min(run.len());
            run.advance(taken);
            count -= taken;
            if run.is_empty() {
                // What is sent is given back at once.
                *run = Bytes::new();
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
    fn runs_go_out_in_order_however_they_are_taken() {
        for step in 1..12 {
            let mut queue = WriteQueue::default();
            for run in ["head", "", "file", "x", "tail"] {
                queue.push(Bytes::from_static(run.as_bytes()));
            }
            let mut out = Vec::new();
            while queue.has_remaining() {
                let mut slices = [IoSlice::new(b""); 3];
                let used = queue.chunks_vectored(&mut slices);
                let together: Vec<u8> =
                    slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
                let taken = step.min(together.len());
                assert!(together.starts_with(&queue.chunk()[..taken.min(queue.chunk().len())]));
                out.extend_from_slice(&together[..taken]);
                queue.advance(taken);
            }
            assert_eq!(out, b"headfilextail");
        }
    }
}
