//! Standard output, with lines written in batches: each write is a system call, and a busy worker logs a line for every
//! request.

use std::cell::RefCell;
use std::io::{self, Write, stdout};

/// Bytes that suffice for most batches.
const BATCH_CAPACITY: usize = 8 * 1024;

thread_local! {
    /// The lines of this thread's batch, while there is one.
    static BATCH: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Writes the lines that `log` logs in one write, after it returns.
pub fn batch_lines(log: impl FnOnce()) {
    BATCH.set(Some(Vec::with_capacity(BATCH_CAPACITY)));
    let _guard = BatchGuard;
    log();
}

/// Writes the batch when it is dropped, also if logging panics.
struct BatchGuard;

impl Drop for BatchGuard {
    fn drop(&mut self) {
        if let Some(lines) = BATCH.take() {
            // A failure cannot be logged: standard output is closed.
            let _ = stdout().write_all(&lines);
        }
    }
}

/// The writer that the log writes lines to.
pub struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BATCH.with_borrow_mut(|batch| match batch {
            Some(batch) => batch.write(bytes),
            None => stdout().write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batched_lines_are_written_at_the_end() {
        let batch = || BATCH.with_borrow(|batch| batch.clone());
        batch_lines(|| {
            Output.write_all(b"\n").unwrap();
            Output.write_all(b"\n").unwrap();
            assert_eq!(batch().as_deref(), Some(&b"\n\n"[..]));
        });
        assert_eq!(batch(), None);
        assert!(std::panic::catch_unwind(|| batch_lines(|| panic!("a line"))).is_err());
        assert_eq!(batch(), None);
    }
}
