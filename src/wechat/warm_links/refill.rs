//! The calls for links in advance: an upload that leaves its pool short starts them on its own worker, over that worker's
//! connections, and waits for none. Their failures concern no upload: it asks for a link of its own, as without pools.

use std::time::{Duration, Instant};

use actix_web::rt;

use super::pools::Ask;
use super::{WarmLinks, now};
use crate::key::{Generated, Key};
use crate::wechat::api::Wechat;
use crate::wechat::call_quota::{MAX_PAUSE, MIN_PAUSE};
use crate::wechat::error::WechatError;
use crate::wechat::wire::UploadLink;

/// The pause after a failure that says nothing of how long it lasts. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

impl Wechat {
    /// A link for an upload to a generated key, and the key that it is for, which takes the place of `key`. `None`: none
    /// is ready. Either way the upload counts for how many links should be ready. Must be called on a thread of the actix
    /// system.
    pub fn warm_link(&self, key: &Key, generated: Generated) -> Option<(Key, UploadLink)> {
        let (taken, wants) = self.warm_links().take(key, generated);
        if wants {
            self.refill();
        }
        taken
    }

    /// Asks for the links that pools want. A call that ends asks for more, so what the bounds refuse now comes later.
    fn refill(&self) {
        while let Some(ask) = self.next_ask() {
            let call = Call { wechat: self.clone(), ask: Some(ask) };
            rt::spawn(call.run());
        }
    }

    /// What to ask for now, unless WeChat is not to be asked at all.
    fn next_ask(&self) -> Option<Ask> {
        let warm = self.warm_links();
        let mut pools = warm.lock();
        if warm.backoff.check().is_err() || self.is_link_quota_used_up(Instant::now()) {
            pools.stop_asking();
            return None;
        }
        pools.next_ask(now())
    }
}

/// A call for a link. One that is dropped while it runs counts as failed, so that the pools do not wait for it for ever.
struct Call {
    wechat: Wechat,
    /// `None`: the pools have the result.
    ask: Option<Ask>,
}

impl Call {
    async fn run(mut self) {
        let Some(ask) = &self.ask else { return };
        let link = self.wechat.upload_link_once(ask.key.as_str()).await;
        if let Some(ask) = self.ask.take() {
            self.wechat.warm_links().received(ask, link);
        }
        self.wechat.refill();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(ask) = self.ask.take() {
            self.wechat.warm_links().lock().received(ask, None, now());
        }
    }
}

impl WarmLinks {
    fn received(&self, ask: Ask, link: Result<UploadLink, WechatError>) {
        let backoff = &self.backoff;
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
