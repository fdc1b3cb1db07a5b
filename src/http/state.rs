//! What handlers and middleware share: the settings and every stage, of one worker and of all.

use std::rc::Rc;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cos::target::AllowedHosts;
use crate::cos::upstream::Upstream;
use crate::guard::auth::Guard;
use crate::guard::forwarded::Proxies;
use crate::guard::idempotency::Idempotency;
use crate::guard::limits::Limits;
use crate::guard::links::LinkPolicy;
use crate::guard::origin::Origins;
use crate::key::Template;
use crate::memory::budget::Budget;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::wechat::api::{self, Wechat};

/// What a worker's handlers need; made by `app.rs`.
pub struct Worker {
    pub shared: Arc<AppState>,
    pub wechat: Wechat,
    pub upstream: Rc<Upstream>,
}

/// What all workers share.
pub struct AppState {
    pub settings: Settings,
    pub guard: Guard,
    pub origins: Origins,
    pub allowed_hosts: AllowedHosts,
    pub template: Template,
    pub budget: Arc<Budget>,
    /// What bodies of JSON may take, all of them together.
    pub json_budget: Arc<Budget>,
    pub limits: Limits,
    pub links: LinkPolicy,
    pub proxies: Proxies,
    pub idempotency: Idempotency,
    /// The requests that run; closed once the process was told to end.
    pub requests: TaskTracker,
    /// Cancelled then.
    pub shutdown: CancellationToken,
    pub metrics: Arc<Metrics>,
    /// How calls to WeChat are let in.
    pub wechat: Arc<api::WechatState>,
}
