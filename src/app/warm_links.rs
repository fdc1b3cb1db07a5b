//! The sweep of upload links that were asked for in advance, in the background.

use super::upstreams::Upstreams;
use crate::http::state::AppState;

/// Sweeps until the gateway shuts down. Must be called on a thread of the actix system.
pub(crate) fn start(upstreams: &Upstreams, shared: &AppState) {
    let wechat = upstreams.wechat.clone();
    let stop = shared.shutdown.clone();
    actix_web::rt::spawn(async move { wechat.warm_links().sweep_until(stop).await });
}
