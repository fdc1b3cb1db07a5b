//! The state that handlers and middleware use: a worker's own, and what all workers share.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cos::api::road::ApiRoad;
use crate::cos::target::AllowedHosts;
use crate::cos::upstream::Upstream;
use crate::guard::auth::Guard;
use crate::guard::forward_auth::server::AuthServer;
use crate::guard::forwarded::TrustedProxies;
use crate::guard::idempotency::Idempotency;
use crate::guard::limits::Limits;
use crate::guard::links::LinkPolicy;
use crate::guard::origin::Origins;
use crate::guard::receipts::ReceiptSigner;
use crate::hooks::sender::HookSender;
use crate::http::resumable::sealed_url::SealingKeys;
use crate::http::resumable::sessions::Sessions;
use crate::http::resumable::uploaded_file::UploadedFile;
use crate::key::Template;
use crate::memory::budget::Budget;
use crate::metrics::Metrics;
use crate::quota::quotas::Quotas;
use crate::settings::Settings;
use crate::spool::uploads::Uploads;
use crate::telemetry::audit::Audit;
use crate::telemetry::spans::Tracer;
use crate::wechat::api::{self, Wechat};

/// One worker's state; `app` makes it, and another one after each reload of the settings. A request keeps the one that
/// it began with.
pub struct Worker {
    pub shared: Arc<AppState>,
    pub wechat: Wechat,
    pub upstream: Rc<Upstream>,
    /// COS's API, if files are sent by it.
    pub api: Option<Rc<ApiRoad>>,
    /// The owner's back end, if it is told of files.
    pub hooks: Option<HookSender>,
    /// The owner's auth server, if it decides about requests without a key or ticket.
    pub auth_server: Option<AuthServer>,
}

/// What all workers share. After a reload of the settings there is another one, with the same counts, caches and
/// budgets.
pub struct AppState {
    pub settings: Settings,
    pub guard: Guard,
    pub origins: Origins,
    pub allowed_hosts: AllowedHosts,
    pub template: Template,
    pub budget: Arc<Budget>,
    /// The memory budget of all JSON bodies together.
    pub json_budget: Arc<Budget>,
    pub limits: Limits,
    pub quotas: Arc<Quotas>,
    pub links: LinkPolicy,
    /// `None`: no receipts.
    pub receipts: Option<ReceiptSigner>,
    pub proxies: TrustedProxies,
    pub idempotency: Arc<Idempotency>,
    /// Of the URLs of resumable uploads.
    pub sealing_keys: Arc<SealingKeys>,
    /// The requests that send bytes of resumable uploads.
    pub upload_sessions: Arc<Sessions>,
    /// The resumable uploads that are kept here until they are complete: those by forms.
    pub uploads: Arc<Uploads<UploadedFile>>,
    /// The running requests; closed when the gateway accepts no more connections: new uploads are refused.
    pub requests: TaskTracker,
    /// Cancelled when the gateway begins to shut down.
    pub draining: CancellationToken,
    /// Cancelled when the gateway accepts no more connections.
    pub shutdown: CancellationToken,
    pub metrics: Arc<Metrics>,
    /// `None`: no request is traced.
    pub tracer: Option<Arc<Tracer>>,
    pub audit: Arc<Audit>,
    /// The last reload failed: the settings' files say something else than the gateway does.
    pub reload_failed: Arc<AtomicBool>,
    /// Settings, credentials and caches of calls to WeChat.
    pub wechat: Arc<api::WechatState>,
}
