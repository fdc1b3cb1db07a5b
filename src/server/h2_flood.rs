//! Detects floods of HTTP/2 frames that carry nothing.

use std::cell::Cell;

/// What came may be this many times what was of use.
const RATIO: u64 = 8;
/// And so much more (times [`RATIO`]), for what a sender has on its way when it is told that nobody reads on.
const ALLOWANCE: u64 = 256 * 1024;
/// What a request is worth beside its body.
const REQUEST: usize = 1024;

/// What came over a connection, and how much of it was of use: nginx's measure of a flood. Whatever the frames are
/// called (pings, settings, resets, empty or tiny pieces of a body that nobody reads yet), they cost us more than they
/// carry.
#[derive(Default)]
pub struct FloodDetector {
    came: Cell<u64>,
    useful: Cell<u64>,
}

impl FloodDetector {
    /// Bytes were read; whether that is still no flood.
    pub fn came(&self, bytes: usize) -> bool {
        self.came.set(self.came.get() + bytes as u64);
        self.came.get() / RATIO <= self.useful.get() + ALLOWANCE
    }

    /// Bytes were of use.
    pub fn used(&self, bytes: usize) {
        self.useful.set(self.useful.get() + bytes as u64);
    }

    /// A request was of use, whatever its body is worth.
    pub fn used_request(&self) {
        self.used(REQUEST);
    }
}
