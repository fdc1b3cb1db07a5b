//! Threads of a test. A scope waits for all of its threads, so none may run or wait on where an assertion of another one
//! fails: the test would hang instead of failing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use crate::harness::HANG_TIMEOUT;

/// Sets the flag that ends other threads when it is dropped, also where an assertion fails.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// As [`std::sync::Barrier`], but where not all threads come in time, those that wait fail.
pub struct Barrier {
    threads: usize,
    come: Mutex<usize>,
    all: Condvar,
}

impl Barrier {
    pub fn new(threads: usize) -> Self {
        Self { threads, come: Mutex::new(0), all: Condvar::new() }
    }

    /// Waits for all threads. Each waits once.
    pub fn wait(&self) {
        let mut come = self.come.lock().expect("the count");
        *come += 1;
        self.all.notify_all();
        let some = |come: &mut usize| *come < self.threads;
        let (_come, waited) =
            self.all.wait_timeout_while(come, HANG_TIMEOUT, some).expect("the count");
        assert!(!waited.timed_out(), "not all threads have come");
    }
}

#[test]
fn a_thread_that_waits_for_one_that_failed_fails() {
    let over = AtomicBool::new(false);
    let failed = std::panic::catch_unwind(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            });
            let _end = SetAtEnd(&over);
            assert!(over.load(Ordering::SeqCst), "as an assertion of a test");
        });
    });
    assert!(failed.is_err());
}
