//! The parameters of a URL's query, decoded strictly: a value that is not percent-encoded UTF-8, or a parameter that is
//! repeated, is an error.

use std::borrow::Cow;
use std::fmt;

use actix_web::HttpRequest;
use percent_encoding::percent_decode_str;

use crate::http::problem::{Code, Problem};

/// Why a parameter is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` in the query {fault}")]
pub struct QueryError {
    name: &'static str,
    fault: Fault,
}

/// What is wrong with an encoded text. Displayed as the end of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Percent-encoded bytes that are not UTF-8, or overlong UTF-8.
    Charset,
    /// A `%` without two hexadecimal digits.
    Percent,
    /// `%uXXXX`.
    Escape,
    Control,
    Repeated,
}

impl QueryError {
    /// Whether the value is well encoded and has a control character.
    pub fn has_control(&self) -> bool {
        self.fault == Fault::Control
    }
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
            Self::Repeated => "is repeated; send it once",
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

/// The values of the parameters `names`, in their order. Other parameters are ignored, even if they cannot be decoded.
pub fn parameters<const N: usize>(
    request: &HttpRequest,
    names: [&'static str; N],
) -> Result<[Option<String>; N], QueryError> {
    parse(request.query_string(), names)
}

fn parse<const N: usize>(
    query: &str,
    names: [&'static str; N],
) -> Result<[Option<String>; N], QueryError> {
    let mut values = [const { None }; N];
    for (name, value) in pairs(query) {
        let Ok(name) = decode_form(name) else { continue };
        let Some(index) = names.iter().position(|known| *known == name) else { continue };
        let error = |fault| QueryError { name: names[index], fault };
        if values[index].is_some() {
            return Err(error(Fault::Repeated));
        }
        values[index] = Some(decode_form(value).map_err(error)?.into_owned());
    }
    Ok(values)
}

/// The names and values in `query`, not decoded.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Decodes a part of a query, where `+` is a blank, unlike in a path.
pub fn decode_form(text: &str) -> Result<Cow<'_, str>, Fault> {
    match text.contains('+') {
        true => decode(&text.replace('+', " ")).map(|text| Cow::Owned(text.into_owned())),
        false => decode(text),
    }
}

/// Decodes percent-encoded UTF-8; control characters are an error.
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
        parse(query, ["path", "dir"]).map(|[_, dir]| dir).map_err(|error| error.fault)
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
            // Other parameters are ignored.
            ("utm=%D6%D0&%D6=1&100%&utm=2&&dir=a&", Some("a")),
        ] {
            assert_eq!(dir(query), Ok(value.map(ToOwned::to_owned)), "{query}");
        }
    }

    #[test]
    fn invalid_encoding_is_an_error() {
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
