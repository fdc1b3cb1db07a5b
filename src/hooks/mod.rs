//! Events of stored and deleted files, sent to the owner's back end by the rules of Standard Webhooks 1.0. Knows
//! nothing of HTTP handlers and of COS.
//!
//! - `event`: what is sent; `signature`: the signatures of it; `client`: one attempt
//! - `sender`: what handlers call: sends an event at once, or leaves it to the delivery
//! - `queue`: the events that this process delivers, in memory; `stream`: the events of all replicas, in Redis
//! - `delivery`: the task that delivers them

pub mod client;
pub mod delivery;
pub mod event;
pub mod queue;
pub mod sender;
pub mod signature;
pub mod stream;
