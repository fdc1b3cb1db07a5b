//! `hash-key`: prints the hash of an API key, which the settings contain instead of the key.

use std::io;
use std::process::ExitCode;

use clap::Args;

use crate::guard::auth::{hash_key, new_key};

/// sysexits.h: the command was used incorrectly.
const EX_USAGE: u8 = 64;

#[derive(Debug, Args)]
pub struct HashKeyArgs {
    /// The key; other users can see it in the list of processes. Without it, one line is read from standard input
    key: Option<String>,
    /// Generate a new key and print it, too
    #[arg(long, conflicts_with = "key")]
    new: bool,
}

/// Prints only the hash, for use in scripts; with `--new`, the key before it.
pub fn run(arguments: &HashKeyArgs) -> ExitCode {
    if arguments.new {
        let key = new_key();
        println!("key: {key}\nsha256: {}", hash_key(&key));
        return ExitCode::SUCCESS;
    }
    let mut key = arguments.key.clone().unwrap_or_default();
    if arguments.key.is_none()
        && let Err(error) = io::stdin().read_line(&mut key)
    {
        eprintln!("the key cannot be read: {error}");
        return ExitCode::FAILURE;
    }
    // The line end is not part of the key, and a key in a header cannot begin or end with a blank.
    match key.trim() {
        "" => {
            eprintln!("no key: write one to standard input, or use --new");
            ExitCode::from(EX_USAGE)
        }
        key => {
            println!("{}", hash_key(key));
            ExitCode::SUCCESS
        }
    }
}
