//! The parameters of a URL's query, decoded strictly: a value that is not percent-encoded UTF-8, or that stands there
//! twice, is refused instead of guessed at.

use std::borrow::Cow;
use std::fmt;

use actix_web::HttpRequest;
use percent_encoding::percent_decode_str;

use crate::http::problem::{Code, Problem};

/// Why a parameter's value cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` in the query {fault}")]
pub struct QueryError {
    name: &'static str,
    fault: Fault,
}

/// What is wrong with an encoded text, as the end of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Percent-encoded bytes of another charset, or overlong ones.
    Charset,
    /// A `%` without two hexadecimal digits.
    Percent,
    /// `%uXXXX`.
    Escape,
    Control,
    Repeated,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Charset => {
                "is not UTF-8 (it may be GBK); percent-encode its UTF-8 bytes, as encodeURIComponent does"
            }
            Self::Percent => {
                "has a `%` that no two hexadecimal digits follow; write the percent sign itself as %25"
            }
            Self::Escape => {
                "has a `%u` sequence, which JavaScript's escape() makes; use encodeURIComponent"
            }
            Self::Control => "has a control character",
            Self::Repeated => "stands there more than once; send it once",
        })
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let names_a_path = matches!(error.name, "path" | "dir") && error.fault != Fault::Repeated;
        let code = if names_a_path { Code::InvalidPath } else { Code::InvalidRequest };
        Self::new(code, error.to_string())
    }
}

/// The values of the parameters `names`, in their order. Other parameters are ignored, whatever they are.
pub fn parameters<const N: usize>(
    request: &HttpRequest,
    names: [&'static str; N],
) -> Result<[Option<String>; N], QueryError> {
    read(request.query_string(), names)
}

fn read<const N: usize>(
    query: &str,
    names: [&'static str; N],
) -> Result<[Option<String>; N], QueryError> {
    let mut values = [const { None }; N];
    for (name, value) in pairs(query) {
        let Ok(name) = decode_form(name) else { continue };
        let Some(index) = names.iter().position(|known| *known == name) else { continue };
        let wrong = |fault| QueryError { name: names[index], fault };
        if values[index].is_some() {
            return Err(wrong(Fault::Repeated));
        }
        values[index] = Some(decode_form(value).map_err(wrong)?.into_owned());
    }
    Ok(values)
}

/// Names and values as they stand in `query`.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// In a query, unlike in a path, `+` is a blank.
fn decode_form(text: &str) -> Result<Cow<'_, str>, Fault> {
    match text.contains('+') {
        true => decode(&text.replace('+', " ")).map(|text| Cow::Owned(text.into_owned())),
        false => decode(text),
    }
}

/// Percent-encoded UTF-8 without control characters.
pub fn decode(text: &str) -> Result<Cow<'_, str>, Fault> {
    let escapes = text.split('%').skip(1).map(str::as_bytes);
    for escape in escapes {
        match escape {
            [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {}
            [b'u' | b'U', code @ ..] if code.iter().take(4).all(u8::is_ascii_hexdigit) => {
                return Err(Fault::Escape);
            }
            _ => return Err(Fault::Percent),
        }
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| Fault::Charset)?;
    match decoded.contains(char::is_control) {
        true => Err(Fault::Control),
        false => Ok(decoded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(query: &str) -> Result<Option<String>, Fault> {
        read(query, ["path", "dir"]).map(|[_, dir]| dir).map_err(|error| error.fault)
    }

    #[test]
    fn values_are_decoded_as_forms_encode_them() {
        for (query, value) in [
            ("", None),
            ("path=a", None),
            ("dir", Some("")),
            ("dir=", Some("")),
            ("dir=a+b%2Bc%20d", Some("a b+c d")),
            ("dir=%E4%B8%AD", Some("中")),
            ("dir=%e4%b8%ad/x", Some("中/x")),
            ("di%72=a", Some("a")),
            ("dir=a=b", Some("a=b")),
            // Parameters of others are theirs.
            ("utm=%D6%D0&%D6=1&100%&utm=2&&dir=a&", Some("a")),
        ] {
            assert_eq!(dir(query), Ok(value.map(ToOwned::to_owned)), "{query}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for (query, fault) in [
            ("dir=%D6%D0", Fault::Charset),
            ("dir=%E4%B8", Fault::Charset),
            ("dir=a%C0%AFb", Fault::Charset),
            ("dir=%ED%A0%80", Fault::Charset),
            ("dir=%FF", Fault::Charset),
            ("dir=100%", Fault::Percent),
            ("dir=%zz", Fault::Percent),
            ("dir=%4", Fault::Percent),
            ("dir=%+41", Fault::Percent),
            ("dir=%u4E2D", Fault::Escape),
            ("dir=a%00", Fault::Control),
            ("dir=a%0Ab", Fault::Control),
            ("dir=a&dir=b", Fault::Repeated),
            ("dir=a&dir=a", Fault::Repeated),
            ("dir=a&di%72=b", Fault::Repeated),
        ] {
            assert_eq!(dir(query), Err(fault), "{query}");
        }
    }
}
