//! The calls for links in advance. Their failures concern no upload: it asks for a link of its own, as without pools.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::pools::Ask;
use super::{WarmLinks, now};
use crate::net::backoff::Backoff;
use crate::wechat::api::Wechat;
use crate::wechat::call_quota::{MAX_PAUSE, MIN_PAUSE};
use crate::wechat::error::WechatError;
use crate::wechat::wire::UploadLink;

/// Calls at a time.
const MAX_CALLS: usize = 64;
/// The pause after a failure that says nothing of how long it lasts. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How often links are looked for that are too old. Their age is checked again when they are taken.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

impl Wechat {
    /// Asks for the links that uploads will need, until `stop`.
    pub async fn refill_warm_links(&self, stop: CancellationToken) {
        let warm = self.warm_links();
        let backoff = Backoff::default();
        let mut calls = FuturesUnordered::new();
        let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while calls.len() < MAX_CALLS
                && let Some(ask) = self.next_ask(&backoff)
            {
                calls.push(async move {
                    let link = self.upload_link_once(ask.key.as_str()).await;
                    (ask, link)
                });
            }
            let has_pools = !warm.lock().is_empty();
            tokio::select! {
                () = stop.cancelled() => return,
                () = warm.wanted.notified() => {}
                Some((ask, link)) = calls.next() => warm.received(ask, link, &backoff),
                _ = sweeps.tick(), if has_pools => warm.lock().sweep(now()),
            }
        }
    }

    /// What to ask for now, unless WeChat is not to be asked at all.
    fn next_ask(&self, backoff: &Backoff<()>) -> Option<Ask> {
        let mut pools = self.warm_links().lock();
        if backoff.check().is_err() || self.is_link_quota_used_up(Instant::now()) {
            pools.stop_asking();
            return None;
        }
        pools.next_ask(now())
    }
}

impl WarmLinks {
    fn received(&self, ask: Ask, link: Result<UploadLink, WechatError>, backoff: &Backoff<()>) {
        match link {
            Ok(link) => {
                self.lock().received(ask, Some(link), now());
                if backoff.is_failing() {
                    backoff.succeeded();
                    tracing::info!("upload links can be asked for in advance again");
                }
            }
            Err(error) => {
                self.lock().received(ask, None, now());
                // Of several calls that fail together, one counts.
                if backoff.check().is_ok() {
                    let is_first = !backoff.is_failing();
                    let pause = backoff.failed_for((), first_pause(&error)..=MAX_PAUSE);
                    if is_first {
                        tracing::warn!(
                            %error,
                            ?pause,
                            "no upload links can be asked for in advance; each upload asks for its own"
                        );
                    }
                }
            }
        }
    }
}

fn first_pause(error: &WechatError) -> Duration {
    let told = match error {
        WechatError::Refused { retry_after, .. } => *retry_after,
        WechatError::NoToken { retry_after, .. } => Some(*retry_after),
        _ => None,
    };
    let pause = match error.class() {
        "quota" => MIN_PAUSE,
        _ => FIRST_PAUSE,
    };
    told.unwrap_or(pause).min(MAX_PAUSE)
}
