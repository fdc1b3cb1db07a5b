//! The calls for upload links in advance, in the background.

use super::upstreams::Upstreams;
use crate::http::state::AppState;

/// Asks for links until the gateway shuts down. Must be called on a thread of the actix system.
pub(crate) fn start(upstreams: &Upstreams, shared: &AppState) {
    let wechat = upstreams.wechat(&shared.settings);
    let stop = shared.shutdown.clone();
    actix_web::rt::spawn(async move { wechat.refill_warm_links(stop).await });
}
