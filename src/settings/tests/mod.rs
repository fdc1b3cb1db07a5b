//! Settings as the operator sets them, in files and variables, and the reports of mistakes.

mod auth;
mod describe;
mod layers;
mod otlp;
mod profiles;
mod quota;
mod reload;
mod rules;
mod values;

use std::collections::HashMap;
use std::io::Write;

use super::{Faults, Settings};

const DIGITS: &str = "0123456789012345678901234567890123456789012345678901234567890123";

fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn sandbox(pairs: &[(&str, &str)]) -> Result<Settings, Faults> {
    Settings::from_layers(None, None, env(pairs))
}

/// Production with its required settings, and `pairs` besides.
fn production(pairs: &[(&str, &str)]) -> Result<Settings, Faults> {
    let mut env = env(&[
        ("GATEWAY__WECHAT__ENV", "prod-1"),
        ("GATEWAY__WECHAT__APPID", "wx1"),
        ("GATEWAY__WECHAT__SECRET", "hush"),
    ]);
    env.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Settings::from_layers(Some("production"), None, env)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn with_file(text: &str, pairs: &[(&str, &str)]) -> Result<Settings, Faults> {
    Settings::from_layers(None, Some(file(text).path()), env(pairs))
}

/// The problem of one key; panics with all faults where there is none.
fn problem(result: &Result<Settings, Faults>, key: &str) -> String {
    let faults = result.as_ref().expect_err("faults");
    let fault = faults.0.iter().find(|fault| fault.key == key);
    fault.unwrap_or_else(|| panic!("no fault of {key} in:\n{faults}")).problem.clone()
}

fn keys(result: &Result<Settings, Faults>) -> Vec<&str> {
    result.as_ref().expect_err("faults").0.iter().map(|fault| fault.key.as_str()).collect()
}
