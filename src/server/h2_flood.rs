//! Detects floods of HTTP/2 frames that carry nothing, by nginx's measure: bytes received against bytes of use.

use std::cell::Cell;

/// A connection may receive at most this many bytes for each useful byte.
const RATIO: u64 = 8;
/// Useful bytes that every connection is credited with, so that [`RATIO`] times as many may be received: a client has
/// sent that much before it learns that its body is no longer read.
const CREDIT: u64 = 256 * 1024;
/// Bytes of use that a request counts for, besides its body.
const REQUEST: usize = 1024;

/// Bytes received over a connection, and how many of them were of use. The kind of frame does not matter: pings,
/// settings, resets, and empty or tiny DATA frames of a body that is not read yet all cost more than they carry.
#[derive(Default)]
pub struct FloodDetector {
    received: Cell<u64>,
    useful: Cell<u64>,
}

impl FloodDetector {
    /// Counts bytes that were read; `false` once the connection is a flood.
    pub fn received(&self, bytes: usize) -> bool {
        self.received.set(self.received.get() + bytes as u64);
        self.received.get() / RATIO <= self.useful.get() + CREDIT
    }

    /// Counts bytes that were of use.
    pub fn used(&self, bytes: usize) {
        self.useful.set(self.useful.get() + bytes as u64);
    }

    /// Counts a request.
    pub fn used_request(&self) {
        self.used(REQUEST);
    }
}
