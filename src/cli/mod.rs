//! The command line: its options, and the commands besides running the gateway.

pub mod doctor;
pub mod hash_key;
pub mod upload;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Streams uploads into WeChat CloudBase storage (Tencent COS) through one endpoint.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Arguments {
    /// `sandbox` (needs no settings, listens on loopback only) or `production`; also GATEWAY_PROFILE
    #[arg(long, global = true)]
    pub profile: Option<String>,
    /// A TOML file that overrides the profile; environment variables (GATEWAY__SECTION__KEY) override both
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the settings, print them with secrets hidden, and exit
    #[arg(long)]
    pub check: bool,
    /// Check whether the gateway with these settings on this machine is alive, and exit; for HEALTHCHECK
    #[arg(long)]
    pub health: bool,
    /// Without a command the gateway runs
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Upload, download and delete a 1-byte file with these settings; report what fails and what to change
    Doctor(doctor::DoctorArgs),
    /// Upload files through a running gateway and print their URLs
    Upload(upload::UploadArgs),
    /// Print the value of auth.keys.NAME.sha256 for an API key
    HashKey(hash_key::HashKeyArgs),
}
