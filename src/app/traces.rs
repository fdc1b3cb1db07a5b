//! Starts the export of spans, in builds that have it.

use std::sync::Arc;

use super::error::AppError;
use super::upstreams::Upstreams;
use crate::settings::Settings;
#[cfg(feature = "otlp")]
use crate::telemetry::otlp::{Collector, Exporter};
use crate::telemetry::spans::Tracer;

/// The running export; it does nothing where no request is traced.
pub(super) struct Export {
    #[cfg(feature = "otlp")]
    exporter: Option<Exporter>,
}

#[cfg(feature = "otlp")]
impl Export {
    /// Must be called on a thread of the actix system.
    pub fn start(
        settings: &Settings,
        upstreams: &Upstreams,
        tracer: Option<&Arc<Tracer>>,
    ) -> Result<Self, AppError> {
        let start = |tracer: &Arc<Tracer>| {
            let collector = Collector::new(upstreams.tls(), &settings.telemetry.otlp);
            let collector = collector.ok_or(AppError::OtlpUrl)?;
            Ok::<_, AppError>(Exporter::start(collector, tracer.clone()))
        };
        Ok(Self { exporter: tracer.map(start).transpose()? })
    }

    /// Exports what is left, within two seconds.
    pub async fn finish(&self) {
        if let Some(exporter) = &self.exporter {
            exporter.finish().await;
        }
    }
}

/// The settings refuse an endpoint, so that there are no spans.
#[cfg(not(feature = "otlp"))]
impl Export {
    pub fn start(_: &Settings, _: &Upstreams, _: Option<&Arc<Tracer>>) -> Result<Self, AppError> {
        Ok(Self {})
    }

    pub async fn finish(&self) {}
}
