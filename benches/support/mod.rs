//! The modules of `relay.rs`.

pub mod bars;
pub mod chart;
pub mod deployment;
pub mod load;
pub mod peers;
pub mod polling;
pub mod process;
pub mod record;
pub mod relays;
pub mod report;
pub mod request;
pub mod results;
pub mod scenarios;
pub mod upstream;
pub mod wechat;

/// An error that stops the bench.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
