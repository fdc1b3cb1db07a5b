//! Log lines: to standard output, as text for people or as JSON for machines.

mod json;
mod output;

pub use output::batch_lines;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;

use crate::settings::{LogFormat, Telemetry};

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("telemetry.log: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("telemetry: {0}")]
    Set(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// Whether [`start`] will take these settings.
pub fn check(settings: &Telemetry) -> Result<(), TelemetryError> {
    filter(settings).map(drop)
}

/// The server library's own account of its start says nothing that ours does not, and an error for each connection
/// that sent no HTTP is what a flood wants; who wants them can name them.
fn filter(settings: &Telemetry) -> Result<EnvFilter, TelemetryError> {
    Ok(EnvFilter::try_new(format!("actix_server=warn,actix_http=off,{}", settings.log))?)
}

/// Begins to log, for the whole process.
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
