//! The command line: what can be asked of the binary besides serving.

pub mod doctor;
pub mod hash_key;
pub mod upload;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Streams uploads into WeChat CloudBase storage (Tencent COS) through one endpoint.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Arguments {
    /// `sandbox` (needs nothing, loopback only) or `production`; also GATEWAY_PROFILE
    #[arg(long, global = true)]
    pub profile: Option<String>,
    /// A TOML file laid over the profile; the environment (GATEWAY__SECTION__KEY) lies over both
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the settings, print them with secrets hidden, and end
    #[arg(long)]
    pub check: bool,
    /// Ask the gateway that runs with these settings on this machine whether it is alive, and end: for HEALTHCHECK
    #[arg(long)]
    pub health: bool,
    /// Without one: serve
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send one byte through the services that the settings name, and say what is wrong and where to change it
    Doctor,
    /// Upload files through a running gateway and print their addresses
    Upload(upload::Upload),
    /// Print what auth.keys.NAME.sha256 is for an API key
    HashKey(hash_key::HashKey),
}
