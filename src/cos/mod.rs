//! The way to COS: the ordered form, the relay that fills it, the connections it goes over, and COS's verdict.
//!
//! Knows nothing of clients, tokens or HTTP replies: it is given a source of pieces and a link.

pub mod error;
pub mod form;
mod outgoing;
pub mod relay;
pub mod target;
pub mod upstream;
pub mod verdict;
