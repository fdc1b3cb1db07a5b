//! The errcodes of WeChat's calls, and the checks of their parameters.

use serde_json::{Map, Value};

use super::link;

const FILES_MAX: usize = 50;

/// An errcode and its errmsg, without the request id that is appended to it.
pub struct Errcode(pub i64, pub String);

pub fn errcode<T>(code: i64, message: &str) -> Result<T, Errcode> {
    Err(Errcode(code, message.to_owned()))
}

pub fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, Errcode> {
    match object.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        None | Some(Value::Null | Value::String(_)) => {
            errcode(40101, &format!("missing parameter: {name}"))
        }
        Some(_) => errcode(40097, &format!("invalid args: {name}")),
    }
}

pub fn list<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], Errcode> {
    match object.get(name) {
        None | Some(Value::Null) => errcode(40101, &format!("missing parameter: {name}")),
        Some(Value::Array(items)) if items.is_empty() => {
            errcode(40101, &format!("missing parameter: {name}"))
        }
        Some(Value::Array(items)) if items.len() > FILES_MAX => {
            errcode(-501007, &format!("{name} exceeds the limit of {FILES_MAX}"))
        }
        Some(Value::Array(items)) => Ok(items),
        Some(_) => errcode(40097, &format!("invalid args: {name}")),
    }
}

/// Checks the vendor's strict rules only: a path that is merely discouraged, such as one with `$`, gets a link.
pub fn check_path(path: &str) -> Result<(), Errcode> {
    let wrong = path.starts_with(['/', '\\'])
        || path.contains("//")
        || path.split('/').any(|segment| segment == "." || segment == "..")
        || path.chars().any(char::is_control)
        || link::encoded_length(path) > 850;
    if wrong { errcode(-501007, "invalid parameters, invalid path") } else { Ok(()) }
}
