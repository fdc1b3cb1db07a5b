//! Quotas: how much a client or user has stored, a day and in all, and what running uploads have reserved of the rest.
//!
//! - `amount`: bytes and files, what an upload asks for, what was used, and why an upload is refused
//! - `counter`: the counter of one client or user, in memory; `memory`: all of them, bounded
//! - `redis`: the same counters, shared by all gateways
//! - `quotas`: where the counters are: in Redis, or in memory while it is unavailable
//! - `unsent`: what Redis is still to be told
//! - `reservation`: what one upload has reserved, from its admission to its end

pub mod amount;
mod counter;
mod memory;
pub mod quotas;
mod redis;
pub mod reservation;
mod unsent;
