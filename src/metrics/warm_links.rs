//! The metrics of the upload links that are asked for in advance.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Why a link that was asked for in advance is dropped without having been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Half of its life is over.
    Expired,
    /// There were no uploads for it in the last minutes.
    Idle,
    /// The date in its path is over, or the settings have changed.
    Ended,
    /// Uploads to other folders took its place.
    Displaced,
    /// COS has refused another link of its age.
    Refused,
    /// It is too large to be stored, or has almost no life.
    Unusable,
}

impl DropReason {
    const ALL: [Self; 6] =
        [Self::Expired, Self::Idle, Self::Ended, Self::Displaced, Self::Refused, Self::Unusable];

    fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Ended => "ended",
            Self::Displaced => "displaced",
            Self::Refused => "refused",
            Self::Unusable => "unusable",
        }
    }
}

/// Every link that was asked for is used, dropped, failed or ready; or its call is in flight.
#[derive(Clone)]
pub struct WarmLinkMetrics {
    /// Calls that were begun.
    pub asked: IntCounter,
    /// Calls that failed.
    pub failed: IntCounter,
    /// Uploads that used a link.
    pub used: IntCounter,
    /// Uploads for which a link should have been ready, and was not.
    pub missed: IntCounter,
    dropped: [IntCounter; DropReason::ALL.len()],
    /// Links that wait for uploads.
    pub ready: IntGauge,
    /// Kinds of paths whose uploads are counted.
    pub pools: IntGauge,
}

impl WarmLinkMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let events = counters(
            "gateway_warm_links_total",
            "Upload links in advance: asked, failed, used; missed: uploads that found none ready",
            "event",
        )?;
        let dropped = counters(
            "gateway_warm_links_dropped_total",
            "Upload links that were asked for in advance and not used, by reason",
            "reason",
        )?;
        let event = |name| events.with_label_values(&[name]);
        Ok(Self {
            asked: event("asked"),
            failed: event("failed"),
            used: event("used"),
            missed: event("missed"),
            dropped: DropReason::ALL.map(|reason| dropped.with_label_values(&[reason.name()])),
            ready: gauge("gateway_warm_links", "Upload links that are ready for uploads")?,
            pools: gauge(
                "gateway_warm_link_pools",
                "Kinds of generated paths whose uploads are counted: folder, extension and so on",
            )?,
        })
    }

    /// Counts unused links.
    pub fn dropped(&self, reason: DropReason, links: usize) {
        let counters = DropReason::ALL.iter().zip(&self.dropped);
        counters
            .filter(|(known, _)| **known == reason)
            .for_each(|(_, counter)| counter.inc_by(links as u64));
    }

    /// The links that were dropped, by any reason.
    #[cfg(test)]
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().map(IntCounter::get).sum()
    }
}
