//! What `doctor` prints: a line for each step, what to change below it, and a summary.

use std::fmt;
use std::process::ExitCode;

/// Why a step failed.
pub(super) struct Fault {
    pub what: String,
    /// What to change; may be empty.
    pub change: String,
}

/// A step's value and the text of its line.
pub(super) type Checked<T> = Result<(T, String), Fault>;

#[derive(Default)]
pub(super) struct Report {
    failed: Vec<&'static str>,
}

impl Report {
    /// Prints a step's result; returns its value if the next steps can run.
    pub fn step<T>(&mut self, name: &'static str, checked: Checked<T>) -> Option<T> {
        match checked {
            Ok((value, text)) => {
                self.line("ok", name, &text);
                Some(value)
            }
            Err(fault) => {
                self.failed(name, &fault);
                None
            }
        }
    }

    pub fn failed(&mut self, name: &'static str, fault: &Fault) {
        self.line("FAILED", name, &fault.what);
        if !fault.change.is_empty() {
            self.advice(&fault.change);
        }
        self.failed.push(name);
    }

    pub fn skipped(&self, names: &[&str]) {
        names.iter().for_each(|name| self.line("-", name, "not tried"));
    }

    pub fn line(&self, mark: &str, name: &str, text: impl fmt::Display) {
        println!("{mark:<7} {name:<10} {text}");
    }

    /// What follows from the line before, for the settings.
    pub fn advice(&self, text: impl fmt::Display) {
        println!("                   -> {text}");
    }

    pub fn finish(self) -> ExitCode {
        if self.failed.is_empty() {
            println!("\nAll steps succeeded: the gateway works with these settings.");
            return ExitCode::SUCCESS;
        }
        println!(
            "\nFailed: {}. Make the changes named there, then run doctor again.",
            self.failed.join(", ")
        );
        ExitCode::FAILURE
    }
}
