//! What is measured: names and help texts, in one place.

use prometheus::{Encoder, IntGauge, Registry, TextEncoder};

/// The process's metrics, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    memory_budget: IntGauge,
}

impl Metrics {
    /// Every metric at zero.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let memory_budget = IntGauge::new(
            "gateway_memory_budget_bytes",
            "Memory that replay windows and held files take of upload.memory_budget",
        )?;
        registry.register(Box::new(memory_budget.clone()))?;
        Ok(Self { registry, memory_budget })
    }

    /// All of them in Prometheus' text format; `kept` is what the budget has given out.
    pub fn text(&self, kept: u64) -> Result<Vec<u8>, prometheus::Error> {
        self.memory_budget.set(i64::try_from(kept).unwrap_or(i64::MAX));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
