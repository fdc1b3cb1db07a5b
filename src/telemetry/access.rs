//! Lines of the access log, which every request has: in the format of the other lines, but written without an event of
//! tracing, which takes twice the instructions for as many fields (`benches/runs/NOTES.md`).

use std::fmt::Display;
use std::io::Write;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::{Level, Span};
use tracing_subscriber::fmt::FormattedFields;
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::json::{self, SpanFields};
use super::output::Output;
use crate::settings::LogFormat;

/// Of the process's log, once it has begun.
pub(super) static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Bytes that suffice for most lines.
const CAPACITY: usize = 1024;

/// A field's name, as lines of both formats have it. Made by [`key`].
#[derive(Clone, Copy)]
pub struct Key {
    pub json: &'static str,
    pub text: &'static str,
}

/// The [`Key`] of a name.
macro_rules! key {
    ($name:literal) => {
        $crate::telemetry::access::Key {
            json: concat!(",\"", $name, "\":"),
            text: concat!(" ", $name, "="),
        }
    };
}
pub(crate) use key;

/// The fields of one line. A value that is not there has none.
pub struct AccessFields {
    is_json: bool,
    bytes: Vec<u8>,
}

impl AccessFields {
    /// Begins a line about what `span` is about.
    pub fn begin(level: Level, span: &Span) -> Self {
        let is_json = FORMAT.get() == Some(&LogFormat::Json);
        let mut bytes = Vec::with_capacity(CAPACITY);
        if is_json {
            json::begin(&mut bytes, level);
            span.with_subscriber(|(id, dispatch)| {
                let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
                let extensions = span.extensions();
                let fields = extensions.get::<FormattedFields<SpanFields>>()?;
                bytes.extend_from_slice(fields.as_str().as_bytes());
                Some(())
            });
        }
        Self { is_json, bytes }
    }

    pub fn text(&mut self, key: Key, value: Option<&str>) {
        let Some(value) = value else { return };
        self.key(key);
        match self.is_json {
            true => json::text(&mut self.bytes, value),
            false => self.write(format_args!("{value:?}")),
        }
    }

    pub fn number(&mut self, key: Key, value: Option<impl Into<u64>>) {
        let Some(value) = value else { return };
        self.key(key);
        push_digits(&mut self.bytes, value.into());
    }

    /// A time in milliseconds, to a tenth.
    pub fn milliseconds(&mut self, key: Key, value: Option<Duration>) {
        let Some(value) = value else { return };
        self.key(key);
        push_milliseconds(&mut self.bytes, value);
    }

    pub fn address(&mut self, key: Key, value: Option<IpAddr>) {
        let Some(value) = value else { return };
        self.key(key);
        let quote: &[u8] = if self.is_json { b"\"" } else { b"" };
        self.bytes.extend_from_slice(quote);
        match value {
            IpAddr::V4(address) => {
                let [first, rest @ ..] = address.octets();
                push_digits(&mut self.bytes, first);
                for octet in rest {
                    self.bytes.push(b'.');
                    push_digits(&mut self.bytes, octet);
                }
            }
            IpAddr::V6(address) => self.write(address),
        }
        self.bytes.extend_from_slice(quote);
    }

    fn key(&mut self, key: Key) {
        let key = if self.is_json { key.json } else { key.text };
        self.bytes.extend_from_slice(key.as_bytes());
    }

    fn write(&mut self, value: impl Display) {
        // Writing into memory does not fail.
        let _ = write!(self.bytes, "{value}");
    }

    /// Writes the line, if the log is in JSON. Otherwise the caller logs this text.
    pub fn end(mut self) -> Option<String> {
        if self.is_json {
            self.bytes.extend_from_slice(b"}\n");
            // A failure cannot be logged: standard output is closed.
            let _ = Output.write_all(&self.bytes);
            return None;
        }
        self.bytes.drain(..1.min(self.bytes.len()));
        // Each value was a text.
        Some(String::from_utf8(self.bytes).unwrap_or_default())
    }
}

/// A time in milliseconds, to a tenth: `12.3`.
pub fn push_milliseconds(text: &mut Vec<u8>, took: Duration) {
    push_digits(text, took.as_millis());
    text.push(b'.');
    push_digits(text, took.subsec_micros() / 100 % 10);
}

fn push_digits(text: &mut Vec<u8>, number: impl itoa::Integer) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
