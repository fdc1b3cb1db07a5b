//! The gateway from outside: real sockets, the real binary, the strict sandbox.

mod access;
mod clients;
mod faults;
mod harness;
mod hostile;
mod links;
mod relay;
mod settings;
mod splits;
mod streaming;
mod tls;
mod tokens;
mod uploads;
mod wire;
