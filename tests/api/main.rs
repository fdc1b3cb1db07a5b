//! The gateway from outside: real sockets, the real binary, the strict sandbox.

mod access;
mod cli;
mod clients;
mod credentials;
mod documents;
mod faults;
mod harness;
mod hostile;
mod links;
mod measured;
mod profiles;
mod readme;
mod relay;
mod replicas;
mod settings;
mod splits;
mod stand_in;
mod storage;
mod streaming;
mod tcb;
mod tls;
mod tokens;
mod uploads;
mod wire;
