//! The log: lines on standard output, as text for people or as JSON for machines.

mod json;
mod output;

pub use output::batch_lines;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;

use crate::settings::{LogFormat, Telemetry};

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("telemetry.log: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("telemetry: {0}")]
    Set(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// Checks the settings as [`start`] does.
pub fn check(settings: &Telemetry) -> Result<(), TelemetryError> {
    filter(settings).map(drop)
}

/// Some lines of the server libraries are left out unless `telemetry.log` names them: the start-up lines, which repeat
/// the gateway's, and an error per non-HTTP connection, with which a flood could fill the log.
fn filter(settings: &Telemetry) -> Result<EnvFilter, TelemetryError> {
    Ok(EnvFilter::try_new(format!("actix_server=warn,actix_http=off,{}", settings.log))?)
}

/// Starts the log for the whole process.
pub fn start(settings: &Telemetry) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(settings)?)
        .with_target(false)
        .with_writer(|| output::Output)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stdout()));
    match settings.format {
        LogFormat::Text => lines.try_init()?,
        LogFormat::Json => {
            lines.fmt_fields(JsonFields::new()).event_format(json::Lines).try_init()?
        }
    }
    Ok(())
}
