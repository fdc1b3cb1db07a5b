//! The log: lines on standard output, as text for people or as JSON for machines. The audit log is apart from it, and so
//! are the spans of requests (`spans`) and their export (`otlp`).

pub mod access;
pub mod audit;
mod json;
#[cfg(feature = "otlp")]
pub mod otlp;
mod output;
pub mod spans;

pub use output::batch_lines;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::settings::{LogFormat, Telemetry};

/// A longer text of a client is cut to this many bytes in the log and in the audit log. Escaped, each takes at most six bytes
/// of its line.
pub const MAX_TEXT: usize = 1024;

/// At most the first [`MAX_TEXT`] bytes of a text.
pub fn cut(text: &str) -> &str {
    cut_to(MAX_TEXT, text)
}

/// At most the first `max` bytes of a text.
fn cut_to(max: usize, text: &str) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("telemetry.log: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("telemetry: {0}")]
    Set(#[from] tracing_subscriber::util::TryInitError),
}

/// Checks the settings as [`start`] does.
pub fn check(settings: &Telemetry) -> Result<(), TelemetryError> {
    filter(settings).map(drop)
}

/// Some lines of the server libraries are left out unless `telemetry.log` names them: the start-up lines, which repeat
/// the gateway's, and an error per non-HTTP connection, with which a flood could fill the log.
fn filter(settings: &Telemetry) -> Result<Targets, TelemetryError> {
    Ok(format!("actix_server=warn,actix_http=off,{}", settings.log).parse()?)
}

/// Starts the log for the whole process.
pub fn start(settings: &Telemetry) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(|| output::Output)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stdout()));
    let log = tracing_subscriber::registry().with(filter(settings)?);
    access::FORMAT.get_or_init(|| settings.format);
    match settings.format {
        LogFormat::Text => log.with(lines).try_init(),
        LogFormat::Json => {
            log.with(lines.fmt_fields(json::SpanFields).event_format(json::Lines)).try_init()
        }
    }
    .map_err(TelemetryError::from)
}
