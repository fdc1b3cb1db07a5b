//! The state that all workers share: made from the settings, and made anew after a reload with the same counts.

use std::sync::Arc;

use super::error::AppError;
use super::upstreams::Upstreams;
use crate::cos::target::AllowedHosts;
use crate::guard::auth::Guard;
use crate::guard::forwarded::TrustedProxies;
use crate::guard::idempotency::Idempotency;
use crate::guard::limits::Limits;
use crate::guard::links::LinkPolicy;
use crate::guard::origin::Origins;
use crate::guard::receipts::ReceiptSigner;
use crate::http::extract::json;
use crate::http::resumable::sealed_url::SealingKeys;
use crate::http::resumable::uploaded_file::UploadedFile;
use crate::http::state::AppState;
use crate::key::Template;
use crate::memory::budget::Budget;
use crate::quota::quotas::Quotas;
use crate::settings::Settings;
use crate::shutdown::Stages;
use crate::spool::uploads::Uploads;
use crate::telemetry::audit::Audit;
use crate::telemetry::spans::Tracer;

/// The state at the start.
pub(super) fn new(
    settings: Settings,
    upstreams: &Upstreams,
    uploads: Arc<Uploads<UploadedFile>>,
    stages: &Stages,
) -> Result<AppState, AppError> {
    let metrics = upstreams.metrics.clone();
    let redis = upstreams.redis.as_ref();
    let budget = Budget::new(settings.upload.memory_budget as u64);
    Ok(AppState {
        guard: Guard::new(&settings, upstreams.jwks.clone())?,
        origins: Origins::new(&settings.cors.origins, settings.server.public_url.as_deref()),
        allowed_hosts: AllowedHosts::new(&settings.cos.allowed_hosts, settings.cos.allow_http),
        template: Template::new(&settings.upload.path_template),
        limits: Limits::new(&settings, budget.clone()),
        budget,
        quotas: Arc::new(Quotas::new(&settings, redis, metrics.clone(), stages.requests.clone())),
        json_budget: Budget::new(json::TOTAL_LIMIT),
        links: LinkPolicy::new(&settings.links),
        receipts: settings.receipts.key.as_ref().map(ReceiptSigner::new),
        proxies: TrustedProxies::new(&settings.server.trusted_proxies),
        idempotency: Arc::new(Idempotency::new(&settings, redis, stages.requests.clone())),
        sealing_keys: Arc::new(SealingKeys::new(&settings.resumable.keys)),
        upload_sessions: Arc::default(),
        uploads,
        requests: stages.requests.clone(),
        draining: stages.draining.clone(),
        shutdown: stages.shutdown.clone(),
        tracer: Tracer::new(&settings.telemetry.otlp, metrics.clone()),
        metrics,
        audit: Arc::new(Audit::open(&settings.telemetry.audit).map_err(AppError::Audit)?),
        reload_failed: Arc::default(),
        wechat: upstreams.wechat.clone(),
        settings,
    })
}

/// The state by other settings, which differ from those of `before` only where a reload takes them over. Everything that
/// counts, caches or limits is that of `before`.
pub(super) fn reloaded(
    before: &AppState,
    settings: Settings,
    upstreams: &Upstreams,
) -> Result<AppState, AppError> {
    Ok(AppState {
        guard: Guard::new(&settings, upstreams.jwks.clone())?,
        origins: Origins::new(&settings.cors.origins, settings.server.public_url.as_deref()),
        allowed_hosts: AllowedHosts::new(&settings.cos.allowed_hosts, settings.cos.allow_http),
        template: Template::new(&settings.upload.path_template),
        limits: before.limits.reloaded(&settings),
        budget: before.budget.clone(),
        quotas: before.quotas.clone(),
        json_budget: before.json_budget.clone(),
        links: LinkPolicy::new(&settings.links),
        receipts: settings.receipts.key.as_ref().map(ReceiptSigner::new),
        proxies: TrustedProxies::new(&settings.server.trusted_proxies),
        idempotency: before.idempotency.clone(),
        sealing_keys: before.sealing_keys.clone(),
        upload_sessions: before.upload_sessions.clone(),
        uploads: before.uploads.clone(),
        requests: before.requests.clone(),
        draining: before.draining.clone(),
        shutdown: before.shutdown.clone(),
        metrics: before.metrics.clone(),
        tracer: before.tracer.clone(),
        audit: before.audit.clone(),
        reload_failed: before.reload_failed.clone(),
        wechat: before.wechat.clone(),
        settings,
    })
}
