//! `hash-key`: what the settings keep of an API key.

use std::io;
use std::process::ExitCode;

use clap::Args;

use crate::guard::auth::{hash_key, new_key};

/// sysexits.h: the command line cannot be used.
const EX_USAGE: u8 = 64;

#[derive(Debug, Args)]
pub struct HashKey {
    /// The key, if it may be seen in the list of processes; without it, a line of the standard input
    key: Option<String>,
    /// Make a new key, and print it, too
    #[arg(long, conflicts_with = "key")]
    new: bool,
}

/// Prints the hash alone, so that it can be used in a script; with `--new` the key before it.
pub fn run(arguments: &HashKey) -> ExitCode {
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
    // A line end is not part of it; nor could a blank be in the header.
    match key.trim() {
        "" => {
            eprintln!("there is no key: give one on the standard input, or --new");
            ExitCode::from(EX_USAGE)
        }
        key => {
            println!("{}", hash_key(key));
            ExitCode::SUCCESS
        }
    }
}
