//! The settings: every key, its type and its limits. Knows nothing of how they are used.
//!
//! - `model`: the checked settings; `auth`: the sections of authentication and permissions; `quota`: quotas; `otlp`:
//!   the export of spans; `names`: values that have one of a few names
//! - `load`: how they are loaded; `layers`: where values come from, and typed look-ups that collect every fault;
//!   `fault`: a problem, as it is reported
//! - `sections`: how each section is read; `values`: the syntax of single values
//! - `rules`: the rules between settings, and the warnings; `tickets`: the rules of `auth.jwt`
//! - `reload`: which settings a running gateway takes over
//! - `describe`: the settings as printed by `--check`
//!
//! What each setting means to the operator is explained in `config/default.toml` only.

mod auth;
mod describe;
mod fault;
mod layers;
mod load;
mod model;
mod names;
mod otlp;
mod preset;
mod quota;
mod reload;
mod rules;
mod sections;
mod tickets;
mod values;

#[cfg(test)]
mod tests;

pub use auth::{ApiKey, Auth, Forward, Jwt, Links, Policy};
pub use fault::{Fault, Faults};
pub use model::{
    AuditOutput, Authorizer, Console, Cors, Cos, CosApi, Hooks, Redis, Sandbox, Server, ServerTls,
    Settings, Telemetry, Upload, WarmLinks, Wechat,
};
pub use names::{
    Action, ContentDisposition, CosKeys, CosRoad, CredentialMode, FileIds, HookField, JwtAlgorithm,
    LinkAccess, LogFormat, PassQuery, Profile, QuotaPer, ReplyProfile, Verify,
};
pub use otlp::Otlp;
pub use quota::Quota;
pub use reload::Source;
pub use values::{COS_MAX_FILE_SIZE, COS_MAX_PARTS, Rate, media_type};
