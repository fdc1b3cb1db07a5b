//! JSON values in the forms that WeChat's responses have been seen to use: a number as a string, `null` for no value.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A whole number, also in a string; 0 for `null` and for an empty string.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    from.deserialize_any(Number)
}

/// A number of seconds, read as [`number`]; a negative one is an error.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    u64::try_from(number(from)?).map_err(D::Error::custom)
}

/// A string; an empty one for `null`.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// A list; an empty one for `null`.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

struct Number;

impl<'de> Visitor<'de> for Number {
    type Value = i64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number, or one in a string")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<i64, E> {
        // No error code is that large, and a lifetime of `i64::MAX` seconds is as good as unlimited.
        Ok(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<i64, E> {
        // An `f64` is exact up to 2^53, and no error code is that large.
        match value.fract() == 0.0 && value.abs() < 1e15 {
            true => Ok(value as i64),
            false => Err(E::custom("not a whole number")),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<i64, E> {
        match text.trim() {
            "" => Ok(0),
            text => text.parse().map_err(E::custom),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<i64, E> {
        Ok(0)
    }

    fn visit_none<E: Error>(self) -> Result<i64, E> {
        Ok(0)
    }
}
