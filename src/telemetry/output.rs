//! Standard output, where lines that are logged together are written in one piece: each write is a call into the kernel, and
//! a busy worker has a line for every request.

use std::cell::RefCell;
use std::io::{self, Write, stdout};

thread_local! {
    /// What this thread logs together.
    static HELD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Writes what `log` logs when it is done.
pub fn batch_lines(log: impl FnOnce()) {
    HELD.set(Some(Vec::new()));
    let _written = Written;
    log();
}

/// Writes what is held when it is dropped, whatever happens.
struct Written;

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(lines) = HELD.take() {
            // Whoever reads the log is gone; there is nobody to tell.
            let _ = stdout().write_all(&lines);
        }
    }
}

/// What lines are written to.
pub struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        HELD.with_borrow_mut(|held| match held {
            Some(held) => held.write(bytes),
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
    fn what_is_logged_together_waits_for_its_end() {
        let held = || HELD.with_borrow(|held| held.clone());
        batch_lines(|| {
            Output.write_all(b"\n").unwrap();
            Output.write_all(b"\n").unwrap();
            assert_eq!(held().as_deref(), Some(&b"\n\n"[..]));
        });
        assert_eq!(held(), None);
        assert!(std::panic::catch_unwind(|| batch_lines(|| panic!("a line"))).is_err());
        assert_eq!(held(), None);
    }
}
