//! What the h2 library lets one connection do without an end: streams at once, huge heads, frames that carry nothing.

use std::cell::Cell;

use actix_web::dev::ServiceRequest;
use actix_web::http::Version;

use crate::http::problem::{Code, Problem};
use crate::server::connection_limit::Seat;

/// Requests at once; browsers take 100 for granted and send no more than 256. One more is refused.
const REQUESTS: usize = 256;
/// From here on a connection is a flood, and ended.
const FLOOD: usize = 1024;
/// A request's head, as over HTTP/1: its fields, and its bytes.
const FIELDS: usize = 96;
const HEAD: usize = 32 * 1024;

/// What came may be this many times what was of use.
const RATIO: u64 = 8;
/// And so much more (times [`RATIO`]), for what a sender has on its way when it is told that nobody reads on.
const ALLOWANCE: u64 = 256 * 1024;
/// What a request is worth beside its body.
const REQUEST: usize = 1024;

/// Refuses what no honest client sends; the worst of it with the end of the connection.
pub fn admit(request: &ServiceRequest, seat: &Seat) -> Result<(), Problem> {
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    if seat.requests() > REQUESTS {
        if seat.requests() > FLOOD {
            seat.break_off();
        }
        return Err(Problem::crowded("this connection has too many requests running already"));
    }
    seat.account().used(REQUEST);
    let headers = request.headers();
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() > FIELDS || fields + request.path().len() + request.query_string().len() > HEAD
    {
        seat.break_off();
        let detail = format!("a request's head has at most {FIELDS} fields and {HEAD} bytes");
        return Err(Problem::new(Code::FieldsTooLarge, detail));
    }
    Ok(())
}

/// What came over a connection, and how much of it was of use: nginx's measure of a flood. Whatever the frames are
/// called (pings, settings, resets, empty or tiny pieces of a body that nobody reads yet), they cost us more than they
/// carry.
#[derive(Default)]
pub struct Account {
    came: Cell<u64>,
    useful: Cell<u64>,
}

impl Account {
    /// Bytes were read; whether that is still no flood.
    pub fn came(&self, bytes: usize) -> bool {
        self.came.set(self.came.get() + bytes as u64);
        self.came.get() / RATIO <= self.useful.get() + ALLOWANCE
    }

    /// Bytes were of use.
    pub fn used(&self, bytes: usize) {
        self.useful.set(self.useful.get() + bytes as u64);
    }
}
