//! Values as WeChat's replies have been seen to write them: a number as a string, nothing as `null`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A whole number, also in a string; 0 for `null` and for an empty string.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    from.deserialize_any(Number)
}

/// A number of seconds that is not below zero, as [`number`].
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    u64::try_from(number(from)?).map_err(D::Error::custom)
}

/// A text; an empty one for `null`.
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
        // No code comes near the end; a life that does is as good as endless.
        Ok(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<i64, E> {
        // Exact up to 2^53, and no code comes near that.
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
